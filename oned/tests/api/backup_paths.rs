//! `one.image.allocate` with a PATH in a backup: every form that it is written in, and that nobody gets or learns of a backup
//! that he may not use.

use one_core::access::Caller;
use one_core::lifecycle::ImageState;
use one_core::refusal::Refusal;
use one_core::template::Template;
use oned::api::{self, Cloud};
use oned::job::{self, RestorePlan};

use crate::world::{IMAGES, World, octal, point};

/// Alice's VM with two disks, and a chain of three restore points of it in datastore 100.
fn world() -> (World, i64) {
    let world = World::new();
    let datastore = world.add_backup_datastore("backups");
    let data = world.add_image("data");
    let vm = world.add_running_vm(&format!("DISK=[IMAGE_ID={data}]"));
    let backup = world.add_backup(vm, datastore, 3, true);
    (world, backup)
}

fn short(backup: i64, number: i64) -> String {
    point(backup, number).chars().take(8).collect()
}

/// The increments up to this one as a path names them.
fn chain(backup: i64, last: i64) -> String {
    let links: Vec<String> = (0..=last).map(|number| format!("{number}:{}", short(backup, number))).collect();
    links.join(",")
}

fn allocate<'a>(
    caller: &'a Caller,
    name: &str,
    path: &str,
    more: &str,
) -> impl FnOnce(&Cloud) -> Result<i64, Refusal> + 'a {
    let text = format!("NAME=\"{name}\"\nPATH=\"{path}\"\n{more}\n");
    move |cloud| api::image::allocate(cloud, caller, &text, IMAGES)
}

/// The answer to every path that does not lead to a backup of the caller's.
fn nothing(path: &str) -> String {
    format!("Error allocating a new image. PATH names no backup that you may use: {path}")
}

/// The plan of the newest job.
fn last_plan(world: &World) -> RestorePlan {
    let jobs = world.open_jobs();
    let job = jobs.last().unwrap();
    assert_eq!((job.kind.as_str(), job.phase.as_str(), job.uid), ("RESTORE", "planned", world.alice.uid));
    job::plan(job).unwrap()
}

#[test]
fn the_path_that_a_restored_image_shows_makes_the_same_image_once_more() {
    let (world, backup) = world();
    let made = api::restore::restore(&world.cloud, &world.alice, backup, IMAGES, "DISK_ID=1\nNAME=first\n").unwrap();
    let first = world.image_row(made.split(' ').nth(1).unwrap().parse().unwrap());
    let plan = last_plan(&world);
    let id = allocate(&world.alice, "second", &first.path, "TYPE=DATABLOCK\nFROM_BACKUP_DS=100\nDEV_PREFIX=vd")(
        &world.cloud,
    );
    let second = world.image_row(id.unwrap());
    assert_eq!(last_plan(&world), RestorePlan { target: second.source.clone().into(), ..plan });
    assert_eq!((second.name.as_str(), second.uid, second.gid), ("second", 2, 100));
    for (one, other) in [(first.kind, second.kind), (first.state, second.state), (first.size_mb, second.size_mb)] {
        assert_eq!(one, other);
    }
    assert_eq!((second.state, second.size_mb), (ImageState::Locked.number(), 256));
    assert_eq!((&first.path, &first.format, &first.template), (&second.path, &second.format, &second.template));
    world.image_document(&world.alice, second.id);
}

