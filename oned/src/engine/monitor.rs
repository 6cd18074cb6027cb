//! Looking around: what hosts offer, what guests do, how full datastores are.
//!
//! Each host is asked on a thread of its own, so that one that does not answer holds up nobody; it is not asked a second
//! time while the first question is open.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use drivers::Hypervisor;
use drivers::hypervisor::{DomainState, DomainStats};
use one_core::lifecycle::{HostState, LcmState, VmEvent, VmPhase, VmState};
use one_core::template::Template;

use super::image_jobs::mb;
use super::{Engine, Trouble};
use crate::ledger::{self, BACKUP_DS};
use crate::store::rows::{DatastoreRow, HostRow, SampleRow, VmRow};
use crate::store::{JobFilter, Release, StoreError, Tx, VmFilter};

/// How long a host in ERROR rests before it is asked again, seconds.
const ERROR_PAUSE_S: i64 = 5;

/// Samples kept of one host: four hours at the default interval.
const HOST_SAMPLES: i64 = 240;
/// Samples kept of one VM, of which there are many more: an hour. One answer may hold those of all VMs.
const VM_SAMPLES: i64 = 60;

/// Questions that are open, and hosts whose guests changed.
#[derive(Default)]
pub(super) struct Monitor {
    asking: Mutex<HashSet<(bool, i64)>>,
    changed: Mutex<HashSet<i64>>,
    /// Datastores that did not tell their space the last time.
    silent: Mutex<HashSet<i64>>,
}

impl Monitor {
    /// Claims a question; none when it is open already.
    fn claim(&self, is_host: bool, id: i64) -> bool {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner).insert((is_host, id))
    }

    fn release(&self, is_host: bool, id: i64) {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner).remove(&(is_host, id));
    }
}

impl Engine {
    /// Has a host's guests looked at in the next round.
    pub fn look_at_soon(&self, host_id: i64) {
        self.monitor.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(host_id);
        self.cloud.wake.ring();
    }

    /// Has the guests of all hosts looked at in the next round; what a hypervisor's event leads to.
    pub fn look_at_all_soon(&self) {
        match self.cloud.store.read(|tx| tx.host_list()) {
            Ok(hosts) => hosts.iter().for_each(|host| self.look_at_soon(host.id)),
            Err(error) => tracing::error!(target: "ONE", "{error}"),
        }
    }

    /// Starts the questions that are due.
    pub(super) fn look_around(self: &Arc<Self>) {
        let now = self.cloud.clock.now();
        let changed = std::mem::take(&mut *self.monitor.changed.lock().unwrap_or_else(PoisonError::into_inner));
        match self.cloud.store.read(|tx| Ok::<_, StoreError>((tx.host_list()?, tx.datastore_list()?))) {
            Ok((hosts, datastores)) => {
                // One that is OFFLINE is none of our business until somebody enables it.
                for host in hosts.into_iter().filter(|host| host.state != HostState::Offline.number()) {
                    let pause = match host.state == HostState::Error.number() {
                        true => ERROR_PAUSE_S,
                        false => seconds(self.cloud.config.monitoring_interval_host),
                    };
                    let due = now >= host.monitored_at + pause || now < host.monitored_at;
                    if due || changed.contains(&host.id) {
                        self.ask(true, host.id, move |engine| engine.look_at_host(&host));
                    }
                }
                self.outside.keep_datastores(&datastores.iter().map(|datastore| datastore.id).collect());
                for datastore in datastores {
                    let pause = seconds(self.cloud.config.monitoring_interval_datastore);
                    if now >= datastore.monitored_at + pause || now < datastore.monitored_at {
                        self.ask(false, datastore.id, move |engine| engine.look_at_datastore(&datastore));
                    }
                }
            }
            Err(error) => tracing::error!(target: "ONE", "{error}"),
        }
    }

    fn ask(
        self: &Arc<Self>,
        is_host: bool,
        id: i64,
        question: impl FnOnce(&Self) -> Result<(), Trouble> + Send + 'static,
    ) {
        if !self.monitor.claim(is_host, id) {
            // Asked again when the open question is answered.
            if is_host {
                self.monitor.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
            }
            return;
        }
        let engine = Arc::clone(self);
        let spawned = std::thread::Builder::new().name(format!("look-{id}")).spawn(move || {
            if let Err(trouble) = question(&engine) {
                tracing::warn!(target: "MON", "{trouble}");
            }
            engine.monitor.release(is_host, id);
        });
        if let Err(error) = spawned {
            tracing::error!(target: "MON", "No thread for monitoring: {error}");
            self.monitor.release(is_host, id);
        }
    }

