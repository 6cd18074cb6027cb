//! The dummy backup datastore: plain files, a folder per series, a folder per restore point.
//!
//! ```text
//! 7/POINT/manifest.json  names, sizes and digests; the point exists when this does
//! 7/POINT/vm.xml         the document
//! 7/POINT/disk.0         the whole disk, raw and sparse
//! ```
//!
//! Every point is complete: unchanged blocks are copied from the parent (shared where the file system can), and
//! `stored_bytes` counts only the others. So no point depends on another one, forgetting resizes none, and each damage
//! belongs to one point. The id of a point follows from series and job, so storing again what is stored gives the point
//! that is there.
//!
//! Writers of a series (store, forget, sweep) wait for each other; readers wait for nobody. The folder of a series in a
//! group has a `+` for the slash (`job-3+7`), nothing else comes of the group. The locks lie in a folder that begins with a
//! dot.
//!
//! Invariants: the manifest is written last and removed first; a folder without one is no point and goes with the next
//! sweep.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::files::{self, Lock};
use super::gate::Gate;
use super::point::{self, Point};
use super::script::{Operation, Script};
use super::verify::Verification;
use crate::datastore::{
    BackupDatastore, Capacity, Forgotten, PointFacts, RestoreRequest, Restored, SeriesName, SourceDisk, StoreRequest,
    Stored, Verified, VerifyRequest,
};
use crate::{Cancel, DiskWriter, DriverError, Kind, Progress, Result, disk};

/// How long a writer waits for another one in the same series.
const LOCK_WAIT: Duration = Duration::from_secs(30);
/// As much of an id that is none as an error repeats, characters.
const SHOWN_MAX: usize = 100;

/// A datastore that needs nothing but a directory.
pub struct DummyDatastore {
    directory: PathBuf,
    gate: Gate,
}

impl DummyDatastore {
    /// The datastore in `directory`, which is made when it is not there. `script` is in force while there is no
    /// `script.json` in it.
    ///
    /// # Errors
    /// [`Kind::Permanent`] for impossible values in `script`; when the directory cannot be made.
    pub fn open(directory: &Path, script: Script) -> Result<Self> {
        let gate = Gate::new(directory, script)?;
        files::make_directory(directory)?;
        Ok(Self { directory: directory.to_owned(), gate })
    }

    fn root(&self) -> Result<&Path> {
        if !self.directory.is_dir() {
            let doing = format!("using the datastore in {}", self.directory.display());
            return Err(DriverError::new(Kind::Retry, doing, "the directory is not there; make it"));
        }
        Ok(&self.directory)
    }

    fn folder(&self, series: &str) -> Result<PathBuf> {
        let name = SeriesName::parse(series)?.file_name();
        Ok(self.root()?.join(name))
    }

    /// The point of this id, which need not exist.
    fn point(&self, series: &str, id: &str) -> Result<Point> {
        let folder = self.folder(series)?;
        if !is_id(id) {
            return Err(point::missing(&id.chars().take(SHOWN_MAX).collect::<String>()));
        }
        Ok(Point::new(folder.join(id)))
    }

    /// Keeps out all other writers. `cancel` ends the wait.
    fn lock(&self, series: &str, progress: &Progress, cancel: &Cancel) -> Result<Lock> {
        let name = SeriesName::parse(series)?.file_name();
        let folder = self.root()?.join(".locks");
        files::make_directory(&folder)?;
        let busy = format!("series {series} is in use by another backup or clean-up; try again later");
        Lock::take(&folder.join(format!("{name}.write")), LOCK_WAIT, &busy, &mut || {
            progress.beat();
            cancel.check()
        })
    }

