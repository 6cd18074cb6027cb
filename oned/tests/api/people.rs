//! Users, groups, tokens and access rules: what each call does, and what it refuses beyond what the table of rights shows.

use oned::api::{self, people};
use oned::session::authenticate;

use crate::world::{TEAM, World, valid};

const ALICE: i64 = 2;

#[test]
fn a_login_token_works_until_it_ends_and_only_in_its_group() {
    let world = World::new();
    let token = people::login(&world.cloud, &world.alice, "alice", "", 60, TEAM).unwrap();
    assert_eq!(token.len(), 64);
    let session = format!("alice:{token}");
    let caller = authenticate(&world.cloud, &session).unwrap();
    assert_eq!((caller.gid, caller.groups.as_slice()), (TEAM, [TEAM].as_slice()));
    let document = valid(people::info(&world.cloud, &world.alice, -1, false).unwrap());
    assert!(document.contains("<LOGIN_TOKEN>") && !document.contains(&token), "{document}");
    assert!(!world.records().contains(&token), "the database holds the token itself");
    world.clock.advance(60);
    world.refuses(256, "User couldn't be authenticated, aborting call.", |cloud| authenticate(cloud, &session));
    let document = valid(people::info(&world.cloud, &world.alice, -1, false).unwrap());
    assert!(!document.contains("<LOGIN_TOKEN>"), "{document}");
}

#[test]
fn tokens_end_when_they_are_revoked_and_when_the_password_changes() {
    let world = World::new();
    let make = || people::login(&world.cloud, &world.alice, "alice", "", -1, -1).unwrap();
    let (first, second) = (make(), make());
    let works = |token: &str| authenticate(&world.cloud, &format!("alice:{token}")).is_ok();
    assert!(works(&first) && works(&second));
    people::login(&world.cloud, &world.alice, "alice", &first, 0, -1).unwrap();
    assert!(!works(&first) && works(&second));
    people::passwd(&world.cloud, &world.alice, ALICE, "new:er").unwrap();
    assert!(!works(&second));
    // A password may hold a colon; the session is split at the first.
    assert!(authenticate(&world.cloud, "alice:new:er").is_ok());
    world.refuses(8192, "EGID is not in user group list", |cloud| {
        people::login(cloud, &world.alice, "alice", "", 60, 0)
    });
}

#[test]
fn a_token_for_a_group_that_its_user_left_lets_nobody_in() {
    let world = World::new();
    let token = people::login(&world.cloud, &world.alice, "alice", "", -1, 1).unwrap();
    people::remove_group(&world.cloud, &world.admin, ALICE, 1).unwrap();
    world.refuses(256, "User couldn't be authenticated, aborting call.", |cloud| {
        authenticate(cloud, &format!("alice:{token}"))
    });
}

#[test]
fn nobody_becomes_an_administrator_by_rules() {
    let world = World::new();
    let dave = authenticate(&world.cloud, "dave:dave-pw").unwrap();
    for refused in [
        world.refusal(|cloud| people::passwd(cloud, &dave, 0, "mine")),
        world.refusal(|cloud| people::chgrp(cloud, &dave, dave.uid, 0)),
        world.refusal(|cloud| people::add_group(cloud, &dave, dave.uid, 0)),
        world.refusal(|cloud| people::allocate(cloud, &dave, "eve", "pw", "", &[0])),
        world.refusal(|cloud| people::login(cloud, &dave, "oneadmin", "", 60, -1)),
        world.refusal(|cloud| people::enable(cloud, &dave, 1, false)),
        world.refusal(|cloud| people::add_rule(cloud, &dave, ("100000005", "1400000000", "1", ""))),
    ] {
        assert_eq!(refused.code(), 512, "{refused}");
    }
}

