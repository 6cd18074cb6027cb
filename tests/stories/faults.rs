//! What goes wrong outside, and what users ask for that cannot be: each time the VM is back in its right state, nothing
//! half-made is shown as whole, and nothing is left behind.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use system_tests::cloud::Cloud;
use system_tests::command::{self, LONG, ORDINARY, wait_for};
use system_tests::daemon::Options;
use system_tests::invariants;
use system_tests::restic::{Repository, image_digest};
use system_tests::rpc::{Answer, Value};

use crate::faults_data::{
    Held, NOBODY, Objects, after_backup, backup_to_the_end, bad_images, error_of, everything_shown, files_below,
    last_point, methods_with_ids, noise, refusal, refused_calls, standing, state_with_small_datastore,
    wait_image_error, write_noise,
};

/// Without the calls in the log, of which there are very many while a story waits.
fn quiet() -> Options {
    Options { conf: "LOG = [ DEBUG_LEVEL = 2 ]\n".into(), ..Options::default() }
}

/// Restores the newest point of a backup image and compares its first disk with what the guest of `vm` has now. The VM is
/// off afterwards.
fn restore_equals_the_disk(cloud: &Cloud, vm: i64, image: i64) {
    let (_, images) =
        cloud.restore(image, &["--name", &format!("compared-{vm}-{image}-{}", points(cloud, vm))]).unwrap();
    let restored = cloud.one.show("oneimage", images[0]).unwrap();
    if cloud.one.vm(vm).unwrap().text("STATE") != "8" {
        cloud.one.ok("onevm", &["poweroff", &vm.to_string(), "--hard", "--wait"]).unwrap();
    }
    let disk = cloud.one.state().join(format!("datastores/0/{vm}/disk.0"));
    assert_eq!(image_digest(restored.text("SOURCE").as_ref()).unwrap(), image_digest(&disk).unwrap());
}

fn running(cloud: &Cloud, vm: i64) {
    cloud.one.wait_vm(vm, 3, 3).unwrap();
    cloud.libvirtd.write(&format!("one-{vm}"), "vda", 0x77, 0, 64 << 10).unwrap();
    assert_eq!(cloud.libvirtd.virsh(&["domstate", &format!("one-{vm}")]).unwrap(), "running");
}

