//! Looks whether restore points can be given back.
//!
//! First the directories of all points are walked, to know which packs are needed; then those are looked at (quick: presence
//! and length; deep: every byte, see `deep`); only when something is wrong the directories are walked again to tell
//! which points, disks and bytes it hits. So memory holds eight bytes per needed chunk, and more only of what is damaged.

use std::collections::{BTreeSet, HashMap};

use super::ResticConfig;
use super::cursor::Cursor;
use super::damages::Collector;
use super::deep::{Deep, Found, PackToRead};
use super::directory::{Directory, FileKind};
use super::format::{BlobKind, Id};
use super::index::{IdSet, Index};
use super::layout::{Need, needs};
use super::lease::{Patience, ResticLock};
use super::read::{NOT_INDEXED, PointReader, damage_of, pack_fault, short, snapshot};
use super::{Opened, no_repository};
use crate::datastore::{Depth, Verified, VerifyRequest};
use crate::{Cancel, DriverError, Kind, Progress, Result};

/// Length of the number that ends a pack: the length of its header.
const TRAILER_BYTES: u32 = 4;

/// Verifies what `request` names in the repository of `directory`, which `open` opens. The caller keeps packs from being
/// removed.
pub(super) fn verify(
    config: &ResticConfig,
    directory: &Directory,
    open: &dyn Fn() -> Result<Option<Opened>>,
    request: &VerifyRequest<'_>,
    save: &mut dyn FnMut(&str) -> Result<()>,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Verified> {
    cancel.check()?;
    let mut collector = Collector::new(request.points.to_vec());
    let count = u32::try_from(request.points.len()).unwrap_or(u32::MAX);
    let mut everywhere = |what: &str| (0..count).for_each(|point| collector.add(point, None, 0, 0, what));
    let is_key_damaged = keys(directory, &mut everywhere)?;
    let opened = match open() {
        Ok(Some(opened)) => opened,
        Ok(None) if directory.root().join("data").is_dir() => {
            everywhere("config: the file is missing");
            return Ok(Verified { read_bytes: 0, damages: collector.finish() });
        }
        Ok(None) => return Err(no_repository(request.series)),
        Err(_) if is_key_damaged => return Ok(Verified { read_bytes: 0, damages: collector.finish() }),
        Err(error) if error.kind == Kind::Corrupt => {
            everywhere(&format!("config: {}", error.reason));
            return Ok(Verified { read_bytes: 0, damages: collector.finish() });
        }
        Err(error) => return Err(error),
    };
    let _lock = ResticLock::take(
        &opened.directory,
        &opened.cipher,
        false,
        Patience { wait: config.lease_wait, progress, cancel },
    )?;
    let (index, damaged) = Index::load_readable(&opened.directory, &opened.cipher)?;
    for (id, reason) in &damaged {
        everywhere(&format!("index {}: {reason}", short(id)));
    }
    let reader = PointReader::new(&opened.directory, &opened.cipher, &index);
    let mut trees = Vec::new();
    for (number, point) in (0..count).zip(request.points) {
        match root(&opened, &reader, point)? {
            Ok(tree) => trees.push((number, tree)),
            Err(what) => collector.add(number, None, 0, 0, &what),
        }
    }
    Verification { config, reader, trees, request, progress, cancel }.run(collector, save)
}

/// Tells damaged key files; whether there are any, or no key at all.
fn keys(directory: &Directory, tell: &mut dyn FnMut(&str)) -> Result<bool> {
    let mut count = 0;
    let mut is_damaged = false;
    let ids = match directory.ids(FileKind::Key) {
        Ok(ids) => ids,
        Err(error) if error.kind == Kind::Missing => return Ok(false),
        Err(error) => return Err(error),
    };
    for id in ids {
        let reason = match directory.read(FileKind::Key, &id) {
            Ok(bytes) if Id::of(&bytes) == id => {
                count += 1;
                continue;
            }
            Ok(_) => "its bytes do not have the digest that it is named after",
            Err(error) => damage_of(directory, error)?,
        };
        is_damaged = true;
        tell(&format!("key {}: {reason}", short(&id)));
    }
    if count == 0 && !is_damaged && directory.is_repository()? {
        tell("keys: there is no key file");
        is_damaged = true;
    }
    Ok(is_damaged)
}

/// The root directory of a point, or what is damaged.
fn root(opened: &Opened, reader: &PointReader<'_>, point: &str) -> Result<std::result::Result<Id, String>> {
    let missing = || DriverError::new(Kind::Missing, format!("verifying restore point {point}"), "it is not there");
    let id = Id::parse(point).ok_or_else(missing)?;
    let reason = match snapshot(reader.directory, reader.cipher, &id) {
        Ok(document) if !opened.owns(&document) => return Err(missing()),
        Ok(document) => return Ok(Ok(document.tree)),
        Err(error) if error.kind == Kind::Missing => return Err(missing()),
        Err(error) if error.kind == Kind::Corrupt => error.reason,
        Err(error) => reader.damage_of(error)?.to_owned(),
    };
    Ok(Err(format!("snapshot {}: {reason}", short(&id))))
}

/// What is needed of the repository.
struct Needed {
    /// Number of the pack and offset in it, ascending.
    places: Vec<(u32, u32)>,
    /// Bytes of directories that were read.
    read_bytes: u64,
    /// Whether something is not in the index or not readable.
    is_damaged: bool,
}

/// What was found.
#[derive(Default)]
struct Findings {
    missing: HashMap<u32, String>,
    /// Packs that are shorter than the index says: their length.
    short: HashMap<u32, u64>,
    found: Found,
}

struct Verification<'a> {
    config: &'a ResticConfig,
    reader: PointReader<'a>,
    /// Number and root directory of the points that have one.
    trees: Vec<(u32, Id)>,
    request: &'a VerifyRequest<'a>,
    progress: &'a Progress,
    cancel: &'a Cancel,
}

