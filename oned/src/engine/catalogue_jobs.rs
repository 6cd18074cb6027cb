//! Taking up what a datastore holds and the database does not know: backup images for restore points, after a database was
//! lost or is older than the datastore.
//!
//! One transaction per chain, so a job that was cut off goes on from what the database knows by then; doing it again finds
//! nothing new. Nothing is removed, neither here nor there. What comes out of a datastore is a stranger's word: owners are
//! believed only when id and name fit a user that there is, ids only within bounds.
//!
//! What it must not take up: points of backups that are being made or taken back. Those are known by the names of their
//! jobs, which are read before the datastore is; jobs that remove points do not run beside this one (`has_room`).

use std::collections::HashSet;

use drivers::datastore::PointFacts;
use drivers::{BackupDatastore, Cancel, DriverError, Kind};
use one_core::access::Permissions;
use one_core::backup::{Mode, catalogue};
use one_core::doc::read::{self, VmDocument};
use one_core::lifecycle::ImageState;
use one_core::template::Vector;
use serde::{Deserialize, Serialize};

use super::backup_record::{free_name, saved_column};
use super::image_jobs::mb;
use super::{Engine, Trouble};
use crate::job::{BackupPlan, JobKind};
use crate::ledger::{self, stored};
use crate::quota;
use crate::store::rows::{ImageRow, IncrementRow, JobRow};
use crate::store::{JobFilter, StoreError, Tx};

/// Sentences about what was left out that are kept.
const NOTES_MAX: usize = 20;

/// Longest document of a VM that is kept, bytes.
const DOCUMENT_MAX_BYTES: usize = 16 << 20;

/// The outcome so far; in the job's row.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Tally {
    /// Images that were made.
    images: u64,
    /// Restore points that were taken up.
    points: u64,
    /// Restore points that were known.
    #[serde(default)]
    known: u64,
    /// Restore points and series that were left out.
    #[serde(default)]
    left_out: u64,
    #[serde(default)]
    notes: Vec<String>,
}

impl Tally {
    fn leave_out(&mut self, count: usize, note: String) {
        self.left_out += count as u64;
        self.note(note);
    }

    fn note(&mut self, note: String) {
        tracing::warn!(target: "ONE", "Backups taken up: {note}");
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        }
    }

    /// As the datastore's template shows it: IMAGES, POINTS, KNOWN, LEFT_OUT, NOTES.
    fn vector(&self) -> Vector {
        let mut vector = Vector::new();
        for (name, number) in
            [("IMAGES", self.images), ("POINTS", self.points), ("KNOWN", self.known), ("LEFT_OUT", self.left_out)]
        {
            vector.set(name, number.to_string());
        }
        if !self.notes.is_empty() {
            vector.set("NOTES", ledger::flat(&self.notes.join("; ")));
        }
        vector
    }
}

/// A restore point with what could be read of its VM.
struct Found {
    facts: PointFacts,
    document: String,
    vm: Option<VmDocument>,
    /// Why there is no document.
    warning: String,
}

/// One series of the datastore.
struct Place<'a> {
    datastore_id: i64,
    series: &'a str,
    zone: chrono_tz::Tz,
}

impl Engine {
    /// Makes images of the restore points of the job's datastore that are not known.
    pub(super) fn import_backups(&self, job: &JobRow, cancel: &Cancel) -> Result<(), Trouble> {
        let datastore_id = job.datastore_id.ok_or(StoreError::NotFound { what: "datastore of job", id: job.id })?;
        let datastore = self.backup_datastore(datastore_id)?;
        let mut tally: Tally = serde_json::from_str(&job.result).unwrap_or_default();
        tally = Tally { images: tally.images, points: tally.points, ..Tally::default() };
        for series in datastore.series()? {
            cancel.check()?;
            let place = Place { datastore_id, series: &series, zone: self.cloud.config.timezone };
            match self.import_series(job, datastore.as_ref(), &place, &mut tally, cancel) {
                // The others may be whole.
                Err(Trouble::Driver(error))
                    if matches!(error.kind, Kind::Corrupt | Kind::Missing | Kind::Permanent) =>
                {
                    tally.leave_out(1, format!("series {series} is left out: {error}"));
                }
                other => other?,
            }
        }
        self.end_import(job, datastore_id, "done", tally.vector())?;
        let Tally { images, points, known, left_out, .. } = tally;
        tracing::info!(
            target: "ONE",
            "Datastore {datastore_id}: {images} images with {points} restore points taken up, {known} known, {left_out} left out."
        );
        Ok(())
    }

