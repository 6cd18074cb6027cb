//! Passwords of datastores: stored, handed to administrators who ask, shown to nobody else, kept by an update.

use one_core::refusal::ObjectKind;
use oned::api;
use oned::api::view::stored;
use oned::secret::is_sealed;

use crate::world::{SECRET, World, octal, valid};

const REPLACE: i64 = 0;
const APPEND: i64 = 1;

fn world() -> World {
    let world = World::new();
    world.add_backup_datastore("backups");
    world
}

/// The password in clear, as the engine opens it; the row itself must hold it sealed.
fn kept(world: &World) -> Option<String> {
    let sealed = stored(&world.read(|tx| tx.datastore(100)).template);
    assert!(sealed.scalar("RESTIC_PASSWORD").is_none_or(is_sealed), "{sealed:?}");
    let list = world.cloud.config.encrypted(ObjectKind::Datastore);
    let clear = world.cloud.secret.open(ObjectKind::Datastore, &sealed, list).unwrap();
    clear.scalar("RESTIC_PASSWORD").map(str::to_owned)
}

#[test]
fn a_password_is_shown_to_administrators_who_ask_and_to_nobody_else() {
    let world = world();
    world.edit_datastore(100, |row| row.permissions = octal(0o666));
    for (caller, decrypt) in
        [(&world.alice, false), (&world.alice, true), (&world.bob, true), (&world.mallory, true), (&world.admin, false)]
    {
        let document = valid(api::datastore::info(&world.cloud, caller, 100, decrypt).unwrap());
        assert!(!document.contains(SECRET), "{} {decrypt}", caller.name);
        assert!(document.contains("<RESTIC_PASSWORD><![CDATA[***]]></RESTIC_PASSWORD>"), "{document}");
    }
    let document = valid(api::datastore::info(&world.cloud, &world.admin, 100, true).unwrap());
    assert!(document.contains(SECRET), "{document}");
    for caller in [&world.alice, &world.bob, &world.mallory, &world.admin] {
        let document = valid(api::datastore::pool(&world.cloud, caller).unwrap());
        assert!(document.contains("backups") && !document.contains(SECRET), "{document}");
    }
}

#[test]
fn an_update_with_the_stars_keeps_the_password() {
    let world = world();
    let update = |text: &str, kind| api::datastore::update(&world.cloud, &world.alice, 100, text, kind);
    for kind in [APPEND, REPLACE] {
        update("RESTIC_PASSWORD=\"***\"\nLABELS=far\n", kind).unwrap();
        assert_eq!(kept(&world).as_deref(), Some(SECRET));
    }
    update("LABELS=near\n", APPEND).unwrap();
    assert_eq!(kept(&world).as_deref(), Some(SECRET));
    // What the client read and sends back whole.
    let document = valid(api::datastore::info(&world.cloud, &world.alice, 100, false).unwrap());
    update(&crate::world::element(&document, "TEMPLATE"), REPLACE).unwrap();
    assert_eq!(kept(&world).as_deref(), Some(SECRET));
    update("RESTIC_PASSWORD=\"another\"\n", APPEND).unwrap();
    assert_eq!(kept(&world).as_deref(), Some("another"));
}

#[test]
fn a_password_cannot_be_taken_away() {
    let world = world();
    let sentence = "Error allocating a new datastore. Datastore template is missing the \"RESTIC_PASSWORD\" attribute or it's empty.";
    for (text, kind) in [("LABELS=far\n", REPLACE), ("RESTIC_PASSWORD=\"\"\n", APPEND), ("", REPLACE)] {
        world.refuses(16384, sentence, |cloud| api::datastore::update(cloud, &world.alice, 100, text, kind));
    }
    let sentence = "Error allocating a new datastore. Datastore template is missing the \"RESTIC_PASSWORD\" attribute or it's empty.";
    for text in
        ["NAME=a\nTYPE=BACKUP_DS\nDS_MAD=restic\n", "NAME=a\nTYPE=BACKUP_DS\nDS_MAD=restic\nRESTIC_PASSWORD=\"\"\n"]
    {
        world.refuses(16384, sentence, |cloud| api::datastore::allocate(cloud, &world.admin, text, -1));
    }
}

#[test]
fn no_refusal_repeats_a_password() {
    let world = world();
    for text in [
        format!("NAME=backups\nTYPE=BACKUP_DS\nDS_MAD=restic\nRESTIC_PASSWORD=\"{SECRET}\"\n"),
        format!("NAME=a\nTYPE=BACKUP_DS\nDS_MAD=ftp\nRESTIC_PASSWORD=\"{SECRET}\"\n"),
        format!("NAME=\"a/b\"\nTYPE=BACKUP_DS\nDS_MAD=restic\nRESTIC_PASSWORD=\"{SECRET}\"\n"),
        format!("NAME=a\nTYPE=BACKUP_DS\nDS_MAD=restic\nBASE_PATH=\"../x\"\nRESTIC_PASSWORD=\"{SECRET}\"\n"),
        format!("NAME=a\nRESTIC_PASSWORD=\"{SECRET}"),
        format!("RESTIC_PASSWORD={SECRET} {SECRET} = ["),
    ] {
        let refusal = world.refusal(|cloud| api::datastore::allocate(cloud, &world.admin, &text, -1));
        assert!(!refusal.to_string().contains(SECRET) && !format!("{refusal:?}").contains(SECRET), "{refusal:?}");
        let refusal = world.refusal(|cloud| api::datastore::allocate(cloud, &world.alice, &text, -1));
        assert_eq!(refusal.code(), 512);
    }
}

#[test]
fn a_backup_job_knows_its_datastore_by_id_and_no_password() {
    let world = world();
    let vm = world.add_running_vm("BACKUP_CONFIG=[MODE=INCREMENT]");
    api::backup::backup(&world.cloud, &world.admin, vm, 100, false).unwrap();
    assert!(!world.open_jobs().iter().any(|job| format!("{job:?}").contains(SECRET)));
    assert!(!world.vm_document(&world.admin, vm).contains(SECRET));
}

#[test]
fn a_users_password_digest_is_for_administrators() {
    let world = world();
    let digest = world.read(|tx| tx.user(world.alice.uid)).password_sha256;
    let own = valid(api::people::info(&world.cloud, &world.alice, -1, false).unwrap());
    assert!(own.contains("<NAME><![CDATA[alice]]></NAME>") && !own.contains(&digest), "{own}");
    let pool = valid(api::people::pool(&world.cloud, &world.alice).unwrap());
    assert!(!pool.contains(&digest));
    assert!(valid(api::people::info(&world.cloud, &world.admin, 2, false).unwrap()).contains(&digest));
}
