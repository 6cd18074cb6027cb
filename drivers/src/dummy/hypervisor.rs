//! The dummy hypervisor: domains change their state because they are told to.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::domain::{Disk, Nic, Place, Record, State, check_image, not_defined};
use super::files::{self, Lock};
use super::gate::Gate;
use super::script::{Operation, Script};
use super::{backup, image, snapshot};
use crate::hypervisor::{
    BackupSpec, DomainDisk, DomainEvent, DomainNic, DomainSpec, DomainState, DomainStats, HostFacts,
};
use crate::{BackupSession, DriverError, Hypervisor, Kind, Result};

/// How long a call waits for another one about the same domain.
const LOCK_WAIT: Duration = Duration::from_secs(60);

/// A hypervisor that needs nothing but a directory.
pub struct DummyHypervisor {
    directory: PathBuf,
    gate: Arc<Gate>,
    sinks: Mutex<Vec<Sender<DomainEvent>>>,
}

/// A file of [`Hypervisor::save`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    dummy_memory: Record,
}

impl DummyHypervisor {
    /// The hypervisor whose domains are in `directory`, which is made when it is not there. `script` is in force while
    /// there is no `script.json` in it.
    ///
    /// # Errors
    /// [`Kind::Permanent`] for impossible values in `script`; when the directory cannot be used.
    pub fn open(directory: &Path, script: Script) -> Result<Self> {
        let gate = Arc::new(Gate::new(directory, script)?);
        let this = Self { directory: directory.to_owned(), gate, sinks: Mutex::default() };
        files::make_directory(&this.domains())?;
        files::make_directory(&directory.join("locks"))?;
        for name in this.names()? {
            let _lock = this.lock(&name)?;
            this.sweep(&this.place(&name)?)?;
        }
        Ok(this)
    }

    /// Puts a domain into `state` as if the guest or its host had done it: a crash, a full disk, the end from inside. No
    /// rule of the script is about it; events tell of it.
    ///
    /// # Errors
    /// [`Kind::Missing`] when the domain is not defined.
    pub fn suffer(&self, domain: &str, state: DomainState) -> Result<()> {
        self.alter(domain, |record, _| {
            let record = existing(record, domain, "changing the state of")?;
            if record.state.is_off() && !State::from(state).is_off() {
                record.start()?;
            }
            record.state = state.into();
            Ok(())
        })
    }

    fn domains(&self) -> PathBuf {
        self.directory.join("domains")
    }

    fn place(&self, domain: &str) -> Result<Place> {
        Place::new(&self.domains(), domain)
    }

    fn lock(&self, domain: &str) -> Result<Lock> {
        let file = files::file_name("a domain's name", domain)?;
        let busy = format!("another call about domain {domain} is not done yet; try again later");
        Lock::take(&self.directory.join("locks").join(file), LOCK_WAIT, &busy, &mut || Ok(()))
    }

    /// Names of all domains that have a folder.
    fn names(&self) -> Result<Vec<String>> {
        Ok(files::list(&self.domains())?.iter().filter_map(|file| files::name_of(file)).collect())
    }

    fn sweep(&self, place: &Place) -> Result<()> {
        if place.record()?.is_none() { place.sweep() } else { Ok(()) }
    }

    /// `operation` on `domain`: see [`Self::alter`].
    fn change(
        &self,
        operation: Operation,
        domain: &str,
        work: impl FnOnce(&mut Option<Record>, &Place) -> Result<()>,
    ) -> Result<()> {
        self.gate.around(operation, domain, None, || self.alter(domain, work))
    }

    /// Lets `work` change the record of `domain`, and stores it when it differs afterwards.
    fn alter(&self, domain: &str, work: impl FnOnce(&mut Option<Record>, &Place) -> Result<()>) -> Result<()> {
        let place = self.place(domain)?;
        let lock = self.lock(domain)?;
        let before = place.record()?;
        let mut record = before.clone();
        let done = work(&mut record, &place);
        // Also after a failure: what was done is done.
        if record != before {
            place.write(record.as_ref())?;
            drop(lock);
            self.tell(domain);
        }
        done
    }

