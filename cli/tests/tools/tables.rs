//! Lists and pages, compared with golden files.

use crate::door::{Door, assert_golden, document};

fn pools() -> Door {
    Door::open()
        .says("one.vmpool.info", document("one.vmpool.info"))
        .says("one.vmpool.infoextended", "<VM_POOL></VM_POOL>")
        .says("one.imagepool.info", document("one.imagepool.info"))
        .says("one.datastorepool.info", document("one.datastorepool.info"))
        .says("one.templatepool.info", document("one.templatepool.info"))
        .says("one.hostpool.info", document("one.hostpool.info"))
        .says("one.userpool.info", document("one.userpool.info"))
        .says("one.clusterpool.info", document("one.clusterpool.info"))
        .says("one.zonepool.info", document("one.zonepool.info"))
}

fn objects() -> Door {
    Door::open()
        .says("one.vm.info", document("one.vm.info"))
        .says("one.cluster.info", document("one.cluster.info"))
        .says("one.vmpool.info", document("one.vmpool.info"))
        .says("one.hostpool.info", document("one.hostpool.info"))
        .says("one.image.info", document("one.image.info"))
        .says("one.datastore.info", document("one.datastore.info"))
        .says("one.template.info", document("one.template.info"))
        .says("one.host.info", document("one.host.info"))
        .says("one.user.info", document("one.user.info"))
}

#[test]
fn every_list_looks_as_users_know_it() {
    let door = pools();
    for tool in ["onevm", "oneimage", "onedatastore", "onetemplate", "onehost", "oneuser", "onecluster", "onezone"] {
        assert_golden(&format!("{tool}-list"), &door.run(tool, &["list"]).good());
    }
}

#[test]
fn list_options_choose_columns_rows_and_form() {
    let door = pools();
    let lists = [
        ("onevm-list-csv", "onevm", vec!["list", "--csv"]),
        ("onevm-list-columns", "onevm", vec!["list", "-l", "NAME,STAT,IP", "--no-header"]),
        ("onevm-list-filter", "onevm", vec!["list", "-f", "STAT=poff", "-n", "--no-pager"]),
        ("onevm-list-json", "onevm", vec!["list", "-j", "--extended"]),
        ("oneimage-list-backup", "oneimage", vec!["list", "--backup"]),
        ("onedatastore-list-json", "onedatastore", vec!["list", "--json"]),
        ("onedatastore-list-xml", "onedatastore", vec!["list", "-x"]),
    ];
    for (name, tool, arguments) in lists {
        assert_golden(name, &door.run(tool, &arguments).good());
    }
}

#[test]
fn every_column_is_described_without_asking_the_daemon() {
    let door = Door::open();
    let tools = [
        "onevm",
        "onetemplate",
        "onebackupjob",
        "oneimage",
        "onedatastore",
        "onehost",
        "onecluster",
        "onevnet",
        "onesecgroup",
        "oneuser",
        "onegroup",
        "oneacl",
        "onevdc",
        "onezone",
    ];
    let mut told = String::new();
    for tool in tools {
        let described = door.run(tool, &["list", "--describe"]).good();
        for line in described.lines() {
            let (name, about) = line.split_once(": ").unwrap_or((line, ""));
            assert!(!name.trim().is_empty() && !about.is_empty(), "{tool}: {line}");
        }
        told.push_str(&format!("$ {tool} list --describe\n{described}"));
    }
    assert_golden("describe", &told);
    assert_eq!(door.calls(), "");
}

#[test]
fn a_list_has_the_columns_and_marks_of_opennebula() {
    let vm = |id: i64, state: i64, more: &str| {
        let at = "<HISTORY_RECORDS><HISTORY><HOSTNAME>node</HOSTNAME><CID>0</CID></HISTORY></HISTORY_RECORDS>";
        format!("<VM><ID>{id}</ID><NAME>vm-{id}</NAME><STATE>{state}</STATE><LCM_STATE>3</LCM_STATE>{more}{at}</VM>")
    };
    let nics = "<TEMPLATE><NIC><IP>10.0.0.2</IP><IP6_GLOBAL>2001:db8::2</IP6_GLOBAL></NIC></TEMPLATE>";
    // Running, placed anew soon; undeployed; never placed.
    let never = "<VM><ID>9</ID><NAME>vm-9</NAME><STATE>1</STATE></VM>";
    let pool = [vm(7, 3, &format!("<RESCHED>1</RESCHED>{nics}")), vm(8, 9, ""), never.to_owned()].concat();
    let door = Door::open()
        .says("one.vmpool.info", format!("<VM_POOL>{pool}</VM_POOL>"))
        .says("one.clusterpool.info", document("one.clusterpool.info"));
    let lines = [
        &["list", "-l", "ID,NAME,HOST,CLUSTER,IP"][..],
        &["list", "-l", "ID,NAME", "-o", "-ID"],
        &["list", "-l", "ID", "--order", "STAT,-ID", "--no-header"],
        &["list", "-l", "NAME", "--expand", "NAME=0.5", "--csv"],
        &["list", "-l", "NAME", "--expand", "--no-header"],
    ];
    let told: Vec<_> = lines.iter().map(|line| door.run("onevm", line).good()).collect();
    assert_golden("onevm-list-marks", &told.concat());
    assert_eq!(door.calls().matches("one.clusterpool.info").count(), 1);
    assert!(door.run("onevm", &["list", "-o", "NOPE"]).bad().starts_with("there is no column NOPE"));
}

