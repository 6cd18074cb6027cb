//! The state machines over the full product of their inputs, compared with golden files.
//! `UPDATE_GOLDEN=1 cargo test -p one-core --test lifecycle` rewrites the files.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use one_core::lifecycle::actions::{ACTIONS, number};
use one_core::lifecycle::{
    DatastoreType, HostState, ImageState, ImageType, JobEvent, JobPhase, LcmState, OpenJobs, OperationLists,
    RecoverAction, RecoverOperation, Recovery, Seen, VmAction, VmChange, VmEvent, VmOperation, VmPhase, VmRights,
    VmState, change_in, driver_answers, job_next, next, recover, recover_action,
};
use one_core::refusal::Right;
use one_core::schedule;
use one_core::template::Template;
use proptest::prelude::*;

fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let written = std::fs::write(&path, text);
        assert!(written.is_ok(), "{}: {written:?}", path.display());
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let (wanted, found): (Vec<&str>, Vec<&str>) = (golden.lines().collect(), text.lines().collect());
    for (number, (wanted, found)) in wanted.iter().zip(&found).enumerate() {
        assert_eq!(wanted, found, "{name}:{} differs; UPDATE_GOLDEN=1 rewrites it", number + 1);
    }
    assert_eq!(wanted.len(), found.len(), "{name} has another length; UPDATE_GOLDEN=1 rewrites it");
}

fn label(phase: VmPhase) -> String {
    match phase.state {
        VmState::Active => format!("ACTIVE/{}", phase.lcm.name()),
        state => state.name().to_owned(),
    }
}

#[test]
fn the_virtual_machine_moves_as_its_matrix_says() {
    let mut text = String::new();
    for phase in VmPhase::all() {
        writeln!(text, "{}", label(phase)).unwrap();
        let mut refused = Vec::new();
        for event in VmEvent::ALL {
            let name = format!("{event:?}");
            match next(phase, event) {
                Ok(after) if after == phase => {
                    writeln!(text, "  {name:28} stays").unwrap();
                }
                Ok(after) => writeln!(text, "  {name:28} {}", label(after)).unwrap(),
                Err(refusal) => {
                    assert!(refusal.to_string().contains(phase.name()), "{refusal}");
                    refused.push(name);
                }
            }
        }
        writeln!(text, "  refused: {}", refused.join(" ")).unwrap();
    }
    assert_golden("lifecycle.txt", &text);
}

#[test]
fn a_job_moves_as_its_matrix_says() {
    let mut text = String::new();
    for phase in JobPhase::ALL {
        for event in JobEvent::ALL {
            let after = job_next(phase, event).map_or("refused", JobPhase::as_str);
            writeln!(text, "{:10} {:8} {after}", phase.as_str(), format!("{event:?}")).unwrap();
        }
    }
    assert_golden("job.txt", &text);
}

/// What each way does, for whoever reads the table.
fn way(phase: JobPhase, recovery: Recovery) -> &'static str {
    match recovery {
        Recovery::Resume if !phase.is_open() => "nothing is left to do",
        Recovery::Resume => "forward: it is recorded; clean up behind it",
        Recovery::Redo => "end the session, delete the checkpoint, sweep; begin again from the plan",
        Recovery::AdoptSealed => "end the session; record the restore point that is there",
        Recovery::Undo if phase == JobPhase::Undoing => "go on removing: session, checkpoint, restore point, leavings",
        Recovery::Undo => "remove session, checkpoint, leavings; give the VM back",
    }
}

#[test]
fn recovery_decides_as_its_table_says() {
    let mut text = String::from(
        "# How a backup job that is found open goes on: every phase with everything that can be seen.\n\
         # sealed: the datastore holds the job's whole restore point; cancel: somebody asked to stop; tries: attempts are left.\n\n\
         phase      sealed cancel tries  recovery     that is\n",
    );
    for phase in JobPhase::ALL {
        for seen in Seen::all() {
            let bit = |set: bool| if set { "yes" } else { "-" };
            let Seen { sealed, cancel, attempts_left } = seen;
            let recovery = recover(phase, seen);
            let (sealed, cancel, tries) = (bit(sealed), bit(cancel), bit(attempts_left));
            let (word, way) = (format!("{recovery:?}"), way(phase, recovery));
            writeln!(text, "{:10} {sealed:6} {cancel:6} {tries:5}  {word:12} {way}", phase.as_str()).unwrap();
        }
    }
    assert_golden("recover.txt", &text);
}

