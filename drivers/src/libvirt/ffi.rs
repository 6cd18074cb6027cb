//! The calls of libvirt's C library that the `virt` crate does not wrap, behind owners that free on drop.
//!
//! This is the only file of the project that holds unsafe code. It knows pointers and their lifetimes, nothing of
//! backups. Two rules of libvirt shape it: the last error belongs to the thread that made the call, so each function
//! reads it before it returns; and strings are NUL-terminated, so text that holds a NUL is refused as an error.
//!
//! `virt::domain::Domain::job_stats` is not used because it builds a `Vec` from libvirt's array, which is a null pointer
//! when no job runs; [`job_type`] frees the array with libvirt's own function.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

/// The result of a raw call.
pub(super) type VirResult<T> = Result<T, Error>;

unsafe extern "C" {
    /// The C library's `free`: libvirt hands out strings and arrays that it must release.
    fn free(pointer: *mut c_void);
}

/// Turns libvirt's "-1 means error" into a `Result`; must run on the thread that made the call.
fn checked(code: c_int) -> VirResult<c_int> {
    if code < 0 { Err(Error::last_error()) } else { Ok(code) }
}

/// Copies and frees a string that libvirt allocated for the caller.
fn taken(text: *mut c_char) -> VirResult<String> {
    if text.is_null() {
        return Err(Error::last_error());
    }
    // SAFETY: not null; libvirt returns a NUL-terminated string that now belongs to us.
    let copy = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: libvirt's documentation says that the caller frees it with free(); it is not used afterwards.
    unsafe { free(text.cast()) };
    Ok(copy)
}

/// The raw handle of `domain`, valid while the borrow lasts.
fn raw(domain: &Domain) -> sys::virDomainPtr {
    // SAFETY: only read for the length of one call below, during which `domain` stays borrowed and thus alive.
    unsafe { domain.as_ptr() }
}

/// (state, reason) of a domain in libvirt's numbers.
pub(super) fn state(domain: &Domain) -> VirResult<(u32, u32)> {
    let (mut state, mut reason): (c_int, c_int) = (0, 0);
    // SAFETY: the domain is alive; both out-pointers are valid for the call.
    checked(unsafe { sys::virDomainGetState(raw(domain), &raw mut state, &raw mut reason, 0) })?;
    Ok((state.unsigned_abs(), reason.unsigned_abs()))
}

/// Begins a backup, and with `checkpoint` a checkpoint in the same instant.
pub(super) fn backup_begin(domain: &Domain, backup: &str, checkpoint: Option<&str>) -> VirResult<()> {
    let backup = CString::new(backup)?;
    let checkpoint = checkpoint.map(CString::new).transpose()?;
    let checkpoint = checkpoint.as_ref().map_or(ptr::null(), |text| text.as_ptr());
    // SAFETY: the domain and both strings outlive the call; a null checkpoint means none.
    checked(unsafe { sys::virDomainBackupBegin(raw(domain), backup.as_ptr(), checkpoint, 0) }).map(drop)
}

/// The document of the backup that runs; an error of number `VIR_ERR_NO_DOMAIN_BACKUP` when none does.
pub(super) fn backup_document(domain: &Domain) -> VirResult<String> {
    // SAFETY: the domain is alive; the returned string is ours.
    taken(unsafe { sys::virDomainBackupGetXMLDesc(raw(domain), 0) })
}

/// Asks the domain's running job to stop. Returns before it is gone.
pub(super) fn abort_job(domain: &Domain) -> VirResult<()> {
    // SAFETY: the domain is alive.
    checked(unsafe { sys::virDomainAbortJob(raw(domain)) }).map(drop)
}

