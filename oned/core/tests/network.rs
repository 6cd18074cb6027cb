//! Virtual networks from outside: ranges, leases, reservations, NICs, rules, and their documents against OpenNebula's
//! schemas and golden files (`UPDATE_GOLDEN=1` rewrites these, with a line break between elements).
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use one_core::access::Permissions;
use one_core::doc::{self, NetworkView, Owner, RangeView, SecurityGroupView};
use one_core::network::address::Mac;
use one_core::network::definition::{Definition, define};
use one_core::network::lease::{
    LeaseOwner, LeaseTable, Place, Scope, Taken, Wish, choose, hold, leased, lowest_free_run, release,
};
use one_core::network::nic::{self, Attachment, Kind, NetworkChoice, NetworkOwner};
use one_core::network::range::{AddressRange, MAX_SIZE, MacSource, RangeType};
use one_core::network::ranges::{self, disjoint};
use one_core::network::reservation::{Request, Target, origin, reserve};
use one_core::network::security;
use one_core::refusal::Refusal;
use one_core::template::{Template, Vector};
use proptest::prelude::*;

fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

fn vector(inside: &str) -> Vector {
    template(&format!("V=[{inside}]\n")).vector("V").unwrap().clone()
}

fn parse(ar_id: i64, inside: &str) -> Result<AddressRange, Refusal> {
    AddressRange::parse(&vector(inside), ar_id, &mut MacSource::default())
}

fn range(ar_id: i64, inside: &str) -> AddressRange {
    parse(ar_id, inside).unwrap()
}

fn sentence<T: std::fmt::Debug>(result: Result<T, Refusal>) -> String {
    result.unwrap_err().to_string()
}

fn scope(ranges: &[AddressRange]) -> Scope<'_> {
    Scope { id: 3, ranges }
}

fn place(ar_id: i64, index: u32) -> Place {
    Place { ar_id, index }
}

fn ip(range: &AddressRange, index: u32) -> String {
    range.addresses(index).unwrap().ip.unwrap().to_string()
}

fn pairs(vector: &Vector) -> BTreeMap<&str, &str> {
    vector.iter().collect()
}

// ---- ranges

#[test]
fn a_mac_follows_from_the_ip_and_the_ipv6_from_the_mac() {
    let range = range(0, "TYPE=IP4_6, IP=192.168.0.1, SIZE=300, GLOBAL_PREFIX=\"2001:db8::\", ULA_PREFIX=\"fd00:1::\"");
    let first = range.addresses(0).unwrap();
    assert_eq!(first.mac.to_string(), "02:00:c0:a8:00:01");
    assert_eq!(first.ip6_global.unwrap().to_string(), "2001:db8::c0ff:fea8:1");
    assert_eq!(first.ip6_ula.unwrap().to_string(), "fd00:1::c0ff:fea8:1");
    assert_eq!(first.ip6_link.unwrap().to_string(), "fe80::c0ff:fea8:1");
    let last = range.addresses(299).unwrap();
    assert_eq!((last.mac.to_string().as_str(), ip(&range, 299).as_str()), ("02:00:c0:a8:01:2c", "192.168.1.44"));
    assert_eq!(range.addresses(300), None);
}

#[test]
fn a_given_mac_and_a_static_ipv6_count_on() {
    let range = range(
        1,
        "TYPE=IP4_6_STATIC, IP=10.0.0.1, MAC=\"52:54:0:0:0:ff\", IP6=\"2001:db8::ff\", PREFIX_LENGTH=64, SIZE=2",
    );
    let second = range.addresses(1).unwrap();
    assert_eq!(second.mac.to_string(), "52:54:00:00:01:00");
    assert_eq!(second.ip6.unwrap().to_string(), "2001:db8::100");
    assert_eq!(second.ip6_link, None);
}

#[test]
fn a_static_range_without_size_takes_the_rest_of_its_prefix() {
    let text = "TYPE=IP6_STATIC, IP6=\"2001:db8::f0\", MAC=\"02:00:00:00:00:01\", PREFIX_LENGTH=";
    assert_eq!(range(0, &format!("{text}120")).size(), 16);
    assert_eq!(range(0, &format!("{text}64")).size(), MAX_SIZE);
    assert_eq!(range(0, &format!("{text}128")).size(), 1);
    assert!(sentence(parse(0, &format!("{text}120, SIZE=17"))).contains("run past the last address of the prefix"));
}

#[test]
fn ranges_without_ip_get_macs_that_do_not_meet() {
    let mut macs = MacSource { prefix: 0x0200, low: u32::MAX - 5 };
    let ether = vector("TYPE=ETHER, SIZE=10");
    let first = AddressRange::parse(&ether, 0, &mut macs).unwrap();
    let second = AddressRange::parse(&ether, 1, &mut macs).unwrap();
    disjoint(&[first], &second).unwrap();
}

#[test]
fn a_bad_range_is_refused_with_the_attribute_that_is_wrong() {
    for (text, expected) in [
        ("SIZE=1", "Unknown or missing address range TYPE"),
        ("TYPE=IP5, SIZE=1", "Unknown or missing address range TYPE"),
        ("TYPE=IP4, SIZE=1", "Wrong or empty IP attribute"),
        ("TYPE=IP4, SIZE=1, IP=10.0.0.256", "IP=10.0.0.256"),
        ("TYPE=IP4, SIZE=1, IP=\"::1\"", "IP=::1"),
        ("TYPE=IP4, IP=10.0.0.1", "SIZE is missing"),
        ("TYPE=IP4, IP=10.0.0.1, SIZE=0", "SIZE=0"),
        ("TYPE=IP4, IP=10.0.0.1, SIZE=1048577", "1 to 1048576"),
        ("TYPE=IP4, IP=10.0.0.1, SIZE=-1", "SIZE=-1"),
        ("TYPE=IP4, IP=10.0.0.1, SIZE=99999999999999999999", "Wrong SIZE"),
        ("TYPE=IP4, IP=255.255.255.255, SIZE=2", "run past the last"),
        ("TYPE=IP4, IP=10.0.0.1, SIZE=2, MAC=\"02:00:ff:ff:ff:ff\"", "run past the last MAC"),
        ("TYPE=IP4, IP=10.0.0.1, SIZE=2, MAC=\"02:00:ff:ff:ff\"", "Wrong format for MAC"),
        ("TYPE=IP4, IP=10.0.0.1, SIZE=2, MAC=\"02:00:ff:ff:ff:+1\"", "Wrong format for MAC"),
        ("TYPE=ETHER, SIZE=2, MAC=\"01:00:00:00:00:01\"", "group address"),
        ("TYPE=IP6, SIZE=2, GLOBAL_PREFIX=zz", "IP6 global address prefix"),
        ("TYPE=IP6_STATIC, SIZE=2, PREFIX_LENGTH=64", "Wrong or empty IP6 attribute"),
        ("TYPE=IP6_STATIC, SIZE=2, IP6=\"::1\"", "PREFIX_LENGTH"),
        ("TYPE=IP6_STATIC, SIZE=2, IP6=\"::1\", PREFIX_LENGTH=129", "PREFIX_LENGTH"),
        ("TYPE=IP4, IP=10.0.0.1, SIZE=2, IPAM_MAD=equinix", "equinix"),
    ] {
        let refusal = sentence(parse(0, text));
        assert!(refusal.contains(expected), "{text}: {refusal}");
    }
}

#[test]
fn a_range_keeps_what_it_does_not_know_and_drops_what_the_daemon_writes() {
    let range = range(
        7,
        "TYPE=ip4, IP=10.0.0.1, SIZE=2, AR_ID=1, USED_LEASES=9, BRIDGE=br1, COLOR=red, GLOBAL_PREFIX=x, IP6=y",
    );
    let vector = range.to_vector();
    let expected = [("AR_ID", "7"), ("TYPE", "IP4"), ("SIZE", "2"), ("MAC", "02:00:0a:00:00:01"), ("IP", "10.0.0.1")];
    let expected: BTreeMap<_, _> = expected.into_iter().chain([("BRIDGE", "br1"), ("COLOR", "red")]).collect();
    assert_eq!(pairs(&vector), expected);
    assert_eq!(AddressRange::try_from(vector).unwrap(), range);
}

