//! The backup datastore of plain files: qcow2 images in a directory, which may be a mounted share.
//!
//! ```text
//! BASE/HH/SERIES/POINT/manifest.json   what the point is; see `manifest`
//!                      vm.xml          the document
//!                      disk.0.0        qcow2, a whole disk
//!                      disk.0.1        qcow2 in another point's folder: what changed, backed by ../POINT/disk.0.0
//!                      disk.0.1.sums   what that layer holds, with digests; see `sums`
//! BASE/.lease/                         locks; see `lease`
//! ```
//!
//! HH are the first two hex digits of the SHA-256 of the series' name; SERIES is the name, with `+` for a slash. Stock `qemu-img` opens every disk of every point.
//! The id of a point follows from series and job. `docs/formats.md` has the format for other readers.
//!
//! It mounts nothing and knows nothing of servers: its caller sees to it that a dead one does not hold it up for ever.
//!
//! Invariants: a point's folder gets its name as the last, durable act of a store; every byte that is given back has its
//! digest; an image that others lie upon is only changed where none of them looks.

mod admission;
mod chain;
mod crew;
mod folder;
mod forget;
mod lease;
mod manifest;
mod plan;
mod restore;
mod series;
mod store;
mod sums;
mod tree;
mod verify;

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::chain::{Chain, Layers};
use self::folder::Folder;
use self::forget::Cleaning;
use self::lease::{Lease, Patience, Which};
use self::manifest::point_id;
use self::restore::Restoring;
use self::series::{Series, check_name, missing, parent_folder};
use self::store::Storing;
use self::verify::Verifying;
use crate::datastore::{
    BackupDatastore, Capacity, Forgotten, PointFacts, RestoreRequest, Restored, SeriesName, SourceDisk, StoreRequest,
    Stored, Verified, VerifyRequest,
};
use crate::mount::probe_writable;
use crate::qcow2::Compression;
use crate::{Cancel, DiskWriter, DriverError, Kind, Pace, Progress, Result};

/// Asked with its path before a file or directory is changed; an error fails that change. For quotas and tests of faults.
pub type WriteGate = Arc<dyn Fn(&Path) -> io::Result<()> + Send + Sync>;

/// How long a measured size of the datastore is good.
const USED_BYTES_AGE: Duration = Duration::from_secs(60);
/// Levels of folders below the base.
const LEVELS: u32 = 4;

/// How a datastore of plain files works.
#[derive(Clone)]
pub struct NfsConfig {
    /// The directory; must exist (a share may be mounted on it).
    pub base_path: PathBuf,
    /// How clusters of new images are compressed.
    pub compression: Compression,
    /// Threads that digest, compress, read and write for one operation.
    pub threads: usize,
    /// Limit on bytes written and read.
    pub pace: Pace,
    /// How long to wait for a series that is in use.
    pub lease_wait: Duration,
    /// See [`WriteGate`].
    pub write_gate: Option<WriteGate>,
}

impl NfsConfig {
    /// The defaults: no compression, one thread per processor, no limit, 30 s of waiting.
    #[must_use]
    pub fn new(base_path: PathBuf) -> Self {
        Self {
            base_path,
            compression: Compression::None,
            threads: std::thread::available_parallelism().map_or(2, NonZeroUsize::get),
            pace: Pace::default(),
            lease_wait: Duration::from_secs(30),
            write_gate: None,
        }
    }
}

/// A directory of plain qcow2 files.
pub struct NfsDatastore {
    config: NfsConfig,
    used: Mutex<Option<(Instant, u64)>>,
}

impl NfsDatastore {
    /// A datastore as `config` says. Touches no file.
    ///
    /// # Errors
    /// [`Kind::Permanent`] when the path is not absolute.
    pub fn new(mut config: NfsConfig) -> Result<Self> {
        if !config.base_path.is_absolute() {
            let reason = format!("the path {} must be absolute", config.base_path.display());
            return Err(DriverError::new(Kind::Permanent, "configuring a datastore of plain files", reason));
        }
        config.threads = config.threads.clamp(1, 64);
        Ok(Self { config, used: Mutex::default() })
    }

    fn base(&self) -> Result<Folder> {
        Folder::base(&self.config.base_path, self.config.write_gate.clone())
    }

