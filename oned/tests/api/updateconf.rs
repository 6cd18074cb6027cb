//! `one.vm.updateconf`: BACKUP_CONFIG key by key, the other sections whole, and the states in which neither changes.

use one_core::backup::Mode;
use one_core::lifecycle::VmPhase;
use one_core::template::Template;
use oned::api::{self, Cloud};

use crate::world::{World, octal, only_vector, pairs};

const REPLACE: i64 = 0;
const APPEND: i64 = 1;

fn world() -> (World, i64) {
    let world = World::new();
    world.add_backup_datastore("backups");
    let more = "OS=[ARCH=x86_64,MACHINE=q35]\nGRAPHICS=[TYPE=vnc,LISTEN=\"127.0.0.1\"]\nCONTEXT=[TOKEN=yes]\n\
                BACKUP_CONFIG=[MODE=INCREMENT,KEEP_LAST=7,FS_FREEZE=AGENT,BACKUP_VOLATILE=YES]";
    let vm = world.add_running_vm(more);
    (world, vm)
}

fn update(world: &World, vm: i64, text: &str, kind: i64) {
    assert_eq!(api::vm::update_conf(&world.cloud, &world.alice, vm, text, kind).unwrap(), vm);
    world.vm_document(&world.alice, vm);
}

fn stored(world: &World, vm: i64) -> Vec<(String, String)> {
    only_vector(&world.vm_row(vm).backup_config, "BACKUP_CONFIG")
}

#[test]
fn a_new_vm_shows_the_keys_of_its_template_and_those_of_the_daemon() {
    let (world, vm) = world();
    let wanted = pairs(&[
        ("BACKUP_VOLATILE", "YES"),
        ("FS_FREEZE", "AGENT"),
        ("INCREMENTAL_BACKUP_ID", "-1"),
        ("INCREMENT_MODE", "CBT"),
        ("KEEP_LAST", "7"),
        ("LAST_INCREMENT_ID", "-1"),
        ("MODE", "INCREMENT"),
    ]);
    assert_eq!(stored(&world, vm), wanted);
}

#[test]
fn an_append_changes_only_the_keys_that_are_given() {
    let (world, vm) = world();
    update(&world, vm, "BACKUP_CONFIG=[KEEP_LAST=3]", APPEND);
    let wanted = pairs(&[
        ("BACKUP_VOLATILE", "YES"),
        ("FS_FREEZE", "AGENT"),
        ("INCREMENTAL_BACKUP_ID", "-1"),
        ("INCREMENT_MODE", "CBT"),
        ("KEEP_LAST", "3"),
        ("LAST_INCREMENT_ID", "-1"),
        ("MODE", "INCREMENT"),
    ]);
    assert_eq!(stored(&world, vm), wanted);
}

#[test]
fn a_replace_puts_the_keys_that_are_left_out_to_their_defaults() {
    let (world, vm) = world();
    update(&world, vm, "BACKUP_CONFIG=[MODE=INCREMENT]", REPLACE);
    let wanted = pairs(&[
        ("BACKUP_VOLATILE", "NO"),
        ("FS_FREEZE", "NONE"),
        ("INCREMENTAL_BACKUP_ID", "-1"),
        ("INCREMENT_MODE", "CBT"),
        ("LAST_INCREMENT_ID", "-1"),
        ("MODE", "INCREMENT"),
    ]);
    assert_eq!(stored(&world, vm), wanted);
    update(&world, vm, "BACKUP_CONFIG=[FS_FREEZE=SUSPEND]", REPLACE);
    let config = world.config(vm);
    assert_eq!((config.mode, config.fs_freeze.as_str()), (Mode::Full, "SUSPEND"));
}

#[test]
fn odd_values_fall_to_what_the_reference_says() {
    let (world, vm) = world();
    update(&world, vm, "BACKUP_CONFIG=[KEEP_LAST=\"-4\",FS_FREEZE=maybe,MODE=sometimes,INCREMENT_MODE=odd]", APPEND);
    let config = world.config(vm);
    assert_eq!((config.keep_last, config.fs_freeze.as_str(), config.mode.as_str()), (Some(0), "NONE", "FULL"));
    assert_eq!(config.increment_mode.map(|mode| mode.as_str()), Some("CBT"));
}

#[test]
fn keys_of_the_daemon_in_the_text_are_ignored() {
    let (world, vm) = world();
    let image = world.add_backup(vm, 100, 2, true);
    let before = stored(&world, vm);
    let text = "BACKUP_CONFIG=[INCREMENTAL_BACKUP_ID=0,LAST_INCREMENT_ID=9,BACKUP_JOB_ID=3,LAST_DATASTORE_ID=1,\
                LAST_BACKUP_ID=x,LAST_BACKUP_SIZE=1,ACTIVE_FLATTEN=YES,NONSENSE=1]";
    update(&world, vm, text, APPEND);
    assert_eq!(stored(&world, vm), before);
    let keep = ",MODE=INCREMENT,KEEP_LAST=7,FS_FREEZE=AGENT,BACKUP_VOLATILE=YES]";
    update(&world, vm, &text.replace(']', keep), REPLACE);
    assert_eq!(stored(&world, vm), before);
    assert_eq!(world.config(vm).chain(), Some((image, 1)));
}