    fn look_at_host(&self, host: &HostRow) -> Result<(), Trouble> {
        let facts = self.outside.hypervisor(host).and_then(|hypervisor| Ok((hypervisor.facts()?, hypervisor)));
        let now = self.cloud.clock.now();
        let (state, error) = match &facts {
            Ok(_) => (HostState::Monitored, None),
            Err(error) => (HostState::Error, Some(error.to_string())),
        };
        let changed = self.cloud.store.write(|tx| {
            let Some(mut row) = tx.host_find(host.id)? else { return Ok(false) };
            if row.state == HostState::Offline.number() {
                return Ok(false);
            }
            let mut template = ledger::stored(&row.template);
            match &error {
                Some(text) => {
                    template.set(
                        "ERROR",
                        format!("{} : {}", ledger::error_date(now, self.cloud.config.timezone), ledger::flat(text)),
                    );
                }
                None => drop(template.remove("ERROR")),
            }
            if let Ok((facts, _)) = &facts {
                row.cpus = i64::from(facts.cpus);
                row.memory_kb = i64::try_from(facts.memory_kb).unwrap_or(i64::MAX);
                row.free_memory_kb = i64::try_from(facts.free_memory_kb).unwrap_or(i64::MAX);
                template.set("HYPERVISOR", facts.hypervisor.clone());
            }
            row.template = template.to_text();
            row.monitored_at = now;
            // Seen, but not to be used: only people change that.
            let withdrawn = [HostState::Disabled, HostState::Offline].map(HostState::number).contains(&row.state);
            let changed = row.state != state.number() && !withdrawn;
            if changed {
                row.prev_state = row.state;
                row.state = state.number();
                tracing::info!(target: "MON", "Host {} ({}) is now {}.", row.id, row.name, state.name());
            }
            tx.host_update(&row)?;
            if facts.is_ok() {
                let sample = host_sample(tx, &row, now)?;
                tx.sample_put(&sample, HOST_SAMPLES)?;
            }
            Ok::<_, StoreError>(changed)
        })?;
        if changed {
            self.cloud.wake.ring();
        }
        // The failure is in the host's record; repeating it in the log at each round would bury everything else.
        let Ok((_, hypervisor)) = facts else { return Ok(()) };
        for vm in self.cloud.store.read(|tx| tx.vms(VmFilter { host_id: Some(host.id), ..VmFilter::default() }))? {
            self.look_at_vm(hypervisor.as_ref(), &vm)?;
        }
        Ok(())
    }

    /// Applies what a guest is seen to do. While a job works on the VM its answer decides.
    fn look_at_vm(&self, hypervisor: &dyn Hypervisor, vm: &VmRow) -> Result<(), Trouble> {
        let phase = ledger::phase(vm);
        let settled = phase == VmPhase::RUNNING
            || phase == VmPhase::active(LcmState::Unknown)
            || phase.state == VmState::Poweroff;
        if !settled || !self.cloud.store.read(|tx| tx.jobs_open(JobFilter::Vm(vm.id)))?.is_empty() {
            return Ok(());
        }
        let seen = hypervisor.state(&vm.deploy_id)?;
        // Statistics are worth having, but their failure says nothing about the guest.
        let stats = hypervisor.stats(&vm.deploy_id).unwrap_or_default();
        let event = match seen {
            Some(
                DomainState::Running | DomainState::Paused | DomainState::PausedIoError | DomainState::ShuttingDown,
            ) => VmEvent::Found,
            Some(DomainState::Off | DomainState::Crashed) => VmEvent::Stopped,
            None => VmEvent::Lost,
        };
        let now = self.cloud.clock.now();
        let zone = self.cloud.config.timezone;
        self.cloud.store.write(|tx| {
            let mut row = tx.vm(vm.id)?;
            // What was seen before an action began says nothing about it.
            if ledger::phase(&row) != phase || !tx.jobs_open(JobFilter::Vm(vm.id))?.is_empty() {
                return Ok(());
            }
            row.last_poll = now;
            if let Some(stats) = stats {
                let mut measured = measured(&stats);
                let body = measured.to_text();
                tx.sample_put(&SampleRow { kind: "VM".into(), object_id: vm.id, time: now, body }, VM_SAMPLES)?;
                measured.set("TIMESTAMP", now.to_string());
                row.monitoring = measured.to_text();
            }
            tx.vm_update(&row)?;
            ledger::vm_step(tx, &mut row, event, now)?;
            if seen == Some(DomainState::PausedIoError) {
                let text = "MONITOR: the guest is paused because one of its disks failed or is full";
                ledger::vm_error(tx, &mut row, Some((text, now, zone)))?;
            }
            Ok::<_, Trouble>(())
        })
    }