#[test]
fn an_update_changes_size_and_free_attributes_only() {
    let mut ar = range(0, "TYPE=IP4_6, IP=10.0.0.1, SIZE=10, GLOBAL_PREFIX=\"2001:db8::\", COLOR=red");
    ar.update(&vector("AR_ID=9, TYPE=ETHER, IP=1.1.1.1, MAC=\"02:00:00:00:00:00\", SIZE=20, SHAPE=round"), Some(9))
        .unwrap();
    let expected = range(0, "TYPE=IP4_6, IP=10.0.0.1, SIZE=20, GLOBAL_PREFIX=\"2001:db8::\", SHAPE=round");
    assert_eq!(ar, expected);
    for (change, last, expected) in [
        ("SIZE=9", Some(9), "used leases that would fall outside"),
        ("SIZE=0", None, "SIZE=0"),
        ("SIZE=x", None, "Wrong SIZE"),
        ("GLOBAL_PREFIX=\"2001:db9::\"", Some(0), "cannot be changed while"),
    ] {
        let refusal = sentence(ar.update(&vector(change), last));
        assert!(refusal.contains(expected), "{refusal}");
    }
    assert_eq!(ar, expected, "a refused update changes nothing");
    ar.update(&vector("SIZE=10, GLOBAL_PREFIX=\"2001:db9::\""), None).unwrap();
    assert_eq!(ar.size(), 10);
    let mut part = ar.part(0, 4, 0).unwrap();
    assert!(sentence(part.update(&vector("SIZE=5"), None)).contains("SIZE of a reservation"));
}

#[test]
fn ranges_with_an_address_in_common_are_refused() {
    let first = range(0, "TYPE=IP4, IP=10.0.0.1, SIZE=10");
    let clash = |text: &str| disjoint(std::slice::from_ref(&first), &range(1, text));
    assert!(sentence(clash("TYPE=IP4, IP=10.0.0.10, SIZE=1, MAC=\"02:01:00:00:00:01\"")).contains("address range 0"));
    assert!(clash("TYPE=ETHER, SIZE=1, MAC=\"02:00:0a:00:00:0a\"").is_err());
    clash("TYPE=IP4, IP=10.0.0.11, SIZE=10").unwrap();
    disjoint(std::slice::from_ref(&first), &first).unwrap();
}

#[test]
fn ranges_are_added_changed_and_removed_beside_the_others() {
    let ranges = two_ranges();
    let add = |text: &str| ranges::added(&ranges, &template(text), &mut MacSource::default());
    assert_eq!(add("AR=[TYPE=IP4, IP=10.0.9.1, SIZE=5]\n").unwrap().ar_id(), 5);
    assert!(sentence(add("A=b\n")).contains("AR vector attribute is missing"));
    assert!(sentence(add("AR=[TYPE=IP4, IP=10.0.0.1, SIZE=5]\n")).contains("shares addresses with address range 0"));
    let change = |text: &str, last| ranges::updated(&ranges, &template(text), |_| Ok(last));
    assert_eq!(change("AR=[AR_ID=0, SIZE=200]\n", Some(2)).unwrap().size(), 200);
    for (text, expected) in [
        ("AR=[SIZE=2]\n", "AR/AR_ID attribute is missing."),
        ("AR=[AR_ID=7]\n", "Address Range with ID 7 was not found."),
        ("AR=[AR_ID=0, SIZE=2]\n", "used leases that would fall outside"),
        ("AR=[AR_ID=0, SIZE=300]\n", "shares addresses with address range 4"),
        ("AR=[AR_ID=0, BRIDGE=\"a/b\"]\n", "Wrong BRIDGE a/b"),
        ("AR=[AR_ID=0, VLAN_ID=x]\n", "Wrong VLAN_ID x"),
        ("AR=[AR_ID=0, SECURITY_GROUPS=x]\n", "Wrong SECURITY_GROUPS: x"),
    ] {
        let refusal = sentence(change(text, Some(2)));
        assert!(refusal.contains(expected), "{refusal}");
    }
    ranges::may_remove(&ranges, 0, 0, false).unwrap();
    ranges::may_remove(&ranges, 0, 3, true).unwrap();
    assert!(sentence(ranges::may_remove(&ranges, 0, 3, false)).contains("leases in use: 3 of range 0"));
    assert!(sentence(ranges::may_remove(&ranges, 9, 0, true)).contains("does not exist"));
    ranges::may_delete(3, 0).unwrap();
    assert!(sentence(ranges::may_delete(3, 1)).contains("Can not remove a virtual network with leases in use"));
    let full = vec![ranges[0].clone(); ranges::MAX_RANGES];
    assert!(sentence(ranges::next_ar_id(&full)).contains("at most 1000"));
}

#[test]
fn the_original_s_port_ranges_follow_from_the_index() {
    let range = range(0, "TYPE=IP4, IP=10.0.0.1, SIZE=10, PORT_START=9000, PORT_SIZE=100");
    let ports = range.port_ranges(2).unwrap();
    assert_eq!(ports.map(|(_, value)| value), ["9201:9300".to_owned(), "1-100/9201".to_owned()]);
}

// ---- leases

fn two_ranges() -> Vec<AddressRange> {
    vec![
        range(4, "TYPE=IP4_6_STATIC, IP=10.0.1.1, SIZE=2, IP6=\"2001:db8::1\", PREFIX_LENGTH=64"),
        range(0, "TYPE=IP4, IP=10.0.0.1, SIZE=3"),
    ]
}

#[test]
fn the_lowest_free_address_of_the_lowest_range_comes_first() {
    let ranges = two_ranges();
    let mut table = LeaseTable::new();
    table.take(place(0, 1), LeaseOwner::Hold);
    let mut given = Vec::new();
    while let Ok(next) = choose(scope(&ranges), Wish::Any, &mut table) {
        assert!(table.take(next, LeaseOwner::Vm(1)));
        given.push((next.ar_id, next.index));
    }
    assert_eq!(given, [(0, 0), (0, 2), (4, 0), (4, 1)]);
    let full = sentence(choose(scope(&ranges), Wish::Any, &mut table));
    assert_eq!(full, "Cannot get IP/MAC lease from virtual network 3: no address is free.");
    assert!(sentence(choose(scope(&[]), Wish::Any, &mut table)).contains("has no address range"));
    table.give_back(place(0, 2)).unwrap();
    assert_eq!(choose(scope(&ranges), Wish::Any, &mut table).unwrap(), place(0, 2));
}

#[test]
fn a_wished_address_is_given_or_named_in_the_refusal() {
    let ranges = two_ranges();
    let mut table = LeaseTable::new();
    let mut want = |text: &str| choose(scope(&ranges), Wish::of_nic(&vector(text))?, &mut table);
    assert_eq!(want("IP=10.0.1.2").unwrap(), place(4, 1));
    assert_eq!(want("IP6=\"2001:db8:0::2\", IP=\"\"").unwrap(), place(4, 1));
    assert_eq!(want("MAC=\"02:00:0A:00:00:03\"").unwrap(), place(0, 2));
    let prefix = "Cannot get IP/MAC lease from virtual network 3: ";
    assert_eq!(sentence(want("IP=10.0.0.4")), format!("{prefix}IP 10.0.0.4 is in none of its address ranges."));
    assert_eq!(
        sentence(want("IP=10.0.0.1, MAC=\"02:00:0a:00:00:01\"")),
        "A NIC may wish for only one of IP, IP6 and MAC."
    );
    assert!(sentence(want("IP=here")).contains("IP: here"));
    table.take(place(0, 0), LeaseOwner::Vm(8));
    let taken = sentence(choose(scope(&ranges), Wish::Ip("10.0.0.1".parse().unwrap()), &mut table));
    assert_eq!(taken, format!("{prefix}IP 10.0.0.1 is in use."));
}

