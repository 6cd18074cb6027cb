//! Every call of a job to a hypervisor or a backup datastore, as a point at which a test pulls the plug or lets it fail.
//!
//! Drivers are wrapped as soon as they are opened; sessions and readers that they give are wrapped too. Each call is a crash
//! point before it (`hypervisor.deploy`) and after it (`hypervisor.deploy.done`), and can be told by its number to fail.
//! Questions that monitoring asks at any time (facts, state, statistics, space) are passed on and not counted: they change
//! nothing. There is none of this without the feature `testing`.

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drivers::datastore::{
    Capacity, Forgotten, ImageTarget, PointFacts, RestoreRequest, Restored, SourceDisk, StoreRequest, Stored, Verified,
    VerifyRequest,
};
use drivers::hypervisor::{
    BackupSpec, DomainDisk, DomainEvent, DomainNic, DomainSpec, DomainState, DomainStats, HostFacts,
};
use drivers::{
    BackupDatastore, BackupSession, Cancel, DiskReader, DiskWriter, DriverError, Extent, HandedOver, Hypervisor,
    Progress, Result,
};

use crate::crash;

/// What a call meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Nothing is done, and the system gives this error (an errno of Linux).
    Errno(i32),
    /// All is done, but the caller hears of a time-out.
    AnswerLost,
    /// The connection is lost: nothing is done, now and by all later calls to drivers of the same kind, until
    /// [`Plug::mend`]. A session that is open stays so.
    Away,
}

/// One call that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flaw {
    /// Which one, from 1, of all that are made.
    pub call: usize,
    /// What it meets.
    pub how: How,
}

/// Counts the calls of one [`super::Outside`].
#[derive(Default)]
pub struct Plug(Mutex<State>);

#[derive(Default)]
struct State {
    calls: Vec<&'static str>,
    flaw: Option<Flaw>,
    /// What comes before the dot in the names of the calls that fail.
    away: Option<&'static str>,
}

impl Plug {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to count anew, and lets `flaw` happen.
    pub fn strike(&self, flaw: Option<Flaw>) {
        *self.state() = State { flaw, ..State::default() };
    }

    /// Takes a lost connection up again.
    pub fn mend(&self) {
        self.state().away = None;
    }

    /// The names of the calls that were made, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<&'static str> {
        self.state().calls.clone()
    }

    /// What this call meets, if anything.
    fn enter(&self, name: &'static str) -> Option<How> {
        let mut state = self.state();
        state.calls.push(name);
        let number = state.calls.len();
        let flaw = state.flaw.filter(|flaw| flaw.call == number).map(|flaw| flaw.how);
        let side = name.split('.').next();
        if flaw == Some(How::Away) {
            state.away = side;
        }
        flaw.or_else(|| state.away.filter(|away| Some(*away) == side).map(|_| How::Away))
    }

    fn around<T>(&self, name: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let how = self.enter(name);
        crash::point(name);
        let failure = match how {
            Some(How::Errno(number)) => Some(number),
            // ECONNRESET.
            Some(How::Away) => Some(104),
            Some(How::AnswerLost) | None => None,
        };
        if let Some(number) = failure {
            return Err(DriverError::io(name, std::io::Error::from_raw_os_error(number)));
        }
        let outcome = work();
        let done = [name, ".done"].concat();
        crash::point(&done);
        if how == Some(How::AnswerLost) && outcome.is_ok() {
            // Not dropped: a session that nobody knows of stays open.
            std::mem::forget(outcome);
            return Err(DriverError::io(name, std::io::ErrorKind::TimedOut.into()));
        }
        outcome
    }
}

/// A hypervisor whose calls are counted.
pub(super) fn hypervisor(inner: Arc<dyn Hypervisor>, plug: &Arc<Plug>) -> Arc<dyn Hypervisor> {
    Arc::new(PluggedHypervisor { inner, plug: Arc::clone(plug) })
}

/// A datastore whose calls are counted.
pub(super) fn datastore(inner: Arc<dyn BackupDatastore>, plug: &Arc<Plug>) -> Arc<dyn BackupDatastore> {
    Arc::new(PluggedDatastore { inner, plug: Arc::clone(plug) })
}

struct PluggedHypervisor {
    inner: Arc<dyn Hypervisor>,
    plug: Arc<Plug>,
}

struct PluggedDatastore {
    inner: Arc<dyn BackupDatastore>,
    plug: Arc<Plug>,
}

struct PluggedSession {
    inner: Box<dyn BackupSession>,
    plug: Arc<Plug>,
}

struct PluggedReader {
    inner: Box<dyn DiskReader>,
    plug: Arc<Plug>,
}

/// Methods that are counted: `name(argument: type, …) -> type;`.
macro_rules! counted {
    ($kind:literal; $($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self, $($argument: $type),*) -> Result<$result> {
            self.plug.around(concat!($kind, ".", stringify!($name)), || self.inner.$name($($argument),*))
        })*
    };
}

