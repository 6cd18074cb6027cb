//! Virtual networks: addresses that are given once and come back, reservations, security groups, cards of VMs. After each
//! story the table of leases is counted again from what VMs and reservations say.

use std::collections::BTreeSet;

use one_core::access::Caller;
use one_core::lifecycle::{LcmState, VmEvent, VmPhase};
use one_core::network::lease::{Scope, leased};
use one_core::network::reservation::origin;
use one_core::refusal::{ObjectKind, Refusal};
use one_core::template::{Template, Vector};
use oned::api::{self, network, security_group, vm_nics};
use oned::job::{self, NicPlan};
use oned::store::VmFilter;

use crate::world::{TEAM, World, element, octal, valid};

/// Network, range, place, holder, its id, its NIC.
type Lease = (i64, i64, i64, String, i64, i64);

/// Holds the table of leases against what VMs that have not ended and reservations say; holds stand in the table alone.
#[track_caller]
fn recount(world: &World) {
    let (wanted, found) = world.read(|tx| {
        let networks = tx.network_list()?;
        let ranges: Vec<_> = networks.iter().map(api::view::ranges).collect();
        let mut wanted: BTreeSet<Lease> = BTreeSet::new();
        for vm in tx.vms(VmFilter::default())? {
            let template = Template::parse(&vm.template).unwrap();
            for nic in template.vectors("NIC").chain(template.vectors("NIC_ALIAS")) {
                let Some(id) = nic.int("NETWORK_ID") else { continue };
                let at = networks.iter().position(|row| row.id == id).expect("the network of a NIC is there");
                let place = leased(Scope { id, ranges: &ranges[at] }, nic).expect("its address is in the network");
                let nic_id = nic.int("NIC_ID").unwrap();
                assert!(wanted.insert((id, place.ar_id, place.index.into(), "VM".into(), vm.id, nic_id)));
            }
        }
        for (at, row) in networks.iter().enumerate() {
            let Some(parent) = row.parent_id else { continue };
            let of_parent = networks.iter().position(|row| row.id == parent).unwrap();
            for range in &ranges[at] {
                let first = origin(Scope { id: parent, ranges: &ranges[of_parent] }, range).unwrap();
                for place in first.index..first.index + range.size() {
                    assert!(wanted.insert((parent, first.ar_id, place.into(), "NET".into(), row.id, -1)));
                }
            }
        }
        let mut found = BTreeSet::new();
        for row in &networks {
            found.extend(tx.leases(row.id)?.into_iter().filter(|lease| lease.holder != "HOLD").map(|lease| {
                (lease.network_id, lease.range_id, lease.place, lease.holder, lease.holder_id, lease.nic_id)
            }));
        }
        Ok((wanted, found))
    });
    assert_eq!(found, wanted);
}

const SIZE: &str = "CPU=1\nMEMORY=64\n";

fn make(world: &World, caller: &Caller, more: &str) -> Result<i64, Refusal> {
    api::vm::allocate(&world.cloud, caller, &format!("{SIZE}{more}\n"), true)
}

fn nic(world: &World, vm: i64, at: usize) -> Vector {
    Template::parse(&world.vm_row(vm).template).unwrap().vectors("NIC").nth(at).unwrap().clone()
}

fn text(vector: &Vector, key: &str) -> String {
    vector.get(key).unwrap_or("-").to_owned()
}

fn document(world: &World, caller: &Caller, id: i64) -> String {
    valid(network::info(&world.cloud, caller, id, false).unwrap())
}

fn used(world: &World, id: i64) -> i64 {
    world.read(|tx| tx.lease_counts(id)).iter().map(|(_, used)| used).sum()
}

