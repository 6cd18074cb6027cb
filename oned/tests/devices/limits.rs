//! Limits on backups that were asked for directly: the engine holds them back, in the queue and without harm.

use super::*;

impl Cloud {
    /// Whether a backup of the VM has begun: its disk has a scratch file.
    fn has_begun(&self, vm: i64) -> bool {
        let folder = self.disk_file(vm, 0).parent().unwrap().to_owned();
        let mut files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
        files.any(|name| name.to_string_lossy().contains(".scratch-"))
    }
}

#[test]
fn a_datastore_with_max_backups_takes_no_more_at_a_time_and_another_is_not_held_up() {
    let cloud = Cloud::start();
    let allocate = |text: &str| cloud.id("one.datastore.allocate", &[Text(text), Int(-1)]);
    let narrow = allocate("NAME=narrow\nTYPE=BACKUP_DS\nDS_MAD=dummy\nMAX_BACKUPS=1\n");
    let wide = allocate("NAME=wide\nTYPE=BACKUP_DS\nDS_MAD=dummy\n");
    let vms = ["first", "second", "third"].map(|name| cloud.chained_vm(name));
    // Both have been opened, so that there is a script to be read.
    for (vm, datastore) in [(vms[0], narrow), (vms[2], wide)] {
        cloud.backup(vm, datastore);
    }
    cloud.script("{\"rules\":[{\"operation\":\"store\",\"when\":\"before\",\"until_cancelled\":true}]}");
    for (vm, datastore) in vms.into_iter().zip([narrow, narrow, wide]) {
        cloud.call("one.vm.backup", &[Int(vm), Int(datastore), Bool(false)]);
    }
    for vm in [vms[0], vms[2]] {
        wait("the backup to begin", || cloud.has_begun(vm).then_some(()));
    }
    // The second was asked for before the third, and looked at before it.
    assert!(!cloud.has_begun(vms[1]));
    cloud.rests(vms[1], 3, 69);
    cloud.script("{}");
    for vm in vms {
        let document = cloud.running(vm);
        assert!(!document.contains("<ERROR>"), "{document}");
        assert_ne!(text(&document, "INCREMENTAL_BACKUP_ID"), "-1", "{document}");
    }
}