#[test]
fn every_form_of_a_path_is_taken_and_written_in_the_new_one() {
    let (world, backup) = world();
    let all = chain(backup, 2);
    // Point, disk.
    let new = |disk: &str| format!("restic://100//{all}/{disk}");
    for (number, (path, shown, disk)) in [
        (new("/one/disk.0"), new("/one/disk.0"), 0),
        // Without the slot of the backup job, as older lines wrote it.
        (format!("restic://100/{all}//one/disk.1"), new("/one/disk.1"), 1),
        // As the original names a disk's file.
        (new("/var/lib/one/datastores/0/0/backup/disk.1.2"), new("/var/lib/one/datastores/0/0/backup/disk.1.2"), 1),
    ]
    .into_iter()
    .enumerate()
    {
        let id = allocate(&world.alice, &format!("image-{number}"), &path, "")(&world.cloud).unwrap();
        let row = world.image_row(id);
        assert_eq!((row.path, row.kind, row.size_mb), (shown, 0, 256));
        let stored = Template::parse(&row.template).unwrap();
        assert_eq!(stored.scalar("FROM_BACKUP_DS"), Some("100"), "{path}");
        let plan = last_plan(&world);
        assert_eq!((plan.point, plan.disk, plan.datastore_id), (point(backup, 2), disk, 100), "{path}");
    }
    // An earlier point; a size of one's own makes no difference.
    let earlier = format!("restic://100//{}//one/disk.0", chain(backup, 1));
    let id = allocate(&world.alice, "earlier", &earlier, "SIZE=1\nPERSISTENT=YES")(&world.cloud).unwrap();
    let row = world.image_row(id);
    assert_eq!((last_plan(&world).point, row.size_mb, row.persistent), (point(backup, 1), 256, 1));
    // One whose first increments KEEP_LAST has removed since; and with what is left.
    world.write(|tx| tx.increment_delete(backup, 0));
    for (name, path) in [("long", earlier), ("short", format!("restic://100//1:{}//one/disk.0", short(backup, 1)))] {
        allocate(&world.alice, name, &path, "")(&world.cloud).unwrap();
        assert_eq!(last_plan(&world).point, point(backup, 1), "{path}");
    }
}

#[test]
fn the_scheme_is_that_of_the_datastores_driver() {
    let (world, backup) = world();
    for driver in ["nfs", "dummy", "restic"] {
        world.edit_datastore(100, |row| row.ds_mad = driver.into());
        for scheme in ["restic", "nfs", "dummy", "rsync", "http"] {
            let path = format!("{scheme}://100//{}//one/disk.0", chain(backup, 0));
            if scheme == driver {
                allocate(&world.alice, driver, &path, "FROM_BACKUP_DS=100")(&world.cloud).unwrap();
                assert_eq!(world.image_row(last_image(&world)).path, path);
            } else {
                world.refuses(16384, &nothing(&path), allocate(&world.alice, "x", &path, ""));
            }
        }
    }
}

fn last_image(world: &World) -> i64 {
    world.read(|tx| tx.image_list()).last().unwrap().id
}

#[test]
fn the_slot_of_the_backup_job_is_that_of_the_backup_or_empty() {
    let (world, backup) = world();
    let path = |job: &str| format!("restic://100/{job}/{}//one/disk.0", chain(backup, 2));
    world.refuses(16384, &nothing(&path("5")), allocate(&world.alice, "x", &path("5"), ""));
    world.edit_image(backup, |row| row.template = "BACKUP_JOB_ID=\"5\"\n".into());
    world.refuses(16384, &nothing(&path("6")), allocate(&world.alice, "x", &path("6"), ""));
    for (name, job) in [("with", "5"), ("without", "")] {
        let id = allocate(&world.alice, name, &path(job), "")(&world.cloud).unwrap();
        assert_eq!(world.image_row(id).path, path(job));
    }
}

#[test]
fn the_slot_of_the_backup_job_follows_from_where_the_job_stores() {
    let (world, backup) = world();
    world.write(|tx| {
        for mut point in tx.increments(backup)? {
            point.series = "job-3/0".into();
            tx.increment_update(&point)?;
        }
        Ok(())
    });
    // It does not matter what the owner writes there.
    world.edit_image(backup, |row| row.template = "BACKUP_JOB_ID=\"5\"\n".into());
    let path = |job: &str| format!("restic://100/{job}/{}//one/disk.0", chain(backup, 2));
    for job in ["5", "0", "100"] {
        for caller in [&world.alice, &world.admin] {
            world.refuses(16384, &nothing(&path(job)), allocate(caller, "x", &path(job), ""));
        }
    }
    for (name, job) in [("with", "3"), ("without", "")] {
        let id = allocate(&world.alice, name, &path(job), "")(&world.cloud).unwrap();
        assert_eq!(world.image_row(id).path, path(job));
        let plan = last_plan(&world);
        assert_eq!((plan.series.as_str(), plan.point), ("job-3/0", point(backup, 2)));
    }
    // Who may not use the backup is not helped by the job.
    for caller in [&world.bob, &world.mallory] {
        world.refuses(16384, &nothing(&path("3")), allocate(caller, "x", &path("3"), ""));
    }
    // What is restored shows it, and makes the same image once more.
    let made = api::restore::restore(&world.cloud, &world.alice, backup, IMAGES, "DISK_ID=0\nNAME=first\n").unwrap();
    let first = world.image_row(made.split(' ').nth(1).unwrap().parse().unwrap());
    assert_eq!(first.path, path("3"));
    assert_eq!(Template::parse(&first.template).unwrap().scalar("BACKUP_JOB_ID"), Some("3"));
    let more = "FROM_BACKUP_DS=100\nBACKUP_JOB_ID=3";
    let again = allocate(&world.alice, "again", &first.path, more)(&world.cloud).unwrap();
    assert_eq!(world.image_row(again).path, first.path);
    world.image_document(&world.alice, again);
}

