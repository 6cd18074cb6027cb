//! Who may touch a series now: `flock` on files in `.lease` of the datastore.
//!
//! The kernel passes these locks to the server of an NFS, CIFS or Ceph share, so they hold between machines too; they end
//! with the process. A lease file says nothing by being there.

use std::fs::File;

use rustix::io::Errno;

use super::folder::{Folder, failure};
use crate::datastore::SeriesName;
pub(super) use crate::patience::Patience;
use crate::{DriverError, Result};

/// The folder of the files.
pub(super) const FOLDER: &str = ".lease";
/// Which lease of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which<'a> {
    /// Shared by stores; forgetting and sweeping hold it alone.
    Write,
    /// Shared by readers while they open their files; held alone while files change their names.
    Names,
    /// Held alone by the store that makes this point.
    Point(&'a str),
}

impl Which<'_> {
    fn name(self, series: &str) -> Result<String> {
        let name = SeriesName::parse(series)?.file_name();
        Ok(match self {
            Which::Write => format!("{name}.write"),
            Which::Names => format!("{name}.names"),
            Which::Point(point) => format!("{}{point}", store_prefix(&name)),
        })
    }
}

/// How the leases of stores begin, of the series of this file name.
fn store_prefix(file_name: &str) -> String {
    format!("{file_name}.store-")
}

/// A held lease; given back when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    /// None on a file system where nothing can be written.
    _file: Option<File>,
}

impl Lease {
    /// Takes a lease of `series`.
    ///
    /// # Errors
    /// [`crate::Kind::Retry`] when others hold it for longer than we may wait.
    pub(super) fn take(
        base: &Folder,
        series: &str,
        which: Which<'_>,
        exclusive: bool,
        patience: Patience<'_>,
    ) -> Result<Self> {
        let name = which.name(series)?;
        let file = match open(base, &name) {
            Ok(file) => file,
            Err(error) if !exclusive && is_unwritable(&error) => return Ok(Self { _file: None }),
            Err(error) => return Err(error),
        };
        let busy = match which {
            Which::Write if exclusive => "a backup, another forget or a clean-up",
            Which::Write => "a forget or a clean-up",
            Which::Names => "a restore or a forget",
            Which::Point(_) => "another backup under the same name",
        };
        let doing = format!("reserving series {series}");
        patience.lock(&file, exclusive, patience.deadline(), &doing, busy)?;
        Ok(Self { _file: Some(file) })
    }
}

fn open(base: &Folder, name: &str) -> Result<File> {
    let folder = base.make_folder(FOLDER)?;
    for _ in 0..3 {
        if let Some(file) = folder.open_to_write(name)? {
            return Ok(file);
        }
        match folder.create(name) {
            Err(error) if is(&error, Errno::EXIST) => {}
            other => return other,
        }
    }
    Err(failure("opening", &folder.path().join(name), Errno::BUSY.into()))
}

/// Removes the lease files of stores of `series`. The caller holds [`Which::Write`] alone, so none of them is in use.
pub(super) fn sweep(base: &Folder, series: &str) -> Result<()> {
    let Some(folder) = base.folder(FOLDER)? else { return Ok(()) };
    let prefix = store_prefix(&SeriesName::parse(series)?.file_name());
    for name in folder.names()?.iter().filter(|name| name.starts_with(&prefix)) {
        folder.remove(name)?;
    }
    Ok(())
}

fn is(error: &DriverError, errno: Errno) -> bool {
    let below = error.source.as_ref().and_then(|source| source.downcast_ref::<std::io::Error>());
    below.and_then(std::io::Error::raw_os_error) == Some(errno.raw_os_error())
}

/// Restoring from a share that is read-only, full or not ours must work; nobody who could hold us up writes there, or
/// the digests find it.
fn is_unwritable(error: &DriverError) -> bool {
    [Errno::ROFS, Errno::ACCESS, Errno::PERM, Errno::NOSPC, Errno::DQUOT].iter().any(|errno| is(error, *errno))
}