#[test]
fn every_recovery_is_a_step_that_the_job_machine_allows() {
    for phase in JobPhase::ALL.into_iter().filter(|phase| phase.is_open()) {
        for seen in Seen::all() {
            let event = match recover(phase, seen) {
                Recovery::Resume => {
                    assert!(phase.is_recorded(), "{phase} is resumed");
                    continue;
                }
                Recovery::Undo if phase == JobPhase::Undoing => JobEvent::Fail,
                Recovery::Undo => JobEvent::Undo,
                Recovery::Redo => JobEvent::Redo,
                Recovery::AdoptSealed => JobEvent::Adopt,
            };
            assert!(job_next(phase, event).is_ok(), "{phase} {event:?}");
        }
    }
}

#[test]
fn what_is_recorded_is_never_taken_back() {
    for phase in JobPhase::ALL.into_iter().filter(|phase| phase.is_recorded()) {
        assert!(job_next(phase, JobEvent::Undo).is_err());
        assert!(job_next(phase, JobEvent::Redo).is_err());
        assert!(Seen::all().all(|seen| recover(phase, seen) == Recovery::Resume));
    }
}

/// Each line of the table, of jobs that can still go either way.
fn undecided() -> impl Iterator<Item = (JobPhase, Seen, Recovery)> {
    let phases = [JobPhase::Planned, JobPhase::Prepared, JobPhase::Copied, JobPhase::Sealed];
    phases.into_iter().flat_map(|phase| Seen::all().map(move |seen| (phase, seen, recover(phase, seen))))
}

#[test]
fn a_whole_restore_point_is_never_thrown_away_nor_made_a_second_time() {
    for (phase, seen, recovery) in undecided().filter(|(_, seen, _)| seen.sealed) {
        assert_eq!(recovery, Recovery::AdoptSealed, "{phase} {seen:?}");
    }
    // Only who is already removing it goes on, for a part may be gone.
    for seen in Seen::all() {
        assert_eq!(recover(JobPhase::Undoing, seen), Recovery::Undo, "{seen:?}");
    }
}

#[test]
fn a_cancel_is_obeyed_whatever_attempts_are_left() {
    for (phase, seen, recovery) in undecided().filter(|(_, seen, _)| seen.cancel && !seen.sealed) {
        assert_eq!(recovery, Recovery::Undo, "{phase} {seen:?}");
    }
}

#[test]
fn a_job_is_begun_again_until_its_attempts_run_out_and_is_then_taken_back() {
    for (phase, seen, recovery) in undecided().filter(|(_, seen, _)| !seen.cancel && !seen.sealed) {
        let wanted = if seen.attempts_left { Recovery::Redo } else { Recovery::Undo };
        assert_eq!(recovery, wanted, "{phase} {seen:?}");
    }
}

#[test]
fn every_way_of_recovery_leads_to_the_end_and_stays_the_way_when_it_is_cut_off_again() {
    for (phase, seen, recovery) in undecided() {
        let event = match recovery {
            Recovery::AdoptSealed => JobEvent::Adopt,
            Recovery::Undo => JobEvent::Undo,
            Recovery::Redo => JobEvent::Redo,
            Recovery::Resume => panic!("{phase} {seen:?} is neither recorded nor closed"),
        };
        let after = job_next(phase, event).unwrap();
        let again = recover(after, seen);
        assert_eq!(again, recovery, "{phase} {seen:?} goes to {after}");
    }
}

#[test]
fn a_guest_that_shuts_down_during_a_backup_leaves_the_vm_in_backup() {
    let backup = next(VmPhase::RUNNING, VmEvent::BackupStart).unwrap();
    assert!(backup.is_backing_up());
    for seen in [VmEvent::Stopped, VmEvent::Lost, VmEvent::Found] {
        assert_eq!(next(backup, seen), Ok(backup));
    }
    assert_eq!(next(backup, VmEvent::BackupEnd), Ok(VmPhase::RUNNING));
    assert_eq!(next(VmPhase::RUNNING, VmEvent::Stopped), Ok(VmPhase::POWEROFF));
}