    /// Measures the space. When it cannot be told, the last known values stay: a server that is away says nothing about how
    /// full it is, and a space of zero would be told to users as a full datastore.
    fn look_at_datastore(&self, datastore: &DatastoreRow) -> Result<(), Trouble> {
        let now = self.cloud.clock.now();
        let space = if datastore.kind == BACKUP_DS {
            let driver = self.backup_datastore(datastore.id);
            driver
                .and_then(|driver| Ok(driver.capacity()?))
                .map(|c| (mb(c.total_bytes), mb(c.free_bytes), mb(c.used_bytes)))
        } else {
            Ok(directory_space(datastore))
        };
        self.cloud.store.write(|tx| {
            let Some(mut row) = tx.datastore_find(datastore.id)? else { return Ok(()) };
            row.monitored_at = now;
            if let Ok((total, free, used)) = space {
                if free > row.free_mb || total != row.total_mb {
                    tx.schedules_release(Release::Datastore(row.id))?;
                }
                (row.total_mb, row.free_mb, row.used_mb) = (total, free, used);
            }
            tx.datastore_update(&row)
        })?;
        self.note_silence(datastore, space.err());
        Ok(())
    }

    /// One sentence in the log when a datastore stops answering, and one when it answers again.
    fn note_silence(&self, datastore: &DatastoreRow, trouble: Option<Trouble>) {
        let mut silent = self.monitor.silent.lock().unwrap_or_else(PoisonError::into_inner);
        match trouble {
            Some(trouble) if silent.insert(datastore.id) => {
                tracing::warn!(target: "MON", "Datastore {} does not tell its space: {trouble}", datastore.id);
            }
            None if silent.remove(&datastore.id) => {
                tracing::info!(target: "MON", "Datastore {} ({}) answers again.", datastore.id, datastore.name);
            }
            _ => {}
        }
    }
}

fn directory_space(datastore: &DatastoreRow) -> (i64, i64, i64) {
    let path = std::path::Path::new(&datastore.base_path);
    if let Err(error) = std::fs::create_dir_all(path) {
        tracing::warn!(target: "MON", "{} cannot be made: {error}", path.display());
        return (0, 0, 0);
    }
    let Ok(facts) = rustix::fs::statvfs(path) else { return (0, 0, 0) };
    let total = mb(facts.f_blocks.saturating_mul(facts.f_frsize));
    let free = mb(facts.f_bavail.saturating_mul(facts.f_frsize));
    (total, free, total.saturating_sub(free))
}

fn seconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// What a host offers and has promised, as a sample.
fn host_sample(tx: &mut Tx<'_>, row: &HostRow, now: i64) -> Result<SampleRow, StoreError> {
    let used_cpu = tx
        .vms(VmFilter { host_id: Some(row.id), ..VmFilter::default() })?
        .iter()
        .filter(|vm| vm.state == VmState::Active.number())
        .fold(0_i64, |sum, vm| sum.saturating_add(ledger::vm_size(&ledger::stored(&vm.template)).0));
    let mut body = Template::new();
    for (name, value) in [
        ("FREE_CPU", (row.cpus * 100).saturating_sub(used_cpu)),
        ("FREE_MEMORY", row.free_memory_kb),
        ("USED_CPU", used_cpu),
        ("USED_MEMORY", row.memory_kb.saturating_sub(row.free_memory_kb)),
    ] {
        body.set(name, value.to_string());
    }
    Ok(SampleRow { kind: "HOST".into(), object_id: row.id, time: now, body: body.to_text() })
}

/// A guest's statistics under the names that its document has for them.
fn measured(stats: &DomainStats) -> Template {
    let mut body = Template::new();
    body.set("CPU", format!("{:.2}", stats.cpu_percent.max(0.0)));
    for (name, value) in [
        ("MEMORY", stats.memory_kb),
        ("DISKRDBYTES", stats.disk_read_bytes),
        ("DISKWRBYTES", stats.disk_write_bytes),
        ("DISKRDIOPS", stats.disk_read_ops),
        ("DISKWRIOPS", stats.disk_write_ops),
        ("NETRX", stats.net_rx_bytes),
        ("NETTX", stats.net_tx_bytes),
    ] {
        body.set(name, value.to_string());
    }
    body
}
