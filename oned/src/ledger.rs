//! What api and engine both write: a VM's state with its history, its backup configuration, an image's way out.
//!
//! Every change of a VM's state goes through [`vm_step`], which asks `one_core::lifecycle`; nothing else writes those
//! columns. What its history records say about it is in [`history`].

mod backup_end;
mod backup_job_run;
mod history;
mod schedule_retry;

use std::collections::HashMap;
use std::path::PathBuf;

use chrono::TimeZone;
use one_core::backup::BackupConfig;
use one_core::lifecycle::{ImageState, LcmState, VmEvent, VmPhase, VmState, next};
use one_core::refusal::Refusal;
use one_core::schedule::ScheduledAction;
use one_core::template::{Template, Vector};

use crate::job::{self, DeletePlan, JobKind, JobSubject};
use crate::quota;
use crate::store::rows::{DatastoreRow, HistoryRow, HostRow, ImageRow, IncrementRow, ScheduleRow, VmRow};
use crate::store::{JobFilter, Release, RunList, StoreError, Tx};

pub use backup_end::{BackupEnd, EndedBackup, backup_ended};
pub use backup_job_run::{run_failed, run_settled};
pub use history::{
    act as history_act, copy as history_action, of_previous_host, place as history_place, resume as history_resume,
};
pub use schedule_retry::plan as schedule_times;

/// TYPE on the wire of an image datastore.
pub const IMAGE_DS: i64 = 0;
/// TYPE on the wire of a system datastore.
pub const SYSTEM_DS: i64 = 1;
/// TYPE on the wire of a files datastore.
pub const FILE_DS: i64 = 2;
/// TYPE on the wire of a backup datastore.
pub const BACKUP_DS: i64 = 3;

pub use one_core::lifecycle::actions::number as action;

/// Stored template text as a template; we wrote it ourselves, so it parses. A damaged one shows as empty, aloud.
#[must_use]
pub fn stored(text: &str) -> Template {
    Template::parse(text).unwrap_or_else(|error| {
        tracing::error!(target: "STO", "A stored template does not parse: {error}");
        Template::new()
    })
}

/// The state columns as the core's value. Numbers that are none of ours read as UNKNOWN.
#[must_use]
pub fn phase(row: &VmRow) -> VmPhase {
    phase_of(row.state, row.lcm_state)
}

/// The same from the two columns.
#[must_use]
pub fn phase_of(state: i64, lcm_state: i64) -> VmPhase {
    VmPhase::from_numbers(state, lcm_state).unwrap_or(VmPhase::active(LcmState::Unknown))
}

/// Moves a VM by an event, in the row and in the database; the flag RESCHED follows.
///
/// # Errors
/// The core's refusal when the event does not fit the state; nothing is written then.
pub fn vm_step(tx: &mut Tx<'_>, row: &mut VmRow, event: VmEvent, now: i64) -> Result<(), Refusal> {
    let from = phase(row);
    let to = next(from, event)?;
    let resched = i64::from(event.resched_after(row.resched != 0));
    if to == from && resched == row.resched {
        return Ok(());
    }
    row.resched = resched;
    if to == from {
        quota::save_vm(tx, row)?;
        return Ok(());
    }
    row.prev_state = row.state;
    row.prev_lcm_state = row.lcm_state;
    row.state = to.state.number();
    row.lcm_state = to.lcm.number();
    if to.state == VmState::Done {
        row.etime = now;
    }
    quota::save_vm(tx, row)?;
    history::stamp(tx, row.id, from, to, now)?;
    // What its state stood in the way of can be tried again.
    tx.schedules_release(Release::Vm(row.id))?;
    tracing::info!(target: "VM", vm = row.id, "VM {}: {} -> {}", row.id, from.name(), to.name());
    Ok(())
}