#[test]
fn another_mode_or_other_disks_reset_the_pointers_and_nothing_else_does() {
    let (world, vm) = world();
    let image = world.add_backup(vm, 100, 2, true);
    for text in ["KEEP_LAST=2", "FS_FREEZE=NONE", "MODE=INCREMENT", "INCREMENT_MODE=SNAPSHOT", "BACKUP_VOLATILE=YES"] {
        update(&world, vm, &format!("BACKUP_CONFIG=[{text}]"), APPEND);
        assert_eq!(world.config(vm).chain(), Some((image, 1)), "{text}");
    }
    for text in ["MODE=FULL", "MODE=INCREMENT", "BACKUP_VOLATILE=NO", "DISK_IDS=\"0\""] {
        world.edit_config(vm, |config| config.advance_chain(image, 1));
        update(&world, vm, &format!("BACKUP_CONFIG=[{text}]"), APPEND);
        assert_eq!(world.config(vm).chain(), None, "{text}");
    }
}

#[test]
fn a_key_in_quotes_is_taken_as_the_command_line_sends_it() {
    let (world, vm) = world();
    update(&world, vm, "BACKUP_CONFIG=[MODE=FULL]", APPEND);
    update(&world, vm, "BACKUP_CONFIG = [\"MODE\"=\"INCREMENT\"]", APPEND);
    assert_eq!(world.config(vm).mode, Mode::Increment);
}

#[test]
fn a_vm_that_cannot_do_increments_refuses_to_be_told_to() {
    let (world, vm) = world();
    world.edit_system(vm, "FORMAT=\"qcow2\"", "FORMAT=\"raw\"");
    let change = |text: &'static str| {
        let alice = world.alice.clone();
        move |cloud: &Cloud| api::vm::update_conf(cloud, &alice, vm, text, APPEND)
    };
    let disks = "VM cannot use backup increment mode, it has disks snapshots or disks are not qcow2.";
    world.refuses(8192, disks, change("BACKUP_CONFIG=[MODE=INCREMENT]"));
    world.edit_vm(vm, |row| row.template += "\nSNAPSHOT=[SNAPSHOT_ID=0]\n");
    let snapshots = "VM cannot use backup increment mode, it has snapshots.";
    world.refuses(8192, snapshots, change("BACKUP_CONFIG=[MODE=INCREMENT]"));
    world.refuses(8192, "Invalid DISK_IDS, disk 7 cannot be backed up", change("BACKUP_CONFIG=[DISK_IDS=\"0,7\"]"));
}

#[test]
fn a_text_without_backup_config_leaves_it_alone() {
    let (world, vm) = world();
    let before = stored(&world, vm);
    for kind in [APPEND, REPLACE] {
        update(&world, vm, "GRAPHICS=[TYPE=spice]", kind);
        assert_eq!(stored(&world, vm), before);
    }
}

#[test]
fn a_replace_that_is_only_about_backups_leaves_the_domain_alone() {
    let (world, vm) = world();
    let before = world.vm_row(vm).template;
    update(&world, vm, "BACKUP_CONFIG=[MODE=FULL]", REPLACE);
    assert_eq!(world.vm_row(vm).template, before);
}

#[test]
fn a_replace_of_the_domains_sections_removes_the_others_but_not_the_context() {
    let (world, vm) = world();
    update(&world, vm, "OS=[ARCH=x86_64,MACHINE=pc]", REPLACE);
    let template = Template::parse(&world.vm_row(vm).template).unwrap();
    assert_eq!(template.vector("OS").unwrap().get("MACHINE"), Some("pc"));
    assert!(!template.contains("GRAPHICS"));
    assert_eq!(template.vector("CONTEXT").unwrap().get("TOKEN"), Some("yes"));
    assert!(template.contains("DISK") && template.scalar("MEMORY") == Some("256"));
}

#[test]
fn what_updateconf_does_not_know_is_ignored() {
    let (world, vm) = world();
    let before = world.records();
    update(&world, vm, "MEMORY=1024\nDISK=[TYPE=fs,SIZE=1]\nNAME=other\nNOTE=x\n", REPLACE);
    assert_eq!(world.records(), before);
}

