//! `one.image.verify`, `verifycancel`, `one.datastore.importbackups`: what is refused, what is asked of the engine, what is
//! shown; and what damage and comparisons mean for the next backup.

use one_core::backup::PlanKind;
use one_core::lifecycle::ImageState;
use one_core::refusal::Refusal;
use one_core::template::Template;
use oned::api::{self, Cloud};
use oned::job::{self, DeletePlan, JobKind, JobSubject, RetainPlan, VerifyPlan};
use oned::store::rows::JobRow;
use oned::verification::{self, Flaw, Seen};

use crate::world::{IMAGES, World, element, octal, valid};

/// Alice's VM with a chain of two restore points.
fn world() -> (World, i64, i64) {
    let world = World::new();
    let datastore = world.add_backup_datastore("backups");
    let vm = world.add_running_vm("BACKUP_CONFIG=[MODE=INCREMENT]");
    let backup = world.add_backup(vm, datastore, 2, true);
    (world, vm, backup)
}

fn note(world: &World, backup: i64, increment: i64, deep: bool, damages: u64) {
    let flaw =
        Flaw { disk: Some(0), offset: 1 << 20, length: 65536, what: "pack 6968 does not have its digest".into() };
    let listed = if damages > 0 { vec![flaw] } else { Vec::new() };
    world.write(|tx| {
        let mut row = tx.increments(backup)?.remove(usize::try_from(increment).unwrap());
        verification::note(&mut row, deep, world.clock_now(), Seen { job: 9, read_bytes: 4096, damages, listed });
        tx.increment_update(&row)
    });
}

fn verify(cloud: &Cloud, world: &World, id: i64, increment: i64) -> Result<i64, Refusal> {
    api::verification::verify(cloud, &world.alice, id, true, increment)
}

#[test]
fn a_verification_is_a_job_beside_a_backup_that_stays_usable() {
    let (world, _, backup) = world();
    world.edit_image(backup, |row| row.template = "ERROR=\"of yesterday\"\nNOTE=x\n".into());
    assert_eq!(verify(&world.cloud, &world, backup, -1).unwrap(), backup);
    let jobs = world.open_jobs();
    assert_eq!((jobs.len(), jobs[0].kind.as_str(), jobs[0].image_id), (1, "VERIFY", Some(backup)));
    let plan: VerifyPlan = job::plan(&jobs[0]).unwrap();
    assert_eq!((plan.series.as_str(), plan.increments.as_slice(), plan.deep), ("0", &[0, 1][..], true));
    assert_eq!(world.image_row(backup).state, ImageState::Ready.number());
    let document = world.image_document(&world.alice, backup);
    assert!(element(&document, "VERIFYING").contains("DEEP") && !document.contains("<ERROR>"), "{document}");
    api::restore::restore(&world.cloud, &world.alice, backup, IMAGES, "").unwrap();
}

#[test]
fn what_cannot_be_verified_is_refused_with_a_sentence() {
    let (world, _, backup) = world();
    let disk = world.add_image("plain");
    world.refuses(2048, &format!("Image {disk} is no backup; only backups can be verified."), |cloud| {
        verify(cloud, &world, disk, -1)
    });
    world.refuses(2048, "Wrong increment; this backup holds: 0, 1", |cloud| verify(cloud, &world, backup, 2));
    world.refuses(2048, &format!("Image {backup} is not being verified."), |cloud| {
        api::verification::cancel(cloud, &world.alice, backup)
    });
    world.edit_image(backup, |row| row.state = ImageState::Error.number());
    let sentence = format!("Backup image {backup} is not READY; wait until it is, or see its ERROR.");
    world.refuses(2048, &sentence, |cloud| verify(cloud, &world, backup, -1));
    world.edit_image(backup, |row| row.state = ImageState::Ready.number());
    verify(&world.cloud, &world, backup, 1).unwrap();
    let sentence =
        format!("Image {backup} is being verified already; wait for the end, or end it with one.image.verifycancel.");
    world.refuses(2048, &sentence, |cloud| verify(cloud, &world, backup, -1));
    api::verification::cancel(&world.cloud, &world.alice, backup).unwrap();
    assert_eq!(world.open_jobs()[0].cancel, 1);
    world.end_jobs();
    world.write(|tx| tx.increment_delete(backup, 0).and_then(|()| tx.increment_delete(backup, 1)));
    world.refuses(2048, &format!("Backup image {backup} holds no restore points."), |cloud| {
        verify(cloud, &world, backup, -1)
    });
}

