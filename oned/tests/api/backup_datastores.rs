//! The attributes of backup datastores: what is refused before anything is stored, who may say what is mounted, and what
//! documents show of it.

use std::os::unix::fs::symlink;
use std::path::Path;

use one_core::access::Caller;
use one_core::refusal::Refusal;
use oned::api::{Cloud, datastore};
use oned::engine::{Isolation, Outside, Stores};

use crate::world::{TEAM, World, octal, valid};

const REPLACE: i64 = 0;
const APPEND: i64 = 1;
const OPTIONS: &str = "user=backup,password=horse-battery-9";

fn make(cloud: &Cloud, caller: &Caller, text: &str) -> Result<i64, Refusal> {
    datastore::allocate(cloud, caller, &format!("NAME=b\nTYPE=BACKUP_DS\n{text}"), -1)
}

/// What is wrong, and the piece of the sentence that names it, for one driver or both.
const MISTAKES: [(&str, &str, &str); 28] = [
    ("restic", "CHUNK_SIZE_KB=100", "CHUNK_SIZE_KB is 100, but must be a power of two from 64 to 4096."),
    ("restic", "CHUNK_SIZE_KB=8192", "CHUNK_SIZE_KB is \"8192\""),
    ("restic", "RESTIC_SHARED=1", "RESTIC_SHARED is \"1\", but must be YES or NO."),
    ("restic", "RESTIC_COMPRESSION=zstd", "RESTIC_COMPRESSION is \"zstd\", but must be off or auto or max."),
    ("restic", "RESTIC_MAXPROC=65", "RESTIC_MAXPROC is \"65\""),
    ("restic", "RESTIC_VERIFY_WRITES=often", "RESTIC_VERIFY_WRITES is \"often\""),
    ("restic", "RESTIC_BWLIMIT=0", "RESTIC_BWLIMIT is \"0\""),
    ("restic", "RESTIC_SFTP_SERVER=nas", "RESTIC_SFTP_SERVER is not available"),
    ("restic", "RESTIC_PASSWORD=\"\"", "missing the \"RESTIC_PASSWORD\" attribute"),
    ("nfs", "COMPRESSION=lz4", "COMPRESSION is \"lz4\", but must be none or zlib or zstd."),
    ("both", "LIMIT_MB_S=0", "LIMIT_MB_S is \"0\""),
    ("both", "LIMIT_MB_S=fast", "LIMIT_MB_S is \"fast\""),
    ("both", "NICE=20", "NICE is \"20\", but must be a whole number from 0 to 19"),
    ("both", "NICE=-5", "NICE is \"-5\""),
    ("both", "RESTIC_NICE=20", "RESTIC_NICE is \"20\""),
    ("both", "TIMEOUT=4", "TIMEOUT is \"4\", but must be a whole number from 5 to 3600 (seconds)."),
    ("both", "TIMEOUT=3601", "TIMEOUT is \"3601\""),
    ("both", "SHARE=nas", "host:/path"),
    ("both", "BACKUP_SHARE=nas", "host:/path"),
    ("both", "SHARE=\"-o\"", "dash"),
    ("both", "SHARE=\"//nas/a\"\nSHARE_TYPE=\"a b\"", "SHARE_TYPE"),
    ("both", "SHARE=\"nas:/a\"\nSHARE_TYPE=cifs", "//server/share"),
    ("both", "SHARE=\"nas:/a\"\nMOUNT_ATTEMPTS=11", "MOUNT_ATTEMPTS"),
    ("both", "SHARE=\"nas:/a\"\nMOUNT_OPTIONS=\"bind\"", "bind"),
    ("both", "SHARE=\"nas:/a\"\nMOUNT_OPTIONS=\"soft,-x\"", "dash"),
    ("both", "SHARE=\"nas:/a\"\nMOUNT_OPTIONS=\"password=horse-battery-9\"", "cannot be given to nfs shares"),
    ("both", "MOUNT_OPTIONS=soft", "without a SHARE"),
    ("both", "BASE_PATH=\"backups\"", "BASE_PATH must be an absolute path"),
];

