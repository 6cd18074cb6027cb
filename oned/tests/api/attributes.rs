//! Restricted attributes: who may set, change and remove them, on every way into a template, and which an administrator's
//! template brings along.

use one_core::access::Caller;
use one_core::refusal::{ObjectKind, Refusal};
use one_core::template::{Template, Vector};
use oned::api::{self, Cloud, attributes};
use oned::config::AttributeList;
use oned::store::rows::{NetworkRow, TemplateRow};

use crate::world::{IMAGES, SIZE, TEAM, World, octal};

const REPLACE: i64 = 0;
const APPEND: i64 = 1;

fn sentence(caller: &Caller, attribute: &str) -> String {
    format!("User [{}] : Template includes a restricted attribute {attribute}.", caller.uid)
}

/// Every entry of a list with a text that has it.
fn entries(list: &AttributeList) -> Vec<(String, String)> {
    let text = |path: &oned::config::AttributePath| match &path.key {
        None => format!("{}=\"1\"\n", path.name),
        Some(key) => format!("{}=[{key}=\"1\"]\n", path.name),
    };
    list.iter().map(|path| (path.to_string(), text(path))).collect()
}

fn callers(world: &World) -> Vec<Caller> {
    let mut callers = vec![world.alice.clone()];
    for name in ["carol", "dave"] {
        callers.push(oned::session::authenticate(&world.cloud, &crate::world::session(name)).unwrap());
    }
    callers
}

#[test]
fn no_way_into_a_vm_takes_a_restricted_attribute_from_a_user() {
    let world = World::new();
    let vm = world.add_running_vm("");
    let template = world.allocate_template(&format!("NAME=t\n{SIZE}"));
    let list = entries(world.cloud.config.restricted(ObjectKind::Vm));
    assert!(list.len() > 50, "{list:?}");
    for (attribute, text) in &list {
        let told = sentence(&world.alice, attribute);
        world.refuses(512, &told, |_| world.instantiate(&world.alice, template, text));
        world.refuses(512, &told, |cloud| api::template::update(cloud, &world.alice, template, text, APPEND));
        world.refuses(512, &told, |cloud| api::vm::update(cloud, &world.alice, vm, text, REPLACE));
    }
    for (attribute, text) in list.iter().filter(|(name, _)| ["RAW", "OS/KERNEL", "NIC/MAC"].contains(&name.as_str())) {
        for caller in callers(&world) {
            let told = sentence(&caller, attribute);
            let whole = format!("NAME=a\n{SIZE}{text}");
            world.refuses(512, &told, |cloud| api::vm::allocate(cloud, &caller, &whole, false));
            world.refuses(512, &told, |cloud| api::template::allocate(cloud, &caller, &whole));
        }
        api::template::update(&world.cloud, &world.admin, template, text, APPEND).unwrap();
        api::vm::update(&world.cloud, &world.admin, vm, text, APPEND).unwrap();
    }
}

#[test]
fn the_lists_are_those_of_the_configuration() {
    let world = World::configured(|config| {
        config.restricted.insert(ObjectKind::Vm, ["NOTE", "CONTEXT/A"].into_iter().collect());
        config.restricted.insert(ObjectKind::User, ["LABELS"].into_iter().collect());
        config.encrypted.insert(ObjectKind::Vm, ["NOTE/KEY"].into_iter().collect());
    });
    let (cloud, alice) = (&world.cloud, &world.alice);
    for (text, attribute) in [("NOTE=a\n", "NOTE"), ("CONTEXT=[B=1]\nCONTEXT=[A=1]\n", "CONTEXT/A")] {
        let whole = format!("{SIZE}{text}");
        world.refuses(512, &sentence(alice, attribute), |cloud| api::vm::allocate(cloud, alice, &whole, false));
    }
    api::vm::allocate(cloud, alice, &format!("{SIZE}RAW=[TYPE=kvm]\nCONTEXT=[B=1]\n"), false).unwrap();
    let told = sentence(alice, "LABELS");
    world.refuses(512, &told, |cloud| api::people::update(cloud, alice, alice.uid, "LABELS=a", APPEND));
    let vm = api::vm::allocate(cloud, &world.admin, &format!("{SIZE}NOTE=[KEY=clear]\n"), false).unwrap();
    assert!(world.vm_row(vm).user_template.contains("enc:v1:"));
}