#[test]
fn a_vm_in_backup_refuses_every_action_but_recovery() {
    for lcm in [LcmState::Backup, LcmState::BackupPoweroff] {
        let phase = VmPhase::active(lcm);
        for event in VmEvent::ALL {
            let left = next(phase, event).is_ok_and(|after| after != phase);
            let may_leave =
                matches!(event, VmEvent::BackupEnd | VmEvent::Delete | VmEvent::Recreate | VmEvent::DeleteDb);
            assert_eq!(left, may_leave, "{phase} {event:?}");
        }
        let refusal = next(phase, VmEvent::Poweroff).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            format!("Error performing action \"poweroff\": This action is not available for state {}", lcm.name())
        );
    }
}

#[test]
fn what_monitoring_sees_is_never_refused() {
    for phase in VmPhase::all() {
        for seen in [VmEvent::Stopped, VmEvent::Found, VmEvent::Lost] {
            assert!(next(phase, seen).is_ok(), "{phase} {seen:?}");
        }
    }
}

#[test]
fn only_active_machines_have_an_lcm_state() {
    for phase in VmPhase::all() {
        for event in VmEvent::ALL {
            let Ok(after) = next(phase, event) else {
                continue;
            };
            assert!(after.state == VmState::Active || after.lcm == LcmState::LcmInit);
            assert!(after.state != VmState::Active || after.lcm != LcmState::LcmInit || after == phase);
        }
    }
}

#[test]
fn every_phase_that_can_be_reached_can_end() {
    let mut reached = BTreeSet::new();
    let mut todo = vec![VmPhase::PENDING];
    while let Some(phase) = todo.pop() {
        if reached.insert((phase.state, phase.lcm)) {
            todo.extend(VmEvent::ALL.into_iter().filter_map(|event| next(phase, event).ok()));
        }
    }
    assert!(reached.contains(&(VmState::Active, LcmState::Backup)));
    assert!(reached.contains(&(VmState::Active, LcmState::BackupPoweroff)));
    for (state, lcm) in reached {
        let phase = VmPhase { state, lcm };
        let ends = phase == VmPhase::DONE || next(phase, VmEvent::DeleteDb) == Ok(VmPhase::DONE);
        assert!(ends, "{phase}");
    }
    for event in VmEvent::ALL {
        let stays = next(VmPhase::DONE, event).is_ok_and(|after| after == VmPhase::DONE);
        assert!(stays || next(VmPhase::DONE, event).is_err(), "{event:?} brings a VM back from DONE");
    }
}

#[test]
fn numbers_and_names_lead_back_to_their_state() {
    macro_rules! check {
        ($($type:ident),+) => {$(
            for value in $type::ALL.iter().copied() {
                assert_eq!($type::from_number(value.number()), Some(value));
                assert_eq!($type::from_name(value.name()), Some(value));
            }
            assert_eq!($type::from_number(-1), None);
            assert_eq!($type::from_number(1000), None);
        )+};
    }
    check!(VmState, LcmState, ImageState, ImageType, DatastoreType, HostState);
    for phase in JobPhase::ALL {
        assert_eq!(phase.as_str().parse(), Ok(phase));
    }
    assert!("copying".parse::<JobPhase>().is_err());
}

#[test]
fn states_have_the_numbers_that_clients_know() {
    assert_eq!(VmPhase::from_numbers(3, 69), Some(VmPhase::active(LcmState::Backup)));
    assert_eq!(VmPhase::from_numbers(3, 70).map(VmPhase::name), Some("BACKUP_POWEROFF"));
    assert_eq!(VmPhase::from_numbers(3, 71).map(VmPhase::name), Some("RESTORE"));
    assert_eq!(VmPhase::from_numbers(8, 0), Some(VmPhase::POWEROFF));
    assert_eq!(VmPhase::from_numbers(8, 3), Some(VmPhase::POWEROFF));
    assert_eq!((VmPhase::from_numbers(7, 0), VmPhase::from_numbers(3, 13)), (None, None));
    let short: Vec<&str> =
        [3, 69, 70, 16, 36].into_iter().filter_map(|lcm| Some(VmPhase::from_numbers(3, lcm)?.short())).collect();
    assert_eq!(short, ["runn", "bkup", "bkup", "unkn", "fail"]);
}

