//! Virtual machines.

use one_core::access::Permissions;
use one_core::doc::{HistoryView, VmView};
use one_core::lifecycle::DiskSnapshots;

use super::{Names, lock, number, shown};
use crate::devices;
use crate::ledger;
use crate::progress::{Board, Subject};
use crate::store::rows::{HistoryRow, VmRow};
use crate::store::{StoreError, Tx};

/// The full VM view.
///
/// # Errors
/// The database's failure.
pub fn vm(tx: &mut Tx<'_>, names: &Names, board: &Board, row: &VmRow) -> Result<VmView, StoreError> {
    let mut view = vm_plain(names, board, row);
    view.sched_actions = tx.schedules_of_vm(row.id)?.iter().filter_map(ledger::read_schedule).collect();
    view.history = tx.history(row.id)?.iter().map(history).collect();
    view.backup_ids = tx.backups_of_vm(row.id)?.iter().map(|image| image.id).collect();
    view.backup_config = ledger::config_vector(row);
    Ok(view)
}

/// The short VM view of pools: with the last history record only.
///
/// # Errors
/// The database's failure.
pub fn vm_short(tx: &mut Tx<'_>, names: &Names, board: &Board, row: &VmRow) -> Result<VmView, StoreError> {
    let mut view = vm_plain(names, board, row);
    view.history = tx.history_last(row.id)?.iter().map(history).collect();
    Ok(view)
}

fn vm_plain(names: &Names, board: &Board, row: &VmRow) -> VmView {
    let mut user_template = shown(&row.user_template);
    if let Some(progress) = board.vector(Subject::Vm(row.id)) {
        user_template.set_vector("PROGRESS", progress);
    }
    VmView {
        id: row.id,
        owner: names.owner(row.uid, row.gid),
        name: row.name.clone(),
        permissions: Permissions::from_i64(row.permissions),
        lock: lock(&row.lock),
        last_poll: row.last_poll,
        state: number(row.state),
        lcm_state: number(row.lcm_state),
        prev_state: number(row.prev_state),
        prev_lcm_state: number(row.prev_lcm_state),
        resched: row.resched != 0,
        stime: row.stime,
        etime: row.etime,
        deploy_id: row.deploy_id.clone(),
        template: shown(&row.template),
        snapshots: devices::snapshots(row)
            .iter()
            .filter(|list| !list.snapshots().is_empty())
            .map(DiskSnapshots::view)
            .collect(),
        user_template,
        ..VmView::default()
    }
}

fn history(row: &HistoryRow) -> HistoryView {
    HistoryView {
        seq: row.seq,
        hostname: row.hostname.clone(),
        hid: row.host_id,
        cid: row.cluster_id,
        stime: row.stime,
        etime: row.etime,
        vm_mad: row.vm_mad.clone(),
        tm_mad: row.tm_mad.clone(),
        ds_id: row.ds_id,
        pstime: row.pstime,
        petime: row.petime,
        rstime: row.rstime,
        retime: row.retime,
        estime: row.estime,
        eetime: row.eetime,
        action: number(row.action),
        uid: row.uid,
        gid: row.gid,
        ..HistoryView::default()
    }
}
