//! The daemon, or libvirtd, is killed in the middle.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use system_tests::cloud::Cloud;
use system_tests::command;
use system_tests::daemon::Options;
use system_tests::{invariants, place};

const MIB: u64 = 1 << 20;

#[test]
fn oned_killed_during_copy_finishes_after_restart() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = cloud.blank_vm("survivor", "2G", "MODE = \"INCREMENT\"").unwrap();
    let domain = format!("one-{vm}");
    // Different bytes in each MiB, so that deduplication does not make the copy short.
    for piece in 0..200_u8 {
        cloud.libvirtd.write(&domain, "vda", piece.wrapping_add(1), u64::from(piece) * 8 * MIB, 4 * MIB).unwrap();
    }
    cloud.one.call("one.vm.backup", &[vm.into(), cloud.datastore.into(), false.into()]).unwrap().id().unwrap();
    let job = command::wait_for("the backup to run in libvirt", Duration::from_secs(60), || {
        // libvirt refuses to answer for a moment while the job begins.
        let job = cloud.libvirtd.virsh(&["domjobinfo", &domain]).unwrap_or_default();
        Ok(job.contains("Unbounded").then_some(job))
    });
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
    cloud.libvirtd.qemu_io(&twin, "vda", "read -P 0xee 0 1M").unwrap();
    for piece in 1..200_u64 {
        let order = format!("read -P {} {}M 4M", piece + 1, piece * 8);
        cloud.libvirtd.qemu_io(&twin, "vda", &order).unwrap();
    }
    invariants::check(&cloud).unwrap();
}

#[test]
fn libvirtd_killed_between_backups_is_no_matter() {
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = cloud.blank_vm("steady", "64M", "MODE = \"INCREMENT\"").unwrap();
    let domain = format!("one-{vm}");
    cloud.libvirtd.write(&domain, "vda", 1, 0, MIB).unwrap();
    cloud.backup(vm).unwrap();
    cloud.libvirtd.kill9().unwrap();
    let refused =
        cloud.one.run("onevm", &["backup", &vm.to_string(), "-d", &cloud.datastore.to_string(), "--wait"]).unwrap();
    assert_ne!(refused.code, 0, "without a hypervisor a backup fails and says so: {refused:?}");
    cloud.libvirtd.restart().unwrap();
    cloud.one.wait_vm(vm, 3, 3).unwrap();
    cloud.libvirtd.write(&domain, "vda", 2, MIB, MIB).unwrap();
    cloud.backup(vm).unwrap();
    let (template, _) = cloud.restore(cloud.backup_images(vm).unwrap()[0], &[]).unwrap();
    let twin = format!("one-{}", cloud.instantiate(template, "twin").unwrap());
    cloud.libvirtd.qemu_io(&twin, "vda", "read -P 1 0 1M").unwrap();
    cloud.libvirtd.qemu_io(&twin, "vda", "read -P 2 1M 1M").unwrap();
    invariants::check(&cloud).unwrap();
}

/// Points in changes of disks, in copies of images, in verifications, in imports of backups and in restores in place: `oned/tests/devices.rs`
/// tries each of them, over dummy drivers.
const ELSEWHERE: [&str; 14] = [
    "attach.",
    "catalogue.",
    "change.",
    "clone.",
    "detach.",
    "disk-snapshot.",
    "image-snapshot.",
    "import.made",
    "nic.",
    "resize.",
    "save-as.",
    "system-snapshot.",
    "verify.",
    "vm-restore.",
];