#[test]
fn a_new_vm_gets_the_lowest_free_address_of_its_network_or_the_one_it_wishes_for() {
    let world = World::new();
    let lan = world.add_network("lan");
    let first = make(&world, &world.alice, "NIC=[NETWORK=lan,MODEL=e1000]").unwrap();
    let second = make(&world, &world.alice, "NIC=[NETWORK_ID=0,IP=\"10.0.0.9\"]\nNIC=[NETWORK=lan]").unwrap();
    let card = nic(&world, first, 0);
    for (key, value) in [
        ("NETWORK", "lan"),
        ("NETWORK_ID", "0"),
        ("NIC_ID", "0"),
        ("NAME", "NIC0"),
        ("TARGET", "one-0-0"),
        ("IP", "10.0.0.1"),
        ("MAC", "02:00:0a:00:00:01"),
        ("BRIDGE", "br0"),
        ("VN_MAD", "bridge"),
        ("MODEL", "e1000"),
        ("SECURITY_GROUPS", "0"),
        ("AR_ID", "0"),
    ] {
        assert_eq!(text(&card, key), value, "{key}");
    }
    assert_eq!(text(&nic(&world, second, 0), "IP"), "10.0.0.9");
    assert_eq!(text(&nic(&world, second, 1), "IP"), "10.0.0.2");
    let rules = Template::parse(&world.vm_row(first).template).unwrap();
    assert_eq!(rules.vectors("SECURITY_GROUP_RULE").count(), 2, "those of the default group");
    world.vm_document(&world.alice, second);
    let shown = document(&world, &world.alice, lan);
    assert!(shown.contains("<USED_LEASES>3</USED_LEASES>") && shown.contains("10.0.0.9"), "{shown}");
    assert_eq!(element(&shown, "UPDATED_VMS"), "<UPDATED_VMS><ID>0</ID><ID>1</ID></UPDATED_VMS>");
    recount(&world);
}

#[test]
fn an_address_comes_back_exactly_once_however_the_vm_ends() {
    let world = World::new();
    let lan = world.add_network("lan");
    let held = make(&world, &world.alice, "NIC=[NETWORK=lan]").unwrap();
    let deleted = make(&world, &world.alice, "NIC=[NETWORK=lan]\nNIC=[NETWORK=lan]").unwrap();
    assert_eq!(used(&world, lan), 3);
    api::vm::action(&world.cloud, &world.alice, "terminate-hard", held).unwrap();
    assert_eq!((world.phase(held), used(&world, lan)), (VmPhase::DONE, 2));
    let heir = make(&world, &world.alice, "NIC=[NETWORK=lan]").unwrap();
    assert_eq!(text(&nic(&world, heir, 0), "IP"), "10.0.0.1");
    api::vm::recover(&world.cloud, &world.admin, deleted, 3).unwrap();
    assert_eq!((world.phase(deleted), used(&world, lan)), (VmPhase::DONE, 1));
    // What ends a VM twice takes nothing from its heir.
    world.cloud.store.write(|tx| oned::ledger::release_images(tx, held)).unwrap();
    assert_eq!(used(&world, lan), 1);
    recount(&world);
}

