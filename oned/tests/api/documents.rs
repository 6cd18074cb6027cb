//! Documents of clients: kept as they came, by type.

use oned::api::{document, owned};
use oned::store::rows::DocumentRow;

use crate::world::{World, valid};

fn stored(world: &World, name: &str, kind: i64) -> i64 {
    let text = format!("NAME=\"{name}\"\nTEMPLATE=\"{{}}\"\nROLES=[NAME=web]\n");
    document::allocate(&world.cloud, &world.alice, &text, kind).unwrap()
}

fn ids(world: &World, caller: &one_core::access::Caller, filter: (i64, i64, i64), kind: i64) -> Vec<i64> {
    let text = valid(document::pool(&world.cloud, caller, filter, kind).unwrap());
    text.split("<DOCUMENT><ID>").skip(1).map(|rest| rest[..rest.find('<').unwrap()].parse().unwrap()).collect()
}

#[test]
fn a_document_shows_what_was_stored_and_its_pool_only_its_type() {
    let world = World::new();
    let (service, template) = (stored(&world, "a", 100), stored(&world, "a", 101));
    let another = stored(&world, "a", 100);
    let text = valid(document::info(&world.cloud, &world.alice, service, false).unwrap());
    assert!(text.contains("<TYPE>100</TYPE>") && text.contains("<NAME><![CDATA[a]]></NAME>"), "{text}");
    assert!(text.contains("<ROLES><NAME><![CDATA[web]]></NAME></ROLES>"), "{text}");
    assert_eq!(ids(&world, &world.alice, (-2, -1, -1), 100), [service, another]);
    assert_eq!(ids(&world, &world.alice, (-2, -1, -1), 101), [template]);
    // A page counts documents of the type only.
    assert_eq!(ids(&world, &world.alice, (-2, 1, -5), 100), [another]);
    assert_eq!(ids(&world, &world.mallory, (-2, -1, -1), 100), Vec::<i64>::new());
}

#[test]
fn a_copy_belongs_to_who_made_it_and_outlives_the_original() {
    let world = World::new();
    let id = stored(&world, "a", 100);
    owned::chmod::<DocumentRow>(&world.cloud, &world.alice, id, &[-1, -1, -1, -1, -1, -1, 1, -1, -1]).unwrap();
    let copy = document::copy(&world.cloud, &world.mallory, id, "mine").unwrap();
    document::update(&world.cloud, &world.mallory, copy, "NOTE=\"n\"\n", 1).unwrap();
    document::delete(&world.cloud, &world.alice, id).unwrap();
    let text = valid(document::info(&world.cloud, &world.mallory, copy, false).unwrap());
    assert!(text.contains("<NAME><![CDATA[mine]]></NAME>") && text.contains("<NOTE><![CDATA[n]]></NOTE>"), "{text}");
    assert!(text.contains(&format!("<UID>{}</UID>", world.mallory.uid)), "{text}");
    world.refuses(1024, &format!("Error getting document [{id}]."), |cloud| {
        document::info(cloud, &world.alice, id, false)
    });
}

#[test]
fn a_document_without_a_name_a_locked_one_and_one_of_another_are_refused() {
    let world = World::new();
    let refusal = world.refusal(|cloud| document::allocate(cloud, &world.alice, "NOTE=x\n", 100));
    assert_eq!(refusal.to_string(), "Error allocating a new document. No NAME in template");
    let id = stored(&world, "a", 100);
    assert_eq!(world.refusal(|cloud| document::update(cloud, &world.mallory, id, "A=b\n", 1)).code(), 512);
    assert_eq!(world.refusal(|cloud| document::update(cloud, &world.alice, id, "A=b\n", 2)).code(), 4096);
    owned::lock::<DocumentRow>(&world.cloud, &world.alice, id, 1, false).unwrap();
    let text = valid(document::info(&world.cloud, &world.alice, id, false).unwrap());
    assert!(text.contains("<LOCK><LOCKED>1</LOCKED>"), "{text}");
    assert_eq!(world.refusal(|cloud| document::delete(cloud, &world.alice, id)).code(), 512);
    assert_eq!(world.refusal(|cloud| document::copy(cloud, &world.alice, id, "b")).code(), 512);
    owned::unlock::<DocumentRow>(&world.cloud, &world.alice, id).unwrap();
    document::delete(&world.cloud, &world.alice, id).unwrap();
}
