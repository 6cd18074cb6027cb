//! The statements that are more than fetching a row by its id.

use std::ops::ControlFlow;

use diesel::connection::DefaultLoadingMode;
use diesel::dsl::max;
use diesel::prelude::*;
use diesel::sqlite::Sqlite;

use super::rows::*;
use super::schema::{counter, history, host, image, image_use, increment, job, job_event, vm, vm_template};
use super::{StoreError, Tx};

/// Phases in which a job is over.
pub(super) const CLOSED: [&str; 3] = ["done", "failed", "cancelled"];

/// A job's story keeps this many lines at most; it can grow only by retries.
const JOB_EVENTS_MAX: i64 = 200;

/// The columns that say who may see an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Queryable)]
pub struct Head {
    /// Its id.
    pub id: i64,
    /// Its owner.
    pub uid: i64,
    /// Its group.
    pub gid: i64,
    /// Its permission bits.
    pub permissions: i64,
}

/// Which VMs to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct VmFilter {
    /// Only this STATE.
    pub state: Option<i64>,
    /// Also VMs in DONE.
    pub with_done: bool,
    /// Only VMs of this host.
    pub host_id: Option<i64>,
    /// Only ids from here on.
    pub first_id: Option<i64>,
    /// Only ids up to here.
    pub last_id: Option<i64>,
}

/// Which open jobs to list.
#[derive(Debug, Clone, Copy)]
pub enum JobFilter {
    /// All of them.
    All,
    /// Those of one VM.
    Vm(i64),
    /// Those of one image.
    Image(i64),
    /// Those of one kind, by the word in the column.
    Kind(&'static str),
}

impl VmFilter {
    fn query(self) -> vm::BoxedQuery<'static, Sqlite> {
        let mut query = vm::table.order(vm::id.asc()).into_boxed();
        if let Some(state) = self.state {
            query = query.filter(vm::state.eq(state));
        } else if !self.with_done {
            query = query.filter(vm::state.ne(6));
        }
        if let Some(host_id) = self.host_id {
            query = query.filter(vm::host_id.eq(host_id));
        }
        if let Some(id) = self.first_id {
            query = query.filter(vm::id.ge(id));
        }
        if let Some(id) = self.last_id {
            query = query.filter(vm::id.le(id));
        }
        query
    }
}

type IncrementHead = (i64, i64, i64, String, i64, i64, String, String, String);
type IncrementFacts = (i64, i64, i64, i64, String, String, String);
type IncrementChecks = (i64, i64, i64, String, String, Option<i64>);

fn increment_row((head, facts, checks): (IncrementHead, IncrementFacts, IncrementChecks)) -> IncrementRow {
    let (image_id, increment_id, parent_id, kind, date, size_mb, series, point, checkpoint) = head;
    let (read_bytes, stored_bytes, saved_bytes, duration_s, reason, warning, disks) = facts;
    let (compare_age, unmarked_bytes, verified_at, verify_depth, verify_result, schedule_id) = checks;
    IncrementRow {
        image_id,
        increment_id,
        parent_id,
        kind,
        date,
        size_mb,
        series,
        point,
        checkpoint,
        read_bytes,
        stored_bytes,
        duration_s,
        reason,
        warning,
        disks,
        document: String::new(),
        compare_age,
        unmarked_bytes,
        verified_at,
        verify_depth,
        verify_result,
        schedule_id,
        saved_bytes,
    }
}

/// Who looks at heads: breaks when he has seen enough.
pub type See<'a> = dyn FnMut(Head) -> ControlFlow<()> + 'a;

fn show(heads: impl Iterator<Item = QueryResult<Head>>, see: &mut See<'_>) -> Result<(), StoreError> {
    for head in heads {
        if see(head?).is_break() {
            break;
        }
    }
    Ok(())
}

