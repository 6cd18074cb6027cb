//! The records of a VM's history: one for each stay on a host between two actions, as OpenNebula keeps them.
//!
//! The last record is the present. An action that ends a stay (poweroff, suspend, stop, undeploy, terminate, migrate) is
//! written into it, and the record is closed when the action is done; what brings the VM back opens the next one. An action
//! that leaves the VM where it is (reboot, backup, resize …) closes the record and opens a copy. So the last record's
//! ACTION tells what lies ready for a VM without a host.

use one_core::lifecycle::{LcmState, VmPhase, VmState, change_in};

use super::action;
use crate::store::rows::{HistoryRow, HostRow};
use crate::store::{StoreError, Tx};

/// Records kept of a VM's history: a year of daily backups and some more. Its document holds all of them.
const HISTORY_MAX: i64 = 400;

/// The system datastore that VMs run from.
const SYSTEM_DATASTORE: i64 = 0;

/// Opens the record of a placement, and closes the one before it.
///
/// # Errors
/// The database's failure.
pub fn place(tx: &mut Tx<'_>, vm_id: i64, host: &HostRow, now: i64) -> Result<(), StoreError> {
    let tm_mad = tx.datastore_find(SYSTEM_DATASTORE)?.map_or_else(|| "qcow2".into(), |datastore| datastore.tm_mad);
    append(
        tx,
        now,
        HistoryRow {
            vm_id,
            seq: 0,
            host_id: host.id,
            hostname: host.name.clone(),
            cluster_id: host.cluster_id,
            vm_mad: host.vm_mad.clone(),
            tm_mad,
            ds_id: SYSTEM_DATASTORE,
            stime: now,
            etime: 0,
            pstime: 0,
            petime: 0,
            rstime: 0,
            retime: 0,
            estime: 0,
            eetime: 0,
            action: action::NONE,
            uid: -1,
            gid: -1,
        },
    )
}

/// Writes into the last record which action ends it, and who asked.
///
/// # Errors
/// The database's failure.
pub fn act(tx: &mut Tx<'_>, vm_id: i64, action: i64, uid: i64, gid: i64) -> Result<(), StoreError> {
    let Some(record) = tx.history_last(vm_id)? else { return Ok(()) };
    tx.history_put(&HistoryRow { action, uid, gid, ..record })
}

/// Opens the record of a VM that goes on where it rested.
///
/// # Errors
/// The database's failure.
pub fn resume(tx: &mut Tx<'_>, vm_id: i64, uid: i64, gid: i64, now: i64) -> Result<(), StoreError> {
    let Some(last) = tx.history_last(vm_id)? else { return Ok(()) };
    append(tx, now, HistoryRow { action: action::RESUME, uid, gid, ..opened(last, now) })
}

/// Closes the current record with the action that ended it and opens a copy (OpenNebula's way for actions that leave the VM
/// where it is). The copy of a VM without a host keeps saying what lies ready for it.
///
/// # Errors
/// The database's failure.
pub fn copy(tx: &mut Tx<'_>, vm_id: i64, action: i64, uid: i64, gid: i64, now: i64) -> Result<(), StoreError> {
    let Some(mut record) = tx.history_last(vm_id)? else { return Ok(()) };
    let running = record.rstime != 0 && record.retime == 0;
    let away = matches!(record.action, action::STOP | action::UNDEPLOY | action::UNDEPLOY_HARD);
    let mut next = HistoryRow { rstime: if running { now } else { 0 }, ..opened(record.clone(), now) };
    if away {
        (next.action, next.uid, next.gid) = (record.action, record.uid, record.gid);
    }
    record.etime = now;
    if running {
        record.retime = now;
    }
    (record.action, record.uid, record.gid) = (action, uid, gid);
    tx.history_put(&record)?;
    append(tx, now, next)
}

/// The last record of another host than the present one: where a migration comes from, and with which action it began.
///
/// # Errors
/// The database's failure.
pub fn of_previous_host(tx: &mut Tx<'_>, vm_id: i64) -> Result<Option<HistoryRow>, StoreError> {
    let mut records = tx.history(vm_id)?;
    let Some(last) = records.pop() else { return Ok(None) };
    Ok(records.into_iter().rev().find(|record| record.host_id != last.host_id))
}

