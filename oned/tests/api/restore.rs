//! `one.image.restore`: names, ids, the new images and the new template, and that a refusal leaves nothing behind.

use one_core::lifecycle::{ImageState, VmEvent, VmPhase};
use one_core::template::Template;
use oned::api::{self, Cloud};
use oned::job::{self, RestorePlan};
use oned::store::rows::IncrementRow;

use crate::world::{IMAGES, World, golden, octal, point};

/// Alice's VM with two disks, a swap disk and a network card, and a chain of two restore points of it.
fn world() -> (World, i64) {
    let world = World::new();
    world.add_network("lan");
    let datastore = world.add_backup_datastore("backups");
    let data = world.add_image("data");
    let more = format!(
        "DISK=[IMAGE_ID={data},DEV_PREFIX=sd]\nDISK=[TYPE=swap,SIZE=64]\n\
         NIC=[NETWORK=lan,IP=\"10.0.0.7\",MODEL=virtio]\nOS=[ARCH=x86_64,MACHINE=q35]\nGRAPHICS=[TYPE=vnc,PORT=5901]\n\
         CONTEXT=[TOKEN=yes,ETH0_IP=\"10.0.0.7\"]\nNOTE=\"says \\\"hello\\\"\"\nLABELS=web\n\
         BACKUP_CONFIG=[MODE=INCREMENT,KEEP_LAST=7]\nSCHED_ACTION=[ACTION=backup,ARGS=\"100\",TIME=\"+60\"]\n\
         SCHED_ACTION=[ACTION=backup,ARGS=\"100,1\",CRON=\"0 2 * * 0\",TIMEZONE=\"Europe/Madrid\",KEEP_LAST=4]"
    );
    let vm = world.add_running_vm(&more);
    let backup = world.add_backup(vm, datastore, 2, true);
    (world, backup)
}

fn restore(world: &World, backup: i64, options: &str) -> String {
    api::restore::restore(&world.cloud, &world.alice, backup, IMAGES, options).unwrap()
}

fn short(backup: i64, number: i64) -> String {
    point(backup, number).chars().take(8).collect()
}

fn ids(answer: &str) -> Vec<i64> {
    answer.split(' ').map(|id| id.parse().unwrap()).collect()
}

#[test]
fn a_restore_makes_a_template_and_an_image_per_disk_named_after_vm_and_point() {
    let (world, backup) = world();
    let answer = restore(&world, backup, "");
    assert_eq!(answer, format!("0 {} {}", backup + 1, backup + 2));
    let base = format!("0-{}", short(backup, 1));
    let template = world.read(|tx| tx.template(0));
    assert_eq!((template.name.as_str(), template.uid, template.gid), (base.as_str(), 2, 100));
    golden("restored-template.txt", &format!("{}\n", template.template));
    world.template_document(&world.alice, 0);

    let chain = format!("0:{},1:{}", short(backup, 0), short(backup, 1));
    for (number, kind, size, prefix) in [(0_i64, 0, 256, "vd"), (1, 2, 256, "sd")] {
        let image = world.image_row(backup + 1 + number);
        assert_eq!(image.name, format!("{base}-disk-{number}"));
        assert_eq!((image.uid, image.gid, image.kind, image.persistent), (2, 100, kind, 0));
        assert_eq!(image.permissions, octal(0o600));
        assert_eq!((image.state, image.datastore_id), (ImageState::Locked.number(), IMAGES));
        assert_eq!((image.size_mb, image.format.as_str()), (size, "qcow2"));
        assert_eq!(image.path, format!("restic://100//{chain}//one/disk.{number}"));
        let stored = Template::parse(&image.template).unwrap();
        assert_eq!(stored.scalar("FROM_BACKUP_DS"), Some("100"));
        assert_eq!(stored.scalar("DEV_PREFIX"), Some(prefix));
        world.image_document(&world.alice, image.id);
    }
}

#[test]
fn each_new_image_is_filled_by_a_job_of_its_own() {
    let (world, backup) = world();
    let made = ids(&restore(&world, backup, ""));
    let jobs = world.open_jobs();
    assert_eq!(jobs.len(), 2);
    for (number, job) in (0_u32..).zip(&jobs) {
        let image = world.image_row(made[1 + number as usize]);
        assert_eq!((job.kind.as_str(), job.phase.as_str(), job.uid), ("RESTORE", "planned", 2));
        assert_eq!((job.image_id, job.datastore_id, job.vm_id), (Some(image.id), Some(IMAGES), None));
        let plan: RestorePlan = job::plan(job).unwrap();
        let wanted = RestorePlan {
            datastore_id: 100,
            series: "0".into(),
            point: point(backup, 1),
            disk: number,
            target: image.source.clone().into(),
            skip_bad: false,
        };
        assert_eq!(plan, wanted);
        assert_eq!(serde_json::to_string(&plan).unwrap(), job.plan);
    }
}