#[test]
fn an_address_is_held_once_and_released_only_from_a_hold() {
    let ranges = two_ranges();
    let mut table = LeaseTable::new();
    let held = hold(scope(&ranges), &template("LEASES=[IP=10.0.0.2]\n"), &mut table).unwrap();
    assert_eq!(held, place(0, 1));
    assert!(table.take(held, LeaseOwner::Hold));
    table.take(place(0, 0), LeaseOwner::Vm(5));
    let mut both = |text: &str| {
        let text = template(text);
        (sentence(hold(scope(&ranges), &text, &mut table)), sentence(release(scope(&ranges), &text, &mut table)))
    };
    for (text, expected) in [
        ("A=b\n", "Empty lease description."),
        ("LEASES=[AR_ID=0]\n", "Missing MAC, IP or IP6."),
        ("LEASES=[IP=10.0.0.1, MAC=\"02:00:0a:00:00:01\"]\n", "Only one attribute MAC, IP or IP6 can be set."),
        ("LEASES=[IP=10.9.0.1]\n", "IP 10.9.0.1 is not part of an address range of virtual network 3."),
        ("LEASES=[IP=10.0.0.3, AR_ID=4]\n", "IP 10.0.0.3 is not part of address range 4 of virtual network 3."),
    ] {
        assert_eq!(both(text), (expected.to_owned(), expected.to_owned()));
    }
    let (hold_refused, release_refused) = both("LEASES=[IP=10.0.0.1]\n");
    assert_eq!(hold_refused, "IP 10.0.0.1 of virtual network 3 is in use.");
    assert_eq!(release_refused, "IP 10.0.0.1 of virtual network 3 is not on hold, it belongs to VM 5.");
    let again = release(scope(&ranges), &template("LEASES=[MAC=\"02:00:0a:00:00:02\"]\n"), &mut table).unwrap();
    assert_eq!(table.give_back(again), Some(LeaseOwner::Hold));
    assert!(sentence(release(scope(&ranges), &template("LEASES=[IP=10.0.0.2]\n"), &mut table)).contains("not on hold"));
}

#[test]
fn a_million_leases_do_not_make_a_choice_slow() {
    let ranges = [range(0, &format!("TYPE=IP4, IP=10.0.0.0, SIZE={MAX_SIZE}"))];
    let all = (0..MAX_SIZE).map(|index| (place(0, index), LeaseOwner::Vm(i64::from(index % 7))));
    let mut table: LeaseTable = all.collect();
    assert!(choose(scope(&ranges), Wish::Any, &mut table).is_err());
    // Hours, if each choice looked at what is in use: freeing from the end, and taking again.
    for index in (0..MAX_SIZE).rev().step_by(16) {
        table.give_back(place(0, index)).unwrap();
    }
    for _ in 0..MAX_SIZE / 16 {
        let next = choose(scope(&ranges), Wish::Any, &mut table).unwrap();
        assert!(table.take(next, LeaseOwner::Hold));
    }
    assert_eq!(table.used(0), MAX_SIZE as usize);
    assert_eq!(table.release_all(LeaseOwner::Hold).len(), MAX_SIZE as usize / 16);
    assert_eq!((table.vms().len(), table.last(0)), (7, Some(MAX_SIZE - 2)));
}

// ---- reservations

#[test]
fn a_reservation_takes_a_run_of_free_addresses() {
    let ranges = two_ranges();
    let mut table: LeaseTable = [(place(0, 1), LeaseOwner::Vm(1))].into_iter().collect();
    let request = Request::parse(&template("SIZE=2\nNAME=mine\n")).unwrap();
    let reserved = reserve(scope(&ranges), false, &request, 0, &mut table).unwrap();
    assert_eq!(request.target, Target::New("mine".into()));
    assert_eq!(reserved.place, place(4, 0), "range 0 has no two in a row");
    assert_eq!((ip(&reserved.range, 0).as_str(), reserved.range.size()), ("10.0.1.1", 2));
    assert_eq!(reserved.range.parent_ar_id(), Some(4));
    let stored = AddressRange::try_from(reserved.range.to_vector()).unwrap();
    assert_eq!(stored, reserved.range);
    assert_eq!(origin(scope(&ranges), &stored), Some(place(4, 0)));
    let from = Request::parse(&template("SIZE=1\nNETWORK_ID=9\nAR_ID=0\nIP=10.0.0.3\n")).unwrap();
    assert_eq!(from.target, Target::Extend(9));
    let reserved = reserve(scope(&ranges), false, &from, 5, &mut table).unwrap();
    assert_eq!((reserved.place, reserved.range.ar_id()), (place(0, 2), 5));
    assert_eq!(origin(scope(&ranges), &reserved.range), Some(place(0, 2)));
}

#[test]
fn a_reservation_that_cannot_be_is_refused() {
    for (text, expected) in [
        ("NAME=a\n", "SIZE must be"),
        ("SIZE=0\nNAME=a\n", "SIZE must be"),
        ("SIZE=1\n", "NAME or NETWORK_ID must be set"),
        ("SIZE=1\nNETWORK_ID=x\n", "NETWORK_ID x"),
        ("SIZE=1\nNAME=a\nAR_ID=-1\n", "AR_ID must be equal or greater than 0"),
        ("SIZE=1\nNAME=a\nIP=10.0.0.1\n", "AR_ID must be specified for IP/MAC based reservations"),
        ("SIZE=1\nNAME=a\nAR_ID=0\nIP=10.0.0.1\nMAC=\"02:00:00:00:00:00\"\n", "Only one attribute"),
    ] {
        let refusal = sentence(Request::parse(&template(text)));
        assert!(refusal.contains(expected), "{refusal}");
    }
    let ranges = two_ranges();
    let mut table: LeaseTable = [(place(0, 2), LeaseOwner::Vm(1))].into_iter().collect();
    for (text, expected) in [
        ("SIZE=3\nNAME=a\n", "Not enough free addresses in an address range"),
        ("SIZE=1\nNAME=a\nAR_ID=9\n", "Not enough free addresses in address range 9, or it does not exist"),
        ("SIZE=2\nNAME=a\nAR_ID=0\nIP=10.0.0.2\n", "2 in a row from IP 10.0.0.2"),
        ("SIZE=4\nNAME=a\nAR_ID=4\nIP=10.0.1.2\n", "address range 4"),
    ] {
        let request = Request::parse(&template(text)).unwrap();
        let refusal = reserve(scope(&ranges), false, &request, 0, &mut table).unwrap_err();
        assert!(refusal.to_string().contains(expected), "{refusal}");
        assert_eq!(refusal.code(), 0x0800);
    }
    let request = Request::parse(&template("SIZE=1\nNAME=a\n")).unwrap();
    assert!(
        sentence(reserve(scope(&ranges), true, &request, 0, &mut table))
            .contains("Cannot reserve addresses from a reserved")
    );
}

// ---- definitions

fn defined(text: &str) -> Result<(Definition, Vec<AddressRange>), Refusal> {
    define(&template(text), 7, &BTreeSet::new(), &mut MacSource::default())
}