/// Kind of the job that runs on the domain (`VIR_DOMAIN_JOB_*`), 0 = none.
pub(super) fn job_type(domain: &Domain) -> VirResult<u32> {
    let mut kind: c_int = 0;
    let mut values: sys::virTypedParameterPtr = ptr::null_mut();
    let mut count: c_int = 0;
    // SAFETY: the domain is alive; the three out-pointers are valid for the call.
    checked(unsafe { sys::virDomainGetJobStats(raw(domain), &raw mut kind, &raw mut values, &raw mut count, 0) })?;
    if !values.is_null() {
        // SAFETY: libvirt allocated the array and its strings; nothing refers to them any more.
        unsafe { sys::virTypedParamsFree(values, count) };
    }
    Ok(kind.unsigned_abs())
}

/// Freezes all file systems of the guest through its agent; their number.
pub(super) fn freeze(domain: &Domain) -> VirResult<c_int> {
    // SAFETY: the domain is alive; no mount points means all of them.
    checked(unsafe { sys::virDomainFSFreeze(raw(domain), ptr::null_mut(), 0, 0) })
}

/// Thaws all file systems of the guest through its agent; their number.
pub(super) fn thaw(domain: &Domain) -> VirResult<c_int> {
    // SAFETY: the domain is alive; no mount points means all of them.
    checked(unsafe { sys::virDomainFSThaw(raw(domain), ptr::null_mut(), 0, 0) })
}

/// Limits how long libvirt waits for the domain's guest agent, in seconds. Stays in force for everybody.
pub(super) fn set_agent_timeout(domain: &Domain, seconds: c_int) -> VirResult<()> {
    // SAFETY: the domain is alive.
    checked(unsafe { sys::virDomainAgentSetResponseTimeout(raw(domain), seconds, 0) }).map(drop)
}

/// Saves the domain's memory into a file of libvirt's format (`VIR_DOMAIN_SAVE_*`) and stops it.
pub(super) fn save(domain: &Domain, file: &str, flags: u32) -> VirResult<()> {
    let file = CString::new(file)?;
    // SAFETY: the domain and the string outlive the call; a null document means the domain's own.
    checked(unsafe { sys::virDomainSaveFlags(raw(domain), file.as_ptr(), ptr::null(), flags) }).map(drop)
}

/// The size in bytes that the guest sees of the disk at `target`. (The crate's `block_info` does not look whether the
/// call succeeded before it reads the answer.)
pub(super) fn block_capacity(domain: &Domain, target: &str) -> VirResult<u64> {
    let target = CString::new(target)?;
    let mut info = sys::virDomainBlockInfo { capacity: 0, allocation: 0, physical: 0 };
    // SAFETY: the domain and the string outlive the call; the out-pointer is valid for it.
    checked(unsafe { sys::virDomainGetBlockInfo(raw(domain), target.as_ptr(), &raw mut info, 0) })?;
    Ok(info.capacity)
}

/// A checkpoint that libvirt knows.
pub(super) struct Checkpoint(sys::virDomainCheckpointPtr);

impl Checkpoint {
    fn owned(pointer: sys::virDomainCheckpointPtr) -> VirResult<Self> {
        if pointer.is_null() { Err(Error::last_error()) } else { Ok(Self(pointer)) }
    }

    /// Creates or redefines one (`VIR_DOMAIN_CHECKPOINT_CREATE_*`).
    pub(super) fn create(domain: &Domain, document: &str, flags: u32) -> VirResult<Self> {
        let document = CString::new(document)?;
        // SAFETY: the domain and the string outlive the call; the returned reference is ours.
        Self::owned(unsafe { sys::virDomainCheckpointCreateXML(raw(domain), document.as_ptr(), flags) })
    }

    /// The one of this name; an error of number `VIR_ERR_NO_DOMAIN_CHECKPOINT` when unknown.
    pub(super) fn lookup(domain: &Domain, name: &str) -> VirResult<Self> {
        let name = CString::new(name)?;
        // SAFETY: the domain and the string outlive the call; the returned reference is ours.
        Self::owned(unsafe { sys::virDomainCheckpointLookupByName(raw(domain), name.as_ptr(), 0) })
    }

