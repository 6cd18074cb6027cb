use super::*;

fn default_rules() -> Vec<Rule> {
    use ObjectKind as K;
    let people = [K::Vm, K::Image, K::Template, K::Document, K::SecurityGroup, K::VmGroup, K::BackupJob];
    vec![
        Rule::new(Selector::Group(1), &people, Selector::All, &[Right::Create]),
        Rule::new(Selector::Group(1), &[K::Network, K::Datastore], Selector::Cluster(0), &[Right::Use]).in_zone(0),
    ]
}

fn caller(uid: i64, gid: i64, groups: &[i64]) -> Caller {
    let mut caller = Caller { uid, gid, groups: groups.to_vec(), name: format!("user{uid}"), ..Caller::oneadmin() };
    let mut all = groups.to_vec();
    all.push(gid);
    caller.rules = default_rules().into_iter().filter(|rule| rule.is_for(uid, &all)).collect();
    caller
}

fn object(uid: i64, gid: i64, octal: u32) -> Object {
    Object {
        kind: ObjectKind::Vm,
        id: 7,
        uid,
        gid,
        permissions: Permissions::from_octal(octal),
        lock: None,
        clusters: Vec::new(),
    }
}

#[test]
fn an_owner_may_manage_but_not_administer_what_the_default_bits_give() {
    let owner = caller(2, 1, &[1]);
    let vm = object(2, 1, 0o600);
    assert_eq!(may(&owner, Right::Use, &vm), Ok(()));
    assert_eq!(may(&owner, Right::Manage, &vm), Ok(()));
    let refused = may(&owner, Right::Admin, &vm).unwrap_err();
    assert_eq!(refused.to_string(), "User [2] : Not authorized to perform ADMIN VM [7].");
}

#[test]
fn group_and_other_bits_count_for_the_people_they_name() {
    let vm = object(2, 100, 0o640);
    assert_eq!(may(&caller(3, 1, &[1, 100]), Right::Use, &vm), Ok(()));
    assert!(may(&caller(3, 1, &[1, 100]), Right::Manage, &vm).is_err());
    assert!(may(&caller(3, 1, &[1]), Right::Use, &vm).is_err());
    assert_eq!(may(&caller(3, 1, &[1]), Right::Use, &object(2, 100, 0o604)), Ok(()));
}

#[test]
fn administrators_are_not_asked() {
    for admin in [caller(0, 5, &[]), caller(9, 0, &[]), caller(9, 1, &[1, 0])] {
        assert!(admin.is_admin());
        assert_eq!(may(&admin, Right::Admin, &object(2, 1, 0)), Ok(()));
        assert_eq!(may_create(&admin, ObjectKind::Datastore), Ok(()));
    }
    assert!(Caller::oneadmin().is_admin());
}

#[test]
fn ordinary_users_create_what_belongs_to_people() {
    let user = caller(2, 1, &[1]);
    assert_eq!(may_create(&user, ObjectKind::BackupJob), Ok(()));
    let refused = may_create(&user, ObjectKind::Datastore).unwrap_err();
    assert_eq!(refused.to_string(), "User [2] : Not authorized to perform CREATE DATASTORE.");
    assert!(may_create(&caller(2, 100, &[100]), ObjectKind::Image).is_err());
}

#[test]
fn permission_bits_survive_the_database_and_octal() {
    for mask in 0..0o1000 {
        let permissions = Permissions::from_i64(mask);
        assert_eq!(permissions.to_i64(), mask);
        assert_eq!(Permissions::from_octal(permissions.to_octal()), permissions);
    }
    assert_eq!(Permissions::BACKUP.to_octal(), 0o600);
    assert_eq!(Permissions::from_i64(-1).to_octal(), 0o777);
}

#[test]
fn the_umask_masks_a_base_that_depends_on_the_caller() {
    let user = caller(2, 1, &[1]);
    assert_eq!(Permissions::from_umask(0o177, &user, true).to_octal(), 0o600);
    assert_eq!(Permissions::from_umask(0, &user, true).to_octal(), 0o666);
    assert_eq!(Permissions::from_umask(0, &user, false).to_octal(), 0o660);
    assert_eq!(Permissions::from_umask(0o137, &Caller::oneadmin(), true).to_octal(), 0o640);
}

#[test]
fn chmod_keeps_what_it_is_not_told_to_change() {
    let old = Permissions::from_octal(0o640);
    let keep = [-1; 9];
    assert_eq!(old.changed(&keep, false, true), Ok(old));
    let mut bits = keep;
    bits[6] = 1;
    assert_eq!(old.changed(&bits, false, true).unwrap().to_octal(), 0o644);
    assert!(old.changed(&bits, false, false).is_err());
    bits[2] = 1;
    assert!(old.changed(&bits, false, true).is_err());
    assert_eq!(old.changed(&bits, true, true).unwrap().to_octal(), 0o744);
    bits[0] = 2;
    assert!(old.changed(&bits, true, true).is_err());
}

#[test]
fn names_follow_the_rules_of_their_kind() {
    for good in ["a", "0 01-Dec 13.36.56", "größe (1)", &"x".repeat(128)] {
        assert_eq!(valid_name(good, ObjectKind::Image), Ok(()), "{good}");
    }
    for bad in ["", "a:b", "a/b", "a\nb", "a\"b", "$a", "<a>", &"x".repeat(129)] {
        assert!(valid_name(bad, ObjectKind::Image).is_err(), "{bad:?}");
    }
    assert!(valid_name("two words", ObjectKind::User).is_err());
}

