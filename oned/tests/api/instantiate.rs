//! From a template to a VM: the three templates that come with the project, disks by name, presets, and what is refused.

use one_core::backup::BackupConfig;
use one_core::lifecycle::ImageState;
use one_core::schedule::{End, Repeat};
use one_core::template::Template;
use oned::api;

use crate::world::{IMAGES, NOW, SIZE, World, element, folder, octal};

/// 1 December 2026, 04:00 UTC.
const FIRST_OF_DECEMBER: i64 = 1_796_097_600;

fn world() -> World {
    let world = World::new();
    world.add_backup_datastore("near");
    world.add_backup_datastore("distant");
    world.add_image("guest-disk");
    world
}

fn text(name: &str) -> String {
    std::fs::read_to_string(folder("../templates").join(name)).unwrap()
}

/// A VM of a template that comes with the project.
fn made(world: &World, name: &str) -> i64 {
    let template = world.allocate_template(&text(name));
    world.template_document(&world.alice, template);
    let vm = world.instantiate(&world.alice, template, "").unwrap();
    let row = world.vm_row(vm);
    assert_eq!(row.name, format!("{}-{vm}", name.strip_suffix(".tmpl").unwrap()));
    let disk = Template::parse(&row.template).unwrap().vector("DISK").cloned().unwrap();
    assert_eq!((disk.get("IMAGE_ID"), disk.get("TARGET"), disk.get("CLONE")), (Some("0"), Some("vda"), Some("YES")));
    world.vm_document(&world.alice, vm);
    vm
}

#[test]
fn there_are_tests_for_every_template_that_comes_with_the_project() {
    let mut names: Vec<_> =
        std::fs::read_dir(folder("../templates")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["hourly-frozen.tmpl", "nightly-incremental.tmpl", "weekly-monthly-full.tmpl"]);
}

fn config(world: &World, vm: i64) -> (&'static str, &'static str, Option<i64>, bool) {
    let BackupConfig { mode, fs_freeze, keep_last, backup_volatile, .. } = world.config(vm);
    (mode.as_str(), fs_freeze.as_str(), keep_last, backup_volatile)
}

#[test]
fn nightly_incremental_starts_at_its_next_night() {
    let world = world();
    let vm = made(&world, "nightly-incremental.tmpl");
    assert_eq!(config(&world, vm), ("INCREMENT", "NONE", Some(7), false));
    let [action] = &world.actions(vm)[..] else { panic!("one action") };
    assert_eq!((action.action.as_str(), action.args.as_str()), ("backup", "100,0"));
    assert_eq!((action.repeat, action.days.as_slice()), (Some(Repeat::Weekly), &[0, 1, 2, 3, 4, 5, 6][..]));
    assert_eq!((action.end, action.done, action.message.as_str()), (End::Never, None, ""));
    // It is Saturday noon; the next 02:00 is Sunday's.
    assert_eq!(action.time, NOW + 14 * 3600);
    assert_eq!(world.schedule_row(action.id.0).due_at, Some(action.time));
    let shown = element(&world.vm_document(&world.alice, vm), "SCHED_ACTION");
    assert!(shown.contains("<DAYS><![CDATA[0,1,2,3,4,5,6]]></DAYS>"), "{shown}");
}

#[test]
fn hourly_frozen_starts_an_hour_after_the_vm_was_made() {
    let world = world();
    world.clock.advance(1234);
    let vm = made(&world, "hourly-frozen.tmpl");
    assert_eq!(config(&world, vm), ("INCREMENT", "AGENT", Some(24), false));
    let [action] = &world.actions(vm)[..] else { panic!("one action") };
    assert_eq!(action.time, NOW + 1234 + 3600);
    assert_eq!((action.repeat, action.days.as_slice(), action.end), (Some(Repeat::Hourly), &[1][..], End::Never));
    // What is relative stays relative to the new VM, not to the first one of the template.
    world.clock.advance(10_000);
    let second = world.instantiate(&world.alice, 0, "").unwrap();
    assert_eq!(world.actions(second)[0].time, NOW + 11_234 + 3600);
    assert_eq!(world.actions(vm)[0].time, NOW + 1234 + 3600);
}

