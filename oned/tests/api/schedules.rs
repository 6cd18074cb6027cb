//! `scheduler::tick` with a clock that is set by hand, and the calls that keep scheduled actions.

use one_core::lifecycle::{LcmState, VmPhase, VmState};
use one_core::refusal::Refusal;
use one_core::schedule::ScheduledAction;
use oned::api::{self, Cloud};
use oned::scheduler;

use crate::world::{NOW, TEAM, World, element, octal, unchanged};

const HOUR: i64 = 3600;
const WEEK: i64 = 7 * 24 * HOUR;

fn world() -> (World, i64) {
    let world = World::new();
    world.add_backup_datastore("backups");
    let vm = world.add_running_vm("BACKUP_CONFIG=[MODE=FULL]");
    (world, vm)
}

fn add(world: &World, vm: i64, keys: &str) -> i64 {
    let text = format!("SCHED_ACTION=[{keys}]");
    api::schedule::add(&world.cloud, &world.alice, vm, &text).unwrap()
}

fn tick(world: &World) {
    scheduler::tick(&world.cloud);
}

/// Ticks that must change nothing at all.
#[track_caller]
fn nothing_happens(world: &World) {
    let before = world.records();
    tick(world);
    tick(world);
    unchanged(&before, &world.records(), "nothing was due");
}

fn backing_up(world: &World, vm: i64) -> bool {
    world.phase(vm) == VmPhase::active(LcmState::Backup)
}

#[test]
fn a_backup_scheduled_for_now_starts_once_and_is_done() {
    let (world, vm) = world();
    // The owner may schedule what he may not start directly.
    world.refuses(512, "User [2] : Not authorized to perform ADMIN VM [0].", |cloud| {
        api::backup::backup(cloud, &world.alice, vm, 100, false)
    });
    let id = add(&world, vm, &format!("ACTION=backup,ARGS=\"100\",TIME={NOW}"));
    tick(&world);
    assert!(backing_up(&world, vm));
    let (job, plan) = world.backup_plan();
    assert_eq!((job.uid, plan.uid, job.datastore_id), (world.alice.uid, world.alice.uid, Some(100)));
    let action = world.action(id);
    assert_eq!((action.time, action.done, action.message.as_str()), (NOW, Some(NOW), ""));
    assert_eq!(world.schedule_row(id).due_at, None);
    nothing_happens(&world);
    world.end_backup(vm);
    world.clock.advance(WEEK);
    nothing_happens(&world);
    let shown = element(&world.vm_document(&world.alice, vm), "SCHED_ACTION");
    assert!(shown.contains(&format!("<DONE><![CDATA[{NOW}]]></DONE>")), "{shown}");
}

#[test]
fn nothing_starts_before_its_time() {
    let (world, vm) = world();
    add(&world, vm, "ACTION=backup,ARGS=\"100\",TIME=\"+60\"");
    world.clock.advance(59);
    nothing_happens(&world);
    world.clock.advance(1);
    tick(&world);
    assert!(backing_up(&world, vm));
}

#[test]
fn a_repeating_backup_goes_on_at_its_next_time() {
    let (world, vm) = world();
    let id = add(&world, vm, &format!("ACTION=backup,ARGS=\"100\",TIME={NOW},REPEAT=3,DAYS=1,END_TYPE=0"));
    for round in 0..3 {
        tick(&world);
        assert!(backing_up(&world, vm), "round {round}");
        let action = world.action(id);
        assert_eq!((action.done, action.time), (Some(world.clock_now()), NOW + (round + 1) * HOUR));
        world.end_backup(vm);
        nothing_happens(&world);
        world.clock.advance(HOUR);
    }
}

#[test]
fn a_count_of_runs_is_that_many_runs() {
    let (world, vm) = world();
    add(&world, vm, &format!("ACTION=backup,ARGS=\"100\",TIME={NOW},REPEAT=3,DAYS=1,END_TYPE=1,END_VALUE=2"));
    for _ in 0..2 {
        tick(&world);
        assert!(backing_up(&world, vm));
        world.end_backup(vm);
        world.clock.advance(HOUR);
    }
    world.clock.advance(WEEK);
    nothing_happens(&world);
}

#[test]
fn no_run_is_planned_after_the_end_date() {
    let (world, vm) = world();
    let end = NOW + HOUR - 1;
    add(&world, vm, &format!("ACTION=backup,ARGS=\"100\",TIME={NOW},REPEAT=3,DAYS=1,END_TYPE=2,END_VALUE={end}"));
    tick(&world);
    assert!(backing_up(&world, vm));
    world.end_backup(vm);
    world.clock.advance(WEEK);
    nothing_happens(&world);
}

