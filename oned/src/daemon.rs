//! The life of the daemon: directory, configuration, lock, log, socket, service, end.
//!
//! What it is not: it knows no store, api or engine. Those are made by the function that is handed to [`run`], after
//! the socket is bound (so that a taken port is told before anything starts) and before the first call is served.
//!
//! Invariants: readiness is told (endpoint file, systemd) only when calls are answered; the first SIGTERM or SIGINT ends
//! in order, the second at once; state survives both, since nothing is kept only in memory.

use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Overrides};
use crate::instance::{FirstSession, Instance, state_directory};
use crate::log;
use crate::rpc::{Door, Limits, Listener, Method, Tls, serve};
use anyhow::Context as _;
use sd_notify::NotifyState;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit status after a second signal: the usual one of a process ended by SIGINT.
const AT_ONCE: i32 = 130;

/// The command line.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<SocketAddr>,
    /// `--config`.
    pub config: Option<PathBuf>,
}

/// What the service is made from.
pub struct Setting {
    /// The lock on the state directory; kept until the daemon ends.
    pub instance: Instance,
    /// The configuration.
    pub config: Config,
    /// Name and password of user 0 on a fresh state.
    pub first_session: FirstSession,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where the daemon listens, as clients reach it: `http://host:port/RPC2`, or `https`.
    pub endpoint: String,
}

/// The working parts behind the door.
pub struct Service<D: Door> {
    /// Who is calling?
    pub door: Arc<D>,
    /// What can be called?
    pub methods: &'static [Method<D>],
    /// Ends background work after the last call. Blocking; it has SHUTDOWN_TIMEOUT, then the process ends anyway.
    pub stop: Box<dyn FnOnce() + Send>,
}

/// Runs the daemon until a signal ends it.
///
/// # Errors
/// When it cannot start: directory, configuration, lock, log, socket, or `open` itself.
pub fn run<D: Door>(
    options: &Options,
    open: impl FnOnce(&Setting) -> anyhow::Result<Service<D>>,
) -> anyhow::Result<()> {
    let directory = state_directory(options.state_dir.as_deref())?;
    let overrides = Overrides { listen: options.listen, state_dir: directory.clone() };
    let file = options.config.clone().or_else(|| usual_config(&directory));
    let config = Config::load(file.as_deref(), &overrides)?;
    let instance = Instance::take(&directory)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    log::start(&directory.join("oned.log"), config.debug_level, config.timezone, Arc::clone(&clock))?;
    tracing::info!(
        target: "ONE",
        version = env!("CARGO_PKG_VERSION"), state = %directory.display(), zone = config.timezone.name(), "starting"
    );
    config.warnings.iter().for_each(|warning| tracing::warn!(target: "ONE", "{warning}"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("oned-door")
        .build()
        .context("Cannot start the threads of the door")?;
    let result = runtime.block_on(live(instance, config, clock, open));
    // Calls that outlived SHUTDOWN_TIMEOUT are on blocking threads; the process does not wait for them any longer.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match &result {
        Ok(()) => tracing::info!(target: "ONE", "ended"),
        Err(error) => tracing::error!(target: "ONE", "{error:#}"),
    }
    result
}

async fn live<D: Door>(
    instance: Instance,
    config: Config,
    clock: Arc<dyn Clock>,
    open: impl FnOnce(&Setting) -> anyhow::Result<Service<D>>,
) -> anyhow::Result<()> {
    // Before anything can be waited for, so that no signal finds the default action.
    let signals = Signals::listen().context("Cannot listen for signals")?;
    let one_auth = std::env::var_os("ONE_AUTH").map(PathBuf::from);
    let first_session = instance.first_session(one_auth.as_deref())?;
    // Before the socket: a client must not find an address that never speaks.
    let tls = config.tls.as_ref().map(|files| Tls::load(&files.certificate, &files.key)).transpose()?;
    let socket = bind(&config).with_context(|| format!("Cannot listen on {}", config.listen))?;
    let address = socket.local_addr().context("Cannot tell the address of the socket")?;
    let endpoint = endpoint_of(address, tls.is_some());
    let setting = Setting { instance, config, first_session, clock, endpoint };
    let service = tokio::task::block_in_place(|| open(&setting))?;
    setting.instance.publish_endpoint(&setting.endpoint)?;
    tracing::info!(target: "ONE", "listening on {}", setting.endpoint);
    tell_systemd(NotifyState::Ready);
    let shutdown = async {
        signals.wait().await;
        tell_systemd(NotifyState::Stopping);
    };
    let listener = Listener::new(socket, tls);
    serve(listener, service.door, service.methods, limits(&setting.config), shutdown).await?;
    let stop = tokio::task::spawn_blocking(service.stop);
    match tokio::time::timeout(setting.config.shutdown_timeout, stop).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => tracing::error!(target: "ONE", "background work panicked while it was ended"),
        Err(_) => {
            tracing::warn!(target: "ONE", "background work did not end in SHUTDOWN_TIMEOUT; it is resumed at the next start");
        }
    }
    Ok(())
}

/// `oned.conf` in the state directory, else in /etc/keeplast, else none.
fn usual_config(directory: &Path) -> Option<PathBuf> {
    [directory.join("oned.conf"), PathBuf::from("/etc/keeplast/oned.conf")].into_iter().find(|path| path.exists())
}

fn limits(config: &Config) -> Limits {
    Limits {
        message_bytes: config.message_size,
        connections: config.max_conn,
        idle: config.keepalive_timeout,
        requests_per_connection: config.keepalive_max_conn,
        stall: config.timeout,
        shutdown: config.shutdown_timeout,
        ..Limits::default()
    }
}

fn bind(config: &Config) -> std::io::Result<TcpListener> {
    let socket = if config.listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for the connections of the daemon before it.
    socket.set_reuseaddr(true)?;
    socket.bind(config.listen)?;
    socket.listen(config.max_conn_backlog)
}

/// How clients on this machine reach the socket: the address of "any" is no address to call.
fn endpoint_of(mut address: SocketAddr, tls: bool) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    let scheme = if tls { "https" } else { "http" };
    format!("{scheme}://{address}/RPC2")
}

fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(target: "ONE", %error, "systemd could not be told");
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Ready at the first signal; from then on the next one ends the process at once.
    async fn wait(mut self) {
        self.next().await;
        tracing::info!(target: "ONE", "ending; a second signal ends at once");
        tokio::spawn(async move {
            self.next().await;
            tracing::warn!(target: "ONE", "ended at once by a second signal");
            std::process::exit(AT_ONCE);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_an_address_that_can_be_called() {
        let cases = [
            ("0.0.0.0:2633", "http://127.0.0.1:2633/RPC2"),
            ("[::]:1", "http://[::1]:1/RPC2"),
            ("10.0.0.1:5", "http://10.0.0.1:5/RPC2"),
        ];
        for (address, endpoint) in cases {
            let address = address.parse().unwrap();
            assert_eq!(endpoint_of(address, false), endpoint);
            assert_eq!(endpoint_of(address, true), endpoint.replace("http:", "https:"));
        }
    }
}
