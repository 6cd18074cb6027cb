//! A VM's disks are backed up and come back.

use system_tests::cloud::Cloud;
use system_tests::daemon::Options;
use system_tests::restic::{Repository, image_digest};
use system_tests::{invariants, xsd};

const MIB: u64 = 1 << 20;

#[test]
fn a_vm_runs_is_backed_up_twice_and_restored() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = cloud.blank_vm("plain", "256M", "MODE = \"INCREMENT\", KEEP_LAST = \"4\"").unwrap();
    let domain = format!("one-{vm}");
    let guest = &cloud.libvirtd;
    guest.write(&domain, "vda", 0x11, 0, 8 * MIB).unwrap();
    guest.write(&domain, "vda", 0x22, 100 * MIB, 3 * MIB).unwrap();
    cloud.backup(vm).unwrap();
    guest.write(&domain, "vda", 0x33, MIB, 2 * MIB).unwrap();
    guest.qemu_io(&domain, "vda", "discard 100M 1M").unwrap();
    guest.qemu_io(&domain, "vda", "write -z 101M 64k").unwrap();
    cloud.backup(vm).unwrap();

    let images = cloud.backup_images(vm).unwrap();
    assert_eq!(images.len(), 1, "one chain is one image");
    let backup = cloud.one.show("oneimage", images[0]).unwrap();
    assert_eq!(backup.texts("BACKUP_INCREMENTS/INCREMENT/TYPE"), ["FULL", "INCREMENT"]);
    let size = backup.find_all("BACKUP_INCREMENTS/INCREMENT")[1].number("SIZE").unwrap();
    assert!(size <= 4, "the increment is of the size of what changed, not of the disk: {size} MB");
    invariants::check(&cloud).unwrap();

    let (template, restored) = cloud.restore(images[0], &["--name", "again"]).unwrap();
    assert!(template >= 0);
    assert_eq!(restored.len(), 1);
    let second = cloud.instantiate(template, "again").unwrap();
    let twin = format!("one-{second}");
    for probe in [
        "read -P 0x11 0 1M",
        "read -P 0x33 1M 2M",
        "read -P 0x11 3M 5M",
        "read -P 0 8M 92M",
        "read -P 0 100M 1088k",
        "read -P 0x22 105971712 1984k",
        "read -P 0 103M 153M",
    ] {
        guest.qemu_io(&twin, "vda", probe).unwrap();
    }
    let vm_id = second.to_string();
    cloud.one.ok("onevm", &["terminate", &vm_id, "--hard", "--wait"]).unwrap();
    invariants::check(&cloud).unwrap();
    cloud.one.stop().unwrap();
}

#[test]
fn each_restore_point_can_be_restored_and_stock_restic_dumps_the_same_bytes() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = cloud.blank_vm("points", "64M", "MODE = \"INCREMENT\"").unwrap();
    let domain = format!("one-{vm}");
    for round in 1..=3_u8 {
        cloud.libvirtd.write(&domain, "vda", round, u64::from(round) * MIB, 2 * MIB).unwrap();
        cloud.backup(vm).unwrap();
    }
    let backup = cloud.backup_images(vm).unwrap()[0];
    let document = cloud.one.show("oneimage", backup).unwrap();
    let repository = &Repository::find(cloud.one.state(), &cloud.password).unwrap()[0];
    for increment in document.find_all("BACKUP_INCREMENTS/INCREMENT") {
        let (id, source) = (increment.text("ID"), increment.text("SOURCE"));
        let files = repository.files(source).unwrap();
        let disk = files.iter().find(|name| name.ends_with("/disk.0")).unwrap();
        let (_, images) = cloud.restore(backup, &["--increment", id, "--name", &format!("point-{id}")]).unwrap();
        let image = cloud.one.show("oneimage", images[0]).unwrap();
        let restored = image_digest(image.text("SOURCE").as_ref()).unwrap();
        assert_eq!(repository.dump_digest(source, disk).unwrap(), restored, "increment {id}");
    }
    invariants::check(&cloud).unwrap();
}