#[test]
fn every_mistake_is_refused_when_a_datastore_is_made_and_when_it_is_changed() {
    let world = World::new();
    let (cloud, admin) = (&world.cloud, &world.admin);
    for ds_mad in ["restic", "nfs"] {
        let good = match ds_mad {
            "restic" => "DS_MAD=restic\nRESTIC_PASSWORD=p\n".to_owned(),
            _ => "DS_MAD=nfs\n".to_owned(),
        };
        let made = format!("NAME=good-{ds_mad}\nTYPE=BACKUP_DS\n{good}");
        let id = datastore::allocate(cloud, admin, &made, -1).unwrap();
        for (driver, line, piece) in MISTAKES.iter().filter(|(driver, ..)| [ds_mad, "both"].contains(driver)) {
            let text = if line.starts_with("RESTIC_PASSWORD") { "DS_MAD=restic\n".to_owned() } else { good.clone() };
            let refusal = world.refusal(|cloud| make(cloud, admin, &format!("{text}{line}\n")));
            assert!(refusal.to_string().contains(piece), "{driver} {line}: {refusal}");
            assert!(!refusal.to_string().contains("horse-battery"), "{refusal}");
            // BASE_PATH stays what it was.
            if !line.starts_with("BASE_PATH") {
                let refusal = world.refusal(|cloud| datastore::update(cloud, admin, id, line, APPEND));
                assert!(refusal.to_string().contains(piece), "{driver} {line}: {refusal}");
            }
        }
    }
    let refusal = world.refusal(|cloud| make(cloud, admin, "DS_MAD=rsync\n"));
    assert!(
        refusal.to_string().contains("DS_MAD named \"rsync\" is not defined; use restic or nfs or dummy."),
        "{refusal}"
    );
}

#[test]
fn both_spellings_of_a_share_are_taken_and_its_options_are_shown_to_nobody() {
    let world = World::new();
    let (cloud, admin) = (&world.cloud, &world.admin);
    for (name, names) in [("one", ["SHARE", "MOUNT_OPTIONS"]), ("two", ["BACKUP_SHARE", "BACKUP_MOUNT_OPTIONS"])] {
        let [share, options] = names;
        let text = format!(
            "NAME={name}\nTYPE=BACKUP_DS\nDS_MAD=nfs\n{share}=\"//nas/b\"\nSHARE_TYPE=cifs\n{options}=\"{OPTIONS}\"\nLIMIT_MB_S=50\n"
        );
        let id = datastore::allocate(cloud, admin, &text, -1).unwrap();
        let stored = world.read(|tx| tx.datastore(id)).template;
        assert!(!stored.contains("horse-battery") && stored.contains("enc:v1:"), "{stored}");
        let shown = valid(datastore::info(cloud, admin, id, false).unwrap());
        assert!(shown.contains(&format!("<{options}><![CDATA[***]]></{options}>")), "{shown}");
        assert!(valid(datastore::info(cloud, admin, id, true).unwrap()).contains(OPTIONS));
        // What clients send back as it was shown stays what it was; the server may move, with backups or without.
        let moved = format!("{share}=\"//nas2/b\"\nSHARE_TYPE=cifs\n{options}=\"***\"\n");
        datastore::update(cloud, admin, id, &moved, REPLACE).unwrap();
        assert!(valid(datastore::info(cloud, admin, id, true).unwrap()).contains(OPTIONS));
    }
}

#[test]
fn only_administrators_say_what_is_mounted() {
    let world = World::new();
    let (cloud, alice) = (&world.cloud, &world.alice);
    let text = "NAME=b\nTYPE=BACKUP_DS\nDS_MAD=nfs\nSHARE=\"nas:/b\"\nMOUNT_OPTIONS=\"soft\"\n";
    let id = datastore::allocate(cloud, &world.admin, text, -1).unwrap();
    world.edit_datastore(id, |row| (row.uid, row.gid, row.permissions) = (alice.uid, TEAM, octal(0o640)));
    for line in ["SHARE=\"nas:/c\"", "MOUNT_OPTIONS=\"hard\"", "SHARE_TYPE=\"fuse.sshfs\"", "MOUNT_ATTEMPTS=1"] {
        let refusal = world.refusal(|cloud| datastore::update(cloud, alice, id, line, APPEND));
        let name = line.split('=').next().unwrap();
        assert!(matches!(&refusal, Refusal::RestrictedAttribute { attribute, .. } if attribute == name), "{refusal}");
    }
    assert!(matches!(
        world.refusal(|cloud| datastore::update(cloud, alice, id, "LABELS=a\n", REPLACE)),
        Refusal::RestrictedAttribute { .. }
    ));
    datastore::update(cloud, alice, id, "NICE=5\nSHARE=\"nas:/b\"\nMOUNT_OPTIONS=\"***\"\n", APPEND).unwrap();
}

