//! The commands `onevm`, `oneimage` and their kin: OpenNebula's command line for a daemon that speaks its XML-RPC.
//!
//! What it is: one binary with a tool per file under [`commands`], picked by name in [`tools`], an answer-or-sentence client in [`wire`], and the
//! tables and blocks that users of OpenNebula know. What it is not: it holds no state and never looks at the daemon's
//! files; all it knows it reads over the wire.
//!
//! Conduct: silent on success except for ids, one line on standard error and exit status 255 on failure (also for wrong
//! options; 130 after an interrupt), results on standard output, progress on standard error.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser};

pub mod commands;
pub mod completion;
pub mod events;
pub mod growth;
pub mod help;
pub mod input;
pub mod json;
pub mod layout;
pub mod links;
pub mod man;
pub mod names;
pub mod objects;
pub mod password;
pub mod points;
pub mod schedule;
pub mod show;
pub mod states;
pub mod table;
pub mod template_text;
pub mod terminal;
pub mod tools;
pub mod units;
pub mod usage;
pub mod watch;
pub mod width;
pub mod wire;
pub mod xml;
pub mod yaml;

/// Exit status of every failure, as OpenNebula's tools have it.
const FAILURE: u8 = 255;

/// How to reach the daemon, and as whom.
#[derive(Args, Clone, Debug, Default)]
pub struct Connection {
    /// Address of oned (ONE_XMLRPC, ~/.one/one_endpoint)
    #[arg(long, global = true, value_name = "URL")]
    pub endpoint: Option<String>,
    /// User, not that of ONE_AUTH; asks for a password
    #[arg(long, global = true, value_name = "NAME")]
    pub user: Option<String>,
    /// File with the password of --user (- for stdin)
    #[arg(long, global = true, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

impl Connection {
    fn open(&self) -> anyhow::Result<wire::Client> {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let endpoint = wire::Endpoint::choose(self.endpoint.as_deref(), home.as_deref())?;
        let session = wire::Session::choose(self.user.as_deref(), self.password_file.as_deref(), home.as_deref())?;
        wire::Client::new(endpoint, session)
    }
}

/// A tool: its options and what it does with them.
pub trait Tool: Parser {
    /// How to reach the daemon.
    fn connection(&self) -> &Connection;
    /// Does what the options say.
    ///
    /// # Errors
    /// Everything that ends in one line on standard error.
    fn run(self, client: &wire::Client) -> anyhow::Result<()>;
}

/// Some of several objects failed and each failure was already told.
#[derive(Debug)]
pub struct AlreadyTold;

impl std::fmt::Display for AlreadyTold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not all of it was done")
    }
}

impl std::error::Error for AlreadyTold {}

/// Runs what this process was started for: as `keeplast`, or under the name of a tool.
#[must_use]
pub fn run() -> ExitCode {
    tools::run(&std::env::args_os().collect::<Vec<_>>())
}

/// Success, or one line on standard error and the status of a failure.
fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is::<AlreadyTold>() {
                terminal::complain(&format!("{error:#}"));
            }
            ExitCode::from(if error.is::<watch::Stopped>() { watch::Stopped::STATUS } else { FAILURE })
        }
    }
}

/// Does something to each id, tells each failure in a line and goes on.
///
/// # Errors
/// [`AlreadyTold`] when some failed; the failure itself when there is only one id.
pub fn each(ids: &[i64], mut act: impl FnMut(i64) -> anyhow::Result<()>) -> anyhow::Result<()> {
    if let [id] = ids {
        return act(*id);
    }
    let mut failed = false;
    for id in ids {
        if let Err(error) = act(*id) {
            // Nobody wants to watch the others either.
            if error.is::<watch::Stopped>() {
                return Err(error);
            }
            terminal::complain(&format!("{error:#}"));
            failed = true;
        }
    }
    if failed { Err(AlreadyTold.into()) } else { Ok(()) }
}
