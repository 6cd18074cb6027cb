//! Hosts, clusters, virtual data centres and zones; the records of VMs; and what is said of methods that are left out.

use one_core::refusal::{ObjectKind, Refusal, Right};
use one_core::template::Template;
use oned::api::vdc::Member;
use oned::api::{accounting, backup, cluster, host, vdc, vm, zone};
use oned::ledger;
use oned::methods::{METHODS, is_open_when_disabled, why_absent};
use oned::rpc::Door;
use oned::session::authenticate;
use oned::store::rows::{HistoryRow, SampleRow};

use crate::rights::network;
use crate::world::{NOW, World, element, session, valid};

const HOUR: i64 = 3600;

fn member(kind: ObjectKind, object: i64) -> Member {
    Member { kind, zone: 0, object }
}

#[test]
fn a_host_is_disabled_set_offline_and_enabled_at_once() {
    let world = World::new();
    let state = || world.read(|tx| tx.host(0)).state;
    for (status, expected) in [(2, 8), (1, 4), (0, 0)] {
        assert_eq!(host::status(&world.cloud, &world.admin, 0, status).unwrap(), 0);
        assert_eq!(state(), expected);
        valid(host::info(&world.cloud, &world.admin, 0).unwrap());
    }
    assert_eq!(world.read(|tx| tx.host(0)).prev_state, 4);
    // A host that is at work is not begun anew.
    world.add_host("busy");
    host::status(&world.cloud, &world.admin, 1, 0).unwrap();
    assert_eq!(world.read(|tx| tx.host(1)).state, 2);
    let sentence = "Wrong status code: 0 enables, 1 disables, 2 sets offline";
    world.refuses(4096, sentence, |cloud| host::status(cloud, &world.admin, 0, 3));
}

#[test]
fn drivers_of_hosts_are_known_and_dummy_only_where_it_was_asked_for() {
    let world = World::new();
    let sentence = "Error allocating a new host. IM_MAD \"dummy\" only pretends to run VMs; it is there when DUMMY_DRIVERS = \
                    YES in oned.conf.";
    world.refuses(16384, sentence, |cloud| host::allocate(cloud, &world.admin, "a", "dummy", "dummy", 0));
    for (im, vm) in [("kvm", "xen"), ("", "kvm"), ("lxd", "kvm")] {
        let refusal = world.refusal(|cloud| host::allocate(cloud, &world.admin, "a", im, vm, 0));
        assert!(refusal.to_string().contains("is not known"), "{refusal}");
    }
    let world = World::configured(|config| config.dummy_drivers = true);
    let id = host::allocate(&world.cloud, &world.admin, "TestHost", "dummy", "dummy", 0).unwrap();
    assert!(element(&host::info(&world.cloud, &world.admin, id).unwrap(), "VM_MAD").contains("dummy"));
    assert_eq!(world.refusal(|cloud| host::allocate(cloud, &world.admin, "b", "kvm", "dummy", 0)).code(), 16384);
    // Its name is free again at once.
    host::delete(&world.cloud, &world.admin, id).unwrap();
    host::allocate(&world.cloud, &world.admin, "TestHost", "dummy", "dummy", 0).unwrap();
}

#[test]
fn samples_of_a_host_are_in_its_document_and_in_the_monitoring_of_hosts() {
    let world = World::new();
    let monitoring = |seconds| host::pool_monitoring(&world.cloud, &world.admin, seconds).unwrap();
    assert_eq!(valid(monitoring(-1)), "<MONITORING_DATA></MONITORING_DATA>");
    world.write(|tx| {
        for (time, free) in [(NOW - 600, 300), (NOW - 60, 200), (NOW, 100)] {
            let body = format!("FREE_CPU={free}\nUSED_CPU=5\nFREE_MEMORY=7\nUSED_MEMORY=8\n");
            tx.sample_put(&SampleRow { kind: "HOST".into(), object_id: 0, time, body }, 240)?;
        }
        Ok(())
    });
    let all = host::monitoring(&world.cloud, &world.admin, 0).unwrap();
    assert_eq!(all.matches("<MONITORING>").count(), 3);
    assert_eq!(all, monitoring(-1));
    assert_eq!(monitoring(60).matches("<MONITORING>").count(), 2);
    let last = element(&monitoring(0), "MONITORING");
    assert!(last.contains("<FREE_CPU>100</FREE_CPU>"), "{last}");
    assert_eq!(element(&valid(host::info(&world.cloud, &world.admin, 0).unwrap()), "MONITORING"), last);
    // Only so many are kept, and none of a host that is gone.
    let body = "FREE_CPU=1\n".to_owned();
    world.write(|tx| tx.sample_put(&SampleRow { kind: "HOST".into(), object_id: 0, time: NOW + 1, body }, 2));
    assert_eq!(
        world.read(|tx| tx.samples("HOST", 0, 0)).iter().map(|row| row.time).collect::<Vec<_>>(),
        [NOW, NOW + 1]
    );
    host::delete(&world.cloud, &world.admin, 0).unwrap();
    assert!(world.read(|tx| tx.samples("HOST", 0, 0)).is_empty());
}

