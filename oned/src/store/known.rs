//! What is kept of people between transactions: the names of users and groups, and a number that tells whether anything
//! about people changed.
//!
//! Triggers on the writer's connection count every change of the tables that say who somebody is and what rules give him,
//! whatever statement makes it, so no statement has to remember to tell. Only this process writes the database.
//!
//! Invariants: a change is counted before the call that made it returns, so what was kept under an older number is never
//! used after that; what a transaction takes back was never counted for anybody else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;

use super::schema::{user, user_group};
use super::{StoreError, Tx};

/// Tables from which callers and names are made.
const WATCHED: [&str; 5] = ["user", "user_group", "membership", "login_token", "acl"];

/// The number while it cannot be read: nothing is kept.
const UNKNOWN: i64 = -1;

diesel::table! {
    people_change (count) {
        count -> BigInt,
    }
}

/// The state of people; two equal ones mean that nothing changed between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(i64);

/// Names of users and groups.
#[derive(Debug, Default)]
pub struct PeopleNames {
    users: HashMap<i64, String>,
    groups: HashMap<i64, String>,
}

impl PeopleNames {
    /// The name of a user; empty when he is gone.
    #[must_use]
    pub fn user(&self, uid: i64) -> &str {
        self.users.get(&uid).map_or("", String::as_str)
    }

    /// The name of a group; empty when it is gone.
    #[must_use]
    pub fn group(&self, gid: i64) -> &str {
        self.groups.get(&gid).map_or("", String::as_str)
    }
}

/// The number, and what is kept under it.
pub(super) struct Known {
    generation: AtomicI64,
    names: Mutex<(i64, Arc<PeopleNames>)>,
}

impl Default for Known {
    fn default() -> Self {
        Self { generation: AtomicI64::new(0), names: Mutex::new((UNKNOWN, Arc::default())) }
    }
}

impl Known {
    /// Has the writer's connection count changes.
    pub(super) fn watch(writer: &mut SqliteConnection) -> QueryResult<()> {
        let mut sql = String::from(
            "PRAGMA temp_store = MEMORY;
             CREATE TEMP TABLE people_change (count INTEGER NOT NULL);
             INSERT INTO people_change VALUES (0);",
        );
        for table in WATCHED {
            for event in ["INSERT", "UPDATE", "DELETE"] {
                sql.push_str(&format!(
                    "CREATE TEMP TRIGGER {table}_{event} AFTER {event} ON main.{table}
                     BEGIN UPDATE people_change SET count = count + 1; END;"
                ));
            }
        }
        writer.batch_execute(&sql)
    }

    /// Publishes the count after a transaction, while the writer is still held.
    pub(super) fn count(&self, writer: &mut SqliteConnection) {
        let count = people_change::table.select(people_change::count).get_result::<i64>(writer);
        let count = count.inspect_err(|error| tracing::error!(target: "STO", "changes are not counted: {error}"));
        self.generation.store(count.unwrap_or(UNKNOWN), Ordering::Release);
    }

    /// The present number; none while it cannot be read.
    pub(super) fn generation(&self) -> Option<Generation> {
        let generation = self.generation.load(Ordering::Acquire);
        (generation != UNKNOWN).then_some(Generation(generation))
    }

    fn names(&self, generation: Generation) -> Option<Arc<PeopleNames>> {
        let kept = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.0 == generation.0).then(|| Arc::clone(&kept.1))
    }

    fn keep_names(&self, generation: Generation, names: &Arc<PeopleNames>) {
        let mut kept = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        // A slow reader must not push out what a later one read.
        if kept.0 <= generation.0 {
            *kept = (generation.0, Arc::clone(names));
        }
    }
}

impl Tx<'_> {
    /// The names of all users and groups; read anew only when people changed.
    ///
    /// # Errors
    /// The database's failure.
    pub fn names(&mut self) -> Result<Arc<PeopleNames>, StoreError> {
        if let Some((known, generation)) = self.1
            && let Some(names) = known.names(generation)
        {
            return Ok(names);
        }
        let users = user::table.select((user::id, user::name)).load::<(i64, String)>(self.0)?;
        let groups = user_group::table.select((user_group::id, user_group::name)).load::<(i64, String)>(self.0)?;
        let names = Arc::new(PeopleNames { users: users.into_iter().collect(), groups: groups.into_iter().collect() });
        if let Some((known, generation)) = self.1 {
            known.keep_names(generation, &names);
        }
        Ok(names)
    }
}
