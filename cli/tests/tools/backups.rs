//! Restore points of a VM and of an image, and how datastores fill.

use crate::door::{Door, assert_golden, document};

/// A chain, two backups in FULL mode, in two datastores; VM 9 is gone, VM 0 is there.
const IMAGES: &str = "<IMAGE_POOL>\
    <IMAGE><ID>4</ID><NAME>0 chain</NAME><TYPE>6</TYPE><STATE>1</STATE><REGTIME>{NOW-1728000}</REGTIME><SIZE>1300</SIZE><DATASTORE_ID>100</DATASTORE_ID><DATASTORE>RBackups</DATASTORE><VMS><ID>0</ID></VMS><TEMPLATE>\
    <INCREMENT_INFO><ID>0</ID><READ_BYTES>1073741824</READ_BYTES><STORED_BYTES>536870912</STORED_BYTES><DURATION>65</DURATION><VERIFIED_AT>1669908000</VERIFIED_AT><VERIFY_DEPTH>DEEP</VERIFY_DEPTH><VERIFY_JOB>7</VERIFY_JOB><DAMAGES>0</DAMAGES></INCREMENT_INFO>\
    <INCREMENT_INFO><ID>1</ID><READ_BYTES>16777216</READ_BYTES><STORED_BYTES>42000</STORED_BYTES><DURATION>1</DURATION><VERIFIED_AT>1669908000</VERIFIED_AT><VERIFY_DEPTH>QUICK</VERIFY_DEPTH><VERIFY_JOB>7</VERIFY_JOB><DAMAGES>3</DAMAGES></INCREMENT_INFO></TEMPLATE>\
    <BACKUP_INCREMENTS><INCREMENT><ID>0</ID><PARENT_ID>-1</PARENT_ID><TYPE>FULL</TYPE><DATE>1669901816</DATE><SIZE>1024</SIZE><SOURCE>25f4b298</SOURCE></INCREMENT>\
    <INCREMENT><ID>1</ID><PARENT_ID>0</PARENT_ID><TYPE>INCREMENT</TYPE><DATE>1669904566</DATE><SIZE>16</SIZE><SOURCE>6968545c</SOURCE></INCREMENT></BACKUP_INCREMENTS></IMAGE>\
    <IMAGE><ID>5</ID><NAME>0 full</NAME><TYPE>6</TYPE><STATE>1</STATE><REGTIME>1669902000</REGTIME><SOURCE>aa</SOURCE><SIZE>1024</SIZE><DATASTORE_ID>101</DATASTORE_ID><DATASTORE>nas, upstairs</DATASTORE><VMS><ID>0</ID></VMS><TEMPLATE><INCREMENT_INFO><ID>0</ID><READ_BYTES>1073741824</READ_BYTES><STORED_BYTES>1073741824</STORED_BYTES><DURATION>9</DURATION></INCREMENT_INFO></TEMPLATE><BACKUP_INCREMENTS/></IMAGE>\
    <IMAGE><ID>6</ID><NAME>9 full</NAME><TYPE>6</TYPE><STATE>5</STATE><REGTIME>1669902001</REGTIME><SOURCE>bb</SOURCE><SIZE>1024</SIZE><DATASTORE_ID>100</DATASTORE_ID><DATASTORE>RBackups</DATASTORE><VMS><ID>9</ID></VMS><TEMPLATE><INCREMENT_INFO><ID>0</ID><READ_BYTES>2048</READ_BYTES><STORED_BYTES>268435456</STORED_BYTES></INCREMENT_INFO></TEMPLATE><BACKUP_INCREMENTS/></IMAGE>\
    <IMAGE><ID>0</ID><NAME>alpine</NAME><TYPE>0</TYPE><STATE>2</STATE><VMS><ID>0</ID></VMS><TEMPLATE/></IMAGE></IMAGE_POOL>";

fn door() -> Door {
    Door::open()
        .says("one.imagepool.info", IMAGES)
        .says("one.datastorepool.info", document("one.datastorepool.info"))
        .says("one.datastore.info", document("one.datastore.info"))
        .says("one.vmpool.info", document("one.vmpool.info"))
        .says("one.image.info", document("one.image.info"))
        .refuses("one.vm.info", 1024, "[one.vm.info] Error getting virtual machine [77].")
}

#[test]
fn every_restore_point_of_a_vm_is_listed_newest_first_by_one_call() {
    let door = door();
    assert_golden("onevm-backups", &door.run("onevm", &["backups", "0"]).good());
    assert_eq!(door.calls(), "one.imagepool.info(-2, -1, -1)");
}

#[test]
fn restore_points_are_listed_in_the_forms_of_every_list() {
    let door = door();
    let lists: [(&str, &[&str]); 5] = [
        ("onevm-backups-csv", &["backups", "0", "--csv"]),
        (
            "onevm-backups-filter",
            &["backups", "0", "-f", "KIND=incr", "-l", "SOURCE,VM,SIZE,TIME,STAT,NOTE", "--no-header"],
        ),
        ("onevm-backups-json", &["backups", "9", "--json"]),
        ("onevm-backups-xml", &["backups", "9", "-x"]),
        ("onevm-backups-gone", &["backups", "9", "-n"]),
    ];
    for (name, arguments) in lists {
        assert_golden(name, &door.run("onevm", arguments).good());
    }
}