/// Phases from which `to` can be reached by some way that takes none of the `avoided` events.
fn leading_to(to: VmPhase, avoided: &[VmEvent]) -> BTreeSet<(VmState, LcmState)> {
    let mut leading = BTreeSet::from([(to.state, to.lcm)]);
    loop {
        let before = leading.len();
        for phase in VmPhase::all() {
            let leads = VmEvent::ALL
                .into_iter()
                .filter(|event| !avoided.contains(event))
                .filter_map(|event| next(phase, event).ok())
                .any(|after| leading.contains(&(after.state, after.lcm)));
            if leads {
                leading.insert((phase.state, phase.lcm));
            }
        }
        if leading.len() == before {
            return leading;
        }
    }
}

fn reached_from(start: VmPhase) -> BTreeSet<(VmState, LcmState)> {
    let mut reached = BTreeSet::new();
    let mut todo = vec![start];
    while let Some(phase) = todo.pop() {
        if reached.insert((phase.state, phase.lcm)) {
            todo.extend(VmEvent::ALL.into_iter().filter_map(|event| next(phase, event).ok()));
        }
    }
    reached
}

#[test]
fn every_state_is_reached_by_some_way() {
    let reached = reached_from(VmPhase::resting(VmState::Cloning));
    for phase in VmPhase::all() {
        let is_only_a_beginning =
            phase == VmPhase::resting(VmState::Init) || phase == VmPhase::active(LcmState::LcmInit);
        assert_eq!(reached.contains(&(phase.state, phase.lcm)), !is_only_a_beginning, "{phase}");
    }
}

#[test]
fn from_every_state_some_way_leads_to_the_end_without_recovery() {
    let recovery = [VmEvent::Delete, VmEvent::DeleteDb, VmEvent::Recreate, VmEvent::Retry];
    let leading = leading_to(VmPhase::DONE, &recovery);
    for phase in VmPhase::all().filter(|phase| *phase != VmPhase::active(LcmState::LcmInit)) {
        assert!(leading.contains(&(phase.state, phase.lcm)), "{phase}");
    }
    assert_eq!(leading_to(VmPhase::DONE, &[]).len(), VmPhase::all().count());
}

/// What is neither transient nor resting: it waits for somebody.
fn waits(phase: VmPhase) -> bool {
    let lcm = phase.lcm;
    phase.state != VmState::Active
        || matches!(lcm, LcmState::LcmInit | LcmState::Running | LcmState::Unknown)
        || lcm.name().ends_with("_FAILURE")
}

#[test]
fn every_transient_state_has_driver_answers_that_leave_it() {
    for phase in VmPhase::all() {
        let Some((done, failed)) = driver_answers(phase) else {
            assert!(waits(phase), "nobody answers in {phase}");
            continue;
        };
        assert!(phase.state == VmState::Cloning || !waits(phase), "{phase}");
        for answer in [done, failed] {
            let after = next(phase, answer).unwrap();
            assert_ne!(after, phase, "{answer:?}");
        }
    }
}

#[test]
fn every_failure_can_be_tried_again_ended_and_taken_as_a_success() {
    for phase in VmPhase::all().filter(|phase| phase.lcm.name().ends_with("_FAILURE")) {
        let step = next(phase, VmEvent::Retry).unwrap();
        assert_eq!(format!("{}_FAILURE", step.name()), phase.name());
        let (done, failed) = driver_answers(step).unwrap();
        assert_eq!(next(step, failed), Ok(phase));
        assert_eq!(next(phase, done), next(step, done));
        assert_eq!(next(phase, VmEvent::Terminate), Ok(VmPhase::active(LcmState::CleanupDelete)));
    }
}