    fn end_import(&self, job: &JobRow, datastore_id: i64, phase: &str, mut outcome: Vector) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        outcome.set("JOB", job.id.to_string());
        outcome.set("DATE", now.to_string());
        self.cloud.store.write(|tx| {
            if let Some(mut row) = tx.datastore_find(datastore_id)? {
                let mut template = stored(&row.template);
                template.set_vector("IMPORTED_BACKUPS", outcome);
                row.template = template.to_text();
                row.monitored_at = 0;
                tx.datastore_update(&row)?;
            }
            let current = tx.job(job.id)?;
            tx.job_advance(job.id, &current.phase, phase, now, "")
        })?;
        self.cloud.wake.ring();
        Ok(())
    }

    /// Tells in the datastore's template why nothing (more) was taken up.
    pub(super) fn import_backups_failed(&self, job: &JobRow, trouble: &Trouble, asked: bool) -> Result<(), Trouble> {
        let mut outcome = Vector::new();
        outcome.set("ERROR", ledger::flat(&trouble.to_string()));
        self.end_import(job, job.datastore_id.unwrap_or(-1), if asked { "cancelled" } else { "failed" }, outcome)
    }

    fn import_series(
        &self,
        job: &JobRow,
        datastore: &dyn BackupDatastore,
        place: &Place<'_>,
        tally: &mut Tally,
        cancel: &Cancel,
    ) -> Result<(), Trouble> {
        let busy = self.cloud.store.read(|tx| open_labels(tx, place))?;
        let points = datastore.points(place.series)?;
        let known: HashSet<String> = self.cloud.store.write(|tx| {
            keep_ids_free(tx, place.series, &points)?;
            Ok::<_, StoreError>(known(tx, place)?.into_iter().map(|(point, ..)| point).collect())
        })?;
        let (old, new): (Vec<_>, Vec<_>) = points.into_iter().partition(|facts| known.contains(&facts.stored.point));
        tally.known += old.len() as u64;
        let (busy, new): (Vec<_>, Vec<_>) = new.into_iter().partition(|facts| busy.contains(&facts.job));
        if !busy.is_empty() {
            let names: Vec<&str> = busy.iter().map(|facts| facts.job.as_str()).collect();
            let note = format!("series {}: {} are backups under way", place.series, names.join(", "));
            tally.leave_out(busy.len(), note);
        }
        let ids: Vec<(&str, Option<&str>)> =
            new.iter().map(|facts| (facts.stored.point.as_str(), facts.parent.as_deref())).collect();
        for chain in catalogue::chains(&ids) {
            let mut found = Vec::new();
            for facts in chain.iter().filter_map(|at| new.get(*at)) {
                cancel.check()?;
                found.push(look(datastore, place.series, facts, tally)?);
            }
            self.import_chain(job, place, &found, tally)?;
        }
        Ok(())
    }

    /// One chain, in one transaction.
    fn import_chain(&self, job: &JobRow, place: &Place<'_>, chain: &[Found], tally: &mut Tally) -> Result<(), Trouble> {
        self.cloud.store.write(|tx| {
            let known = known(tx, place)?;
            let busy = open_labels(tx, place)?;
            // What became known or began meanwhile: a backup of just now.
            let free = |found: &&Found| {
                let PointFacts { stored, job, .. } = &found.facts;
                !busy.contains(job) && !known.iter().any(|(point, ..)| *point == stored.point)
            };
            let mut chain: Vec<&Found> = chain.iter().filter(free).collect();
            // Only the newest can be one that just was given up.
            if let Some(newest) = chain.last()
                && was_taken_back(tx, place, newest)?
            {
                chain.pop();
            }
            let Some(first) = chain.first() else { return Ok(()) };
            let image_id = match continued(tx, first, &known)? {
                Some(image_id) => image_id,
                None => {
                    tally.images += 1;
                    new_image(tx, place, &chain, tally)?
                }
            };
            append(tx, place, image_id, &chain)?;
            tally.points += chain.len() as u64;
            let mut row = tx.job(job.id)?;
            row.result = serde_json::to_string(tally)
                .map_err(|e| StoreError::Broken { doing: "writing a job's result", reason: e.to_string() })?;
            tx.job_update(&row)
        })?;
        crate::crash::point("catalogue.chain");
        Ok(())
    }
}

/// Names of the backups into this series that are not at their end.
fn open_labels(tx: &mut Tx<'_>, place: &Place<'_>) -> Result<HashSet<String>, StoreError> {
    let jobs = tx.jobs_open(JobFilter::Kind(JobKind::Backup.as_str()))?;
    Ok(jobs.iter().filter_map(|job| label_into(job, place)).collect())
}

