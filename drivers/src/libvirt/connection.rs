//! The connection to libvirtd: opened when needed, kept alive, opened again when it was lost.
//!
//! Blocks as long as libvirt does; everything here is called under [`super::deadline::within`].

use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};
use std::time::Duration;

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

use super::deadline::poll;
use super::stats::Samples;
use super::{check_name, code, events, failed, ffi};
use crate::hypervisor::DomainEvent;
use crate::{DriverError, Kind, Result};

/// A dead peer is noticed after this many seconds times [`KEEPALIVE_COUNT`].
const KEEPALIVE_SECONDS: i32 = 5;
const KEEPALIVE_COUNT: u32 = 3;
/// How long to wait for somebody else who is opening the connection.
const OPEN_WITHIN: Duration = Duration::from_secs(20);

/// What threads share.
pub(super) struct Connection {
    uri: String,
    link: Mutex<Option<Link>>,
    opening: Mutex<()>,
    hub: Arc<events::Hub>,
    samples: Samples,
}

/// An open connection with our callbacks. Fields drop in this order.
struct Link {
    _callbacks: ffi::Registration,
    connect: Connect,
}

impl Connection {
    /// Not yet connected to `uri`; a thread sees to it that a lost connection comes back.
    pub(super) fn new(uri: &str) -> Result<Arc<Self>> {
        let (loss, lost) = std::sync::mpsc::channel();
        let hub = Arc::new(events::Hub::default());
        hub.watch_loss(loss);
        let this = Arc::new(Self {
            uri: uri.to_owned(),
            link: Mutex::new(None),
            opening: Mutex::new(()),
            hub,
            samples: Samples::default(),
        });
        let weak = Arc::downgrade(&this);
        std::thread::Builder::new()
            .name("libvirt-keeper".into())
            .spawn(move || keep_connected(&weak, &lost))
            .map_err(|error| DriverError::io("connecting to libvirt", error))?;
        Ok(this)
    }

    /// Who is told of events.
    pub(super) fn hub(&self) -> &events::Hub {
        &self.hub
    }

    /// What domains had used when they were last asked.
    pub(super) fn samples(&self) -> &Samples {
        &self.samples
    }

    /// The connection; opened (again) if need be. Blocks: only to be called under [`super::deadline::within`].
    pub(super) fn connect(&self) -> Result<Connect> {
        if let Some(connect) = self.present() {
            return Ok(connect);
        }
        let doing = format!("connecting to libvirt at {}", self.uri);
        let mut turn = None;
        let got_turn = poll(OPEN_WITHIN, || {
            turn = match self.opening.try_lock() {
                Ok(guard) => Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            };
            Ok(turn.is_some())
        })?;
        if !got_turn {
            let reason = "another thread has been waiting for the connection; libvirtd does not answer";
            return Err(DriverError::new(Kind::Retry, doing, reason));
        }
        if let Some(connect) = self.present() {
            return Ok(connect);
        }
        let unreachable = |error: &Error| {
            let kind = match code(error) {
                sys::VIR_ERR_AUTH_FAILED | sys::VIR_ERR_AUTH_UNAVAILABLE | sys::VIR_ERR_NO_SUPPORT => Kind::Permanent,
                _ => Kind::Retry,
            };
            DriverError::new(kind, doing.as_str(), error.message())
        };
        let connect = Connect::open(Some(&self.uri)).map_err(|error| unreachable(&error))?;
        if let Err(error) = connect.set_keep_alive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT) {
            tracing::debug!(error = error.message(), "the connection has no keep-alive");
        }
        let callbacks = ffi::Registration::new(&connect, &self.hub).map_err(|error| unreachable(&error))?;
        let link = Link { _callbacks: callbacks, connect: connect.clone() };
        let old = self.link.lock().unwrap_or_else(PoisonError::into_inner).replace(link);
        // Outside the lock: dropping it calls libvirt.
        drop(old);
        tracing::debug!(uri = self.uri, "connected to libvirt");
        Ok(connect)
    }

    /// The connection if it is open and alive.
    fn present(&self) -> Option<Connect> {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let connect = &link.as_ref()?.connect;
        connect.is_alive().unwrap_or(false).then(|| connect.clone())
    }

    /// The domain of this name; none = not defined.
    pub(super) fn lookup(&self, name: &str) -> Result<Option<Domain>> {
        check_name(name)?;
        match self.connect()?.lookup_domain_by_name(name) {
            Ok(domain) => Ok(Some(domain)),
            Err(error) if code(&error) == sys::VIR_ERR_NO_DOMAIN => Ok(None),
            Err(error) => Err(failed(&format!("looking for domain {name}"), &error)),
        }
    }

    /// As [`Self::lookup`]; not defined is [`Kind::Missing`].
    pub(super) fn existing(&self, name: &str, doing: &str) -> Result<Domain> {
        let missing = || DriverError::new(Kind::Missing, doing, format!("domain {name} is not defined"));
        self.lookup(name)?.ok_or_else(missing)
    }
}

/// Opens the connection again whenever it was lost, so that events go on without anybody asking.
fn keep_connected(connection: &Weak<Connection>, lost: &Receiver<()>) {
    while lost.recv().is_ok() {
        let mut pause = Duration::from_millis(250);
        loop {
            let Some(connection) = connection.upgrade() else { return };
            if connection.connect().is_ok() {
                // What happened meanwhile was not told.
                connection.hub.send(&DomainEvent::Disconnected);
                break;
            }
            drop(connection);
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }
}