    fn tell(&self, domain: &str) {
        let mut sinks = self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        sinks.retain(|sink| sink.send(DomainEvent::Changed { domain: domain.to_owned() }).is_ok());
    }
}

/// The record, or the error of calls that need one.
fn existing<'a>(record: &'a mut Option<Record>, domain: &str, doing: &str) -> Result<&'a mut Record> {
    record.as_mut().ok_or_else(|| not_defined(domain, doing))
}

fn refused(doing: String, reason: &str) -> Result<()> {
    Err(DriverError::new(Kind::Permanent, doing, reason))
}

impl Hypervisor for DummyHypervisor {
    fn facts(&self) -> Result<HostFacts> {
        self.gate.around(Operation::Facts, "", None, || {
            let facts = self.gate.script()?.facts.clone();
            let mut used_kb = 0_u64;
            for name in self.names()? {
                if let Some(record) = self.place(&name)?.record()?
                    && !record.state.is_off()
                {
                    used_kb = used_kb.saturating_add(record.memory_mb.saturating_mul(1024));
                }
            }
            Ok(HostFacts {
                hypervisor: facts.hypervisor,
                cpus: facts.cpus,
                memory_kb: facts.memory_kb,
                free_memory_kb: facts.memory_kb.saturating_sub(used_kb),
            })
        })
    }

    fn state(&self, domain: &str) -> Result<Option<DomainState>> {
        self.gate.around(Operation::State, domain, None, || {
            Ok(self.place(domain)?.record()?.map(|record| record.state.into()))
        })
    }

    fn deploy(&self, spec: &DomainSpec) -> Result<()> {
        self.change(Operation::Deploy, &spec.name, |record, _| {
            if record.as_ref().is_some_and(|record| !record.state.is_off()) {
                return Ok(());
            }
            let mut new = Record::new(spec, record.as_ref().map_or(0, |record| record.starts));
            let started = new.start();
            // Defined also when it does not start, as by other hypervisors.
            *record = Some(new);
            started
        })
    }

    fn resume(&self, domain: &str) -> Result<()> {
        self.change(Operation::Resume, domain, |record, _| {
            let record = existing(record, domain, "resuming")?;
            match record.state {
                State::Off | State::Crashed => record.start()?,
                State::Paused | State::PausedIoError => record.state = State::Running,
                State::Running | State::ShuttingDown => {}
            }
            Ok(())
        })
    }

    fn pause(&self, domain: &str) -> Result<()> {
        self.change(Operation::Pause, domain, |record, _| {
            let record = existing(record, domain, "pausing")?;
            if record.state.is_off() {
                return refused(format!("pausing domain {domain}"), "the domain does not run");
            }
            record.state = State::Paused;
            Ok(())
        })
    }

    fn shutdown(&self, domain: &str, _timeout: Duration) -> Result<()> {
        self.change(Operation::Shutdown, domain, |record, _| {
            stop(record);
            Ok(())
        })
    }

    fn destroy(&self, domain: &str) -> Result<()> {
        self.change(Operation::Destroy, domain, |record, _| {
            stop(record);
            Ok(())
        })
    }

    fn reboot(&self, domain: &str, _hard: bool) -> Result<()> {
        self.change(Operation::Reboot, domain, |record, _| {
            if existing(record, domain, "rebooting")?.state.is_off() {
                return refused(format!("rebooting domain {domain}"), "the domain does not run");
            }
            Ok(())
        })
    }

    fn undefine(&self, domain: &str) -> Result<()> {
        self.change(Operation::Undefine, domain, |record, place| {
            if record.as_ref().is_some_and(|record| !record.state.is_off()) {
                return refused(format!("undefining domain {domain}"), "the domain runs; stop it first");
            }
            *record = None;
            place.write(None)?;
            place.sweep()
        })
    }