#[test]
fn the_beginning_of_an_option_stands_for_it() {
    let door = pools();
    let whole = door.run("onevm", &["list", "--no-header", "--filter", "STAT=poff"]).good();
    assert_eq!(door.run("onevm", &["list", "--no-head", "--filt", "STAT=poff"]).good(), whole);
    assert_eq!(door.run("keeplast", &["vm", "list", "--no-h", "--filt=STAT=poff"]).good(), whole);
    // Two begin so.
    assert_eq!(door.run("onevm", &["list", "--no-e", "--ex"]).code, Some(255));
}

#[test]
fn whose_objects_are_listed_becomes_the_filter_flag() {
    let door = pools();
    for whose in ["m", "a", "g", "G", "mine", "all", "group", "primary group", "7", "oneadmin"] {
        door.run("oneimage", &["list", whose]).good();
    }
    door.run("onevm", &["list"]).good();
    assert_golden("calls-list-filters", &door.calls());
}

#[test]
fn every_page_looks_as_users_know_it() {
    let door = objects();
    for tool in ["onevm", "oneimage", "onedatastore", "onetemplate", "onehost", "oneuser", "onecluster"] {
        assert_golden(&format!("{tool}-show"), &door.run(tool, &["show", "0"]).good());
    }
    assert_golden("calls-show", &door.calls());
}

/// A VM with one of everything that its page has a block for.
fn rich_vm(state: i64) -> String {
    let disks = "<DISK><DISK_ID>0</DISK_ID><DATASTORE>default</DATASTORE><IMAGE>alpine</IMAGE><SIZE>256</SIZE><TARGET>vda</TARGET><TYPE>FILE</TYPE><SAVE>YES</SAVE></DISK>\
        <DISK><DISK_ID>1</DISK_ID><FORMAT>raw</FORMAT><SIZE>1536</SIZE><TARGET>vdb</TARGET><TYPE>fs</TYPE></DISK>\
        <DISK><DISK_ID>2</DISK_ID><SIZE>512</SIZE><TARGET>vdc</TARGET><TYPE>swap</TYPE></DISK>\
        <CONTEXT><DISK_ID>3</DISK_ID><TARGET>hda</TARGET></CONTEXT>";
    let nics = "<NIC><NIC_ID>0</NIC_ID><NETWORK>lan</NETWORK><BRIDGE>br0</BRIDGE><IP>10.0.0.7</IP><IP6_GLOBAL>2001:db8::7</IP6_GLOBAL><MAC>02:00:0a:00:00:07</MAC><SECURITY_GROUPS>0,100</SECURITY_GROUPS></NIC>\
        <NIC_ALIAS><NIC_ID>2</NIC_ID><NETWORK>lan</NETWORK><BRIDGE>br0</BRIDGE><IP>10.0.0.8</IP><MAC>02:00:0a:00:00:08</MAC></NIC_ALIAS>\
        <PCI><NIC_ID>1</NIC_ID><PCI_ID>4</PCI_ID><NETWORK>lan</NETWORK><IP>10.0.0.9</IP></PCI><PCI><PCI_ID>5</PCI_ID></PCI>";
    let rules = "<SECURITY_GROUP_RULE><SECURITY_GROUP_ID>0</SECURITY_GROUP_ID><SECURITY_GROUP_NAME>default</SECURITY_GROUP_NAME><RULE_TYPE>OUTBOUND</RULE_TYPE><PROTOCOL>ALL</PROTOCOL></SECURITY_GROUP_RULE>\
        <SECURITY_GROUP_RULE><SECURITY_GROUP_ID>100</SECURITY_GROUP_ID><SECURITY_GROUP_NAME>web</SECURITY_GROUP_NAME><RULE_TYPE>INBOUND</RULE_TYPE><PROTOCOL>ICMP</PROTOCOL><ICMP_TYPE>8</ICMP_TYPE><NETWORK_ID>3</NETWORK_ID><IP>10.0.0.0</IP><SIZE>255</SIZE><RANGE>1:1000</RANGE></SECURITY_GROUP_RULE>";
    let measured = "<MONITORING><TIMESTAMP>1669901324</TIMESTAMP><STATE>a</STATE><NETRX>1024</NETRX><DISK_SIZE><ID>0</ID><SIZE>172</SIZE></DISK_SIZE><SNAPSHOT_SIZE><ID>0</ID><DISK_ID>0</DISK_ID><SIZE>16</SIZE></SNAPSHOT_SIZE><MEMORY>131072</MEMORY><CPU>1.5</CPU></MONITORING>";
    let snapshots = "<SNAPSHOTS><DISK_ID>0</DISK_ID><SNAPSHOT><ID>0</ID><PARENT>-1</PARENT><DATE>1669901816</DATE><SIZE>256</SIZE><NAME>first</NAME></SNAPSHOT></SNAPSHOTS>\
        <SNAPSHOTS><DISK_ID>1</DISK_ID><SNAPSHOT><ACTIVE>YES</ACTIVE><ID>0</ID><PARENT>-1</PARENT><DATE>1669901816</DATE><SIZE>1536</SIZE><NAME>other</NAME></SNAPSHOT></SNAPSHOTS>";
    let whole = "<SNAPSHOT><SNAPSHOT_ID>2</SNAPSHOT_ID><NAME>before</NAME><TIME>1669901816</TIME><HYPERVISOR_ID>one-2</HYPERVISOR_ID></SNAPSHOT>";
    let history =
        "<HISTORY_RECORDS><HISTORY><SEQ>0</SEQ><HOSTNAME>node</HOSTNAME><CID>0</CID></HISTORY></HISTORY_RECORDS>";
    format!(
        "<VM><ID>0</ID><NAME>rich</NAME><STATE>{state}</STATE><LCM_STATE>3</LCM_STATE>{measured}\
        <TEMPLATE>{disks}{nics}{rules}{whole}</TEMPLATE>{history}{snapshots}</VM>"
    )
}

