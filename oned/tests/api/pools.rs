//! Which objects a pool call shows: filter flags, ranges and pages, states, and lists of ids.

use one_core::access::Caller;
use one_core::lifecycle::VmPhase;
use oned::api;
use oned::api::vm::PoolWish;

use crate::world::{World, octal, valid};

/// Six templates: 0, 1 alice's own; 2 alice's, her group may use it; 3 bob's, the group may use it; 4 mallory's, anybody may
/// use it; 5 mallory's own.
fn templates() -> World {
    let world = World::new();
    let (alice, bob, mallory) = (&world.alice, &world.bob, &world.mallory);
    for (number, (owner, bits)) in
        [(alice, 0o600), (alice, 0o600), (alice, 0o640), (bob, 0o640), (mallory, 0o604), (mallory, 0o600)]
            .into_iter()
            .enumerate()
    {
        let id = api::template::allocate(&world.cloud, owner, &format!("NAME=t{number}\nCPU=1\nMEMORY=1\n")).unwrap();
        world.edit_template(id, |row| row.permissions = octal(bits));
    }
    world
}

/// The ids of the objects in a pool, in its order.
fn ids(document: &str, object: &str) -> Vec<i64> {
    let open = format!("<{object}><ID>");
    document.split(&open).skip(1).map(|rest| rest[..rest.find('<').unwrap()].parse().unwrap()).collect()
}

fn seen(world: &World, caller: &Caller, flag: i64, start: i64, end: i64) -> Vec<i64> {
    let document = valid(api::template::pool(&world.cloud, caller, flag, start, end).unwrap());
    ids(&document, "VMTEMPLATE")
}

#[test]
fn the_filter_flag_says_whose_objects_are_wanted() {
    let world = templates();
    let all = |caller, flag| seen(&world, caller, flag, -1, -1);
    assert_eq!(all(&world.alice, -2), [0, 1, 2, 3, 4]);
    assert_eq!(all(&world.bob, -2), [2, 3, 4]);
    assert_eq!(all(&world.mallory, -2), [4, 5]);
    assert_eq!(all(&world.admin, -2), [0, 1, 2, 3, 4, 5]);
    assert_eq!(all(&world.alice, -3), [0, 1, 2]);
    assert_eq!(all(&world.admin, -3), Vec::<i64>::new());
    // Alice is in the group of all users too, but mallory's template is there for its "other" bit.
    assert_eq!(all(&world.alice, -1), [0, 1, 2, 3, 4]);
    assert_eq!(all(&world.alice, -4), [0, 1, 2, 3]);
    assert_eq!(all(&world.alice, world.bob.uid), [3]);
    assert_eq!(all(&world.alice, world.mallory.uid), [4]);
    assert_eq!(all(&world.mallory, world.alice.uid), Vec::<i64>::new());
    assert_eq!(all(&world.admin, world.alice.uid), [0, 1, 2]);
    assert_eq!(all(&world.alice, 4711), Vec::<i64>::new());
}

#[test]
fn start_and_end_are_ids_or_a_page_when_the_end_is_below_minus_one() {
    let world = templates();
    let of_alice = |start, end| seen(&world, &world.alice, -2, start, end);
    assert_eq!(of_alice(1, 3), [1, 2, 3]);
    assert_eq!(of_alice(-1, 2), [0, 1, 2]);
    assert_eq!(of_alice(3, -1), [3, 4]);
    assert_eq!(of_alice(2, 2), [2]);
    assert_eq!(of_alice(4, 1), Vec::<i64>::new());
    assert_eq!(of_alice(0, -2), [0, 1]);
    assert_eq!(of_alice(2, -2), [2, 3]);
    assert_eq!(of_alice(4, -2), [4]);
    assert_eq!(of_alice(6, -2), Vec::<i64>::new());
    assert_eq!(of_alice(0, -200), [0, 1, 2, 3, 4]);
    assert_eq!(of_alice(-1, -3), [0, 1, 2]);
    // A page counts what the caller sees, not what there is.
    assert_eq!(seen(&world, &world.mallory, -2, 1, -200), [5]);
    assert_eq!(seen(&world, &world.mallory, -2, 0, i64::MIN), [4, 5]);
    assert_eq!(of_alice(i64::MAX, i64::MIN), Vec::<i64>::new());
}