    fn save(&self, domain: &str, file: &Path) -> Result<()> {
        self.change(Operation::Save, domain, |record, _| {
            let record = existing(record, domain, "saving")?;
            if record.state.is_off() {
                let there = std::fs::metadata(file).map(drop);
                return there.map_err(|error| DriverError::io(format!("saving domain {domain}, which is off"), error));
            }
            files::write_document(file, &Saved { dummy_memory: record.clone() })?;
            record.state = State::Off;
            Ok(())
        })
    }

    fn restore_saved(&self, domain: &str, file: &Path) -> Result<()> {
        self.change(Operation::RestoreSaved, domain, |record, _| {
            if record.as_ref().is_some_and(|record| !record.state.is_off()) {
                return Ok(());
            }
            let doing = || format!("restoring domain {domain} from {}", file.display());
            let saved: Option<Saved> = files::read_document(file)?;
            let saved = saved.ok_or_else(|| DriverError::new(Kind::Missing, doing(), "there is no such file"))?;
            if saved.dummy_memory.name != domain {
                let reason = format!("it is of domain {}", saved.dummy_memory.name);
                return Err(DriverError::new(Kind::Corrupt, doing(), reason));
            }
            record.get_or_insert(saved.dummy_memory).start()
        })
    }

    fn attach_disk(&self, domain: &str, disk: &DomainDisk) -> Result<()> {
        self.change(Operation::AttachDisk, domain, |record, _| {
            let record = existing(record, domain, "attaching a disk to")?;
            let disk = Disk::from(disk);
            if let Some(there) = record.disks.iter().find(|there| there.target == disk.target) {
                if there.path == disk.path {
                    return Ok(());
                }
                let reason = format!("{} is there already, with {}", disk.target, there.path.display());
                return refused(format!("attaching {} to domain {domain}", disk.path.display()), &reason);
            }
            check_image(domain, &disk)?;
            record.disks.push(disk);
            Ok(())
        })
    }

    fn detach_disk(&self, domain: &str, target: &str, _timeout: Duration) -> Result<()> {
        self.change(Operation::DetachDisk, domain, |record, _| {
            if let Some(record) = record {
                record.disks.retain(|disk| disk.target != target);
            }
            Ok(())
        })
    }

    fn attach_nic(&self, domain: &str, nic: &DomainNic) -> Result<()> {
        self.change(Operation::AttachNic, domain, |record, _| {
            let record = existing(record, domain, "attaching a network card to")?;
            if nic.mac.as_deref().is_none_or(str::is_empty) {
                return refused(format!("attaching a network card to domain {domain}"), "it has no MAC address");
            }
            if !record.nics.iter().any(|there| is_mac(there, nic.mac.as_deref())) {
                record.nics.push(Nic::from(nic));
            }
            Ok(())
        })
    }

    fn detach_nic(&self, domain: &str, mac: &str, _timeout: Duration) -> Result<()> {
        self.change(Operation::DetachNic, domain, |record, _| {
            if let Some(record) = record {
                record.nics.retain(|nic| !is_mac(nic, Some(mac)));
            }
            Ok(())
        })
    }

    fn resize_disk(&self, domain: &str, disk: &DomainDisk, bytes: u64) -> Result<()> {
        self.change(Operation::ResizeDisk, domain, |_, _| image::grow(&disk.path, disk.format, bytes))
    }

    fn disk_snapshot_create(&self, domain: &str, disk: &DomainDisk, snapshot: &str) -> Result<()> {
        self.change(Operation::DiskSnapshotCreate, domain, |record, place| {
            snapshot::create_of_disk(place, record.as_ref(), disk, snapshot)
        })
    }