impl Hypervisor for PluggedHypervisor {
    counted! { "hypervisor";
        deploy(spec: &DomainSpec) -> ();
        resume(domain: &str) -> ();
        shutdown(domain: &str, timeout: Duration) -> ();
        destroy(domain: &str) -> ();
        reboot(domain: &str, hard: bool) -> ();
        undefine(domain: &str) -> ();
        pause(domain: &str) -> ();
        save(domain: &str, file: &Path) -> ();
        restore_saved(domain: &str, file: &Path) -> ();
        attach_disk(domain: &str, disk: &DomainDisk) -> ();
        detach_disk(domain: &str, target: &str, timeout: Duration) -> ();
        attach_nic(domain: &str, nic: &DomainNic) -> ();
        detach_nic(domain: &str, mac: &str, timeout: Duration) -> ();
        resize_disk(domain: &str, disk: &DomainDisk, bytes: u64) -> ();
        disk_snapshot_create(domain: &str, disk: &DomainDisk, snapshot: &str) -> ();
        disk_snapshot_revert(domain: &str, disk: &DomainDisk, snapshot: &str) -> ();
        disk_snapshot_delete(domain: &str, disk: &DomainDisk, snapshot: &str) -> ();
        system_snapshot_create(domain: &str, snapshot: &str) -> ();
        system_snapshot_revert(domain: &str, snapshot: &str) -> ();
        system_snapshot_delete(domain: &str, snapshot: &str) -> ();
        abandon_backup(spec: &BackupSpec) -> ();
        checkpoints(domain: &str, disks: &[PathBuf]) -> Vec<String>;
        delete_checkpoint(domain: &str, checkpoint: &str, disks: &[PathBuf]) -> ();
    }

    fn facts(&self) -> Result<HostFacts> {
        self.inner.facts()
    }

    fn state(&self, domain: &str) -> Result<Option<DomainState>> {
        self.inner.state(domain)
    }

    fn stats(&self, domain: &str) -> Result<Option<DomainStats>> {
        self.inner.stats(domain)
    }

    fn begin_backup(&self, spec: &BackupSpec) -> Result<Box<dyn BackupSession>> {
        let session = self.plug.around("hypervisor.begin_backup", || self.inner.begin_backup(spec))?;
        Ok(Box::new(PluggedSession { inner: session, plug: Arc::clone(&self.plug) }))
    }

    fn subscribe(&self, sink: Sender<DomainEvent>) -> Result<()> {
        self.inner.subscribe(sink)
    }
}

impl PluggedSession {
    fn reader(&self, reader: Result<Box<dyn DiskReader>>) -> Result<Box<dyn DiskReader>> {
        Ok(Box::new(PluggedReader { inner: reader?, plug: Arc::clone(&self.plug) }))
    }
}

impl BackupSession for PluggedSession {
    fn disk(&mut self, id: u32) -> Result<Box<dyn DiskReader>> {
        let reader = self.plug.around("hypervisor.disk", || self.inner.disk(id));
        self.reader(reader)
    }

    fn whole_disk(&mut self, id: u32) -> Result<Box<dyn DiskReader>> {
        let reader = self.plug.around("hypervisor.whole_disk", || self.inner.whole_disk(id));
        self.reader(reader)
    }

    fn warnings(&self) -> Vec<String> {
        self.inner.warnings()
    }

    fn is_alive(&self) -> bool {
        self.inner.is_alive()
    }

    fn end(self: Box<Self>) -> Result<()> {
        let Self { inner, plug } = *self;
        // What nobody could end stays open.
        let inner = ManuallyDrop::new(inner);
        plug.around("hypervisor.end", || ManuallyDrop::into_inner(inner).end())
    }
}

impl DiskReader for PluggedReader {
    fn size_bytes(&self) -> u64 {
        self.inner.size_bytes()
    }

    fn extents(&mut self) -> Result<Vec<Extent>> {
        self.plug.around("hypervisor.extents", || self.inner.extents())
    }

    fn read(
        &mut self,
        ranges: &mut dyn Iterator<Item = (u64, u32)>,
        sink: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        self.plug.around("hypervisor.read", || self.inner.read(ranges, sink))
    }

    fn hand_over(&mut self) -> Option<HandedOver> {
        self.inner.hand_over()
    }
}

impl BackupDatastore for PluggedDatastore {
    counted! { "datastore";
        store(request: &StoreRequest<'_>, disks: Vec<SourceDisk>, progress: &Progress, cancel: &Cancel) -> Stored;
        find(series: &str, job: &str) -> Option<Stored>;
        inspect(series: &str, point: &str) -> Stored;
        document(series: &str, point: &str) -> Vec<u8>;
        restore(
            request: RestoreRequest<'_>, target: &mut dyn DiskWriter, progress: &Progress, cancel: &Cancel
        ) -> Restored;
        restore_image(
            request: RestoreRequest<'_>, target: &ImageTarget, progress: &Progress, cancel: &Cancel
        ) -> Restored;
        verify(
            request: &VerifyRequest<'_>, save: &mut dyn FnMut(&str) -> Result<()>, progress: &Progress, cancel: &Cancel
        ) -> Verified;
        forget(series: &str, points: &[String], progress: &Progress, cancel: &Cancel) -> Forgotten;
        sweep(series: &str, progress: &Progress) -> ();
        series() -> Vec<String>;
        points(series: &str) -> Vec<PointFacts>;
    }

    fn capacity(&self) -> Result<Capacity> {
        self.inner.capacity()
    }

    fn probe(&self) -> Result<()> {
        self.inner.probe()
    }
}
