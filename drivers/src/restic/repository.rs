//! What rustic does for us: make a repository, open its key, prune it. The only file that names rustic.
//!
//! Its API changes with each minor release, so nothing of it leaves this file. Its own `restore` and `archive` are not
//! used: the first panics on a full disk, the second answers Ok when a source could not be read. All its file access
//! goes through our [`Directory`], whose listings are complete or an error and whose writes are durable.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use rustic_core::repofile::{Chunker, MasterKey};
use rustic_core::{
    BytesList, ConfigOptions, Credentials, ErrorKind, FileType, Id as RusticId, KeyOptions, LimitOption, OpenStatus,
    PruneOptions, ReadBackend, Repository, RepositoryBackends, RepositoryOptions, RusticError, RusticResult,
    WriteBackend,
};
use zeroize::Zeroize as _;

use super::directory::{Directory, FileKind};
use super::format::{Cipher, Id};
use crate::{DriverError, Kind, Result, Secret};

/// The master key of a repository, opened once by its password (a third of a second and 128 MiB of scrypt).
#[derive(Clone)]
pub(super) struct RepositoryKey(MasterKey);

impl RepositoryKey {
    /// The cipher for our own reading and writing.
    pub(super) fn cipher(&self) -> Result<Cipher> {
        let mut key = [0; 64];
        let parts = [&self.0.encrypt, &self.0.mac.k, &self.0.mac.r];
        if parts.map(Vec::len) != [32, 16, 16] {
            return Err(DriverError::new(Kind::Corrupt, "opening the repository", "its key has an unknown form"));
        }
        key[..32].copy_from_slice(parts[0]);
        key[32..48].copy_from_slice(parts[1]);
        key[48..].copy_from_slice(parts[2]);
        let cipher = Cipher::new(&key);
        key.zeroize();
        Ok(cipher)
    }
}

impl Drop for RepositoryKey {
    fn drop(&mut self) {
        self.0.encrypt.zeroize();
        self.0.mac.k.zeroize();
        self.0.mac.r.zeroize();
    }
}

/// How much work pruning may make itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prune {
    /// After a forget: also rewrites packs with garbage, up to a tenth of the repository or 1 GiB, whichever is more, and
    /// leaves up to a twentieth of garbage where it is.
    Reclaim {
        /// Size of the repository, bytes.
        repository_bytes: u64,
        /// Free space of its file system: rewriting takes at most half of it.
        free_bytes: u64,
    },
    /// After a crash: only removes packs that nothing refers to.
    Unreferenced,
}

/// A forget may always rewrite this much: in a repository of few packs a tenth is less than one pack.
const MIN_REWRITE_BYTES: u64 = 1 << 30;

/// What a new repository remembers for other programs that write to it.
pub(super) struct NewRepository {
    /// Length of chunks.
    pub(super) chunk_bytes: u32,
    /// zstd level.
    pub(super) compression_level: i32,
    /// Target length of data packs.
    pub(super) pack_bytes: u32,
}

/// Makes a repository (version 2) in the directory, which holds none.
pub(super) fn initialise(directory: &Arc<Directory>, password: &Secret, new: &NewRepository) -> Result<RepositoryKey> {
    let doing = "creating the repository";
    guarded(directory, doing, || {
        let mut config = ConfigOptions::default();
        config.set_version = Some(2);
        config.set_chunker = Some(Chunker::FixedSize);
        config.set_chunk_size = format!("{}B", new.chunk_bytes).parse().ok();
        config.set_compression = Some(new.compression_level);
        config.set_datapack_size = format!("{}B", new.pack_bytes).parse().ok();
        config.set_datapack_growfactor = Some(0);
        let repository = handle(directory)?.init(&credentials(password), &KeyOptions::default(), &config)?;
        Ok(RepositoryKey(repository.key()))
    })
}

/// Opens the master key with the password.
pub(super) fn unlock(directory: &Arc<Directory>, password: &Secret) -> Result<RepositoryKey> {
    let doing = format!("opening the repository {}", directory.root().display());
    guarded(directory, &doing, || match handle(directory)?.open(&credentials(password)) {
        Ok(repository) => Ok(Ok(RepositoryKey(repository.key()))),
        Err(error) if error.is_incorrect_password() => Ok(Err(DriverError::new(
            Kind::Permanent,
            doing.clone(),
            "the datastore's password opens none of its keys; correct the password of the datastore",
        ))),
        Err(error) => Ok(Err(stopped(directory).unwrap_or_else(|| unopened(&doing, &message(&error))))),
    })?
}

/// Why a repository could not be opened although the password may be right: by then only its config file is left to read.
fn unopened(doing: &str, text: &str) -> DriverError {
    if let Some((version, _)) = text.strip_prefix("Config version `").and_then(|rest| rest.split_once('`')) {
        return DriverError::new(Kind::Permanent, doing, unknown_version(version));
    }
    // A file that the system did not give says so itself; what came and makes no sense is damaged.
    let damaged = ["cryptograph", "internal"].iter().any(|kind| text.contains(kind));
    if damaged {
        DriverError::new(Kind::Corrupt, doing, "its file config is damaged; put a copy of that file back")
    } else {
        DriverError::new(Kind::Permanent, doing, text)
    }
}