#[test]
fn a_vm_that_cannot_be_made_takes_no_address() {
    let world = World::new();
    world.add_network("lan");
    let taken = make(&world, &world.alice, "NIC=[NETWORK=lan,IP=\"10.0.0.5\"]").unwrap();
    for (more, code, sentence) in [
        (
            "NIC=[NETWORK=lan]\nNIC=[NETWORK=lan,IP=\"10.0.0.5\"]",
            16384,
            "Error allocating a new virtual machine. Cannot get IP/MAC lease from virtual network 0: IP 10.0.0.5 is in use.",
        ),
        (
            "NIC=[NETWORK=lan]\nNIC=[NETWORK=wan]",
            16384,
            "Error allocating a new virtual machine. User 2 does not own a network with name: wan . Set NETWORK_UNAME or \
             NETWORK_UID of owner in NIC.",
        ),
        (
            "NIC=[NETWORK_ID=7]",
            16384,
            "Error allocating a new virtual machine. Virtual network with ID: 7 does not exist",
        ),
        ("NIC=[NETWORK=lan]\nDISK=[IMAGE_ID=9]", 1024, "Error getting image [9]."),
        ("NIC=[NETWORK=lan,SECURITY_GROUPS=\"9\"]", 1024, "Error getting security group [9]."),
    ] {
        world.refuses(code, sentence, |_| make(&world, &world.alice, more));
    }
    let refusal = world.refusal(|_| make(&world, &world.mallory, "NIC=[NETWORK_ID=0]"));
    assert_eq!(refusal.to_string(), "User [4] : Not authorized to perform USE NET [0].");
    // A group that the network has anyway needs no right of one's own.
    let group = security_group::allocate(&world.cloud, &world.admin, "NAME=site\n").unwrap();
    network::update(&world.cloud, &world.admin, 0, &format!("SECURITY_GROUPS=\"0,{group}\""), 1).unwrap();
    let again = make(&world, &world.alice, &format!("NIC=[NETWORK=lan,SECURITY_GROUPS=\"{group}\"]")).unwrap();
    assert_eq!(text(&nic(&world, again, 0), "SECURITY_GROUPS"), format!("0,{group}"));
    // Bob is of the group that may use it; its name he finds beside the owner's.
    world.refusal(|_| make(&world, &world.bob, "NIC=[NETWORK=lan]"));
    let bobs = make(&world, &world.bob, "NIC=[NETWORK=lan,NETWORK_UNAME=alice]").unwrap();
    assert_eq!(text(&nic(&world, bobs, 0), "NETWORK_UNAME"), "alice");
    assert_ne!(taken, bobs);
    recount(&world);
}

#[test]
fn a_card_without_virtual_network_leads_only_where_its_owner_may_go() {
    let world = World::new();
    let user = make(&world, &world.alice, "NIC=[NETWORK=user]").unwrap();
    assert_eq!(text(&nic(&world, user, 0), "TARGET"), "one-0-0");
    for (more, attribute) in [
        ("NIC=[LIBVIRT_NETWORK=default]", "NIC/LIBVIRT_NETWORK"),
        ("NIC_DEFAULT=[BRIDGE=br0]\nNIC=[MODEL=virtio]", "NIC_DEFAULT/BRIDGE"),
        ("NIC_DEFAULT=[LIBVIRT_NETWORK=default]\nNIC=[NETWORK=user]", "NIC/LIBVIRT_NETWORK"),
    ] {
        let sentence = format!("User [2] : Template includes a restricted attribute {attribute}.");
        world.refuses(512, &sentence, |_| make(&world, &world.alice, more));
        make(&world, &world.admin, more).unwrap();
    }
    let refusal = world.refusal(|_| make(&world, &world.admin, "NIC=[NETWORK=default]"));
    assert!(refusal.to_string().ends_with("A libvirt network of the host is named with LIBVIRT_NETWORK."), "{refusal}");
    let refusal = world.refusal(|_| make(&world, &world.alice, "NIC=[NETWORK_MODE=auto]"));
    assert!(refusal.to_string().contains("NETWORK_MODE = auto is not available"), "{refusal}");
    // What a bound card brings of the host's does not count.
    world.add_network("lan");
    let bound = make(&world, &world.alice, "NIC=[NETWORK=lan,LIBVIRT_NETWORK=default,PHYDEV=eth9]").unwrap();
    let card = nic(&world, bound, 0);
    assert_eq!((text(&card, "LIBVIRT_NETWORK"), text(&card, "PHYDEV")), ("-".into(), "-".into()));
    recount(&world);
}