/// An administrator's template with restricted attributes, which everybody may use.
fn stock(world: &World) -> i64 {
    let text = format!(
        "NAME=stock\n{SIZE}RAW=[TYPE=kvm,DATA=\"<devices/>\"]\nOS=[ARCH=x86_64,KERNEL=\"/boot/vmlinuz\"]\n\
         DISK=[TYPE=fs,SIZE=1,TOTAL_IOPS_SEC=100]\nDISK=[TYPE=fs,SIZE=1]\n"
    );
    let id = api::template::allocate(&world.cloud, &world.admin, &text).unwrap();
    world.edit_template(id, |row| row.permissions = octal(0o644));
    id
}

#[test]
fn a_user_starts_an_administrators_template_with_what_is_in_it() {
    let world = World::new();
    let stock = stock(&world);
    for extra in [
        "",
        "NOTE=mine\nMEMORY=512\n",
        // What a client that shows the template sends back.
        "OS=[ARCH=x86_64,KERNEL=\"/boot/vmlinuz\"]\nRAW=[DATA=\"<devices/>\",TYPE=kvm]\n",
        "DISK=[TYPE=fs,SIZE=2]\nDISK=[TYPE=fs,SIZE=1,TOTAL_IOPS_SEC=100]\n",
    ] {
        let vm = world.instantiate(&world.alice, stock, extra).unwrap();
        let template = Template::parse(&world.vm_row(vm).template).unwrap();
        assert_eq!(template.vector("RAW").and_then(|raw| raw.get("DATA")), Some("<devices/>"), "{extra}");
        assert_eq!(template.vector("OS").and_then(|os| os.get("KERNEL")), Some("/boot/vmlinuz"), "{extra}");
    }
}

#[test]
fn a_user_adds_and_changes_nothing_restricted_when_he_starts_it() {
    let world = World::new();
    let stock = stock(&world);
    for (extra, attribute) in [
        ("RAW=[TYPE=kvm,DATA=\"<other/>\"]\n", "RAW"),
        ("RAW=\"\"\n", "RAW"),
        ("RAW=[TYPE=kvm,DATA=\"<devices/>\"]\nRAW=[TYPE=kvm,DATA=\"<devices/>\"]\n", "RAW"),
        ("OS=[KERNEL=\"/etc/shadow\"]\n", "OS/KERNEL"),
        ("OS=[INITRD=\"/boot/vmlinuz\"]\n", "OS/INITRD"),
        ("DISK=[TYPE=fs,SIZE=1,TOTAL_IOPS_SEC=1000]\n", "DISK/TOTAL_IOPS_SEC"),
        ("DISK=[TYPE=fs,SIZE=1,TOTAL_IOPS_SEC=100]\nDISK=[TYPE=fs,SIZE=1,TOTAL_IOPS_SEC=100]\n", "DISK/TOTAL_IOPS_SEC"),
        ("EMULATOR=/bin/sh\n", "EMULATOR"),
        ("<TEMPLATE><PCI><VENDOR>1</VENDOR></PCI></TEMPLATE>", "PCI"),
    ] {
        let told = sentence(&world.alice, attribute);
        world.refuses(512, &told, |_| world.instantiate(&world.alice, stock, extra));
        world.instantiate(&world.admin, stock, extra).unwrap();
    }
}

