//! What must hold whenever nothing is under way, whatever happened before.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use drivers::datastore::{RestoreRequest, SeriesName};
use drivers::dummy::{DummyDatastore, DummyHypervisor, Script};
use drivers::hypervisor::{DiskFormat, DomainState};
use drivers::{BackupDatastore as _, Cancel, DiskWriter, Hypervisor as _, Progress, disk};
use one_core::lifecycle::ImageState;
use oned::store::RunList;
use oned::{ledger, quota};
use sha2::{Digest as _, Sha256};

use super::world::{BLOCKS, Content, Disks, World};

/// Bytes of a block.
const BLOCK: usize = 64 << 10;

/// Takes a disk that is given back.
struct Taken(Vec<u8>);

impl DiskWriter for Taken {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> drivers::Result<()> {
        let start = usize::try_from(offset).unwrap();
        self.0[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn finish(self: Box<Self>) -> drivers::Result<()> {
        Ok(())
    }
}

fn bytes(content: &Content) -> Vec<u8> {
    content.map(|byte| vec![byte; BLOCK]).concat()
}

/// The digest of a disk's content as [`disk::content_digest`] tells it.
fn digest(content: &Content) -> String {
    Sha256::digest(bytes(content)).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl World {
    /// Checks everything. `may_fail`: a job may have come to nothing, so that images may be in ERROR.
    #[track_caller]
    pub fn is_sound(&self, may_fail: bool) {
        assert!(self.jobs().is_empty(), "{:?}", self.jobs());
        let wrong = self.read(quota::differences);
        assert!(wrong.is_empty(), "quotas differ from a recount: {wrong:?}");
        self.vms_rest();
        self.runs_are_over();
        self.points_are_whole();
        self.images_are_whole(may_fail);
        nothing_is_left(&self.folder);
    }

    /// Every VM runs, or is off if it was switched off, and of its backups nothing is left on the host but one checkpoint, by which the next increment is read.
    #[track_caller]
    fn vms_rest(&self) {
        let host = self.read(|tx| tx.host_list())[0].id;
        let hypervisor =
            DummyHypervisor::open(&self.folder.join(format!("dummy/host-{host}")), Script::default()).unwrap();
        for vm in self.memory.disks.keys() {
            let row = self.vm_row(*vm);
            assert!(self.rests(*vm), "VM {vm} is in {}: {}", ledger::phase(&row), row.user_template);
            let state = if self.memory.off.contains(vm) { DomainState::Off } else { DomainState::Running };
            assert_eq!(hypervisor.state(&row.deploy_id).unwrap(), Some(state));
            let active = ledger::config_of(&row).chain().and_then(|(image, increment)| {
                let points = self.read(|tx| tx.increments(image));
                points.into_iter().find(|point| point.increment_id == increment)
            });
            let found = hypervisor.checkpoints(&row.deploy_id, &[]).unwrap();
            // When its backup was deleted, the next one takes it away.
            let needed = active.map_or(found.len() <= 1, |point| found.iter().all(|name| *name == point.checkpoint));
            assert!(needed, "superseded checkpoints among {found:?}");
        }
    }

    /// No VM of a backup job waits for a backup or for the end of one.
    #[track_caller]
    fn runs_are_over(&self) {
        for job in self.read(|tx| tx.backup_job_list()) {
            let entries = self.read(|tx| tx.backup_job_vms(job.id));
            let open = entries.iter().any(|entry| RunList::OPEN.iter().any(|list| entry.is_in(*list)));
            assert!(!open, "nothing is done any more, and yet: {entries:?}");
        }
    }

    /// The datastore holds the restore points that the cloud knows and no others, each with what was on the disks when it was
    /// made, and the first of each backup is a full one.
    #[track_caller]
    fn points_are_whole(&self) {
        let folder = self.folder.join(format!("dummy/datastore-{}", self.memory.datastore));
        let datastore = DummyDatastore::open(&folder, Script::default()).unwrap();
        let mut stored = BTreeSet::new();
        for series in datastore.series().unwrap() {
            for point in datastore.points(&series).unwrap() {
                stored.insert((series.clone(), point.stored.point));
            }
            // What is no point is a leaving.
            let own = SeriesName::parse(&series).unwrap().file_name();
            for entry in std::fs::read_dir(folder.join(own)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(stored.contains(&(series.clone(), name.clone())), "{series}/{name} is left");
            }
        }
        let mut known = BTreeSet::new();
        for vm in self.memory.disks.keys() {
            for image in self.backups(*vm) {
                let points = self.read(|tx| tx.increments(image.id));
                let kinds: Vec<&str> = points.iter().map(|point| point.kind.as_str()).collect();
                assert!(
                    kinds.first() == Some(&"FULL") && !kinds[1..].contains(&"FULL"),
                    "image {}: {kinds:?}",
                    image.id
                );
                let ids = points.iter().map(|point| point.increment_id);
                let parents: Vec<i64> = std::iter::once(-1).chain(ids).take(points.len()).collect();
                let found: Vec<i64> = points.iter().map(|point| point.parent_id).collect();
                assert_eq!(found, parents, "parents of the points of image {}", image.id);
            }
            for point in self.points(*vm) {
                let wanted = self.memory.points.get(&point.point);
                let wanted = wanted.unwrap_or_else(|| panic!("nobody knows restore point {}", point.point));
                for (disk, content) in wanted {
                    let mut taken = Taken(vec![0; BLOCKS * BLOCK]);
                    let request = RestoreRequest {
                        series: &point.series,
                        point: &point.point,
                        disk: *disk,
                        skip_bad: false,
                        current: None,
                    };
                    datastore.restore(request, &mut taken, &Progress::default(), &Cancel::default()).unwrap();
                    let place = format!("image {}, increment {}", point.image_id, point.increment_id);
                    assert!(taken.0 == bytes(content), "disk {disk} of {place} is not what it was");
                }
                known.insert((point.series, point.point));
            }
        }
        assert_eq!(stored, known, "restore points in the datastore, and those that the cloud knows");
    }

    /// No image is being filled or removed, each that is READY has its file, and there are no other files.
    #[track_caller]
    fn images_are_whole(&self, may_fail: bool) {
        let mut files = BTreeMap::new();
        let images = self.read(|tx| tx.image_list());
        for image in &images {
            let settled = [ImageState::Ready, ImageState::Used, ImageState::UsedPers].map(ImageState::number);
            let failed = may_fail && image.state == ImageState::Error.number();
            assert!(
                settled.contains(&image.state) || failed,
                "image {} in {}: {}",
                image.id,
                image.state,
                image.template
            );
            if image.kind != 6 {
                files.insert(format!("image-{}", image.id), failed);
            }
        }
        let folder = self.folder.join("datastores/1");
        let mut found = BTreeSet::new();
        // Made with the first image.
        for shelf in std::fs::read_dir(folder).into_iter().flatten() {
            for entry in std::fs::read_dir(shelf.unwrap().path()).unwrap() {
                found.insert(entry.unwrap().file_name().into_string().unwrap());
            }
        }
        let stray: Vec<_> = found.iter().filter(|name| !files.contains_key(*name)).collect();
        assert!(stray.is_empty(), "files without an image: {stray:?}");
        let lacking: Vec<_> = files.iter().filter(|(name, failed)| !**failed && !found.contains(*name)).collect();
        assert!(lacking.is_empty(), "images without a file: {lacking:?}");
    }

    /// Restored images hold what they should; false when one of them came to nothing.
    #[track_caller]
    pub fn restored(&self, images: &[i64], wanted: &Disks) -> bool {
        assert_eq!(images.len(), wanted.len());
        images.iter().zip(wanted.values()).all(|(image, content)| {
            let row = self.read(|tx| tx.image(*image));
            if row.state != ImageState::Ready.number() {
                return false;
            }
            let found = disk::content_digest(Path::new(&row.source), DiskFormat::Qcow2).unwrap();
            assert_eq!(found, digest(content), "image {image} was restored wrongly");
            true
        })
    }

    /// Whether the disks of a VM that is off hold this.
    #[track_caller]
    pub fn holds(&self, vm: i64, wanted: &Disks) -> bool {
        wanted.iter().all(|(disk, content)| {
            let found = disk::content_digest(&self.disk_file(vm, *disk), DiskFormat::Qcow2).unwrap();
            found == digest(content)
        })
    }

    /// Writes, makes a further backup, and restores it.
    #[track_caller]
    pub fn goes_on(&mut self, vm: i64) {
        let disk = *self.memory.disks[&vm].keys().last().unwrap();
        self.write(vm, disk, BLOCKS - 1, 99);
        let point = self.backup(vm, false);
        let images = self.ask_restore(point.image_id, point.increment_id, "further");
        self.settle();
        assert!(self.restored(&images, &self.memory.disks[&vm]), "a further backup cannot be restored");
    }
}

/// No half-made file, socket or scratch file lies about.
#[track_caller]
fn nothing_is_left(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let temporary = [".part", ".scratch-", ".sock", ".new-", ".suspended"].iter().any(|piece| name.contains(piece));
        assert!(!temporary, "{} is left", path.display());
        if path.is_dir() {
            nothing_is_left(&path);
        }
    }
}