#[test]
fn ranges_come_change_and_go_and_holds_keep_addresses() {
    let world = World::new();
    let (cloud, admin) = (&world.cloud, &world.admin);
    let made =
        network::allocate(cloud, admin, "NAME=vntest\nVN_MAD=vxlan\nPHYDEV=eth0\nVLAN_ID=8000042\n", -1).unwrap();
    network::add_range(cloud, admin, made, "AR=[TYPE=IP4,IP=10.0.0.1,SIZE=200]").unwrap();
    network::update_range(cloud, admin, made, "AR=[AR_ID=0,SIZE=100]").unwrap();
    network::hold(cloud, admin, made, "LEASES=[IP=10.0.0.50]").unwrap();
    world.refuses(8192, "IP 10.0.0.50 of virtual network 0 is in use.", |cloud| {
        network::hold(cloud, admin, made, "LEASES=[IP=10.0.0.50]")
    });
    let shown = document(&world, admin, made);
    assert!(element(&shown, "LEASES").contains("<VM>-1</VM>"), "{shown}");
    world.refusal(|cloud| network::update_range(cloud, admin, made, "AR=[AR_ID=0,SIZE=10]"));
    world.refusal(|cloud| network::remove_range(cloud, admin, made, 0, false));
    world.refusal(|cloud| network::delete(cloud, admin, made));
    let reserved = network::reserve(cloud, admin, made, "NAME=\"r1\"\nSIZE=2\n").unwrap();
    recount(&world);
    assert_eq!(used(&world, made), 3);
    network::reserve(cloud, admin, made, &format!("NETWORK_ID={reserved}\nSIZE=3\n")).unwrap();
    recount(&world);
    let vm = make(&world, admin, &format!("NIC=[NETWORK_ID={reserved}]")).unwrap();
    assert_eq!(text(&nic(&world, vm, 0), "PARENT_NETWORK_ID"), made.to_string());
    world.refusal(|cloud| network::free_range(cloud, admin, reserved, 0));
    world.refusal(|cloud| network::delete(cloud, admin, reserved));
    world.refusal(|cloud| network::reserve(cloud, admin, reserved, "NAME=again\nSIZE=1\n"));
    world.refusal(|cloud| network::free_range(cloud, admin, made, 0));
    document(&world, admin, reserved);
    api::vm::action(cloud, admin, "terminate-hard", vm).unwrap();
    network::free_range(cloud, admin, reserved, 0).unwrap();
    recount(&world);
    network::delete(cloud, admin, reserved).unwrap();
    network::release(cloud, admin, made, "LEASES=[IP=10.0.0.50]").unwrap();
    assert_eq!(used(&world, made), 0);
    network::remove_range(cloud, admin, made, 0, false).unwrap();
    valid(network::pool(cloud, admin, -2, -1, -1).unwrap());
    network::delete(cloud, admin, made).unwrap();
    recount(&world);
}

#[test]
fn a_large_reservation_is_one_run_and_comes_back_whole() {
    let world = World::new();
    let text = "NAME=big\nVN_MAD=bridge\nAR=[TYPE=IP4,IP=\"10.0.0.0\",SIZE=65536]\n";
    let big = network::allocate(&world.cloud, &world.admin, text, -1).unwrap();
    let one = network::reserve(&world.cloud, &world.admin, big, "NAME=a\nSIZE=40000\n").unwrap();
    world.refusal(|cloud| network::reserve(cloud, &world.admin, big, "NAME=b\nSIZE=40000\n"));
    recount(&world);
    network::delete(&world.cloud, &world.admin, one).unwrap();
    assert_eq!(used(&world, big), 0);
    network::reserve(&world.cloud, &world.admin, big, "NAME=b\nSIZE=65536\n").unwrap();
    recount(&world);
}

#[test]
fn a_dummy_network_whose_range_has_no_size_fails_until_it_is_recovered() {
    let world = World::new();
    let text = "NAME=v\nVN_MAD=dummy\nBRIDGE=vbr0\nAR=[TYPE=IP4,IP=\"10.0.0.1\",SIZE=-1]\n";
    let id = network::allocate(&world.cloud, &world.admin, text, -1).unwrap();
    assert_eq!(element(&document(&world, &world.admin, id), "STATE"), "<STATE>5</STATE>");
    world.refusal(|_| make(&world, &world.admin, "NIC=[NETWORK=v]"));
    network::recover(&world.cloud, &world.admin, id, 1).unwrap();
    assert_eq!(element(&document(&world, &world.admin, id), "STATE"), "<STATE>1</STATE>");
    world.refusal(|cloud| network::recover(cloud, &world.admin, id, 1));
    network::delete(&world.cloud, &world.admin, id).unwrap();
}