#[test]
fn a_daemon_that_slept_a_week_runs_what_it_missed_once() {
    let (world, vm) = world();
    let id =
        add(&world, vm, &format!("ACTION=backup,ARGS=\"100\",TIME={},REPEAT=0,DAYS=\"0,1,2,3,4,5,6\"", NOW + HOUR));
    world.clock.advance(WEEK);
    tick(&world);
    assert!(backing_up(&world, vm));
    let action = world.action(id);
    assert_eq!((action.done, action.time), (Some(NOW + WEEK), NOW + WEEK + HOUR));
    world.end_backup(vm);
    nothing_happens(&world);
    assert_eq!(world.read(|tx| tx.job_list()).iter().filter(|job| job.kind == "BACKUP").count(), 1);
}

/// Lets a schedule be refused again and again, and holds it to its pauses.
fn refused_with_pauses(world: &World, vm: i64, id: i64, reason: &str) {
    let start = world.clock_now();
    let mut waited = 0;
    for (refusals, pause) in (1..).zip([15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600]) {
        tick(world);
        let row = world.schedule_row(id);
        assert_eq!((row.refusals, row.not_before), (refusals, start + waited + pause));
        let action = world.action(id);
        assert!(action.message.ends_with(&format!(" : [backup] {reason}")), "{}", action.message);
        assert_eq!((action.done, action.time <= world.clock_now()), (None, true));
        world.clock.advance(pause - 1);
        nothing_happens(world);
        world.clock.advance(1);
        waited += pause;
    }
    assert!(world.open_jobs().is_empty());
    let shown = element(&world.vm_document(&world.alice, vm), "SCHED_ACTION");
    assert!(shown.contains("Sat Nov 21 "), "{shown}");
}

#[test]
fn an_owner_who_lost_his_right_on_the_datastore_is_told_and_tried_ever_more_rarely() {
    let (world, vm) = world();
    let id = add(&world, vm, "ACTION=backup,ARGS=\"100\",TIME=\"+60\"");
    world.edit_datastore(100, |row| (row.uid, row.gid, row.permissions) = (0, 0, octal(0o640)));
    world.clock.advance(60);
    tick(&world);
    assert_eq!(
        world.action(id).message,
        "Sat Nov 21 12:01:00 2026 : [backup] User [2] : Not authorized to perform USE DATASTORE [100]."
    );
    world.clock.advance(15);
    tick(&world);
    assert_eq!(world.schedule_row(id).not_before, NOW + 75 + 30);
    // The right is given back: the next attempt goes well and clears the message.
    world.edit_datastore(100, |row| row.permissions = octal(0o644));
    world.clock.advance(29);
    nothing_happens(&world);
    world.clock.advance(1);
    tick(&world);
    assert!(backing_up(&world, vm));
    let (row, action) = (world.schedule_row(id), world.action(id));
    assert_eq!((row.refusals, row.not_before, action.message.as_str()), (0, 0, ""));
    assert_eq!(action.done, Some(NOW + 105));
}

#[test]
fn a_vm_in_a_wrong_state_is_not_hammered() {
    let (world, vm) = world();
    let id = add(&world, vm, &format!("ACTION=backup,ARGS=\"100\",TIME={NOW}"));
    world.set_phase(vm, VmPhase::resting(VmState::Suspended));
    refused_with_pauses(&world, vm, id, "Could not create a new backup for VM 0, wrong state SUSPENDED.");
    world.set_phase(vm, VmPhase::RUNNING);
    tick(&world);
    assert!(backing_up(&world, vm));
}

#[test]
fn each_way_to_lose_the_right_is_a_refusal_with_its_reason() {
    let (world, vm) = world();
    let id = add(&world, vm, &format!("ACTION=backup,ARGS=\"100\",TIME={NOW}"));
    let refused = |part: &str| {
        tick(&world);
        let message = world.action(id).message;
        assert!(message.contains(part), "{message}");
        assert!(world.open_jobs().is_empty() && world.phase(vm) == VmPhase::RUNNING);
        world.clock.set(world.schedule_row(id).not_before);
    };
    // The VM is given to somebody who may not use the datastore: what counts is who owns it now.
    world.edit_vm(vm, |row| (row.uid, row.gid) = (world.mallory.uid, 1));
    refused("User [4] : Not authorized to perform USE DATASTORE [100].");
    world.edit_vm(vm, |row| (row.uid, row.gid) = (world.alice.uid, TEAM));
    // The owner's own bits are taken away.
    world.edit_vm(vm, |row| row.permissions = octal(0o400));
    refused("User [2] : Not authorized to perform MANAGE VM [0].");
    world.edit_vm(vm, |row| row.permissions = octal(0o600));
    let alice = world.read(|tx| tx.user(world.alice.uid));
    world.write(|tx| tx.user_update(&oned::store::rows::UserRow { enabled: 0, ..alice.clone() }));
    refused("The owner of VM 0, user 2, is gone or disabled.");
    world.write(|tx| tx.user_update(&alice));
    world.edit_datastore(100, |row| (row.total_mb, row.free_mb) = (1000, 1));
    refused("[backup] Not enough free space on target datastore");
    world.edit_datastore(100, |row| row.total_mb = 0);
    tick(&world);
    assert!(backing_up(&world, vm));
}