    fn store_now(
        &self,
        request: &StoreRequest<'_>,
        disks: Vec<SourceDisk>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Stored> {
        let folder = self.folder(request.series)?;
        cancel.check()?;
        let _lock = self.lock(request.series, progress, cancel)?;
        let id = id_of(request.series, request.job);
        let point = Point::new(folder.join(&id));
        if let Some(manifest) = point.manifest()? {
            return Ok(manifest.stored(&id));
        }
        let parent = request.parent.filter(|id| is_id(id)).map(|id| Point::new(folder.join(id)));
        let bases = point::bases(parent.as_ref(), &disks)?;
        files::make_directory(&folder)?;
        files::sync_directory(&self.directory)?;
        let stored = point.store(&self.gate, request, disks.into_iter().zip(bases), progress, cancel);
        match stored {
            Ok((manifest, unmarked_bytes)) => Ok(Stored { unmarked_bytes, ..manifest.stored(&id) }),
            Err(error) => {
                // An error after the point was published does not take it back.
                if matches!(point.manifest(), Ok(None))
                    && let Err(error) = point.remove()
                {
                    tracing::debug!(%error, "a restore point that failed is left to the next sweep");
                }
                Err(error)
            }
        }
    }
}

/// The id of the point that `job` makes in `series`.
fn id_of(series: &str, job: &str) -> String {
    let mut hash = Sha256::new();
    // A series' name that is in use holds no line break; the job's may hold anything.
    hash.update(series.as_bytes());
    hash.update(b"\n");
    hash.update(job.as_bytes());
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a text can be an id of ours; others never become part of a path.
fn is_id(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

impl BackupDatastore for DummyDatastore {
    fn capacity(&self) -> Result<Capacity> {
        self.gate.around(Operation::Capacity, "", None, || {
            let failed = |error| DriverError::io(format!("measuring {}", self.directory.display()), error);
            let used_bytes = files::used_bytes(&self.directory).map_err(failed)?;
            if let Some(space) = self.gate.script()?.capacity {
                return Ok(Capacity { total_bytes: space.total_bytes, free_bytes: space.free_bytes, used_bytes });
            }
            let space = rustix::fs::statvfs(&self.directory).map_err(|errno| failed(errno.into()))?;
            Ok(Capacity {
                total_bytes: space.f_frsize.saturating_mul(space.f_blocks),
                free_bytes: space.f_frsize.saturating_mul(space.f_bavail),
                used_bytes,
            })
        })
    }

    fn store(
        &self,
        request: &StoreRequest<'_>,
        disks: Vec<SourceDisk>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Stored> {
        self.gate
            .around(Operation::Store, request.series, Some(cancel), || self.store_now(request, disks, progress, cancel))
    }

    fn find(&self, series: &str, job: &str) -> Result<Option<Stored>> {
        self.gate.around(Operation::Find, series, None, || {
            let id = id_of(series, job);
            Ok(self.point(series, &id)?.manifest()?.map(|manifest| manifest.stored(&id)))
        })
    }

    fn inspect(&self, series: &str, point: &str) -> Result<Stored> {
        self.gate.around(Operation::Inspect, series, None, || {
            let found = self.point(series, point)?;
            let manifest = found.existing(point)?;
            found.check_files(&manifest)?;
            Ok(manifest.stored(point))
        })
    }

    fn document(&self, series: &str, point: &str) -> Result<Vec<u8>> {
        self.gate.around(Operation::Document, series, None, || {
            let found = self.point(series, point)?;
            found.document(point, &found.existing(point)?)
        })
    }

    fn restore(
        &self,
        request: RestoreRequest<'_>,
        target: &mut dyn DiskWriter,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Restored> {
        self.gate.around(Operation::Restore, request.series, Some(cancel), || {
            let point = self.point(request.series, request.point)?;
            let manifest = point.existing(request.point)?;
            point.restore(&manifest, request, target, progress, cancel)
        })
    }

    fn verify(
        &self,
        request: &VerifyRequest<'_>,
        save: &mut dyn FnMut(&str) -> Result<()>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Verified> {
        self.gate.around(Operation::Verify, request.series, Some(cancel), || {
            self.folder(request.series)?;
            let mut seen = BTreeSet::new();
            let mut points = Vec::new();
            for id in request.points.iter().filter(|id| seen.insert(*id)) {
                points.push((id.as_str(), self.point(request.series, id)?));
            }
            Verification { gate: &self.gate, request, save, progress, cancel }.run(&points)
        })
    }

    fn forget(&self, series: &str, points: &[String], progress: &Progress, cancel: &Cancel) -> Result<Forgotten> {
        self.gate.around(Operation::Forget, series, Some(cancel), || {
            let _lock = self.lock(series, progress, cancel)?;
            let mut freed = 0_u64;
            for id in points.iter().filter(|id| is_id(id)) {
                cancel.check()?;
                progress.beat();
                freed = freed.saturating_add(self.point(series, id)?.remove()?);
            }
            Ok(Forgotten { freed_bytes: freed, resized: Vec::new() })
        })
    }

    fn sweep(&self, series: &str, progress: &Progress) -> Result<()> {
        self.gate.around(Operation::Sweep, series, None, || {
            let _lock = self.lock(series, progress, &Cancel::default())?;
            for name in files::list(&self.folder(series)?)?.iter().filter(|name| is_id(name)) {
                progress.beat();
                let point = self.point(series, name)?;
                if point.is_published() {
                    point.sweep()?;
                } else {
                    point.remove()?;
                }
            }
            Ok(())
        })
    }

    fn series(&self) -> Result<Vec<String>> {
        self.gate.around(Operation::Series, "", None, || {
            let files = files::list(self.root()?)?;
            let mut names: Vec<String> = files.iter().filter_map(|name| SeriesName::of_file_name(name)).collect();
            names.retain(|name| self.folder(name).is_ok_and(|folder| folder.is_dir()));
            // In the order of names, not of folders.
            names.sort();
            Ok(names)
        })
    }

    fn points(&self, series: &str) -> Result<Vec<PointFacts>> {
        self.gate.around(Operation::Points, series, None, || {
            let folder = self.folder(series)?;
            let mut points = Vec::new();
            for id in files::list(&folder)?.into_iter().filter(|name| is_id(name)) {
                match Point::new(folder.join(&id)).manifest() {
                    Ok(Some(manifest)) => points.push(manifest.facts(&id)),
                    Ok(None) => {}
                    Err(error) if error.kind == Kind::Corrupt => {
                        tracing::warn!(%error, "restore point {id} of series {series} is damaged and is left out");
                    }
                    Err(error) => return Err(error),
                }
            }
            for facts in &mut points {
                let is_there = |parent: &String| is_id(parent) && Point::new(folder.join(parent)).is_published();
                facts.parent = facts.parent.take().filter(is_there);
            }
            points.sort_by(|a, b| (a.time, &a.stored.point).cmp(&(b.time, &b.stored.point)));
            Ok(points)
        })
    }
}

impl Point {
    /// Removes what a change that was cut off left beside a published point.
    fn sweep(&self) -> Result<()> {
        disk::sweep_parts(self.folder()).map(drop)
    }
}