#[test]
fn a_template_that_an_administrator_gave_away_vouches_for_nothing() {
    let world = World::new();
    let stock = stock(&world);
    let give = |uid: i64| {
        let moved = api::owned::chown::<TemplateRow>(&world.cloud, &world.admin, stock, (uid, -1), |_, _, _| Ok(()));
        moved.unwrap();
    };
    give(world.alice.uid);
    for caller in [&world.alice, &world.bob] {
        for extra in ["", "NOTE=mine\n", "OS=[KERNEL=\"/boot/vmlinuz\"]\n"] {
            let refusal = world.refusal(|_| world.instantiate(caller, stock, extra));
            assert_eq!(refusal.code(), 512, "{refusal}");
            assert!(refusal.to_string().contains("restricted attribute"), "{refusal}");
        }
    }
    world.instantiate(&world.admin, stock, "").unwrap();
    // The group alone makes no administrator of its owner.
    world.edit_template(stock, |row| row.gid = 0);
    assert_eq!(world.refusal(|_| world.instantiate(&world.alice, stock, "")).code(), 512);
    give(1);
    world.instantiate(&world.alice, stock, "").unwrap();
    // Its owner is in no group of administrators any more.
    give(world.alice.uid);
    world.write(|tx| tx.membership_add(world.alice.uid, 0));
    world.instantiate(&world.bob, stock, "").unwrap();
}

/// A template of alice's with restricted attributes that an administrator gave it.
fn given(world: &World) -> i64 {
    let id = world.allocate_template(&format!("NAME=t\n{SIZE}"));
    let text = "RAW=[TYPE=kvm]\nPCI=[VENDOR=a]\nPCI=[VENDOR=b]\nOS=[ARCH=x86_64,KERNEL=\"/k\"]\nCPU_COST=7\n\
                DISK=[IMAGE_ID=3,TOTAL_IOPS_SEC=100]\nDISK=[IMAGE_ID=4]\nNIC=[NETWORK=lan,MAC=\"02:00:00:00:00:01\"]\n";
    api::template::update(&world.cloud, &world.admin, id, text, APPEND).unwrap();
    id
}

fn text_of(world: &World, id: i64) -> Template {
    Template::parse(&world.read(|tx| tx.template(id)).template).unwrap()
}

#[test]
fn what_an_administrator_gave_a_template_survives_its_owners_updates() {
    let world = World::new();
    let id = given(&world);
    for (text, kind) in [
        ("NOTE=new\n", REPLACE),
        ("", REPLACE),
        ("OS=[BOOT=disk0]\n", APPEND),
        ("OS=\"\"\n", APPEND),
        ("OS=\"\"\n", REPLACE),
        ("PCI=[VENDOR=b]\n", APPEND),
        ("PCI=[VENDOR=b]\n", REPLACE),
        ("CPU_COST=7\nRAW=[TYPE=kvm]\nOS=[KERNEL=\"/k\"]\n", REPLACE),
    ] {
        api::template::update(&world.cloud, &world.alice, id, text, kind).unwrap();
        let now = text_of(&world, id);
        assert_eq!(now.vector("RAW").and_then(|raw| raw.get("TYPE")), Some("kvm"), "{text}");
        assert_eq!(now.scalar("CPU_COST"), Some("7"), "{text}");
        assert_eq!(now.vectors("OS").filter_map(|os| os.get("KERNEL")).collect::<Vec<_>>(), ["/k"], "{text}");
        assert_eq!(now.vectors("PCI").filter_map(|pci| pci.get("VENDOR")).collect::<Vec<_>>(), ["a", "b"], "{text}");
        world.template_document(&world.alice, id);
    }
    api::template::update(&world.cloud, &world.admin, id, "NOTE=new\n", REPLACE).unwrap();
    assert_eq!(text_of(&world, id).to_text().trim(), "NOTE=\"new\"");
}

#[test]
fn a_limit_stays_with_its_device_and_goes_with_it() {
    let world = World::new();
    let id = given(&world);
    let disks = |text: &str| {
        api::template::update(&world.cloud, &world.alice, id, text, REPLACE).unwrap();
        let now = text_of(&world, id);
        let key = |disk: &Vector, key| disk.get(key).unwrap_or("-").to_owned();
        now.vectors("DISK").map(|disk| key(disk, "IMAGE_ID") + " " + &key(disk, "TOTAL_IOPS_SEC")).collect::<Vec<_>>()
    };
    assert_eq!(disks("DISK=[IMAGE_ID=4]\nDISK=[IMAGE_ID=3,DEV_PREFIX=sd]\n"), ["4 -", "3 100"]);
    assert_eq!(disks("DISK=[IMAGE_ID=5]\nDISK=[IMAGE_ID=3]\nDISK=[IMAGE_ID=3]\n"), ["5 -", "3 100", "3 -"]);
    assert_eq!(disks("DISK=[IMAGE_ID=5]\n"), ["5 -"]);
    assert_eq!(disks(""), [""; 0]);
}