/// As [`vm_step`] with a driver's answer that it failed: a migration that has not left yet puts the VM back to its host.
///
/// # Errors
/// As [`vm_step`].
pub fn vm_step_failed(tx: &mut Tx<'_>, row: &mut VmRow, event: VmEvent, now: i64) -> Result<(), Refusal> {
    let from = phase(row);
    vm_step(tx, row, event, now)?;
    let leaving = [LcmState::SaveMigrate, LcmState::Migrate].map(VmPhase::active).contains(&from);
    let failed = matches!(event, VmEvent::StopFailed | VmEvent::MigrateFailed);
    if leaving && failed { vm_to_previous_host(tx, row, now) } else { Ok(()) }
}

/// Puts a VM on a host: its record, a new record of its history, the state, and the job. What lies ready for it (saved
/// memory, disks) follows from its last record.
///
/// # Errors
/// The core's refusal when the state does not allow it.
pub fn vm_place(tx: &mut Tx<'_>, row: &mut VmRow, host: &HostRow, uid: i64, now: i64) -> Result<(), Refusal> {
    let event = VmEvent::place(tx.history_last(row.id)?.map(|record| record.action));
    // Asked before the new record is made: a refusal must come from the state, not from what it would look like.
    next(phase(row), event)?;
    row.host_id = Some(host.id);
    row.deploy_id = format!("one-{}", row.id);
    history_place(tx, row.id, host, now)?;
    vm_step(tx, row, event, now)?;
    job::add_for_phase(tx, row, phase(row), false, uid, now)?;
    Ok(())
}

/// Whether a VM in this phase has no host: it waits for one, or will, or is gone.
#[must_use]
pub fn is_away(phase: VmPhase) -> bool {
    matches!(phase.state, VmState::Pending | VmState::Stopped | VmState::Undeployed | VmState::Done)
}

/// Whether what lies ready for a VM is of any use on this host: memory that one kind of hypervisor saved goes on only on its
/// own kind.
#[must_use]
pub fn can_go_on(last: Option<&HistoryRow>, host: &HostRow) -> bool {
    last.is_none_or(|last| last.action != action::STOP || last.vm_mad == host.vm_mad)
}

/// Gives the VM back to the host that it was on before its migration began.
///
/// # Errors
/// The database's failure.
pub fn vm_to_previous_host(tx: &mut Tx<'_>, row: &mut VmRow, now: i64) -> Result<(), Refusal> {
    let Some(before) = of_previous_host(tx, row.id)? else { return Ok(()) };
    row.host_id = Some(before.host_id);
    quota::save_vm(tx, row)?;
    Ok(history::go_back(tx, &before, phase(row), now)?)
}

/// Lets go of everything that a VM held, when it is DONE: images, addresses, scheduled actions, its place in a backup job,
/// and what monitoring kept of it.
///
/// # Errors
/// The database's failure.
pub fn vm_end(tx: &mut Tx<'_>, vm_id: i64) -> Result<(), StoreError> {
    release_images(tx, vm_id)?;
    for schedule in tx.schedules_of_vm(vm_id)? {
        tx.schedule_delete(schedule.id)?;
    }
    tx.samples_remove("VM", vm_id)?;
    let Some(row) = tx.vm_find(vm_id)? else { return Ok(()) };
    match config_of(&row).backup_job_id {
        Some(backup_job_id) => leave_backup_job(tx, backup_job_id, vm_id, row.etime),
        None => Ok(()),
    }
}