#[test]
fn the_owner_of_a_reservation_moves_it_to_no_other_bridge() {
    let world = World::new();
    let lan = world.add_network("lan");
    let elsewhere = "NAME=mine\nSIZE=4\nBRIDGE=br9\n";
    let refusal = world.refusal(|cloud| network::reserve(cloud, &world.bob, lan, elsewhere));
    assert!(refusal.code() == 512 && refusal.to_string().contains("BRIDGE"), "{refusal}");
    let mine = network::reserve(&world.cloud, &world.bob, lan, "NAME=mine\nSIZE=4\n").unwrap();
    let row = world.read(|tx| tx.network(mine));
    assert_eq!((row.uid, row.bridge.as_str(), row.parent_id), (world.bob.uid, "br0", Some(lan)));
    for text in ["BRIDGE=br9", "VN_MAD=802.1Q", "PHYDEV=eth0", "VLAN_ID=7", "LIBVIRT_NETWORK=default"] {
        let refusal = world.refusal(|cloud| network::update(cloud, &world.bob, mine, text, 1));
        assert_eq!(refusal.code(), 512, "{text}: {refusal}");
    }
    let refusal = world.refusal(|cloud| network::update_range(cloud, &world.bob, mine, "AR=[AR_ID=0,BRIDGE=br9]"));
    assert_eq!(refusal.code(), 512, "{refusal}");
    let refusal = world.refusal(|cloud| network::add_range(cloud, &world.bob, mine, "AR=[TYPE=ETHER,SIZE=5]"));
    assert_eq!(refusal.code(), 512, "{refusal}");
    // He may change what is his; what he leaves out of the host's stays.
    network::update(&world.cloud, &world.bob, mine, "NOTE=mine\n", 0).unwrap();
    let row = world.read(|tx| tx.network(mine));
    assert_eq!((row.bridge.as_str(), row.vn_mad.as_str()), ("br0", "bridge"));
    assert!(row.template.contains("NOTE=\"mine\""), "{}", row.template);
}

#[test]
fn who_may_not_manage_a_network_sees_the_leases_of_his_own_vms_only() {
    let world = World::new();
    let lan = world.add_network("lan");
    make(&world, &world.alice, "NIC=[NETWORK=lan]").unwrap();
    let bobs = make(&world, &world.bob, "NIC=[NETWORK_ID=0]").unwrap();
    network::hold(&world.cloud, &world.alice, lan, "LEASES=[IP=\"10.0.0.9\"]").unwrap();
    assert_eq!(document(&world, &world.alice, lan).matches("<LEASE>").count(), 3);
    let seen = document(&world, &world.bob, lan);
    assert_eq!(seen.matches("<LEASE>").count(), 1);
    assert!(seen.contains(&format!("<VM>{bobs}</VM>")) && seen.contains("<USED_LEASES>3</USED_LEASES>"), "{seen}");
    assert_eq!(element(&seen, "UPDATED_VMS"), format!("<UPDATED_VMS><ID>{bobs}</ID></UPDATED_VMS>"));
}