#[test]
fn an_owner_changes_nothing_restricted_in_what_he_was_given() {
    let world = World::new();
    let id = given(&world);
    for (text, attribute) in [
        ("RAW=[TYPE=xen]\n", "RAW"),
        ("RAW=\"\"\n", "RAW"),
        ("RAW=[]\n", "RAW"),
        ("CPU_COST=\"\"\n", "CPU_COST"),
        ("PCI=[VENDOR=a]\nPCI=[VENDOR=c]\n", "PCI"),
        ("OS=[KERNEL=\"\"]\n", "OS/KERNEL"),
        ("OS=[KERNEL=\"/k2\"]\n", "OS/KERNEL"),
        ("NIC=[NETWORK=lan,MAC=\"02:00:00:00:00:02\"]\n", "NIC/MAC"),
    ] {
        let told = sentence(&world.alice, attribute);
        for kind in [APPEND, REPLACE] {
            world.refuses(512, &told, |cloud| api::template::update(cloud, &world.alice, id, text, kind));
        }
    }
}

#[test]
fn the_users_part_of_a_vm_follows_the_same_rules() {
    let world = World::new();
    let vm = world.add_running_vm("NOTE=old");
    api::vm::update(&world.cloud, &world.admin, vm, "USER_PRIORITY=9\n", APPEND).unwrap();
    let told = sentence(&world.alice, "USER_PRIORITY");
    world.refuses(512, &told, |cloud| api::vm::update(cloud, &world.alice, vm, "USER_PRIORITY=10\n", APPEND));
    api::vm::update(&world.cloud, &world.alice, vm, "NOTE=new\n", REPLACE).unwrap();
    let now = Template::parse(&world.vm_row(vm).user_template).unwrap();
    assert_eq!((now.scalar("USER_PRIORITY"), now.scalar("NOTE")), (Some("9"), Some("new")));
}

#[test]
fn updateconf_takes_a_restricted_value_that_the_vm_has_already() {
    let world = World::new();
    let vm = world.add_running_vm("OS=[ARCH=x86_64]");
    let kernel = "OS=[ARCH=x86_64,KERNEL=\"/boot/vmlinuz\"]\n";
    let told = sentence(&world.alice, "OS/KERNEL");
    world.refuses(512, &told, |cloud| api::vm::update_conf(cloud, &world.alice, vm, kernel, APPEND));
    api::vm::update_conf(&world.cloud, &world.admin, vm, kernel, APPEND).unwrap();
    let same = "OS=[MACHINE=q35,KERNEL=\"/boot/vmlinuz\"]\n";
    api::vm::update_conf(&world.cloud, &world.alice, vm, same, REPLACE).unwrap();
    let other = "OS=[MACHINE=q35,KERNEL=\"/etc/shadow\"]\n";
    world.refuses(512, &told, |cloud| api::vm::update_conf(cloud, &world.alice, vm, other, REPLACE));
}

#[test]
fn the_source_of_an_image_is_for_administrators() {
    let world = World::new();
    let image = world.add_image("disk");
    let told = sentence(&world.alice, "SOURCE");
    let text = "NAME=a\nPATH=\"/a\"\nSOURCE=\"/etc/shadow\"\n";
    world.refuses(512, &told, |cloud| api::image::allocate(cloud, &world.alice, text, IMAGES));
    let source = "SOURCE=\"/etc/shadow\"\n";
    world.refuses(512, &told, |cloud| api::image::update(cloud, &world.alice, image, source, APPEND));
    api::image::update(&world.cloud, &world.admin, image, "SOURCE=\"noted\"\n", APPEND).unwrap();
    api::image::update(&world.cloud, &world.alice, image, "NOTE=new\n", REPLACE).unwrap();
    assert!(world.image_row(image).template.contains("noted"));
}

