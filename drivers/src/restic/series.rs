//! Which repository a series lives in, and how that is opened.
//!
//! A series has a repository of its own, in the folder of its name. The members of a group have one together, in the folder
//! `GROUP+`; so it is never that of a series that is called as the group is. Or a series shares the one called
//! [`SHARED_FOLDER`] with all others. Where several share, the points of a series are those that name it, with its group.
//!
//! What a series has decides, before the configuration does: so the configuration may change at any time.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::directory::{Directory, Flow, sync_directory};
use super::index::Index;
use super::lease::{self, Lease, Patience, ResticLock};
use super::opened::{Known, Opened, RepositoryConfig};
use super::repository::{self, NewRepository};
use super::{HashMap, MAX_CACHED_BLOBS, ResticDatastore, remove_folder};
use crate::datastore::{SeriesName, group_folder, group_of_folder};
use crate::{Cancel, DriverError, Kind, Progress, Result};

/// Folder of the repository that all series share; none without a group is called so.
pub(super) const SHARED_FOLDER: &str = "shared";

/// Longest wait of what neither shows its beats nor can be cancelled.
const BRIEF_WAIT: Duration = Duration::from_secs(30);

/// Where a series is kept.
pub(super) struct Home {
    /// Folder of the repository, below the base; also its name in the leases.
    pub(super) folder: String,
    /// The series, when others may be in the same repository.
    pub(super) shared_series: Option<String>,
}

impl Home {
    fn own(series: &str) -> Self {
        Self { folder: series.to_owned(), shared_series: None }
    }

    fn of_group(group: &str, series: &str) -> Self {
        Self { folder: group_folder(group), shared_series: Some(series.to_owned()) }
    }

    fn shared(series: &str) -> Self {
        Self { folder: SHARED_FOLDER.to_owned(), shared_series: Some(series.to_owned()) }
    }
}

/// How long an operation that reads will take.
#[derive(Clone, Copy)]
pub(super) enum Visit<'a> {
    /// A moment.
    Brief,
    /// Minutes to hours.
    Long(&'a Progress, &'a Cancel),
}