impl Verification<'_> {
    fn run(&self, mut collector: Collector, save: &mut dyn FnMut(&str) -> Result<()>) -> Result<Verified> {
        let needed = self.needed()?;
        let (mut findings, packs) = self.look(&needed)?;
        findings.found.read_bytes += needed.read_bytes;
        if self.request.depth == Depth::Deep {
            let deep = Deep {
                reader: self.reader,
                packs: &packs,
                needed: &needed.places,
                threads: self.config.threads,
                progress: self.progress,
                cancel: self.cancel,
            };
            let before = findings.found.read_bytes;
            let found = deep.run(Cursor::of(self.request), save)?;
            // What a quick look says of a pack as a whole is said better now, if it is true.
            findings.found = Found { read_bytes: found.read_bytes + before, ..found };
        }
        let Findings { missing, short, found } = &findings;
        let is_damaged = !(missing.is_empty() && short.is_empty() && found.blobs.is_empty() && found.packs.is_empty());
        if needed.is_damaged || is_damaged {
            self.tell(&findings, &mut collector)?;
        }
        Ok(Verified { read_bytes: findings.found.read_bytes, damages: collector.finish() })
    }

    /// Walks all points; parts that several have are walked once.
    fn needed(&self) -> Result<Needed> {
        let mut needed = Needed { places: Vec::new(), read_bytes: 0, is_damaged: false };
        let mut known = IdSet::default();
        let index = self.reader.index;
        for (_, tree) in &self.trees {
            let Needed { places, read_bytes, is_damaged } = &mut needed;
            let mut visit = |need: Need<'_>| {
                let location = match need {
                    Need::Chunk { id, .. } | Need::Document(id) => index.get(BlobKind::Data, id),
                    Need::Directory(id) => {
                        self.cancel.check()?;
                        self.progress.beat();
                        let location = index.get(BlobKind::Tree, id);
                        *read_bytes += location.map_or(0, |location| u64::from(location.length));
                        location
                    }
                    Need::Lost { .. } => None,
                };
                match location.map(|location| (location.pack, location.offset)) {
                    Some(place) if places.last() != Some(&place) => places.push(place),
                    Some(_) => {}
                    None => *is_damaged = true,
                }
                Ok(())
            };
            needs(&self.reader, tree, self.config.part_bytes, &mut |part| !known.insert(*part), &mut visit)?;
            needed.places.sort_unstable();
            needed.places.dedup();
        }
        Ok(needed)
    }

    /// Presence and length of every needed pack, and its trailer; gives those that are there, ascending by id.
    fn look(&self, needed: &Needed) -> Result<(Findings, Vec<PackToRead>)> {
        let files: HashMap<Id, u64> = self.reader.directory.list(FileKind::Pack)?.into_iter().collect();
        let mut findings = Findings::default();
        let mut packs = Vec::new();
        for of_pack in needed.places.chunk_by(|a, b| a.0 == b.0) {
            self.cancel.check()?;
            self.progress.beat();
            let number = of_pack[0].0;
            let pack = self.reader.index.packs()[number as usize];
            let Some(length) = files.get(&pack.id).copied() else {
                findings.missing.insert(number, pack_fault(&pack.id, "the file is missing"));
                continue;
            };
            let is_short = length < pack.bytes;
            packs.push(PackToRead { number, id: pack.id, length, is_short });
            if is_short {
                findings.short.insert(number, length);
            }
            let reason = match length.cmp(&pack.bytes) {
                std::cmp::Ordering::Less => Some("the file is shorter than the index says"),
                std::cmp::Ordering::Greater => Some("the file is longer than the index says"),
                std::cmp::Ordering::Equal => self.trailer(&pack.id, length, pack.header_bytes, &mut findings)?,
            };
            if let Some(reason) = reason {
                findings.found.packs.insert(number, pack_fault(&pack.id, reason));
            }
        }
        packs.sort_unstable_by_key(|pack| pack.id);
        Ok((findings, packs))
    }

    fn trailer(&self, id: &Id, length: u64, header: u64, findings: &mut Findings) -> Result<Option<&'static str>> {
        if self.request.depth == Depth::Deep {
            return Ok(None);
        }
        let Some(offset) = u32::try_from(length).ok().and_then(|length| length.checked_sub(TRAILER_BYTES)) else {
            return Ok(Some("the file has an impossible length"));
        };
        findings.found.read_bytes += u64::from(TRAILER_BYTES);
        Ok(match self.reader.directory.read_range(FileKind::Pack, id, offset, TRAILER_BYTES) {
            Ok(bytes) if bytes == u32::try_from(header).unwrap_or(0).to_le_bytes() => None,
            Ok(_) => Some("the length of its header is not the one that the index wants"),
            Err(error) => Some(self.reader.damage_of(error)?),
        })
    }

    /// Walks all points again, for what is damaged.
    fn tell(&self, findings: &Findings, collector: &mut Collector) -> Result<()> {
        for (number, tree) in &self.trees {
            let mut packs = BTreeSet::new();
            let mut visit = |need: Need<'_>| {
                match need {
                    Need::Chunk { disk, offset, length, id } => {
                        if let Some(what) = self.judge(findings, BlobKind::Data, id, &mut packs) {
                            collector.add(*number, Some(disk), offset, length.into(), &what);
                        }
                    }
                    Need::Document(id) => {
                        if let Some(what) = self.judge(findings, BlobKind::Data, id, &mut packs) {
                            collector.add(*number, None, 0, 0, &format!("{what} (the VM's document)"));
                        }
                    }
                    Need::Directory(id) => {
                        self.cancel.check()?;
                        self.progress.beat();
                        if let Some(what) = self.judge(findings, BlobKind::Tree, id, &mut packs) {
                            collector.add(*number, None, 0, 0, &format!("{what} (a directory)"));
                        }
                    }
                    Need::Lost { disk, offset, length, what, .. } => {
                        collector.add(*number, disk, offset, length, &what);
                    }
                }
                Ok(())
            };
            needs(&self.reader, tree, self.config.part_bytes, &mut |_| false, &mut visit)?;
            for pack in packs {
                if let Some(what) = findings.found.packs.get(&pack) {
                    collector.add(*number, None, 0, 0, what);
                }
            }
        }
        Ok(())
    }

    /// What is wrong with a blob, if anything; packs that have faults of their own go to `packs`.
    fn judge(&self, findings: &Findings, kind: BlobKind, id: &Id, packs: &mut BTreeSet<u32>) -> Option<String> {
        let Some(location) = self.reader.index.get(kind, id) else { return Some(NOT_INDEXED.to_owned()) };
        if let Some(what) = findings.missing.get(&location.pack) {
            return Some(what.clone());
        }
        let end = u64::from(location.offset) + u64::from(location.length);
        if findings.short.get(&location.pack).is_some_and(|length| end > *length) {
            return Some(self.reader.fault(location, "the file is shorter than the index says"));
        }
        if let Some(what) = findings.found.blobs.get(id) {
            return Some(what.clone());
        }
        if findings.found.packs.contains_key(&location.pack) {
            packs.insert(location.pack);
        }
        None
    }
}
