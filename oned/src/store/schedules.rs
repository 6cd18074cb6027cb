//! Statements about scheduled actions: whose they are, which are due, and what a dispatcher has to know about those.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable};

use super::rows::*;
use super::schema::{schedule, vm};
use super::{StoreError, Tx};

/// The longest pause of an action that was refused or whose backup failed, seconds. One that seems to rest for longer does
/// so because the clock was put back.
pub const PAUSE_MAX_S: i64 = 3600;

/// Whether a pause until `until` is over: one that is longer than any can be is, since the clock was put back.
#[must_use]
pub fn pause_is_over(until: i64, now: i64) -> bool {
    until <= now || until > now.saturating_add(PAUSE_MAX_S)
}

/// The statement that lets refused actions be tried again soon; a condition follows. Never sooner than 15 s after the last
/// refusal: what is released again and again must not be tried as often. Their pauses begin anew, so releasing twice is as
/// releasing once.
const RELEASE: &str = "UPDATE schedule SET refusals = 1, \
     not_before = not_before - min(3600, 15 << min(refusals - 1, 8)) + 15 WHERE refusals > 1";

/// Tables that say who may what. A change of them may be what a refused action waits for.
const RIGHTS: [&str; 4] = ["user", "user_group", "membership", "acl"];

/// An action that is due, without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Queryable)]
pub struct DueSchedule {
    /// Its id.
    pub id: i64,
    /// Its VM.
    pub vm_id: Option<i64>,
    /// Where its backup goes, −1 = where the chain is; none when it is no backup of a VM.
    pub datastore_id: Option<i64>,
    /// The owner of its VM.
    pub owner: Option<i64>,
    /// The host of its VM.
    pub host_id: Option<i64>,
}

/// A backup that was accepted and has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
pub struct OpenBackup {
    /// The owner of its VM.
    #[diesel(sql_type = BigInt)]
    pub owner: i64,
    /// The host that it reads from.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub host_id: Option<i64>,
    /// Where it goes.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub datastore_id: Option<i64>,
    /// The backup job that has its VM in the list BACKING_UP.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub backup_job_id: Option<i64>,
}

#[derive(QueryableByName)]
struct Turn {
    #[diesel(sql_type = BigInt)]
    owner: i64,
    #[diesel(sql_type = BigInt)]
    job_id: i64,
}

/// Which refused actions may have nothing in their way any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Those of a VM.
    Vm(i64),
    /// Those that go to a datastore, and those that do not say where to.
    Datastore(i64),
    /// All of them.
    All,
}

/// Has the writer's connection release refused actions whenever people or rights change, whatever statement does it.
pub(super) fn watch_rights(writer: &mut SqliteConnection) -> QueryResult<()> {
    let mut sql = String::new();
    for table in RIGHTS {
        for event in ["INSERT", "UPDATE", "DELETE"] {
            sql.push_str(&format!(
                "CREATE TEMP TRIGGER {table}_{event}_releases AFTER {event} ON main.{table} BEGIN {RELEASE}; END;"
            ));
        }
    }
    diesel::connection::SimpleConnection::batch_execute(writer, &sql)
}