#[test]
fn a_vm_is_found_by_name_and_one_that_never_was_is_refused() {
    let door = door();
    door.run("onevm", &["backups", "alpine-0"]).good();
    assert_eq!(door.run("onevm", &["backups", "77"]).bad(), "[one.vm.info] Error getting virtual machine [77].");
    let told = door.run("onevm", &["backups", "0", "-l", "NOPE"]).bad();
    assert!(told.contains("there is no column NOPE; there are DATE, KIND"), "{told}");
    assert_eq!(door.run("onevm", &["backups", "nobody"]).code, Some(255));
}

#[test]
fn the_points_of_one_image_are_listed_oldest_first() {
    let door = door();
    assert_golden("oneimage-increments", &door.run("oneimage", &["increments", "1"]).good());
    assert_golden("oneimage-increments-csv", &door.run("oneimage", &["increments", "1", "--csv"]).good());
    assert_eq!(door.calls(), ["one.image.info(1, false)"; 2].join("\n"));
    let plain = Door::open().says("one.image.info", document("one.image.info.plain"));
    let told = plain.run("oneimage", &["increments", "0"]).bad();
    assert_eq!(told, "image 0 is no backup and has no increments; `oneimage list --backup` lists the backups");
}

#[test]
fn each_backup_datastore_has_a_line_of_its_use() {
    let door = door();
    assert_golden("onedatastore-usage", &door.run("onedatastore", &["usage"]).good());
    assert_golden("onedatastore-usage-csv", &door.run("onedatastore", &["usage", "--csv"]).good());
    assert_golden("onedatastore-usage-json", &door.run("onedatastore", &["usage", "--json"]).good());
    assert_eq!(
        door.calls().lines().take(2).collect::<Vec<_>>(),
        ["one.datastorepool.info()", "one.imagepool.info(-2, -1, -1)"]
    );
}

/// Three backups of VM 0 on each of the last ten days.
fn grown() -> Door {
    let point = |day: i64| {
        format!(
            "<IMAGE><ID>{day}</ID><TYPE>6</TYPE><REGTIME>{{NOW-{}}}</REGTIME><DATASTORE_ID>100</DATASTORE_ID><VMS><ID>{}</ID></VMS><TEMPLATE><INCREMENT_INFO><ID>0</ID><STORED_BYTES>10485760</STORED_BYTES></INCREMENT_INFO></TEMPLATE></IMAGE>",
            day * 86_400,
            day % 2
        )
    };
    let images: String = (0..10).map(point).collect();
    Door::open()
        .says("one.imagepool.info", format!("<IMAGE_POOL>{images}</IMAGE_POOL>"))
        .says("one.datastore.info", document("one.datastore.info"))
        .says("one.vmpool.info", document("one.vmpool.info"))
}

#[test]
fn a_chart_shows_growth_within_eighty_columns_and_when_it_is_full() {
    let door = grown();
    let chart = door.run("onedatastore", &["usage", "100"]).good();
    let lines: Vec<&str> = chart.lines().collect();
    assert_eq!(lines[0], "DATASTORE 100 (RBackups)");
    assert_eq!(lines[1], "1000M in all, 100M used by backups, 900M (90%) free");
    assert_eq!(lines[2], "10 restore points of 2 VMs take 100M");
    // Eight of the points are not the first of their VM; the last of nine days is not over.
    assert!(lines[3].starts_with("full in ") && lines[3].contains(" at 8.9M a day"), "{}", lines[3]);
    assert_eq!((lines[4], lines.len()), ("", 16), "{chart}");
    assert!(lines[5].starts_with("DAY "), "{chart}");
    assert!(lines[6].ends_with('#') && lines[6].matches('#').count() < lines[15].matches('#').count(), "{chart}");
    assert_eq!(lines.iter().map(|line| line.chars().count()).max(), Some(79), "{chart}");
    for (step, rows) in [("week", 2..=3), ("month", 1..=2)] {
        let chart = door.run("onedatastore", &["usage", "100", "--by", step]).good();
        assert!(rows.contains(&(chart.lines().count() - 6)), "{chart}");
    }
    let csv = door.run("onedatastore", &["usage", "100", "--csv"]).good();
    assert!(csv.starts_with("DAY,POINTS,STORED,TOTAL\n") && csv.ends_with(",1,10485760,104857600\n"), "{csv}");
    let json: serde_json::Value =
        serde_json::from_str(&door.run("onedatastore", &["usage", "100", "-j"]).good()).unwrap();
    assert_eq!(json["DATASTORE_USAGE"]["PERIOD"].as_array().map(Vec::len), Some(10), "{json}");
}

#[test]
fn shares_of_vms_name_those_that_are_still_there() {
    let door = grown();
    assert_golden("onedatastore-usage-vms-csv", &door.run("onedatastore", &["usage", "100", "--vms", "--csv"]).good());
    let table = door.run("onedatastore", &["usage", "100", "--vms"]).good();
    let last = table.lines().last().unwrap();
    assert!(last.starts_with("   1 -") && last.contains("50M   50% ###"), "{table}");
}

#[test]
fn usage_of_what_holds_no_backups_is_refused() {
    let images = document("one.datastore.info").replace("<TYPE>3</TYPE>", "<TYPE>0</TYPE>");
    let door = Door::open().says("one.datastore.info", images).says("one.imagepool.info", "<IMAGE_POOL/>");
    let told = door.run("onedatastore", &["usage", "100"]).bad();
    assert_eq!(told, "datastore 100 (RBackups) holds no backups; `onedatastore usage` lists those that do");
    assert!(door.run("onedatastore", &["usage", "--vms"]).bad().contains("DATASTORE is missing"));
}
