//! Verifications of backups: long readings of restore points that stay in use meanwhile.
//!
//! How far one is, the driver says in a text of its own; that text is in the job's row, so a verification that was cut off
//! goes on there. It gives way to whatever removes points of other images from its datastore, for that waits for readers, and
//! all series of a datastore may share what they read.
//!
//! Invariants: damage is a result, not a failure of the job; nothing but the increments' rows is changed by it.

use std::collections::HashMap;

use drivers::datastore::{Depth, Verified, VerifyRequest};
use drivers::{BackupDatastore, Cancel, DriverError, Kind, Progress};
use one_core::lifecycle::JobPhase;
use serde::{Deserialize, Serialize};

use super::backup::sweep_if_possible;
use super::{Engine, Running, Trouble, rests};
use crate::job::{self, DeletePlan, JobKind, VerifyPlan};
use crate::ledger;
use crate::progress::Subject;
use crate::store::StoreError;
use crate::store::rows::JobRow;
use crate::verification::{self, Flaw, LISTED_MAX, Seen};

/// How far a verification is.
#[derive(Serialize, Deserialize)]
struct Saved {
    /// The points that the driver was asked about; its text is good for no others.
    points: Vec<String>,
    /// The driver's text.
    cursor: String,
}

/// Whether a job removes restore points from its datastore.
fn removes(job: &JobRow) -> bool {
    match JobKind::parse(&job.kind) {
        Some(JobKind::Delete) => job::plan(job).is_ok_and(|plan| matches!(plan, DeletePlan::Points { .. })),
        Some(JobKind::Retain) => true,
        // Its point may have been published.
        Some(JobKind::Backup) => job.phase == JobPhase::Undoing.as_str(),
        _ => false,
    }
}

/// The verifications that have to give way, out of all open jobs: to removals from their datastore whose turn it is. One
/// that only waits for a verification of its own image must not stop others: two of them could wait for each other for
/// ever. Nor must one that rests until `now` is later.
pub(super) fn giving_way(jobs: &[JobRow], now: i64) -> Vec<i64> {
    let mut images = Vec::new();
    let mut removals = Vec::new();
    for job in jobs {
        let has_turn = job.image_id.is_none_or(|id| !images.contains(&id));
        images.extend(job.image_id);
        if has_turn && !rests(job, now) && removes(job) {
            removals.push((job.datastore_id, job.image_id));
        }
    }
    let is_in_the_way = |job: &&JobRow| {
        let stops = |(datastore_id, image_id): &(Option<i64>, Option<i64>)| {
            *datastore_id == job.datastore_id && (image_id.is_none() || *image_id != job.image_id)
        };
        removals.iter().any(stops)
    };
    let verifications = jobs.iter().filter(|job| job.kind == JobKind::Verify.as_str());
    verifications.filter(is_in_the_way).map(|job| job.id).collect()
}

impl Engine {
    /// Interrupts verifications that have to give way. They go on later where they were.
    pub(super) fn interrupt(&self, running: &HashMap<i64, Running>, giving_way: &[i64]) {
        for job in giving_way.iter().filter_map(|id| running.get(id)) {
            job.cancel.cancel();
        }
    }

    /// Looks at restore points of a backup image.
    pub(super) fn verify(&self, job: &JobRow, cancel: &Cancel) -> Result<(), Trouble> {
        let plan: VerifyPlan = job::plan(job)?;
        let image_id = job.image_id.ok_or(StoreError::NotFound { what: "image of job", id: job.id })?;
        cancel.check()?;
        // KEEP_LAST may have forgotten some since.
        let rows = self.cloud.store.read(|tx| tx.increments(image_id))?;
        let wanted = rows.into_iter().filter(|row| plan.increments.contains(&row.increment_id));
        let points: Vec<String> = wanted.map(|row| row.point).collect();
        let datastore = self.backup_datastore(plan.datastore_id)?;
        let progress = Progress::default();
        let shown = self.cloud.board.show(Subject::Image(image_id), "verify", &progress);
        if job.attempts > 0 {
            // One that was cut off left its lock.
            sweep_if_possible(datastore.as_ref(), &plan.series, &progress);
        }
        let (there, lost) = look_up(datastore.as_ref(), &plan.series, points, cancel)?;
        let verified = self.look(job, &plan, datastore.as_ref(), &there, &progress, cancel)?;
        crate::crash::point("verify.looked");
        drop(shown);
        self.record_verification(job, image_id, &plan, (&there, &lost), &verified)
    }

