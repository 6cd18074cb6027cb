//! What can be done with images and templates beside registering and deleting them.

use one_core::lifecycle::ImageState;
use one_core::template::Template;
use oned::api::{self, image_verbs, template};
use oned::job::{self, ClonePlan, ImportPlan, SnapshotStep};

use crate::world::{IMAGES, SIZE, World, octal};

fn allocate(world: &World, text: &str) -> i64 {
    api::image::allocate(&world.cloud, &world.alice, text, IMAGES).unwrap()
}

#[test]
fn a_datablock_needs_no_file_but_a_size() {
    let world = World::new();
    let id = allocate(&world, "\nNAME = \"test-image\"\nSIZE = 1\nTYPE = \"DATABLOCK\"\n");
    let row = world.image_row(id);
    assert_eq!((row.kind, row.state, row.size_mb, row.format.as_str()), (2, 4, 1, "qcow2"));
    let jobs = world.open_jobs();
    let plan: ImportPlan = job::plan(&jobs[0]).unwrap();
    assert_eq!((plan.source, plan.size_mb, plan.format), (None, Some(1), None));
    world.image_document(&world.alice, id);
    for (text, part) in [
        ("NAME=a\nTYPE=DATABLOCK\n", "No PATH"),
        ("NAME=a\nTYPE=OS\nSIZE=5\n", "No PATH"),
        ("NAME=a\nTYPE=DATABLOCK\nSIZE=0\n", "SIZE must be"),
        ("NAME=a\nTYPE=DATABLOCK\nSIZE=99999999999999\n", "SIZE must be"),
        ("NAME=a\nTYPE=DATABLOCK\nSIZE=5\nFS=ext4\n", "leave FS out"),
        ("NAME=a\nTYPE=DATABLOCK\nSIZE=5\nFORMAT=vmdk\n", "is not known"),
    ] {
        let refusal = world.refusal(|cloud| api::image::allocate(cloud, &world.alice, text, IMAGES));
        assert!(refusal.code() == 16384 && refusal.to_string().contains(part), "{text}: {} {refusal}", refusal.code());
    }
}

#[test]
fn a_copy_shows_on_both_images_until_it_is_made() {
    let world = World::new();
    let source = world.add_image("source");
    let copy = image_verbs::clone(&world.cloud, &world.bob, source, "copy", -1).unwrap();
    let (from, to) = (world.image_row(source), world.image_row(copy));
    assert_eq!((from.state, to.state, to.uid, to.persistent), (6, 4, world.bob.uid, 0));
    let document = world.image_document(&world.alice, source);
    assert!(document.contains("<CLONING_OPS>1</CLONING_OPS>"), "{document}");
    assert!(document.contains(&format!("<CLONES><ID>{copy}</ID></CLONES>")), "{document}");
    assert!(world.image_document(&world.bob, copy).contains(&format!("<CLONING_ID>{source}</CLONING_ID>")));
    let plan: ClonePlan = job::plan(&world.open_jobs()[0]).unwrap();
    assert_eq!((plan.source_id, plan.target.to_string_lossy().into_owned()), (source, to.source));
    world.refuses(8192, "Cannot delete image in state CLONE", |cloud| {
        api::image::delete(cloud, &world.alice, source, false)
    });
    // A second copy joins the first.
    image_verbs::clone(&world.cloud, &world.alice, source, "copy", -1).unwrap();
    assert!(world.image_document(&world.alice, source).contains("<CLONING_OPS>2</CLONING_OPS>"));
}