#[test]
fn calls_about_what_is_not_there_or_not_so_are_refused_and_change_nothing() {
    let cloud = Cloud::start(quiet()).unwrap();
    let vm = cloud.blank_vm("refused", "16M", "MODE = \"INCREMENT\"").unwrap();
    cloud.backup(vm).unwrap();
    let backup = cloud.backup_images(vm).unwrap()[0];
    let disk = cloud.one.vm(vm).unwrap().number("TEMPLATE/DISK/IMAGE_ID").unwrap();
    let template = format!("MEMORY = 32\nDISK = [ IMAGE_ID = {disk} ]");
    let held = cloud.one.call("one.vm.allocate", &[template.as_str().into(), true.into()]).unwrap().id().unwrap();
    let objects = Objects { vm, held, image: disk, backup, datastore: cloud.datastore, host: cloud.host };
    invariants::settle(&cloud).unwrap();
    let before = standing(&cloud.one);
    let mut wrong = Vec::new();
    let mut complain = |call: &str, answer: &Answer| wrong.push(format!("{call}: {answer:?}"));

    for (method, at, good) in methods_with_ids(&objects) {
        for absent in [NOBODY, i64::from(i32::MAX)] {
            let mut parameters = good.clone();
            parameters[at] = absent.into();
            let answer = cloud.one.call(method, &parameters).unwrap();
            if !matches!(&answer, Answer::Refused { code: 1024, message, object }
                if message.contains(&absent.to_string()) && message.starts_with(&format!("[{method}]")) && *object == absent)
            {
                complain(&format!("{method} with id {absent} as parameter {at}"), &answer);
            }
        }
        for odd in [Value::from("zero"), Value::from(true), Value::Array(vec![])] {
            let mut parameters = good.clone();
            parameters[at] = odd.clone();
            let answer = cloud.one.call(method, &parameters).unwrap();
            if !matches!(answer, Answer::Fault { code: -501, .. }) {
                complain(&format!("{method} with {odd:?} as parameter {at}"), &answer);
            }
        }
    }
    for (method, parameters, code, piece) in refused_calls(&objects) {
        let answer = cloud.one.call(method, &parameters).unwrap();
        let fits =
            matches!(&answer, Answer::Refused { code: got, message, .. } if *got == code && message.contains(piece));
        if !fits {
            complain(&format!("{method} {parameters:?} should be refused with {code} and {piece:?}"), &answer);
        }
    }
    assert!(wrong.is_empty(), "{} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(standing(&cloud.one), before);
    cloud.one.wait_vm(vm, 3, 3).unwrap();
    invariants::settle(&cloud).unwrap();
}

#[test]
fn files_that_are_not_allowed_or_not_what_they_say_become_no_image() {
    let cloud = Cloud::start(quiet()).unwrap();
    let dir = cloud.work.path().join("bad");
    fs::create_dir(&dir).unwrap();
    let files = bad_images(&dir);
    let mut ids = Vec::new();
    for (number, (path, format, _)) in files.iter().enumerate() {
        let format = if format.is_empty() { String::new() } else { format!("FORMAT = \"{format}\"\n") };
        let text = format!("NAME = \"bad-{number}\"\nTYPE = \"DATABLOCK\"\nPATH = \"{}\"\n{format}", path.display());
        ids.push(cloud.one.call("one.image.allocate", &[text.as_str().into(), 1.into()]).unwrap().id().unwrap());
    }
    let mut wrong = Vec::new();
    for (id, (path, _, word)) in ids.iter().zip(&files) {
        let said = wait_image_error(&cloud, *id);
        // A date, and a sentence about it.
        if !said.contains(" : ") || !said.contains(word) {
            wrong.push(format!("{}: {said:?} lacks {word:?}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let data = cloud.one.state().join("datastores/1");
    assert_eq!(files_below(&data), Vec::<std::path::PathBuf>::new());

    // No VM is made of one, and all of them go.
    let template = format!("NAME = x\nMEMORY = 32\nDISK = [ IMAGE_ID = {} ]", ids[0]);
    let answer = cloud.one.call("one.vm.allocate", &[template.as_str().into()]).unwrap();
    refusal(&answer, "a VM of an image in ERROR");
    for id in &ids {
        cloud.one.call("one.image.delete", &[(*id).into()]).unwrap().id().unwrap();
    }
    wait_for("the images to go", ORDINARY, || {
        Ok(cloud.one.list("oneimage")?.find_all("IMAGE").is_empty().then_some(()))
    })
    .unwrap();
    invariants::settle(&cloud).unwrap();
}

#[test]
fn a_full_backup_datastore_fails_the_backup_and_nothing_else() {
    let (state, disk) = state_with_small_datastore(100, 128);
    let cloud = Cloud::start(Options { state: Some(state.path().into()), ..quiet() }).unwrap();
    assert_eq!(cloud.datastore, 100);
    let vm = cloud.blank_vm("full", "64M", "MODE = \"INCREMENT\"").unwrap();
    write_noise(&cloud, vm, 0, 8);
    cloud.backup(vm).unwrap();
    write_noise(&cloud, vm, 8, 40);
    disk.fill_up_to(12);
    let free = disk.free_mib();

    // What the guest wrote is known as soon as the point in time is open, so nothing is copied in vain.
    let after = backup_to_the_end(&cloud, vm);
    for part in ["40 MB are needed and ", " MB are free: ", " MB are missing"] {
        assert!(error_of(&after).contains(part), "{}", error_of(&after));
    }
    running(&cloud, vm);
    invariants::settle(&cloud).unwrap();
    assert!(disk.free_mib() + 1 >= free, "{} of {free} MiB are free after the failure", disk.free_mib());
    assert_eq!(Repository::find(state.path(), &cloud.password).unwrap()[0].snapshots().unwrap().len(), 1);

    disk.make_room();
    cloud.backup(vm).unwrap();
    let images = cloud.backup_images(vm).unwrap();
    assert_eq!(last_point(&cloud, images[0]), ("INCREMENT".into(), String::new()), "the chain goes on");
    assert_eq!(error_of(&cloud.one.vm(vm).unwrap()), "", "the error goes when a backup is well");
    invariants::settle(&cloud).unwrap();
    restore_equals_the_disk(&cloud, vm, images[0]);
    invariants::settle(&cloud).unwrap();
}

#[test]
fn a_backup_datastore_full_to_the_last_byte_can_be_made_room_in_by_deleting_a_backup() {
    let (state, disk) = state_with_small_datastore(100, 96);
    // Backups are not refused beforehand: what is looked at is the copy.
    let conf = quiet().conf + "DATASTORE_CAPACITY_CHECK = NO\n";
    let cloud = Cloud::start(Options { state: Some(state.path().into()), conf, ..quiet() }).unwrap();
    let vm = cloud.blank_vm("brim", "32M", "MODE = \"FULL\"").unwrap();
    write_noise(&cloud, vm, 0, 16);
    cloud.backup(vm).unwrap();
    write_noise(&cloud, vm, 0, 16);
    cloud.backup(vm).unwrap();
    write_noise(&cloud, vm, 0, 24);
    disk.fill_up_to(0);
    let after = backup_to_the_end(&cloud, vm);
    for part in ["No space left on device", "MB are still needed and ", " MB are free"] {
        assert!(error_of(&after).contains(part), "{}", error_of(&after));
    }
    running(&cloud, vm);

    let images = cloud.backup_images(vm).unwrap();
    assert_eq!(images.len(), 2);
    disk.fill_up_to(0);
    cloud.one.call("one.image.delete", &[images[0].into()]).unwrap().id().unwrap();
    wait_for("the deleted backup to go", Duration::from_secs(60), || {
        Ok((cloud.backup_images(vm)? == images[1..]).then_some(()))
    })
    .unwrap();
    assert!(disk.free_mib() >= 15, "{} MiB are free after the deletion", disk.free_mib());
    invariants::settle(&cloud).unwrap();
    disk.make_room();
    cloud.backup(vm).unwrap();
    let newest = *cloud.backup_images(vm).unwrap().last().unwrap();
    restore_equals_the_disk(&cloud, vm, newest);
    invariants::settle(&cloud).unwrap();
}

#[test]
fn a_backup_gives_way_before_its_scratch_files_fill_the_hosts_disk() {
    let (state, disk) = state_with_small_datastore(0, 640);
    let conf = quiet().conf + "SCRATCH_RESERVE_MB = 100\n";
    let cloud = Cloud::start(Options { state: Some(state.path().into()), conf, ..quiet() }).unwrap();
    let vm = cloud.blank_vm("scratch", "512M", "MODE = \"INCREMENT\"").unwrap();
    write_noise(&cloud, vm, 0, 128);

    // Too little from the start.
    disk.fill_up_to(80);
    let after = backup_to_the_end(&cloud, vm);
    assert!(error_of(&after).contains("scratch"), "{}", error_of(&after));
    running(&cloud, vm);
    disk.make_room();
    invariants::settle(&cloud).unwrap();
    assert_eq!(cloud.backup_images(vm).unwrap(), Vec::<i64>::new());

    // Too little in the middle.
    let held = Held::backup(&cloud, vm);
    disk.fill_up_to(80);
    held.let_go();
    let after = after_backup(&cloud, vm);
    if cloud.backup_images(vm).unwrap().is_empty() {
        assert!(error_of(&after).contains("scratch"), "{}", error_of(&after));
    }
    running(&cloud, vm);
    write_noise(&cloud, vm, 300, 16);
    disk.make_room();
    invariants::settle(&cloud).unwrap();
    cloud.backup(vm).unwrap();
    let image = *cloud.backup_images(vm).unwrap().last().unwrap();
    invariants::settle(&cloud).unwrap();
    restore_equals_the_disk(&cloud, vm, image);
    invariants::settle(&cloud).unwrap();
}

#[test]
fn an_image_that_does_not_fit_ends_in_error_and_leaves_no_piece() {
    let (state, disk) = state_with_small_datastore(1, 32);
    let cloud = Cloud::start(Options { state: Some(state.path().into()), ..quiet() }).unwrap();
    let file = cloud.work.path().join("large.raw");
    noise(&file, 48);
    let text = |name: &str| format!("NAME = {name}\nTYPE = DATABLOCK\nFORMAT = raw\nPATH = \"{}\"", file.display());
    let answer = cloud.one.call("one.image.allocate", &[text("large").as_str().into(), 1.into()]).unwrap();
    let said = wait_image_error(&cloud, answer.id().unwrap());
    assert!(said.contains("No space left on device"), "{said}");
    assert_eq!(files_below(&state.path().join("datastores/1")), Vec::<std::path::PathBuf>::new());
    assert!(disk.free_mib() >= 31, "{} MiB are free", disk.free_mib());
    // What does fit still goes in.
    noise(&file, 16);
    let answer = cloud.one.call("one.image.allocate", &[text("small").as_str().into(), 1.into()]).unwrap();
    cloud.wait_image(answer.id().unwrap()).unwrap();

    // A restore into it fails in the same way.
    let blank = cloud.work.path().join("blank.qcow2");
    command::output("qemu-img", &["create", "-q", "-f", "qcow2", &blank.to_string_lossy(), "64M"]).unwrap();
    let image = cloud.image("blank", &blank).unwrap();
    let template = format!(
        "NAME = tight\nCPU = 0.1\nMEMORY = 32\nOS = [ ARCH = x86_64, MACHINE = q35 ]\nDISK = [ IMAGE_ID = {image} ]\n\
         BACKUP_CONFIG = [ MODE = INCREMENT ]"
    );
    let template = cloud.one.call("one.template.allocate", &[template.as_str().into()]).unwrap().id().unwrap();
    let vm = cloud.instantiate(template, "tight").unwrap();
    write_noise(&cloud, vm, 0, 32);
    cloud.backup(vm).unwrap();
    let backup = cloud.backup_images(vm).unwrap()[0];
    let before = files_below(&state.path().join("datastores/1"));
    let restore = || cloud.one.call("one.image.restore", &[backup.into(), 1.into(), "".into()]).unwrap();
    // Refused as long as somebody looks; else it says what was missing when it finds out.
    let (code, message, _) = refusal(&restore(), "a restore that does not fit");
    assert!(code == 2048 && message.contains("64 MB are needed and "), "{message}");
    let unchecked = [1.into(), "DATASTORE_CAPACITY_CHECK = NO".into(), 1.into()];
    cloud.one.call("one.datastore.update", &unchecked).unwrap().id().unwrap();
    let answer = restore();
    let ids: Vec<i64> = answer.text().unwrap().split(' ').map(|id| id.parse().unwrap()).collect();
    let said = wait_image_error(&cloud, ids[1]);
    for part in ["No space left on device", "64 MB are needed and ", " MB are free"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(files_below(&state.path().join("datastores/1")), before);
    invariants::settle(&cloud).unwrap();
}

#[test]
fn without_libvirt_the_daemon_starts_and_vms_wait_until_it_is_there() {
    let cloud = Cloud::start(quiet()).unwrap();
    let disk = cloud.work.path().join("late.qcow2");
    command::output("qemu-img", &["create", "-q", "-f", "qcow2", &disk.to_string_lossy(), "16M"]).unwrap();
    let image = cloud.image("late", &disk).unwrap();
    cloud.one.stop().unwrap();
    cloud.libvirtd.kill9().unwrap();
    cloud.one.restart().unwrap();
    let host = || cloud.one.show("onehost", cloud.host).unwrap();
    wait_for("the host to be in ERROR", ORDINARY, || Ok((host().text("STATE") == "3").then_some(()))).unwrap();
    assert!(!host().text("TEMPLATE/ERROR").is_empty(), "the host says what is wrong");
    let template = format!(
        "NAME = late\nCPU = 0.1\nMEMORY = 32\nOS = [ ARCH = x86_64, MACHINE = q35 ]\nDISK = [ IMAGE_ID = {image} ]"
    );
    let vm = cloud.one.call("one.vm.allocate", &[template.as_str().into()]).unwrap().id().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(cloud.one.vm(vm).unwrap().text("STATE"), "1", "PENDING");

    cloud.libvirtd.restart().unwrap();
    running(&cloud, vm);
    assert_eq!(host().text("STATE"), "2");
    assert_eq!(host().text("TEMPLATE/ERROR"), "");
    invariants::settle(&cloud).unwrap();
}

/// The VM is off, soon, and its backup has either failed and says so, or was taken of the VM as it is now, whole, and then its
/// date and a warning tell of what it is.
fn off_after_its_guest_was_killed(cloud: &Cloud, vm: i64, points_before: usize, killed_at: i64) {
    let after = wait_for("the VM to be off", ORDINARY, || {
        let vm = cloud.one.vm(vm)?;
        Ok((vm.text("STATE") == "8").then_some(vm))
    })
    .unwrap();
    invariants::settle(cloud).unwrap();
    assert_eq!(cloud.one.vm(vm).unwrap().text("STATE"), "8");
    if points(cloud, vm) == points_before {
        assert!(error_of(&after).contains("BACKUP: "), "{:?}", error_of(&after));
    } else {
        let image = *cloud.backup_images(vm).unwrap().last().unwrap();
        let (kind, reason) = last_point(cloud, image);
        assert!(kind == "FULL" || reason.contains("everything was read"), "{kind} {reason:?}");
        let document = cloud.one.show("oneimage", image).unwrap();
        let warning = document.find_all("TEMPLATE/INCREMENT_INFO").last().unwrap().text("WARNING");
        assert!(warning.contains("the guest went off"), "{warning:?}");
        let dates = document.texts("BACKUP_INCREMENTS/INCREMENT/DATE");
        let date = dates.last().map_or_else(|| document.text("REGTIME"), |date| *date);
        assert!(date.parse::<i64>().unwrap() >= killed_at, "dated {date}, killed at {killed_at}");
        restore_equals_the_disk(cloud, vm, image);
    }
}

fn now_s() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

#[test]
fn a_guest_killed_during_its_backup_is_off_and_the_next_backup_reads_everything() {
    let cloud = Cloud::start(quiet()).unwrap();
    let vm = cloud.blank_vm("killed", "512M", "MODE = \"INCREMENT\"").unwrap();
    write_noise(&cloud, vm, 400, 2);
    cloud.backup(vm).unwrap();
    write_noise(&cloud, vm, 0, 128);
    let held = Held::backup(&cloud, vm);
    let killed_at = now_s();
    held.kill_guest();
    off_after_its_guest_was_killed(&cloud, vm, 1, killed_at);
    let disk = cloud.one.state().join(format!("datastores/0/{vm}/disk.0"));
    let left = invariants::bitmaps(&disk).unwrap();
    let known = cloud.libvirtd.virsh(&["checkpoint-list", &format!("one-{vm}"), "--name"]).unwrap();
    assert!(left.len() <= 1 && known.lines().count() <= 1, "{left:?} {known:?}");

    cloud.one.ok("onevm", &["resume", &vm.to_string(), "--wait"]).unwrap();
    write_noise(&cloud, vm, 300, 1);
    cloud.backup(vm).unwrap();
    invariants::settle(&cloud).unwrap();
    // And from there on increments are small again.
    write_noise(&cloud, vm, 310, 1);
    cloud.backup(vm).unwrap();
    let newest = *cloud.backup_images(vm).unwrap().last().unwrap();
    assert_eq!(last_point(&cloud, newest), ("INCREMENT".into(), String::new()));
    restore_equals_the_disk(&cloud, vm, newest);
    invariants::settle(&cloud).unwrap();
}

#[test]
fn a_guest_killed_during_the_backup_of_its_first_disk_can_be_resumed_and_backed_up() {
    let cloud = Cloud::start(quiet()).unwrap();
    let vm = cloud.blank_vm("first", "512M", "MODE = \"FULL\"").unwrap();
    write_noise(&cloud, vm, 0, 128);
    let held = Held::backup(&cloud, vm);
    let killed_at = now_s();
    held.kill_guest();
    off_after_its_guest_was_killed(&cloud, vm, 0, killed_at);
    // Off as it is.
    cloud.backup(vm).unwrap();
    cloud.one.wait_vm(vm, 8, 0).unwrap();
    restore_equals_the_disk(&cloud, vm, *cloud.backup_images(vm).unwrap().last().unwrap());
    invariants::settle(&cloud).unwrap();
}

#[test]
fn a_cancelled_backup_is_gone_within_seconds_and_the_next_one_is_whole() {
    let cloud = Cloud::start(quiet()).unwrap();
    let vm = cloud.blank_vm("cancelled", "512M", "MODE = \"INCREMENT\"").unwrap();
    write_noise(&cloud, vm, 400, 2);
    cloud.backup(vm).unwrap();
    let repository = Repository::find(cloud.one.state(), &cloud.password).unwrap().remove(0);
    let before = repository.snapshots().unwrap();
    write_noise(&cloud, vm, 0, 128);
    let held = Held::backup(&cloud, vm);
    cloud.one.ok("onevm", &["backup-cancel", &vm.to_string()]).unwrap();
    held.let_go();
    wait_for("the VM to run", ORDINARY, || Ok((cloud.one.vm(vm)?.text("LCM_STATE") == "3").then_some(()))).unwrap();
    let after = cloud.one.vm(vm).unwrap();
    assert!(error_of(&after).contains("cancelled"), "{}", error_of(&after));
    running(&cloud, vm);
    invariants::settle(&cloud).unwrap();
    assert_eq!(repository.snapshots().unwrap(), before);
    let again = cloud.one.call("one.vm.backupcancel", &[vm.into()]).unwrap();
    assert_eq!(refusal(&again, "a second cancel").0, 8192);

    cloud.backup(vm).unwrap();
    let image = cloud.backup_images(vm).unwrap()[0];
    assert_eq!(last_point(&cloud, image), ("INCREMENT".into(), String::new()));
    invariants::settle(&cloud).unwrap();
    restore_equals_the_disk(&cloud, vm, image);
}

#[test]
fn what_a_vm_in_backup_must_not_do_is_refused_and_the_backup_ends_well() {
    let cloud = Cloud::start(quiet()).unwrap();
    let vm = cloud.blank_vm("busy", "512M", "MODE = \"INCREMENT\"").unwrap();
    cloud.backup(vm).unwrap();
    let image = cloud.backup_images(vm).unwrap()[0];
    write_noise(&cloud, vm, 0, 128);
    let held = Held::backup(&cloud, vm);
    let call = |method: &str, parameters: &[Value]| {
        let (code, message, object) = refusal(&cloud.one.call(method, parameters).unwrap(), method);
        (code, message, object)
    };
    let (code, message, object) = call("one.vm.backup", &[vm.into(), cloud.datastore.into(), false.into()]);
    assert_eq!((code, object), (8192, vm), "{message}");
    assert!(message.contains("wrong state BACKUP."), "{message}");
    let words = "poweroff poweroff-hard reboot reboot-hard terminate terminate-hard resume hold suspend stop undeploy \
                 undeploy-hard";
    for word in words.split_whitespace() {
        let (code, message, _) = call("one.vm.action", &[word.into(), vm.into()]);
        assert_eq!(code, 2048, "{message}");
        assert!(message.contains("state BACKUP"), "{message}");
    }
    for live in [false, true] {
        let (code, message, _) = call("one.vm.migrate", &[vm.into(), cloud.host.into(), live.into()]);
        assert_eq!(code, 2048, "{message}");
        assert!(message.contains("state BACKUP"), "{message}");
    }
    let (code, message, _) = call("one.image.delete", &[image.into()]);
    assert_eq!(code, 8192, "{message}");
    let (code, message, _) = call("one.image.delete", &[image.into(), true.into()]);
    assert_eq!(code, 8192, "also with force: {message}");
    let (_, message, _) = call("one.datastore.delete", &[cloud.datastore.into()]);
    assert!(!message.is_empty());
    let (_, message, _) = call("one.host.delete", &[cloud.host.into()]);
    assert!(!message.is_empty());
    held.let_go();
    let after = after_backup(&cloud, vm);
    assert_eq!(error_of(&after), "");
    running(&cloud, vm);
    invariants::settle(&cloud).unwrap();
    assert_eq!(cloud.one.show("oneimage", image).unwrap().find_all("BACKUP_INCREMENTS/INCREMENT").len(), 2);
}

#[test]
fn checkpoints_and_domains_lost_behind_our_back_cost_a_full_read_and_nothing_else() {
    let cloud = Cloud::start(quiet()).unwrap();
    let vm = cloud.blank_vm("forgotten", "64M", "MODE = \"INCREMENT\"").unwrap();
    let (id, domain) = (vm.to_string(), format!("one-{vm}"));
    write_noise(&cloud, vm, 0, 4);
    cloud.backup(vm).unwrap();
    invariants::settle(&cloud).unwrap();
    let image = cloud.backup_images(vm).unwrap()[0];

    // The checkpoint with its bitmap.
    let checkpoint = cloud.libvirtd.virsh(&["checkpoint-list", &domain, "--name"]).unwrap();
    cloud.libvirtd.virsh(&["checkpoint-delete", &domain, checkpoint.trim()]).unwrap();
    write_noise(&cloud, vm, 8, 2);
    cloud.backup(vm).unwrap();
    let (kind, reason) = last_point(&cloud, image);
    assert!(kind == "INCREMENT" && reason.contains("everything was read"), "{kind} {reason:?}");
    invariants::settle(&cloud).unwrap();

    // The domain with all that libvirt remembers; QEMU and its bitmaps go on.
    let description = cloud.work.path().join("domain.xml");
    fs::write(&description, cloud.libvirtd.virsh(&["dumpxml", &domain, "--inactive"]).unwrap()).unwrap();
    let checkpoint = cloud.libvirtd.virsh(&["checkpoint-list", &domain, "--name"]).unwrap();
    cloud.libvirtd.virsh(&["checkpoint-delete", &domain, checkpoint.trim(), "--metadata"]).unwrap();
    cloud.libvirtd.virsh(&["undefine", &domain]).unwrap();
    cloud.libvirtd.virsh(&["define", &description.to_string_lossy()]).unwrap();
    assert_eq!(cloud.libvirtd.virsh(&["checkpoint-list", &domain, "--name"]).unwrap(), "");
    write_noise(&cloud, vm, 16, 2);
    cloud.backup(vm).unwrap();
    assert_eq!(cloud.backup_images(vm).unwrap(), [image], "the chain goes on");
    invariants::settle(&cloud).unwrap();

    // The domain altogether, while it is off.
    cloud.one.ok("onevm", &["poweroff", &id, "--hard", "--wait"]).unwrap();
    cloud.libvirtd.virsh(&["undefine", &domain, "--checkpoints-metadata"]).unwrap();
    cloud.backup(vm).unwrap();
    cloud.one.wait_vm(vm, 8, 0).unwrap();
    cloud.one.ok("onevm", &["resume", &id, "--wait"]).unwrap();
    write_noise(&cloud, vm, 24, 2);
    cloud.backup(vm).unwrap();
    invariants::settle(&cloud).unwrap();

    // The bitmaps from the disk, while it is off.
    cloud.one.ok("onevm", &["poweroff", &id, "--hard", "--wait"]).unwrap();
    let disk = cloud.one.state().join(format!("datastores/0/{vm}/disk.0"));
    for bitmap in invariants::bitmaps(&disk).unwrap() {
        command::output("qemu-img", &["bitmap", "--remove", &disk.to_string_lossy(), &bitmap]).unwrap();
    }
    cloud.one.ok("onevm", &["resume", &id, "--wait"]).unwrap();
    write_noise(&cloud, vm, 32, 2);
    cloud.backup(vm).unwrap();
    let (kind, reason) = last_point(&cloud, image);
    assert!(kind == "INCREMENT" && reason.contains("everything was read"), "{kind} {reason:?}");
    restore_equals_the_disk(&cloud, vm, image);
    invariants::settle(&cloud).unwrap();
}

/// After something was lost from the repository the next backup reads everything, says so, and is whole.
fn publishes_only_what_can_be_restored(cloud: &Cloud, vm: i64, at_mib: u64) {
    write_noise(cloud, vm, at_mib, 1);
    let old = points(cloud, vm);
    let after = backup_to_the_end(cloud, vm);
    cloud.one.wait_vm(vm, 3, 3).unwrap();
    assert_eq!(points(cloud, vm), old + 1, "{}", error_of(&after));
    let (_, reason) = last_point(cloud, *cloud.backup_images(vm).unwrap().last().unwrap());
    assert!(reason.contains("everything was read"), "{reason:?}");
    let newest = *cloud.backup_images(vm).unwrap().last().unwrap();
    let (template, _) = cloud.restore(newest, &["--name", &format!("lost-{at_mib}")]).unwrap();
    assert!(template >= 0);
}

fn points(cloud: &Cloud, vm: i64) -> usize {
    let increments = |id| cloud.one.show("oneimage", id).unwrap().find_all("BACKUP_INCREMENTS/INCREMENT").len();
    // A backup that stands alone lists none.
    cloud.backup_images(vm).unwrap().into_iter().map(|id| increments(id).max(1)).sum()
}

#[test]
fn a_pack_lost_from_the_repository_is_noticed_before_anything_is_built_upon_it() {
    let cloud = Cloud::start(quiet()).unwrap();
    let vm = cloud.blank_vm("packs", "64M", "MODE = \"INCREMENT\"").unwrap();
    write_noise(&cloud, vm, 4, 8);
    cloud.backup(vm).unwrap();
    invariants::settle(&cloud).unwrap();
    let repository = Repository::find(cloud.one.state(), &cloud.password).unwrap().remove(0);
    // The largest: the one with the guest's data.
    let packs = files_below(&repository.path.join("data"));
    fs::remove_file(packs.iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap()).unwrap();
    publishes_only_what_can_be_restored(&cloud, vm, 20);
    invariants::rests(&cloud).ok();
    let newest = *cloud.backup_images(vm).unwrap().last().unwrap();
    restore_equals_the_disk(&cloud, vm, newest);
}

#[test]
fn a_repository_removed_behind_our_back_is_begun_anew() {
    let cloud = Cloud::start(quiet()).unwrap();
    let vm = cloud.blank_vm("removed", "64M", "MODE = \"INCREMENT\"").unwrap();
    write_noise(&cloud, vm, 4, 8);
    cloud.backup(vm).unwrap();
    invariants::settle(&cloud).unwrap();
    let lost = cloud.backup_images(vm).unwrap()[0];
    let repository = Repository::find(cloud.one.state(), &cloud.password).unwrap().remove(0);
    fs::remove_dir_all(&repository.path).unwrap();
    publishes_only_what_can_be_restored(&cloud, vm, 20);
    repository.check().unwrap();
    let newest = *cloud.backup_images(vm).unwrap().last().unwrap();
    restore_equals_the_disk(&cloud, vm, newest);

    // The point that is lost says so, and makes no disk.
    let before = files_below(&cloud.one.state().join("datastores/1"));
    let options = "INCREMENT_ID = 0\nNAME = lost";
    let answer = cloud.one.call("one.image.restore", &[lost.into(), 1.into(), options.into()]).unwrap();
    let ids: Vec<i64> = answer.text().unwrap().split(' ').map(|id| id.parse().unwrap()).collect();
    let said = wait_image_error(&cloud, ids[1]);
    assert!(said.contains("not there"), "{said}");
    assert_eq!(files_below(&cloud.one.state().join("datastores/1")), before);
    // It can be deleted, with what is left of it.
    for image in cloud.backup_images(vm).unwrap() {
        cloud.one.call("one.image.delete", &[image.into()]).unwrap().id().unwrap();
    }
    wait_for("the backups to go", ORDINARY, || Ok(cloud.backup_images(vm)?.is_empty().then_some(()))).unwrap();
    invariants::settle(&cloud).unwrap();
}

#[test]
fn a_wrong_password_is_said_clearly_and_shown_to_nobody() {
    let cloud = Cloud::start(Options { conf: "LOG = [ DEBUG_LEVEL = 5 ]\n".into(), ..Options::default() }).unwrap();
    let vm = cloud.blank_vm("locked", "32M", "MODE = \"INCREMENT\"").unwrap();
    write_noise(&cloud, vm, 0, 2);
    cloud.backup(vm).unwrap();
    let set = |password: &str| {
        let password = password.replace('"', "\\\"");
        let text = format!("RESTIC_PASSWORD = \"{password}\"\n");
        cloud
            .one
            .call("one.datastore.update", &[cloud.datastore.into(), text.as_str().into(), 1.into()])
            .unwrap()
            .id()
            .unwrap();
    };
    set("opensesame-42");
    // Also a second one does not wait for ever for the end of the first.
    for _ in 0..2 {
        let after = backup_to_the_end(&cloud, vm);
        let said = error_of(&after);
        assert!(said.contains("password"), "{said}");
        running(&cloud, vm);
    }
    let failed =
        cloud.one.run("onevm", &["backup", &vm.to_string(), "-d", &cloud.datastore.to_string(), "--wait"]).unwrap();
    assert!(!failed.success(), "{failed:?}");
    let shown = everything_shown(&cloud.one) + &failed.stdout + &failed.stderr;
    for secret in ["opensesame-42", cloud.password.as_str(), "with' quotes", "pass: word"] {
        let at = shown.find(secret);
        assert!(at.is_none(), "a password is shown: …{}…", &shown[at.unwrap().saturating_sub(200)..at.unwrap()]);
    }
    set(&cloud.password);
    write_noise(&cloud, vm, 8, 2);
    cloud.backup(vm).unwrap();
    assert_eq!(cloud.backup_images(vm).unwrap().len(), 1);
    invariants::settle(&cloud).unwrap();
    restore_equals_the_disk(&cloud, vm, cloud.backup_images(vm).unwrap()[0]);
}

#[test]
fn a_vm_without_room_waits_and_runs_when_there_is_some() {
    let cloud = Cloud::start(quiet()).unwrap();
    let host = wait_for("the host's size", LONG, || {
        let host = cloud.one.show("onehost", cloud.host)?;
        Ok((host.number("HOST_SHARE/TOTAL_CPU")? > 0).then_some(host))
    })
    .unwrap();
    let cpus = host.number("HOST_SHARE/TOTAL_CPU").unwrap() / 100;
    let make = |name: &str, cpu: String| {
        let text = format!(
            "NAME = {name}\nCPU = {cpu}\nVCPU = 1\nMEMORY = 32\nOS = [ ARCH = x86_64, MACHINE = q35 ]\n\
             DISK = [ TYPE = fs, SIZE = 8, FORMAT = qcow2 ]"
        );
        cloud.one.call("one.vm.allocate", &[text.as_str().into()]).unwrap().id().unwrap()
    };
    let large = make("large", format!("{cpus}"));
    cloud.one.wait_vm(large, 3, 3).unwrap();
    let waiting = make("waiting", "1".into());
    let never = make("never", format!("{}", cpus + 1));
    std::thread::sleep(Duration::from_secs(2));
    for vm in [waiting, never] {
        assert_eq!(cloud.one.vm(vm).unwrap().text("STATE"), "1", "PENDING");
    }
    cloud.one.ok("onevm", &["terminate", &large.to_string(), "--hard", "--wait"]).unwrap();
    running(&cloud, waiting);
    assert_eq!(cloud.one.vm(never).unwrap().text("STATE"), "1", "PENDING");
    cloud.one.call("one.vm.action", &["terminate".into(), never.into()]).unwrap().id().unwrap();
    cloud.one.wait_vm(never, 6, 0).unwrap();
    invariants::settle(&cloud).unwrap();
}