impl ResticDatastore {
    /// Reads the name of a series, which becomes part of paths, and looks that the base is there.
    fn check_series<'a>(&self, series: &'a str) -> Result<SeriesName<'a>> {
        let name = SeriesName::parse(series)?;
        if series == SHARED_FOLDER {
            return Err(DriverError::new(
                Kind::Permanent,
                "naming a series",
                format!("`{SHARED_FOLDER}` is the repository that several share; choose another name"),
            ));
        }
        if !self.config.base_path.is_dir() {
            return Err(DriverError::new(
                Kind::Retry,
                format!("using the datastore in {}", self.config.base_path.display()),
                "the directory is not there; create it or mount its file system",
            ));
        }
        Ok(name)
    }

    pub(super) fn flow(&self, progress: &Progress, cancel: &Cancel) -> Flow {
        Flow {
            gate: self.config.write_gate.clone(),
            pace: self.config.pace.clone(),
            progress: progress.clone(),
            cancel: cancel.clone(),
        }
    }

    pub(super) fn directory(&self, folder: &str, flow: &Flow) -> Arc<Directory> {
        Arc::new(Directory::new(self.config.base_path.join(folder), flow.clone()))
    }

    /// Where `series` is kept, or would be.
    pub(super) fn home(&self, series: &str, flow: &Flow) -> Result<Home> {
        let name = self.check_series(series)?;
        let shared = Home::shared(series);
        let Some(group) = name.group else {
            if self.directory(series, flow).is_repository()? {
                return Ok(Home::own(series));
            }
            let is_shared = self.config.shared || self.has_points(&shared, flow)?;
            return Ok(if is_shared { shared } else { Home::own(series) });
        };
        let together = Home::of_group(group, series);
        // Looked at first, so that by default nothing has to be opened, which a damage could prevent.
        if !self.config.shared && !self.directory(SHARED_FOLDER, flow).is_repository()? {
            return Ok(together);
        }
        match self.has_points(&together, flow) {
            Ok(false) => {}
            // What is damaged is here as well.
            Err(error) if error.kind != Kind::Corrupt => return Err(error),
            _ => return Ok(together),
        }
        let is_shared = self.config.shared || self.has_points(&shared, flow)?;
        Ok(if is_shared { shared } else { together })
    }

    /// Whether the series has points in this repository.
    fn has_points(&self, home: &Home, flow: &Flow) -> Result<bool> {
        let opened = self.open(home, flow)?;
        Ok(opened.map(|opened| opened.snapshots()).transpose()?.is_some_and(|snapshots| !snapshots.is_empty()))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Known>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the repository of a series, if there is one. Cheap after the first time: the key is kept in memory.
    pub(super) fn open(&self, home: &Home, flow: &Flow) -> Result<Option<Opened>> {
        let directory = self.directory(&home.folder, flow);
        if !directory.is_repository()? {
            return Ok(None);
        }
        let known = self.known().get(&home.folder).cloned();
        if let Some(known) = known {
            match self.opened(home, &directory, &known) {
                // The repository was replaced by another since.
                Err(error) if error.kind == Kind::Corrupt => drop(self.known().remove(&home.folder)),
                opened => return opened.map(Some),
            }
        }
        let known = Arc::new(Known::new(repository::unlock(&directory, &self.config.password)?));
        let opened = self.opened(home, &directory, &known)?;
        self.known().insert(home.folder.clone(), known);
        Ok(Some(opened))
    }

    fn opened(&self, home: &Home, directory: &Arc<Directory>, known: &Arc<Known>) -> Result<Opened> {
        let cipher = known.key.cipher()?;
        let config = RepositoryConfig::read(directory, &cipher)?;
        Ok(Opened {
            directory: Arc::clone(directory),
            cipher,
            known: Arc::clone(known),
            chunk_bytes: config.chunk_bytes().unwrap_or(self.config.chunk_bytes),
            shared_series: home.shared_series.clone(),
        })
    }

    /// Opens the repository of a series or makes it. The caller holds the shared lease. A new one is made aside and
    /// renamed, so that a crash leaves none by halves.
    pub(super) fn open_or_create(&self, home: &Home, progress: &Progress, cancel: &Cancel) -> Result<Opened> {
        let flow = self.flow(progress, cancel);
        if let Some(opened) = self.open(home, &flow)? {
            return Ok(opened);
        }
        let _moment = Lease::moment(&self.lease_folder(), &home.folder, self.patience(progress, cancel))?;
        // Somebody else may have made it while we waited.
        if let Some(opened) = self.open(home, &flow)? {
            return Ok(opened);
        }
        let directory = self.directory(&home.folder, &flow);
        directory.refuse_foreign_content()?;
        let path = directory.root();
        let aside = self.unfinished_path(&home.folder);
        let failed = |error| DriverError::io(format!("creating the repository {}", path.display()), error);
        remove_folder(&aside).map_err(failed)?;
        let new = NewRepository {
            chunk_bytes: self.config.chunk_bytes,
            compression_level: self.config.compression_level,
            pack_bytes: self.config.pack_bytes,
        };
        let unfinished = Arc::new(Directory::new(aside.clone(), flow.clone()));
        let made = repository::initialise(&unfinished, &self.config.password, &new).and_then(|key| {
            std::fs::rename(&aside, path).and_then(|()| sync_directory(&self.config.base_path)).map_err(failed)?;
            Ok(key)
        });
        let known = Arc::new(Known::new(made.inspect_err(|_| drop(remove_folder(&aside)))?));
        let opened = self.opened(home, &directory, &known)?;
        self.known().insert(home.folder.clone(), known);
        Ok(opened)
    }

    fn unfinished_path(&self, folder: &str) -> PathBuf {
        self.config.base_path.join(format!(".new-{folder}"))
    }

    /// Opens the repository of a series for reading and hands it to `work`, with the packs kept from being removed
    /// meanwhile; `None` when there is no repository.
    pub(super) fn reading<T>(
        &self,
        series: &str,
        visit: Visit<'_>,
        work: impl FnOnce(Option<&Opened>) -> Result<T>,
    ) -> Result<T> {
        let (progress, cancel) = match visit {
            Visit::Brief => Default::default(),
            Visit::Long(progress, cancel) => (progress.clone(), cancel.clone()),
        };
        let flow = self.flow(&progress, &cancel);
        let home = self.home(series, &flow)?;
        if !self.directory(&home.folder, &flow).is_repository()? {
            return work(None);
        }
        let (folder, patience) = (self.lease_folder(), self.patience(&progress, &cancel));
        let _lease = match visit {
            Visit::Brief => {
                let wait = patience.wait.min(BRIEF_WAIT);
                Lease::brief(&folder, &home.folder, Patience { wait, ..patience })?
            }
            Visit::Long(..) => Lease::shared(&folder, &home.folder, patience)?,
        };
        work(self.open(&home, &flow)?.as_ref())
    }

    /// Has the repository of a series alone, locked against others and cleaned of dead locks of ours; `None` without a
    /// repository.
    pub(super) fn alone<T>(
        &self,
        series: &str,
        progress: &Progress,
        cancel: &Cancel,
        work: impl FnOnce(&Opened) -> Result<T>,
    ) -> Result<Option<T>> {
        let flow = self.flow(progress, cancel);
        let home = self.home(series, &flow)?;
        // Before the lease: its files may be new.
        let gave_up = self.make_room()?;
        // Who comes meanwhile waits behind us, so ours must end long before theirs does.
        let patience = Patience { wait: self.config.lease_wait / 3, progress, cancel };
        let _alone = Lease::alone(&self.lease_folder(), &home.folder, patience)?;
        let unfinished = self.unfinished_path(&home.folder);
        remove_folder(&unfinished)
            .map_err(|error| DriverError::io(format!("removing {}", unfinished.display()), error))?;
        let Some(opened) = self.open(&home, &flow)? else { return Ok(None) };
        lease::remove_own_locks(&opened.directory, &opened.cipher)?;
        let lock = ResticLock::take(&opened.directory, &opened.cipher, true, patience)?;
        // Rustic passes a cancel on as a failure of a file.
        let done = work(&opened).map_err(|error| if cancel.is_cancelled() { DriverError::cancelled() } else { error });
        drop(lock);
        // Also after a failure.
        self.keep_reserve(gave_up);
        done.map(Some)
    }

    /// The names of all series that have a repository or a point. Repositories of single series are not opened for it: each
    /// costs a third of a second.
    pub(super) fn all_series(&self) -> Result<Vec<String>> {
        let base = &self.config.base_path;
        let failed = |error| DriverError::io(format!("listing {}", base.display()), error);
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(base).map_err(failed)? {
            let folder = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            let group = group_of_folder(&folder);
            let own = SeriesName::parse(&folder).is_ok_and(|name| name.group.is_none()) && folder != SHARED_FOLDER;
            if !(own || group.is_some()) || !base.join(&folder).join("config").is_file() {
                continue;
            }
            let Some(group) = group else {
                names.insert(folder);
                continue;
            };
            match self.named_in(&folder) {
                Ok(named) => names.extend(
                    named
                        .into_iter()
                        .filter(|series| SeriesName::parse(series).is_ok_and(|name| name.group == Some(group))),
                ),
                Err(error) if error.kind == Kind::Retry => return Err(error),
                Err(error) => tracing::warn!(%error, "the series of group {group} are left out"),
            }
        }
        let is_series = |series: &String| SeriesName::parse(series).is_ok() && series != SHARED_FOLDER;
        names.extend(self.named_in(SHARED_FOLDER)?.into_iter().filter(is_series));
        Ok(names.into_iter().collect())
    }

    /// The series that the points of a repository name.
    fn named_in(&self, folder: &str) -> Result<BTreeSet<String>> {
        let home = Home { folder: folder.to_owned(), shared_series: None };
        let Some(opened) = self.open(&home, &Flow::default())? else { return Ok(BTreeSet::new()) };
        let snapshots = opened.all_snapshots()?;
        Ok(snapshots.iter().filter_map(|(_, snapshot)| snapshot.series().map(str::to_owned)).collect())
    }

    /// The index of a repository for reading: that which is kept when every file that it leads to is there, else what is
    /// left of it.
    pub(super) fn index_for_reading(&self, opened: &Opened) -> Result<Index> {
        let index = opened.index();
        self.trim_indexes();
        match index {
            Ok(index) if index.is_whole() => return Ok(index),
            Err(error) if error.kind != Kind::Corrupt => return Err(error),
            _ => {}
        }
        let (index, damaged) = Index::load_readable(&opened.directory, &opened.cipher)?;
        for (id, reason) in damaged {
            tracing::warn!(index = %id, %reason, "reading without a damaged index file");
        }
        Ok(index)
    }

    /// Keeps the memory of all cached indexes within bounds: those that were not of use for longest go first.
    pub(super) fn trim_indexes(&self) {
        let known: Vec<Arc<Known>> = self.known().values().cloned().collect();
        let mut kept: Vec<_> =
            known.iter().filter_map(|known| known.index.kept().map(|(used, blobs)| (used, blobs, known))).collect();
        let mut sum: usize = kept.iter().map(|(_, blobs, _)| blobs).sum();
        kept.sort_by_key(|(used, _, _)| *used);
        for (_, blobs, known) in kept {
            if sum <= MAX_CACHED_BLOBS {
                return;
            }
            known.index.clear();
            sum -= blobs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ResticConfig;
    use super::super::directory::FileKind;
    use super::super::format::Id;
    use super::*;
    use crate::{BackupDatastore as _, Secret};

    fn datastore(base: &std::path::Path) -> ResticDatastore {
        ResticDatastore::new(ResticConfig::new(base.to_owned(), Secret::new("secret".to_owned()))).unwrap()
    }

    #[test]
    fn repositories_of_other_versions_and_damaged_ones_are_refused_in_a_plain_sentence() {
        let base = tempfile::tempdir().unwrap();
        let first = datastore(base.path());
        let opened = first.open_or_create(&Home::own("7"), &Progress::default(), &Cancel::default()).unwrap();
        let file = base.path().join("7/config");
        let whole = std::fs::read(&file).unwrap();
        let version = |version: u32| {
            let json =
                format!(r#"{{"version":{version},"id":"{}","chunker_polynomial":"3DA3358B4DC173"}}"#, "0".repeat(64));
            opened.cipher.seal_document(json.as_bytes()).unwrap()
        };
        for (content, kind, words) in [
            (version(3), Kind::Permanent, "newer than this program knows"),
            (version(1), Kind::Permanent, "restic migrate upgrade_repo_v2"),
            (whole[..whole.len() - 1].to_vec(), Kind::Corrupt, "config"),
            (Vec::new(), Kind::Corrupt, "config"),
        ] {
            opened.directory.write(FileKind::Config, &Id([0; 32]), &[content]).unwrap();
            // With the key that is known, and by the password.
            for datastore in [&first, &datastore(base.path())] {
                let error = datastore.points("7").unwrap_err();
                assert!(error.kind == kind && error.reason.contains(words), "{error:?}");
                assert!(error.reason.len() < 200 && !error.reason.contains('\n'), "{error}");
            }
        }
        opened.directory.write(FileKind::Config, &Id([0; 32]), &[whole]).unwrap();
        assert_eq!(first.points("7").unwrap(), []);
    }

    #[test]
    fn a_cancel_while_a_repository_is_made_is_a_cancel_and_leaves_none() {
        let base = tempfile::tempdir().unwrap();
        let restic = datastore(base.path());
        let cancel = Cancel::default();
        cancel.cancel();
        let error = restic.open_or_create(&Home::own("7"), &Progress::default(), &cancel).map(drop).unwrap_err();
        assert_eq!(error.kind, Kind::Cancelled, "{error}");
        let unfinished =
            Arc::new(Directory::new(base.path().join(".new-7"), restic.flow(&Progress::default(), &cancel)));
        let new = NewRepository { chunk_bytes: 1 << 18, compression_level: 1, pack_bytes: 1 << 24 };
        let error = repository::initialise(&unfinished, &restic.config.password, &new).map(drop).unwrap_err();
        assert_eq!(error.kind, Kind::Cancelled, "{error}");
        assert!(!base.path().join("7").exists());
    }

    #[test]
    fn a_repository_without_a_chunk_length_that_fits_follows_the_configuration() {
        let read = |json: &str| serde_json::from_str::<RepositoryConfig>(json).unwrap().chunk_bytes();
        assert_eq!(read(r#"{"version":2,"chunker":"FixedSize","chunk_size":65536}"#), Some(65536));
        for odd in
            ["", r#","chunk_size":65536"#, r#","chunker":"FixedSize","chunk_size":5000"#, r#","chunker":"FixedSize""#]
        {
            assert_eq!(read(&format!(r#"{{"version":2{odd}}}"#)), None);
        }
    }
}