fn rack(world: &World, id: i64) -> String {
    valid(cluster::info(&world.cloud, &world.admin, id).unwrap())
}

#[test]
fn the_first_cluster_has_the_attributes_that_clients_look_for_in_every_cluster() {
    let text = rack(&World::new(), 0);
    for name in ["RESERVED_CPU", "RESERVED_MEM"] {
        assert!(text.contains(&format!("<{name}><![CDATA[]]></{name}>")), "{text}");
    }
}

#[test]
fn a_cluster_holds_hosts_datastores_and_networks_and_goes_only_when_empty() {
    let world = World::new();
    let (cloud, admin) = (&world.cloud, &world.admin);
    let id = cluster::allocate(cloud, admin, "rack").unwrap();
    assert!(rack(&world, id).contains("<RESERVED_CPU><![CDATA[]]></RESERVED_CPU>"), "{}", rack(&world, id));
    world.write(|tx| tx.network_insert(&network(7, 0, "")));
    cluster::add_host(cloud, admin, id, 0).unwrap();
    cluster::set_datastore(cloud, admin, id, 1, true).unwrap();
    cluster::set_datastore(cloud, admin, id, 1, true).unwrap();
    cluster::set_network(cloud, admin, id, 7, true).unwrap();
    let text = rack(&world, id);
    for (list, object) in [("HOSTS", 0), ("DATASTORES", 1), ("VNETS", 7)] {
        assert_eq!(element(&text, list), format!("<{list}><ID>{object}</ID></{list}>"));
    }
    assert!(rack(&world, 0).contains("<HOSTS/>"));
    let sentence = format!("Cluster {id} is not empty: host 0 is in it, take it out first.");
    world.refuses(2048, &sentence, |cloud| cluster::delete(cloud, admin, id));
    cluster::remove_host(cloud, admin, id, 0).unwrap();
    assert_eq!(world.read(|tx| tx.host(0)).cluster_id, 0);
    assert_eq!(world.refusal(|cloud| cluster::remove_host(cloud, admin, id, 0)).code(), 2048);
    assert_eq!(world.refusal(|cloud| cluster::remove_host(cloud, admin, 0, 0)).code(), 2048);
    cluster::set_datastore(cloud, admin, id, 1, false).unwrap();
    let sentence = format!("The datastore 1 is not in cluster {id}.");
    world.refuses(2048, &sentence, |cloud| cluster::set_datastore(cloud, admin, id, 1, false));
    // The other cluster of it stays, and it may be in none.
    assert_eq!(world.read(|tx| tx.datastore(1)).clusters, "0");
    cluster::set_datastore(cloud, admin, 0, 1, false).unwrap();
    assert_eq!(world.read(|tx| tx.datastore(1)).clusters, "");
    cluster::set_network(cloud, admin, id, 7, false).unwrap();
    cluster::delete(cloud, admin, id).unwrap();
    assert_eq!(world.refusal(|cloud| cluster::delete(cloud, admin, 0)).code(), 2048);
}

