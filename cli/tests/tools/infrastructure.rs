//! The tools of what a cloud is made of: hosts, clusters, networks, security groups, virtual data centres, datastores.

use crate::door::{Door, assert_golden, document};

const POOLS: [(&str, &str); 8] = [
    ("one.vnpool.info", "VNET_POOL"),
    ("one.secgrouppool.info", "SECURITY_GROUP_POOL"),
    ("one.vdcpool.info", "VDC_POOL"),
    ("one.hostpool.info", "HOST_POOL"),
    ("one.clusterpool.info", "CLUSTER_POOL"),
    ("one.datastorepool.info", "DATASTORE_POOL"),
    ("one.zonepool.info", "ZONE_POOL"),
    ("one.vmpool.info", "VM_POOL"),
];

fn named() -> Door {
    let groups = "<GROUP_POOL><GROUP><ID>1</ID><NAME>users</NAME></GROUP></GROUP_POOL>";
    POOLS
        .iter()
        .fold(Door::open().says("one.grouppool.info", groups), |door, (method, _)| door.says(method, document(method)))
}

/// A door that says yes to each verb of a kind.
fn willing(door: Door, verbs: &[&'static str]) -> Door {
    verbs.iter().fold(door, |door, method| door.says(method, 7))
}

#[test]
fn lists_and_pages_look_as_users_know_them() {
    let door = named()
        .says("one.vn.info", document("one.vn.info"))
        .says("one.secgroup.info", document("one.secgroup.info"))
        .says("one.vdc.info", document("one.vdc.info"))
        .says("one.zone.info", document("one.zone.info"));
    for tool in ["onevnet", "onesecgroup", "onevdc"] {
        assert_golden(&format!("{tool}-list"), &door.run(tool, &["list"]).good());
    }
    for tool in ["onevnet", "onesecgroup", "onevdc", "onezone"] {
        assert_golden(&format!("{tool}-show"), &door.run(tool, &["show", "0"]).good());
    }
    assert_golden("onevnet-show-ar", &door.run("onevnet", &["show", "0", "--show-ar"]).good());
    let numeric = door.run("onevnet", &["list", "-n", "--csv", "-l", "ID,USER,GROUP,UPDATED,VN_MAD,VLAN_ID"]).good();
    assert_eq!(numeric, "ID,USER,GROUP,UPDATED,VN_MAD,VLAN_ID\n7,2,1,1,vxlan,9\n");
}

#[test]
fn silent_verbs_of_networks_and_groups_call_what_the_protocol_says() {
    let methods = [
        "one.vn.delete",
        "one.vn.update",
        "one.vn.rename",
        "one.vn.chmod",
        "one.vn.chown",
        "one.vn.lock",
        "one.vn.unlock",
        "one.vn.add_ar",
        "one.vn.rm_ar",
        "one.vn.update_ar",
        "one.vn.free_ar",
        "one.vn.hold",
        "one.vn.release",
        "one.vn.recover",
        "one.secgroup.delete",
        "one.secgroup.update",
        "one.secgroup.rename",
        "one.secgroup.commit",
        "one.secgroup.chmod",
        "one.secgroup.chown",
    ];
    let door = willing(named().says("one.vn.info", document("one.vn.info")), &methods);
    std::fs::write(door.home().join("text"), "SIZE = \"50\"\nA = \"1\"\n").unwrap();
    std::fs::write(door.home().join("ar"), "AR = [ TYPE = ETHER, SIZE = 9 ]\n").unwrap();
    let verbs: [(&str, &[&str]); 32] = [
        ("onevnet", &["delete", "private,0"]),
        ("onevnet", &["update", "private", "text"]),
        ("onevnet", &["update", "private", "text", "-a"]),
        ("onevnet", &["rename", "private", "other"]),
        ("onevnet", &["chmod", "0..1", "640"]),
        ("onevnet", &["chown", "private", "2", "users"]),
        ("onevnet", &["chgrp", "private", "1"]),
        ("onevnet", &["lock", "private"]),
        ("onevnet", &["lock", "private", "--manage"]),
        ("onevnet", &["unlock", "private"]),
        ("onevnet", &["addar", "private", "ar"]),
        ("onevnet", &["addar", "private", "-s", "5", "-i", "10.0.0.1", "--gateway", "10.0.0.254", "--vlanid", "4"]),
        ("onevnet", &["addar", "7", "-s", "5", "-6", "fd00::1/64", "-m", "02:00:00:00:00:01", "--vn_mad", "bridge"]),
        ("onevnet", &["addar", "7", "-s", "5", "-g", "2001:db8::", "-u", "fd00::", "--netmask", "255.255.255.0"]),
        ("onevnet", &["rmar", "private", "1"]),
        ("onevnet", &["rmar", "private", "1", "--force"]),
        ("onevnet", &["updatear", "private", "1", "text"]),
        ("onevnet", &["updatear", "private", "1", "text", "-a"]),
        ("onevnet", &["updatear", "7", "0", "ar"]),
        ("onevnet", &["free", "private", "1"]),
        ("onevnet", &["hold", "private", "10.0.0.9"]),
        ("onevnet", &["hold", "private", "02:00:0a:00:00:09", "-a", "0"]),
        ("onevnet", &["release", "private", "2001:db8::9", "--address_range", "0"]),
        ("onevnet", &["recover", "private", "--failure"]),
        ("onevnet", &["recover", "0,7", "--retry"]),
        ("onesecgroup", &["delete", "web"]),
        ("onesecgroup", &["update", "web", "text", "-a"]),
        ("onesecgroup", &["rename", "100", "other"]),
        ("onesecgroup", &["commit", "web"]),
        ("onesecgroup", &["commit", "0,100", "--recover"]),
        ("onesecgroup", &["chmod", "web", "604"]),
        ("onesecgroup", &["chgrp", "web", "users"]),
    ];
    for (tool, arguments) in verbs {
        assert_eq!(door.run(tool, arguments).good(), "", "{tool} {arguments:?}");
    }
    assert_golden("calls-networks", &door.calls());
}

#[test]
fn silent_verbs_of_hosts_clusters_and_the_like_call_what_the_protocol_says() {
    let methods = [
        "one.host.status",
        "one.host.rename",
        "one.cluster.delete",
        "one.cluster.update",
        "one.cluster.rename",
        "one.cluster.addhost",
        "one.cluster.delhost",
        "one.cluster.adddatastore",
        "one.cluster.deldatastore",
        "one.cluster.addvnet",
        "one.cluster.delvnet",
        "one.vdc.delete",
        "one.vdc.update",
        "one.vdc.rename",
        "one.vdc.addgroup",
        "one.vdc.delgroup",
        "one.vdc.addcluster",
        "one.vdc.delcluster",
        "one.vdc.addhost",
        "one.vdc.delhost",
        "one.vdc.adddatastore",
        "one.vdc.deldatastore",
        "one.vdc.addvnet",
        "one.vdc.delvnet",
        "one.zone.update",
        "one.zone.rename",
        "one.zone.enable",
        "one.datastore.enable",
        "one.datastore.chmod",
        "one.datastore.chown",
        "one.datastore.rename",
    ];
    let door = willing(named(), &methods);
    std::fs::write(door.home().join("text"), "A = \"1\"\n").unwrap();
    let verbs: [(&str, &[&str]); 40] = [
        ("onehost", &["forceupdate"]),
        ("onehost", &["forceupdate", "localhost"]),
        ("onehost", &["forceupdate", "--cluster", "default"]),
        ("onehost", &["enable", "localhost"]),
        ("onehost", &["disable", "0,1"]),
        ("onehost", &["offline", "0..1"]),
        ("onehost", &["rename", "localhost", "other"]),
        ("onecluster", &["delete", "100"]),
        ("onecluster", &["update", "default", "text"]),
        ("onecluster", &["rename", "default", "other"]),
        ("onecluster", &["addhost", "default", "localhost"]),
        ("onecluster", &["delhost", "default", "0,1"]),
        ("onecluster", &["adddatastore", "default", "RBackups"]),
        ("onecluster", &["deldatastore", "default", "100..101"]),
        ("onecluster", &["addvnet", "default", "private"]),
        ("onecluster", &["delvnet", "0", "7"]),
        ("onevdc", &["delete", "default"]),
        ("onevdc", &["update", "0", "text"]),
        ("onevdc", &["rename", "0", "other"]),
        ("onevdc", &["addgroup", "0,1", "users"]),
        ("onevdc", &["delgroup", "default", "1"]),
        ("onevdc", &["addcluster", "default", "0", "ALL"]),
        ("onevdc", &["delcluster", "default", "OpenNebula", "default"]),
        ("onevdc", &["addhost", "default", "0", "localhost"]),
        ("onevdc", &["delhost", "default", "0", "all"]),
        ("onevdc", &["adddatastore", "default", "0", "RBackups"]),
        ("onevdc", &["deldatastore", "default", "0", "100"]),
        ("onevdc", &["addvnet", "default", "0", "private"]),
        ("onevdc", &["delvnet", "default", "0", "ALL"]),
        ("onezone", &["update", "0", "text", "-a"]),
        ("onezone", &["rename", "OpenNebula", "home"]),
        ("onezone", &["enable", "0"]),
        ("onezone", &["disable", "OpenNebula"]),
        ("onedatastore", &["enable", "0"]),
        ("onedatastore", &["disable", "0,RBackups"]),
        ("onedatastore", &["chmod", "RBackups", "640"]),
        ("onedatastore", &["chown", "RBackups", "2"]),
        ("onedatastore", &["chgrp", "RBackups", "users"]),
        ("onedatastore", &["rename", "RBackups", "other"]),
        ("onecluster", &["addhost", "0", "0"]),
    ];
    for (tool, arguments) in verbs {
        assert_eq!(door.run(tool, arguments).good(), "", "{tool} {arguments:?}");
    }
    assert_golden("calls-infrastructure", &door.calls());
}

#[test]
fn what_is_made_of_options_or_a_template_is_told_by_its_id() {
    let methods = [
        "one.vn.allocate",
        "one.vn.reserve",
        "one.secgroup.allocate",
        "one.secgroup.clone",
        "one.vdc.allocate",
        "one.cluster.allocate",
        "one.datastore.allocate",
        "one.host.allocate",
    ];
    let door = willing(named(), &methods);
    std::fs::write(door.home().join("text"), "A = \"1\"\n").unwrap();
    let range = ["--name", "n", "--vn_mad", "dummy", "--bridge", "br0", "--ip", "10.0.0.1", "--size", "9"];
    let host_side = ["--phydev", "eth0", "--vlanid", "5", "--gateway", "10.0.0.254", "--netmask", "255.0.0.0"];
    let creates: [(&str, Vec<&str>); 13] = [
        ("onevnet", [&["create"], &range[..]].concat()),
        ("onevnet", [&["create", "text", "--dns", "8.8.8.8", "-c", "default"], &host_side[..]].concat()),
        ("onevnet", vec!["create", "text"]),
        ("onesecgroup", vec!["create", "text", "--name", "web", "--description", "two words"]),
        ("onesecgroup", vec!["clone", "web", "copy"]),
        ("onevdc", vec!["create", "dept"]),
        ("onecluster", vec!["create", "rack"]),
        ("onedatastore", vec!["create", "--name", "b", "--type", "backup", "--ds_mad", "restic", "text"]),
        ("onedatastore", vec!["create", "--name", "b", "--type", "IMAGE_DS", "--ds-mad", "fs", "--tm_mad", "qcow2"]),
        ("onedatastore", vec!["create", "text", "--base_path", "/srv", "--cluster", "0"]),
        ("onehost", vec!["create", "a", "-i", "kvm", "-v", "kvm", "-c", "default"]),
        ("onevnet", vec!["create", "--name", "n", "--vn_mad", "dummy"]),
        ("onedatastore", vec!["create", "text", "--description", "d"]),
    ];
    for (tool, arguments) in creates {
        assert_eq!(door.run(tool, &arguments).good(), "ID: 7\n", "{tool} {arguments:?}");
    }
    assert_eq!(door.run_with_input("onevnet", &["create", "--name", "n"], "VN_MAD = dummy").good(), "ID: 7\n");
    let reserves: [&[&str]; 3] = [
        &["reserve", "private", "-n", "mine", "-s", "5"],
        &["reserve", "private", "7", "-s", "5", "-a", "0"],
        &["reserve", "7", "--name", "m", "--size", "5", "--address_range", "0", "--ip", "10.0.0.9"],
    ];
    for arguments in reserves {
        assert_eq!(door.run("onevnet", arguments).good(), "Reservation VNET ID: 7\n", "{arguments:?}");
    }
    assert_golden("calls-made", &door.calls());
}

#[test]
fn a_pipe_that_nobody_asked_for_is_spoken_of_when_the_call_fails() {
    let refusal = "[one.vn.allocate] No BRIDGE";
    let door = Door::open().refuses("one.vn.allocate", 8192, refusal);
    let options = ["create", "--name", "n", "--vn_mad", "bridge"];
    assert_eq!(door.run("onevnet", &options).bad(), refusal);
    let told = door.run_with_input("onevnet", &options, "BRIDGE = br0").bad();
    assert_eq!(told, format!("{refusal} (what was piped in was not read, since there are options: name it with -)"));
    let asked = [&options[..], &["-"]].concat();
    assert_eq!(door.run_with_input("onevnet", &asked, "BRIDGE = br0").bad(), refusal);
}

#[test]
fn mistakes_are_told_in_one_line_before_anything_is_asked() {
    let door = named().says("one.vn.info", document("one.vn.info"));
    std::fs::write(door.home().join("ar"), "AR = [ SIZE = 9 ]\n").unwrap();
    std::fs::write(door.home().join("torn"), "AR = [ SIZE = \n").unwrap();
    std::fs::write(door.home().join("disk"), "DISK = [ SIZE = 9 ]\n").unwrap();
    let failures: [(&str, &[&str]); 31] = [
        ("onevnet", &["show", "privat"]),
        ("onevnet", &["create"]),
        ("onevnet", &["create", "--vn_mad", "dummy", "--ip", "10.0.0.1"]),
        ("onevnet", &["create", "--ip", "10.0.0", "--size", "1"]),
        ("onevnet", &["addar", "7"]),
        ("onevnet", &["addar", "7", "ar", "--size", "5"]),
        ("onevnet", &["addar", "7", "-s", "5", "-6", "fd00::1/200"]),
        ("onevnet", &["rmar", "7"]),
        ("onevnet", &["rmar", "7", "first"]),
        ("onevnet", &["updatear", "7", "5", "ar", "-a"]),
        ("onevnet", &["updatear", "7", "0", "torn"]),
        ("onevnet", &["updatear", "7", "0", "disk"]),
        ("onevnet", &["hold", "7", "10.0.0"]),
        ("onevnet", &["reserve", "7", "-n", "x"]),
        ("onevnet", &["reserve", "7", "-s", "5"]),
        ("onevnet", &["reserve", "7", "-s", "5", "-n", "x", "-i", "10.0.0.9"]),
        ("onevnet", &["recover", "7"]),
        ("onevnet", &["recover", "7", "--success", "--delete"]),
        ("onevnet", &["chmod", "7", "x"]),
        ("onesecgroup", &["create"]),
        ("onesecgroup", &["clone", "web"]),
        ("onesecgroup", &["delete", "nobody"]),
        ("onevdc", &["create"]),
        ("onevdc", &["addhost", "default", "localhost"]),
        ("onevdc", &["addhost", "default", "elsewhere", "localhost"]),
        ("onehost", &["create", "a", "-i", "kvm"]),
        ("onehost", &["monitoring", "0", "FREE_CPUS"]),
        ("onehost", &["monitoring", "0", "--start", "someday"]),
        ("onecluster", &["addhost", "default", "nobody"]),
        ("onezone", &["enable", "1..0"]),
        ("onedatastore", &["create", "--name", "b", "--type", "tape"]),
    ];
    let mut told = String::new();
    for (tool, arguments) in failures {
        told.push_str(&format!("$ {tool} {}\n{}\n", arguments.join(" "), door.run(tool, arguments).bad()));
    }
    assert_golden("failures-infrastructure", &told);
    assert!(door.calls().lines().all(|call| call.contains(".info(")), "{}", door.calls());
}

#[test]
fn what_was_measured_of_a_host_is_a_chart_a_table_or_values() {
    let sample = |time: i64, cpu: i64, memory: i64| {
        format!(
            "<MONITORING><TIMESTAMP>{time}</TIMESTAMP><ID>0</ID><CAPACITY><FREE_CPU>{}</FREE_CPU><FREE_MEMORY>0</FREE_MEMORY>\
             <USED_CPU>{cpu}</USED_CPU><USED_MEMORY>{memory}</USED_MEMORY></CAPACITY><SYSTEM><NETRX>1</NETRX><NETTX>2</NETTX>\
             </SYSTEM></MONITORING>",
            400 - cpu
        )
    };
    let start = 1_795_953_600; // 2026-11-29 12:00 UTC
    let samples: String =
        (0..12).map(|minute| sample(start + 60 * minute, 10 * minute, 1_048_576 + 52_429 * minute)).collect();
    let door = Door::open()
        .says("one.host.monitoring", format!("<MONITORING_DATA>{samples}</MONITORING_DATA>"))
        .says("one.host.monitoring", "<MONITORING_DATA></MONITORING_DATA>");
    let mut told = format!("$ monitoring 0 used_cpu\n{}", door.run("onehost", &["monitoring", "0", "used_cpu"]).good());
    assert_eq!(
        door.run("onehost", &["monitoring", "0"]).bad(),
        "there are no measurements of host 0 in that time; it is monitored while it is enabled"
    );
    let door = Door::open().says("one.host.monitoring", format!("<MONITORING_DATA>{samples}</MONITORING_DATA>"));
    let lines: [&[&str]; 4] = [
        &["monitoring", "0", "USED_MEMORY", "--table", "--n", "3"],
        &["monitoring", "0", "USED_MEMORY", "--csv", ";", "--unit", "M", "--start", "2026-11-29 12:10"],
        &["monitoring", "0", "--end", "2026-11-29 12:01"],
        &["monitoring", "0", "--csv", ",", "--n", "1"],
    ];
    for arguments in lines {
        told.push_str(&format!("$ {}\n{}", arguments.join(" "), door.run("onehost", arguments).good()));
    }
    assert_golden("onehost-monitoring", &told);
}

#[test]
fn an_editor_begins_with_what_a_range_has_of_its_own() {
    let door = Door::open().says("one.vn.info", document("one.vn.info")).says("one.vn.update_ar", 7);
    let editor = door.home().join("editor");
    std::fs::write(&editor, "#!/bin/sh\ncp \"$1\" \"$HOME/seen\"\necho 'NEW = \"1\"' >> \"$1\"\n").unwrap();
    crate::door::restrict(&editor, 0o700);
    let output = door.run_on_a_terminal("onevnet updatear 7 0", &editor);
    assert!(output.status.success(), "{output:?}");
    let seen = std::fs::read_to_string(door.home().join("seen")).unwrap();
    assert_golden("onevnet-updatear-editor", &format!("{seen}---\n{}\n", door.calls()));
}

#[test]
fn a_host_is_flushed_by_disabling_it_and_placing_its_vms_anew() {
    let door = Door::open()
        .says("one.host.status", 0)
        .says("one.host.info", "<HOST><ID>1</ID><VMS><ID>4</ID><ID>7</ID></VMS></HOST>")
        .says("one.vm.action", 0);
    assert_eq!(door.run("onehost", &["flush", "1"]).good(), "");
    let calls =
        "one.host.status(1, 1)\none.host.info(1, false)\none.vm.action(\"resched\", 4)\none.vm.action(\"resched\", 7)";
    assert_eq!(door.calls(), calls);
}

#[test]
fn hosts_keep_their_state_when_they_are_looked_at_again() {
    let host = |id: i64, state: i64| {
        format!("<HOST><ID>{id}</ID><NAME>h{id}</NAME><STATE>{state}</STATE><CLUSTER_ID>{}</CLUSTER_ID></HOST>", id % 2)
    };
    let pool: String = [(0, 2), (1, 4), (2, 8), (3, 3)].map(|(id, state)| host(id, state)).concat();
    let door =
        Door::open().says("one.hostpool.info", format!("<HOST_POOL>{pool}</HOST_POOL>")).says("one.host.status", 0);
    door.run("onehost", &["forceupdate"]).good();
    door.run("onehost", &["forceupdate", "-c", "0"]).good();
    let told = door.run("onehost", &["forceupdate", "2"]).bad();
    assert_eq!(told, "host 2 is offline; enable it, then it is looked at");
    assert_eq!(door.run("onehost", &["forceupdate", "9"]).bad(), "host 9 not found; onehost list shows all");
    let calls: Vec<String> =
        door.calls().lines().filter(|call| call.contains("status")).map(ToOwned::to_owned).collect();
    assert_eq!(calls, ["(0, 0)", "(1, 1)", "(3, 0)", "(0, 0)"].map(|call| format!("one.host.status{call}")));
}

#[test]
fn an_orphan_is_a_network_that_no_template_means() {
    let network = |id: i64, uid: i64, name: &str| {
        format!("<VNET><ID>{id}</ID><UID>{uid}</UID><UNAME>u{uid}</UNAME><NAME>{name}</NAME></VNET>")
    };
    let networks: String = [(0, 0, "a"), (1, 2, "a"), (2, 2, "b"), (3, 3, "c"), (4, 4, "d")]
        .map(|(id, uid, name)| network(id, uid, name))
        .concat();
    let template = "<VMTEMPLATE><ID>0</ID><UID>2</UID><TEMPLATE><NIC><NETWORK>a</NETWORK></NIC><NIC><NETWORK_ID>4</NETWORK_ID>\
        </NIC><NIC><NETWORK>c</NETWORK><NETWORK_UNAME>u3</NETWORK_UNAME></NIC><NIC><NETWORK>b</NETWORK>\
        <NETWORK_UID>9</NETWORK_UID></NIC></TEMPLATE></VMTEMPLATE>";
    let door = Door::open()
        .says("one.vnpool.info", format!("<VNET_POOL>{networks}</VNET_POOL>"))
        .says("one.templatepool.info", format!("<VMTEMPLATE_POOL>{template}</VMTEMPLATE_POOL>"));
    assert_eq!(door.run("onevnet", &["orphans"]).good(), "0\n2\n");
}

#[test]
fn a_host_shows_its_vms_and_a_cluster_what_its_hosts_have() {
    let door =
        named().says("one.host.info", document("one.host.info")).says("one.cluster.info", document("one.cluster.info"));
    let host = door.run("onehost", &["show", "0"]).good();
    let vms = host.split("VIRTUAL MACHINES").nth(1).unwrap();
    // A title, and the one VM that the host's document names.
    assert_eq!(vms.trim_end().lines().count(), 3, "{host}");
    assert!(door.calls().contains("one.vmpool.info("));
    let cluster = door.run("onecluster", &["show", "0"]).good();
    assert!(cluster.contains("TOTAL CPUs: 4\nOCCUPIED CPUs: 1\nAVAILABLE CPUs: 3\n"), "{cluster}");
    let calls = door.calls().lines().count();
    door.run("onehost", &["show", "0", "-x"]).good();
    assert_eq!(door.calls().lines().count(), calls + 1, "a document is one call");
}