#[test]
fn the_restored_template_makes_a_vm_once_its_images_are_there() {
    let (world, backup) = world();
    let made = ids(&restore(&world, backup, "NAME=back\nNO_IP=YES\n"));
    let refusal = world.refusal(|_| world.instantiate(&world.alice, made[0], ""));
    assert_eq!(refusal.code(), 16384);
    assert!(refusal.to_string().contains("LOCKED"), "{refusal}");
    for image in &made[1..] {
        world.edit_image(*image, |row| row.state = ImageState::Ready.number());
    }
    let vm = world.instantiate(&world.alice, made[0], "").unwrap();
    let row = world.vm_row(vm);
    assert_eq!(row.name, format!("back-{vm}"));
    let template = Template::parse(&row.template).unwrap();
    let disks: Vec<_> = template.vectors("DISK").map(|disk| disk.get("IMAGE_ID").unwrap_or("-").to_owned()).collect();
    assert_eq!(disks, [made[1].to_string(), made[2].to_string(), "-".into()]);
    let nic = template.vector("NIC").unwrap();
    assert_eq!((nic.get("NETWORK"), nic.get("IP")), (Some("lan"), Some("10.0.0.1")), "a new address, not the old one");
    // It is backed up as the old one was, by the same schedule with ids of its own, but not into the old chain.
    let shown: Vec<_> =
        world.actions(vm).iter().map(|action| (action.id.0, action.args.clone(), action.keep_last)).collect();
    assert_eq!(shown, [(2, "100".to_owned(), None), (3, "100,1".to_owned(), Some(4))]);
    let document = world.vm_document(&world.alice, vm);
    let info = "<SCHED_INFO><CRON><![CDATA[0 2 * * 0]]></CRON><ID><![CDATA[3]]></ID><KEEP_LAST><![CDATA[4]]></KEEP_LAST>\
                <TIMEZONE><![CDATA[Europe/Madrid]]></TIMEZONE></SCHED_INFO>";
    assert!(document.contains(info), "{document}");
    let config = world.config(vm);
    assert_eq!((config.mode.as_str(), config.keep_last, config.chain()), ("INCREMENT", Some(7), None));
    world.vm_document(&world.alice, vm);
}

#[test]
fn a_schedule_that_its_new_owner_could_not_add_is_left_out_and_named() {
    let (world, backup) = world();
    world.add_backup_datastore("elsewhere");
    let point = world.read(|tx| tx.increments(backup)).pop().unwrap();
    let document = point.document.replace("[100]", "[101]").replace("[100,1]", "[900,1]");
    assert_ne!(document, point.document);
    world.write(|tx| tx.increment_update(&IncrementRow { document, ..point }));
    world.edit_datastore(101, |row| (row.uid, row.gid) = (0, 0));
    let made = ids(&restore(&world, backup, ""));
    let template = Template::parse(&world.read(|tx| tx.template(made[0])).template).unwrap();
    assert!(!template.contains("SCHED_ACTION"));
    assert_eq!(
        template.scalar("SCHEDULES_LEFT_OUT"),
        Some(
            "backup: User [2] : Not authorized to perform USE DATASTORE [101].; backup: Error getting datastore [900]."
        )
    );
}

#[test]
fn increment_0_is_a_choice_and_not_the_lack_of_one() {
    let (world, backup) = world();
    let made = ids(&restore(&world, backup, "INCREMENT_ID=0\n"));
    let base = format!("0-{}", short(backup, 0));
    assert_eq!(world.read(|tx| tx.template(made[0])).name, base);
    let image = world.image_row(made[1]);
    assert_eq!(image.name, format!("{base}-disk-0"));
    assert_eq!(image.path, format!("restic://100//0:{}//one/disk.0", short(backup, 0)));
    let plan: RestorePlan = job::plan(&world.open_jobs()[0]).unwrap();
    assert_eq!(plan.point, point(backup, 0));
}

#[test]
fn one_disk_alone_gives_no_template() {
    let (world, backup) = world();
    assert_eq!(restore(&world, backup, "DISK_ID=1\nNAME=back\n"), format!("-1 {}", backup + 1));
    assert_eq!(world.image_row(backup + 1).name, "back-disk-1");
    assert_eq!(world.read(|tx| tx.template_list()).len(), 0);
    assert_eq!(world.open_jobs().len(), 1);
}

#[test]
fn an_unknown_increment_or_disk_is_refused_with_those_there_are() {
    let (world, backup) = world();
    for (options, sentence) in [
        ("INCREMENT_ID=2", "Wrong increment; this backup holds: 0, 1"),
        ("INCREMENT_ID=x", "Wrong increment, INCREMENT_ID has to be a number from 0"),
        ("DISK_ID=2", "VM disk does not exist: 2 is not in this backup, which holds: 0, 1"),
        ("DISK_ID=-2", "VM disk does not exist, DISK_ID has to be a number from 0"),
    ] {
        world.refuses(2048, sentence, |cloud| {
            api::restore::restore(cloud, &world.alice, backup, IMAGES, &format!("{options}\n"))
        });
    }
}

