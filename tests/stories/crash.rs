//! The daemon, or libvirtd, is killed in the middle.

use std::time::Duration;

use system_tests::cloud::Cloud;
use system_tests::command;
use system_tests::daemon::Options;
use system_tests::invariants;

const MIB: u64 = 1 << 20;

#[test]
fn oned_killed_during_copy_finishes_after_restart() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = cloud
        .blank_vm("survivor", "2G", "MODE = \"INCREMENT\"")
        .unwrap();
    let domain = format!("one-{vm}");
    // Different bytes in each MiB, so that deduplication does not make the copy short.
    for piece in 0..200_u8 {
        cloud
            .libvirtd
            .write(
                &domain,
                "vda",
                piece.wrapping_add(1),
                u64::from(piece) * 8 * MIB,
                4 * MIB,
            )
            .unwrap();
    }
    cloud
        .one
        .call(
            "one.vm.backup",
            &[vm.into(), cloud.datastore.into(), false.into()],
        )
        .unwrap()
        .id()
        .unwrap();
    let job = command::wait_for(
        "the backup to run in libvirt",
        Duration::from_secs(60),
        || {
            let job = cloud.libvirtd.virsh(&["domjobinfo", &domain])?;
            Ok(job.contains("Unbounded").then_some(job))
        },
    );
    job.unwrap();
    cloud.one.kill9().unwrap();
    cloud.one.restart().unwrap();
    cloud.one.wait_vm(vm, 3, 3).unwrap();
    let images = command::wait_for("the backup's image", Duration::from_secs(120), || {
        Ok(Some(cloud.backup_images(vm)?).filter(|images| !images.is_empty()))
    })
    .unwrap();
    cloud.wait_image(images[0]).unwrap();
    invariants::check(&cloud).unwrap();

    cloud.libvirtd.write(&domain, "vda", 0xee, 0, MIB).unwrap();
    cloud.backup(vm).unwrap();
    let (template, _) = cloud.restore(images[0], &[]).unwrap();
    let twin = format!("one-{}", cloud.instantiate(template, "twin").unwrap());
    cloud
        .libvirtd
        .qemu_io(&twin, "vda", "read -P 0xee 0 1M")
        .unwrap();
    for piece in 1..200_u64 {
        let order = format!("read -P {} {}M 4M", piece + 1, piece * 8);
        cloud.libvirtd.qemu_io(&twin, "vda", &order).unwrap();
    }
    invariants::check(&cloud).unwrap();
}

#[test]
fn libvirtd_killed_between_backups_is_no_matter() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = cloud
        .blank_vm("steady", "64M", "MODE = \"INCREMENT\"")
        .unwrap();
    let domain = format!("one-{vm}");
    cloud.libvirtd.write(&domain, "vda", 1, 0, MIB).unwrap();
    cloud.backup(vm).unwrap();
    cloud.libvirtd.kill9().unwrap();
    let refused = cloud
        .one
        .run(
            "onevm",
            &[
                "backup",
                &vm.to_string(),
                "-d",
                &cloud.datastore.to_string(),
                "--wait",
            ],
        )
        .unwrap();
    assert_ne!(
        refused.code, 0,
        "without a hypervisor a backup fails and says so: {refused:?}"
    );
    cloud.libvirtd.restart().unwrap();
    cloud.one.wait_vm(vm, 3, 3).unwrap();
    cloud.libvirtd.write(&domain, "vda", 2, MIB, MIB).unwrap();
    cloud.backup(vm).unwrap();
    let (template, _) = cloud
        .restore(cloud.backup_images(vm).unwrap()[0], &[])
        .unwrap();
    let twin = format!("one-{}", cloud.instantiate(template, "twin").unwrap());
    cloud
        .libvirtd
        .qemu_io(&twin, "vda", "read -P 1 0 1M")
        .unwrap();
    cloud
        .libvirtd
        .qemu_io(&twin, "vda", "read -P 2 1M 1M")
        .unwrap();
    invariants::check(&cloud).unwrap();
}