    /// All of a domain.
    pub(super) fn all(domain: &Domain) -> VirResult<Vec<Self>> {
        let mut list: *mut sys::virDomainCheckpointPtr = ptr::null_mut();
        // SAFETY: the domain is alive; the out-pointer is valid for the call.
        let count = checked(unsafe { sys::virDomainListAllCheckpoints(raw(domain), &raw mut list, 0) })?;
        let mut all = Vec::new();
        if !list.is_null() {
            for index in 0..count.unsigned_abs() as usize {
                // SAFETY: libvirt filled `count` entries, each a reference that now belongs to us.
                all.push(Self(unsafe { *list.add(index) }));
            }
            // SAFETY: the array itself is ours to free; the entries were moved out.
            unsafe { free(list.cast()) };
        }
        Ok(all)
    }

    /// Its name.
    pub(super) fn name(&self) -> VirResult<String> {
        // SAFETY: the checkpoint is alive; the string belongs to it.
        let name = unsafe { sys::virDomainCheckpointGetName(self.0) };
        if name.is_null() {
            return Err(Error::last_error());
        }
        // SAFETY: not null, NUL-terminated, alive as long as `self`.
        Ok(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    }

    /// Its document, without that of the domain.
    pub(super) fn document(&self) -> VirResult<String> {
        // SAFETY: the checkpoint is alive; the returned string is ours.
        taken(unsafe { sys::virDomainCheckpointGetXMLDesc(self.0, sys::VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN) })
    }

    /// Deletes it with its bitmaps, or (with `VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY`) libvirt's memory of it.
    pub(super) fn delete(&self, flags: u32) -> VirResult<()> {
        // SAFETY: the checkpoint is alive.
        checked(unsafe { sys::virDomainCheckpointDelete(self.0, flags) }).map(drop)
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        // SAFETY: we own exactly one reference and give it back once.
        unsafe { sys::virDomainCheckpointFree(self.0) };
    }
}

/// Who is told of events. Called on the event thread: must not block and must not call libvirt.
pub(super) trait Listener: Send + Sync + 'static {
    /// Something happened to the domain of this name.
    fn changed(&self, domain: String);
    /// The connection is lost.
    fn closed(&self);
}

/// What libvirt keeps for us as an opaque pointer: one strong reference to the listener.
type Opaque<L> = Arc<L>;

/// Callbacks of one connection; dropping it takes them back. Holds the connection open.
pub(super) struct Registration {
    connect: Connect,
    callbacks: Vec<c_int>,
    close: sys::virConnectCloseFunc,
}

impl Registration {
    /// Registers `listener` for lifecycle, reboot and job events of all domains and for the loss of the connection.
    /// What the connection does not offer is left out, except lifecycle events.
    pub(super) fn new<L: Listener>(connect: &Connect, listener: &Arc<L>) -> VirResult<Self> {
        let mut registration = Self { connect: connect.clone(), callbacks: Vec::new(), close: None };
        registration.on_close(listener);
        // SAFETY: libvirt's documentation of virConnectDomainEventRegisterAny pairs each event id with a callback
        // type and asks for a cast to the generic one; the pairs below are the documented ones
        // (virConnectDomainEventCallback, ...GenericCallback, ...JobCompletedCallback).
        let lifecycle: sys::virConnectDomainEventGenericCallback =
            Some(unsafe { std::mem::transmute::<LifecycleCallback, GenericCallback>(lifecycle_happened::<L>) });
        // SAFETY: as above.
        let job: sys::virConnectDomainEventGenericCallback =
            Some(unsafe { std::mem::transmute::<JobCallback, GenericCallback>(job_completed::<L>) });
        registration.on_event(listener, sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle)?;
        let optional = [
            (sys::VIR_DOMAIN_EVENT_ID_REBOOT, Some(generic_happened::<L> as GenericCallback)),
            (sys::VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, job),
        ];
        for (id, callback) in optional {
            if let Err(error) = registration.on_event(listener, id, callback) {
                tracing::debug!(id, error = error.message(), "libvirt does not offer this event");
            }
        }
        Ok(registration)
    }