    fn look(
        &self,
        job: &JobRow,
        plan: &VerifyPlan,
        datastore: &dyn BackupDatastore,
        points: &[String],
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Verified, Trouble> {
        if points.is_empty() {
            return Ok(Verified::default());
        }
        let saved: Option<Saved> = serde_json::from_str(&job.result).ok();
        let saved = saved.filter(|saved| saved.points == points);
        let request = VerifyRequest {
            series: &plan.series,
            points,
            depth: if plan.deep { Depth::Deep } else { Depth::Quick },
            resume: saved.as_ref().map(|saved| saved.cursor.as_str()),
        };
        let mut save = |cursor: &str| self.save_cursor(job.id, points, cursor);
        Ok(datastore.verify(&request, &mut save, progress, cancel)?)
    }

    fn save_cursor(&self, job_id: i64, points: &[String], cursor: &str) -> Result<(), DriverError> {
        let failed = |reason: String| DriverError::new(Kind::Retry, "saving how far the verification is", reason);
        let saved = Saved { points: points.to_vec(), cursor: cursor.to_owned() };
        let text = serde_json::to_string(&saved).map_err(|error| failed(error.to_string()))?;
        let stored: Result<(), StoreError> = self.cloud.store.write(|tx| {
            let mut row = tx.job(job_id)?;
            row.result = text;
            tx.job_update(&row)
        });
        stored.map_err(|error| failed(error.to_string()))?;
        crate::crash::point("verify.saved");
        Ok(())
    }

    /// Writes down what was seen of each point that was looked at (`there`) or was not found (`lost`).
    fn record_verification(
        &self,
        job: &JobRow,
        image_id: i64,
        plan: &VerifyPlan,
        (there, lost): (&[String], &[String]),
        verified: &Verified,
    ) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        let damages = verified.damages.len() + lost.len();
        let text = format!("{} bytes read, {damages} damages", verified.read_bytes);
        self.cloud.store.write(|tx| {
            for mut row in tx.increments(image_id)? {
                let is_lost = lost.contains(&row.point);
                if is_lost || there.contains(&row.point) {
                    let seen = seen_of(job.id, &row.point, is_lost, verified);
                    verification::note(&mut row, plan.deep, now, seen);
                    tx.increment_update(&row)?;
                }
            }
            let current = tx.job(job.id)?;
            tx.job_advance(job.id, &current.phase, "done", now, &text)
        })?;
        if damages > 0 {
            tracing::error!(target: "ONE", "Verification of backup image {image_id} found damage: {text}.");
        } else {
            tracing::info!(target: "ONE", "Backup image {image_id} verified: {text}.");
        }
        self.cloud.wake.ring();
        Ok(())
    }
}

/// Which points the datastore has, and which it does not: the driver would refuse to look at any of them.
fn look_up(
    datastore: &dyn BackupDatastore,
    series: &str,
    points: Vec<String>,
    cancel: &Cancel,
) -> Result<(Vec<String>, Vec<String>), DriverError> {
    let (mut there, mut lost) = (Vec::new(), Vec::new());
    for point in points {
        cancel.check()?;
        match datastore.inspect(series, &point) {
            Err(error) if error.kind == Kind::Missing => lost.push(point),
            // Damage is for the verification to find.
            Err(error) if error.kind != Kind::Corrupt => return Err(error),
            _ => there.push(point),
        }
    }
    Ok((there, lost))
}