#[test]
fn a_change_ends_where_it_began() {
    let starts = VmEvent::ALL.into_iter().filter(|event| format!("{event:?}").ends_with("Start"));
    for event in starts {
        for phase in VmPhase::all() {
            let Ok(during) = next(phase, event) else { continue };
            if during == phase {
                continue;
            }
            let (done, failed) = if event == VmEvent::RestoreStart {
                // One state for two beginnings: whether the VM has a host tells where it goes back to.
                let end = VmEvent::restore_end(phase == VmPhase::POWEROFF);
                (end, end)
            } else {
                driver_answers(during).unwrap()
            };
            assert_eq!((next(during, done), next(during, failed)), (Ok(phase), Ok(phase)), "{event:?}");
        }
    }
    let other = VmEvent::ChangeDone(VmChange::Nic);
    assert!(next(VmPhase::active(LcmState::Hotplug), other).is_err(), "the answer of another change is refused");
    for change in VmChange::ALL {
        let states = VmPhase::all().filter(|phase| change_in(*phase).is_some_and(|(found, _)| found == change));
        assert!(states.count() > 0, "{change:?}");
    }
}

#[test]
fn a_stopped_vm_waits_for_a_place_and_gets_its_memory_back() {
    let mut phase = VmPhase::RUNNING;
    let place = VmEvent::place(Some(number::STOP));
    let steps = [
        (VmEvent::Stop, "SAVE_STOP"),
        (VmEvent::Saved, "EPILOG_STOP"),
        (VmEvent::EpilogDone, "STOPPED"),
        (VmEvent::Resume, "PENDING"),
        (place, "PROLOG_RESUME"),
        (VmEvent::PrologDone, "BOOT_STOPPED"),
        (VmEvent::Booted, "RUNNING"),
    ];
    for (event, name) in steps {
        phase = next(phase, event).unwrap();
        assert_eq!(phase.name(), name);
    }
    let stopped = VmPhase::resting(VmState::Stopped);
    assert_eq!(next(stopped, VmEvent::Place), next(VmPhase::PENDING, place));
    let undeployed = VmPhase::resting(VmState::Undeployed);
    for action in [number::UNDEPLOY, number::UNDEPLOY_HARD] {
        assert_eq!(next(VmPhase::PENDING, VmEvent::place(Some(action))), next(undeployed, VmEvent::Place));
    }
    for action in [None, Some(number::NONE), Some(number::DELETE_RECREATE), Some(i64::MIN)] {
        assert_eq!(VmEvent::place(action), VmEvent::Place);
    }
}

#[test]
fn a_migration_with_a_shutdown_boots_afresh() {
    let moving = VmPhase::active(LcmState::PrologMigrate);
    let after = |action| next(moving, VmEvent::prolog_done(moving, Some(action))).unwrap().name();
    assert_eq!(after(number::MIGRATE), "BOOT_MIGRATE");
    assert_eq!(after(number::POWEROFF_MIGRATE), "BOOT");
    assert_eq!(after(number::POWEROFF_HARD_MIGRATE), "BOOT");
    let off = VmPhase::active(LcmState::PrologMigratePoweroff);
    assert_eq!(next(off, VmEvent::prolog_done(off, Some(number::POWEROFF_MIGRATE))), Ok(VmPhase::POWEROFF));
}

#[test]
fn the_wish_for_another_host_lasts_until_something_settles_it() {
    assert!(VmEvent::Resched.resched_after(false));
    for event in [VmEvent::Unresched, VmEvent::Poweroff, VmEvent::LiveMigrate, VmEvent::Reboot, VmEvent::Lost] {
        assert!(!event.resched_after(true), "{event:?}");
    }
    for event in VmEvent::ALL.into_iter().filter(|event| *event != VmEvent::Resched) {
        assert!(!event.resched_after(false), "{event:?}");
    }
    assert!(VmEvent::BackupStart.resched_after(true) && VmEvent::BackupEnd.resched_after(true));
    for phase in [VmPhase::RUNNING, VmPhase::POWEROFF, VmPhase::active(LcmState::Unknown)] {
        assert_eq!(next(phase, VmEvent::Resched), Ok(phase));
    }
}

#[test]
fn recovery_of_a_vm_does_as_its_table_says() {
    let mut text = String::new();
    for phase in VmPhase::all() {
        writeln!(text, "{}", label(phase)).unwrap();
        for operation in RecoverOperation::ALL {
            let told = match recover_action(phase, operation) {
                Err(refusal) => {
                    assert_eq!(refusal.code(), 2048);
                    assert!(refusal.to_string().contains(phase.name()), "{refusal}");
                    "refused".to_owned()
                }
                Ok(action) => told(phase, action),
            };
            writeln!(text, "  {:10} {told}", operation.word()).unwrap();
        }
    }
    assert!(!text.contains("which the machine refuses"), "{text}");
    assert_golden("vm_recover.txt", &text);
}