    fn pointer(&self) -> sys::virConnectPtr {
        // SAFETY: used for the length of one call while `self` keeps the connection alive.
        unsafe { self.connect.as_ptr() }
    }

    fn on_event<L: Listener>(
        &mut self,
        listener: &Arc<L>,
        id: u32,
        callback: sys::virConnectDomainEventGenericCallback,
    ) -> VirResult<()> {
        let opaque = opaque(listener);
        // SAFETY: the connection is alive; a null domain means all; `opaque` is a strong reference that libvirt keeps
        // until it calls `release` exactly once.
        let code = unsafe {
            sys::virConnectDomainEventRegisterAny(
                self.pointer(),
                ptr::null_mut(),
                id.cast_signed(),
                callback,
                opaque,
                Some(release::<L>),
            )
        };
        let registered = checked(code);
        if registered.is_err() {
            // SAFETY: a refused registration does not take the reference over.
            unsafe { release::<L>(opaque) };
        }
        self.callbacks.push(registered?);
        Ok(())
    }

    /// Not every connection can tell of its end (those within this process have none); then nothing is registered.
    fn on_close<L: Listener>(&mut self, listener: &Arc<L>) {
        let opaque = opaque(listener);
        let callback: sys::virConnectCloseFunc = Some(connection_closed::<L>);
        // SAFETY: as in `on_event`.
        let code =
            unsafe { sys::virConnectRegisterCloseCallback(self.pointer(), callback, opaque, Some(release::<L>)) };
        if code < 0 {
            // SAFETY: a refused registration does not take the reference over.
            unsafe { release::<L>(opaque) };
        } else {
            self.close = callback;
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        for id in &self.callbacks {
            // SAFETY: the connection is alive and the id came from it; failing means that it is gone already.
            unsafe { sys::virConnectDomainEventDeregisterAny(self.pointer(), *id) };
        }
        if self.close.is_some() {
            // SAFETY: the same function was registered on the same connection.
            unsafe { sys::virConnectUnregisterCloseCallback(self.pointer(), self.close) };
        }
    }
}

type GenericCallback = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
type LifecycleCallback =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
type JobCallback =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, sys::virTypedParameterPtr, c_int, *mut c_void);

fn opaque<L: Listener>(listener: &Arc<L>) -> *mut c_void {
    Opaque::<L>::into_raw(Arc::clone(listener)).cast_mut().cast()
}

/// Gives back the reference that [`opaque`] made.
unsafe extern "C" fn release<L: Listener>(opaque: *mut c_void) {
    // SAFETY: `opaque` came from `Arc::into_raw` of this very type, and libvirt calls this once.
    drop(unsafe { Opaque::<L>::from_raw(opaque.cast::<L>().cast_const()) });
}

/// Tells the listener; a panic must not cross into C.
fn tell<L: Listener>(domain: sys::virDomainPtr, opaque: *mut c_void) {
    // SAFETY: libvirt holds the strong reference while it calls us.
    let listener = unsafe { &*opaque.cast::<L>() };
    // SAFETY: the domain is alive during the callback.
    let name = unsafe { sys::virDomainGetName(domain) };
    if name.is_null() {
        return;
    }
    // SAFETY: not null, NUL-terminated, owned by the domain.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| listener.changed(name))));
}

unsafe extern "C" fn lifecycle_happened<L: Listener>(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    tell::<L>(domain, opaque);
    0
}

unsafe extern "C" fn generic_happened<L: Listener>(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    opaque: *mut c_void,
) {
    tell::<L>(domain, opaque);
}

unsafe extern "C" fn job_completed<L: Listener>(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _values: sys::virTypedParameterPtr,
    _count: c_int,
    opaque: *mut c_void,
) {
    tell::<L>(domain, opaque);
}

unsafe extern "C" fn connection_closed<L: Listener>(_connect: sys::virConnectPtr, _reason: c_int, opaque: *mut c_void) {
    // SAFETY: libvirt holds the strong reference while it calls us.
    let listener = unsafe { &*opaque.cast::<L>() };
    drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| listener.closed())));
}