#[test]
fn weekly_monthly_full_has_two_schedules_each_at_its_own_next_date() {
    let world = world();
    let vm = made(&world, "weekly-monthly-full.tmpl");
    assert_eq!(config(&world, vm), ("FULL", "NONE", Some(16), false));
    let [weekly, monthly] = &world.actions(vm)[..] else { panic!("two actions") };
    assert_eq!(
        (weekly.args.as_str(), weekly.repeat, weekly.days.as_slice()),
        ("100,0", Some(Repeat::Weekly), &[0][..])
    );
    assert_eq!(weekly.time, NOW + 15 * 3600);
    assert_eq!(
        (monthly.args.as_str(), monthly.repeat, monthly.days.as_slice()),
        ("101,0", Some(Repeat::Monthly), &[1][..])
    );
    assert_eq!(monthly.time, FIRST_OF_DECEMBER);
}

#[test]
fn a_preset_of_the_past_that_does_not_repeat_is_due_at_once_and_one_that_counts_runs_loses_none() {
    let world = world();
    let past = NOW - 1_000_000;
    let template = world.allocate_template(&format!(
        "NAME=a\n{SIZE}SCHED_ACTION=[ACTION=poweroff,TIME={past}]\n\
         SCHED_ACTION=[ACTION=backup,ARGS=\"100\",TIME={past},REPEAT=3,DAYS=2,END_TYPE=1,END_VALUE=5]\n"
    ));
    let vm = world.instantiate(&world.alice, template, "").unwrap();
    let [once, counted] = &world.actions(vm)[..] else { panic!("two actions") };
    assert_eq!((once.time, once.is_due(NOW)), (past, true));
    assert_eq!(counted.end, End::Runs(5));
    assert!(counted.time > NOW && counted.time <= NOW + 7200, "{}", counted.time);
    assert_eq!((counted.time - past) % 7200, 0);
}

#[test]
fn a_bad_preset_or_a_datastore_that_is_not_the_users_makes_no_vm() {
    let world = world();
    world.edit_datastore(100, |row| (row.uid, row.permissions) = (0, octal(0o600)));
    for (preset, code, part) in [
        ("SCHED_ACTION=[ACTION=backup,ARGS=\"100\",TIME=5]", 512, "Not authorized to perform USE DATASTORE [100]."),
        ("SCHED_ACTION=[ACTION=backup,ARGS=\"1\",TIME=5]", 2048, "Datastore needs to be of type BACKUP"),
        ("SCHED_ACTION=[ACTION=backup,ARGS=\"999\",TIME=5]", 1024, "Error getting datastore [999]."),
        ("SCHED_ACTION=[ACTION=backup,ARGS=\"101\"]", 2048, "Unable to parse the time value or value is empty: "),
        ("SCHED_ACTION=[ACTION=dance,TIME=5]", 2048, "dance is not supported."),
        ("SCHED_ACTION=[ACTION=hold,TIME=5,REPEAT=7]", 2048, "Wrong REPEAT value: 7"),
        ("SCHED_ACTION=[ACTION=hold,TIME=5,REPEAT=1]", 2048, "Repeat set, but DAYS are empty"),
        ("SCHED_ACTION=yes", 2048, "No SCHED_ACTION attribute in template"),
    ] {
        let text = format!("{SIZE}DISK=[IMAGE=guest-disk]\n{preset}\n");
        let refusal = world.refusal(|cloud| api::vm::allocate(cloud, &world.alice, &text, false));
        assert!(refusal.code() == code && refusal.to_string().contains(part), "{preset}: {} {refusal}", refusal.code());
    }
}

#[test]
fn disks_are_found_by_name_among_the_callers_images_or_the_owners_that_are_named() {
    let world = world();
    let allocate =
        |caller, disk: &str| api::vm::allocate(&world.cloud, caller, &format!("{SIZE}DISK=[{disk}]\n"), false);
    for disk in ["IMAGE=guest-disk", "IMAGE_ID=0", "IMAGE=guest-disk,IMAGE_UNAME=alice"] {
        allocate(&world.alice, disk).unwrap();
    }
    for disk in ["IMAGE=guest-disk,IMAGE_UNAME=alice", "IMAGE=guest-disk,IMAGE_UID=2"] {
        allocate(&world.bob, disk).unwrap();
        let sentence = "User [4] : Not authorized to perform USE IMAGE [0].";
        world.refuses(512, sentence, |_| allocate(&world.mallory, disk));
    }
    let refusal = world.refusal(|_| allocate(&world.bob, "IMAGE=guest-disk"));
    assert_eq!(refusal.code(), 16384);
    assert!(refusal.to_string().contains("User 3 does not own an image with name: guest-disk"), "{refusal}");
    world.refuses(1024, "Error getting image [77].", |_| allocate(&world.alice, "IMAGE_ID=77"));
    let image = world.image_row(0);
    assert_eq!(image.state, ImageState::Used.number());
    assert_eq!(world.read(|tx| tx.image_users(0)).len(), 5);
    world.image_document(&world.alice, 0);
}