/// The names in all `crash::point(…)` calls of the daemon, those that a match chooses among included.
fn points() -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![place::source().join("oned/src")];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for call in text.split("crash::point(").skip(1) {
                let arguments = call.split(");").next().unwrap_or_default();
                let quoted = arguments.split('"').skip(1).step_by(2);
                found.extend(quoted.filter(|name| name.contains('.')).map(str::to_owned));
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Leads the VM of that name through states in which it does not run, and back each time; whether the daemon has crashed
/// on the way.
fn lives(cloud: &Cloud, name: &str) -> bool {
    let one = &cloud.one;
    let id = || -> Option<i64> {
        let pool = one.list("onevm").ok()?;
        pool.find_all("VM").into_iter().find(|vm| vm.text("NAME") == name)?.number("ID").ok()
    };
    // (action, STATE and LCM_STATE that it leads to)
    const WAY: [(&str, i64, i64); 6] = [
        ("suspend", 5, 0),
        ("resume", 3, 3),
        ("stop", 4, 0),
        ("resume", 3, 3),
        ("undeploy-hard", 9, 0),
        ("resume", 3, 3),
    ];
    let Some(id) = id() else { return one.has_ended().unwrap() };
    for (action, state, lcm_state) in WAY {
        one.call("one.vm.action", &[action.into(), id.into()]).ok();
        let there = command::wait_for("the VM's next state", Duration::from_secs(60), || {
            let is_there = |vm: &system_tests::xml::Element| {
                vm.number("STATE").is_ok_and(|now| now == state)
                    && vm.number("LCM_STATE").is_ok_and(|now| state != 3 || now == lcm_state)
            };
            Ok(if one.has_ended()? { Some(false) } else { one.vm(id).ok().filter(is_there).map(|_| true) })
        });
        if !there.unwrap() {
            return true;
        }
    }
    false
}

/// Everything the daemon does as a job, one after the other, whatever comes of each, until it has crashed; whether
/// it has.
fn until_it_crashes(cloud: &Cloud, vm: i64, point: &str) -> bool {
    let one = &cloud.one;
    let (id, store, name) = (vm.to_string(), cloud.datastore.to_string(), format!("at-{point}"));
    let ended = |tool: &str, arguments: &[&str]| {
        one.run_while_alive(tool, arguments).ok();
        one.has_ended().unwrap()
    };
    let disk = cloud.work.path().join("small.qcow2");
    command::output("qemu-img", &["create", "-q", "-f", "qcow2", &disk.to_string_lossy(), "1M"]).unwrap();
    let template = cloud.work.path().join("small.tmpl");
    let text = format!("NAME = \"small-{point}\"\nTYPE = \"OS\"\nPATH = \"{}\"\nFORMAT = \"qcow2\"\n", disk.display());
    fs::write(&template, text).unwrap();
    if ended("onevm", &["backup", &id, "-d", &store, "--wait"])
        || ended("oneimage", &["create", &template.to_string_lossy(), "-d", "default"])
    {
        return true;
    }
    // The import goes on after the command's end.
    let imported = command::wait_for("the import", Duration::from_secs(60), || {
        let images = if one.has_ended()? { return Ok(Some(true)) } else { one.list("oneimage") };
        let Ok(images) = images else { return Ok(None) };
        let small = images.find_all("IMAGE").into_iter().find(|image| image.text("NAME") == format!("small-{point}"));
        Ok(small.filter(|image| image.text("STATE") == "1").map(|_| false))
    });
    if imported.unwrap() || ended("oneimage", &["delete", &format!("small-{point}")]) {
        return true;
    }
    // The deletion goes on after the command's end, so the plug may be out already.
    let Ok(backups) = cloud.backup_images(vm) else { return one.wait_end(Duration::from_secs(10)).is_ok() };
    let backup = backups.last().unwrap().to_string();
    if ended("oneimage", &["restore", &backup, "-d", "default", "--name", &name, "--wait"])
        || ended("onetemplate", &["instantiate", &name, "--name", &name, "--wait"])
        || ended("onevm", &["poweroff", &name, "--hard", "--wait"])
        || ended("onevm", &["resume", &name, "--wait"])
        || lives(cloud, &name)
        || ended("onevm", &["terminate", &name, "--hard", "--wait"])
    {
        return true;
    }
    // A backup that is given up: its phases of undoing. It may be done before the cancel comes, so more than once.
    (0..5).any(|_| {
        one.run_while_alive("onevm", &["backup", &id, "-d", &store]).ok();
        ended("onevm", &["backup-cancel", &id]) || {
            let calm = command::wait_for("the cancelled backup to end", Duration::from_secs(60), || {
                Ok((one.has_ended()? || one.vm(vm).is_ok_and(|vm| vm.text("LCM_STATE") == "3")).then_some(()))
            });
            calm.unwrap();
            one.has_ended().unwrap()
        }
    })
}

#[test]
fn the_plug_is_pulled_at_every_named_point_and_nothing_is_lost_or_left() {
    let mut points = points();
    // What is left over for transitions that have no point of their own.
    points.retain(|point| !point.ends_with(".other"));
    points.retain(|point| !ELSEWHERE.iter().any(|job| point.starts_with(job)));
    assert!(!points.is_empty(), "the daemon has no crash points");
    let cloud = Cloud::start(Options::default()).unwrap();
    let vm = cloud.blank_vm("crashing", "256M", "MODE = \"INCREMENT\", KEEP_LAST = \"2\"").unwrap();
    let domain = format!("one-{vm}");
    for value in 1..=3_u8 {
        // So that from now on each backup also forgets one.
        cloud.libvirtd.write(&domain, "vda", value, u64::from(value) * MIB, MIB).unwrap();
        cloud.backup(vm).unwrap();
    }
    let mut unreached = Vec::new();
    for (number, point) in points.iter().enumerate() {
        let value = u8::try_from(number + 4).unwrap();
        let env = BTreeMap::from([("KEEPLAST_CRASH_AT".to_owned(), point.clone())]);
        cloud.one.restart_to_crash(&env).unwrap();
        cloud.libvirtd.write(&domain, "vda", value, u64::from(value) * MIB, MIB).unwrap();
        if !until_it_crashes(&cloud, vm, point) {
            unreached.push(point.as_str());
        }
        cloud.one.restart().unwrap();
        cloud.one.wait_vm(vm, 3, 3).unwrap();
        invariants::settle(&cloud).unwrap_or_else(|error| panic!("after a crash at {point}: {error:#}"));

        // The next backup is whole, whatever became of the one that the crash met.
        cloud.backup(vm).unwrap();
        let backup = *cloud.backup_images(vm).unwrap().last().unwrap();
        let (template, _) = cloud.restore(backup, &["--name", &format!("after-{point}")]).unwrap();
        let twin = cloud.instantiate(template, &format!("after-{point}")).unwrap();
        for written in 1..=value {
            let order = format!("read -P {written} {written}M 1M");
            let read = cloud.libvirtd.qemu_io(&format!("one-{twin}"), "vda", &order);
            read.unwrap_or_else(|error| panic!("after a crash at {point}: {error:#}"));
        }
        cloud.one.ok("onevm", &["terminate", &twin.to_string(), "--hard", "--wait"]).unwrap();
    }
    assert!(unreached.is_empty(), "no story reaches the crash points {unreached:?}");
}