#[test]
fn a_datastore_of_plain_files_is_made_in_our_own_directory_and_never_in_a_foreign_one() {
    let world = World::new();
    let (cloud, admin) = (&world.cloud, &world.admin);
    let foreign = tempfile::tempdir().unwrap();
    let missing = foreign.path().join("not-mounted");
    let own = make(cloud, admin, "DS_MAD=nfs\n").unwrap();
    let text = format!("NAME=f\nTYPE=BACKUP_DS\nDS_MAD=nfs\nBASE_PATH=\"{}\"\n", missing.display());
    let away = datastore::allocate(cloud, admin, &text, -1).unwrap();
    let outside = Outside::new(std::sync::mpsc::channel().0, None, Stores::new(cloud, Isolation::InProcess));
    let row = |id| world.read(|tx| tx.datastore(id));
    let driver = outside.datastore(&cloud.secret, &row(own)).unwrap();
    assert!(driver.capacity().unwrap().total_bytes > 0);
    let driver = outside.datastore(&cloud.secret, &row(away)).unwrap();
    assert!(driver.capacity().is_err());
    assert!(!missing.exists());
    // The same driver as long as nothing that matters changed.
    datastore::update(cloud, admin, own, "LABELS=a\n", APPEND).unwrap();
    let first = outside.datastore(&cloud.secret, &row(own)).unwrap();
    datastore::update(cloud, admin, own, "LABELS=b\n", APPEND).unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &outside.datastore(&cloud.secret, &row(own)).unwrap()));
    datastore::update(cloud, admin, own, "COMPRESSION=zlib\n", APPEND).unwrap();
    assert!(!std::sync::Arc::ptr_eq(&first, &outside.datastore(&cloud.secret, &row(own)).unwrap()));
    outside.close();
    assert!(outside.datastore(&cloud.secret, &row(own)).is_err(), "nothing is opened while the daemon ends");
}

#[test]
fn who_still_works_while_the_daemon_ends_is_told_so_at_once() {
    let world = World::new();
    let cloud = &world.cloud;
    let id = make(cloud, &world.admin, "DS_MAD=nfs\n").unwrap();
    let outside = Outside::new(std::sync::mpsc::channel().0, None, Stores::new(cloud, Isolation::InProcess));
    let row = world.read(|tx| tx.datastore(id));
    let working = outside.datastore(&cloud.secret, &row).unwrap();
    std::thread::scope(|scope| {
        let ending = scope.spawn(|| outside.close());
        while outside.datastore(&cloud.secret, &row).is_ok() {
            std::thread::yield_now();
        }
        // Who is told only when the waiting is over sees the end come now.
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(!ending.is_finished(), "the end waits for who works, and nobody waits for the end");
        drop(working);
    });
}

#[test]
fn a_share_that_cannot_be_mounted_says_so_and_leaves_no_record_that_is_in_the_way() {
    let world = World::configured(|config| config.mount_command = vec!["/nonexistent/sudo".into()]);
    let (cloud, admin) = (&world.cloud, &world.admin);
    let id = make(cloud, admin, "DS_MAD=nfs\nSHARE=\"nas:/b\"\nMOUNT_ATTEMPTS=1\nTIMEOUT=5\n").unwrap();
    let outside = Outside::new(std::sync::mpsc::channel().0, None, Stores::new(cloud, Isolation::InProcess));
    let row = || world.read(|tx| tx.datastore(id));
    let Err(error) = outside.datastore(&cloud.secret, &row()) else { panic!("it was mounted") };
    assert!(error.to_string().contains("/nonexistent/sudo could not be started"), "{error}");
    datastore::update(cloud, admin, id, "SHARE=\"\"\n", APPEND).unwrap();
    // What mounting left is our own empty directory.
    assert!(outside.datastore(&cloud.secret, &row()).unwrap().capacity().is_ok());
    let left: Vec<_> =
        std::fs::read_dir(cloud.run_dir.join("mounts")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("datastore-")), "{left:?}");
}

/// A directory that is a link is no reason to look elsewhere.
#[test]
fn a_base_path_may_be_a_link_to_a_directory() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("real"), folder.path().join("link"));
    std::fs::create_dir(&real).unwrap();
    symlink(&real, &link).unwrap();
    let text = |path: &Path| format!("DS_MAD=nfs\nBASE_PATH=\"{}\"\n", path.display());
    let id = make(&world.cloud, &world.admin, &text(&link)).unwrap();
    let outside = Outside::new(std::sync::mpsc::channel().0, None, Stores::new(&world.cloud, Isolation::InProcess));
    let driver = outside.datastore(&world.cloud.secret, &world.read(|tx| tx.datastore(id))).unwrap();
    assert!(driver.capacity().unwrap().free_bytes > 0);
}
