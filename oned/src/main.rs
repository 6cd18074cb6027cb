//! `oned`: the command line of the daemon.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use oned::daemon::{Options, run};
use oned::{engine, service};

/// The cloud core: keeps VMs, images and backups, and answers OpenNebula's XML-RPC.
#[derive(Parser)]
#[command(name = "oned", version)]
struct Arguments {
    /// Where the state lies; default /var/lib/one for root, else ~/.local/state/keeplast.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where to listen instead of LISTEN_ADDRESS and PORT; port 0 takes any free one.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// The configuration; default oned.conf in the state directory, else /etc/keeplast/oned.conf.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    // Not for people: how the daemon starts the process of a backup datastore.
    if std::env::args_os().nth(1).is_some_and(|word| word == engine::SERVE) {
        let Err(error) = engine::serve();
        let _ = writeln!(std::io::stderr(), "oned: This is the process of a datastore, for oned to start: {error}");
        return ExitCode::FAILURE;
    }
    let Arguments { state_dir, listen, config } = Arguments::parse();
    match run(&Options { state_dir, listen, config }, service::open) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do if stderr is gone.
            let _ = writeln!(std::io::stderr(), "oned: {error:#}");
            ExitCode::FAILURE
        }
    }
}