fn seen_of(job_id: i64, point: &str, is_lost: bool, verified: &Verified) -> Seen {
    let mut seen = Seen { job: job_id, read_bytes: verified.read_bytes, ..Seen::default() };
    if is_lost {
        let what = "the restore point is not in the datastore".to_owned();
        seen.damages = 1;
        seen.listed.push(Flaw { disk: None, offset: 0, length: 0, what });
    }
    for damage in verified.damages.iter().filter(|damage| damage.points.iter().any(|id| id == point)) {
        seen.damages += 1;
        if seen.listed.len() < LISTED_MAX {
            let what = ledger::flat(&damage.what);
            seen.listed.push(Flaw { disk: damage.disk, offset: damage.offset, length: damage.length, what });
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::RetainPlan;

    fn job<P: Serialize>(id: i64, kind: JobKind, image_id: i64, plan: &P) -> JobRow {
        JobRow {
            id,
            kind: kind.as_str().into(),
            phase: "planned".into(),
            vm_id: None,
            image_id: Some(image_id),
            datastore_id: Some(100),
            host_id: None,
            uid: 0,
            plan: serde_json::to_string(plan).unwrap_or_default(),
            result: String::new(),
            cancel: 0,
            attempts: 0,
            not_before: 0,
            error: String::new(),
            created_at: 0,
            changed_at: 0,
        }
    }

    fn verification(id: i64, image_id: i64, series: &str) -> JobRow {
        let plan = VerifyPlan { datastore_id: 100, series: series.into(), increments: vec![0], deep: true };
        job(id, JobKind::Verify, image_id, &plan)
    }

    fn removal(id: i64, image_id: i64, series: &str) -> JobRow {
        let plan = RetainPlan { datastore_id: 100, series: series.into(), drop: vec![0], points: Vec::new() };
        job(id, JobKind::Retain, image_id, &plan)
    }

    #[test]
    fn a_verification_gives_way_to_removals_from_its_datastore() {
        let elsewhere = JobRow { datastore_id: Some(101), ..verification(4, 7, "7") };
        let jobs = [verification(1, 5, "7"), verification(2, 6, "8"), removal(3, 9, "7"), elsewhere];
        assert_eq!(giving_way(&jobs, 0), [1, 2]);
        let record = job(3, JobKind::Delete, 9, &DeletePlan::Record);
        assert_eq!(giving_way(&[verification(1, 5, "7"), record], 0), [0_i64; 0]);
    }

    #[test]
    fn a_verification_gives_way_to_a_backup_that_is_taken_back() {
        let backup = |phase: &str| JobRow { image_id: None, phase: phase.into(), ..job(2, JobKind::Backup, 0, &()) };
        assert_eq!(giving_way(&[verification(1, 5, "7"), backup("undoing")], 0), [1]);
        assert_eq!(giving_way(&[verification(1, 5, "7"), backup("prepared")], 0), [0_i64; 0]);
    }

    #[test]
    fn a_removal_that_rests_stops_nobody() {
        let removal = JobRow { not_before: 10, ..removal(2, 9, "7") };
        assert_eq!(giving_way(&[verification(1, 5, "7"), removal.clone()], 9), [0_i64; 0]);
        assert_eq!(giving_way(&[verification(1, 5, "7"), removal], 10), [1]);
    }

    #[test]
    fn a_removal_of_the_same_image_waits_its_turn() {
        assert_eq!(giving_way(&[verification(1, 5, "7"), removal(2, 5, "7")], 0), [0_i64; 0]);
    }

    #[test]
    fn two_removals_that_wait_for_verifications_of_their_own_images_stop_neither() {
        let jobs =
            [verification(1, 5, "job_3"), verification(2, 6, "job_3"), removal(3, 5, "job_3"), removal(4, 6, "job_3")];
        assert_eq!(giving_way(&jobs, 0), [0_i64; 0]);
    }
}