#[test]
fn what_cannot_be_copied_is_refused() {
    let world = World::new();
    let source = world.add_image("source");
    let datastore = world.add_backup_datastore("backups");
    let vm = world.add_running_vm("");
    let backup = world.add_backup(vm, datastore, 1, false);
    let clone = |id: i64, name: &'static str, datastore: i64| {
        image_verbs::clone(&world.cloud, &world.alice, id, name, datastore)
    };
    world.refuses(2048, "Cannot clone a backup image; restore it instead.", |_| clone(backup, "a", -1));
    world.refuses(2048, "Destination can be only an image datastore", |_| clone(source, "a", datastore));
    world.refuses(1024, "Error getting datastore [77].", |_| clone(source, "a", 77));
    let sentence = format!("Error allocating a new image. NAME is already taken by IMAGE {source}.");
    world.refuses(16384, &sentence, |_| clone(source, "source", -1));
    for state in [ImageState::Locked, ImageState::Error, ImageState::Disabled, ImageState::UsedPers] {
        world.edit_image(source, |row| row.state = state.number());
        let sentence = format!("Cannot clone image in state {}", state.name());
        world.refuses(8192, &sentence, |_| clone(source, "a", -1));
    }
}

#[test]
fn a_disabled_image_is_no_disk_until_it_is_enabled() {
    let world = World::new();
    let image = world.add_image("a");
    let enable = |wanted| image_verbs::enable(&world.cloud, &world.alice, image, wanted).unwrap();
    enable(false);
    assert_eq!(world.image_row(image).state, ImageState::Disabled.number());
    enable(false);
    let disk = format!("{SIZE}DISK=[IMAGE_ID={image}]\n");
    let refusal = world.refusal(|cloud| api::vm::allocate(cloud, &world.alice, &disk, false));
    assert!(refusal.to_string().contains("DISABLED"), "{refusal}");
    enable(true);
    assert_eq!(world.image_row(image).state, ImageState::Ready.number());
    enable(true);
    for state in [ImageState::Used, ImageState::Error, ImageState::Delete, ImageState::Clone] {
        world.edit_image(image, |row| row.state = state.number());
        for (wanted, action) in [(true, "enable"), (false, "disable")] {
            let sentence = format!("Cannot {action} image in state {}", state.name());
            world.refuses(8192, &sentence, |cloud| image_verbs::enable(cloud, &world.alice, image, wanted));
        }
    }
}

#[test]
fn an_image_on_its_way_in_can_be_changed_already() {
    let world = World::new();
    let id = allocate(&world, "NAME=a\nSIZE=1\nTYPE=DATABLOCK\n");
    image_verbs::persistent(&world.cloud, &world.alice, id, true).unwrap();
    image_verbs::change_type(&world.cloud, &world.alice, id, "cdrom").unwrap();
    let row = world.image_row(id);
    assert_eq!((row.persistent, row.kind, row.disk_type, row.state), (1, 1, 1, 4));
    image_verbs::enable(&world.cloud, &world.alice, id, false).unwrap();
    image_verbs::enable(&world.cloud, &world.alice, id, true).unwrap();
    assert_eq!(world.image_row(id).state, ImageState::Locked.number(), "its data is not there yet");
}

#[test]
fn types_and_persistence_are_not_changed_under_a_vm_nor_to_or_from_a_backup() {
    let world = World::new();
    let datastore = world.add_backup_datastore("backups");
    let vm = world.add_running_vm("");
    let backup = world.add_backup(vm, datastore, 1, false);
    let change = |id: i64, word: &'static str| image_verbs::change_type(&world.cloud, &world.alice, id, word);
    world.refuses(8192, "Cannot change the type of image in state USED", |_| change(0, "CDROM"));
    world.refuses(8192, "Cannot change image in state USED", |cloud| {
        image_verbs::persistent(cloud, &world.alice, 0, true)
    });
    world.refuses(2048, "Cannot change the type of a backup image.", |_| change(backup, "OS"));
    let free = world.add_image("free");
    let sentence = "TYPE \"BACKUP\" is not known; use OS, DATABLOCK or CDROM.";
    world.refuses(2048, sentence, |_| change(free, "BACKUP"));
    for verb in ["enable", "disable"] {
        let sentence = format!("Cannot {verb} a backup image.");
        world.refuses(2048, &sentence, |cloud| image_verbs::enable(cloud, &world.alice, backup, verb == "enable"));
    }
}

