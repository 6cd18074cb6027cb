//! Where things lie: the source tree, the build directory, binaries of ours, and what is cached between runs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::{FlockOperation, flock};

use crate::command::{ORDINARY, run};

/// The command that holds all others.
const ALL_TOOLS: &str = "keeplast";

/// The root of the source tree.
#[must_use]
pub fn source() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// The build directory that the running executable belongs to (`target/`, or what CARGO_TARGET_DIR said).
///
/// # Errors
/// When the executable does not lie in one.
pub fn target() -> Result<PathBuf> {
    let profile = profile()?;
    let target = profile.parent();
    Ok(target.with_context(|| format!("{} is no cargo build directory", profile.display()))?.to_owned())
}

/// `target/PROFILE`: the executable is `target/PROFILE/demo` or `target/PROFILE/deps/stories-HASH`.
fn profile() -> Result<PathBuf> {
    let executable = std::env::current_exe().context("the path of the running executable")?;
    let dir = executable.ancestors().skip(1).find(|dir| !dir.ends_with("deps") && !dir.ends_with("examples"));
    Ok(dir.context("the running executable lies nowhere")?.to_owned())
}

/// A command of ours (`onevm` …): a link to `keeplast` as built beside the running executable, laid down by itself; or
/// `keeplast`.
///
/// # Errors
/// When it has not been built, or has no such name.
pub fn tool(name: &str) -> Result<PathBuf> {
    if name == ALL_TOOLS {
        return binary(name);
    }
    static LINKS: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    let links = LINKS.get_or_init(|| lay_links().map_err(|error| format!("{error:#}")));
    let path = links.as_ref().map_err(|error| anyhow!("{error}"))?.join(name);
    if !path.exists() {
        bail!("keeplast has no tool {name}");
    }
    Ok(path)
}

/// The folder with the links, in each process anew: what is there may be an older build's.
fn lay_links() -> Result<PathBuf> {
    let links = profile()?.join("links");
    std::fs::create_dir_all(&links).with_context(|| format!("making {}", links.display()))?;
    let mut install = Command::new(binary(ALL_TOOLS)?);
    run(install.arg("install-links").arg(&links), ORDINARY)?.checked("keeplast install-links")?;
    Ok(links)
}

/// One of our own programs (`oned`, `keeplast` …), as built beside the running executable.
///
/// # Errors
/// When it has not been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = profile()?.join(name);
    if !path.is_file() {
        bail!("{name} has not been built: there is no {}; run `make build` first", path.display());
    }
    Ok(path)
}

/// A directory below the build directory that stays between runs.
///
/// # Errors
/// When it cannot be made.
pub fn cache(name: &str) -> Result<PathBuf> {
    let dir = target()?.join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir)
}

/// An exclusive lock over processes, held until the file is dropped.
///
/// # Errors
/// When the file cannot be made.
pub fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("making {}", path.display()))?;
    flock(&file, FlockOperation::LockExclusive).with_context(|| format!("locking {}", path.display()))?;
    Ok(file)
}