/// Takes a VM out of a backup job: out of the lists of its run, and out of the VM's configuration if it is in that job. The
/// VM's next backup starts a new chain.
///
/// # Errors
/// The database's failure.
pub fn leave_backup_job(tx: &mut Tx<'_>, backup_job_id: i64, vm_id: i64, now: i64) -> Result<(), StoreError> {
    if let Some(entry) = tx.backup_job_vm(backup_job_id, vm_id)? {
        tx.backup_job_vm_remove(backup_job_id, vm_id)?;
        if RunList::OPEN.iter().any(|list| entry.is_in(*list)) {
            run_settled(tx, backup_job_id, now)?;
        }
    }
    let Some(mut row) = tx.vm_find(vm_id)? else { return Ok(()) };
    let mut config = config_of(&row);
    if config.backup_job_id == Some(backup_job_id) {
        config.leave_job();
        row.backup_config = config_text(&config);
        tx.vm_update(&row)?;
        // Its own backups are no longer in that job's way.
        tx.schedules_release(Release::Vm(vm_id))?;
    }
    Ok(())
}

/// A date as OpenNebula writes it into ERROR and MESSAGE: `Fri Nov 20 18:11:42 2026`, local time.
#[must_use]
pub fn error_date(now: i64, zone: chrono_tz::Tz) -> String {
    zone.timestamp_opt(now, 0)
        .single()
        .map_or_else(|| now.to_string(), |time| time.format("%a %b %e %H:%M:%S %Y").to_string())
}

/// Sets USER_TEMPLATE/ERROR of a VM, or removes it.
///
/// # Errors
/// The database's failure.
pub fn vm_error(tx: &mut Tx<'_>, row: &mut VmRow, error: Option<(&str, i64, chrono_tz::Tz)>) -> Result<(), StoreError> {
    let mut template = stored(&row.user_template);
    match error {
        Some((text, now, zone)) => template.set("ERROR", format!("{} : {}", error_date(now, zone), flat(text))),
        None if template.contains("ERROR") => drop(template.remove("ERROR")),
        None => return Ok(()),
    }
    row.user_template = template.to_text();
    tx.vm_update(row)
}

/// A text that fits into an attribute: one line, bounded, never ending in the backslash that the grammar cannot hold.
#[must_use]
pub fn flat(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(2000).collect();
    line.replace("]]>", "]] >").trim().trim_end_matches('\\').to_string()
}

/// A VM's BACKUP_CONFIG as it is stored and shown; empty when it has none.
#[must_use]
pub fn config_vector(row: &VmRow) -> Vector {
    stored(&row.backup_config).vector("BACKUP_CONFIG").cloned().unwrap_or_default()
}

/// A VM's backup configuration.
#[must_use]
pub fn config_of(row: &VmRow) -> BackupConfig {
    BackupConfig::from_vector(&config_vector(row))
}

/// A backup configuration as the database keeps it.
#[must_use]
pub fn config_text(config: &BackupConfig) -> String {
    let vector = config.to_vector();
    if vector.is_empty() {
        return String::new();
    }
    let mut template = Template::new();
    template.set_vector("BACKUP_CONFIG", vector);
    template.to_text()
}

/// A scheduled action's row as the core's value; a damaged one is left out, aloud.
#[must_use]
pub fn read_schedule(row: &ScheduleRow) -> Option<ScheduledAction> {
    match serde_json::from_str(&row.body) {
        Ok(action) => Some(action),
        Err(error) => {
            tracing::error!(target: "STO", "Scheduled action {} does not read: {error}", row.id);
            None
        }
    }
}

/// A scheduled action as the database keeps it.
///
/// # Errors
/// An action that cannot be written down.
pub fn schedule_text(action: &ScheduledAction) -> Result<String, StoreError> {
    serde_json::to_string(action)
        .map_err(|e| StoreError::Broken { doing: "writing a scheduled action", reason: e.to_string() })
}

/// How many backups may be written into a datastore at a time (MAX_BACKUPS of its template); none = any number.
#[must_use]
pub fn max_backups(row: &DatastoreRow) -> Option<u32> {
    if row.kind != BACKUP_DS {
        return None;
    }
    // Checked when it was stored.
    stored(&row.template).scalar("MAX_BACKUPS").and_then(|most| most.trim().parse().ok()).filter(|most| *most > 0)
}