#[test]
fn a_rule_gives_what_no_permission_bit_gives() {
    let user = caller(2, 1, &[1]);
    let mut datastore = object(0, 0, 0o600);
    datastore.kind = ObjectKind::Datastore;
    assert!(may(&user, Right::Use, &datastore).is_err());
    datastore.clusters = vec![100, 0];
    assert_eq!(may(&user, Right::Use, &datastore), Ok(()));
    assert!(may(&user, Right::Manage, &datastore).is_err());
    assert!(may(&caller(3, 100, &[100]), Right::Use, &datastore).is_err());
}

#[test]
fn a_lock_binds_administrators_too_but_not_readers() {
    let mut vm = object(2, 1, 0o600);
    let owner = caller(2, 1, &[1]);
    for (level, blocked) in [(1, 3), (2, 2), (3, 1), (4, 3)] {
        let level = LockLevel::from_number(level).unwrap();
        vm.lock = Some(Lock { level, owner: 2, time: 5, request_id: -1 });
        let rights = [Right::Use, Right::Manage, Right::Admin];
        let refused = rights.iter().filter(|right| may(&Caller::oneadmin(), **right, &vm).is_err()).count();
        assert_eq!(refused, blocked, "{level:?}");
        assert_eq!(may_unlocked(&owner, Right::Manage, &vm), Ok(()));
    }
    let refused = may(&owner, Right::Manage, &vm).unwrap_err();
    assert!(refused.to_string().contains("locked"), "{refused}");
    // A stranger is not told of the lock.
    let refused = may(&caller(3, 1, &[1]), Right::Manage, &vm).unwrap_err();
    assert!(!refused.to_string().contains("locked"), "{refused}");
}

#[test]
fn rules_are_read_from_and_written_to_the_numbers_of_the_wire() {
    for (numbers, text) in [
        (["200000001", "2400000000", "2", "100000000"], "@1 HOST/* MANAGE #0"),
        (["200000001", "104400000000", "1", "100000000"], "@1 NET+DATASTORE/* USE #0"),
        (["400000000", "800400000000", "1", "400000000"], "* ZONE/* USE *"),
        (["100000005", "1100000007", "5", "400000000"], "#5 VM/#7 USE+ADMIN *"),
        (
            ["200000001", "121429400000000", "8", "400000000"],
            "@1 VM+IMAGE+TEMPLATE+DOCUMENT+SECGROUP+VMGROUP+BACKUPJOB/* CREATE *",
        ),
    ] {
        let [user, resource, rights, zone] = numbers;
        let rule = Rule::from_hex(user, resource, rights, zone).unwrap();
        assert_eq!(rule.to_string(), text);
        assert_eq!(rule.to_hex(), numbers.map(str::to_owned));
        let [user, resource, rights, zone] = rule.to_hex();
        assert_eq!(Rule::from_hex(&user, &resource, &rights, &zone), Ok(rule));
    }
}

#[test]
fn malformed_rules_are_refused_by_the_part_that_is_wrong() {
    for (user, resource, rights, zone, part) in [
        ("xyz", "1400000000", "1", "", "user"),
        ("", "1400000000", "1", "", "user"),
        ("1", "1400000000", "1", "", "user"),
        ("800000001", "1400000000", "1", "", "user"),
        ("100000001", "400000000", "1", "", "resource"),
        ("100000001", "1000000000", "1", "", "resource"),
        ("100000001", "1400000000", "0", "", "rights"),
        ("100000001", "1400000000", "10", "", "rights"),
        ("100000001", "1400000000", "1", "200000001", "zone"),
        ("100000001", "fffffffffffffffff", "1", "", "resource"),
    ] {
        let refused = Rule::from_hex(user, resource, rights, zone).unwrap_err().to_string();
        assert!(refused.contains(&format!("the {part} ")), "{user} {resource} {rights} {zone}: {refused}");
    }
}

#[test]
fn a_rule_goes_with_whom_and_what_it_names() {
    use ObjectKind as K;
    let rule = Rule::new(Selector::One(5), &[K::Vm], Selector::One(7), &[Right::Use]);
    assert!(rule.names(K::User, 5) && rule.names(K::Vm, 7));
    assert!(!rule.names(K::User, 7) && !rule.names(K::Vm, 5) && !rule.names(K::Image, 7));
    let rule = Rule::new(Selector::Group(5), &[K::Vm, K::Image], Selector::Cluster(7), &[Right::Use]);
    assert!(rule.names(K::Group, 5) && rule.names(K::Cluster, 7) && !rule.names(K::User, 5));
}

#[test]
fn an_administrator_of_a_group_manages_what_is_the_groups() {
    let mut admin = caller(9, 1, &[1]);
    admin.rules = acl::group_admin_rules(9, 100).into_iter().collect();
    assert_eq!(may(&admin, Right::Manage, &object(2, 100, 0o600)), Ok(()));
    assert!(may(&admin, Right::Admin, &object(2, 100, 0o600)).is_err());
    assert!(may(&admin, Right::Use, &object(2, 1, 0o600)).is_err());
    let member = Object { kind: ObjectKind::User, ..object(2, 100, 0) };
    assert_eq!(may(&admin, Right::Admin, &member), Ok(()));
}
