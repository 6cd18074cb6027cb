//! The commands `onevm`, `oneimage` and their kin: OpenNebula's command line for a daemon that speaks its XML-RPC.
//!
//! What it is: one library with a tool per file under [`commands`], an answer-or-sentence client in [`wire`], and the
//! tables and blocks that users of OpenNebula know. What it is not: it holds no state and never looks at the daemon's
//! files; all it knows it reads over the wire.
//!
//! Conduct: silent on success except for ids, one line on standard error and exit status 255 on failure (also for wrong
//! options), results on standard output, progress on standard error.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser};

pub mod commands;
pub mod events;
pub mod input;
pub mod json;
pub mod objects;
pub mod schedule;
pub mod show;
pub mod states;
pub mod table;
pub mod template_text;
pub mod terminal;
pub mod units;
pub mod watch;
pub mod wire;
pub mod xml;
pub mod yaml;

/// Exit status of every failure, as OpenNebula's tools have it.
const FAILURE: u8 = 255;

/// How to reach the daemon, and as whom.
#[derive(Args, Clone, Debug, Default)]
pub struct Connection {
    /// Address of the daemon, like `http://localhost:2633/RPC2` (else `ONE_XMLRPC`, else ~/.one/one_endpoint)
    #[arg(long, global = true, value_name = "URL")]
    pub endpoint: Option<String>,
    /// User, instead of the one in the `ONE_AUTH` file; the password is asked for
    #[arg(long, global = true, value_name = "NAME")]
    pub user: Option<String>,
    /// File with the password of --user (- for standard input)
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

/// Runs the tool of that name with the arguments of this process.
#[must_use]
pub fn run(tool: &str) -> ExitCode {
    use commands::{onebackupjob, onecluster, onedatastore, onehost, oneimage, onetemplate, oneuser, onevm, onezone};
    match tool {
        "onevm" => start::<onevm::Command>(),
        "onetemplate" => start::<onetemplate::Command>(),
        "oneimage" => start::<oneimage::Command>(),
        "onedatastore" => start::<onedatastore::Command>(),
        "onehost" => start::<onehost::Command>(),
        "onebackupjob" => start::<onebackupjob::Command>(),
        "oneuser" => start::<oneuser::Command>(),
        "onecluster" => start::<onecluster::Command>(),
        "onezone" => start::<onezone::Command>(),
        _ => {
            terminal::complain(&format!("there is no tool {tool}"));
            ExitCode::from(FAILURE)
        }
    }
}

fn start<T: Tool>() -> ExitCode {
    let tool = match T::try_parse() {
        Ok(tool) => tool,
        Err(error) if error.use_stderr() => {
            terminal::complain(&option_error(&error.render().to_string()));
            return ExitCode::from(FAILURE);
        }
        Err(help) => {
            let _ = terminal::put(&help.render().to_string());
            return ExitCode::SUCCESS;
        }
    };
    match tool.connection().open().and_then(|client| tool.run(&client)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is::<AlreadyTold>() {
                terminal::complain(&format!("{error:#}"));
            }
            ExitCode::from(FAILURE)
        }
    }
}

/// The message of an option error without its usage lines; its paragraphs become parts of one sentence.
fn option_error(rendered: &str) -> String {
    let lines =
        rendered.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let Some(text) = text.strip_prefix("error:") else {
        return "a command is missing; --help lists them".to_owned();
    };
    let parts: Vec<_> = text.split("\n\n").map(terminal::one_line).filter(|part| !part.is_empty()).collect();
    format!("{}; see --help", parts.join("; "))
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
            terminal::complain(&format!("{error:#}"));
            failed = true;
        }
    }
    if failed { Err(AlreadyTold.into()) } else { Ok(()) }
}