#[test]
fn a_vm_that_is_off_is_backed_up_and_stays_off() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = cloud.blank_vm("off", "64M", "MODE = \"INCREMENT\"").unwrap();
    let (id, domain) = (vm.to_string(), format!("one-{vm}"));
    cloud.libvirtd.write(&domain, "vda", 7, 0, MIB).unwrap();
    cloud.backup(vm).unwrap();
    cloud.libvirtd.write(&domain, "vda", 8, MIB, MIB).unwrap();
    cloud.one.ok("onevm", &["poweroff", &id, "--hard", "--wait"]).unwrap();
    cloud.backup(vm).unwrap();
    cloud.one.wait_vm(vm, 8, 0).unwrap();
    cloud.one.ok("onevm", &["resume", &id, "--wait"]).unwrap();
    cloud.libvirtd.write(&domain, "vda", 9, 2 * MIB, MIB).unwrap();
    cloud.backup(vm).unwrap();
    let images = cloud.backup_images(vm).unwrap();
    assert_eq!(images.len(), 1, "the chain goes through the poweroff");
    let backup = cloud.one.show("oneimage", images[0]).unwrap();
    assert_eq!(backup.texts("BACKUP_INCREMENTS/INCREMENT/TYPE"), ["FULL", "INCREMENT", "INCREMENT"]);
    let (template, _) = cloud.restore(images[0], &[]).unwrap();
    let twin = format!("one-{}", cloud.instantiate(template, "twin").unwrap());
    for (value, at) in [(7, 0), (8, 1), (9, 2)] {
        cloud.libvirtd.qemu_io(&twin, "vda", &format!("read -P {value} {at}M 1M")).unwrap();
    }
    invariants::check(&cloud).unwrap();
}

#[test]
fn keep_last_forgets_the_oldest_points_and_the_rest_stay_restorable() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = cloud.blank_vm("kept", "64M", "MODE = \"INCREMENT\", KEEP_LAST = \"2\"").unwrap();
    let domain = format!("one-{vm}");
    for round in 1..=4_u8 {
        cloud.libvirtd.write(&domain, "vda", round, u64::from(round) * MIB, MIB).unwrap();
        cloud.backup(vm).unwrap();
    }
    let backup = cloud.backup_images(vm).unwrap()[0];
    system_tests::command::wait_for("two restore points", std::time::Duration::from_secs(60), || {
        let points = cloud.one.show("oneimage", backup)?;
        Ok((points.find_all("BACKUP_INCREMENTS/INCREMENT").len() == 2).then_some(()))
    })
    .unwrap();
    let points = cloud.one.show("oneimage", backup).unwrap();
    assert_eq!(points.texts("BACKUP_INCREMENTS/INCREMENT/TYPE"), ["FULL", "INCREMENT"]);
    assert_eq!(points.texts("BACKUP_INCREMENTS/INCREMENT/ID"), ["2", "3"]);
    let (template, _) = cloud.restore(backup, &[]).unwrap();
    let twin = format!("one-{}", cloud.instantiate(template, "twin").unwrap());
    for round in 1..=4 {
        cloud.libvirtd.qemu_io(&twin, "vda", &format!("read -P {round} {round}M 1M")).unwrap();
    }
    invariants::check(&cloud).unwrap();
}

#[test]
fn every_document_obeys_its_schema() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = cloud.blank_vm("shown", "64M", "MODE = \"INCREMENT\"").unwrap();
    cloud.backup(vm).unwrap();
    let backup = cloud.backup_images(vm).unwrap()[0];
    let everything = [(-2).into(), (-1).into(), (-1).into()];
    let vms = [(-2).into(), (-1).into(), (-1).into(), (-1).into()];
    let calls: [(&str, &str, &[system_tests::rpc::Value]); 15] = [
        ("vm", "one.vm.info", &[vm.into()]),
        ("vm_pool", "one.vmpool.info", &vms),
        ("vm_pool_extended", "one.vmpool.infoextended", &vms),
        ("image", "one.image.info", &[backup.into()]),
        ("image_pool", "one.imagepool.info", &everything),
        ("datastore", "one.datastore.info", &[cloud.datastore.into()]),
        ("datastore_pool", "one.datastorepool.info", &[]),
        ("vmtemplate", "one.template.info", &[0.into()]),
        ("vmtemplate_pool", "one.templatepool.info", &everything),
        ("host", "one.host.info", &[cloud.host.into()]),
        ("host_pool", "one.hostpool.info", &[]),
        ("user", "one.user.info", &[0.into()]),
        ("user_pool", "one.userpool.info", &[]),
        ("group_pool", "one.grouppool.info", &[]),
        ("cluster_pool", "one.clusterpool.info", &[]),
    ];
    for (schema, method, parameters) in calls {
        let answer = cloud.one.call(method, parameters).unwrap();
        xsd::validate(schema, answer.text().unwrap()).unwrap_or_else(|error| panic!("{method}: {error:#}"));
    }
}