#[test]
fn full_slots_wait_silently_and_the_longest_waiting_goes_first() {
    let world = World::configured(|config| (config.max_backups, config.max_backups_host) = (Some(5), Some(2)));
    world.add_backup_datastore("backups");
    let vms: Vec<i64> = (0..4).map(|_| world.add_running_vm("")).collect();
    let ids: Vec<i64> = vms
        .iter()
        .zip([30, 10, 40, 20])
        .map(|(vm, late)| add(&world, *vm, &format!("ACTION=backup,ARGS=\"100\",TIME={}", NOW + late)))
        .collect();
    world.clock.advance(100);
    tick(&world);
    let running = || -> Vec<bool> { vms.iter().map(|vm| backing_up(&world, *vm)).collect() };
    assert_eq!(running(), [false, true, false, true]);
    nothing_happens(&world);
    for waiting in [ids[0], ids[2]] {
        let (row, action) = (world.schedule_row(waiting), world.action(waiting));
        assert_eq!((row.refusals, row.not_before, action.message.as_str(), action.done), (0, 0, "", None));
    }
    world.end_backup(vms[1]);
    // Ending them all closed both jobs; the other VM still shows its state.
    world.end_backup(vms[3]);
    tick(&world);
    assert_eq!(running(), [true, false, true, false]);
}

#[test]
fn a_full_host_does_not_keep_those_of_another_waiting_but_a_full_cloud_does() {
    let world = World::configured(|config| (config.max_backups, config.max_backups_host) = (Some(2), Some(1)));
    world.add_backup_datastore("backups");
    let second = world.add_host("localhost2");
    world.write(|tx| {
        let host = tx.host(second)?;
        tx.host_update(&oned::store::rows::HostRow { template: "LIBVIRT_URI=\"qemu:///session\"".into(), ..host })
    });
    let vms: Vec<i64> = (0..4).map(|_| world.add_running_vm("")).collect();
    for vm in &vms[2..] {
        world.edit_vm(*vm, |row| row.host_id = Some(second));
    }
    for vm in &vms {
        add(&world, *vm, &format!("ACTION=backup,ARGS=\"100\",TIME={NOW}"));
    }
    tick(&world);
    let running: Vec<bool> = vms.iter().map(|vm| backing_up(&world, *vm)).collect();
    assert_eq!(running, [true, false, true, false]);
    nothing_happens(&world);
}

#[test]
fn no_limit_means_no_limit() {
    let world = World::configured(|config| (config.max_backups, config.max_backups_host) = (None, None));
    world.add_backup_datastore("backups");
    let vms: Vec<i64> = (0..7).map(|_| world.add_running_vm("")).collect();
    for vm in &vms {
        add(&world, *vm, &format!("ACTION=backup,ARGS=\"100\",TIME={NOW}"));
    }
    tick(&world);
    assert!(vms.iter().all(|vm| backing_up(&world, *vm)));
}

#[test]
fn a_vm_starts_one_action_at_a_time_in_the_order_of_their_times() {
    let (world, vm) = world();
    let later = add(&world, vm, &format!("ACTION=poweroff,TIME={}", NOW + 2));
    let first = add(&world, vm, &format!("ACTION=backup,ARGS=\"100\",TIME={}", NOW + 1));
    world.clock.advance(5);
    tick(&world);
    assert!(backing_up(&world, vm));
    assert_eq!((world.action(first).done, world.action(later).done), (Some(NOW + 5), None));
    // The next look is refused by the running backup and says so.
    tick(&world);
    let message = world.action(later).message;
    assert!(message.contains("[poweroff] Error performing action \"poweroff\""), "{message}");
    world.end_backup(vm);
    world.clock.advance(15);
    tick(&world);
    assert_eq!(world.phase(vm), VmPhase::active(LcmState::ShutdownPoweroff));
    assert_eq!(world.action(later).done, Some(NOW + 20));
}