    fn patience<'a>(&self, progress: &'a Progress, cancel: &'a Cancel) -> Patience<'a> {
        Patience { wait: self.config.lease_wait, progress, cancel }
    }

    fn series_of(&self, series: &str, point: &str) -> Result<Series> {
        check_name(series)?;
        Series::open(&self.base()?, series)?.ok_or_else(|| missing(point))
    }

    /// Removes the folders of a series without points. The caller holds the write lease alone.
    fn remove_if_empty(base: &Folder, series: &Series) -> Result<()> {
        if !series.folder().names()?.is_empty() {
            return Ok(());
        }
        let above = parent_folder(series.name());
        if let Some(folder) = base.folder(&above)? {
            folder.remove_empty_folder(series.file_name())?;
            folder.sync()?;
        }
        base.remove_empty_folder(&above)?;
        base.sync()
    }
}

impl BackupDatastore for NfsDatastore {
    fn capacity(&self) -> Result<Capacity> {
        let base = self.base()?;
        let (free_bytes, total_bytes) = base.space()?;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let used_bytes = match *used {
            Some((at, bytes)) if at.elapsed() < USED_BYTES_AGE => bytes,
            _ => {
                let bytes = base.used_bytes(LEVELS)?;
                *used = Some((Instant::now(), bytes));
                bytes
            }
        };
        Ok(Capacity { total_bytes, free_bytes, used_bytes })
    }

    fn probe(&self) -> Result<()> {
        probe_writable(&self.config.base_path)
    }