#[test]
fn deleting_a_backup_ends_its_verification() {
    let (world, _, backup) = world();
    verify(&world.cloud, &world, backup, -1).unwrap();
    api::image::delete(&world.cloud, &world.alice, backup, false).unwrap();
    let jobs = world.open_jobs();
    assert_eq!((jobs[0].kind.as_str(), jobs[0].cancel, jobs[1].kind.as_str()), ("VERIFY", 1, "DELETE"));
}

#[test]
fn a_backup_can_be_deleted_while_what_removes_points_of_it_only_waits() {
    let (world, _, backup) = world();
    let delete = |cloud: &Cloud, force| api::image::delete(cloud, &world.alice, backup, force);
    let rest = |id: i64, until: i64| {
        world.write(|tx| {
            let row = tx.job(id)?;
            tx.job_update(&JobRow { not_before: until, ..row })
        });
    };
    let retain = RetainPlan { datastore_id: 100, series: "0".into(), drop: vec![0], points: vec!["x".into()] };
    let subject = JobSubject::image(backup, 100, -1);
    world.write(|tx| job::add(tx, JobKind::Retain, subject, &retain, world.clock_now()).map(drop));
    let refusal = world.refusal(|cloud| delete(cloud, true));
    assert!(matches!(refusal, Refusal::ActiveBackup { .. }), "{refusal}");
    rest(world.open_jobs()[0].id, world.clock_now() + 1);
    delete(&world.cloud, false).unwrap();
    let kinds = |jobs: &[JobRow]| jobs.iter().map(|job| (job.kind.clone(), job.cancel)).collect::<Vec<_>>();
    assert_eq!(kinds(&world.open_jobs()), [("RETAIN".into(), 1), ("DELETE".into(), 0)]);

    // A deletion that waits can only be forced, one that is at work not even that.
    world.refusal(|cloud| delete(cloud, true));
    rest(world.open_jobs()[1].id, world.clock_now() + 1);
    world.refusal(|cloud| delete(cloud, false));
    delete(&world.cloud, true).unwrap();
    let jobs = world.open_jobs();
    assert_eq!(kinds(&jobs[1..]), [("DELETE".into(), 1), ("DELETE".into(), 0)]);
    let DeletePlan::Points { force: true, .. } = job::plan(&jobs[2]).unwrap() else { panic!("{jobs:?}") };
    world.end_jobs();
    world.refusal(|cloud| delete(cloud, true));
}

#[test]
fn what_was_seen_is_shown_with_each_increment() {
    let (world, _, backup) = world();
    note(&world, backup, 0, false, 0);
    note(&world, backup, 1, true, 3);
    let document = world.image_document(&world.alice, backup);
    let template = Template::parse(&element(&document, "TEMPLATE")).unwrap();
    let infos: Vec<_> = template.vectors("INCREMENT_INFO").collect();
    assert_eq!((infos[0].get("VERIFY_DEPTH"), infos[0].int("DAMAGES")), (Some("QUICK"), Some(0)));
    assert_eq!((infos[1].get("VERIFY_DEPTH"), infos[1].int("DAMAGES")), (Some("DEEP"), Some(3)));
    assert_eq!((infos[1].int("VERIFY_JOB"), infos[1].int("VERIFY_BYTES")), (Some(9), Some(4096)));
    let damage = template.vector("INCREMENT_DAMAGE").unwrap();
    assert_eq!((damage.int("ID"), damage.int("DISK"), damage.int("OFFSET")), (Some(1), Some(0), Some(1 << 20)));
    // An update with what is shown keeps none of it.
    api::image::update(&world.cloud, &world.alice, backup, &element(&document, "TEMPLATE"), 0).unwrap();
    assert!(!world.image_row(backup).template.contains("INCREMENT_DAMAGE"));
}