/// The reason to refuse a repository of this format version.
pub(super) fn unknown_version(version: &str) -> String {
    match version {
        "0" | "1" => format!("it has format version {version}; run `restic migrate upgrade_repo_v2` on it"),
        _ => format!("it has format version {version}, which is newer than this program knows (2); update Keeplast"),
    }
}

/// Removes what no snapshot needs. The caller holds the repository for itself.
pub(super) fn prune(directory: &Arc<Directory>, key: &RepositoryKey, how: Prune) -> Result<()> {
    let doing = format!("pruning the repository {}", directory.root().display());
    guarded(directory, &doing, || {
        let repository = open(directory, key)?;
        let mut options = PruneOptions::default().instant_delete(true).fast_repack(true);
        match how {
            Prune::Reclaim { repository_bytes, free_bytes } => {
                let most = (repository_bytes / 10).max(MIN_REWRITE_BYTES).min(free_bytes / 2);
                options = options.max_repack(format!("{most}B").parse::<LimitOption>()?);
            }
            Prune::Unreferenced => {
                options =
                    options.max_repack(LimitOption::Percentage(0)).max_unused(LimitOption::Unlimited).no_resize(true);
            }
        }
        let plan = repository.prune_plan(&options)?;
        repository.prune(&options, plan)
    })
}

fn credentials(password: &Secret) -> Credentials {
    Credentials::password(password.expose())
}

fn handle(directory: &Arc<Directory>) -> RusticResult<Repository<()>> {
    let backends = RepositoryBackends::new(Arc::new(Backend(Arc::clone(directory))), None);
    Repository::new(&RepositoryOptions::default().no_cache(true), &backends)
}

fn open(directory: &Arc<Directory>, key: &RepositoryKey) -> RusticResult<Repository<OpenStatus>> {
    handle(directory)?.open(&Credentials::Masterkey(key.0.clone()))
}

/// The cancel of the operation that uses the directory. It ends what reads or writes there, which rustic reports as a
/// failure of the file.
fn stopped(directory: &Directory) -> Option<DriverError> {
    directory.pace(0).err()
}

/// Turns rustic's failures, panics among them, into ours.
fn guarded<T>(directory: &Directory, doing: &str, work: impl FnOnce() -> RusticResult<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| {
            stopped(directory).unwrap_or_else(|| DriverError::new(Kind::Permanent, doing, message(&error)))
        }),
        Err(_) => Err(DriverError::new(Kind::Permanent, doing, "the repository library gave up (see the log)")),
    }
}

/// The message line of an error and its cause; its full text is a page of advice for another program's users.
fn message(error: &RusticError) -> String {
    let text = error.display_log();
    let text = text.strip_prefix("Error: ").unwrap_or(&text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Our directory as rustic sees it.
struct Backend(Arc<Directory>);

fn kind(kind: FileType) -> FileKind {
    match kind {
        FileType::Config => FileKind::Config,
        FileType::Index => FileKind::Index,
        FileType::Key => FileKind::Key,
        FileType::Snapshot => FileKind::Snapshot,
        FileType::Pack => FileKind::Pack,
    }
}

fn ours(id: &RusticId) -> RusticResult<Id> {
    Id::parse(id.to_hex().as_str()).ok_or_else(|| RusticError::new(ErrorKind::Internal, "an id has no 64 hex digits"))
}

#[expect(clippy::needless_pass_by_value, reason = "used as the function of map_err")]
fn theirs(error: DriverError) -> Box<RusticError> {
    RusticError::new(ErrorKind::Backend, error.to_string())
}

impl ReadBackend for Backend {
    fn location(&self) -> String {
        self.0.root().display().to_string()
    }

    fn list_with_size(&self, file: FileType) -> RusticResult<Vec<(RusticId, u32)>> {
        if file == FileType::Config {
            return Ok(if self.0.is_repository().map_err(theirs)? {
                vec![(RusticId::default(), 0)]
            } else {
                Vec::new()
            });
        }
        let listed = self.0.list(kind(file)).map_err(theirs)?;
        listed
            .into_iter()
            .map(|(id, length)| {
                let length = u32::try_from(length)
                    .map_err(|_| RusticError::new(ErrorKind::Backend, format!("file {id} is longer than 4 GiB")))?;
                Ok((RusticId::new(id.0), length))
            })
            .collect()
    }

    fn read_full(&self, file: FileType, id: &RusticId) -> RusticResult<Bytes> {
        self.0.read(kind(file), &ours(id)?).map(Bytes::from).map_err(theirs)
    }

    fn read_partial(&self, file: FileType, id: &RusticId, _: bool, offset: u32, length: u32) -> RusticResult<Bytes> {
        self.0.read_range(kind(file), &ours(id)?, offset, length).map(Bytes::from).map_err(theirs)
    }

    fn warmup_path(&self, file: FileType, id: &RusticId) -> String {
        ours(id).map(|id| self.0.path(kind(file), &id).display().to_string()).unwrap_or_default()
    }
}

impl WriteBackend for Backend {
    fn create(&self) -> RusticResult<()> {
        self.0.create().map_err(theirs)
    }

    fn write_bytes(&self, file: FileType, id: &RusticId, _: bool, content: BytesList) -> RusticResult<()> {
        self.0.write(kind(file), &ours(id)?, content.slice()).map_err(theirs)
    }

    fn remove(&self, file: FileType, id: &RusticId, _: bool) -> RusticResult<()> {
        self.0.remove(kind(file), &ours(id)?).map_err(theirs)
    }
}
