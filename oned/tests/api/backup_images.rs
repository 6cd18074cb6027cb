//! Backup images: what nobody does with them, and when they may be deleted.

use one_core::lifecycle::ImageState;
use one_core::refusal::Refusal;
use oned::api::{self, Cloud, image_verbs};
use oned::job::SnapshotStep;
use oned::quota;
use oned::store::rows::ImageRow;

use crate::world::{SIZE, World, octal};

fn world(config: &str) -> (World, i64, i64) {
    let world = World::new();
    let datastore = world.add_backup_datastore("backups");
    let vm = world.add_running_vm(&format!("BACKUP_CONFIG=[{config}]"));
    (world, vm, datastore)
}

type Verb<'a> = Box<dyn Fn(&Cloud) -> Result<i64, Refusal> + 'a>;

#[test]
fn what_makes_no_sense_for_a_backup_is_refused_to_everybody() {
    let (world, vm, datastore) = world("MODE=INCREMENT");
    let backup = world.add_backup(vm, datastore, 2, true);
    for caller in [&world.alice, &world.admin] {
        let disk = format!("{SIZE}DISK=[IMAGE_ID={backup}]\n");
        let attached = format!("DISK=[IMAGE_ID={backup}]");
        let mut verbs: Vec<(&str, i32, &str, Verb<'_>)> = vec![
            ("clone", 2048, "a backup image", Box::new(|c| image_verbs::clone(c, caller, backup, "a", -1))),
            ("chtype", 2048, "a backup image", Box::new(|c| image_verbs::change_type(c, caller, backup, "OS"))),
            ("enable", 2048, "a backup image", Box::new(|c| image_verbs::enable(c, caller, backup, true))),
            ("disable", 2048, "a backup image", Box::new(|c| image_verbs::enable(c, caller, backup, false))),
            ("persistent", 2048, "a backup image", Box::new(|c| image_verbs::persistent(c, caller, backup, true))),
            ("nonpersistent", 2048, "a backup image", Box::new(|c| image_verbs::persistent(c, caller, backup, false))),
            ("a disk", 16384, "backup", Box::new(|c| api::vm::allocate(c, caller, &disk, true))),
            ("attach", 2048, "backup", Box::new(|c| api::vm_disks::attach(c, caller, vm, &attached))),
        ];
        for step in [SnapshotStep::Delete, SnapshotStep::Revert, SnapshotStep::Flatten] {
            let verb: Verb<'_> = Box::new(move |c| image_verbs::snapshot(c, caller, backup, 0, step));
            verbs.push(("snapshot", 2048, "a backup image", verb));
        }
        for (name, code, part, verb) in verbs {
            let refusal = world.refusal(|cloud| verb(cloud));
            assert!(
                refusal.code() == code && refusal.to_string().contains(part),
                "{name}: {} {refusal}",
                refusal.code()
            );
        }
    }
    // What every image can.
    api::owned::lock::<ImageRow>(&world.cloud, &world.alice, backup, 1, true).unwrap();
    api::owned::unlock::<ImageRow>(&world.cloud, &world.alice, backup).unwrap();
    api::owned::rename::<ImageRow>(&world.cloud, &world.alice, backup, "kept").unwrap();
    api::image::update(&world.cloud, &world.alice, backup, "NOTE=a\n", 1).unwrap();
}

const ACTIVE: &str = "Active backup on the associated VM. Wait till it finish to delete the backup Image";

#[test]
fn no_backup_of_a_vm_goes_while_another_one_is_made() {
    for (mode, beside) in [("INCREMENT", false), ("FULL", true)] {
        let (world, vm, datastore) = world(&format!("MODE={mode}"));
        let backup = world.add_backup(vm, datastore, 1, mode == "INCREMENT");
        api::backup::backup(&world.cloud, &world.admin, vm, datastore, false).unwrap();
        let delete = |cloud: &Cloud, force| api::image::delete(cloud, &world.admin, backup, force);
        for force in [false, true] {
            world.refuses(8192, ACTIVE, |cloud| delete(cloud, force));
        }
        // Where the datastore can do both, and the new one does not need the old.
        world.edit_datastore(datastore, |row| row.template += "CONCURRENT_FORGET=\"YES\"\n");
        if beside {
            delete(&world.cloud, false).unwrap();
        } else {
            world.refuses(8192, ACTIVE, |cloud| delete(cloud, false));
            world.end_backup(vm);
            delete(&world.cloud, false).unwrap();
        }
        assert_eq!(world.image_row(backup).state, ImageState::Delete.number());
    }
}

