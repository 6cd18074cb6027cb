//! The state machines over the full product of their inputs, compared with golden files.
//! `UPDATE_GOLDEN=1 cargo test -p one-core --test lifecycle` rewrites the files.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use one_core::lifecycle::{
    DatastoreType, HostState, ImageState, ImageType, JobEvent, JobPhase, LcmState, Recovery, Seen, VmEvent, VmPhase,
    VmState, job_next, next, recover,
};

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
            match next(phase, event) {
                Ok(after) if after == phase => {
                    writeln!(text, "  {:18} stays", event.action()).unwrap();
                }
                Ok(after) => writeln!(text, "  {:18} {}", event.action(), label(after)).unwrap(),
                Err(refusal) => {
                    assert!(refusal.to_string().contains(phase.name()), "{refusal}");
                    refused.push(event.action());
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

fn all_seen() -> impl Iterator<Item = Seen> {
    (0..64_u8).map(|bits| Seen {
        sealed: bits & 32 != 0,
        session: bits & 16 != 0,
        checkpoint: bits & 8 != 0,
        vm_running: bits & 4 != 0,
        cancel: bits & 2 != 0,
        attempts_left: bits & 1 != 0,
    })
}

#[test]
fn recovery_decides_as_its_table_says() {
    let mut text = String::from("phase      sealed session checkpoint running cancel attempts  recovery\n");
    for phase in JobPhase::ALL {
        for seen in all_seen() {
            let bit = |set: bool| if set { "yes" } else { "-" };
            let Seen { sealed, session, checkpoint, vm_running, cancel, attempts_left } = seen;
            let recovery = recover(phase, seen);
            writeln!(
                text,
                "{:10} {:6} {:7} {:10} {:7} {:6} {:8}  {recovery:?}",
                phase.as_str(),
                bit(sealed),
                bit(session),
                bit(checkpoint),
                bit(vm_running),
                bit(cancel),
                bit(attempts_left)
            )
            .unwrap();
        }
    }
    assert_golden("recover.txt", &text);
}

#[test]
fn every_recovery_is_a_step_that_the_job_machine_allows() {
    for phase in JobPhase::ALL.into_iter().filter(|phase| phase.is_open()) {
        for seen in all_seen() {
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
        assert!(all_seen().all(|seen| recover(phase, seen) == Recovery::Resume));
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
