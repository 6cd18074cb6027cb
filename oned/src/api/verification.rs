//! `one.image.verify`: asks for a look whether a backup can be given back. The looking is a job; what it saw is shown in the
//! image's document.

use one_core::access::Caller;
use one_core::lifecycle::ImageState;
use one_core::refusal::{Refusal, Right};

use super::backup_path::not_ready;
use super::image::BACKUP;
use super::{Cloud, image_for, view};
use crate::job::{self, JobKind, JobSubject, VerifyPlan};
use crate::store::rows::{ImageRow, JobRow};
use crate::store::{JobFilter, Tx};

/// `one.image.verify`: looks at the restore points of a backup, or at one (−1 all): at structure and presence, or with
/// `deep` at every byte. Returns the image's id; the image stays usable.
///
/// # Errors
/// Not authorised (MANAGE); no backup; not READY; an unknown increment; a verification that is not at its end.
pub fn verify(cloud: &Cloud, caller: &Caller, id: i64, deep: bool, increment: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        let mut row = backup_for(tx, caller, id)?;
        if row.state != ImageState::Ready.number() {
            return Err(not_ready(id));
        }
        if open_verification(tx, id)?.is_some() {
            return Err(Refusal::Action(format!(
                "Image {id} is being verified already; wait for the end, or end it with one.image.verifycancel."
            )));
        }
        let points = tx.increments(id)?;
        let Some(first) = points.first() else {
            return Err(Refusal::Action(format!("Backup image {id} holds no restore points.")));
        };
        let known: Vec<i64> = points.iter().map(|point| point.increment_id).collect();
        let increments: Vec<i64> = known.iter().copied().filter(|at| increment == -1 || *at == increment).collect();
        if increments.is_empty() {
            let known: Vec<String> = known.iter().map(i64::to_string).collect();
            return Err(Refusal::Action(format!("Wrong increment; this backup holds: {}", known.join(", "))));
        }
        let plan = VerifyPlan { datastore_id: row.datastore_id, series: first.series.clone(), increments, deep };
        // An ERROR that comes now is that of this verification.
        let mut template = view::stored(&row.template);
        if template.contains("ERROR") {
            template.remove("ERROR");
            row.template = template.to_text();
            tx.image_update(&row)?;
        }
        let subject = JobSubject::image(id, row.datastore_id, caller.uid);
        job::add(tx, JobKind::Verify, subject, &plan, cloud.clock.now())?;
        Ok(())
    })?;
    cloud.wake.ring();
    Ok(id)
}

/// `one.image.verifycancel`: asks a verification to stop; what it saw is forgotten. Returns the image's id.
///
/// # Errors
/// Not authorised (MANAGE); no backup; no verification.
pub fn cancel(cloud: &Cloud, caller: &Caller, id: i64) -> Result<i64, Refusal> {
    cloud.store.write(|tx| {
        backup_for(tx, caller, id)?;
        let Some(job) = open_verification(tx, id)? else {
            return Err(Refusal::Action(format!("Image {id} is not being verified.")));
        };
        tx.job_ask_cancel(job.id)?;
        Ok(())
    })?;
    cloud.wake.ring();
    Ok(id)
}

fn backup_for(tx: &mut Tx<'_>, caller: &Caller, id: i64) -> Result<ImageRow, Refusal> {
    let row = image_for(tx, caller, Right::Manage, id)?;
    if row.kind != BACKUP {
        return Err(Refusal::Action(format!("Image {id} is no backup; only backups can be verified.")));
    }
    Ok(row)
}

fn open_verification(tx: &mut Tx<'_>, id: i64) -> Result<Option<JobRow>, Refusal> {
    let mut jobs = tx.jobs_open(JobFilter::Image(id))?.into_iter();
    Ok(jobs.find(|job| job.kind == JobKind::Verify.as_str()))
}
