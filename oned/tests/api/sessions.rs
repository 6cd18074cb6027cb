//! Sessions are kept as long as nothing about people changes; what is taken away is gone at once.

use one_core::access::Caller;
use one_core::refusal::Refusal;
use oned::session::{authenticate, rule_row};
use oned::store::rows::LoginTokenRow;

use crate::world::{World, session};

fn enter(world: &World, session: &str) -> Result<Caller, Refusal> {
    // Twice: the second answer is the kept one.
    let first = authenticate(&world.cloud, session);
    assert_eq!(first, authenticate(&world.cloud, session));
    first
}

fn token(world: &World, text: &str, expires_at: i64) -> String {
    let row =
        LoginTokenRow { uid: world.alice.uid, token_sha256: oned::cloud::password_digest(text), expires_at, egid: -1 };
    world.write(|tx| tx.login_token_put(&row));
    format!("alice:{text}")
}

#[test]
fn a_password_that_was_changed_opens_nothing_from_then_on() {
    let world = World::new();
    let old = session("alice");
    assert_eq!(enter(&world, &old).unwrap(), world.alice);
    let mut row = world.read(|tx| tx.user(world.alice.uid));
    row.password_sha256 = oned::cloud::password_digest("another");
    world.write(|tx| tx.user_update(&row));
    assert_eq!(enter(&world, &old), Err(Refusal::BadSession));
    assert_eq!(enter(&world, "alice:another").unwrap(), world.alice);
    row.enabled = 0;
    world.write(|tx| tx.user_update(&row));
    assert_eq!(enter(&world, "alice:another"), Err(Refusal::BadSession));
}

#[test]
fn a_user_who_is_disabled_or_removed_is_out_at_once() {
    let world = World::new();
    assert!(enter(&world, &session("mallory")).is_ok());
    world.write(|tx| tx.user_delete(world.mallory.uid));
    assert_eq!(enter(&world, &session("mallory")), Err(Refusal::BadSession));
}

#[test]
fn groups_and_access_rules_count_from_the_next_call_on() {
    let world = World::new();
    let alice = session("alice");
    let before = enter(&world, &alice).unwrap();
    let group = 1;
    assert!(before.is_member(group));
    world.write(|tx| tx.membership_remove(before.uid, group));
    assert!(!enter(&world, &alice).unwrap().is_member(group));
    world.write(|tx| tx.membership_add(before.uid, group));
    assert_eq!(enter(&world, &alice).unwrap(), before);
    let rule = one_core::access::Rule::new(
        one_core::access::Selector::One(before.uid),
        &[one_core::refusal::ObjectKind::Host],
        one_core::access::Selector::All,
        &[one_core::refusal::Right::Use],
    );
    world.write(|tx| tx.acl_insert(&rule_row(4711, &rule)));
    assert_eq!(enter(&world, &alice).unwrap().rules.len(), before.rules.len() + 1);
    world.write(|tx| tx.acl_delete(4711));
    assert_eq!(enter(&world, &alice).unwrap(), before);
}

#[test]
fn a_token_ends_with_its_time_and_when_it_is_removed() {
    let world = World::new();
    let now = world.clock_now();
    let (timed, endless) = (token(&world, "timed", now + 60), token(&world, "endless", -1));
    assert!(enter(&world, &timed).is_ok() && enter(&world, &endless).is_ok());
    world.clock.advance(59);
    assert!(enter(&world, &timed).is_ok());
    world.clock.advance(1);
    assert_eq!(enter(&world, &timed), Err(Refusal::BadSession));
    assert!(enter(&world, &endless).is_ok());
    world.write(|tx| tx.login_token_remove(world.alice.uid, None).map(drop));
    assert_eq!(enter(&world, &endless), Err(Refusal::BadSession));
}

#[test]
fn a_change_that_is_taken_back_changes_nobody() {
    let world = World::new();
    let alice = session("alice");
    let before = enter(&world, &alice).unwrap();
    let undone: Result<(), Refusal> = world.cloud.store.write(|tx| {
        tx.user_delete(before.uid)?;
        Err(Refusal::Internal("no".into()))
    });
    assert!(undone.is_err());
    assert_eq!(enter(&world, &alice).unwrap(), before);
}

#[test]
fn a_new_name_is_shown_at_once() {
    let world = World::new();
    let vm = world.add_running_vm("");
    assert!(world.vm_document(&world.alice, vm).contains("<UNAME><![CDATA[alice]]></UNAME>"));
    let mut row = world.read(|tx| tx.user(world.alice.uid));
    row.name = "alicia".into();
    world.write(|tx| tx.user_update(&row));
    assert!(world.vm_document(&world.alice, vm).contains("<UNAME><![CDATA[alicia]]></UNAME>"));
}