#[test]
fn names_of_clusters_and_virtual_data_centres_are_the_clouds() {
    let world = World::new();
    let (cloud, admin) = (&world.cloud, &world.admin);
    let first = cluster::allocate(cloud, admin, "one").unwrap();
    let second = cluster::allocate(cloud, admin, "two").unwrap();
    let sentence = format!("Error allocating a new cluster. NAME is already taken by CLUSTER {first}.");
    world.refuses(16384, &sentence, |cloud| cluster::allocate(cloud, admin, "one"));
    let sentence = format!("cluster cannot be renamed to two because it collides with cluster {second}");
    world.refuses(2048, &sentence, |cloud| cluster::rename(cloud, admin, first, "two"));
    cluster::rename(cloud, admin, first, "one").unwrap();
    assert_eq!(world.refusal(|cloud| cluster::rename(cloud, admin, first, "a/b")).code(), 2048);
    let first = vdc::allocate(cloud, admin, "NAME=one\n").unwrap();
    let sentence = format!("Error allocating a new VDC. NAME is already taken by VDC {first}.");
    world.refuses(16384, &sentence, |cloud| vdc::allocate(cloud, admin, "NAME=one\n"));
    assert_eq!(world.refusal(|cloud| vdc::allocate(cloud, admin, "A=b\n")).code(), 16384);
    assert_eq!(world.refusal(|cloud| vdc::rename(cloud, admin, first, "default")).code(), 2048);
    vdc::rename(cloud, admin, first, "two").unwrap();
    vdc::update(cloud, admin, first, "NOTE=x\n", 1).unwrap();
    let text = valid(vdc::info(cloud, admin, first).unwrap());
    assert!(text.contains("<NAME><![CDATA[two]]></NAME>") && text.contains("NOTE"), "{text}");
}

/// Whether VMs of that user may be put on host 0.
fn may_host(world: &World, name: &str) -> bool {
    let caller = authenticate(&world.cloud, &session(name)).unwrap();
    let found: Result<_, Refusal> = world.cloud.store.read(|tx| host::host_for(tx, &caller, Right::Manage, 0));
    found.is_ok()
}

#[test]
fn what_a_virtual_data_centre_holds_its_groups_may_use_and_no_longer_than_that() {
    let world = World::new();
    let (cloud, admin) = (&world.cloud, &world.admin);
    let id = vdc::allocate(cloud, admin, "NAME=department\n").unwrap();
    vdc::add(cloud, admin, id, member(ObjectKind::Host, 0)).unwrap();
    assert!(!may_host(&world, "alice"));
    vdc::set_group(cloud, admin, id, crate::world::TEAM, true).unwrap();
    assert!(may_host(&world, "alice") && !may_host(&world, "mallory"));
    let text = valid(vdc::info(cloud, admin, id).unwrap());
    assert_eq!(element(&text, "HOSTS"), "<HOSTS><HOST><ZONE_ID>0</ZONE_ID><HOST_ID>0</HOST_ID></HOST></HOSTS>");
    assert_eq!(element(&text, "GROUPS"), "<GROUPS><ID>100</ID></GROUPS>");

    // A second one gives the same: the first may go.
    let other = vdc::allocate(cloud, admin, "NAME=other\n").unwrap();
    vdc::add(cloud, admin, other, member(ObjectKind::Host, 0)).unwrap();
    vdc::set_group(cloud, admin, other, crate::world::TEAM, true).unwrap();
    vdc::delete(cloud, admin, id).unwrap();
    assert!(may_host(&world, "alice"));
    vdc::remove(cloud, admin, other, member(ObjectKind::Host, 0)).unwrap();
    assert!(!may_host(&world, "alice"));
    vdc::add(cloud, admin, other, member(ObjectKind::Cluster, 0)).unwrap();
    assert!(may_host(&world, "alice"));
    vdc::set_group(cloud, admin, other, crate::world::TEAM, false).unwrap();
    assert!(!may_host(&world, "alice"));
}