impl Tx<'_> {
    /// A VM's scheduled actions, by id.
    ///
    /// # Errors
    /// The database's failure.
    pub fn schedules_of_vm(&mut self, vm_id: i64) -> Result<Vec<ScheduleRow>, StoreError> {
        Ok(schedule::table
            .filter(schedule::vm_id.eq(vm_id))
            .order(schedule::id.asc())
            .select(ScheduleRow::as_select())
            .load(self.0)?)
    }

    /// The scheduled actions of some VMs, by id.
    ///
    /// # Errors
    /// The database's failure.
    pub fn schedules_of_vms(&mut self, vm_ids: &[i64]) -> Result<Vec<ScheduleRow>, StoreError> {
        if let [vm_id] = vm_ids {
            return self.schedules_of_vm(*vm_id);
        }
        Ok(schedule::table
            .filter(schedule::vm_id.eq_any(vm_ids))
            .order(schedule::id.asc())
            .select(ScheduleRow::as_select())
            .load(self.0)?)
    }

    /// A backup job's scheduled actions, by id.
    ///
    /// # Errors
    /// The database's failure.
    pub fn schedules_of_backup_job(&mut self, backup_job_id: i64) -> Result<Vec<ScheduleRow>, StoreError> {
        Ok(schedule::table
            .filter(schedule::backup_job_id.eq(backup_job_id))
            .order(schedule::id.asc())
            .select(ScheduleRow::as_select())
            .load(self.0)?)
    }

    /// Actions that are due, the longest waiting first, without their bodies: those whose time has come and that do not rest
    /// after a refusal, and retries. A rest that is longer than any can be is over: the clock was put back.
    ///
    /// # Errors
    /// The database's failure.
    pub fn schedules_due(&mut self, now: i64) -> Result<Vec<DueSchedule>, StoreError> {
        let no_pause = now.saturating_add(PAUSE_MAX_S);
        let rested = schedule::not_before.le(now).or(schedule::not_before.gt(no_pause));
        Ok(schedule::table
            .left_join(vm::table.on(schedule::vm_id.eq(vm::id.nullable())))
            .filter(schedule::due_at.le(now).or(schedule::retry_at.gt(no_pause)))
            .filter(rested)
            .order((schedule::due_at.asc(), schedule::id.asc()))
            .select((schedule::id, schedule::vm_id, schedule::datastore_id, vm::uid.nullable(), vm::host_id.nullable()))
            .load(self.0)?)
    }

    /// Actions that are due and whose window has closed, the first to close first; also those that rest after a refusal.
    ///
    /// # Errors
    /// The database's failure.
    pub fn schedules_closed(&mut self, now: i64) -> Result<Vec<i64>, StoreError> {
        Ok(schedule::table
            .filter(schedule::closes_at.lt(now).and(schedule::due_at.le(now)))
            // In the order of the index: in that of ids all rows would be read.
            .order(schedule::closes_at.asc())
            .select(schedule::id)
            .load(self.0)?)
    }

    /// Actions whose TIME was planned when the clock showed a later time than `now`, the earliest first: it was put back.
    ///
    /// # Errors
    /// The database's failure.
    pub fn schedules_ahead(&mut self, now: i64) -> Result<Vec<i64>, StoreError> {
        let ahead = schedule::table.filter(schedule::planned_at.gt(now)).order(schedule::planned_at.asc());
        Ok(ahead.select(schedule::id).load(self.0)?)
    }

    /// Lets refused actions be tried again as soon as 15 s have passed since they were refused; see [`Release`].
    ///
    /// # Errors
    /// The database's failure.
    pub fn schedules_release(&mut self, which: Release) -> Result<(), StoreError> {
        let (condition, id) = match which {
            Release::Vm(id) => (" AND vm_id = ?", id),
            Release::Datastore(id) => (" AND (datastore_id IN (?, -1) OR backup_job_id IS NOT NULL)", id),
            Release::All => (" AND ? = 0", 0),
        };
        diesel::sql_query(format!("{RELEASE}{condition}")).bind::<BigInt, _>(id).execute(self.0)?;
        Ok(())
    }

    /// The backups that take slots: accepted and not ended.
    ///
    /// # Errors
    /// The database's failure.
    pub fn backups_open(&mut self) -> Result<Vec<OpenBackup>, StoreError> {
        Ok(diesel::sql_query(
            "SELECT coalesce(vm.uid, -1) AS owner, job.host_id, job.datastore_id, part.backup_job_id
             FROM job LEFT JOIN vm ON vm.id = job.vm_id
             LEFT JOIN backup_job_vm AS part ON part.list = 'BACKING_UP' AND part.vm_id = job.vm_id
             WHERE job.phase NOT IN ('done', 'failed', 'cancelled') AND job.kind = 'BACKUP'
             GROUP BY job.id",
        )
        .load(self.0)?)
    }

    /// The owners of the VMs that were backed up by the newest `jobs` jobs, with the newest of each.
    ///
    /// # Errors
    /// The database's failure.
    pub fn backup_turns(&mut self, jobs: i64) -> Result<Vec<(i64, i64)>, StoreError> {
        let turns: Vec<Turn> = diesel::sql_query(
            "SELECT vm.uid AS owner, max(job.id) AS job_id FROM job CROSS JOIN vm ON vm.id = job.vm_id
             WHERE job.id > (SELECT max(id) FROM job) - ? AND job.kind = 'BACKUP' GROUP BY vm.uid",
        )
        .bind::<BigInt, _>(jobs)
        .load(self.0)?;
        Ok(turns.into_iter().map(|turn| (turn.owner, turn.job_id)).collect())
    }
}