#[test]
fn a_taken_name_leaves_nothing_of_a_restore() {
    let (world, backup) = world();
    let again = |cloud: &Cloud| api::restore::restore(cloud, &world.alice, backup, IMAGES, "NAME=back\n");
    // The template's name is looked at last, when both images are made.
    world.allocate_template("NAME=back\nCPU=1\nMEMORY=1\n");
    let sentence = "Error allocating a new virtual machine template. NAME is already taken by TEMPLATE 0.";
    world.refuses(16384, sentence, again);
    api::template::delete(&world.cloud, &world.alice, 0, false).unwrap();
    // The second image's name.
    let image = world.add_image("back-disk-1");
    let sentence = format!("Error allocating a new image. NAME is already taken by IMAGE {image}.");
    world.refuses(16384, &sentence, again);
    // Names are a user's own: another's do not collide.
    world.edit_image(image, |row| row.uid = world.bob.uid);
    again(&world.cloud).unwrap();
    let refusal = world.refusal(again);
    assert_eq!(refusal.code(), 16384);
}

#[test]
fn a_bad_name_is_refused() {
    let (world, backup) = world();
    let refusal = world.refusal(|cloud| api::restore::restore(cloud, &world.alice, backup, IMAGES, "NAME=\"a/b\"\n"));
    assert_eq!(refusal.code(), 2048);
    assert!(refusal.to_string().starts_with("Invalid NAME"), "{refusal}");
}

#[test]
fn a_foreign_backup_or_datastore_is_refused_before_anything_else_is_said() {
    let (world, backup) = world();
    for caller in [&world.mallory, &world.bob] {
        let sentence = format!("User [{}] : Not authorized to perform USE IMAGE [{backup}].", caller.uid);
        for (target, options) in [(IMAGES, ""), (IMAGES, "DISK_ID=99\n"), (999, "INCREMENT_ID=99\n"), (100, "")] {
            world.refuses(512, &sentence, |cloud| api::restore::restore(cloud, caller, backup, target, options));
        }
    }
    world.edit_datastore(IMAGES, |row| row.permissions = octal(0o600));
    let sentence = format!("User [2] : Not authorized to perform USE DATASTORE [{IMAGES}].");
    world.refuses(512, &sentence, |cloud| api::restore::restore(cloud, &world.alice, backup, IMAGES, ""));
}

#[test]
fn only_backups_are_restored_and_only_into_image_datastores() {
    let (world, backup) = world();
    let restore = |image: i64, target: i64| {
        let admin = world.admin.clone();
        move |cloud: &Cloud| api::restore::restore(cloud, &admin, image, target, "")
    };
    world.refuses(1024, "Error getting image [77].", restore(77, IMAGES));
    world.refuses(1024, "Error getting datastore [77].", restore(backup, 77));
    world.refuses(2048, "Can only restore images of type BACKUP", restore(0, IMAGES));
    for target in [0, 2, 100] {
        world.refuses(2048, "Destination can be only an image datastore", restore(backup, target));
    }
    world.edit_image(backup, |row| row.state = ImageState::Locked.number());
    let refusal = world.refusal(restore(backup, IMAGES));
    assert_eq!(refusal.code(), 2048);
}

#[test]
fn a_group_that_may_use_the_backup_restores_it_for_itself() {
    let (world, backup) = world();
    world.edit_image(backup, |row| row.permissions = octal(0o640));
    let answer = api::restore::restore(&world.cloud, &world.bob, backup, IMAGES, "").unwrap();
    let made = ids(&answer);
    assert_eq!(world.read(|tx| tx.template(made[0])).uid, world.bob.uid);
    assert_eq!(world.image_row(made[1]).uid, world.bob.uid);
}

#[test]
fn a_description_that_cannot_be_read_is_refused_and_names_the_backup() {
    let (world, backup) = world();
    let row = world.read(|tx| tx.increments(backup)).remove(1);
    world.write(|tx| tx.increment_update(&IncrementRow { document: "<HOST/>".into(), ..row }));
    let refusal = world.refusal(|cloud| api::restore::restore(cloud, &world.alice, backup, IMAGES, ""));
    assert_eq!(refusal.code(), 8192);
    assert!(refusal.to_string().contains(&format!("backup image {backup} ")), "{refusal}");
}

#[test]
fn a_backup_outlives_its_vm() {
    let (world, backup) = world();
    api::vm::action(&world.cloud, &world.alice, "terminate-hard", 0).unwrap();
    world.end_jobs();
    world.step(0, VmEvent::Stopped);
    world.step(0, VmEvent::EpilogDone);
    assert_eq!(world.phase(0), VmPhase::DONE);
    let answer = restore(&world, backup, "");
    assert_eq!(ids(&answer).len(), 3);
    world.image_document(&world.alice, backup);
}