#[test]
fn a_reset_in_the_arguments_reaches_the_plan() {
    let (world, vm) = world();
    world.edit_config(vm, |config| config.mode = one_core::backup::Mode::Increment);
    let image = world.add_backup(vm, 100, 2, true);
    add(&world, vm, &format!("ACTION=backup,ARGS=\"100,1\",TIME={NOW}"));
    tick(&world);
    let (_, plan) = world.backup_plan();
    let kind = plan.decision.kind;
    assert!(matches!(kind, one_core::backup::PlanKind::Full { new_chain: true, .. }), "{kind:?}");
    assert_eq!(world.config(vm).chain(), Some((image, 1)));
}

#[test]
fn an_action_about_what_is_not_there_is_refused_when_it_runs_and_never_hammers() {
    let (world, vm) = world();
    let id = add(&world, vm, &format!("ACTION=snapshot-revert,ARGS=7,TIME={NOW}"));
    tick(&world);
    assert!(world.action(id).message.contains("Snapshot does not exist: 7"), "{}", world.action(id).message);
    assert_eq!(world.schedule_row(id).not_before, NOW + 15);
}

#[test]
fn a_schedule_whose_record_is_damaged_stops_nobody_else() {
    let (world, vm) = world();
    let other = world.add_running_vm("");
    let broken = add(&world, vm, &format!("ACTION=backup,ARGS=\"100\",TIME={NOW}"));
    add(&world, other, &format!("ACTION=backup,ARGS=\"100\",TIME={NOW}"));
    let row = world.schedule_row(broken);
    world.write(|tx| tx.schedule_update(&oned::store::rows::ScheduleRow { body: "{".into(), ..row }));
    tick(&world);
    assert!(backing_up(&world, other) && !backing_up(&world, vm));
    world.vm_document(&world.alice, vm);
}

#[test]
fn a_backup_and_the_mark_that_it_started_are_one_transaction() {
    let (world, vm) = world();
    let id = add(&world, vm, &format!("ACTION=backup,ARGS=\"100\",TIME={NOW}"));
    // A daemon that dies between the two, or a database that fails, must not make the backup twice.
    world.sql("CREATE TRIGGER fault BEFORE UPDATE ON schedule BEGIN SELECT RAISE(ABORT, 'fault'); END;");
    nothing_happens(&world);
    world.sql("DROP TRIGGER fault");
    tick(&world);
    assert!(backing_up(&world, vm));
    assert_eq!(world.action(id).done, Some(NOW));
}

fn change(world: &World, vm: i64, id: i64, keys: &str) -> Result<i64, Refusal> {
    api::schedule::update(&world.cloud, &world.alice, vm, id, &format!("SCHED_ACTION=[{keys}]"))
}

#[test]
fn an_update_keeps_what_it_leaves_out_and_wakes_an_action_that_was_given_up() {
    let (world, vm) = world();
    let id = add(&world, vm, &format!("ACTION=backup,ARGS=\"100\",TIME={NOW},REPEAT=3,DAYS=1"));
    world.set_phase(vm, VmPhase::resting(VmState::Suspended));
    tick(&world);
    assert_eq!(world.schedule_row(id).refusals, 1);
    assert_eq!(change(&world, vm, id, "DAYS=2").unwrap(), id);
    let ScheduledAction { action, args, time, days, .. } = world.action(id);
    assert_eq!((action.as_str(), args.as_str(), time, days.as_slice()), ("backup", "100", NOW, &[2][..]));
    let row = world.schedule_row(id);
    assert_eq!((row.refusals, row.not_before, row.due_at), (0, 0, Some(NOW)));
    world.set_phase(vm, VmPhase::RUNNING);
    tick(&world);
    assert!(backing_up(&world, vm));
    assert_eq!(world.action(id).time, NOW + 2 * HOUR);
}