fn told(phase: VmPhase, action: RecoverAction) -> String {
    let Some(event) = action.event else {
        assert_eq!((action.jobs, action.to_previous_host), (OpenJobs::Leave, false));
        return if action.starts_job { "stays, new job" } else { "nothing" }.to_owned();
    };
    let Ok(after) = next(phase, event) else {
        return format!("{event:?}, which the machine refuses");
    };
    let mut told = format!("{event:?} -> {}", label(after));
    match action.jobs {
        OpenJobs::Leave => {}
        OpenJobs::Cancel => told.push_str(", jobs cancelled"),
        OpenJobs::CancelAndAwait => told.push_str(", jobs cancelled and awaited"),
    }
    if action.starts_job {
        assert!(driver_answers(after).is_some(), "a job without an answer");
        told.push_str(", new job");
    }
    if action.to_previous_host {
        told.push_str(", back to the previous host");
    }
    told
}

#[test]
fn recovery_always_has_a_way_out() {
    for phase in VmPhase::all().filter(|phase| *phase != VmPhase::DONE) {
        for operation in [RecoverOperation::Delete, RecoverOperation::DeleteDb] {
            let event = recover_action(phase, operation).unwrap().event.unwrap();
            assert_ne!(next(phase, event), Ok(phase), "{phase} {operation:?}");
        }
        if driver_answers(phase).is_none() {
            continue;
        }
        for operation in [RecoverOperation::Failure, RecoverOperation::Success] {
            let event = recover_action(phase, operation).unwrap().event.unwrap();
            assert_ne!(next(phase, event), Ok(phase), "{phase} {operation:?}");
        }
    }
    for (number, operation) in (0..).zip(RecoverOperation::ALL) {
        assert_eq!(RecoverOperation::from_number(number), Ok(operation));
    }
    for number in [-1, 6, i64::MAX] {
        assert_eq!(RecoverOperation::from_number(number).unwrap_err().to_string(), "Wrong recovery operation code");
    }
}

#[test]
fn actions_have_the_words_numbers_and_rights_that_clients_know() {
    let mut text = String::from("word                   number asked by        operation      right   event\n");
    for action in ACTIONS {
        assert_eq!(number::word(action.history), Some(action.word));
        assert_eq!(VmAction::from_word(action.word), Some(action));
        let asked = match (action.is_callable, action.is_schedulable) {
            (true, true) => "call, schedule",
            (true, false) => "call",
            (false, true) => "schedule",
            (false, false) => "-",
        };
        let event = action.event.map_or("-".to_owned(), |event| format!("{event:?}"));
        if let Some(event) = action.event {
            assert!(action.word.starts_with("alias-") || event.action() == action.word, "{}", action.word);
        }
        let (operation, right) = (action.operation, action.operation.default_right());
        let word = action.word;
        let history = action.history;
        writeln!(text, "{word:22} {history:6} {asked:15} {:14} {:7} {event}", operation.word(), right.name()).unwrap();
    }
    assert_golden("vm_actions.txt", &text);
    assert_eq!(VmAction::of_call("jump").unwrap_err().to_string(), "Action \"jump\" is not supported");
    assert!(VmAction::of_call("migrate").is_err() && VmAction::of_schedule("resched").is_err());
}

#[test]
fn what_can_be_scheduled_is_what_schedules_accept() {
    let known: BTreeSet<&str> = schedule::ACTIONS.into_iter().collect();
    let schedulable = ACTIONS.iter().filter(|action| action.is_schedulable).map(|action| action.word);
    assert_eq!(schedulable.collect::<BTreeSet<&str>>(), known);
}

#[test]
fn numbers_of_actions_are_unique_and_those_of_old_records() {
    for (number, word) in [(1, "migrate"), (9, "stop"), (19, "poweroff"), (37, "snapshot-create"), (60, "restore")] {
        assert_eq!(number::word(number), Some(word));
    }
    for free in [3, 4, 12, -1, 61] {
        assert_eq!(number::word(free), None);
    }
}

