//! The copy of a backup: which bytes are asked of the hypervisor, and as what they are handed to the datastore.
//!
//! A run reads what the record of changes lists. It reads whole disks, and stores what differs from the parent, when that
//! record is lost, and now and then to see whether the record tells the truth. Only when nothing can be built upon the
//! parent, everything is stored as a point of its own, in the same chain.

use drivers::datastore::{Change, SourceDisk, StoreRequest, Stored};
use drivers::room::{MAKE_ROOM, Shortage};
use drivers::{BackupSession, Cancel, Content, DriverError, Extent, Kind, Progress};
use one_core::backup::unmarked_warning;

use super::backup::Work;

/// How the disks are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Whole, stored for itself.
    Whole,
    /// What the record of changes lists.
    Changes,
    /// Whole, and compared with the parent; there is no record of changes.
    Compare,
    /// Whole, and compared with the parent and with what the record of changes lists.
    Audit,
}

/// A point that was stored.
pub(super) struct Copied {
    pub(super) stored: Stored,
    /// Why everything was read, or why it is a full one; empty for what needs no reason.
    pub(super) reason: String,
    /// What the comparison found.
    pub(super) warning: Option<String>,
    /// Whether whole disks were read.
    pub(super) whole: bool,
}

/// Opens the session. When what changed is not known any more, whole disks are read, and the second value says why.
pub(super) fn begin(work: &Work<'_>) -> Result<(Box<dyn BackupSession>, Option<String>), DriverError> {
    let asked_since = work.spec.disks.iter().any(|disk| disk.since.is_some());
    match work.hypervisor.begin_backup(&work.spec) {
        Err(error) if error.kind == Kind::Missing && asked_since => {
            let mut spec = work.spec.clone();
            spec.disks.iter_mut().for_each(|disk| disk.since = None);
            let lost = format!("the record of what changed was lost ({error}); everything was read");
            tracing::warn!(target: "VM", vm = work.vm_id(), "VM {}: {lost}", work.vm_id());
            Ok((work.hypervisor.begin_backup(&spec)?, Some(lost)))
        }
        Ok(session) if work.parent().is_some() && !asked_since => Ok((session, Some(work.reason_of_plan()))),
        other => Ok((other?, None)),
    }
}

/// Stores what is asked for; `lost` is why there is no record of changes. When nothing can be built upon the parent,
/// everything is read (once more).
pub(super) fn store(
    work: &Work<'_>,
    session: &mut dyn BackupSession,
    lost: Option<String>,
    time: i64,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Copied, DriverError> {
    let reading = match (work.parent(), &lost) {
        (None, _) => Reading::Whole,
        (Some(_), Some(_)) => Reading::Compare,
        (Some(_), None) if work.compares() => Reading::Audit,
        (Some(_), None) => Reading::Changes,
    };
    let mut attempt = |reading| store_by(work, session, reading, time, progress, cancel);
    match attempt(reading) {
        Err(error) if matches!(error.kind, Kind::Corrupt | Kind::Missing) && reading != Reading::Whole => {
            let reason = match lost {
                Some(lost) => format!("{lost}; {error}"),
                None => format!("{error}; everything was read"),
            };
            Ok(Copied { stored: attempt(Reading::Whole)?, reason, warning: None, whole: true })
        }
        Err(error) => Err(error),
        Ok(mut stored) => {
            if reading != Reading::Audit {
                // Nobody listed anything that it could differ from.
                stored.unmarked_bytes = 0;
            }
            let reason = match reading {
                Reading::Audit => "a regular comparison of whole disks; everything was read".into(),
                _ => lost.unwrap_or_else(|| work.reason_of_plan()),
            };
            let missed = stored.unmarked_bytes;
            let warning = (missed > 0).then(|| unmarked_warning(missed));
            Ok(Copied { stored, reason, warning, whole: reading != Reading::Changes })
        }
    }
}

/// Bytes that hold data; zeros need no room.
fn data_bytes(extents: &[Extent]) -> u64 {
    let data = extents.iter().filter(|extent| extent.content == Content::Data);
    data.fold(0, |sum, extent| sum.saturating_add(extent.length))
}

/// Refuses an increment before a byte of it is stored, when what changed does not fit. Of a full one the whole disks were
/// looked at when it was accepted; how much of a comparison will be stored nobody knows.
fn check_room(work: &Work<'_>, changed_bytes: u64) -> Result<(), DriverError> {
    if changed_bytes == 0 {
        return Ok(());
    }
    let free_bytes = match work.datastore.capacity() {
        Ok(space) if space.total_bytes > 0 => space.free_bytes,
        // One that does not tell its room says itself when it is full.
        _ => return Ok(()),
    };
    let Some(shortage) = Shortage::of(changed_bytes, free_bytes) else { return Ok(()) };
    let datastore = work.plan.decision.datastore_id;
    let doing = format!("storing what changed into datastore {datastore}");
    let reason = format!("not enough free space: {shortage}; {MAKE_ROOM}");
    Err(DriverError::new(Kind::Permanent, doing, reason))
}

fn store_by(
    work: &Work<'_>,
    session: &mut dyn BackupSession,
    reading: Reading,
    time: i64,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Stored, DriverError> {
    let mut disks = Vec::new();
    let mut changed_bytes = 0_u64;
    for disk in &work.plan.disks {
        let mut reader =
            if reading == Reading::Changes { session.disk(disk.id)? } else { session.whole_disk(disk.id)? };
        let marked = if reading == Reading::Audit { Some(session.disk(disk.id)?.extents()?) } else { None };
        if work.checks_room {
            let changed = match (&marked, reading) {
                (Some(marked), _) => data_bytes(marked),
                (None, Reading::Changes) => data_bytes(&reader.extents()?),
                (None, _) => 0,
            };
            changed_bytes = changed_bytes.saturating_add(changed);
        }
        cancel.check()?;
        let change = match reading {
            Reading::Whole => Change::Whole,
            Reading::Changes => Change::SinceParent,
            Reading::Compare | Reading::Audit => Change::Compare,
        };
        disks.push(SourceDisk { id: disk.id, reader, change, marked });
    }
    check_room(work, changed_bytes)?;
    let tags = [format!("one-{}", work.vm_id())];
    let label = work.plan.label(work.job.id);
    let request = StoreRequest {
        series: &work.plan.series,
        tags: &tags,
        job: &label,
        time,
        parent: work.parent().filter(|_| reading != Reading::Whole),
        document: work.plan.document.as_bytes(),
    };
    work.datastore.store(&request, disks, progress, cancel)
}