#[test]
fn what_makes_no_action_is_refused_with_its_sentence() {
    let (world, vm) = world();
    let add = |text: &'static str| {
        let alice = world.alice.clone();
        move |cloud: &Cloud| api::schedule::add(cloud, &alice, vm, text)
    };
    world.refuses(2048, "No SCHED_ACTION attribute in template", add("NOTE=x\n"));
    world.refuses(2048, "dance is not supported.", add("SCHED_ACTION=[ACTION=dance,TIME=5]"));
    let time = "Unable to parse the time value or value is empty: ";
    world.refuses(2048, time, add("SCHED_ACTION=[ACTION=hold]"));
    world.refuses(2048, "Wrong REPEAT value: 7", add("SCHED_ACTION=[ACTION=hold,TIME=5,REPEAT=7]"));
    world.refuses(2048, "Repeat set, but DAYS are empty", add("SCHED_ACTION=[ACTION=hold,TIME=5,REPEAT=0]"));
    world.refuses(2048, "Datastore needs to be of type BACKUP", add("SCHED_ACTION=[ACTION=backup,ARGS=\"1\",TIME=5]"));
    world.refuses(1024, "Error getting datastore [9].", add("SCHED_ACTION=[ACTION=backup,ARGS=\"9\",TIME=5]"));
    let refusal = world.refusal(add("SCHED_ACTION=[ACTION=backup,TIME=5]"));
    assert!(refusal.code() == 2048 && refusal.to_string().starts_with("Wrong ARGS value"), "{refusal}");
}

#[test]
fn schedules_of_foreign_vms_and_datastores_and_of_ended_vms_are_refused() {
    let (world, vm) = world();
    let id = add(&world, vm, "ACTION=backup,ARGS=\"100\",TIME=\"+60\"");
    let text = "SCHED_ACTION=[ACTION=backup,ARGS=\"100\",TIME=\"+60\"]";
    for caller in [&world.mallory, &world.bob] {
        let sentence = format!("User [{}] : Not authorized to perform MANAGE VM [0].", caller.uid);
        world.refuses(512, &sentence, |cloud| api::schedule::add(cloud, caller, vm, text));
        world.refuses(512, &sentence, |cloud| api::schedule::update(cloud, caller, vm, id, text));
        world.refuses(512, &sentence, |cloud| api::schedule::delete(cloud, caller, vm, id));
    }
    let foreign = "User [2] : Not authorized to perform USE DATASTORE [101].";
    world.add_backup_datastore("foreign");
    world.edit_datastore(101, |row| (row.uid, row.gid) = (0, 0));
    let to_foreign = "SCHED_ACTION=[ACTION=backup,ARGS=\"101\",TIME=\"+60\"]";
    world.refuses(512, foreign, |cloud| api::schedule::add(cloud, &world.alice, vm, to_foreign));
    world.refuses(512, foreign, |_| change(&world, vm, id, "ARGS=\"101\""));

    let other = world.add_running_vm("");
    world.refuses(2048, "SCHED_ACTION with id = 0 doesn't exist", |_| change(&world, other, id, "DAYS=1"));
    world.refuses(2048, "SCHED_ACTION with id = 9 doesn't exist", |_| change(&world, vm, 9, "DAYS=1"));
    let gone = "Error getting scheduled action [0].";
    world.refuses(1024, gone, |cloud| api::schedule::delete(cloud, &world.alice, other, id));

    world.set_phase(other, VmPhase::DONE);
    let done = "Unable to create Scheduled Action for Virtual Machine 1, it's in DONE state";
    world.refuses(8192, done, |cloud| api::schedule::add(cloud, &world.alice, other, text));
}

#[test]
fn a_deleted_action_never_runs_and_a_vm_holds_a_hundred_at_most() {
    let (world, vm) = world();
    let id = add(&world, vm, &format!("ACTION=backup,ARGS=\"100\",TIME={NOW}"));
    assert_eq!(api::schedule::delete(&world.cloud, &world.alice, vm, id).unwrap(), vm);
    nothing_happens(&world);
    for _ in 0..100 {
        add(&world, vm, "ACTION=backup,ARGS=\"100\",TIME=\"+60\"");
    }
    let sentence = "A VM can have at most 100 scheduled actions.";
    world.refuses(2048, sentence, |cloud| {
        api::schedule::add(cloud, &world.alice, vm, "SCHED_ACTION=[ACTION=hold,TIME=5]")
    });
    world.vm_document(&world.alice, vm);
}

#[test]
fn a_vm_that_never_ran_takes_its_schedules_with_it() {
    let (world, _) = world();
    let text = "CPU=1\nMEMORY=1\nSCHED_ACTION=[ACTION=backup,ARGS=\"100\",TIME=\"+60\"]\n";
    let vm = api::vm::allocate(&world.cloud, &world.alice, text, true).unwrap();
    assert_eq!(world.actions(vm).len(), 1);
    api::vm::action(&world.cloud, &world.alice, "terminate", vm).unwrap();
    assert_eq!((world.phase(vm), world.actions(vm).len()), (VmPhase::DONE, 0));
    world.clock.advance(WEEK);
    nothing_happens(&world);
}
