//! Gathers the facts of an examination: asks hosts and datastores, looks at the state directory, the clock and the records.
//!
//! Nothing is changed but for small files that are made and removed again to see whether files can be made; a share that is not
//! mounted is mounted, as for a backup. Backup datastores are asked through their drivers, so in their own processes.
//! Everything is asked side by side ([`questions`]), and what does not answer is told as late.

mod place;
mod questions;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use one_core::lifecycle::HostState;

use super::Engine;
use crate::cloud::Cloud;
use crate::examination::Fact;
use crate::examination::facts::{
    BackupsFacts, ClockFacts, DatabaseFacts, DirectoryFacts, HostFacts, JobFacts, RoundFacts, Space, VmFacts,
};
use crate::hosts;
use crate::ledger::{self, BACKUP_DS};
use crate::store::rows::{DatastoreRow, HostRow, JobRow};
use crate::store::{JobFilter, StoreError};
pub(super) use questions::Asked;
use questions::{Patience, Question};

/// How long one question may take, and all of them together.
const PATIENCE: Patience = Patience { each: Duration::from_secs(15), all: Duration::from_secs(25) };

/// A larger database is not read through, bytes.
const DATABASE_MAX: u64 = 256 << 20;

/// An action is overdue when it is due for this long, seconds.
const OVERDUE_S: i64 = 300;

/// Where the daemon's own disks and scratch files lie.
const SYSTEM_DATASTORE: i64 = 0;

impl Engine {
    /// Looks at everything; `state` is the state directory. Takes 25 s at most.
    #[must_use]
    pub fn examine(self: &Arc<Self>, state: &Path) -> Vec<Fact> {
        let read = self.cloud.store.read(|tx| Ok::<_, StoreError>((tx.host_list()?, tx.datastore_list()?)));
        let (hosts, datastores) = match read {
            Ok(read) => read,
            Err(error) => return vec![Fact::Unread(error.to_string())],
        };
        let mut questions = self.about_ourselves(state);
        let count = hosts.len();
        questions.push(Question::new("libvirt", String::new(), move || vec![Fact::Hosts(count)]));
        if hosts.iter().any(|host| !hosts::is_dummy(host) && hosts::uri(host) == "qemu:///system") {
            questions
                .push(Question::new("sockets", String::new(), || place::qemu().map(Fact::Qemu).into_iter().collect()));
        }
        for host in hosts {
            let (engine, subject) = (Arc::clone(self), format!("host {} ({})", host.id, host.name));
            questions.push(Question::new("libvirt", subject, move || vec![Fact::Host(engine.ask_host(&host))]));
        }
        for row in datastores {
            let (engine, subject) = (Arc::clone(self), format!("datastore {} ({})", row.id, row.name));
            questions.push(Question::new("datastore", subject, move || engine.ask_datastore(&row)));
        }
        let cloud = Arc::clone(&self.cloud);
        questions.push(Question::new("backups", String::new(), move || vec![told(vms(&cloud))]));
        self.asked.all(questions, PATIENCE)
    }

    /// State directory, database, clock, door, scheduler, jobs.
    fn about_ourselves(&self, state: &Path) -> Vec<Question> {
        let directory = state.to_owned();
        let with = |name, ask: fn(&Cloud, &Path) -> Vec<Fact>| {
            let (cloud, directory): (_, PathBuf) = (Arc::clone(&self.cloud), state.to_owned());
            Question::new(name, String::new(), move || ask(&cloud, &directory))
        };
        vec![
            Question::new("state directory", state.display().to_string(), move || {
                vec![Fact::Place(place::state(&directory))]
            }),
            with("database", |cloud, directory| vec![Fact::Database(database(cloud, directory))]),
            with("clock", |cloud, _| {
                let synchronised = place::is_clock_synchronised();
                let newest = cloud.store.read(|tx| tx.newest_time());
                let behind_s = |newest: i64| newest.saturating_sub(cloud.clock.now());
                vec![told(newest.map(|newest| Fact::Clock(ClockFacts { synchronised, behind_s: behind_s(newest) })))]
            }),
            with("listening", |cloud, _| {
                let (endpoint, listen) = (cloud.endpoint.clone(), cloud.config.listen.ip());
                vec![Fact::Door { endpoint, listen, tls: cloud.config.tls.is_some() }]
            }),
            with("scheduler", |cloud, _| vec![told(rounds(cloud))]),
            with("jobs", |cloud, _| vec![told(jobs(cloud))]),
        ]
    }

    fn ask_host(&self, host: &HostRow) -> HostFacts {
        let offline = host.state == HostState::Offline.number();
        let ask = || Ok(self.outside.hypervisor(host)?.facts()?.hypervisor);
        let is_dummy = hosts::is_dummy(host);
        HostFacts {
            id: host.id,
            name: host.name.clone(),
            vm_mad: host.vm_mad.clone(),
            is_local: is_dummy || hosts::is_local(&hosts::uri(host)),
            answer: (!offline).then(|| ask().map_err(|error: drivers::DriverError| error.to_string())),
            has_kvm: Path::new("/dev/kvm").exists(),
        }
    }