/// The name that a backup gives its point, when it goes into this series.
fn label_into(job: &JobRow, place: &Place<'_>) -> Option<String> {
    let plan = crate::job::plan::<BackupPlan>(job).ok()?;
    let here = plan.series == place.series && plan.decision.datastore_id == place.datastore_id;
    here.then(|| plan.label(job.id))
}

/// Whether the backup that made this point was given up since the datastore was read, its point with it.
fn was_taken_back(tx: &mut Tx<'_>, place: &Place<'_>, found: &Found) -> Result<bool, StoreError> {
    let Some(job) = catalogue::job_id(&found.facts.job).map(|id| tx.job_find(id)).transpose()?.flatten() else {
        return Ok(false);
    };
    let given_up = matches!(job.phase.as_str(), "failed" | "cancelled") && job.kind == JobKind::Backup.as_str();
    Ok(given_up && label_into(&job, place).is_some_and(|label| label == found.facts.job))
}

/// The points of the series that the database knows, with image and increment.
fn known(tx: &mut Tx<'_>, place: &Place<'_>) -> Result<Vec<(String, i64, i64)>, StoreError> {
    tx.points_of_series(place.datastore_id, place.series)
}

/// VMs and jobs that come must not get the ids of those whose points lie there: a point is found by the name of its job, so
/// a backup of the same name would be taken for one that is made already. Nor must backup jobs, whose VMs' series are named
/// after them.
fn keep_ids_free(tx: &mut Tx<'_>, series: &str, points: &[PointFacts]) -> Result<(), StoreError> {
    let job = points.iter().filter_map(|facts| catalogue::job_id(&facts.job)).max();
    let vm = points.iter().filter_map(|facts| catalogue::vm_id(series, &facts.tags)).max();
    let backup_job = catalogue::backup_job_id(series).filter(|_| !points.is_empty());
    for (pool, id) in [("job", job), ("vm", vm), ("backup_job", backup_job)] {
        if let Some(id) = id {
            tx.reserve_ids(pool, id + 1)?;
        }
    }
    Ok(())
}

/// Reads what the datastore has of the VM.
fn look(
    datastore: &dyn BackupDatastore,
    series: &str,
    facts: &PointFacts,
    tally: &mut Tally,
) -> Result<Found, DriverError> {
    let point = &facts.stored.point;
    let read = match datastore.document(series, point) {
        Err(error) if matches!(error.kind, Kind::Corrupt | Kind::Missing | Kind::Permanent) => Err(error.to_string()),
        Err(error) => return Err(error),
        Ok(bytes) if bytes.len() > DOCUMENT_MAX_BYTES => Err("it is too long".into()),
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned()),
    };
    let read = read.and_then(|text| match read::vm(&text) {
        Ok(vm) => Ok((text, vm)),
        Err(error) => Err(error.to_string()),
    });
    Ok(match read {
        Ok((document, vm)) => Found { facts: facts.clone(), document, vm: Some(vm), warning: String::new() },
        Err(reason) => {
            let short = ledger::short_point(point);
            tally.note(format!("series {series}: the VM's description in {short} cannot be read: {reason}"));
            let warning = format!("the VM's description cannot be read ({reason}); only its disks can be restored");
            Found { facts: facts.clone(), document: String::new(), vm: None, warning: ledger::flat(&warning) }
        }
    })
}

/// The image that a chain goes on in: its first point is an increment of that image's last one.
fn continued(tx: &mut Tx<'_>, first: &Found, known: &[(String, i64, i64)]) -> Result<Option<i64>, StoreError> {
    let Some(parent) = &first.facts.parent else { return Ok(None) };
    let Some((_, image_id, increment_id)) = known.iter().find(|(point, ..)| point == parent) else { return Ok(None) };
    let is_last = !known.iter().any(|(_, image, increment)| image == image_id && increment > increment_id);
    let row = tx.image(*image_id)?;
    let grows = row.state == ImageState::Ready.number() && row.backup_mode.as_deref() == Some("INCREMENT");
    Ok((is_last && grows).then_some(*image_id))
}

/// Whose the image is to be: (user, group). The administrator's when the VM's owner is not here any more, or somebody else
/// has the owner's id or name by now.
fn owner(tx: &mut Tx<'_>, vm: Option<&VmDocument>) -> Result<(i64, i64), StoreError> {
    let Some((uid, name)) = vm.and_then(|vm| vm.user.as_ref()) else { return Ok((0, 0)) };
    let Some(user) = tx.user_find(*uid)?.filter(|user| user.name == *name) else { return Ok((0, 0)) };
    let Some((gid, name)) = vm.and_then(|vm| vm.group.as_ref()) else { return Ok((user.id, user.gid)) };
    let group = tx.group_find(*gid)?.filter(|group| group.name == *name);
    Ok((user.id, group.map_or(user.gid, |group| group.id)))
}

