//! Where things lie: the source tree, the build directory, binaries of ours, and what is cached between runs.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

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

/// One of our own programs (`oned`, `onevm` …), as built beside the running executable.
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
