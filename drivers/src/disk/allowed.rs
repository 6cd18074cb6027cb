//! Which files of the host a user may turn into an image.

use std::io;
use std::path::{Path, PathBuf};

use crate::{DriverError, Kind, Result};

/// Decides whether `path` may be taken in, and gives its canonical form: pass that on, not `path`, for
/// [`super::import()`] refuses paths that have become symbolic links since.
///
/// The rule is OpenNebula's (SAFE_DIRS and RESTRICTED_DIRS of an image datastore): what lies under a safe directory is
/// allowed even when that lies under a restricted one; else what lies under a restricted directory is refused; the rest
/// is allowed. Unlike there, links and `..` are resolved first, and names are compared by whole components (`/var/tmp2`
/// is not under `/var/tmp`).
///
/// # Errors
/// [`Kind::Permanent`] when refused or relative, [`Kind::Missing`] when there is no such file.
pub fn allowed_source(path: &Path, safe_dirs: &[PathBuf], restricted_dirs: &[PathBuf]) -> Result<PathBuf> {
    let doing = format!("checking {}", path.display());
    if !path.is_absolute() {
        return Err(DriverError::new(Kind::Permanent, doing, "the path must be absolute"));
    }
    let canonical = path.canonicalize().map_err(|e| DriverError::io(&*doing, e))?;
    let under = |directories: &[PathBuf]| -> Result<bool> {
        for directory in directories {
            // One that does not exist holds nothing, but may appear later: compare it as it is written.
            let directory = match directory.canonicalize() {
                Err(e) if e.kind() == io::ErrorKind::NotFound => directory.clone(),
                other => other.map_err(|e| DriverError::io(format!("{doing} against {}", directory.display()), e))?,
            };
            if canonical.starts_with(&directory) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    if !under(safe_dirs)? && under(restricted_dirs)? {
        let reason = "it lies in one of the datastore's RESTRICTED_DIRS; put the file into one of its SAFE_DIRS";
        return Err(DriverError::new(Kind::Permanent, doing, reason));
    }
    Ok(canonical)
}
