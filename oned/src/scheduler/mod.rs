//! Runs scheduled actions when they are due: a client within the daemon. It asks the api for what a user asked for, with
//! the rights that the VM's owner has at that moment.
//!
//! A round reads what is due without its bodies, lets [`one_core::dispatch`] choose whose turn it is, and starts those, some
//! in each transaction. What waits for a slot costs nothing and records nothing; what is refused rests, and nothing else with
//! it. The start of an action and the mark that it was started are one: a daemon that dies in between starts nothing twice.

pub mod backup_jobs;
mod start;
mod turn;

use std::collections::HashSet;
use std::time::Duration;

use backup_jobs::Member;
use one_core::dispatch::{Limits, Place, Present, Running, Waiting, choose};
use one_core::refusal::Refusal;
use one_core::schedule::ScheduledAction;

use crate::api::Cloud;
use crate::ledger;
use crate::store::rows::ScheduleRow;
use crate::store::{DueSchedule, OpenBackup, StoreError, Tx};

pub use start::Api;

/// Actions that are started in one transaction: clients' calls wait for no longer than these take.
const BATCH: usize = 50;

/// Newest jobs in which to look for who had the last backup. Who is not among them waits for longest.
const TURNS: i64 = 1000;

/// What became of an action whose turn it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was started.
    Started,
    /// No slot is free, or it was changed meanwhile; nothing is recorded.
    Waits,
}

/// How an action is started when its turn has come.
pub trait Starter {
    /// Starts it, within a transaction that also marks it as started.
    ///
    /// # Errors
    /// What stands in its way; nothing of it is kept then but the reason.
    fn start(
        &self,
        cloud: &Cloud,
        tx: &mut Tx<'_>,
        row: &ScheduleRow,
        action: &ScheduledAction,
        now: i64,
    ) -> Result<Outcome, Refusal>;

    /// Lets others write between two transactions: the lock is not fair, and who asks for it again at once has it.
    fn give_way(&self) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Starts everything that is due and has a slot, at most one action of each VM.
pub fn tick(cloud: &Cloud) {
    round(cloud, &Api);
}

/// As [`tick`], with another way to start actions of VMs.
pub fn round(cloud: &Cloud, starter: &impl Starter) {
    let now = cloud.clock.now();
    let done = put_right(cloud, starter, now).and_then(|()| {
        let turns = cloud.store.read(|tx| whose_turn(cloud, tx, now))?;
        take(cloud, starter, &turns, now)
    });
    if let Err(error) = done {
        tracing::error!(target: "SCHED", "{error}");
    }
}

/// Who starts now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// A scheduled action.
    Action(i64),
    /// A VM in a run of a backup job.
    Member(Member),
    /// A scheduled action that was planned when the clock showed a later time.
    Ahead(i64),
    /// A scheduled action whose window has closed.
    Closed(i64),
}

/// Plans anew what was planned by a clock that was put back since, and leaves out what did not start before its window closed.
fn put_right(cloud: &Cloud, starter: &impl Starter, now: i64) -> Result<(), StoreError> {
    let ahead = cloud.store.read(|tx| tx.schedules_ahead(now))?;
    take(cloud, starter, &ahead.into_iter().map(Turn::Ahead).collect::<Vec<_>>(), now)?;
    let closed = cloud.store.read(|tx| tx.schedules_closed(now))?;
    take(cloud, starter, &closed.into_iter().map(Turn::Closed).collect::<Vec<_>>(), now)
}

/// Who starts now, in this order: first what needs no slot, then backups as they are chosen.
fn whose_turn(cloud: &Cloud, tx: &mut Tx<'_>, now: i64) -> Result<Vec<Turn>, StoreError> {
    let mut turns = Vec::new();
    let mut waiting = Vec::new();
    let mut seen = HashSet::new();
    for due in tx.schedules_due(now)? {
        // Those of one VM in the order of their times: one behind a backup that waits for a slot waits too.
        if due.vm_id.is_some_and(|vm| !seen.insert(vm)) {
            continue;
        }
        match place_of(&due) {
            Some(place) => waiting.push((Waiting { place, priority: None, sequence: None }, Turn::Action(due.id))),
            None => turns.push(Turn::Action(due.id)),
        }
    }
    let members = backup_jobs::waiting(tx, now)?.into_iter().filter(|(_, member)| !seen.contains(&member.vm_id));
    waiting.extend(members.map(|(one, member)| (one, Turn::Member(member))));
    if waiting.is_empty() {
        return Ok(turns);
    }
    let limits = Limits {
        cloud: cloud.config.max_backups,
        host: cloud.config.max_backups_host,
        datastore: ledger::backup_limits(tx)?,
    };
    let present = Present {
        running: tx.backups_open()?.into_iter().map(running).collect(),
        turns: tx.backup_turns(TURNS)?.into_iter().collect(),
    };
    let candidates: Vec<Waiting> = waiting.iter().map(|(one, _)| *one).collect();
    let chosen = choose(&candidates, &present, &limits);
    turns.extend(chosen.into_iter().filter_map(|index| waiting.get(index).map(|(_, turn)| *turn)));
    Ok(turns)
}

/// What a VM's backup takes; none for everything else.
fn place_of(due: &DueSchedule) -> Option<Place> {
    let datastore = due.datastore_id?;
    Some(Place { owner: due.owner.unwrap_or(-1), host: due.host_id, datastore: (datastore >= 0).then_some(datastore) })
}

fn running(open: OpenBackup) -> Running {
    let place = Place { owner: open.owner, host: open.host_id, datastore: open.datastore_id };
    Running { place, sequence: open.backup_job_id }
}

fn take(cloud: &Cloud, starter: &impl Starter, turns: &[Turn], now: i64) -> Result<(), StoreError> {
    for (number, batch) in turns.chunks(BATCH).enumerate() {
        if number > 0 {
            starter.give_way();
        }
        let moved = cloud.store.write(|tx| {
            Ok::<_, StoreError>(batch.iter().filter(|one| take_one(cloud, tx, starter, **one, now)).count())
        })?;
        if moved > 0 {
            // The engine has work, or who waits for the slot of one that was refused has.
            cloud.wake.ring();
        }
    }
    Ok(())
}

/// Starts one, whatever became of the others. False when nothing changed.
fn take_one(cloud: &Cloud, tx: &mut Tx<'_>, starter: &impl Starter, one: Turn, now: i64) -> bool {
    let moved = match one {
        Turn::Action(id) => turn::act(cloud, tx, starter, id, now),
        Turn::Ahead(id) => turn::plan_anew(cloud, tx, id, now).map(|()| false),
        Turn::Closed(id) => tx.attempt(|tx| turn::leave_out(cloud, tx, id, now)).map(|()| false),
        Turn::Member(member) => {
            let started = tx.attempt(|tx| backup_jobs::start_member(cloud, tx, &member, now));
            started.map(|()| true).or_else(|refusal| {
                let zone = cloud.config.timezone;
                tx.attempt(|tx| backup_jobs::refused(tx, &member, &refusal, now, zone)).map(|()| false)
            })
        }
    };
    moved.unwrap_or_else(|error| {
        tracing::error!(target: "SCHED", "{one:?} is put off: {error}");
        false
    })
}