#[test]
fn all_of_a_kind_take_the_place_of_single_ones_in_a_virtual_data_centre() {
    let world = World::new();
    let (cloud, admin) = (&world.cloud, &world.admin);
    let id = vdc::allocate(cloud, admin, "NAME=department\n").unwrap();
    vdc::set_group(cloud, admin, id, crate::world::TEAM, true).unwrap();
    vdc::add(cloud, admin, id, member(ObjectKind::Host, 0)).unwrap();
    vdc::add(cloud, admin, id, member(ObjectKind::Host, vdc::ALL)).unwrap();
    assert_eq!(world.read(|tx| tx.vdc_members(id, "HOST")), [(0, vdc::ALL)]);
    assert!(may_host(&world, "alice"));
    for again in [0, vdc::ALL] {
        let refusal = world.refusal(|cloud| vdc::add(cloud, admin, id, member(ObjectKind::Host, again)));
        assert!(refusal.to_string().contains("already"), "{refusal}");
    }
    let sentence = format!("VDC {id} names no host 0 of zone 0.");
    world.refuses(2048, &sentence, |cloud| vdc::remove(cloud, admin, id, member(ObjectKind::Host, 0)));
    vdc::remove(cloud, admin, id, member(ObjectKind::Host, vdc::ALL)).unwrap();
    assert!(!may_host(&world, "alice"));
    world.refuses(1024, "Error getting host [77].", |cloud| vdc::add(cloud, admin, id, member(ObjectKind::Host, 77)));
    let elsewhere = Member { kind: ObjectKind::Host, zone: 5, object: 0 };
    world.refuses(1024, "Error getting zone [5].", |cloud| vdc::add(cloud, admin, id, elsewhere));
    for (inside, sentence) in [(true, "Group 100 is in VDC 100 already."), (false, "Group 101 is not in VDC 100.")] {
        if !inside {
            oned::api::people::group_allocate(cloud, admin, "another").unwrap();
        }
        let group = if inside { 100 } else { 101 };
        world.refuses(2048, sentence, |cloud| vdc::set_group(cloud, admin, id, group, inside));
    }
    assert_eq!(world.refusal(|cloud| vdc::delete(cloud, admin, vdc::DEFAULT)).code(), 2048);
}

#[test]
fn a_host_or_cluster_that_goes_leaves_its_virtual_data_centres() {
    let world = World::new();
    let (cloud, admin) = (&world.cloud, &world.admin);
    let id = vdc::allocate(cloud, admin, "NAME=department\n").unwrap();
    vdc::set_group(cloud, admin, id, crate::world::TEAM, true).unwrap();
    let rules = world.read(|tx| tx.acl_list()).len();
    let rack = cluster::allocate(cloud, admin, "rack").unwrap();
    vdc::add(cloud, admin, id, member(ObjectKind::Host, 0)).unwrap();
    vdc::add(cloud, admin, id, member(ObjectKind::Cluster, rack)).unwrap();
    assert_eq!(world.read(|tx| tx.acl_list()).len(), rules + 3);
    host::delete(cloud, admin, 0).unwrap();
    cluster::delete(cloud, admin, rack).unwrap();
    assert_eq!(world.read(|tx| tx.acl_list()).len(), rules);
    assert!(world.read(|tx| tx.vdc_members(id, "HOST")).is_empty());
    assert!(world.read(|tx| tx.vdc_members(id, "CLUSTER")).is_empty());
}

#[test]
fn the_zone_shows_its_endpoint_is_alone_and_cannot_be_joined_or_left() {
    let world = World::new();
    let (cloud, admin) = (&world.cloud, &world.admin);
    zone::update(cloud, admin, 0, "ENDPOINT=\"dummy\"", 1).unwrap();
    zone::rename(cloud, admin, 0, "home").unwrap();
    let text = valid(zone::info(cloud, admin, 0).unwrap());
    assert!(text.contains("<ENDPOINT><![CDATA[dummy]]></ENDPOINT>") && text.contains("home"), "{text}");
    valid(zone::pool(cloud, &world.mallory).unwrap());
    assert!(valid(zone::raft_status(cloud, &world.alice).unwrap()).contains("<STATE>0</STATE>"));
    world.refuses(8192, "Cannot update template. A zone needs its ENDPOINT.", |cloud| {
        zone::update(cloud, admin, 0, "NOTE=x\n", 0)
    });
    let calls: [fn(&World) -> Refusal; 3] = [
        |world| world.refusal(|cloud| zone::allocate(cloud, &world.admin)),
        |world| world.refusal(|cloud| zone::delete(cloud, &world.admin, 0)),
        |world| world.refusal(|cloud| zone::servers(cloud, &world.admin, 0)),
    ];
    for call in calls {
        let refusal = call(&world);
        assert!(refusal.code() == 2048 && refusal.to_string().contains("only zone"), "{refusal}");
    }
    world.refuses(1024, "Error getting zone [4].", |cloud| zone::info(cloud, admin, 4));
}