    fn store(
        &self,
        request: &StoreRequest<'_>,
        disks: Vec<SourceDisk>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Stored> {
        check_name(request.series)?;
        cancel.check()?;
        let (base, patience) = (self.base()?, self.patience(progress, cancel));
        let point = point_id(request.series, request.job);
        let _write = Lease::take(&base, request.series, Which::Write, false, patience)?;
        let _point = Lease::take(&base, request.series, Which::Point(&point), true, patience)?;
        let series = Series::make(&base, request.series)?;
        match series.node(&point)? {
            Some(node) if !node.hidden => return Ok(node.manifest.stored()),
            Some(_) => {
                let reason = "the restore point of this name is forgotten, and others still need parts of it";
                return Err(DriverError::new(Kind::Retry, format!("storing restore point {point}"), reason));
            }
            None => {}
        }
        let config = &self.config;
        Storing { config, base: &base, series: &series, request, point: &point, progress, cancel }.run(disks)
    }

    fn find(&self, series: &str, job: &str) -> Result<Option<Stored>> {
        check_name(series)?;
        let Some(open) = Series::open(&self.base()?, series)? else { return Ok(None) };
        let node = open.node(&point_id(series, job))?.filter(|node| !node.hidden);
        Ok(node.map(|node| node.manifest.stored()))
    }

    fn inspect(&self, series: &str, point: &str) -> Result<Stored> {
        let (progress, cancel) = (Progress::default(), Cancel::default());
        let base = self.base()?;
        check_name(series)?;
        let _names = Lease::take(&base, series, Which::Names, false, self.patience(&progress, &cancel))?;
        let open = self.series_of(series, point)?;
        let node = open.point(point)?;
        let corrupt = |what: String| DriverError::new(Kind::Corrupt, format!("opening restore point {point}"), what);
        let mut layers = Layers::new();
        for disk in &node.manifest.disks {
            let chain = Chain::open(&open, &node, disk.id, &mut layers)?;
            if let Some(reason) = chain.fault() {
                return Err(corrupt(reason));
            }
            let short = chain
                .layers
                .iter()
                .find(|layer| !layer.hidden && layer.file_bytes.is_none_or(|bytes| bytes != layer.facts.file_bytes));
            if let Some(layer) = short {
                return Err(corrupt(format!("{} does not have its length", layer.shown)));
            }
        }
        Ok(node.manifest.stored())
    }

    fn document(&self, series: &str, point: &str) -> Result<Vec<u8>> {
        let open = self.series_of(series, point)?;
        open.document(&open.point(point)?)
    }

    fn restore(
        &self,
        request: RestoreRequest<'_>,
        target: &mut dyn DiskWriter,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Restored> {
        let RestoreRequest { series, point, disk, skip_bad, current } = request;
        check_name(series)?;
        let (base, patience) = (self.base()?, self.patience(progress, cancel));
        let names = Lease::take(&base, series, Which::Names, false, patience)?;
        let open = self.series_of(series, point)?;
        let node = open.point(point)?;
        let _held = open.hold(&node, false, patience)?;
        let chain = Chain::open(&open, &node, disk, &mut Layers::new())?;
        drop(names);
        let restoring = Restoring {
            chain: &chain,
            threads: self.config.threads,
            pace: &self.config.pace,
            skip_bad,
            progress: &progress.of_disk(disk),
            cancel,
        };
        restoring.run(&open, point, target, current)
    }

    fn verify(
        &self,
        request: &VerifyRequest<'_>,
        save: &mut dyn FnMut(&str) -> Result<()>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Verified> {
        check_name(request.series)?;
        let (base, patience) = (self.base()?, self.patience(progress, cancel));
        let names = Lease::take(&base, request.series, Which::Names, false, patience)?;
        let Some(series) = Series::open(&base, request.series)? else {
            return match request.points.first() {
                Some(point) => Err(missing(point)),
                None => Ok(Verified::default()),
            };
        };
        let verifying = Verifying { config: &self.config, series: &series, request, progress, cancel };
        let opened = verifying.open()?;
        let _held = opened.hold(&series, patience)?;
        drop(names);
        verifying.run(opened, save)
    }

    fn forget(&self, series: &str, points: &[String], progress: &Progress, cancel: &Cancel) -> Result<Forgotten> {
        check_name(series)?;
        let (base, patience) = (self.base()?, self.patience(progress, cancel));
        let Some(_) = Series::open(&base, series)? else { return Ok(Forgotten::default()) };
        let _write = Lease::take(&base, series, Which::Write, true, patience)?;
        let Some(mut open) = Series::open(&base, series)? else { return Ok(Forgotten::default()) };
        let cleaning = Cleaning { config: &self.config, base: &base, patience };
        cleaning.hide(&open, points)?;
        let forgotten = cleaning.compact(&mut open)?;
        Self::remove_if_empty(&base, &open)?;
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(forgotten)
    }

    fn sweep(&self, series: &str, progress: &Progress) -> Result<()> {
        check_name(series)?;
        let cancel = Cancel::default();
        let (base, patience) = (self.base()?, self.patience(progress, &cancel));
        let Some(_) = Series::open(&base, series)? else { return Ok(()) };
        let _write = Lease::take(&base, series, Which::Write, true, patience)?;
        let Some(mut open) = Series::open(&base, series)? else { return Ok(()) };
        let cleaning = Cleaning { config: &self.config, base: &base, patience };
        cleaning.leftovers(&open)?;
        cleaning.compact(&mut open)?;
        lease::sweep(&base, series)?;
        Self::remove_if_empty(&base, &open)
    }

    fn series(&self) -> Result<Vec<String>> {
        let base = self.base()?;
        let mut names = Vec::new();
        for above in base.names()?.iter().filter(|name| name.len() == 2) {
            let Some(folder) = base.folder(above)? else { continue };
            let series = folder.names()?.into_iter().filter_map(|name| SeriesName::of_file_name(&name));
            for name in series.filter(|name| parent_folder(name) == *above) {
                if Series::open(&base, &name)?.is_some_and(|s| s.has_points().unwrap_or(false)) {
                    names.push(name);
                }
            }
        }
        names.sort();
        Ok(names)
    }

    fn points(&self, series: &str) -> Result<Vec<PointFacts>> {
        check_name(series)?;
        let Some(open) = Series::open(&self.base()?, series)? else { return Ok(Vec::new()) };
        let mut points: Vec<PointFacts> = open.points()?.iter().map(|node| node.manifest.facts()).collect();
        let ids: std::collections::BTreeSet<String> = points.iter().map(|facts| facts.stored.point.clone()).collect();
        for facts in &mut points {
            facts.parent = facts.parent.take().filter(|parent| ids.contains(parent));
        }
        points.sort_by(|a, b| (a.time, &a.stored.point).cmp(&(b.time, &b.stored.point)));
        Ok(points)
    }
}