#[test]
fn the_configuration_is_fixed_in_exactly_the_states_of_the_reference() {
    let (world, vm) = world();
    let allowed = |phase: VmPhase| {
        let name = phase.name();
        let resting = ["PENDING", "HOLD", "POWEROFF", "UNDEPLOYED", "CLONING", "CLONING_FAILURE"];
        let active = ["LCM_INIT", "PROLOG", "RUNNING", "EPILOG", "EPILOG_UNDEPLOY", "PROLOG_UNDEPLOY"];
        let hotplug = ["HOTPLUG_SAVEAS_POWEROFF", "HOTPLUG_PROLOG_POWEROFF", "HOTPLUG_EPILOG_POWEROFF"];
        let steps = ["BOOT", "PROLOG", "EPILOG"];
        let failure = steps.iter().any(|step| name.starts_with(step)) && name.ends_with("_FAILURE");
        resting.contains(&name)
            || active.contains(&name)
            || hotplug.contains(&name)
            || ["SHUTDOWN", "CLEANUP_", "PROLOG_MIGRATE_POWEROFF"].iter().any(|start| name.starts_with(start))
            || (name.starts_with("DISK_SNAPSHOT") && name.ends_with("_POWEROFF"))
            || failure
    };
    for phase in VmPhase::all() {
        world.set_phase(vm, phase);
        let change =
            |cloud: &Cloud| api::vm::update_conf(cloud, &world.alice, vm, "BACKUP_CONFIG=[KEEP_LAST=1]", APPEND);
        if allowed(phase) {
            assert!(change(&world.cloud).is_ok(), "{}", phase.name());
        } else {
            world.refuses(8192, &format!("configuration cannot be updated in state {}", phase.name()), change);
        }
    }
}

#[test]
fn another_users_vm_a_wrong_type_and_a_text_that_does_not_parse_are_refused() {
    let (world, vm) = world();
    world.edit_vm(vm, |row| row.permissions = octal(0o640));
    for caller in [&world.mallory, &world.bob] {
        let sentence = format!("User [{}] : Not authorized to perform MANAGE VM [{vm}].", caller.uid);
        world.refuses(512, &sentence, |cloud| {
            api::vm::update_conf(cloud, caller, vm, "BACKUP_CONFIG=[KEEP_LAST=1]", APPEND)
        });
    }
    world.refuses(4096, "Wrong update type", |cloud| api::vm::update_conf(cloud, &world.alice, vm, "", 2));
    let refusal = world.refusal(|cloud| api::vm::update_conf(cloud, &world.alice, vm, "BACKUP_CONFIG=[", APPEND));
    assert_eq!(refusal.code(), 8192);
    assert!(refusal.to_string().starts_with("Parse error: "), "{refusal}");
}

#[test]
fn a_user_may_not_slip_in_what_reaches_into_the_host() {
    let (world, vm) = world();
    for (text, attribute) in [
        ("RAW=[TYPE=kvm,DATA=\"<devices/>\"]", "RAW"),
        ("OS=[KERNEL=\"/etc/shadow\"]", "OS/KERNEL"),
        ("BACKUP_CONFIG=[KEEP_LAST=1]\nOS=[INITRD=\"/etc/shadow\"]", "OS/INITRD"),
    ] {
        let sentence = format!("User [2] : Template includes a restricted attribute {attribute}.");
        world.refuses(512, &sentence, |cloud| api::vm::update_conf(cloud, &world.alice, vm, text, APPEND));
        api::vm::update_conf(&world.cloud, &world.admin, vm, text, APPEND).unwrap();
    }
}

#[test]
fn what_an_administrator_gave_a_vm_survives_its_owners_changes() {
    let (world, vm) = world();
    let by_admin = "RAW=[TYPE=kvm,DATA=\"<devices/>\"]\nOS=[ARCH=x86_64,KERNEL=\"/boot/vmlinuz\"]";
    api::vm::update_conf(&world.cloud, &world.admin, vm, by_admin, APPEND).unwrap();
    for (text, kind, machine) in [
        ("OS=[MACHINE=pc]", APPEND, Some("pc")),
        ("OS=[MACHINE=q35]", REPLACE, Some("q35")),
        ("INPUT=[BUS=usb]", REPLACE, None),
    ] {
        update(&world, vm, text, kind);
        let template = Template::parse(&world.vm_row(vm).template).unwrap();
        let os = template.vector("OS").unwrap();
        assert_eq!((os.get("KERNEL"), os.get("MACHINE")), (Some("/boot/vmlinuz"), machine), "{text}");
        assert_eq!(template.vector("RAW").and_then(|raw| raw.get("DATA")), Some("<devices/>"), "{text}");
    }
    api::vm::update_conf(&world.cloud, &world.admin, vm, "INPUT=[BUS=usb]", REPLACE).unwrap();
    let template = Template::parse(&world.vm_row(vm).template).unwrap();
    assert!(!template.contains("RAW") && !template.contains("OS"));
}

#[test]
fn backup_config_in_a_users_template_is_only_text() {
    let (world, vm) = world();
    let before = stored(&world, vm);
    api::vm::update(&world.cloud, &world.alice, vm, "BACKUP_CONFIG=[KEEP_LAST=1]", APPEND).unwrap();
    assert_eq!(stored(&world, vm), before);
    assert!(world.vm_row(vm).user_template.contains("BACKUP_CONFIG"));
    world.vm_document(&world.alice, vm);
}