#[test]
fn a_disabled_zone_takes_calls_that_look_and_the_one_that_enables_it() {
    let world = World::new();
    let cloud = &world.cloud;
    let state = || element(&valid(zone::info(cloud, &world.admin, 0).unwrap()), "STATE");
    zone::enable(cloud, &world.admin, 0, false).unwrap();
    // Other changes of the zone leave that as it is.
    zone::update(cloud, &world.admin, 0, "ENDPOINT=\"x\"\n", 0).unwrap();
    assert_eq!(state(), "<STATE>1</STATE>");
    let door = |method: &str| Door::admit(&**cloud, method);
    for open in ["one.vm.info", "one.vmpool.infoset", "one.zone.enable", "one.system.version", "one.host.monitoring"] {
        assert!(is_open_when_disabled(open));
        door(open).unwrap();
    }
    for closed in ["one.vm.allocate", "one.zone.rename", "one.vm.backup", "one.user.login"] {
        assert_eq!(door(closed).unwrap_err().code(), 2048, "{closed}");
    }
    zone::enable(cloud, &world.admin, 0, true).unwrap();
    assert_eq!(state(), "<STATE>0</STATE>");
    door("one.vm.allocate").unwrap();
}

/// A record of 30 hours over the end of November, the last 6 of them in December and only 24 running.
fn used_vm(world: &World) -> i64 {
    let costs = "CPU_COST=2\nMEMORY_COST=0.01\nDISK_COST=0.5\n";
    let id = vm::allocate(&world.cloud, &world.admin, &format!("CPU=0.5\nMEMORY=200\n{costs}"), true).unwrap();
    let start = 1_796_083_200 - 24 * HOUR; // 30 November 2026, 00:00 UTC
    let host = world.read(|tx| tx.host(0));
    world.write(|tx| {
        ledger::history_place(tx, id, &host, start)?;
        let record = tx.history_last(id)?.unwrap();
        tx.history_put(&HistoryRow { etime: start + 30 * HOUR, rstime: start, retime: start + 24 * HOUR, ..record })
    });
    world.edit_vm(id, |row| row.template = format!("{}\nDISK=[DISK_ID=0,SIZE=10]\n", row.template));
    id
}

#[test]
fn showback_spreads_hours_over_months_and_charges_disks_while_a_vm_is_off() {
    let world = World::new();
    let id = used_vm(&world);
    let shown = |months| valid(accounting::showback(&world.cloud, &world.admin, -2, months).unwrap());
    let text = shown([-1, -1, -1, -1]);
    let records: Vec<&str> = text.split("<SHOWBACK>").skip(1).collect();
    assert_eq!(records.len(), 2, "{text}");
    for (record, expected) in records.iter().zip([
        [
            ("MONTH", "11"),
            ("HOURS", "24"),
            ("RHOURS", "24"),
            ("CPU_COST", "24"),
            ("MEMORY_COST", "48"),
            ("DISK_COST", "120"),
        ],
        [
            ("MONTH", "12"),
            ("HOURS", "6"),
            ("RHOURS", "0"),
            ("CPU_COST", "0"),
            ("MEMORY_COST", "0"),
            ("DISK_COST", "30"),
        ],
    ]) {
        for (name, value) in expected {
            assert!(record.contains(&format!("<{name}>{value}</{name}>")), "{name} {value}: {record}");
        }
        assert!(record.starts_with(&format!("<VMID>{id}</VMID>")), "{record}");
    }
    assert_eq!(shown([12, 2026, -1, -1]).matches("<SHOWBACK>").count(), 1);
    assert_eq!(shown([-1, -1, 11, 2026]).matches("<SHOWBACK>").count(), 1);
    for months in [[13, 2026, -1, -1], [0, 2026, -1, -1], [-1, 2026, -1, -1], [1, i64::MAX, 1, 1]] {
        assert_eq!(world.refusal(|cloud| accounting::showback(cloud, &world.admin, -2, months)).code(), 4096);
    }
    assert_eq!(shown([-1; 4]), text);
    let others = accounting::showback(&world.cloud, &world.mallory, -2, [-1; 4]).unwrap();
    assert_eq!(others, "<SHOWBACK_RECORDS></SHOWBACK_RECORDS>");
    assert!(!accounting::calculate_showback(&world.cloud, &world.admin, [-1; 4]).unwrap().is_empty());
    assert_eq!(world.refusal(|cloud| accounting::calculate_showback(cloud, &world.alice, [-1; 4])).code(), 512);
}