/// Opens a record on the host of `before`, for a migration that is given up.
///
/// # Errors
/// The database's failure.
pub fn go_back(tx: &mut Tx<'_>, before: &HistoryRow, phase: VmPhase, now: i64) -> Result<(), StoreError> {
    let mut record = opened(before.clone(), now);
    if runs(phase) {
        record.rstime = now;
    }
    if rests(phase) {
        // Nobody took it down here: it lies as it was left.
        (record.action, record.uid, record.gid, record.etime) = (before.action, before.uid, before.gid, now);
    }
    append(tx, now, record)
}

/// A record like this one that begins now.
fn opened(record: HistoryRow, now: i64) -> HistoryRow {
    HistoryRow {
        stime: now,
        etime: 0,
        pstime: 0,
        petime: 0,
        rstime: 0,
        retime: 0,
        estime: 0,
        eetime: 0,
        action: action::NONE,
        uid: -1,
        gid: -1,
        ..record
    }
}

/// Adds a record behind the last one, which ends with it. The oldest go when there are too many.
fn append(tx: &mut Tx<'_>, now: i64, record: HistoryRow) -> Result<(), StoreError> {
    let (vm_id, mut seq) = (record.vm_id, 0);
    if let Some(mut last) = tx.history_last(vm_id)? {
        seq = last.seq + 1;
        if last.etime == 0 {
            last.etime = now;
        }
        if last.rstime != 0 && last.retime == 0 {
            last.retime = now;
        }
        tx.history_put(&last)?;
    }
    tx.history_put(&HistoryRow { seq, ..record })?;
    tx.history_trim(vm_id, seq - HISTORY_MAX)
}

/// Keeps the times of the last record when a VM moves from one phase to another.
///
/// # Errors
/// The database's failure.
pub(super) fn stamp(tx: &mut Tx<'_>, vm_id: i64, from: VmPhase, to: VmPhase, now: i64) -> Result<(), StoreError> {
    let Some(mut record) = tx.history_last(vm_id)? else { return Ok(()) };
    if is_prolog(to) {
        record.pstime = now;
        record.petime = 0;
    }
    if is_prolog(from) {
        record.petime = now;
    }
    if runs(to) && !runs(from) {
        record.rstime = now;
        record.retime = 0;
        record.etime = 0;
    }
    if runs(from) && !runs(to) && record.rstime != 0 {
        record.retime = now;
    }
    if is_epilog(to) {
        record.estime = now;
        record.eetime = 0;
    }
    if is_epilog(from) {
        record.eetime = now;
    }
    // A way down that led nowhere, or somebody who started the guest behind our back: nothing ends the record.
    if (is_way_down(from) || rests(from)) && to == VmPhase::RUNNING {
        (record.action, record.uid, record.gid) = (action::NONE, -1, -1);
    }
    if rests(to) && (!rests(from) || to.state == VmState::Done) {
        record.etime = now;
    }
    tx.history_put(&record)
}

fn active(phase: VmPhase) -> Option<LcmState> {
    (phase.state == VmState::Active).then_some(phase.lcm)
}

/// Whether the guest runs, whatever is being done to it.
fn runs(phase: VmPhase) -> bool {
    let is_changed = change_in(phase).is_some_and(|(_, back)| back == VmPhase::RUNNING);
    let running = [LcmState::Running, LcmState::Unknown, LcmState::Backup, LcmState::Migrate];
    is_changed || is_way_down(phase) || active(phase).is_some_and(|lcm| running.contains(&lcm))
}

fn is_way_down(phase: VmPhase) -> bool {
    use LcmState as L;
    let down = [L::Shutdown, L::ShutdownPoweroff, L::ShutdownUndeploy, L::SaveStop, L::SaveSuspend, L::SaveMigrate];
    active(phase).is_some_and(|lcm| down.contains(&lcm))
}

fn is_prolog(phase: VmPhase) -> bool {
    use LcmState as L;
    let all = [
        L::Prolog,
        L::PrologResume,
        L::PrologUndeploy,
        L::PrologMigrate,
        L::PrologMigratePoweroff,
        L::PrologMigrateSuspend,
        L::PrologMigrateUnknown,
    ];
    active(phase).is_some_and(|lcm| all.contains(&lcm))
}

fn is_epilog(phase: VmPhase) -> bool {
    let all = [LcmState::Epilog, LcmState::EpilogStop, LcmState::EpilogUndeploy];
    active(phase).is_some_and(|lcm| all.contains(&lcm))
}

/// Whether the VM's stay is over until somebody brings it back.
fn rests(phase: VmPhase) -> bool {
    use VmState as S;
    matches!(phase.state, S::Pending | S::Stopped | S::Suspended | S::Done | S::Poweroff | S::Undeployed)
}
