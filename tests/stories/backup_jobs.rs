//! Backup jobs with a real hypervisor and restic: VMs that are backed up together, into one repository, by increments.

use std::fs;
use std::path::Path;

use system_tests::cloud::Cloud;
use system_tests::command::{LONG, wait_for};
use system_tests::daemon::Options;
use system_tests::invariants;
use system_tests::restic::{Repository, image_digest};
use system_tests::xml::{self, Element};

use crate::faults_data::noise;

const MIB: u64 = 1 << 20;

/// Runs a job and waits until it is over; its document.
fn run(cloud: &Cloud, job: i64) -> Element {
    cloud.one.call("one.backupjob.backup", &[job.into()]).unwrap().id().unwrap();
    wait_for(&format!("the run of backup job {job}"), LONG, || {
        let shown = xml::parse(cloud.one.call("one.backupjob.info", &[job.into()])?.text()?)?;
        let busy = ["OUTDATED_VMS/ID", "BACKING_UP_VMS/ID"].iter().any(|list| !shown.texts(list).is_empty());
        Ok((!busy).then_some(shown))
    })
    .unwrap()
}

/// The size of a folder's files, bytes.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| if entry.path().is_dir() { size(&entry.path()) } else { entry.metadata().unwrap().len() }).sum()
}

#[test]
fn vms_of_a_job_share_one_repository_that_stock_restic_reads_and_each_is_given_back_as_it_was() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vms = ["first", "second"].map(|name| cloud.blank_vm(name, "64M", "MODE = FULL").unwrap());
    // What no compression makes small, the same in both.
    let same = cloud.work.path().join("same");
    noise(&same, 2);
    let write = |vm: i64, value: u8, at: u64| {
        cloud.libvirtd.write(&format!("one-{vm}"), "vda", value, at * MIB, MIB).unwrap();
    };
    for (vm, own) in vms.iter().zip([1, 2]) {
        cloud.libvirtd.qemu_io(&format!("one-{vm}"), "vda", &format!("write -s {} 8M 2M", same.display())).unwrap();
        write(*vm, own, 20);
    }
    let text = format!(
        "NAME = \"nightly\"\nBACKUP_VMS = \"{},{}\"\nDATASTORE_ID = {}\nMODE = INCREMENT\nKEEP_LAST = 3\nLABELS = \"far\"\n",
        vms[1], vms[0], cloud.datastore
    );
    let job = cloud.one.call("one.backupjob.allocate", &[text.as_str().into()]).unwrap().id().unwrap();

    for round in 0..3 {
        let shown = run(&cloud, job);
        assert_eq!(shown.texts("UPDATED_VMS/ID"), vms.map(|vm| vm.to_string()), "{shown:?}");
        assert_eq!((shown.text("TEMPLATE/ERROR"), shown.texts("ERROR_VMS/ID").len()), ("", 0));
        for (vm, value) in vms.iter().zip([30 + round, 40 + round]) {
            write(*vm, value, 30);
        }
    }

    // One repository, of the job, with the points of both; what is the same in them is there once.
    let repositories = Repository::find(cloud.one.state(), &cloud.password).unwrap();
    assert_eq!(repositories.len(), 1, "{repositories:?}");
    let repository = &repositories[0];
    assert_eq!(repository.path.file_name().unwrap().to_str().unwrap(), format!("job-{job}+"));
    let snapshots = repository.snapshots().unwrap();
    assert_eq!(snapshots.len(), 6);
    for vm in vms {
        let tag = format!("one-{vm}");
        let of_vm =
            snapshots.iter().filter(|one| one["tags"].as_array().unwrap().iter().any(|one| one == tag.as_str()));
        assert_eq!(of_vm.count(), 3, "{tag} in {snapshots:?}");
    }
    assert!(size(&repository.path) < 3 * MIB, "{} bytes for 2 MiB of noise twice", size(&repository.path));
    repository.check().unwrap();

    // The fourth run shortens the chains to KEEP_LAST, and what is restored is what was there.
    run(&cloud, job);
    let before: Vec<String> = vms
        .iter()
        .map(|vm| image_digest(&cloud.one.state().join(format!("datastores/0/{vm}/disk.0"))).unwrap())
        .collect();
    for (vm, digest) in vms.iter().zip(before) {
        let images = cloud.backup_images(*vm).unwrap();
        assert_eq!(images.len(), 1);
        wait_for("the chain to be shortened", LONG, || {
            let kept = cloud.one.show("oneimage", images[0])?.texts("BACKUP_INCREMENTS/INCREMENT/ID").join(",");
            Ok((kept == "1,2,3").then_some(()))
        })
        .unwrap();
        let (_, restored) = cloud.restore(images[0], &["--name", &format!("back-{vm}")]).unwrap();
        let restored = cloud.one.show("oneimage", restored[0]).unwrap();
        assert_eq!(image_digest(restored.text("SOURCE").as_ref()).unwrap(), digest, "VM {vm}");
    }
    cloud.one.call("one.backupjob.delete", &[job.into()]).unwrap().id().unwrap();
    invariants::settle(&cloud).unwrap();
}