#[test]
fn rights_for_operations_come_from_the_user_the_group_the_daemon_or_the_defaults() {
    let parse = |admin, manage, use_| OperationLists::parse(admin, manage, use_).unwrap();
    let none = OperationLists::default;
    let rights = VmRights::default();
    for operation in VmOperation::ALL.iter().copied() {
        assert_eq!(rights.right_for(operation), operation.default_right());
        assert_eq!(VmOperation::from_word(operation.word()), Ok(operation));
    }
    let user = parse("", "backup", "");
    let group = parse("resume", "", " Backup , hold,,");
    let daemon = parse("hold,terminate", "terminate, deploy", "resume");
    let rights = VmRights::new(user, [group.clone()], daemon.clone());
    let cases = [
        (VmOperation::Backup, Right::Manage),
        (VmOperation::Hold, Right::Use),
        (VmOperation::Resume, Right::Admin),
        (VmOperation::Terminate, Right::Admin),
        (VmOperation::Deploy, Right::Manage),
        (VmOperation::Recover, Right::Admin),
        (VmOperation::Rename, Right::Manage),
    ];
    for (operation, right) in cases {
        assert_eq!(rights.right_for(operation), right, "{operation}");
    }
    assert_eq!(VmRights::new(none(), [group], daemon).right_for(VmOperation::Backup), Right::Use);
}

#[test]
fn a_users_template_names_some_operations_and_the_stricter_right_wins() {
    let text =
        "VM_USE_OPERATIONS=\"Backup, resume,fly,backup\"\nVM_ADMIN_OPERATIONS=\"resume\"\nVM_MANAGE_OPERATIONS=[A=b]\n";
    let lists = OperationLists::known_in(&Template::parse(text).unwrap());
    assert_eq!(lists.right_for(VmOperation::Backup), Some(Right::Use));
    assert_eq!(lists.right_for(VmOperation::Resume), Some(Right::Admin));
    assert_eq!((lists.right_for(VmOperation::Stop), lists.use_.len()), (None, 2));
    let complete = lists.complete();
    for operation in VmOperation::ALL {
        let within = complete.by_right().into_iter().filter(|(_, list)| list.contains(operation)).count();
        assert_eq!(within, 1, "{operation}");
    }
    assert_eq!(complete.right_for(VmOperation::Resume), Some(Right::Admin));
    assert_eq!(complete.right_for(VmOperation::Stop), Some(Right::Manage));
}

#[test]
fn an_unknown_word_in_an_operation_list_is_named() {
    let refusal = OperationLists::parse("", "hold,fly", "").unwrap_err();
    assert_eq!((refusal.to_string().as_str(), refusal.code()), ("Unknown vm operation: fly", 8192));
    let template = Template::parse("VM_USE_OPERATIONS=\"backup, restore\"\nNAME=x").unwrap();
    let lists = OperationLists::from_template(&template).unwrap();
    assert_eq!(OperationLists::known_in(&template), lists);
    assert_eq!(lists.use_, [VmOperation::Backup, VmOperation::Restore]);
    assert_eq!(lists.right_for(VmOperation::Hold), None);
    let long = "hold,".repeat(10_000);
    assert_eq!(OperationLists::parse(&long, "", "").unwrap().admin, [VmOperation::Hold]);
}

proptest! {
    #[test]
    fn no_sequence_of_events_leaves_the_table(
        start in 0..VmPhase::all().count(),
        events in prop::collection::vec(0..VmEvent::ALL.len(), 0..200),
    ) {
        let mut phase = VmPhase::all().nth(start).unwrap();
        let may_be_init = phase;
        for event in events {
            let event = VmEvent::ALL[event];
            let Ok(after) = next(phase, event) else { continue };
            prop_assert!(phase != VmPhase::DONE || after == VmPhase::DONE, "{:?} brings a VM back", event);
            prop_assert!(VmPhase::all().any(|known| known == after));
            prop_assert_eq!(VmPhase::from_numbers(after.state.number(), after.lcm.number()), Some(after));
            let is_init = after == VmPhase::active(LcmState::LcmInit);
            prop_assert!(!is_init || after == may_be_init);
            phase = after;
        }
        prop_assert!(phase == VmPhase::DONE || next(phase, VmEvent::DeleteDb) == Ok(VmPhase::DONE));
    }
}