#[test]
fn a_page_has_the_blocks_of_opennebula() {
    let door =
        |state| Door::open().says("one.vm.info", rich_vm(state)).says("one.cluster.info", document("one.cluster.info"));
    let shown = door(3).run("onevm", &["show", "0"]).good();
    // The last column of a history without an end goes on.
    let shown: Vec<_> = shown.lines().filter(|line| !line.contains(" node  ")).collect();
    assert_golden("onevm-show-rich", &format!("{}\n", shown.join("\n")));
    // Undeployed: on no host.
    let away = door(9).run("onevm", &["show", "0"]).good();
    assert!(!away.contains("HOST  ") || !away.contains(": node"), "{away}");
    assert!(!away.contains("CLUSTER"), "{away}");
}

#[test]
fn a_page_of_an_image_lists_the_vms_that_use_it() {
    let image = "<IMAGE><ID>7</ID><TYPE>0</TYPE><VMS><ID>12</ID></VMS></IMAGE>";
    let door = Door::open().says("one.image.info", image).says("one.vmpool.info", document("one.vmpool.info"));
    let shown = door.run("oneimage", &["show", "7"]).good();
    let block = &shown[shown.find("VIRTUAL MACHINES").unwrap()..];
    assert!(block.contains("web server") && !block.contains("alpine-0"), "{block}");
    let backup = image.replace("<TYPE>0", "<TYPE>6");
    let door = Door::open().says("one.image.info", backup);
    assert!(!door.run("oneimage", &["show", "7"]).good().contains("VIRTUAL MACHINES"));
}

#[test]
fn a_page_can_be_had_as_the_document_itself() {
    let door = objects();
    assert_golden("oneimage-show-xml", &door.run("oneimage", &["show", "1", "-x"]).good());
    assert_golden("oneimage-show-json", &door.run("oneimage", &["show", "1", "--json"]).good());
}

#[test]
fn a_plain_image_has_no_backup_blocks() {
    let door = pools().says("one.image.info", document("one.image.info.plain"));
    assert_golden("oneimage-show-plain", &door.run("oneimage", &["show", "0"]).good());
}

#[test]
fn the_caller_is_shown_when_no_user_is_named() {
    let door = objects();
    door.run("oneuser", &["show"]).good();
    assert_eq!(door.calls(), "one.user.info(-1, false)");
}

#[test]
fn a_hostile_name_cannot_move_the_cursor() {
    let pool = "<VM_POOL><VM><ID>0</ID><NAME>a&#27;[2Jb&#10;c</NAME></VM></VM_POOL>";
    let door = Door::open().says("one.vmpool.info", pool);
    // A raw escape character is not XML at all; the document is refused or the character replaced, never printed.
    let ran = door.run("onevm", &["list", "-l", "NAME"]);
    assert!(!ran.out.contains('\u{1b}') && !ran.err.contains('\u{1b}'), "{ran:?}");
}