#[test]
fn disks_are_numbered_and_lettered_in_the_order_of_the_template() {
    let world = world();
    let data = world.add_image("data");
    world.edit_image(data, |row| row.template = "DEV_PREFIX=\"sd\"".into());
    let disks =
        "DISK=[IMAGE=guest-disk]\nDISK=[IMAGE=data]\nDISK=[TYPE=fs,SIZE=10]\nDISK=[TYPE=swap,SIZE=5,DEV_PREFIX=hd]\n";
    let vm = api::vm::allocate(&world.cloud, &world.alice, &format!("{SIZE}{disks}"), false).unwrap();
    let template = Template::parse(&world.vm_row(vm).template).unwrap();
    let found: Vec<_> = template.vectors("DISK").map(|disk| (disk.get("DISK_ID"), disk.get("TARGET"))).collect();
    let wanted = [("0", "vda"), ("1", "sda"), ("2", "vdb"), ("3", "hda")].map(|(id, name)| (Some(id), Some(name)));
    assert_eq!(found, wanted);
    world.vm_document(&world.alice, vm);
}

#[test]
fn a_persistent_image_is_one_vms_alone() {
    let world = world();
    api::image::persistent(&world.cloud, &world.alice, 0, true).unwrap();
    let twice = format!("{SIZE}DISK=[IMAGE_ID=0]\nDISK=[IMAGE_ID=0]\n");
    let refusal = world.refusal(|cloud| api::vm::allocate(cloud, &world.alice, &twice, false));
    assert_eq!(refusal.code(), 16384);
    assert!(refusal.to_string().contains("Cannot acquire image 0"), "{refusal}");
    let once = format!("{SIZE}DISK=[IMAGE_ID=0]\n");
    let vm = api::vm::allocate(&world.cloud, &world.alice, &once, false).unwrap();
    assert_eq!(world.image_row(0).state, ImageState::UsedPers.number());
    let disk = Template::parse(&world.vm_row(vm).template).unwrap().vector("DISK").cloned().unwrap();
    assert_eq!((disk.get("PERSISTENT"), disk.get("CLONE"), disk.get("SAVE")), (Some("YES"), Some("NO"), Some("YES")));
    let refusal = world.refusal(|cloud| api::vm::allocate(cloud, &world.alice, &once, false));
    assert!(refusal.to_string().contains("USED_PERS"), "{refusal}");
    // It is free again when the VM, which never ran, is gone.
    api::vm::action(&world.cloud, &world.alice, "terminate", vm).unwrap();
    assert_eq!(world.image_row(0).state, ImageState::Ready.number());
    api::vm::allocate(&world.cloud, &world.alice, &once, false).unwrap();
}

#[test]
fn images_that_are_not_there_yet_or_are_backups_are_no_disks() {
    let world = world();
    let vm = world.add_running_vm("");
    let backup = world.add_backup(vm, 100, 1, false);
    let with = |image: i64| format!("{SIZE}DISK=[IMAGE_ID={image}]\n");
    let refusal = world.refusal(|cloud| api::vm::allocate(cloud, &world.alice, &with(backup), false));
    assert!(refusal.code() == 16384 && refusal.to_string().contains("restore a backup first"), "{refusal}");
    for state in [ImageState::Locked, ImageState::Error, ImageState::Disabled, ImageState::Delete] {
        world.edit_image(0, |row| row.state = state.number());
        let refusal = world.refusal(|cloud| api::vm::allocate(cloud, &world.alice, &with(0), false));
        assert!(refusal.code() == 16384 && refusal.to_string().contains(state.name()), "{refusal}");
    }
}