/// The same for all datastores that have such a limit, by id.
///
/// # Errors
/// The database's failure.
pub fn backup_limits(tx: &mut Tx<'_>) -> Result<HashMap<i64, u32>, StoreError> {
    Ok(tx.datastore_list()?.iter().filter_map(|row| Some((row.id, max_backups(row)?))).collect())
}

/// Puts an image into DELETE and writes the job that removes its data and then its record.
///
/// # Errors
/// The database's failure.
pub fn image_deletion(tx: &mut Tx<'_>, row: &ImageRow, force: bool, uid: i64, now: i64) -> Result<(), StoreError> {
    // An import or restore still at work on it is told to stop; jobs of one image run one after the other.
    for running in tx.jobs_open(JobFilter::Image(row.id))? {
        tx.job_ask_cancel(running.id)?;
    }
    let plan = deletion_plan(tx, row, force)?;
    let mut row = row.clone();
    row.prev_state = row.state;
    row.state = ImageState::Delete.number();
    tx.image_update(&row)?;
    // The chain that this was is no longer there to be continued.
    if let Some(mut vm) = row.backup_vm_id.map(|id| tx.vm_find(id)).transpose()?.flatten() {
        let mut config = config_of(&vm);
        if config.incremental_backup_id == row.id {
            config.reset_chain();
            vm.backup_config = config_text(&config);
            tx.vm_update(&vm)?;
        }
    }
    let subject = JobSubject::image(row.id, row.datastore_id, uid);
    job::add(tx, JobKind::Delete, subject, &plan, now)?;
    Ok(())
}

fn deletion_plan(tx: &mut Tx<'_>, row: &ImageRow, force: bool) -> Result<DeletePlan, StoreError> {
    let points = tx.increments(row.id)?;
    if let Some(first) = points.first() {
        return Ok(DeletePlan::Points {
            datastore_id: row.datastore_id,
            series: first.series.clone(),
            points: points.iter().map(|point| point.point.clone()).collect(),
            force,
        });
    }
    Ok(if row.source.is_empty() || row.kind == 6 {
        DeletePlan::Record
    } else {
        DeletePlan::File(PathBuf::from(&row.source))
    })
}

/// Releases what a VM used when it ends: its images (READY when nobody else uses them) and its addresses.
///
/// # Errors
/// The database's failure.
pub fn release_images(tx: &mut Tx<'_>, vm_id: i64) -> Result<(), StoreError> {
    crate::devices::return_snapshots(tx, vm_id)?;
    tx.leases_release(vm_id, None)?;
    for image_id in tx.image_use_release(vm_id)? {
        let Some(mut image) = tx.image_find(image_id)? else { continue };
        let used = [ImageState::Used, ImageState::UsedPers].map(|state| state.number());
        if used.contains(&image.state) && tx.image_users(image_id)?.is_empty() {
            image.prev_state = image.state;
            image.state = ImageState::Ready.number();
            tx.image_update(&image)?;
        }
    }
    Ok(())
}

/// Processor (hundredths) and memory (KiB) that a VM's template asks for.
#[must_use]
pub fn vm_size(template: &Template) -> (i64, i64) {
    let cpu = template.scalar("CPU").and_then(|cpu| cpu.parse::<f64>().ok()).unwrap_or(1.0);
    let memory_mb = template.int("MEMORY").unwrap_or(128);
    // Bounded when the VM was made, so the conversions cannot overflow.
    ((cpu.clamp(0.0, 1e6) * 100.0).round() as i64, memory_mb.saturating_mul(1024))
}

/// The form of a restore point's id that users know: its first 8 digits.
#[must_use]
pub fn short_point(point: &str) -> &str {
    point.get(..8).unwrap_or(point)
}

/// The disks that a restore point holds.
#[must_use]
pub fn disk_ids(point: &IncrementRow) -> Vec<i64> {
    point.disks.split(',').filter_map(|disk| disk.trim().parse().ok()).collect()
}