    fn ask_datastore(&self, row: &DatastoreRow) -> Vec<Fact> {
        if row.kind == BACKUP_DS {
            return vec![Fact::Backups(self.ask_backups(row))];
        }
        let path = Path::new(&row.base_path);
        let (writable, space) = (place::writable(path), place::space(path));
        let facts = DirectoryFacts {
            id: row.id,
            name: row.name.clone(),
            path: row.base_path.clone(),
            writable,
            space: space.clone(),
        };
        let mut facts = vec![Fact::Directory(facts)];
        if row.id == SYSTEM_DATASTORE {
            let reserve_mb = self.cloud.config.scratch_reserve_mb;
            facts.push(Fact::Scratch { path: row.base_path.clone(), space, reserve_mb });
        }
        facts
    }

    fn ask_backups(&self, row: &DatastoreRow) -> BackupsFacts {
        let driver = self.outside.datastore(&self.cloud.secret, row);
        let probed = driver.and_then(|driver| driver.probe().map(|()| driver));
        let newest = self.cloud.store.read(|tx| tx.newest_point(row.id));
        let newest = match (&probed, newest) {
            (Ok(driver), Ok(Some((series, point)))) => {
                let seen = driver.inspect(&series, &point);
                Some(seen.map(|_| ledger::short_point(&point).to_owned()).map_err(|error| error.to_string()))
            }
            (_, Err(error)) => Some(Err(error.to_string())),
            _ => None,
        };
        let bytes = |mb: i64| u64::try_from(mb).unwrap_or(0).saturating_mul(1 << 20);
        BackupsFacts {
            id: row.id,
            name: row.name.clone(),
            path: row.base_path.clone(),
            share: ledger::stored(&row.template).scalar("SHARE").filter(|share| !share.is_empty()).map(String::from),
            writable: probed.map(drop).map_err(|error| error.to_string()),
            newest,
            space: (row.total_mb > 0).then(|| Space { total: bytes(row.total_mb), free: bytes(row.free_mb) }),
        }
    }
}

/// The fact, or that the records do not read.
fn told(read: Result<Fact, StoreError>) -> Fact {
    read.unwrap_or_else(|error| Fact::Unread(error.to_string()))
}

fn database(cloud: &Cloud, directory: &Path) -> Result<DatabaseFacts, String> {
    let file = directory.join("one.db");
    let length = std::fs::metadata(&file).map_err(|error| format!("{}: {error}", file.display()))?.len();
    if length > DATABASE_MAX {
        return Ok(DatabaseFacts::Large(length));
    }
    let complaint = cloud.store.read(|tx| tx.quick_check()).map_err(|error: StoreError| error.to_string())?;
    Ok(complaint.map_or(DatabaseFacts::Sound, DatabaseFacts::Damaged))
}

fn rounds(cloud: &Cloud) -> Result<Fact, StoreError> {
    let now = cloud.clock.now();
    let figures = cloud.store.read(|tx| tx.schedule_figures(now, now.saturating_sub(OVERDUE_S)))?;
    let since_s = cloud.desk.since_round().map(|since| since.as_secs());
    Ok(Fact::Rounds(RoundFacts { since_s, overdue: figures.overdue, refused: figures.refused }))
}

fn jobs(cloud: &Cloud) -> Result<Fact, StoreError> {
    let now = cloud.clock.now();
    let facts = |job: JobRow| JobFacts {
        id: job.id,
        what: subject(&job),
        attempts: job.attempts,
        error: job.error,
        still_s: now.saturating_sub(job.changed_at),
    };
    Ok(Fact::Jobs(cloud.store.read(|tx| tx.jobs_open(JobFilter::All))?.into_iter().map(facts).collect()))
}

fn subject(job: &JobRow) -> String {
    match (job.vm_id, job.image_id, job.datastore_id) {
        (Some(id), ..) => format!("{} of VM {id}", job.kind),
        (None, Some(id), _) => format!("{} of image {id}", job.kind),
        (None, None, Some(id)) => format!("{} of datastore {id}", job.kind),
        (None, None, None) => job.kind.clone(),
    }
}

fn vms(cloud: &Cloud) -> Result<Fact, StoreError> {
    let now = cloud.clock.now();
    let figures = cloud.store.read(|tx| tx.vm_figures())?;
    let facts = figures.into_iter().map(|vm| VmFacts {
        id: vm.vm_id,
        name: vm.name,
        had_backup: vm.last_success > 0,
        age_s: now.saturating_sub(if vm.last_success > 0 { vm.last_success } else { vm.stime }),
        failures: vm.failures,
    });
    Ok(Fact::Vms(facts.collect()))
}