    fn disk_snapshot_revert(&self, domain: &str, disk: &DomainDisk, snapshot: &str) -> Result<()> {
        self.change(Operation::DiskSnapshotRevert, domain, |record, place| {
            snapshot::revert_disk(place, record.as_ref(), disk, snapshot)
        })
    }

    fn disk_snapshot_delete(&self, domain: &str, disk: &DomainDisk, snapshot: &str) -> Result<()> {
        self.change(Operation::DiskSnapshotDelete, domain, |record, place| {
            snapshot::delete_of_disk(place, record.as_ref(), disk, snapshot)
        })
    }

    fn system_snapshot_create(&self, domain: &str, snapshot: &str) -> Result<()> {
        self.change(Operation::SystemSnapshotCreate, domain, |record, place| {
            snapshot::create_of_system(place, existing(record, domain, "making a snapshot of")?, snapshot)
        })
    }

    fn system_snapshot_revert(&self, domain: &str, snapshot: &str) -> Result<()> {
        self.change(Operation::SystemSnapshotRevert, domain, |record, place| {
            snapshot::revert_system(place, existing(record, domain, "reverting")?, snapshot)
        })
    }

    fn system_snapshot_delete(&self, domain: &str, snapshot: &str) -> Result<()> {
        self.change(Operation::SystemSnapshotDelete, domain, |_, place| snapshot::delete_of_system(place, snapshot))
    }

    fn stats(&self, domain: &str) -> Result<Option<DomainStats>> {
        self.gate.around(Operation::Stats, domain, None, || {
            let record = self.place(domain)?.record()?;
            Ok(record.filter(|record| !record.state.is_off()).map(|record| record.stats()))
        })
    }

    fn begin_backup(&self, spec: &BackupSpec) -> Result<Box<dyn BackupSession>> {
        let domain = &spec.domain;
        let call = self.gate.enter(Operation::BeginBackup, domain, None)?;
        let session = {
            let place = self.place(domain)?;
            let _lock = self.lock(domain)?;
            backup::lose_bitmaps(&place, &self.gate.script()?.lost_bitmaps)?;
            backup::begin(&self.gate, place, spec)?
        };
        if let Err(error) = call.leave(None) {
            session.discard(spec);
            return Err(error);
        }
        Ok(Box::new(session))
    }

    fn abandon_backup(&self, spec: &BackupSpec) -> Result<()> {
        self.gate.around(Operation::AbandonBackup, &spec.domain, None, || {
            let place = self.place(&spec.domain)?;
            let _lock = self.lock(&spec.domain)?;
            backup::abandon(&place, spec)
        })
    }

    fn checkpoints(&self, domain: &str, _disks: &[PathBuf]) -> Result<Vec<String>> {
        self.gate.around(Operation::Checkpoints, domain, None, || {
            let place = self.place(domain)?;
            let _lock = self.lock(domain)?;
            backup::lose_bitmaps(&place, &self.gate.script()?.lost_bitmaps)?;
            backup::checkpoints(&place)
        })
    }

    fn delete_checkpoint(&self, domain: &str, checkpoint: &str, _disks: &[PathBuf]) -> Result<()> {
        self.change(Operation::DeleteCheckpoint, domain, |_, place| crate::disk::remove(&place.checkpoint(checkpoint)?))
    }

    fn subscribe(&self, sink: Sender<DomainEvent>) -> Result<()> {
        self.gate.around(Operation::Subscribe, "", None, || {
            self.sinks.lock().unwrap_or_else(PoisonError::into_inner).push(sink);
            Ok(())
        })
    }
}

fn stop(record: &mut Option<Record>) {
    if let Some(record) = record
        && !record.state.is_off()
    {
        record.state = State::Off;
    }
}

/// Whether the card has this address, in whichever case.
fn is_mac(nic: &Nic, mac: Option<&str>) -> bool {
    matches!((&nic.mac, mac), (Some(one), Some(other)) if one.eq_ignore_ascii_case(other))
}