#[test]
fn a_network_is_filled_in_and_its_ranges_move_out_of_the_template() {
    let text = "NAME=net\nVN_MAD=bridge\nDNS=1.1.1.1\nAR=[TYPE=IP4,IP=10.0.0.1,SIZE=5]\nAR=[TYPE=ETHER,SIZE=5]\n";
    let (definition, ranges) = defined(text).unwrap();
    assert_eq!((definition.bridge.as_str(), definition.bridge_type.as_str()), ("onebr7", "linux"));
    assert_eq!(ranges.iter().map(AddressRange::ar_id).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(
        definition.template.to_text().trim(),
        "BRIDGE=\"onebr7\"\nBRIDGE_TYPE=\"linux\"\nDNS=\"1.1.1.1\"\nSECURITY_GROUPS=\"0\"\nVN_MAD=\"bridge\""
    );
    let groups = defined("NAME=n\nVN_MAD=fw\nSECURITY_GROUPS=\"5, 3,5\"\n").unwrap().0;
    assert_eq!(groups.template.scalar("SECURITY_GROUPS"), Some("0,3,5"));
}

#[test]
fn a_vlan_is_given_or_chosen() {
    let bridge_and_vlan = |text: &str, used: &[i64], id| {
        let used = used.iter().copied().collect();
        let (new, _) = define(&template(text), id, &used, &mut MacSource::default()).unwrap();
        (new.bridge, new.vlan_id, new.vlan_id_automatic)
    };
    let base = "NAME=n\nVN_MAD=\"802.1Q\"\nPHYDEV=eth0\n";
    let given = bridge_and_vlan(&format!("{base}VLAN_ID=50\nAUTOMATIC_VLAN_ID=YES\n"), &[50], 7);
    assert_eq!(given, ("onebr.50".into(), "50".into(), false));
    let automatic = format!("{base}AUTOMATIC_VLAN_ID=YES\n");
    assert_eq!(bridge_and_vlan(&automatic, &[9, 10], 7), ("onebr7".into(), "11".into(), true));
    assert_eq!(bridge_and_vlan(&automatic, &[4094], 4092), ("onebr4092".into(), "2".into(), true), "it goes round");
    let vxlan = "NAME=n\nVN_MAD=vxlan\nPHYDEV=eth0\nAUTOMATIC_VLAN_ID=yes\n";
    assert_eq!(bridge_and_vlan(vxlan, &[9], 7), ("onebr7".into(), "9".into(), true));
    let all: Vec<i64> = (0..5000).collect();
    let full = define(&template(&automatic), 7, &all.into_iter().collect(), &mut MacSource::default());
    assert!(sentence(full).starts_with("Cannot automatically assign VLAN_ID to network."));
    let ovs = defined("NAME=n\nVN_MAD=ovswitch_vxlan\nAUTOMATIC_OUTER_VLAN_ID=YES\n").unwrap().0;
    assert_eq!((ovs.bridge_type.as_str(), ovs.outer_vlan_id.as_str()), ("openvswitch", "9"));
}

#[test]
fn a_network_of_libvirt_needs_no_bridge_and_gets_none() {
    let (definition, _) = defined("NAME=n\nVN_MAD=dummy\nLIBVIRT_NETWORK=default\n").unwrap();
    assert_eq!((definition.bridge.as_str(), definition.libvirt_network()), ("", Some("default")));
    let plain = defined("NAME=n\nVN_MAD=bridge\nLIBVIRT_NETWORK=default\n").unwrap().0;
    assert_eq!(plain.bridge, "");
    assert!(sentence(plain.updated(Template::new())).contains("set BRIDGE, or keep LIBVIRT_NETWORK"));
    assert_eq!(plain.updated(template("BRIDGE=br0\n")).unwrap().bridge, "br0");
}

#[test]
fn a_network_without_what_its_driver_needs_is_refused() {
    for (text, expected) in [
        ("VN_MAD=bridge\n", "No NAME in template for Virtual Network."),
        ("NAME=n\n", "No VN_MAD in template for Virtual Network."),
        ("NAME=\"a;b\"\nVN_MAD=bridge\n", "Invalid NAME"),
        ("NAME=n\nVN_MAD=dummy\n", "BRIDGE is mandatory for driver dummy"),
        ("NAME=n\nVN_MAD=vxlan\n", "PHYDEV is mandatory for driver vxlan"),
        ("NAME=n\nVN_MAD=\"802.1Q\"\nPHYDEV=e\n", "VLAN_ID (or AUTOMATIC_VLAN_ID) is mandatory for driver 802.1Q"),
        ("NAME=n\nVN_MAD=ovswitch_vxlan\n", "OUTER_VLAN_ID (or AUTOMATIC_OUTER_VLAN_ID) is mandatory"),
        ("NAME=n\nVN_MAD=\"802.1Q\"\nPHYDEV=e\nVLAN_ID=4095\n", "Wrong VLAN_ID 4095"),
        ("NAME=n\nVN_MAD=bridge\nBRIDGE=\"a b\"\n", "Wrong BRIDGE a b"),
        ("NAME=n\nVN_MAD=bridge\nBRIDGE=abcdefghijklmnop\n", "Wrong BRIDGE"),
        ("NAME=n\nVN_MAD=bridge\nBRIDGE_TYPE=wood\n", "Wrong BRIDGE_TYPE wood"),
        ("NAME=n\nVN_MAD=bridge\nPHYDEV=\"a b\"\n", "Wrong PHYDEV"),
        ("NAME=n\nVN_MAD=bridge\nSECURITY_GROUPS=\"0,x\"\n", "Wrong SECURITY_GROUPS"),
        ("NAME=n\nVN_MAD=bridge\nAR=10\n", "Wrong AR definition"),
        ("NAME=n\nVN_MAD=bridge\nAR=[TYPE=IP4]\n", "Wrong or empty IP"),
        (
            "NAME=n\nVN_MAD=bridge\nAR=[TYPE=IP4,IP=1.0.0.1,SIZE=2]\nAR=[TYPE=IP4,IP=1.0.0.2,SIZE=2]\n",
            "shares addresses",
        ),
    ] {
        let refusal = sentence(defined(text));
        assert!(refusal.contains(expected), "{text}: {refusal}");
    }
}

#[test]
fn an_update_keeps_name_bridge_and_a_chosen_vlan() {
    let (old, _) = defined("NAME=n\nVN_MAD=\"802.1Q\"\nPHYDEV=e\nAUTOMATIC_VLAN_ID=YES\n").unwrap();
    let new =
        old.updated(template("NAME=other\nPHYDEV=f\nVLAN_ID=3\nMTU=9000\nSECURITY_GROUPS=4\nAR=[A=b]\n")).unwrap();
    assert_eq!((new.name.as_str(), new.bridge.as_str(), new.vlan_id.as_str()), ("n", "onebr7", "9"));
    assert_eq!((new.phydev.as_str(), new.security_groups.len()), ("f", 1));
    for gone in ["NAME", "AR", "VLAN_ID"] {
        assert!(!new.template.contains(gone), "{gone}");
    }
    assert!(sentence(old.updated(template("MTU=1500\n"))).contains("PHYDEV is mandatory"));
    let part = old.reservation("mine").unwrap();
    assert_eq!((part.name.as_str(), part.vlan_id.as_str(), part.vlan_id_automatic), ("mine", "9", false));
    assert_eq!(part.template.scalar("VLAN_ID"), Some("9"));
}

// ---- NICs

fn bound(wish: &str, default: Option<&str>, network_text: &str, ar: &str, index: u32) -> Vector {
    let (definition, _) = defined(network_text).unwrap();
    let network = nic::Network { id: 3, parent: None, clusters: &[0, 100], owner_name: None, definition: &definition };
    let range = range(2, ar);
    let lease = nic::Lease { range: &range, index };
    let wish = nic::with_default(&vector(wish), default.map(vector).as_ref());
    let nic = nic::bind(&wish, 42, 1, &network, lease).unwrap();
    let scope = Scope { id: 3, ranges: std::slice::from_ref(&range) };
    assert_eq!(leased(scope, &nic), Some(place(2, index)), "what is bound can be given back");
    nic
}

#[test]
fn a_bound_nic_has_everything_of_network_and_lease() {
    let wish = "NETWORK=net, NETWORK_UNAME=ana, IP=10.0.0.3, MODEL=e1000, SECURITY_GROUPS=\"7\", BRIDGE=br-evil, VLAN_ID=1, \
                PHYDEV=eth9, LIBVIRT_NETWORK=admin, TARGET=eth0, NAME=lan, MTU=1400";
    let network = "NAME=net\nVN_MAD=bridge\nBRIDGE=br0\nMTU=9000\nFILTER_IP_SPOOFING=YES\nSECURITY_GROUPS=5\n";
    let ar = "TYPE=IP4, IP=10.0.0.1, SIZE=5, SECURITY_GROUPS=6, INBOUND_AVG_BW=10";
    let nic = bound(wish, Some("MODEL=virtio, MTU=1200, VIRTIO_QUEUES=4, PHYDEV=eth8"), network, ar, 2);
    let expected: BTreeMap<&str, &str> = [
        ("AR_ID", "2"),
        ("BRIDGE", "br0"),
        ("BRIDGE_TYPE", "linux"),
        ("CLUSTER_ID", "0,100"),
        ("FILTER_IP_SPOOFING", "YES"),
        ("INBOUND_AVG_BW", "10"),
        ("IP", "10.0.0.3"),
        ("MAC", "02:00:0a:00:00:03"),
        ("MODEL", "e1000"),
        ("MTU", "1400"),
        ("NAME", "lan"),
        ("NETWORK", "net"),
        ("NETWORK_ID", "3"),
        ("NETWORK_UNAME", "ana"),
        ("NIC_ID", "1"),
        ("SECURITY_GROUPS", "0,5,6,7"),
        ("TARGET", "one-42-1"),
        ("VIRTIO_QUEUES", "4"),
        ("VN_MAD", "bridge"),
    ]
    .into_iter()
    .collect();
    assert_eq!(pairs(&nic), expected);
    assert_eq!(nic::attachment(&nic), Some(Attachment::Bridge("br0")));
    let wish = nic::to_wish(&nic, true);
    let left: Vec<&str> = pairs(&wish).into_keys().collect();
    assert_eq!(
        left,
        "FILTER_IP_SPOOFING INBOUND_AVG_BW IP MODEL MTU NAME NETWORK NETWORK_UNAME SECURITY_GROUPS VIRTIO_QUEUES"
            .split(' ')
            .collect::<Vec<_>>()
    );
    assert_eq!(nic::to_wish(&nic, false).get("IP"), None);
}

#[test]
fn a_range_overrules_its_network_where_it_reaches_into_the_host() {
    let network = "NAME=net\nVN_MAD=\"802.1Q\"\nPHYDEV=eth0\nVLAN_ID=5\nMTU=9000\n";
    let ar = "TYPE=IP4, IP=10.0.0.1, SIZE=5, BRIDGE=br9, VLAN_ID=6, MTU=1500";
    let nic = bound("NETWORK_ID=3", None, network, ar, 0);
    let got = ["BRIDGE", "VLAN_ID", "MTU", "PHYDEV", "NAME"].map(|key| nic.get(key).unwrap());
    assert_eq!(got, ["br9", "6", "1500", "eth0", "NIC1"]);
    let again = nic::to_wish(&nic, true);
    assert_eq!(pairs(&again).into_keys().collect::<Vec<_>>(), ["IP", "MTU", "NETWORK", "SECURITY_GROUPS"]);
}

#[test]
fn a_nic_of_another_user_s_network_names_its_owner() {
    let (definition, ranges) = defined("NAME=net\nVN_MAD=bridge\nAR=[TYPE=IP4,IP=10.0.0.1,SIZE=5]\n").unwrap();
    let network =
        nic::Network { id: 3, parent: Some(1), clusters: &[], owner_name: Some("ana"), definition: &definition };
    let lease = nic::Lease { range: &ranges[0], index: 0 };
    let nic = nic::bind(&vector("NETWORK_ID=3"), 1, 0, &network, lease).unwrap();
    assert_eq!((nic.get("NETWORK_UNAME"), nic.get("PARENT_NETWORK_ID")), (Some("ana"), Some("1")));
    let outside = nic::Lease { range: &ranges[0], index: 5 };
    assert!(sentence(nic::bind(&vector("NETWORK_ID=3"), 1, 0, &network, outside)).contains("no address number 5"));
}

#[test]
fn a_nic_leads_to_a_libvirt_network_a_bridge_or_nowhere() {
    let nic = bound("NETWORK_ID=3", None, "NAME=n\nVN_MAD=dummy\nLIBVIRT_NETWORK=default\n", "TYPE=ETHER, SIZE=1", 0);
    assert_eq!(nic::attachment(&nic), Some(Attachment::LibvirtNetwork("default")));
    for (text, expected) in [
        ("NETWORK=user", Some(Attachment::User)),
        ("NETWORK=default", Some(Attachment::LibvirtNetwork("default"))),
        ("BRIDGE=br0, NETWORK=user", Some(Attachment::Bridge("br0"))),
        ("NETWORK=user, NETWORK_ID=3", None),
        ("NETWORK_MODE=auto, NETWORK=user", None),
        ("LIBVIRT_NETWORK=user, NETWORK=x, NETWORK_ID=3, BRIDGE=br0", Some(Attachment::User)),
        ("MODEL=virtio", None),
    ] {
        assert_eq!(nic::attachment(&vector(text)), expected, "{text}");
    }
}

#[test]
fn a_nic_says_which_network_it_wants() {
    let name = |owner| NetworkChoice::Name { name: "net".into(), owner };
    for (text, expected) in [
        ("NETWORK_ID=5, NETWORK=x", NetworkChoice::Id(5)),
        ("NETWORK=net", name(NetworkOwner::Caller)),
        ("NETWORK=net, NETWORK_UNAME=ana", name(NetworkOwner::Name("ana".into()))),
        ("NETWORK=net, NETWORK_UNAME=ana, NETWORK_UID=4", name(NetworkOwner::Id(4))),
        ("NETWORK_MODE=AUTO, NETWORK=net", NetworkChoice::Auto),
        ("NETWORK_MODE=auto, NETWORK_ID=2", NetworkChoice::Id(2)),
        ("MODEL=virtio, NETWORK=\"\"", NetworkChoice::Nothing),
    ] {
        assert_eq!(nic::network_choice(&vector(text)).unwrap(), expected, "{text}");
    }
    let default = vector("NETWORK=net, MODEL=virtio");
    let merged = nic::with_default(&vector("MODEL=e1000, NETWORK=\"\""), Some(&default));
    assert_eq!(nic::network_choice(&merged).unwrap(), name(NetworkOwner::Caller));
    assert_eq!(merged.get("MODEL"), Some("e1000"));
    assert_eq!(leased(scope(&two_ranges()), &vector("MAC=\"02:00:0a:00:00:02\"")), Some(place(0, 1)));
    assert_eq!(leased(scope(&two_ranges()), &vector("MAC=\"02:00:0a:00:00:02\", AR_ID=4")), None);
    assert_eq!(sentence(nic::network_choice(&vector("NETWORK_ID=x"))), "Virtual network with ID: x does not exist");
    assert_eq!(sentence(nic::network_choice(&vector("NETWORK=n, NETWORK_UID=x"))), "Cannot get user in NETWORK_UID");
}

#[test]
fn aliases_are_numbered_behind_nics_and_known_to_their_parents() {
    let mut vm = template(
        "NIC_ALIAS=[NETWORK=a,PARENT=NIC1]\nNIC=[NETWORK=a,NIC_ID=9,NAME=front]\nNIC=[NETWORK=b,ALIAS_IDS=4]\n\
         NIC_ALIAS=[NETWORK=b,PARENT=front,NAME=vip]\nNIC_ALIAS=[NETWORK=c,PARENT=NIC1]\n",
    );
    nic::number_all(&mut vm).unwrap();
    let shown = |vm: &Template, name: &str, keys: [&str; 4]| -> Vec<String> {
        vm.vectors(name).map(|nic| keys.map(|key| nic.get(key).unwrap_or("-")).join(" ")).collect()
    };
    assert_eq!(shown(&vm, "NIC", ["NIC_ID", "NAME", "ALIAS_IDS", "PARENT_ID"]), ["0 front 3 -", "1 NIC1 2,4 -"]);
    let aliases = ["2 NIC1_ALIAS0 1 0", "3 vip 0 0", "4 NIC1_ALIAS1 1 1"];
    assert_eq!(shown(&vm, "NIC_ALIAS", ["NIC_ID", "NAME", "PARENT_ID", "ALIAS_ID"]), aliases);
    assert_eq!(nic::add(&mut vm, Kind::Nic, &vector("NETWORK=d, NIC_ID=0")).unwrap(), 5);
    assert_eq!(nic::add(&mut vm, Kind::Alias, &vector("NETWORK=d, PARENT=NIC5")).unwrap(), 6);
    let before = vm.clone();
    assert!(nic::add(&mut vm, Kind::Alias, &vector("PARENT=NIC9")).is_err());
    assert_eq!(vm, before, "a refused alias changes nothing");
    assert_eq!(shown(&vm, "NIC", ["NIC_ID", "NAME", "ALIAS_IDS", "NETWORK"])[2], "5 NIC5 6 d");
    let alias = vm.vectors("NIC_ALIAS").nth(2).unwrap();
    assert_eq!(pairs(&nic::to_wish(alias, true)), [("NETWORK", "c"), ("PARENT", "NIC1")].into_iter().collect());
    let gone = |gone: Vec<Vector>| gone.iter().filter_map(|nic| nic.int("NIC_ID")).collect::<Vec<_>>();
    assert_eq!(gone(nic::remove(&mut vm, 4)), [4]);
    assert_eq!(vm.vectors("NIC").nth(1).unwrap().get("ALIAS_IDS"), Some("2"));
    assert_eq!(gone(nic::remove(&mut vm, 1)), [1, 2]);
    assert_eq!(gone(nic::remove(&mut vm, 1)), [0; 0]);
    assert_eq!((vm.vectors("NIC").count(), vm.vectors("NIC_ALIAS").count()), (2, 2));
    for (text, expected) in [
        ("NIC=[A=b]\nNIC_ALIAS=[PARENT=NIC7]\n", "NIC named NIC7 not found for alias"),
        ("NIC=[A=b]\nNIC_ALIAS=[PARENT=NIC0,NETWORK_MODE=auto]\n", "Alias is incompatible with auto mode"),
    ] {
        assert_eq!(sentence(nic::number_all(&mut template(text))), expected);
    }
    let many = "NIC=[A=b]\n".repeat(nic::MAX_NICS + 1);
    assert!(sentence(nic::number_all(&mut template(&many))).contains("at most 256"));
}

// ---- security groups

#[test]
fn rules_are_checked_with_the_original_s_sentences() {
    for good in [
        "PROTOCOL=tcp, RULE_TYPE=inbound, RANGE=\"22,80:90,0,65535\"",
        "PROTOCOL=ICMP, RULE_TYPE=Outbound, ICMP_TYPE=8",
        "PROTOCOL=ICMPV6, RULE_TYPE=inbound, ICMPV6_TYPE=128",
        "PROTOCOL=IPSEC, RULE_TYPE=inbound, IP=10.0.0.0, SIZE=255",
        "PROTOCOL=ALL, RULE_TYPE=inbound, IP=\"2001:db8::\", SIZE=4",
        "PROTOCOL=ALL, RULE_TYPE=inbound, NETWORK_ID=3",
        "PROTOCOL=UDP, RULE_TYPE=inbound, RANGE=\"1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\"",
    ] {
        security::check_rule(&vector(good)).unwrap();
    }
    for (bad, expected) in [
        ("RULE_TYPE=inbound", "Wrong PROTOCOL in rule. Valid options: TCP, UDP, ICMP, ICMPV6, IPSEC, ALL."),
        ("PROTOCOL=ALL", "Wrong RULE_TYPE in rule. Valid options: INBOUND, OUTBOUND."),
        ("PROTOCOL=ALL, RULE_TYPE=inbound, RANGE=1", "RANGE is supported only for TCP and UDP protocols."),
        ("PROTOCOL=TCP, RULE_TYPE=inbound, RANGE=\"1,\"", "Invalid RANGE specification."),
        ("PROTOCOL=TCP, RULE_TYPE=inbound, RANGE=\"1:2:3\"", "Invalid RANGE specification."),
        ("PROTOCOL=TCP, RULE_TYPE=inbound, RANGE=\"+1\"", "Invalid RANGE specification."),
        ("PROTOCOL=TCP, RULE_TYPE=inbound, RANGE=65536", "RANGE out of bounds 0-65536."),
        ("PROTOCOL=TCP, RULE_TYPE=inbound, RANGE=\"9:8\"", "RANGE BEGIN value is greater than RANGE END value"),
        (
            "PROTOCOL=UDP, RULE_TYPE=inbound, RANGE=\"1,2,3,4,5,6,7,8,9,10,11,12,13,14,15:16\"",
            "Not more than 15 ports can be specified in a RULE",
        ),
        ("PROTOCOL=TCP, RULE_TYPE=inbound, ICMP_TYPE=8", "ICMP_TYPE is supported only for ICMP protocol."),
        ("PROTOCOL=ICMP, RULE_TYPE=inbound, ICMP_TYPE=x", "Wrong ICMP_TYPE, it must be integer from 0 to 255"),
        ("PROTOCOL=ALL, RULE_TYPE=inbound, IP=10.0.0.1", "Wrong or empty SIZE."),
        ("PROTOCOL=ALL, RULE_TYPE=inbound, IP=10.0.0, SIZE=1", "Wrong format for IP value."),
        ("PROTOCOL=ALL, RULE_TYPE=inbound, NETWORK_ID=x", "Wrong NETWORK_ID."),
    ] {
        assert_eq!(sentence(security::check_rule(&vector(bad))), expected, "{bad}");
    }
    let (name, group) = security::define(&template(
        "NAME=g\nRULE=[PROTOCOL=ALL,RULE_TYPE=inbound]\nRULE=[RULE_TYPE=inbound,PROTOCOL=ALL]\nRULE=[PROTOCOL=ALL,RULE_TYPE=outbound]\n",
    ))
    .unwrap();
    assert_eq!((name.as_str(), group.vectors("RULE").count(), group.contains("NAME")), ("g", 2, false));
    assert_eq!(sentence(security::define(&template("A=b\n"))), "No NAME in template for Security Group.");
    assert!(sentence(security::define(&template("NAME=g\nRULE=all\n"))).contains("a vector is needed"));
    let many = "RULE=[PROTOCOL=ALL,RULE_TYPE=inbound]\n".repeat(security::MAX_RULES + 1);
    assert!(sentence(security::checked(&template(&many))).contains("at most 1000 rules"));
}

#[test]
fn a_rule_for_a_network_becomes_one_for_each_of_its_ranges() {
    let group =
        template("RULE=[PROTOCOL=TCP,RULE_TYPE=inbound,NETWORK_ID=3]\nRULE=[PROTOCOL=ALL,RULE_TYPE=outbound]\n");
    let rules = security::vm_rules(5, "web", &group, |id| (id == 3).then(two_ranges)).unwrap();
    let key = |key: &str| rules.iter().map(|rule| rule.get(key).unwrap_or("-")).collect::<Vec<_>>();
    assert_eq!(key("SECURITY_GROUP_ID"), ["5", "5", "5"]);
    assert_eq!(key("SECURITY_GROUP_NAME"), ["web", "web", "web"]);
    assert_eq!(key("IP"), ["10.0.1.1", "10.0.0.1", "-"]);
    assert_eq!(key("SIZE"), ["2", "3", "-"]);
    assert_eq!(security::vm_rules(5, "web", &group, |_| None).unwrap().len(), 1);
    let many = |_| Some(vec![range(0, "TYPE=IP4, IP=10.0.0.1, SIZE=3"); security::MAX_VM_RULES + 1]);
    assert!(sentence(security::vm_rules(5, "web", &group, many)).contains("Security group 5"));
}

// ---- properties

fn any_range(ar_id: i64) -> impl Strategy<Value = AddressRange> {
    // Each range in an address space of its own, as `disjoint` demands.
    (0..6_usize, 1..12_u32, 0..200_u32).prop_map(move |(kind, size, start)| {
        let kind = ["ETHER", "IP4", "IP6", "IP4_6", "IP6_STATIC", "IP4_6_STATIC"][kind];
        range(
            ar_id,
            &format!(
                "TYPE={kind}, SIZE={size}, IP=10.{ar_id}.0.{start}, MAC=\"02:0{ar_id}:00:00:00:{start:02x}\", \
                 IP6=\"2001:db8:{ar_id}::{start:x}\", PREFIX_LENGTH=64, GLOBAL_PREFIX=\"2001:db8::\""
            ),
        )
    })
}

#[derive(Debug, Clone)]
enum Step {
    Any,
    Wish(usize, u32, u8),
    Hold(usize, u32),
    GiveBack(usize),
    Reserve(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        Just(Step::Any),
        (0..3_usize, 0..14_u32, 0..3_u8).prop_map(|(range, index, kind)| Step::Wish(range, index, kind)),
        (0..3_usize, 0..14_u32).prop_map(|(range, index)| Step::Hold(range, index)),
        any::<prop::sample::Index>().prop_map(|index| Step::GiveBack(index.index(64))),
        (1..5_u32).prop_map(Step::Reserve),
    ];
    prop::collection::vec(step, 0..60)
}

/// The address of an index as a wish, whether or not the range has it.
fn wish_for(range: &AddressRange, index: u32, kind: u8) -> Wish {
    let Some(addresses) = range.addresses(index) else { return Wish::Mac(Mac::new(0x0aff, index)) };
    match (kind, addresses.ip, addresses.ip6) {
        (0, Some(ip), _) => Wish::Ip(ip),
        (1, _, Some(ip6)) => Wish::Ip6(ip6),
        _ => Wish::Mac(addresses.mac),
    }
}

proptest! {
    #[test]
    fn no_address_is_ever_given_twice_and_each_lies_in_its_range(
        ranges in (any_range(0), any_range(1), any_range(2)).prop_map(|(a, b, c)| vec![c, a, b]),
        steps in steps(),
    ) {
        let scope = scope(&ranges);
        let mut table = LeaseTable::new();
        let mut model: BTreeMap<Place, LeaseOwner> = BTreeMap::new();
        for step in steps {
            let mut got: Vec<(Place, LeaseOwner)> = Vec::new();
            match step {
                Step::Any => {
                    let chosen = choose(scope, Wish::Any, &mut table);
                    let capacity: usize = ranges.iter().map(|range| range.size() as usize).sum();
                    prop_assert_eq!(chosen.is_ok(), model.len() < capacity);
                    got.extend(chosen.ok().map(|place| (place, LeaseOwner::Vm(1))));
                }
                Step::Wish(range, index, kind) => {
                    let wish = wish_for(&ranges[range], index, kind);
                    let wished = place(ranges[range].ar_id(), index);
                    let chosen = choose(scope, wish, &mut table);
                    let possible = index < ranges[range].size() && !model.contains_key(&wished);
                    prop_assert_eq!(chosen.clone().ok(), possible.then_some(wished));
                    got.extend(chosen.ok().map(|place| (place, LeaseOwner::Vm(2))));
                }
                Step::Hold(range, index) => {
                    let Some(addresses) = ranges[range].addresses(index) else { continue };
                    let text = template(&format!("LEASES=[MAC=\"{}\"]\n", addresses.mac));
                    let held = hold(scope, &text, &mut table);
                    got.extend(held.ok().map(|place| (place, LeaseOwner::Hold)));
                }
                Step::GiveBack(nth) => {
                    if let Some((&place, &owner)) = model.iter().nth(nth) {
                        prop_assert_eq!(table.give_back(place), Some(owner));
                        prop_assert_eq!(table.give_back(place), None);
                        model.remove(&place);
                        let wish = Wish::Mac(scope.addresses(place).unwrap().mac);
                        prop_assert_eq!(choose(scope, wish, &mut table).unwrap(), place, "released, so free again");
                    }
                }
                Step::Reserve(size) => {
                    let request = Request { size, target: Target::New("r".into()), ar_id: None, first: Wish::Any };
                    if let Ok(reserved) = reserve(scope, false, &request, 0, &mut table) {
                        prop_assert_eq!(origin(scope, &reserved.range), Some(reserved.place));
                        for offset in 0..size {
                            let at = place(reserved.place.ar_id, reserved.place.index + offset);
                            prop_assert_eq!(scope.addresses(at), reserved.range.addresses(offset));
                            got.push((at, LeaseOwner::Network(9)));
                        }
                    }
                }
            }
            for (place, owner) in got {
                prop_assert!(scope.addresses(place).is_some(), "{place:?} lies outside");
                prop_assert!(model.insert(place, owner).is_none(), "{place:?} is given twice");
                prop_assert!(table.take(place, owner));
                prop_assert!(!table.take(place, owner));
            }
        }
        let macs: BTreeSet<Mac> = model.keys().map(|place| scope.addresses(*place).unwrap().mac).collect();
        prop_assert_eq!(macs.len(), model.len());
        prop_assert!(table.iter().eq(model.iter().map(|(place, owner)| (*place, *owner))));
        prop_assert_eq!(table.clone(), model.into_iter().collect::<LeaseTable>());
    }

    #[test]
    fn index_and_address_are_inverse(
        start in any::<u32>(), start6 in any::<u128>(), size in 1..=MAX_SIZE, index in 0..MAX_SIZE, mac in any::<u32>(),
    ) {
        let text = format!(
            "TYPE=IP4_6_STATIC, IP={}, IP6=\"{}\", PREFIX_LENGTH=0, SIZE={size}, MAC=\"{}\"",
            std::net::Ipv4Addr::from_bits(start), std::net::Ipv6Addr::from_bits(start6), Mac::new(0x0200, mac)
        );
        let Ok(range) = parse(0, &text) else {
            let last = u128::from(size - 1);
            let over = u128::from(start) + last > u128::from(u32::MAX) || u128::from(mac) + last > u128::from(u32::MAX);
            prop_assert!(over || start6.checked_add(last).is_none());
            return Ok(());
        };
        let Some(addresses) = range.addresses(index) else { prop_assert!(index >= size); return Ok(()); };
        prop_assert_eq!(range.index_of_mac(addresses.mac), Some(index));
        prop_assert_eq!(range.index_of_ip(addresses.ip.unwrap()), Some(index));
        prop_assert_eq!(range.index_of_ip6(addresses.ip6.unwrap()), Some(index));
        prop_assert_eq!(addresses.mac.to_string().parse::<Mac>().unwrap(), addresses.mac);
        prop_assert_eq!(AddressRange::try_from(range.to_vector()).unwrap(), range);
    }

    #[test]
    fn an_address_outside_has_no_index(ip in any::<u32>(), mac in any::<u32>()) {
        let range = range(0, "TYPE=IP4, IP=10.0.0.1, SIZE=100, MAC=\"02:00:10:00:00:00\"");
        let inside = (0x0a00_0001..0x0a00_0065).contains(&ip);
        prop_assert_eq!(range.index_of_ip(ip.into()).is_some(), inside);
        prop_assert_eq!(range.index_of_mac(Mac::new(0x0200, mac)).is_some(), (0x1000_0000..0x1000_0064).contains(&mac));
        prop_assert_eq!(range.index_of_mac(Mac::new(0x0201, mac)), None);
    }

    #[test]
    fn a_run_is_free_wherever_it_is_looked_for(
        taken in prop::collection::btree_set(0..40_u32, 0..30), from in 0..40_u32, end in 0..45_u32, length in 1..6_u32,
    ) {
        let naive = (from..end).find(|start| start + length <= end && (*start..start + length).all(|i| !taken.contains(&i)));
        let mut table: LeaseTable = taken.iter().map(|index| (place(0, *index), LeaseOwner::Hold)).collect();
        prop_assert_eq!(table.free_run(0, from, end, length).unwrap(), naive);
        prop_assert_eq!(lowest_free_run(taken.iter().copied(), from, end, length), naive);
    }

    #[test]
    fn no_text_makes_ranges_rules_or_nics_panic(texts in prop::collection::vec("\\PC{0,12}|[0-9]{1,20}|[0-9a-f:.]{1,20}", 8)) {
        let keys = ["SIZE", "IP", "IP6", "MAC", "PREFIX_LENGTH", "GLOBAL_PREFIX", "RANGE", "PARENT"];
        for kind in ["ETHER", "IP4", "IP6", "IP4_6", "IP6_STATIC", "IP4_6_STATIC"] {
            let mut vector: Vector = keys.iter().zip(&texts).map(|(key, text)| (*key, text.as_str())).collect();
            vector.set("TYPE", kind);
            if let Ok(mut range) = AddressRange::parse(&vector, 0, &mut MacSource::default()) {
                prop_assert!(range.addresses(range.size() - 1).is_some());
                prop_assert_eq!(RangeType::from_name(kind), Some(range.kind()));
                let _ = range.update(&vector, Some(3));
            }
            let _ = Wish::of_nic(&vector);
            vector.set("PROTOCOL", "TCP");
            let _ = security::check_rule(&vector);
            let mut vm = Template::new();
            vm.push_vector("NIC", vector.clone());
            vm.push_vector("NIC_ALIAS", vector);
            let _ = nic::number_all(&mut vm);
        }
    }
}

// ---- documents

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn validate(document: &str, schema: &str) {
    let end = document.find(['>', '/']).expect("a document has a tag");
    let (tag, rest) = document.split_at(end);
    let document = format!("{tag} xmlns=\"http://opennebula.org/XMLSchema\"{rest}");
    let mut child = Command::new("xmllint")
        .args(["--noout", "--schema"])
        .arg(root().join("../../tests/xsd").join(schema))
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("xmllint does not start; install it: apt-get install libxml2-utils");
    child.stdin.take().unwrap().write_all(document.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{schema}: {complaint}\n{document}");
}

fn golden(name: &str, document: &str) {
    let path = root().join("tests/golden/doc").join(format!("{name}.xml"));
    let text = document.replace("><", ">\n<") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; UPDATE_GOLDEN=1 writes it", path.display()));
    assert_eq!(text, expected, "{name}: differs from the golden file; UPDATE_GOLDEN=1 rewrites it");
}

fn owner() -> Owner {
    Owner { uid: 2, gid: 1, uname: "ana".into(), gname: "users".into() }
}

fn twice(root: &str, document: String) -> String {
    doc::pool(root, [document.clone(), document].into_iter())
}

fn network_view() -> NetworkView {
    let text = "NAME=private\nVN_MAD=vxlan\nPHYDEV=eth0\nAUTOMATIC_VLAN_ID=YES\nDNS=\"10.0.0.254\"\n";
    let (definition, _) = defined(text).unwrap();
    let six = "TYPE=IP4_6, IP=10.0.0.1, SIZE=100, GLOBAL_PREFIX=\"2001:db8::\", ULA_PREFIX=\"fd00::\", VLAN_ID=9, CVLANS=1, \
               SHARED=NO, VN_MAD=vxlan, PORT_START=9000, PORT_SIZE=10";
    let parent = range(1, "TYPE=ETHER, SIZE=9, MAC=\"02:00:00:00:01:00\"");
    let leases =
        vec![(0, LeaseOwner::Hold), (1, LeaseOwner::Vm(7)), (2, LeaseOwner::Network(8)), (3, LeaseOwner::Router(4))];
    let shown = |range, leases: Vec<(u32, LeaseOwner)>| RangeView {
        range,
        used_leases: leases.len() as u64,
        next_index: leases.len() as u32,
        leases,
    };
    NetworkView {
        id: 7,
        owner: owner(),
        lock: Some(doc::Lock { level: 1, owner: 2, time: 1_669_900_000, request_id: -1 }),
        permissions: Permissions::from_octal(0o640),
        clusters: vec![100, 0],
        state: 1,
        prev_state: 2,
        parent_network_id: Some(1),
        definition,
        vrouters: vec![4],
        updated_vms: vec![7],
        ranges: vec![shown(range(0, six), leases), shown(parent.part(4, 5, 1).unwrap(), Vec::new())],
        ..NetworkView::default()
    }
}

fn group_view() -> SecurityGroupView {
    SecurityGroupView {
        id: 100,
        owner: owner(),
        name: "web".into(),
        permissions: Permissions::from_octal(0o600),
        updated_vms: vec![7],
        template: template(
            "RULE=[RULE_TYPE=inbound,PROTOCOL=TCP]\nRULE=[PROTOCOL=ALL,RULE_TYPE=outbound]\nDESCRIPTION=\"the web\"\n",
        ),
        ..SecurityGroupView::default()
    }
}

/// A view whose pool form has nothing that the pool's schema does not list.
fn plain_network_view() -> NetworkView {
    let mut view = network_view();
    let range = range(0, "TYPE=IP4, IP=10.0.0.1, SIZE=100, VLAN_ID=9, CVLANS=1, SHARED=NO, VN_MAD=vxlan");
    view.ranges[0].range = range;
    view
}

#[test]
fn every_network_document_obeys_its_schema() {
    let fixed = range(0, "TYPE=IP4_6_STATIC, IP=10.0.0.1, SIZE=9, IP6=\"2001:db8::1\", PREFIX_LENGTH=64");
    for view in [network_view(), plain_network_view(), NetworkView::default()] {
        validate(&doc::network(&view), "vnet.xsd");
    }
    for view in [plain_network_view(), NetworkView::default()] {
        validate(&twice("VNET_POOL", doc::network_short(&view)), "vnet_pool.xsd");
    }
    validate(&doc::pool("VNET_POOL", std::iter::empty()), "vnet_pool.xsd");
    for view in [group_view(), SecurityGroupView::default()] {
        validate(&doc::security_group(&view), "security_group.xsd");
        validate(&twice("SECURITY_GROUP_POOL", doc::security_group(&view)), "security_group_pool.xsd");
    }
    validate(&doc::pool("SECURITY_GROUP_POOL", std::iter::empty()), "security_group_pool.xsd");
    // The schema does not know PREFIX_LENGTH, which every static range has; all the rest of such a range is in order.
    let mut view = NetworkView::default();
    view.ranges.push(RangeView { range: fixed, used_leases: 1, next_index: 1, leases: vec![(0, LeaseOwner::Hold)] });
    let document = doc::network(&view).replace("<PREFIX_LENGTH><![CDATA[64]]></PREFIX_LENGTH>", "");
    assert!(document.contains("<IP6_END><![CDATA[2001:db8::9]]></IP6_END>"), "{document}");
    validate(&document, "vnet.xsd");
}

#[test]
fn no_string_breaks_a_network_document() {
    for text in ["", "a]]>b]]>", "<ID>7</ID>&amp;", "]]\u{0}>", "\u{1}\u{ffff}", "cr\r\nlf"] {
        let mut view = plain_network_view();
        view.definition = Definition {
            name: text.into(),
            vn_mad: text.into(),
            phydev: text.into(),
            bridge: text.into(),
            bridge_type: text.into(),
            vlan_id: text.into(),
            outer_vlan_id: text.into(),
            ..Definition::default()
        };
        view.definition.template.set("DNS", text);
        let mut vector = view.ranges[0].range.to_vector();
        vector.set("CVLANS", text);
        view.ranges[0].range = AddressRange::try_from(vector).unwrap();
        validate(&doc::network(&view), "vnet.xsd");
        validate(&twice("VNET_POOL", doc::network_short(&view)), "vnet_pool.xsd");
        let mut group = SecurityGroupView { name: text.into(), ..group_view() };
        group.template.set("DESCRIPTION", text);
        validate(&doc::security_group(&group), "security_group.xsd");
    }
}

#[test]
fn documents_look_as_they_always_did() {
    golden("vnet", &doc::network(&network_view()));
    golden("vnet_minimal", &doc::network(&NetworkView::default()));
    golden("vnet_pool", &doc::pool("VNET_POOL", std::iter::once(doc::network_short(&network_view()))));
    golden("security_group", &doc::security_group(&group_view()));
    golden("security_group_pool", &twice("SECURITY_GROUP_POOL", doc::security_group(&group_view())));
}