#[test]
fn attributes_that_reach_into_the_host_are_for_administrators() {
    let world = world();
    let template = world.allocate_template(&format!("NAME=a\n{SIZE}"));
    for (text, attribute) in [
        ("RAW=[TYPE=kvm,DATA=\"<devices/>\"]", "RAW"),
        ("OS=[KERNEL=\"/boot/vmlinuz\"]", "OS/KERNEL"),
        ("OS=[INITRD=\"/boot/initrd\"]", "OS/INITRD"),
        ("DISK=[TYPE=fs,SIZE=1,SOURCE=\"/etc/shadow\"]", "DISK/SOURCE"),
        ("NIC=[BRIDGE=br0]", "NIC/BRIDGE"),
        ("NIC=[MAC=\"02:00:00:00:00:01\"]", "NIC/MAC"),
        ("PCI=[SHORT_ADDRESS=\"00:1f.0\"]", "PCI"),
    ] {
        let sentence = format!("User [2] : Template includes a restricted attribute {attribute}.");
        world.refuses(512, &sentence, |_| world.instantiate(&world.alice, template, text));
        let whole = format!("{SIZE}{text}\n");
        world.refuses(512, &sentence, |cloud| api::vm::allocate(cloud, &world.alice, &whole, false));
        let vm = api::vm::allocate(&world.cloud, &world.admin, &whole, false).unwrap();
        world.vm_document(&world.admin, vm);
    }
}

#[test]
fn a_volatile_disk_is_a_new_file_whatever_its_wish_says() {
    let world = world();
    let disk = "DISK=[TYPE=fs,SIZE=1,SOURCE=\"/etc/shadow\",CLONE=NO,PERSISTENT=YES,DATASTORE_ID=1,DISK_TYPE=BLOCK]\n";
    let vm = api::vm::allocate(&world.cloud, &world.admin, &format!("{SIZE}{disk}"), false).unwrap();
    let row = world.vm_row(vm);
    let found = world.read(|tx| oned::disks::of_vm(tx, &row, &world.cloud.config));
    assert_eq!((found.len(), &found[0].origin), (1, &oned::disks::Origin::Volatile));
    assert!(found[0].path.ends_with("0/0/disk.0"), "{:?}", found[0].path);
}

#[test]
fn sizes_out_of_range_are_refused() {
    let world = world();
    let most_disks = "DISK=[TYPE=fs,SIZE=1]\n".repeat(26);
    let most_cards = "NIC=[NETWORK=lan]\n".repeat(29);
    for text in [
        "CPU=1",
        "CPU=1\nMEMORY=0",
        "CPU=1\nMEMORY=-5",
        "CPU=1\nMEMORY=1.5",
        "CPU=1\nMEMORY=lots",
        "CPU=1\nMEMORY=99999999999999999999",
        "CPU=0\nMEMORY=128",
        "CPU=-1\nMEMORY=128",
        "CPU=NaN\nMEMORY=128",
        "CPU=inf\nMEMORY=128",
        "CPU=2000\nMEMORY=128",
        "CPU=1\nVCPU=0\nMEMORY=128",
        "CPU=1\nVCPU=1.5\nMEMORY=128",
        "CPU=1\nVCPU=4096\nMEMORY=128",
        "CPU=1\nMEMORY=128\nDISK=[TYPE=fs]",
        "CPU=1\nMEMORY=128\nDISK=[TYPE=fs,SIZE=0]",
        "CPU=1\nMEMORY=128\nDISK=[TYPE=fs,SIZE=-1]",
        "CPU=1\nMEMORY=128\nDISK=[TYPE=fs,SIZE=99999999999]",
        "CPU=1\nMEMORY=128\nDISK=[TYPE=fs,SIZE=1,FORMAT=vmdk]",
        "CPU=1\nMEMORY=128\nDISK=[SIZE=5]",
        "CPU=1\nMEMORY=128\nDISK=[IMAGE_ID=x]",
        "CPU=1\nMEMORY=128\nNIC=[NETWORK=lan,IP=\"10.0.0.1\",IP6=\"fe80::1\"]",
        &format!("CPU=1\nMEMORY=128\n{most_disks}"),
        &format!("CPU=1\nMEMORY=128\n{most_cards}"),
    ] {
        let refusal = world.refusal(|cloud| api::vm::allocate(cloud, &world.admin, &format!("{text}\n"), false));
        assert_eq!(refusal.code(), 16384, "{text}: {refusal}");
        assert!(refusal.to_string().starts_with("Error allocating a new virtual machine. "), "{text}: {refusal}");
    }
}