#[test]
fn a_quick_look_does_not_clear_what_a_deep_one_found() {
    let (world, _, backup) = world();
    let damaged = || world.read(|tx| tx.increments(backup)).iter().map(verification::is_damaged).collect::<Vec<_>>();
    note(&world, backup, 1, true, 1);
    note(&world, backup, 1, false, 0);
    assert_eq!(damaged(), [false, true]);
    note(&world, backup, 1, true, 0);
    assert_eq!(damaged(), [false, false]);
}

#[test]
fn the_next_backup_after_damage_is_full_and_says_why() {
    let (world, vm, backup) = world();
    note(&world, backup, 1, true, 1);
    api::backup::backup(&world.cloud, &world.admin, vm, 100, false).unwrap();
    let (_, plan) = world.backup_plan();
    let PlanKind::Full { new_chain: true, reason } = plan.decision.kind else { panic!("{plan:?}") };
    assert_eq!(reason, "verification found damage in the last restore point of the chain");
}

#[test]
fn the_run_whose_turn_it_is_compares_whole_disks() {
    for (every, age, unmarked, expected) in
        [(14, 13, 0, true), (14, 12, 0, false), (14, 0, 512, true), (0, 99, 512, false)]
    {
        let world = World::configured(|config| config.backup_compare_every = every);
        world.add_backup_datastore("backups");
        let vm = world.add_running_vm("BACKUP_CONFIG=[MODE=INCREMENT]");
        let backup = world.add_backup(vm, 100, 2, true);
        world.write(|tx| {
            let mut row = tx.increments(backup)?.remove(1);
            (row.compare_age, row.unmarked_bytes) = (age, unmarked);
            tx.increment_update(&row)
        });
        api::backup::backup(&world.cloud, &world.admin, vm, -1, false).unwrap();
        let (_, plan) = world.backup_plan();
        assert!(
            matches!(plan.decision.kind, PlanKind::Increment { compare, .. } if compare == expected),
            "{every} {age}: {plan:?}"
        );
    }
}

#[test]
fn a_disk_can_be_restored_without_the_vms_description_and_past_damage() {
    let (world, _, backup) = world();
    world.write(|tx| {
        for mut row in tx.increments(backup)? {
            row.document = String::new();
            tx.increment_update(&row)?;
        }
        Ok(())
    });
    let refusal = world.refusal(|cloud| api::restore::restore(cloud, &world.alice, backup, IMAGES, ""));
    assert!(refusal.to_string().contains("cannot be read"), "{refusal}");
    api::restore::restore(&world.cloud, &world.alice, backup, IMAGES, "DISK_ID=0\nSKIP_BAD=YES\n").unwrap();
    let plan: job::RestorePlan = job::plan(&world.open_jobs()[0]).unwrap();
    assert!(plan.skip_bad);
}

#[test]
fn backups_are_imported_by_one_job_at_a_time() {
    let world = World::new();
    let datastore = world.add_backup_datastore("backups");
    let import = |cloud: &Cloud, id| api::datastore::import_backups(cloud, &world.admin, id);
    world.refusal(|cloud| api::datastore::import_backups(cloud, &world.alice, datastore));
    world.edit_datastore(datastore, |row| row.permissions = octal(0o740));
    let refusal = world.refusal(|cloud| import(cloud, IMAGES));
    assert!(refusal.to_string().contains("type BACKUP"), "{refusal}");
    assert_eq!(api::datastore::import_backups(&world.cloud, &world.alice, datastore).unwrap(), datastore);
    let jobs = world.open_jobs();
    assert_eq!((jobs[0].kind.as_str(), jobs[0].datastore_id), ("IMPORT_BACKUPS", Some(datastore)));
    let sentence = format!("Datastore {datastore}: its backups are being imported already; wait.");
    world.refuses(2048, &sentence, |cloud| import(cloud, datastore));
    world.refusal(|cloud| api::datastore::delete(cloud, &world.admin, datastore));
    let document = valid(api::datastore::info(&world.cloud, &world.admin, datastore, false).unwrap());
    assert!(document.contains("IMPORTING_BACKUPS"), "{document}");
    world.end_jobs();
    let document = valid(api::datastore::info(&world.cloud, &world.admin, datastore, false).unwrap());
    assert!(!document.contains("IMPORTING_BACKUPS"), "{document}");
}
