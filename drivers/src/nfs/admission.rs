//! What is checked before a disk is read: names, sizes, parents, room.

use super::chain::{Chain, Layers, MAX_CHAIN};
use super::folder::Folder;
use super::manifest::{MAX_DISK_BYTES, MAX_DISKS, MAX_DOCUMENT_BYTES};
use super::series::Node;
use super::store::Storing;
use crate::datastore::{Change, SourceDisk};
use crate::qcow2::Compression;
use crate::room::{MAKE_ROOM, Shortage, is_full, say_how_much};
use crate::{DriverError, Kind, Result};

/// What a disk is laid upon.
pub(super) struct Base {
    /// Only a comparison reads it.
    pub(super) chain: Option<Chain>,
    pub(super) point: String,
    pub(super) file: String,
    pub(super) label: u32,
}

impl Storing<'_> {
    /// Checks everything that can be checked before reading, and finds what the disks are laid upon.
    pub(super) fn bases(&self, disks: &[SourceDisk]) -> Result<(Vec<Option<Base>>, Option<Node>)> {
        let wrong = |reason: String| DriverError::new(Kind::Permanent, "storing a restore point", reason);
        if disks.len() > MAX_DISKS || self.request.document.len() as u64 > MAX_DOCUMENT_BYTES {
            return Err(wrong("it has more disks or a longer document than can be stored".to_owned()));
        }
        for (number, disk) in disks.iter().enumerate() {
            if disks[..number].iter().any(|other| other.id == disk.id) {
                return Err(wrong(format!("disk {} is given twice", disk.id)));
            }
            if disk.reader.size_bytes() == 0 || disk.reader.size_bytes() > MAX_DISK_BYTES {
                let size = disk.reader.size_bytes();
                return Err(wrong(format!("disk {} has {size} bytes; 1 byte to 2 PiB are possible", disk.id)));
            }
        }
        if disks.iter().all(|disk| disk.change == Change::Whole) {
            return Ok((disks.iter().map(|_| None).collect(), None));
        }
        let refused = |kind: Kind, reason: String| {
            let parent = self.request.parent.unwrap_or("of no name");
            DriverError::new(kind, format!("using restore point {parent} as a parent"), reason)
        };
        let parent = match self.request.parent.map(|id| self.series.node(id)) {
            Some(Ok(Some(node))) if !node.hidden => node,
            Some(Err(error)) => return Err(error),
            _ => return Err(refused(Kind::Missing, "it is not there".to_owned())),
        };
        let mut layers = Layers::new();
        let mut bases = Vec::new();
        for disk in disks {
            if disk.change == Change::Whole {
                bases.push(None);
                continue;
            }
            let Some(facts) = parent.manifest.disk(disk.id) else {
                return Err(refused(Kind::Missing, format!("it holds no disk {}", disk.id)));
            };
            if facts.size_bytes != disk.reader.size_bytes() {
                return Err(refused(Kind::Missing, format!("its disk {} has another size", disk.id)));
            }
            let chain = Chain::open(self.series, &parent, disk.id, &mut layers)?;
            if let Some(reason) = chain.fault() {
                return Err(refused(Kind::Corrupt, reason));
            }
            let label = facts.label().checked_add(1);
            let (Some(label), true) = (label, chain.layers.len() < MAX_CHAIN) else {
                let reason = format!("{} increments lie upon each other already", chain.layers.len());
                return Err(refused(Kind::Missing, reason));
            };
            let point = parent.manifest.point.clone();
            // What is not read need not stay open: a chain can be long.
            let chain = Some(chain).filter(|_| disk.change == Change::Compare);
            if chain.is_none() {
                layers.retain(|(_, id), _| *id != disk.id);
            }
            bases.push(Some(Base { chain, point, file: facts.file.clone(), label }));
        }
        Ok((bases, Some(parent)))
    }

    /// Refuses an increment that cannot fit. How much of a full or a comparison will be written nobody knows before.
    pub(super) fn check_room(&self, folder: &Folder, disk: &SourceDisk, to_read: u64) -> Result<()> {
        if disk.change != Change::SinceParent || self.config.compression != Compression::None {
            return Ok(());
        }
        let (free, _) = folder.space()?;
        let Some(shortage) = Shortage::of(to_read, free) else { return Ok(()) };
        Err(DriverError::new(
            Kind::Permanent,
            format!("storing disk {} into {}", disk.id, folder.path().display()),
            format!("{shortage}; {MAKE_ROOM}"),
        ))
    }

    pub(super) fn say_how_much(&self, folder: &Folder, to_read: u64, error: DriverError) -> DriverError {
        if !is_full(&error) {
            return error;
        }
        let (done, total) = self.progress.get();
        let left = total.saturating_sub(done).min(to_read);
        say_how_much(error, left, folder.space().map_or(0, |(free, _)| free))
    }
}