#[test]
fn nobody_gives_himself_or_his_group_operations() {
    let world = World::new();
    // A rule lets him manage all groups.
    let dave = oned::session::authenticate(&world.cloud, &crate::world::session("dave")).unwrap();
    let carol = oned::session::authenticate(&world.cloud, &crate::world::session("carol")).unwrap();
    for name in ["VM_USE_OPERATIONS", "VM_MANAGE_OPERATIONS", "VM_ADMIN_OPERATIONS"] {
        let text = format!("{name}=\"terminate\"\n");
        for caller in [&world.alice, &dave] {
            let told = sentence(caller, name);
            world.refuses(512, &told, |cloud| api::people::update(cloud, caller, caller.uid, &text, APPEND));
        }
        // She leads the team, which gives her power over its people.
        for member in [carol.uid, world.alice.uid] {
            let told = sentence(&carol, name);
            world.refuses(512, &told, |cloud| api::people::update(cloud, &carol, member, &text, APPEND));
        }
        let refusal = world.refusal(|cloud| api::people::group_update(cloud, &carol, TEAM, &text, APPEND));
        assert_eq!(refusal.code(), 512, "{refusal}");
        let told = sentence(&dave, name);
        world.refuses(512, &told, |cloud| api::people::group_update(cloud, &dave, TEAM, &text, APPEND));
        api::people::update(&world.cloud, &world.admin, world.alice.uid, &text, APPEND).unwrap();
        api::people::group_update(&world.cloud, &world.admin, TEAM, &text, APPEND).unwrap();
    }
    api::people::update(&world.cloud, &world.alice, world.alice.uid, "NOTE=new\n", REPLACE).unwrap();
    api::people::group_update(&world.cloud, &dave, TEAM, "NOTE=new\n", REPLACE).unwrap();
    let (user, group) = world.read(|tx| Ok((tx.user(world.alice.uid)?.template, tx.group(TEAM)?.template)));
    for text in [user, group] {
        assert!(text.matches("_OPERATIONS=\"terminate\"").count() == 3 && text.contains("NOTE"), "{text}");
    }
}

#[test]
fn a_device_to_be_attached_is_held_to_the_list() {
    let world = World::new();
    let check = |cloud: &Cloud, caller: &Caller, name: &str, old: Option<&Vector>, key: &str| {
        let device: Vector = [("TYPE", "fs"), (key, "1")].into_iter().collect();
        attributes::check_vector(cloud, caller, ObjectKind::Vm, name, old, &device)
    };
    let attempt = |name: &str, key: &str| check(&world.cloud, &world.alice, name, None, key);
    let refused = |name: &str, key: &str| {
        let told = sentence(&world.alice, &format!("{name}/{key}"));
        matches!(attempt(name, key), Err(error @ Refusal::RestrictedAttribute { .. }) if error.to_string() == told)
    };
    assert!(refused("DISK", "SOURCE") && refused("NIC", "MAC") && refused("NIC_ALIAS", "VLAN_ID"));
    assert!(attempt("DISK", "SIZE").is_ok() && attempt("NIC", "SOURCE").is_ok());
    let old: Vector = [("MAC", "1")].into_iter().collect();
    assert!(check(&world.cloud, &world.alice, "NIC", Some(&old), "MAC").is_ok(), "that is what it has");
    assert!(check(&world.cloud, &world.admin, "NIC", None, "MAC").is_ok());
}