#[test]
fn a_snapshot_that_an_image_does_not_have_does_not_exist() {
    let world = World::new();
    let image = world.add_image("plain");
    for step in [SnapshotStep::Delete, SnapshotStep::Revert, SnapshotStep::Flatten] {
        world.refuses(2048, "Snapshot does not exist: -1", |cloud| {
            image_verbs::snapshot(cloud, &world.alice, image, -1, step)
        });
    }
    let sentence = "Can only restore images of type BACKUP";
    world.refuses(2048, sentence, |cloud| api::restore::restore(cloud, &world.alice, image, IMAGES, ""));
}

fn with_disk(world: &World, name: &str) -> (i64, i64) {
    let image = world.add_image(&format!("{name}-image"));
    (world.allocate_template(&format!("NAME={name}\n{SIZE}DISK=[IMAGE={name}-image]\n")), image)
}

#[test]
fn a_template_is_copied_alone_or_with_its_images() {
    let world = World::new();
    let (id, image) = with_disk(&world, "web");
    let alone = template::clone(&world.cloud, &world.alice, id, "alone", false).unwrap();
    let read = |id: i64| Template::parse(&world.read(|tx| tx.template(id)).template).unwrap();
    assert_eq!(read(alone), read(id));
    let whole = template::clone(&world.cloud, &world.alice, id, "whole", true).unwrap();
    let copy = read(whole).vector("DISK").unwrap().int("IMAGE_ID").unwrap();
    assert_eq!((world.image_row(copy).name.as_str(), world.image_row(image).state), ("whole-disk-0", 6));
    let sentence =
        format!("Error allocating a new virtual machine template. NAME is already taken by TEMPLATE {whole}.");
    world.refuses(16384, &sentence, |cloud| template::clone(cloud, &world.alice, id, "whole", false));
}

#[test]
fn a_template_is_deleted_with_its_images_or_not_at_all() {
    let world = World::new();
    let (used, image) = with_disk(&world, "used");
    world.instantiate(&world.alice, used, "").unwrap();
    world.refuses(8192, "Cannot delete image in state USED", |cloud| template::delete(cloud, &world.alice, used, true));
    let (free, other) = with_disk(&world, "free");
    template::delete(&world.cloud, &world.alice, free, true).unwrap();
    assert_eq!(world.image_row(other).state, ImageState::Delete.number());
    assert!(world.read(|tx| tx.template_find(free)).is_none());
    // An image that is gone already is no obstacle.
    let (orphan, _) = with_disk(&world, "orphan");
    world.edit_image(world.read(|tx| tx.image_list()).last().unwrap().id, |row| row.name = "another".into());
    template::delete(&world.cloud, &world.alice, orphan, true).unwrap();
    assert_eq!(world.image_row(image).state, ImageState::Used.number());
}

#[test]
fn permissions_of_a_template_reach_its_images_when_asked() {
    let world = World::new();
    let (id, image) = with_disk(&world, "web");
    let bits = [-1, -1, -1, 1, 1, -1, -1, -1, -1];
    template::chmod(&world.cloud, &world.alice, id, &bits, false).unwrap();
    assert_eq!(world.image_row(image).permissions, octal(0o640));
    template::chmod(&world.cloud, &world.alice, id, &bits, true).unwrap();
    assert_eq!(world.image_row(image).permissions, octal(0o660));
}

#[test]
fn an_extended_template_shows_what_its_disks_would_be() {
    let world = World::new();
    let (id, image) = with_disk(&world, "web");
    world.edit_template(id, |row| row.permissions = octal(0o644));
    let show = |caller| crate::world::valid(template::info(&world.cloud, caller, id, true).unwrap());
    let document = show(&world.alice);
    for part in [format!("<IMAGE_ID><![CDATA[{image}]]>"), "<SIZE><![CDATA[256]]>".into()] {
        assert!(document.contains(&part), "{part} is not in {document}");
    }
    assert!(!show(&world.mallory).contains("<SOURCE>"), "of images that one may not use nothing is told");
}