#[test]
fn cards_come_and_go_at_once_while_the_machine_is_off() {
    let world = World::new();
    let lan = world.add_network("lan");
    let group = security_group::allocate(&world.cloud, &world.alice, "NAME=g\nDESCRIPTION=test\n").unwrap();
    let vm = world.add_running_vm("");
    world.power_off(vm);
    let (cloud, alice) = (&world.cloud, &world.alice);
    vm_nics::attach(cloud, alice, vm, &format!("NIC = [ NETWORK_ID = {lan} ]")).unwrap();
    vm_nics::update(cloud, alice, vm, 0, "NIC=[MODEL=e1000,IP=\"1.2.3.4\",BRIDGE_TYPE=none]", 1).unwrap();
    vm_nics::security_group(cloud, alice, vm, 0, group, true).unwrap();
    let card = nic(&world, vm, 0);
    assert_eq!((text(&card, "MODEL"), text(&card, "IP")), ("e1000".into(), "10.0.0.1".into()));
    assert_eq!((text(&card, "BRIDGE_TYPE"), text(&card, "SECURITY_GROUPS")), ("linux".into(), format!("0,{group}")));
    recount(&world);
    // A group is followed by its VMs, and not deleted under them.
    let rule = "RULE=[PROTOCOL=TCP,RULE_TYPE=inbound,RANGE=\"22\"]";
    security_group::update(cloud, alice, group, rule, 1).unwrap();
    assert!(world.vm_row(vm).template.contains("RANGE=\"22\""));
    // The published schema knows no RANGE in a RULE, so this document is not held against it.
    assert_eq!(
        element(&security_group::info(cloud, alice, group).unwrap(), "UPDATED_VMS"),
        "<UPDATED_VMS><ID>0</ID></UPDATED_VMS>"
    );
    let refusal = world.refusal(|cloud| security_group::delete(cloud, alice, group));
    assert_eq!(refusal.code(), 2048, "{refusal}");
    vm_nics::attach(cloud, alice, vm, "NIC_ALIAS=[NETWORK=lan,PARENT=NIC0]").unwrap();
    assert_eq!(used(&world, lan), 2);
    recount(&world);
    world.vm_document(alice, vm);
    vm_nics::security_group(cloud, alice, vm, 0, group, false).unwrap();
    world.refusal(|cloud| vm_nics::security_group(cloud, alice, vm, 0, group, false));
    assert!(!world.vm_row(vm).template.contains("RANGE=\"22\""));
    vm_nics::detach(cloud, alice, vm, 0).unwrap();
    assert_eq!((used(&world, lan), world.phase(vm)), (0, VmPhase::POWEROFF), "its alias went with it");
    world.refusal(|cloud| vm_nics::detach(cloud, alice, vm, 0));
    security_group::delete(cloud, alice, group).unwrap();
    assert!(world.open_jobs().is_empty());
    world.refuses(2048, "The default security group (ID 0) cannot be deleted.", |cloud| {
        security_group::delete(cloud, &world.admin, 0)
    });
    recount(&world);
}

#[test]
fn the_card_of_a_running_machine_is_a_job_and_its_address_is_taken_from_the_beginning() {
    let world = World::new();
    let lan = world.add_network("lan");
    let vm = world.add_running_vm("");
    vm_nics::attach(&world.cloud, &world.alice, vm, "NIC=[NETWORK=lan]").unwrap();
    assert_eq!(world.phase(vm), VmPhase::active(LcmState::HotplugNic));
    let card = nic(&world, vm, 0);
    assert_eq!((text(&card, "ATTACH"), used(&world, lan)), ("YES".into(), 1));
    recount(&world);
    let jobs = world.open_jobs();
    assert_eq!((jobs.len(), jobs[0].kind.as_str(), jobs[0].vm_id), (1, "ATTACH_NIC", Some(vm)));
    let plan: NicPlan = job::plan(&jobs[0]).unwrap();
    assert_eq!(plan.nic_id, 0);
    assert!(plan.nic.contains("02:00:0a:00:00:01"), "{}", plan.nic);
    let refusal = world.refusal(|cloud| vm_nics::attach(cloud, &world.alice, vm, "NIC=[NETWORK=lan]"));
    assert_eq!(refusal.code(), 2048, "{refusal}");
    world.refusal(|cloud| vm_nics::detach(cloud, &world.alice, vm, 0));
    world.end_jobs();
    world.step(vm, VmEvent::ChangeDone(one_core::lifecycle::VmChange::Nic));
    world.refusal(|cloud| vm_nics::detach(cloud, &world.alice, vm, 7));
    vm_nics::detach(&world.cloud, &world.alice, vm, 0).unwrap();
    assert_eq!((world.open_jobs()[0].kind.as_str(), used(&world, lan)), ("DETACH_NIC", 1));
    recount(&world);
}