#[test]
fn pages_of_two_put_together_are_the_whole_pool() {
    let world = templates();
    let mut whole: Vec<i64> = Vec::new();
    for page in 0.. {
        let part = seen(&world, &world.admin, -2, page * 2, -2);
        whole.extend(&part);
        if part.len() < 2 {
            break;
        }
    }
    assert_eq!(whole, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn an_unknown_filter_flag_is_refused_by_every_pool_that_has_one() {
    let world = templates();
    let sentence = "Incorrect filter_flag";
    for flag in [-5, i64::MIN] {
        world.refuses(4096, sentence, |cloud| api::template::pool(cloud, &world.alice, flag, -1, -1));
        world.refuses(4096, sentence, |cloud| api::image::pool(cloud, &world.alice, flag, -1, -1));
        world.refuses(4096, sentence, |cloud| api::vm::pool(cloud, &world.alice, PoolWish { flag, ..ANY }));
    }
}

const ANY: PoolWish<'static> = PoolWish { flag: -2, start: -1, end: -1, state: -1, search: "", extended: false };

/// VMs 0 (running), 1 (off), 2 (pending), 3 (done), all alice's, and 4 (running), bob's.
fn machines() -> World {
    let world = World::new();
    world.add_network("lan");
    let first = world.add_running_vm("BACKUP_CONFIG=[MODE=INCREMENT]\nNIC=[NETWORK=lan]");
    let second = world.add_running_vm("");
    world.power_off(second);
    for _ in 0..2 {
        api::vm::allocate(&world.cloud, &world.alice, "CPU=1\nMEMORY=1\n", false).unwrap();
    }
    world.set_phase(3, VmPhase::DONE);
    let bobs = world.add_running_vm("");
    world.edit_vm(bobs, |row| row.uid = world.bob.uid);
    assert_eq!((first, second, bobs), (0, 1, 4));
    world
}

fn vms(world: &World, caller: &Caller, wish: PoolWish<'_>) -> Vec<i64> {
    let document = valid(api::vm::pool(&world.cloud, caller, wish).unwrap());
    ids(&document, "VM")
}

#[test]
fn a_vm_pool_is_of_one_state_of_all_or_of_all_but_the_ended() {
    let world = machines();
    let of_alice = |state| vms(&world, &world.alice, PoolWish { state, ..ANY });
    assert_eq!(of_alice(-1), [0, 1, 2]);
    assert_eq!(of_alice(-2), [0, 1, 2, 3]);
    assert_eq!((of_alice(3), of_alice(8), of_alice(1), of_alice(6)), (vec![0], vec![1], vec![2], vec![3]));
    assert_eq!(of_alice(4), Vec::<i64>::new());
    for state in [-3, 12, i64::MAX] {
        let refusal = world.refusal(|cloud| api::vm::pool(cloud, &world.alice, PoolWish { state, ..ANY }));
        assert_eq!(refusal.code(), 4096);
    }
    assert_eq!(vms(&world, &world.admin, PoolWish { state: -2, start: 1, end: 3, ..ANY }), [1, 2, 3]);
    assert_eq!(vms(&world, &world.admin, PoolWish { start: 1, end: -2, ..ANY }), [1, 2]);
    assert_eq!(vms(&world, &world.bob, ANY), [4]);
    assert_eq!(vms(&world, &world.mallory, ANY), Vec::<i64>::new());
}

#[test]
fn a_search_text_is_refused_as_the_original_does_on_sqlite() {
    let world = machines();
    world.refuses(8192, "JSON query search is not supported by the SQL backend", |cloud| {
        api::vm::pool(cloud, &world.alice, PoolWish { search: "VM.NAME=web", ..ANY })
    });
}

#[test]
fn an_extended_pool_holds_what_info_shows_and_a_short_one_does_not() {
    let world = machines();
    let short = valid(api::vm::pool(&world.cloud, &world.alice, ANY).unwrap());
    let long = valid(api::vm::pool(&world.cloud, &world.alice, PoolWish { extended: true, ..ANY }).unwrap());
    assert!(!short.contains("<BACKUPS>") && !short.contains("<PERMISSIONS>"), "{short}");
    assert_eq!(long.matches("<BACKUPS>").count(), 3);
    assert!(long.contains(&world.vm_document(&world.alice, 0)));
}

#[test]
fn a_set_of_ids_leaves_out_what_is_unknown_or_foreign() {
    let world = machines();
    let of = |caller, list: &str| ids(&valid(api::vm::info_set(&world.cloud, caller, list, true).unwrap()), "VM");
    assert_eq!(of(&world.alice, "2,0"), [0, 2]);
    assert_eq!(of(&world.alice, "0,0, 4 ,x,-1,99,,3"), [0, 3]);
    assert_eq!(of(&world.admin, "4,1"), [1, 4]);
    assert_eq!(of(&world.mallory, "0,1,2,3,4"), Vec::<i64>::new());
    assert_eq!(of(&world.alice, ""), Vec::<i64>::new());
    valid(api::vm::info_set(&world.cloud, &world.alice, "0,1", false).unwrap());
    let many = "0,".repeat(20_000);
    let refusal = world.refusal(|cloud| api::vm::info_set(cloud, &world.alice, &many, false));
    assert_eq!(refusal.code(), 4096);
}

#[test]
fn an_image_pool_shows_backups_among_the_images() {
    let world = machines();
    world.add_backup_datastore("backups");
    let image = world.add_backup(0, 100, 3, true);
    let document = valid(api::image::pool(&world.cloud, &world.alice, -2, -1, -1).unwrap());
    assert_eq!(ids(&document, "IMAGE"), [0, 1, 2, image]);
    let document = world.image_document(&world.alice, image);
    assert_eq!(document.matches("<INCREMENT>").count(), 3);
    assert!(world.vm_document(&world.alice, 0).contains(&format!("<BACKUP_IDS><ID>{image}</ID></BACKUP_IDS>")));
    for caller in [&world.bob, &world.mallory] {
        let document = valid(api::image::pool(&world.cloud, caller, -2, -1, -1).unwrap());
        assert!(!ids(&document, "IMAGE").contains(&image));
    }
}

#[test]
fn pages_of_vms_count_what_the_caller_sees() {
    let world = machines();
    for (caller, all) in [(&world.alice, vec![0, 1, 2]), (&world.bob, vec![4]), (&world.admin, vec![0, 1, 2, 4])] {
        for size in 2..=3 {
            let page = |number| vms(&world, caller, PoolWish { start: number * size, end: -size, ..ANY });
            assert_eq!((0..4).flat_map(page).collect::<Vec<_>>(), all);
        }
    }
    // Of one state, of one owner, and beyond the end.
    assert_eq!(vms(&world, &world.admin, PoolWish { state: 3, start: 1, end: -2, ..ANY }), [4]);
    let of_alice = PoolWish { flag: world.alice.uid, start: 1, end: -2, ..ANY };
    assert_eq!(vms(&world, &world.admin, of_alice), [1, 2]);
    assert_eq!(vms(&world, &world.bob, PoolWish { start: 1, end: -200, ..ANY }), Vec::<i64>::new());
    assert_eq!(vms(&world, &world.alice, PoolWish { start: 1, end: 4, ..ANY }), [1, 2]);
}

#[test]
fn a_pool_of_more_than_one_batch_is_whole_and_in_order() {
    let world = World::new();
    let count = i64::try_from(api::pool::BATCH).unwrap() + 5;
    for _ in 0..count {
        api::vm::allocate(&world.cloud, &world.alice, "CPU=1\nMEMORY=1\n", false).unwrap();
    }
    let all: Vec<i64> = (0..count).collect();
    for extended in [false, true] {
        assert_eq!(vms(&world, &world.alice, PoolWish { extended, ..ANY }), all);
    }
    let document = valid(api::vm::pool(&world.cloud, &world.alice, PoolWish { extended: true, ..ANY }).unwrap());
    assert!(document.contains(&world.vm_document(&world.alice, count - 1)));
}
