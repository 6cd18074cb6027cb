//! Virtual machines.

use std::collections::HashMap;

use one_core::access::Permissions;
use one_core::backup::config::{self, BACKUP_EVENT, BACKUP_INFO, LAST_SUCCESS, SHOWN_ONLY};
use one_core::doc::{HistoryView, VmView};
use one_core::lifecycle::{DiskSnapshots, VmState};
use one_core::schedule::ScheduledAction;
use one_core::template::Template;

use super::{Names, lock, number, shown};
use crate::devices;
use crate::events::{self, Whose};
use crate::ledger;
use crate::progress::{Board, Subject};
use crate::store::rows::{HistoryRow, VmRow};
use crate::store::{StoreError, Tx};

/// Events in a VM's document.
const EVENTS_SHOWN: i64 = 10;

/// What other tables say of some VMs, read for all of them at once. Each view takes its own part out.
#[derive(Default)]
pub struct VmRelated {
    histories: HashMap<i64, Vec<HistoryView>>,
    schedules: HashMap<i64, Vec<ScheduledAction>>,
    backup_ids: HashMap<i64, Vec<i64>>,
}

impl VmRelated {
    /// For full views.
    ///
    /// # Errors
    /// The database's failure.
    pub fn of(tx: &mut Tx<'_>, vm_ids: &[i64]) -> Result<Self, StoreError> {
        let mut related = Self::default();
        for row in tx.histories(vm_ids)? {
            related.histories.entry(row.vm_id).or_default().push(history(row));
        }
        for row in tx.schedules_of_vms(vm_ids)? {
            let Some(vm_id) = row.vm_id else { continue };
            related.schedules.entry(vm_id).or_default().extend(ledger::read_schedule(&row));
        }
        for (vm_id, image_id) in tx.backup_ids_of_vms(vm_ids)? {
            related.backup_ids.entry(vm_id).or_default().push(image_id);
        }
        Ok(related)
    }

    /// For short views: with the last history record only.
    ///
    /// # Errors
    /// The database's failure.
    pub fn last_of(tx: &mut Tx<'_>, vm_ids: &[i64]) -> Result<Self, StoreError> {
        let rows = tx.histories_last(vm_ids)?;
        Ok(Self { histories: rows.into_iter().map(|row| (row.vm_id, vec![history(row)])).collect(), ..Self::default() })
    }
}

/// The full view of one VM.
///
/// # Errors
/// The database's failure.
pub fn vm(tx: &mut Tx<'_>, names: &Names, board: &Board, row: &VmRow) -> Result<VmView, StoreError> {
    Ok(vm_with(names, board, row, &mut VmRelated::of(tx, &[row.id])?))
}

/// The full view of one VM, and what was last done to it. Only for who asks for this VM: not for pools, and not for what is
/// stored with a backup.
///
/// # Errors
/// The database's failure.
pub fn vm_told(tx: &mut Tx<'_>, names: &Names, board: &Board, row: &VmRow) -> Result<VmView, StoreError> {
    let mut view = vm(tx, names, board, row)?;
    if let Some(time) = events::last_success(tx, row.id)? {
        let mut info = view.user_template.vector(BACKUP_INFO).cloned().unwrap_or_default();
        info.set(LAST_SUCCESS, time.to_string());
        view.user_template.set_vector(BACKUP_INFO, info);
    }
    for event in events::vectors(tx, Whose::Vm(row.id), EVENTS_SHOWN)? {
        view.user_template.push_vector(BACKUP_EVENT, event);
    }
    Ok(view)
}

/// The full view of one of many VMs.
#[must_use]
pub fn vm_with(names: &Names, board: &Board, row: &VmRow, related: &mut VmRelated) -> VmView {
    let mut view = vm_short_with(names, board, row, related);
    view.sched_actions = related.schedules.remove(&row.id).unwrap_or_default();
    view.backup_ids = related.backup_ids.remove(&row.id).unwrap_or_default();
    let (shown, info) = config::split(&ledger::config_vector(row));
    view.backup_config = shown;
    if !info.is_empty() {
        view.user_template.set_vector(BACKUP_INFO, info);
    }
    view
}

/// The short view of one of many VMs.
#[must_use]
pub fn vm_short_with(names: &Names, board: &Board, row: &VmRow, related: &mut VmRelated) -> VmView {
    let mut view = vm_plain(names, board, row);
    view.history = related.histories.remove(&row.id).unwrap_or_default();
    view
}

fn vm_plain(names: &Names, board: &Board, row: &VmRow) -> VmView {
    let mut user_template = shown(&row.user_template);
    for name in SHOWN_ONLY {
        user_template.remove(name);
    }
    board.put_into(&mut user_template, Subject::Vm(row.id));
    // What was measured before it left its host says nothing about it now.
    let on_host = VmState::from_number(row.state) == Some(VmState::Active);
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
        monitoring: if on_host { ledger::stored(&row.monitoring) } else { Template::default() },
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

fn history(row: HistoryRow) -> HistoryView {
    HistoryView {
        seq: row.seq,
        hostname: row.hostname,
        hid: row.host_id,
        cid: row.cluster_id,
        stime: row.stime,
        etime: row.etime,
        vm_mad: row.vm_mad,
        tm_mad: row.tm_mad,
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