#[test]
fn a_foreign_backup_gets_the_answer_of_one_that_is_not_there() {
    let (world, backup) = world();
    let known = format!("restic://100//{}//one/disk.0", chain(backup, 2));
    let unknown = known.replace(&short(backup, 2), "0123abcd");
    let ask = |caller: &Caller, path: &str| {
        for more in ["", "FROM_BACKUP_DS=100"] {
            world.refuses(16384, &nothing(path), allocate(caller, "x", path, more));
        }
    };
    for path in [&known, &unknown] {
        ask(&world.bob, path);
        ask(&world.mallory, path);
    }
    ask(&world.alice, &unknown);
    ask(&world.admin, &unknown);
    // Nor does it tell whether the disk is in it, or which state it is in.
    world.edit_image(backup, |row| row.state = ImageState::Error.number());
    ask(&world.bob, &known);
    ask(&world.bob, &known.replace("disk.0", "disk.9"));
    world.edit_image(backup, |row| row.state = ImageState::Ready.number());

    // USE on the backup is not enough without USE on where it lies.
    world.edit_image(backup, |row| row.permissions = octal(0o644));
    world.edit_datastore(100, |row| row.permissions = octal(0o600));
    ask(&world.bob, &known);
    world.edit_datastore(100, |row| row.permissions = octal(0o640));
    let id = allocate(&world.bob, "bobs", &known, "")(&world.cloud).unwrap();
    assert_eq!(world.image_row(id).uid, world.bob.uid);
    ask(&world.mallory, &known);
    allocate(&world.admin, "admins", &known, "")(&world.cloud).unwrap();
}

#[test]
fn what_a_path_says_must_be_so_in_every_part() {
    let (world, backup) = world();
    let other = world.add_backup(0, 100, 1, false);
    let all = chain(backup, 2);
    let (zero, two) = (short(backup, 0), short(backup, 2));
    for path in [
        format!("restic://101//{all}//one/disk.0"),
        format!("restic://1//{all}//one/disk.0"),
        // Another increment's number, an increment too many, one of another chain, half an id, a pattern.
        format!("restic://100//1:{two}//one/disk.0"),
        format!("restic://100//{all},3:{two}//one/disk.0"),
        format!("restic://100//0:{},2:{two}//one/disk.0", short(other, 0)),
        format!("restic://100//0:{}//one/disk.0", &zero[..4]),
        "restic://100//0:%//one/disk.0".to_owned(),
        "restic://100//0:________//one/disk.0".to_owned(),
    ] {
        for caller in [&world.alice, &world.admin] {
            world.refuses(16384, &nothing(&path), allocate(caller, "x", &path, ""));
        }
    }
    let good = format!("restic://100//{all}//one/disk.0");
    for (path, more, part) in [
        (good.as_str(), "FROM_BACKUP_DS=101", "FROM_BACKUP_DS is 101, but PATH lies in datastore 100."),
        (&good, "FROM_BACKUP_DS=x", "FROM_BACKUP_DS is x, but"),
        (&good, "FORMAT=raw", "becomes a qcow2 image"),
        (&good, "TYPE=CDROM", "becomes a qcow2 image"),
        ("/var/tmp/a", "FROM_BACKUP_DS=100", "needs the PATH of a disk in a backup"),
        ("https://example.com/a.qcow2", "FROM_BACKUP_DS=100", "must be a file of this machine or a disk in a backup"),
        ("restic://100//0:a//one/../disk.0", "", "the path of the disk holds .."),
    ] {
        for caller in [&world.alice, &world.admin] {
            let refusal = world.refusal(allocate(caller, "x", path, more));
            assert!(refusal.code() == 16384 && refusal.to_string().contains(part), "{path} {more}: {refusal}");
        }
    }
    let text = "NAME=x\nTYPE=DATABLOCK\nSIZE=8\nFROM_BACKUP_DS=100\n";
    let refusal = world.refusal(|cloud| api::image::allocate(cloud, &world.admin, text, IMAGES));
    assert!(refusal.to_string().contains("No PATH"), "{refusal}");
    for file in ["disk.7", "vm.xml", "disk.0.x"] {
        let sentence =
            format!("VM disk does not exist: /one/{file} is not in this backup, which holds the disks: 0, 1");
        world.refuses(2048, &sentence, allocate(&world.alice, "x", &good.replace("disk.0", file), ""));
    }
    world.edit_image(backup, |row| row.state = ImageState::Delete.number());
    let sentence = format!("Backup image {backup} is not READY; wait until it is, or see its ERROR.");
    world.refuses(2048, &sentence, allocate(&world.alice, "x", &good, ""));
}

