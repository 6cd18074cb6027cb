//! Datastores in processes of their own. The process is the test binary again: it runs its one test `serve_for_tests`,
//! which must call [`role`] and, where that is [`DATASTORE`], [`serve_with`].
#![allow(dead_code, clippy::unwrap_used, reason = "no test needs all of it, and one that cannot go on has failed")]

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use drivers::isolation::{IsolatedDatastore, Launch, serve};
use drivers::{BackupDatastore, Result, Secret};

/// A password in every configuration, to be looked for where it must not be.
pub const PASSWORD: &str = "a password that nobody may see";
/// The role that serves a datastore.
pub const DATASTORE: &str = "datastore";
/// Longest wait for what surely comes.
pub const SURELY: Duration = Duration::from_secs(60);
/// Names what this binary is to be when it is started again.
pub const ROLE: &str = "KEEPLAST_TEST_ROLE";

/// What this process is to be, if it is not the test itself.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// The socket to the process that started this one.
pub fn control() -> UnixStream {
    UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap())
}

/// Serves what `open` makes of the first line of the configuration.
pub fn serve_with(open: fn(&str) -> Result<Arc<dyn BackupDatastore>>) {
    drop(serve(control(), move |config| open(config.lines().next().unwrap_or_default())).unwrap_err());
}

/// How to start this binary again.
pub fn launch(role: &str, config: &str, silence: Duration) -> Launch {
    Launch {
        program: "/proc/self/exe".into(),
        args: ["--exact", "serve_for_tests", "--nocapture"].map(str::to_owned).to_vec(),
        name: "datastore-driver 100".to_owned(),
        environment: vec![(ROLE.to_owned(), role.to_owned())],
        config: Secret::new(format!("{config}\n{PASSWORD}")),
        shown: "datastore 100 (nas:/backup)".to_owned(),
        silence,
        nice: 10,
    }
}

/// A datastore in another process, which opens it by `config`.
pub fn isolated(config: &str, silence: Duration) -> IsolatedDatastore {
    IsolatedDatastore::new(launch(DATASTORE, config, silence))
}