#[test]
fn a_restored_template_finds_its_network_and_takes_its_address_when_it_is_free() {
    let world = World::new();
    world.add_network("lan");
    let vm = world.add_running_vm("NIC=[NETWORK=lan,IP=\"10.0.0.7\"]");
    let wish = "NIC=[NETWORK=lan,IP=\"10.0.0.7\"]";
    world.refusal(|_| make(&world, &world.alice, wish));
    world.edit_vm(vm, |row| row.state = 6);
    world.cloud.store.write(|tx| oned::ledger::release_images(tx, vm)).unwrap();
    let heir = make(&world, &world.alice, wish).unwrap();
    assert_eq!(text(&nic(&world, heir, 0), "IP"), "10.0.0.7");
    recount(&world);
}

#[test]
fn names_of_networks_and_groups_are_one_of_an_owner() {
    let world = World::new();
    let text = "NAME=lan\nVN_MAD=bridge\n";
    let first = network::allocate(&world.cloud, &world.admin, text, -1).unwrap();
    world.refuses(16384, "Error allocating a new virtual network. NAME is already taken by NET 0.", |cloud| {
        network::allocate(cloud, &world.admin, text, -1)
    });
    assert_eq!(world.read(|tx| tx.network(first)).bridge, "onebr0");
    for (text, start) in [
        ("VN_MAD=bridge\n", "No NAME"),
        ("NAME=x\n", "No VN_MAD"),
        ("NAME=x\nVN_MAD=vxlan\n", "PHYDEV is mandatory"),
        ("NAME=x\nVN_MAD=bridge\nAR=[TYPE=IP4,IP=\"10.0.0.1\",SIZE=0]\n", "Wrong SIZE"),
    ] {
        let refusal = world.refusal(|cloud| network::allocate(cloud, &world.admin, text, -1));
        let wanted = format!("Error allocating a new virtual network. {start}");
        assert!(refusal.to_string().starts_with(&wanted), "{refusal}");
    }
    let group = security_group::allocate(&world.cloud, &world.alice, "NAME=g\n").unwrap();
    world.refusal(|cloud| security_group::allocate(cloud, &world.alice, "NAME=g\n"));
    world.refusal(|cloud| security_group::allocate(cloud, &world.alice, "NAME=h\nRULE=[PROTOCOL=SMTP]\n"));
    let copy = security_group::clone(&world.cloud, &world.alice, group, "copy").unwrap();
    world.refusal(|cloud| security_group::clone(cloud, &world.mallory, copy, "theirs"));
    security_group::commit(&world.cloud, &world.alice, copy).unwrap();
    valid(security_group::pool(&world.cloud, &world.alice, -2, -1, -1).unwrap());
    assert_eq!(world.read(|tx| tx.security_group(copy)).permissions, octal(0o600));
}

#[test]
fn a_network_that_is_deleted_leaves_vdcs_and_their_rules() {
    let world = World::new();
    let id = world.add_network("lan");
    let vdc = api::vdc::allocate(&world.cloud, &world.admin, "NAME=v\n").unwrap();
    let member = api::vdc::Member { kind: ObjectKind::Network, zone: 0, object: id };
    let rules = || format!("{:?}", world.read(|tx| tx.acl_list()));
    let before = rules();
    api::vdc::set_group(&world.cloud, &world.admin, vdc, TEAM, true).unwrap();
    api::vdc::add(&world.cloud, &world.admin, vdc, member).unwrap();
    assert_ne!(rules(), before);
    network::delete(&world.cloud, &world.admin, id).unwrap();
    assert_eq!(rules(), before);
    assert!(world.read(|tx| tx.vdc_members(vdc, "NET")).is_empty());
    assert!(!valid(api::vdc::info(&world.cloud, &world.admin, vdc).unwrap()).contains("<VNET_ID>"));
}