#[test]
fn the_installation_keeps_its_users_and_groups() {
    let world = World::new();
    for refused in [
        world.refusal(|cloud| people::delete(cloud, &world.admin, 0)),
        world.refusal(|cloud| people::delete(cloud, &world.admin, 1)),
        world.refusal(|cloud| people::enable(cloud, &world.admin, 0, false)),
        world.refusal(|cloud| people::group_delete(cloud, &world.admin, 1)),
        world.refusal(|cloud| people::group_delete(cloud, &world.admin, TEAM)),
        world.refusal(|cloud| people::remove_group(cloud, &world.admin, ALICE, TEAM)),
    ] {
        assert_eq!(refused.code(), 2048, "{refused}");
    }
}

#[test]
fn rules_go_with_the_user_and_the_group_that_they_name() {
    let world = World::new();
    let rules = || world.read(|tx| tx.acl_list()).len();
    let before = rules();
    let group = people::group_allocate(&world.cloud, &world.admin, "crew").unwrap();
    assert_eq!(rules(), before + 2, "the default virtual data centre gives a new group its hosts and datastores");
    let user = people::allocate(&world.cloud, &world.admin, "eve", "eve-pw", "core", &[group]).unwrap();
    people::add_admin(&world.cloud, &world.admin, group, user).unwrap();
    let wish = ("200000065", "1400000000", "1", "");
    people::add_rule(&world.cloud, &world.admin, wish).unwrap();
    assert_eq!(rules(), before + 5);
    let refused = world.refusal(|cloud| people::add_rule(cloud, &world.admin, wish));
    assert_eq!((refused.code(), refused.to_string().as_str()), (8192, "Rule @101 VM/* USE #0 already exists"));
    people::delete(&world.cloud, &world.admin, user).unwrap();
    people::group_delete(&world.cloud, &world.admin, group).unwrap();
    assert_eq!(rules(), before);
}

#[test]
fn a_umask_of_the_user_is_that_of_his_objects() {
    let world = World::new();
    people::update(&world.cloud, &world.alice, ALICE, "UMASK=137", 1).unwrap();
    let alice = authenticate(&world.cloud, "alice:alice-pw").unwrap();
    let id = api::template::allocate(&world.cloud, &alice, "NAME=mine\nCPU=1\nMEMORY=1\n").unwrap();
    assert_eq!(world.read(|tx| tx.template(id)).permissions, 0o640);
    let refused = world.refusal(|cloud| people::update(cloud, &world.alice, ALICE, "UMASK=999", 1));
    assert_eq!(refused.code(), 8192, "{refused}");
}

#[test]
fn a_locked_object_is_shown_and_bound_until_it_is_unlocked() {
    use oned::api::owned::{chmod, lock, rename, unlock};
    use oned::store::rows::TemplateRow;
    let world = World::new();
    let id = world.allocate_template("NAME=t\nCPU=1\nMEMORY=1\n");
    lock::<TemplateRow>(&world.cloud, &world.alice, id, 2, false).unwrap();
    assert!(world.template_document(&world.alice, id).contains("<LOCK><LOCKED>2</LOCKED>"));
    for caller in [&world.alice, &world.admin] {
        let refused = world.refusal(|cloud| rename::<TemplateRow>(cloud, caller, id, "other"));
        assert_eq!(refused.code(), 512, "{refused}");
        assert!(refused.to_string().contains("locked"), "{refused}");
    }
    let refused = world.refusal(|cloud| lock::<TemplateRow>(cloud, &world.alice, id, 1, true));
    assert_eq!((refused.code(), refused.to_string().as_str()), (2048, "Error trying to lock the resource."));
    let refused = world.refusal(|cloud| lock::<TemplateRow>(cloud, &world.alice, id, 9, false));
    assert_eq!((refused.code(), refused.to_string().as_str()), (2048, "Wrong lock level specified"));
    unlock::<TemplateRow>(&world.cloud, &world.alice, id).unwrap();
    chmod::<TemplateRow>(&world.cloud, &world.alice, id, &[-1, -1, -1, 1, 1, -1, -1, -1, -1]).unwrap();
    lock::<TemplateRow>(&world.cloud, &world.alice, id, 2, false).unwrap();
    let refused = world.refusal(|cloud| unlock::<TemplateRow>(cloud, &world.bob, id));
    assert_eq!(refused.to_string(), "Cannot unlock: Lock is owned by another user");
}