#[test]
fn a_vm_is_named_by_the_call_the_extra_template_or_its_template_and_holds_when_told_to() {
    let world = world();
    let template = world.allocate_template(&format!("NAME=web\n{SIZE}NOTE=old\n"));
    let make = |name: &str, hold: bool, extra: &str| {
        let wish = api::template::Instantiation { name, hold, extra, persistent: false };
        let vm = api::template::instantiate(&world.cloud, &world.alice, template, &wish).unwrap();
        world.vm_document(&world.alice, vm);
        world.vm_row(vm)
    };
    let row = make("", false, "");
    assert_eq!((row.name.as_str(), row.state, row.uid, row.gid), ("web-0", 1, 2, 100));
    assert_eq!((row.permissions, row.stime), (octal(0o600), NOW));
    assert_eq!(make("mine", true, "NAME=other").name, "mine");
    let row = make("", true, "NAME=other\nMEMORY=512\nNOTE=new\n");
    assert_eq!((row.name.as_str(), row.state), ("other", 2));
    let template = Template::parse(&row.template).unwrap();
    assert_eq!((template.scalar("MEMORY"), template.scalar("TEMPLATE_ID")), (Some("512"), Some("0")));
    assert_eq!(Template::parse(&row.user_template).unwrap().scalar("NOTE"), Some("new"));
}

#[test]
fn an_image_of_a_file_is_refused_by_what_its_template_lacks() {
    let world = world();
    for (text, part) in [
        ("PATH=\"/var/tmp/a\"", "No NAME"),
        ("NAME=a", "No PATH"),
        ("NAME=a\nPATH=\"a.qcow2\"", "not absolute"),
        ("NAME=a\nPATH=\"http://example.com/a\"", "must be a file of this machine"),
        ("NAME=a\nPATH=\"restic://100//0:abc//one/disk.0\"\nFROM_BACKUP_DS=100", "no backup that you may use"),
        ("NAME=a\nPATH=\"/a\"\nTYPE=BACKUP", "Backups are made by one.vm.backup"),
        ("NAME=a\nPATH=\"/a\"\nTYPE=ODD", "is not known"),
        ("NAME=a\nPATH=\"/a\"\nFORMAT=vmdk", "is not known"),
        ("NAME=guest-disk\nPATH=\"/a\"", "NAME is already taken by IMAGE 0."),
    ] {
        let refusal = world.refusal(|cloud| api::image::allocate(cloud, &world.alice, &format!("{text}\n"), IMAGES));
        assert!(refusal.code() == 16384 && refusal.to_string().contains(part), "{text}: {} {refusal}", refusal.code());
    }
    // IMAGE_RESTRICTED_ATTR keeps users from SOURCE; administrators learn why they cannot use it either.
    let source = "NAME=a\nPATH=\"/a\"\nSOURCE=\"/etc/shadow\"\n";
    let refusal = world.refusal(|cloud| api::image::allocate(cloud, &world.admin, source, IMAGES));
    assert!(refusal.code() == 16384 && refusal.to_string().contains("SOURCE cannot be given"), "{refusal}");
}

#[test]
fn a_new_disk_gets_the_target_that_it_wishes_for_when_that_is_free() {
    let world = world();
    let volatile = |keys: &str| format!("DISK=[TYPE=fs,SIZE=1{keys}]\n");
    let text = |wishes: &[&str]| format!("{SIZE}{}", wishes.iter().map(|keys| volatile(keys)).collect::<String>());
    let allocate = |text: &str| api::vm::allocate(&world.cloud, &world.alice, text, true);
    let wishes = ["", ",TARGET=vda", ",TARGET=hdc,DEV_PREFIX=vd", ",DEV_PREFIX=hd", ",TARGET=\"\"", ",TARGET=vdb"];
    let vm = allocate(&text(&wishes)).unwrap();
    let template = Template::parse(&world.vm_row(vm).template).unwrap();
    let targets: Vec<_> = template.vectors("DISK").map(|disk| disk.get("TARGET").unwrap()).collect();
    assert_eq!(targets, ["vdc", "vda", "hdc", "hda", "vdd", "vdb"]);
    assert!(
        template.vectors("DISK").all(|disk| disk.get("TARGET").unwrap().starts_with(disk.get("DEV_PREFIX").unwrap()))
    );
    for (wishes, told) in [
        ([",TARGET=sda", ",TARGET=sda"], "TARGET sda is in use by another disk of the VM."),
        (["", ",TARGET=nvme0"], "TARGET \"nvme0\" is not known; use vd, sd or hd and a letter."),
        (["", ",TARGET=\"vda'/>\""], "TARGET \"vda'/>\" is not known; use vd, sd or hd and a letter."),
    ] {
        let sentence = format!("Error allocating a new virtual machine. {told}");
        world.refuses(16384, &sentence, |_| allocate(&text(&wishes)));
    }
}