#[test]
fn accounting_lists_records_that_touch_the_time_asked_for_also_of_vms_that_are_done() {
    let world = World::new();
    let id = used_vm(&world);
    let record = world.read(|tx| tx.history_last(id)).unwrap();
    let count = |start, end| {
        let text = valid(accounting::accounting(&world.cloud, &world.admin, -2, start, end).unwrap());
        text.matches("<HISTORY><OID>").count()
    };
    assert_eq!((count(-1, -1), count(record.etime, -1), count(-1, record.stime)), (1, 1, 1));
    assert_eq!((count(record.etime + 1, -1), count(-1, record.stime - 1)), (0, 0));
    world.edit_vm(id, |row| (row.state, row.lcm_state) = (6, 0));
    assert_eq!(count(-1, -1), 1);
    assert_eq!(world.refusal(|cloud| accounting::accounting(cloud, &world.admin, -5, -1, -1)).code(), 4096);
}

#[test]
fn samples_of_vms_are_shown_to_those_who_may_see_the_vm() {
    let world = World::new();
    let vm = world.add_running_vm("");
    let shown = |caller| valid(accounting::monitoring(&world.cloud, caller, vm).unwrap());
    assert_eq!(shown(&world.alice), "<MONITORING_DATA></MONITORING_DATA>");
    world.write(|tx| {
        for time in [NOW - 100, NOW] {
            let body = "CPU=\"12.50\"\nMEMORY=\"1024\"\nNETRX=\"7\"\nNETTX_BW=\"1.5\"\n".to_owned();
            assert!(Template::parse(&body).is_ok());
            tx.sample_put(&SampleRow { kind: "VM".into(), object_id: vm, time, body }, 60)?;
        }
        Ok(())
    });
    assert_eq!(shown(&world.alice).matches("<CPU>12.50</CPU>").count(), 2);
    let pool = |caller, seconds| valid(accounting::pool_monitoring(&world.cloud, caller, -2, seconds).unwrap());
    assert_eq!(pool(&world.alice, 50).matches("<MONITORING>").count(), 1);
    assert_eq!(pool(&world.mallory, -1), "<MONITORING_DATA></MONITORING_DATA>");
    assert_eq!(world.refusal(|cloud| accounting::monitoring(cloud, &world.mallory, vm)).code(), 512);
}

#[test]
fn what_was_last_measured_of_a_vm_is_in_each_document_of_it_while_it_is_on_a_host() {
    let world = World::new();
    let id = world.add_running_vm("");
    let all_show = |monitoring: &str| {
        let all = |extended| vm::PoolWish { flag: -2, start: -1, end: -1, state: -1, search: "", extended };
        for document in [
            world.vm_document(&world.alice, id),
            vm::pool(&world.cloud, &world.alice, all(false)).unwrap(),
            vm::pool(&world.cloud, &world.alice, all(true)).unwrap(),
            vm::info_set(&world.cloud, &world.alice, &id.to_string(), false).unwrap(),
        ] {
            assert!(valid(document.clone()).contains(monitoring), "{document}");
        }
    };
    all_show("<MONITORING/>");
    world.edit_vm(id, |row| row.monitoring = format!("CPU=\"12.50\"\nMEMORY=\"1024\"\nTIMESTAMP=\"{NOW}\"\n"));
    all_show(&format!("<MONITORING><CPU>12.50</CPU><MEMORY>1024</MEMORY><TIMESTAMP>{NOW}</TIMESTAMP></MONITORING>"));
    // It is no part of what a backup keeps: two backups of the same VM are the same whenever it was looked at.
    backup::backup(&world.cloud, &world.admin, id, world.add_backup_datastore("backups"), false).unwrap();
    let kept = world.backup_plan().1.document;
    assert!(kept.contains("<MONITORING/>"), "{kept}");
    world.edit_vm(id, |row| (row.state, row.lcm_state) = (8, 0));
    all_show("<MONITORING/>");
}

#[test]
fn methods_that_are_left_out_say_why_and_none_that_there_is_does() {
    for (name, why) in [
        ("one.vrouter.instantiate", "virtual routers are not part of this daemon"),
        ("one.vntemplatepool.info", "templates of virtual networks are not part of this daemon"),
        ("one.hooklog.info", "hooks are not part of this daemon"),
        ("one.marketapp.import", "marketplaces are not part of this daemon"),
        ("one.vmgroup.allocate", "VM groups are not part of this daemon"),
        ("one.vm.exec", "commands are not run inside guests by this daemon"),
    ] {
        assert_eq!(why_absent(name), Some(why), "{name}");
    }
    assert_eq!(why_absent("one.vm.fly"), None);
    for method in METHODS.iter() {
        assert_eq!(why_absent(method.name), None, "{}", method.name);
    }
}