#[test]
fn a_backup_that_is_recorded_or_taken_back_holds_no_image_any_more() {
    for (phase, holds) in [
        ("planned", true),
        ("copied", true),
        ("sealed", true),
        ("undoing", false),
        ("recorded", false),
        ("cleaned", false),
    ] {
        let (world, vm, datastore) = world("MODE=INCREMENT");
        let backup = world.add_backup(vm, datastore, 1, true);
        api::backup::backup(&world.cloud, &world.admin, vm, datastore, false).unwrap();
        let (job, _) = world.backup_plan();
        world.write(|tx| {
            if !holds {
                quota::release_backup(tx, job.id)?;
            }
            tx.job_advance(job.id, &job.phase, phase, world.clock_now(), "")
        });
        let delete = |cloud: &Cloud| api::image::delete(cloud, &world.alice, backup, false);
        if holds {
            world.refuses(8192, ACTIVE, delete);
        } else {
            delete(&world.cloud).unwrap();
        }
    }
}

#[test]
fn the_chain_that_is_deleted_is_not_continued_and_others_are() {
    let (world, vm, datastore) = world("MODE=INCREMENT");
    let old = world.add_backup(vm, datastore, 2, true);
    let active = world.add_backup(vm, datastore, 3, true);
    api::image::delete(&world.cloud, &world.alice, old, false).unwrap();
    assert_eq!(world.config(vm).chain(), Some((active, 2)));
    api::image::delete(&world.cloud, &world.alice, active, false).unwrap();
    let config = world.config(vm);
    assert_eq!((config.incremental_backup_id, config.last_increment_id), (-1, -1));
    world.end_jobs();
    api::backup::backup(&world.cloud, &world.admin, vm, datastore, false).unwrap();
    let (_, plan) = world.backup_plan();
    let reason = serde_json::to_value(&plan.decision.kind).unwrap();
    assert_eq!(reason["Full"]["new_chain"], true, "{reason}");
}

#[test]
fn a_locked_image_needs_force_and_the_right_to_administer_it() {
    let (world, vm, datastore) = world("MODE=INCREMENT");
    let backup = world.add_backup(vm, datastore, 1, true);
    let locked = |state: ImageState| world.edit_image(backup, |row| row.state = state.number());
    let delete = |caller, force| api::image::delete(&world.cloud, caller, backup, force);
    locked(ImageState::Locked);
    let sentence = "Image locked, use --force flag to remove the image. Force delete may leave some files on Datastore";
    for caller in [&world.alice, &world.admin] {
        world.refuses(8192, sentence, |_| delete(caller, false));
    }
    let sentence = format!("User [2] : Not authorized to perform ADMIN IMAGE [{backup}].");
    world.refuses(512, &sentence, |_| delete(&world.alice, true));
    world.edit_image(backup, |row| row.permissions = octal(0o700));
    delete(&world.alice, true).unwrap();
    world.end_jobs();
    // One that could not be removed is deleted again like any other.
    locked(ImageState::Error);
    world.edit_image(backup, |row| row.permissions = octal(0o600));
    delete(&world.alice, false).unwrap();
    world.refuses(8192, "Cannot delete image in state DELETE", |_| delete(&world.alice, false));
    // Whoever may only use it does not learn more.
    locked(ImageState::Ready);
    world.end_jobs();
    world.edit_image(backup, |row| row.permissions = octal(0o644));
    let sentence = format!("User [{}] : Not authorized to perform MANAGE IMAGE [{backup}].", world.bob.uid);
    world.refuses(512, &sentence, |_| delete(&world.bob, true));
}
