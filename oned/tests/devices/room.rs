//! Too little room over the dummy datastore: looked at before a byte is stored, and told with figures.

use super::backups::KIB_64;
use super::*;

#[test]
fn an_increment_that_does_not_fit_ends_before_a_byte_is_stored_and_says_how_much_is_missing() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    let image = cloud.backup(vm, datastore);
    let (points, checkpoints) = (cloud.stored_disks(datastore), cloud.all_checkpoints());
    let tight = format!(
        "{{\"capacity\":{{\"total_bytes\":{},\"free_bytes\":{}}},\
         \"rules\":[{{\"operation\":\"store\",\"fail\":{{\"kind\":\"permanent\",\"reason\":\"it was stored\"}}}}]}}",
        1 << 30,
        4 * KIB_64
    );
    cloud.write(vm, 0, 7, 0, 5 * KIB_64);
    cloud.script(&tight);
    let document = cloud.backup_anyhow(vm, datastore);
    let error = text(&document, "ERROR");
    for part in [
        "BACKUP: ",
        &format!("datastore {datastore}"),
        "1 MB are needed and 0 MB are free: 1 MB are missing",
        "forget older",
    ] {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    // The guest was let go, and its record of changes is the old one.
    assert_eq!((cloud.stored_disks(datastore), cloud.all_checkpoints()), (points, checkpoints));
    cloud.is_tidy();
    assert_eq!(
        (text(&document, "INCREMENTAL_BACKUP_ID"), text(&document, "LAST_INCREMENT_ID")),
        (image.to_string(), "0".into())
    );

    // As much as there is room for is stored, and nothing that did not change counts.
    cloud.script(&tight.replace(&format!("{}}}", 4 * KIB_64), &format!("{}}}", 5 * KIB_64)));
    assert!(text(&cloud.backup_anyhow(vm, datastore), "ERROR").contains("it was stored"));
    cloud.script("{}");
    assert_eq!(cloud.backup(vm, datastore), image);
    assert_eq!(cloud.infos(image).len(), 2);
}

#[test]
fn where_nobody_is_to_look_the_datastore_itself_says_when_it_is_full() {
    let cloud = Cloud::start();
    let (datastore, vm) = (cloud.backups(), cloud.chained_vm("one"));
    let image = cloud.backup(vm, datastore);
    cloud.call("one.datastore.update", &[Int(datastore), Text("DATASTORE_CAPACITY_CHECK=NO\n"), Int(1)]);
    cloud.script("{\"capacity\":{\"total_bytes\":1073741824,\"free_bytes\":0}}");
    cloud.write(vm, 0, 7, 0, KIB_64);
    assert_eq!(cloud.backup(vm, datastore), image);
    // Nor does it matter that it cannot tell.
    cloud.call("one.datastore.update", &[Int(datastore), Text("DATASTORE_CAPACITY_CHECK=YES\n"), Int(1)]);
    cloud.script("{\"rules\":[{\"operation\":\"capacity\",\"fail\":{\"kind\":\"retry\",\"reason\":\"away\"}}]}");
    cloud.write(vm, 0, 8, 0, KIB_64);
    assert_eq!(cloud.backup(vm, datastore), image);
    assert_eq!(cloud.infos(image).len(), 3);
}