/// Whether a VM of that id is the one that a chain is of, or none is. In an installation that was set up anew it is another
/// one, whose KEEP_LAST must not reach the old one's backups.
fn is_still_there(tx: &mut Tx<'_>, id: i64, chain: &[&Found]) -> Result<bool, StoreError> {
    let Some(row) = tx.vm_find(id)? else { return Ok(true) };
    let is_its = |found: &&Found| {
        let stime = found.vm.as_ref().and_then(|vm| vm.stime);
        stime.map_or(found.facts.time >= row.stime, |stime| stime == row.stime)
    };
    Ok(chain.iter().all(is_its))
}

fn new_image(tx: &mut Tx<'_>, place: &Place<'_>, chain: &[&Found], tally: &mut Tally) -> Result<i64, StoreError> {
    let vm = chain.iter().find_map(|found| found.vm.as_ref());
    let tags = chain.first().map_or(&[][..], |found| found.facts.tags.as_slice());
    let time = chain.first().map_or(0, |found| found.facts.time);
    let point = chain.first().map_or("", |found| ledger::short_point(&found.facts.stored.point));
    let was = catalogue::vm_id(place.series, tags).or_else(|| vm.and_then(|vm| vm.id));
    let vm_id = was.map(|id| is_still_there(tx, id, chain)).transpose()?.unwrap_or(true).then_some(was).flatten();
    if vm_id != was {
        let id = was.unwrap_or(-1);
        tally.note(format!("series {}: VM {id} is another one by now, {point} is nobody's", place.series));
    }
    let (uid, gid) = owner(tx, vm)?;
    let mode = vm.and_then(|vm| vm.backup_config.get("MODE"));
    let is_chain = chain.len() > 1 || mode == Some(Mode::Increment.as_str());
    let id = tx.next_id("image")?;
    let row = ImageRow {
        id,
        uid,
        gid,
        name: free_name(tx, uid, was.unwrap_or(-1), time, place.zone)?,
        permissions: Permissions::BACKUP.to_i64(),
        kind: 6,
        disk_type: 0,
        persistent: 1,
        regtime: time,
        modtime: time,
        source: point.to_owned(),
        path: String::new(),
        format: "raw".into(),
        fs: String::new(),
        // Grows with its points.
        size_mb: 0,
        state: ImageState::Ready.number(),
        prev_state: ImageState::Init.number(),
        datastore_id: place.datastore_id,
        backup_vm_id: vm_id,
        snapshots: String::new(),
        lock: String::new(),
        backup_mode: Some(if is_chain { "INCREMENT" } else { "FULL" }.into()),
        template: String::new(),
    };
    quota::save_image(tx, &row)?;
    Ok(id)
}

/// Adds points to the end of an image.
fn append(tx: &mut Tx<'_>, place: &Place<'_>, image_id: i64, chain: &[&Found]) -> Result<(), StoreError> {
    let mut image = tx.image(image_id)?;
    let last = tx.increments(image_id)?.pop();
    let (mut parent_id, mut age) = last.map_or((-1, -1), |row| (row.increment_id, row.compare_age));
    for found in chain {
        let PointFacts { stored, time, parent, .. } = &found.facts;
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let disks: Vec<String> = stored.disks.iter().map(|disk| disk.id.to_string()).collect();
        age = if parent.is_none() { 0 } else { age.saturating_add(1) };
        tx.increment_append(&IncrementRow {
            image_id,
            increment_id: parent_id + 1,
            parent_id,
            kind: if parent_id < 0 { "FULL" } else { "INCREMENT" }.into(),
            date: *time,
            size_mb: mb(stored.stored_bytes),
            series: place.series.to_owned(),
            point: stored.point.clone(),
            checkpoint: String::new(),
            read_bytes: bytes(stored.read_bytes),
            stored_bytes: bytes(stored.stored_bytes),
            duration_s: 0,
            reason: String::new(),
            warning: found.warning.clone(),
            disks: disks.join(","),
            document: found.document.clone(),
            compare_age: age,
            unmarked_bytes: 0,
            verified_at: 0,
            verify_depth: String::new(),
            verify_result: String::new(),
            saved_bytes: saved_column(stored.saved_bytes),
            schedule_id: None,
        })?;
        parent_id += 1;
        image.size_mb = image.size_mb.saturating_add(mb(stored.stored_bytes));
        image.modtime = *time;
    }
    quota::save_image(tx, &image)?;
    Ok(())
}