#[test]
fn a_restored_template_needs_an_administrator_for_what_only_he_may_set() {
    let world = World::new();
    let datastore = world.add_backup_datastore("backups");
    // Without IP addresses, for beside one a restored card keeps no MAC.
    let text = "NAME=lan\nVN_MAD=bridge\nBRIDGE=br0\nAR=[TYPE=ETHER,SIZE=9]\n";
    let lan = api::network::allocate(&world.cloud, &world.admin, text, -1).unwrap();
    api::owned::chown::<NetworkRow>(&world.cloud, &world.admin, lan, (world.alice.uid, -1), |_, _, _| Ok(())).unwrap();
    let vm = world.add_running_vm("NIC=[NETWORK=lan]");
    let restore = |name: &str, caller: &Caller| {
        let backup = world.add_backup(vm, datastore, 1, false);
        let wish = format!("NAME={name}\n");
        let answer = api::restore::restore(&world.cloud, caller, backup, IMAGES, &wish).unwrap();
        world.end_jobs();
        let ids: Vec<i64> = answer.split(' ').map(|id| id.parse().unwrap()).collect();
        world.edit_image(ids[1], |row| row.state = 1);
        ids[0]
    };
    // The address that the daemon gave is no wish of the owner's.
    let template = restore("first", &world.alice);
    assert!(!text_of(&world, template).to_text().contains("MAC"));
    world.instantiate(&world.alice, template, "").unwrap();
    assert!(text_of(&world, restore("second", &world.admin)).to_text().contains("MAC=\"02:00:"));

    api::vm::update_conf(&world.cloud, &world.admin, vm, "OS=[KERNEL=\"/boot/vmlinuz\"]", APPEND).unwrap();
    let template = restore("third", &world.alice);
    let told = sentence(&world.alice, "OS/KERNEL");
    world.refuses(512, &told, |_| world.instantiate(&world.alice, template, ""));
    world.instantiate(&world.admin, template, "NIC=[NETWORK=lan,NETWORK_UNAME=alice]").unwrap();
}

#[test]
fn a_template_of_many_devices_and_secrets_is_updated_in_one_pass() {
    let world = World::new();
    let many = "DISK=[A=b]\n".repeat(30_000) + &"CONTEXT=[PASSWORD=a]\n".repeat(15_000);
    let id = world.allocate_template(&format!("NAME=t\n{many}"));
    for text in [many.clone(), many.replace("=a]", "=\"***\"]")] {
        api::template::update(&world.cloud, &world.alice, id, &text, REPLACE).unwrap();
    }
    assert_eq!(text_of(&world, id).vectors("CONTEXT").filter(|c| c.contains("PASSWORD")).count(), 15_000);
}

#[test]
fn an_object_does_not_grow_without_end() {
    let world = World::new();
    let id = world.allocate_template(&format!("NAME=t\n{SIZE}"));
    let part = |number: usize| format!("PART_{number}=\"{}\"\n", "x".repeat(1 << 19));
    for number in 0..7 {
        api::template::update(&world.cloud, &world.alice, id, &part(number), APPEND).unwrap();
    }
    let refusal = world.refusal(|cloud| api::template::update(cloud, &world.alice, id, &part(8), APPEND));
    assert!(refusal.code() == 8192 && refusal.to_string().contains("at most 4194304 are kept"), "{refusal}");
    // Nor beyond what can be read again.
    let id = world.allocate_template(&format!("NAME=u\n{}", "DISK=[A=b]\n".repeat(45_000)));
    let text = "NIC=[A=b]\n".repeat(10_000);
    let refusal = world.refusal(|cloud| api::template::update(cloud, &world.alice, id, &text, APPEND));
    assert!(refusal.to_string().contains("at most 100000"), "{refusal}");
    let text = format!("{SIZE}{}", "FEATURES=[A=b]\n".repeat(45_000));
    let refusal = world.refusal(|_| world.instantiate(&world.alice, id, &text));
    assert!(refusal.to_string().contains("at most 100000"), "{refusal}");
    let vm = world.add_running_vm("");
    let section = |name: &str| format!("{name}=[A=b]\n").repeat(30_000);
    api::vm::update_conf(&world.cloud, &world.alice, vm, &section("FEATURES"), APPEND).unwrap();
    let refusal = world.refusal(|cloud| api::vm::update_conf(cloud, &world.alice, vm, &section("INPUT"), APPEND));
    assert!(refusal.to_string().contains("at most 100000"), "{refusal}");
}
