//! Renaming: what has a name of its owner's or of the whole cloud, and what happens when it is taken.

use one_core::refusal::Refusal;
use oned::api::{self, Cloud};

use crate::world::{TEAM, World};
use oned::api::owned::rename;
use oned::store::rows::{DatastoreRow, ImageRow, TemplateRow, VmRow};

type Rename = fn(&Cloud, &one_core::access::Caller, i64, &str) -> Result<i64, Refusal>;

/// Each call with the kind in its sentences and two objects of that kind, called "one" and "two".
fn furnished() -> (World, Vec<(&'static str, Rename, i64, i64)>) {
    let world = World::new();
    let datastores = (world.add_backup_datastore("one"), world.add_backup_datastore("two"));
    let images = (world.add_image("one"), world.add_image("two"));
    let templates = ("one", "two");
    let template = |name: &str| world.allocate_template(&format!("NAME={name}\nCPU=1\nMEMORY=1\n"));
    let templates = (template(templates.0), template(templates.1));
    let hosts = (world.add_host("one"), world.add_host("two"));
    let calls: Vec<(&str, Rename, i64, i64)> = vec![
        ("datastore", rename::<DatastoreRow>, datastores.0, datastores.1),
        ("image", rename::<ImageRow>, images.0, images.1),
        ("virtual machine template", rename::<TemplateRow>, templates.0, templates.1),
        ("host", api::host::rename, hosts.0, hosts.1),
    ];
    (world, calls)
}

#[test]
fn a_taken_name_is_refused_and_the_present_one_is_no_change() {
    let (world, calls) = furnished();
    for (kind, rename, first, second) in calls {
        let sentence = format!("{kind} cannot be renamed to two because it collides with {kind} {second}");
        let refusal = world.refuses(2048, &sentence, |cloud| rename(cloud, &world.admin, first, "two"));
        assert_eq!(refusal.object_id(), second);
        assert_eq!(rename(&world.cloud, &world.admin, first, "one").unwrap(), first, "{kind}");
        rename(&world.cloud, &world.admin, second, "three").unwrap();
        rename(&world.cloud, &world.admin, first, "two").unwrap();
    }
}

#[test]
fn a_name_that_breaks_the_rules_and_an_unknown_object_are_refused() {
    let (world, calls) = furnished();
    for (kind, rename, first, _) in calls {
        for name in ["", "a/b", "a\nb", "<b>", "$HOME", &"x".repeat(129)] {
            let refusal = world.refusal(|cloud| rename(cloud, &world.admin, first, name));
            assert!(refusal.code() == 2048 && refusal.to_string().starts_with("Invalid NAME"), "{name}: {refusal}");
        }
        let sentence = format!("Error getting {kind} [77].");
        world.refuses(1024, &sentence, |cloud| rename(cloud, &world.admin, 77, "three"));
        // Whose object it is is said before what is wrong with the name.
        for name in ["two", "a/b", "three"] {
            let refusal = world.refusal(|cloud| rename(cloud, &world.mallory, first, name));
            assert_eq!(refusal.code(), 512, "{kind} {name}: {refusal}");
        }
        rename(&world.cloud, &world.admin, first, &"\u{fc}".repeat(128)).unwrap();
    }
}

#[test]
fn names_of_images_and_templates_are_their_owners_and_those_of_vms_are_free() {
    let (world, _) = furnished();
    let image = api::image::allocate(&world.cloud, &world.bob, "NAME=one\nPATH=\"/var/tmp/a\"\n", 1).unwrap();
    let template = api::template::allocate(&world.cloud, &world.bob, "NAME=one\nCPU=1\nMEMORY=1\n").unwrap();
    assert_eq!(world.image_row(image).gid, TEAM);
    rename::<ImageRow>(&world.cloud, &world.bob, image, "two").unwrap();
    rename::<TemplateRow>(&world.cloud, &world.bob, template, "two").unwrap();
    let (first, second) = (world.add_running_vm(""), world.add_running_vm(""));
    for vm in [first, second] {
        rename::<VmRow>(&world.cloud, &world.alice, vm, "same").unwrap();
        assert!(world.vm_document(&world.alice, vm).contains("<NAME><![CDATA[same]]></NAME>"));
    }
    let refusal = world.refusal(|cloud| rename::<VmRow>(cloud, &world.alice, first, ""));
    assert_eq!(refusal.code(), 2048);
}