#[test]
fn names_rights_room_and_quotas_are_the_callers_as_with_any_image() {
    let (world, backup) = world();
    let path = format!("restic://100//{}//one/disk.0", chain(backup, 2));
    world.refuses(
        16384,
        "Error allocating a new image. NAME is already taken by IMAGE 0.",
        allocate(&world.alice, "data", &path, ""),
    );
    world.edit_datastore(IMAGES, |row| row.permissions = octal(0o600));
    let sentence = format!("User [2] : Not authorized to perform USE DATASTORE [{IMAGES}].");
    world.refuses(512, &sentence, allocate(&world.alice, "x", &path, ""));
    world.edit_datastore(IMAGES, |row| {
        row.permissions = octal(0o644);
        (row.total_mb, row.free_mb) = (1000, 255);
    });
    let sentence = "Not enough free space on target datastore: 256 MB are needed and 255 MB are free";
    world.refuses(2048, sentence, allocate(&world.alice, "x", &path, ""));
    // no_check_capacity is for administrators.
    let text = format!("NAME=x\nPATH=\"{path}\"\n");
    let unchecked = |caller: &Caller| api::image::allocate_unchecked(&world.cloud, caller, &text, IMAGES, true);
    world.refuses(2048, sentence, |_| unchecked(&world.alice));
    unchecked(&world.admin).unwrap();
    let limit = "DATASTORE=[ID=1,SIZE=511]";
    api::quota::user(&world.cloud, &world.admin, world.alice.uid, limit).unwrap();
    world.edit_datastore(IMAGES, |row| row.free_mb = 256);
    let sentence = "User [2] : user [2] limit of 511 reached for SIZE quota in DATASTORE with ID: 1.";
    world.refuses(512, sentence, allocate(&world.alice, "x", &path, ""));
}

#[test]
fn a_restore_that_does_not_fit_is_refused_with_both_figures_unless_nobody_looks() {
    let (world, backup) = world();
    let restore = |options: &'static str| {
        let alice = world.alice.clone();
        move |cloud: &Cloud| api::restore::restore(cloud, &alice, backup, IMAGES, options)
    };
    world.edit_datastore(IMAGES, |row| (row.total_mb, row.free_mb) = (1000, 511));
    let sentence = "Not enough free space on target datastore: 512 MB are needed and 511 MB are free";
    world.refuses(2048, sentence, restore(""));
    restore("DISK_ID=1\nNAME=one\n")(&world.cloud).unwrap();
    // What the datastore's own attributes say.
    world.edit_datastore(IMAGES, |row| {
        row.free_mb = 1000;
        row.used_mb = 89;
        row.template = "LIMIT_MB=\"600\"\n".into();
    });
    world.refuses(2048, sentence, restore(""));
    world.edit_datastore(IMAGES, |row| row.template = "LIMIT_MB=\"601\"\n".into());
    restore("NAME=two\n")(&world.cloud).unwrap();
    world.edit_datastore(IMAGES, |row| {
        row.free_mb = 0;
        row.template = "DATASTORE_CAPACITY_CHECK=\"NO\"\n".into();
    });
    restore("NAME=three\n")(&world.cloud).unwrap();
}