impl Tx<'_> {
    /// The next unused id of a pool; never given twice.
    ///
    /// # Errors
    /// The database's failure.
    pub fn next_id(&mut self, pool: &str) -> Result<i64, StoreError> {
        self.next_ids(pool, 1)
    }

    /// The first of `count` unused ids in a row.
    ///
    /// # Errors
    /// The database's failure.
    pub fn next_ids(&mut self, pool: &str, count: i64) -> Result<i64, StoreError> {
        let id = counter::table.find(pool).select(counter::next_id).get_result::<i64>(self.0).optional()?.unwrap_or(0);
        diesel::replace_into(counter::table)
            .values((counter::name.eq(pool), counter::next_id.eq(id + count)))
            .execute(self.0)?;
        Ok(id)
    }

    /// Raises a pool's next id to `at_least` (the pool of ordinary datastores starts at 100).
    ///
    /// # Errors
    /// The database's failure.
    pub fn reserve_ids(&mut self, pool: &str, at_least: i64) -> Result<(), StoreError> {
        let id = self.next_ids(pool, 0)?;
        if id < at_least {
            self.next_ids(pool, at_least - id)?;
        }
        Ok(())
    }

    /// The host of that name.
    ///
    /// # Errors
    /// The database's failure.
    pub fn host_by_name(&mut self, name: &str) -> Result<Option<HostRow>, StoreError> {
        Ok(host::table.filter(host::name.eq(name)).select(HostRow::as_select()).get_result(self.0).optional()?)
    }

    /// The image that `uid` has under that name.
    ///
    /// # Errors
    /// The database's failure.
    pub fn image_by_name(&mut self, uid: i64, name: &str) -> Result<Option<ImageRow>, StoreError> {
        Ok(image::table
            .filter(image::uid.eq(uid).and(image::name.eq(name)))
            .select(ImageRow::as_select())
            .get_result(self.0)
            .optional()?)
    }

    /// Ids of the images of a datastore, ascending.
    ///
    /// # Errors
    /// The database's failure.
    pub fn image_ids_in_datastore(&mut self, datastore_id: i64) -> Result<Vec<i64>, StoreError> {
        Ok(image::table
            .filter(image::datastore_id.eq(datastore_id))
            .order(image::id.asc())
            .select(image::id)
            .load(self.0)?)
    }

    /// The backup images of a VM, by id.
    ///
    /// # Errors
    /// The database's failure.
    pub fn backups_of_vm(&mut self, vm_id: i64) -> Result<Vec<ImageRow>, StoreError> {
        Ok(image::table
            .filter(image::backup_vm_id.eq(vm_id))
            .order(image::id.asc())
            .select(ImageRow::as_select())
            .load(self.0)?)
    }

    /// The backup images of some VMs, by image: (VM, image).
    ///
    /// # Errors
    /// The database's failure.
    pub fn backup_ids_of_vms(&mut self, vm_ids: &[i64]) -> Result<Vec<(i64, i64)>, StoreError> {
        let columns = (image::backup_vm_id.assume_not_null(), image::id);
        if let [vm_id] = vm_ids {
            let of_one = image::table.filter(image::backup_vm_id.eq(vm_id));
            return Ok(of_one.order(image::id.asc()).select(columns).load(self.0)?);
        }
        let vm_ids: Vec<Option<i64>> = vm_ids.iter().map(|id| Some(*id)).collect();
        let of_many = image::table.filter(image::backup_vm_id.eq_any(vm_ids));
        Ok(of_many.order(image::id.asc()).select(columns).load(self.0)?)
    }

    /// The VMs that use an image as a disk, ascending.
    ///
    /// # Errors
    /// The database's failure.
    pub fn image_users(&mut self, image_id: i64) -> Result<Vec<i64>, StoreError> {
        Ok(image_use::table
            .filter(image_use::image_id.eq(image_id))
            .order(image_use::vm_id.asc())
            .select(image_use::vm_id)
            .load(self.0)?)
    }

    /// Notes that a VM uses an image.
    ///
    /// # Errors
    /// The database's failure.
    pub fn image_use_add(&mut self, image_id: i64, vm_id: i64) -> Result<(), StoreError> {
        diesel::insert_or_ignore_into(image_use::table)
            .values((image_use::image_id.eq(image_id), image_use::vm_id.eq(vm_id)))
            .execute(self.0)?;
        Ok(())
    }

    /// Notes that a VM uses an image no more; one that it did not use is success.
    ///
    /// # Errors
    /// The database's failure.
    pub fn image_use_remove(&mut self, image_id: i64, vm_id: i64) -> Result<(), StoreError> {
        diesel::delete(image_use::table.find((image_id, vm_id))).execute(self.0)?;
        Ok(())
    }

    /// The images that a VM used, ascending; they are released by this call.
    ///
    /// # Errors
    /// The database's failure.
    pub fn image_use_release(&mut self, vm_id: i64) -> Result<Vec<i64>, StoreError> {
        let images = image_use::table
            .filter(image_use::vm_id.eq(vm_id))
            .order(image_use::image_id.asc())
            .select(image_use::image_id)
            .load(self.0)?;
        diesel::delete(image_use::table.filter(image_use::vm_id.eq(vm_id))).execute(self.0)?;
        Ok(images)
    }

    /// The restore points of a backup image, oldest first.
    ///
    /// # Errors
    /// The database's failure.
    pub fn increments(&mut self, image_id: i64) -> Result<Vec<IncrementRow>, StoreError> {
        Ok(increment::table
            .filter(increment::image_id.eq(image_id))
            .order(increment::increment_id.asc())
            .select(IncrementRow::as_select())
            .load(self.0)?)
    }

    /// The restore points of some backup images: by image, oldest first. `document` is left empty: it is the longest
    /// column by far.
    ///
    /// # Errors
    /// The database's failure.
    pub fn increments_of(&mut self, image_ids: &[i64]) -> Result<Vec<IncrementRow>, StoreError> {
        use increment as of;
        let head = (
            of::image_id,
            of::increment_id,
            of::parent_id,
            of::kind,
            of::date,
            of::size_mb,
            of::series,
            of::point,
            of::checkpoint,
        );
        let facts =
            (of::read_bytes, of::stored_bytes, of::saved_bytes, of::duration_s, of::reason, of::warning, of::disks);
        let checks = (
            of::compare_age,
            of::unmarked_bytes,
            of::verified_at,
            of::verify_depth,
            of::verify_result,
            of::schedule_id,
        );
        let rows = increment::table
            .filter(of::image_id.eq_any(image_ids))
            .order((of::image_id.asc(), of::increment_id.asc()))
            .select((head, facts, checks))
            .load::<(IncrementHead, IncrementFacts, IncrementChecks)>(self.0)?;
        Ok(rows.into_iter().map(increment_row).collect())
    }

    /// The restore points of a datastore that are increment `increment_id` of their image and whose id, as users see it, is
    /// `short_id`; with their documents.
    ///
    /// # Errors
    /// The database's failure.
    pub fn points_by_short_id(
        &mut self,
        datastore_id: i64,
        increment_id: i64,
        short_id: &str,
    ) -> Result<Vec<IncrementRow>, StoreError> {
        // Nothing else is an id, and may mean something in a pattern.
        if short_id.is_empty() || !short_id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Ok(Vec::new());
        }
        let images = image::table.filter(image::datastore_id.eq(datastore_id)).select(image::id);
        let mut points: Vec<IncrementRow> = increment::table
            .filter(increment::image_id.eq_any(images).and(increment::increment_id.eq(increment_id)))
            .filter(increment::point.like(format!("{short_id}%")))
            .order(increment::image_id.asc())
            .select(IncrementRow::as_select())
            .load(self.0)?;
        points.retain(|point| crate::ledger::short_point(&point.point) == short_id);
        Ok(points)
    }

    /// The restore points of a series that backup images of a datastore have: (point, image, increment).
    ///
    /// # Errors
    /// The database's failure.
    pub fn points_of_series(&mut self, datastore_id: i64, series: &str) -> Result<Vec<(String, i64, i64)>, StoreError> {
        let images = image::table.filter(image::datastore_id.eq(datastore_id)).select(image::id);
        Ok(increment::table
            .filter(increment::image_id.eq_any(images).and(increment::series.eq(series)))
            .order((increment::image_id.asc(), increment::increment_id.asc()))
            .select((increment::point, increment::image_id, increment::increment_id))
            .load(self.0)?)
    }

    /// Which VMs use some images as disks, by VM: (image, VM).
    ///
    /// # Errors
    /// The database's failure.
    pub fn users_of_images(&mut self, image_ids: &[i64]) -> Result<Vec<(i64, i64)>, StoreError> {
        Ok(image_use::table
            .filter(image_use::image_id.eq_any(image_ids))
            .order(image_use::vm_id.asc())
            .select((image_use::image_id, image_use::vm_id))
            .load(self.0)?)
    }

    /// Appends a restore point.
    ///
    /// # Errors
    /// The database's failure.
    pub fn increment_append(&mut self, row: &IncrementRow) -> Result<(), StoreError> {
        diesel::insert_into(increment::table).values(row).execute(self.0)?;
        Ok(())
    }

    /// Replaces a restore point's record.
    ///
    /// # Errors
    /// The database's failure.
    pub fn increment_update(&mut self, row: &IncrementRow) -> Result<(), StoreError> {
        diesel::update(increment::table.find((row.image_id, row.increment_id))).set(row).execute(self.0)?;
        Ok(())
    }

    /// Removes a restore point's record.
    ///
    /// # Errors
    /// The database's failure.
    pub fn increment_delete(&mut self, image_id: i64, increment_id: i64) -> Result<(), StoreError> {
        diesel::delete(increment::table.find((image_id, increment_id))).execute(self.0)?;
        Ok(())
    }

    /// The template that `uid` has under that name.
    ///
    /// # Errors
    /// The database's failure.
    pub fn template_by_name(&mut self, uid: i64, name: &str) -> Result<Option<TemplateRow>, StoreError> {
        Ok(vm_template::table
            .filter(vm_template::uid.eq(uid).and(vm_template::name.eq(name)))
            .select(TemplateRow::as_select())
            .get_result(self.0)
            .optional()?)
    }

    /// VMs by id.
    ///
    /// # Errors
    /// The database's failure.
    pub fn vms(&mut self, filter: VmFilter) -> Result<Vec<VmRow>, StoreError> {
        Ok(filter.query().select(VmRow::as_select()).load(self.0)?)
    }

    /// Shows `see` the head of one VM after the other, by id, until it breaks.
    ///
    /// # Errors
    /// The database's failure.
    pub fn vm_heads(&mut self, filter: VmFilter, see: &mut See<'_>) -> Result<(), StoreError> {
        let query = filter.query().select((vm::id, vm::uid, vm::gid, vm::permissions));
        show(query.load_iter::<Head, DefaultLoadingMode>(self.0)?, see)
    }

    /// The VMs of these ids, by id; unknown ones are left out.
    ///
    /// # Errors
    /// The database's failure.
    pub fn vms_of(&mut self, ids: &[i64]) -> Result<Vec<VmRow>, StoreError> {
        Ok(vm::table.filter(vm::id.eq_any(ids)).order(vm::id.asc()).select(VmRow::as_select()).load(self.0)?)
    }

    /// Shows `see` the head of one image after the other, by id, until it breaks.
    ///
    /// # Errors
    /// The database's failure.
    pub fn image_heads(
        &mut self,
        first_id: Option<i64>,
        last_id: Option<i64>,
        see: &mut See<'_>,
    ) -> Result<(), StoreError> {
        let range = image::id.between(first_id.unwrap_or(i64::MIN), last_id.unwrap_or(i64::MAX));
        let columns = (image::id, image::uid, image::gid, image::permissions);
        let query = image::table.filter(range).order(image::id.asc()).select(columns);
        show(query.load_iter::<Head, DefaultLoadingMode>(self.0)?, see)
    }

    /// The images of these ids, by id; unknown ones are left out.
    ///
    /// # Errors
    /// The database's failure.
    pub fn images_of(&mut self, ids: &[i64]) -> Result<Vec<ImageRow>, StoreError> {
        Ok(image::table
            .filter(image::id.eq_any(ids))
            .order(image::id.asc())
            .select(ImageRow::as_select())
            .load(self.0)?)
    }

    /// A VM's history, oldest record first.
    ///
    /// # Errors
    /// The database's failure.
    pub fn history(&mut self, vm_id: i64) -> Result<Vec<HistoryRow>, StoreError> {
        Ok(history::table
            .filter(history::vm_id.eq(vm_id))
            .order(history::seq.asc())
            .select(HistoryRow::as_select())
            .load(self.0)?)
    }

    /// The histories of some VMs: by VM, oldest record first.
    ///
    /// # Errors
    /// The database's failure.
    pub fn histories(&mut self, vm_ids: &[i64]) -> Result<Vec<HistoryRow>, StoreError> {
        // One id has a statement that stays prepared; so in all functions for many.
        if let [vm_id] = vm_ids {
            return self.history(*vm_id);
        }
        Ok(history::table
            .filter(history::vm_id.eq_any(vm_ids))
            .order((history::vm_id.asc(), history::seq.asc()))
            .select(HistoryRow::as_select())
            .load(self.0)?)
    }

    /// The newest history record of each of some VMs, by VM.
    ///
    /// # Errors
    /// The database's failure.
    pub fn histories_last(&mut self, vm_ids: &[i64]) -> Result<Vec<HistoryRow>, StoreError> {
        let of_same = diesel::alias!(history as of_same);
        let newest = of_same
            .filter(of_same.field(history::vm_id).eq(history::vm_id))
            .order(of_same.field(history::seq).desc())
            .select(of_same.field(history::seq))
            .limit(1)
            .single_value();
        Ok(history::table
            .filter(history::vm_id.eq_any(vm_ids))
            .filter(history::seq.nullable().eq(newest))
            .order(history::vm_id.asc())
            .select(HistoryRow::as_select())
            .load(self.0)?)
    }

    /// The newest history record of a VM.
    ///
    /// # Errors
    /// The database's failure.
    pub fn history_last(&mut self, vm_id: i64) -> Result<Option<HistoryRow>, StoreError> {
        Ok(history::table
            .filter(history::vm_id.eq(vm_id))
            .order(history::seq.desc())
            .select(HistoryRow::as_select())
            .first(self.0)
            .optional()?)
    }

    /// Adds or replaces a history record.
    ///
    /// # Errors
    /// The database's failure.
    pub fn history_put(&mut self, row: &HistoryRow) -> Result<(), StoreError> {
        diesel::replace_into(history::table).values(row).execute(self.0)?;
        Ok(())
    }

    /// Removes a VM's history records up to `last_seq`.
    ///
    /// # Errors
    /// The database's failure.
    pub fn history_trim(&mut self, vm_id: i64, last_seq: i64) -> Result<(), StoreError> {
        diesel::delete(history::table.filter(history::vm_id.eq(vm_id).and(history::seq.le(last_seq))))
            .execute(self.0)?;
        Ok(())
    }

    /// Open jobs, oldest first.
    ///
    /// # Errors
    /// The database's failure.
    pub fn jobs_open(&mut self, filter: JobFilter) -> Result<Vec<JobRow>, StoreError> {
        let mut query =
            job::table.filter(job::phase.ne_all(CLOSED)).order(job::id.asc()).select(JobRow::as_select()).into_boxed();
        match filter {
            JobFilter::All => {}
            JobFilter::Vm(id) => query = query.filter(job::vm_id.eq(id)),
            JobFilter::Image(id) => query = query.filter(job::image_id.eq(id)),
            JobFilter::Kind(kind) => query = query.filter(job::kind.eq(kind)),
        }
        Ok(query.load(self.0)?)
    }

    /// Moves a job from one phase to the next; compare-and-set, with a line in its story.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the job was not in phase `from`.
    pub fn job_advance(&mut self, id: i64, from: &str, to: &str, now: i64, text: &str) -> Result<(), StoreError> {
        let changed = diesel::update(job::table.filter(job::id.eq(id).and(job::phase.eq(from))))
            .set((job::phase.eq(to), job::changed_at.eq(now)))
            .execute(self.0)?;
        if changed != 1 {
            return Err(StoreError::Conflict { what: "job", id });
        }
        self.job_note(id, now, to, text)
    }

    /// Adds a line to a job's story; the oldest lines go when there are too many.
    ///
    /// # Errors
    /// The database's failure.
    pub fn job_note(&mut self, id: i64, now: i64, phase: &str, text: &str) -> Result<(), StoreError> {
        let last = job_event::table
            .filter(job_event::job_id.eq(id))
            .select(max(job_event::seq))
            .get_result::<Option<i64>>(self.0)?
            .unwrap_or(-1);
        let row = JobEventRow { job_id: id, seq: last + 1, time: now, phase: phase.into(), text: text.into() };
        diesel::insert_into(job_event::table).values(&row).execute(self.0)?;
        diesel::delete(
            job_event::table.filter(job_event::job_id.eq(id).and(job_event::seq.lt(last + 2 - JOB_EVENTS_MAX))),
        )
        .execute(self.0)?;
        Ok(())
    }

    /// Asks a job to stop. True when it was open.
    ///
    /// # Errors
    /// The database's failure.
    pub fn job_ask_cancel(&mut self, id: i64) -> Result<bool, StoreError> {
        let changed = diesel::update(job::table.filter(job::id.eq(id).and(job::phase.ne_all(CLOSED))))
            .set(job::cancel.eq(1))
            .execute(self.0)?;
        Ok(changed == 1)
    }

    /// Removes closed jobs that ended before `time`, with their stories.
    ///
    /// # Errors
    /// The database's failure.
    pub fn jobs_expire(&mut self, time: i64) -> Result<usize, StoreError> {
        Ok(diesel::delete(job::table.filter(job::phase.eq_any(CLOSED).and(job::changed_at.lt(time))))
            .execute(self.0)?)
    }
}
