//! Storing a restore point: read, test for zeros, digest, write.
//!
//! The caller's thread reads the disk in pieces of up to 1 MiB and hands them to a crew, which writes image and digests.
//! Memory is what the source keeps in flight, a few pieces per thread, and the pages of digests that are not whole yet.
//!
//! Invariants: everything is written into a folder that is no point; when all of it is durable, and nobody failed or
//! cancelled, the folder gets the point's name. A piece that was asked for and did not come fails the store.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::NfsConfig;
use super::admission::Base;
use super::chain::{Chain, Place, cluster_bytes, image_bytes};
use super::crew::{self, Crew};
use super::folder::{Folder, NEW};
use super::manifest::{DOCUMENT, DiskFacts, DocumentFacts, MANIFEST, Manifest, VERSION, disk_file, hex, sums_file};
use super::plan::{Stretch, Touched, stretches};
use super::series::{Node, Series};
use super::sums::{Held, PAGE_CLUSTERS, Page, SumsWriter, sum};
use crate::datastore::{Change, SourceDisk, StoreRequest, Stored};
use crate::hypervisor::DiskFormat;
use crate::qcow2::{Backing, CLUSTER_BYTES, ImageWriter};
use crate::{Cancel, DiskReader, DriverError, Kind, Progress, Result};

/// Clusters that are read in one go: 1 MiB.
const PIECE_CLUSTERS: u64 = 4;

/// Everything that storing a point needs to know.
pub(super) struct Storing<'a> {
    pub(super) config: &'a NfsConfig,
    pub(super) base: &'a Folder,
    pub(super) series: &'a Series,
    pub(super) request: &'a StoreRequest<'a>,
    pub(super) point: &'a str,
    pub(super) progress: &'a Progress,
    pub(super) cancel: &'a Cancel,
}

impl Storing<'_> {
    /// Stores the point, which is not there yet.
    pub(super) fn run(&self, disks: Vec<SourceDisk>) -> Result<Stored> {
        let (bases, parent) = self.bases(&disks)?;
        let aside = format!("{NEW}{}", self.point);
        self.series.folder().remove_folder(&aside, &[])?;
        let stored = self.store(disks, bases, parent, &aside);
        if stored.is_err() {
            // An error after the folder got its name finds nothing here.
            if let Err(error) = self.series.folder().remove_folder(&aside, &[]) {
                tracing::debug!(%error, "what a failed backup wrote is left to the next sweep");
            }
        }
        stored
    }

    fn store(
        &self,
        disks: Vec<SourceDisk>,
        bases: Vec<Option<Base>>,
        parent: Option<Node>,
        aside: &str,
    ) -> Result<Stored> {
        let folder = self.series.folder().make_folder(aside)?;
        let (mut facts, mut read_bytes, mut saved_bytes, mut unmarked_bytes) = (Vec::new(), 0_u64, 0_u64, 0_u64);
        for (mut disk, base) in disks.into_iter().zip(bases) {
            self.cancel.check()?;
            let done = self.disk(&folder, &mut disk, base.as_ref())?;
            facts.push(done.facts);
            read_bytes = read_bytes.saturating_add(done.read_bytes);
            saved_bytes = saved_bytes.saturating_add(done.saved_bytes);
            unmarked_bytes = unmarked_bytes.saturating_add(done.unmarked_bytes);
        }
        facts.sort_by_key(|disk| disk.id);
        folder.write(DOCUMENT, self.request.document)?;
        let document = self.request.document;
        let mut manifest = Manifest {
            version: VERSION,
            series: self.series.name().to_owned(),
            point: self.point.to_owned(),
            job: self.request.job.to_owned(),
            tags: self.request.tags.to_vec(),
            time: self.request.time,
            parent: parent.map(|node| node.manifest.point),
            read_bytes,
            stored_bytes: 0,
            saved_bytes: Some(saved_bytes),
            document: DocumentFacts { length: document.len() as u64, sha256: hex(&sum(document)) },
            disks: facts,
        };
        manifest.count_bytes()?;
        let text = manifest.text()?;
        // What we could not read again must not be published.
        Manifest::parse(&text, self.series.name(), self.point)?;
        folder.write(MANIFEST, &text)?;
        self.cancel.check()?;
        self.base.check_in_place()?;
        self.series.folder().rename(aside, self.series.folder(), self.point)?;
        self.series.folder().sync()?;
        Ok(Stored { unmarked_bytes, ..manifest.stored() })
    }

    fn disk(&self, folder: &Folder, disk: &mut SourceDisk, base: Option<&Base>) -> Result<Done> {
        let size_bytes = disk.reader.size_bytes();
        let whole = disk.change != Change::SinceParent;
        let plan = stretches(size_bytes, &disk.reader.extents()?, whole)?;
        let clusters: u64 = plan.iter().filter(|run| !run.zero).map(|run| run.end - run.first).sum();
        let to_read = clusters.saturating_mul(CLUSTER_BYTES);
        let progress = self.progress.of_disk(disk.id);
        progress.add_total(to_read);
        self.check_room(folder, disk, to_read)?;

        let file = disk_file(disk.id, base.map_or(0, |base| base.label));
        let path = folder.path().join(&file);
        let backing =
            base.map(|base| Backing { name: format!("../{}/{}", base.point, base.file), format: DiskFormat::Qcow2 });
        let image = ImageWriter::create(
            folder.create(&file)?,
            &path.display().to_string(),
            image_bytes(size_bytes),
            self.config.compression,
            backing.as_ref(),
        )?;
        let sums = sums_file(&file);
        let sums_path = folder.path().join(&sums);
        let sums_writer = SumsWriter::create(folder.create(&sums)?, sums_path, folder.gate().clone(), size_bytes)?;
        let work = DiskWork {
            storing: self,
            progress,
            folder,
            path,
            size_bytes,
            change: disk.change,
            chain: base.and_then(|base| base.chain.as_ref()),
            marked: disk.marked.as_deref().map(Touched::new),
            image,
            ledger: Mutex::new(Ledger {
                pages: BTreeMap::new(),
                asked: HashMap::new(),
                sums: sums_writer,
                saved_bytes: 0,
                unmarked_bytes: 0,
            }),
        };
        let read_bytes = crew::run(
            self.config.threads,
            |piece| work.take(piece),
            |crew| work.read(disk.reader.as_mut(), &plan, crew),
        )
        .map_err(|error| self.say_how_much(folder, to_read, error))?;
        let DiskWork { image, ledger, .. } = work;
        let ledger = ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
        folder.gate().ask(&folder.path().join(&file))?;
        let finished = image.finish().map_err(|error| self.say_how_much(folder, to_read, error))?;
        let taken_bytes = folder.taken_bytes(&file)?;
        let facts = DiskFacts {
            id: disk.id,
            size_bytes,
            file,
            format: "qcow2".to_owned(),
            increment: base.is_some(),
            file_bytes: finished.file_bytes,
            taken_bytes,
            sums: ledger.sums.finish(sums)?,
        };
        let Ledger { saved_bytes, unmarked_bytes, .. } = ledger;
        Ok(Done { facts, read_bytes, saved_bytes, unmarked_bytes })
    }
}

/// A disk that is stored.
struct Done {
    facts: DiskFacts,
    read_bytes: u64,
    saved_bytes: u64,
    unmarked_bytes: u64,
}

/// A disk that is being stored.
struct DiskWork<'a> {
    storing: &'a Storing<'a>,
    /// Counts for this disk.
    progress: Progress,
    folder: &'a Folder,
    path: PathBuf,
    size_bytes: u64,
    change: Change,
    chain: Option<&'a Chain>,
    marked: Option<Touched>,
    image: ImageWriter,
    ledger: Mutex<Ledger>,
}

/// What is known of the clusters so far.
struct Ledger {
    pages: BTreeMap<u64, OpenPage>,
    /// Offsets and lengths that were asked for and did not come yet.
    asked: HashMap<u64, u32>,
    sums: SumsWriter,
    saved_bytes: u64,
    unmarked_bytes: u64,
}

#[derive(Default)]
struct OpenPage {
    page: Page,
    parent: Option<Arc<Vec<Place>>>,
    /// Clusters that were asked for and are not written yet.
    waiting: u64,
}

/// Bytes on their way.
struct Piece {
    first: u64,
    bytes: Vec<u8>,
    parent: Option<Arc<Vec<Place>>>,
}

impl DiskWork<'_> {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads everything that `plan` wants and hands it to the crew; gives the bytes read.
    fn read(&self, reader: &mut dyn DiskReader, plan: &[Stretch], crew: &Crew<'_, Piece>) -> Result<u64> {
        let mut fault = None;
        let mut read_bytes = 0_u64;
        let mut walk = Walk { work: self, plan: plan.iter(), now: None, page: None };
        let mut ranges = std::iter::from_fn(|| {
            if crew.is_failed() || self.storing.cancel.is_cancelled() || fault.is_some() {
                return None;
            }
            walk.next().unwrap_or_else(|error| {
                fault = Some(error);
                None
            })
        })
        .peekable();
        let mut sink = |offset: u64, bytes: Vec<u8>| {
            self.storing.cancel.check()?;
            let piece = self.received(offset, bytes)?;
            let length = piece.bytes.len() as u64;
            crew.give(piece)?;
            read_bytes += length;
            self.progress.add_done(length.next_multiple_of(CLUSTER_BYTES));
            Ok(())
        };
        if ranges.peek().is_some() {
            reader.read(&mut ranges, &mut sink)?;
        }
        let rest = ranges.next();
        drop(ranges);
        self.storing.cancel.check()?;
        if let Some(error) = fault {
            return Err(error);
        }
        if crew.is_failed() {
            return Err(crew::ended());
        }
        let rest = rest.or_else(|| self.ledger().asked.iter().next().map(|(offset, length)| (*offset, *length)));
        if let Some((offset, length)) = rest {
            return Err(nonsense(&format!("success without the {length} bytes at byte {offset}")));
        }
        Ok(read_bytes)
    }

    fn received(&self, offset: u64, bytes: Vec<u8>) -> Result<Piece> {
        let mut ledger = self.ledger();
        let asked = ledger.asked.get(&offset).copied();
        if asked.is_none_or(|length| length as usize != bytes.len()) {
            return Err(nonsense(&format!("{} bytes at byte {offset}, which were not asked for", bytes.len())));
        }
        ledger.asked.remove(&offset);
        let first = offset / CLUSTER_BYTES;
        let parent = ledger.pages.get(&(first / PAGE_CLUSTERS)).and_then(|open| open.parent.clone());
        Ok(Piece { first, bytes, parent })
    }

    /// What becomes of a cluster that reads as `held` (never [`Held::Nothing`]), and whether its change was not marked.
    fn fate(&self, cluster: u64, held: Held, parent: Option<&[Place]>) -> (Held, bool) {
        match self.change {
            Change::Whole if held == Held::Zeros => (Held::Nothing, false),
            Change::Whole | Change::SinceParent => (held, false),
            Change::Compare => {
                let place = parent.and_then(|places| places.get(in_page(cluster)));
                let same = match (place, held) {
                    (Some(Place::Bytes(_, old)), Held::Bytes(new)) => *old == new,
                    (Some(Place::Zeros), Held::Zeros) => true,
                    _ => false,
                };
                if same {
                    return (Held::Nothing, false);
                }
                let known = !matches!(place, Some(Place::Lost(_)) | None);
                (held, known && self.marked.as_ref().is_some_and(|marked| !marked.has(cluster)))
            }
        }
    }

    /// Digests and writes a piece.
    fn take(&self, piece: Piece) -> Result<()> {
        let Piece { first, mut bytes, parent } = piece;
        let mut fates = Vec::with_capacity(PIECE_CLUSTERS as usize);
        let (mut saved_bytes, mut unmarked_bytes) = (0_u64, 0_u64);
        for (cluster, data) in (first..).zip(bytes.chunks(CLUSTER_BYTES as usize)) {
            let held = if crate::is_zero(data) { Held::Zeros } else { Held::Bytes(sum(data)) };
            let (fate, unmarked) = self.fate(cluster, held, parent.as_deref().map(Vec::as_slice));
            unmarked_bytes += if unmarked { data.len() as u64 } else { 0 };
            saved_bytes += if matches!(fate, Held::Bytes(_)) { 0 } else { data.len() as u64 };
            fates.push(fate);
        }
        // The image ends with a sector, the disk with any byte.
        let end = first.saturating_mul(CLUSTER_BYTES).saturating_add(bytes.len() as u64);
        let padding = usize::try_from(image_bytes(self.size_bytes).min(image_bytes(end)) - end).unwrap_or(0);
        bytes.resize(bytes.len() + padding, 0);
        let mut at = 0;
        while at < fates.len() {
            let kind = std::mem::discriminant(&fates[at]);
            let count = fates[at..].iter().take_while(|fate| std::mem::discriminant(*fate) == kind).count();
            let cluster = first + at as u64;
            match fates[at] {
                Held::Nothing => {}
                Held::Zeros => self.zero(cluster, count as u64)?,
                Held::Bytes(_) => {
                    let start = at * CLUSTER_BYTES as usize;
                    let data = &bytes[start..bytes.len().min(start + count * CLUSTER_BYTES as usize)];
                    let Storing { config, progress, cancel, .. } = self.storing;
                    config.pace.take(data.len() as u64, progress, cancel)?;
                    self.folder.gate().ask(&self.path)?;
                    self.image.write(cluster, data)?;
                }
            }
            at += count;
        }
        let mut ledger = self.ledger();
        ledger.saved_bytes += saved_bytes;
        ledger.unmarked_bytes += unmarked_bytes;
        let number = first / PAGE_CLUSTERS;
        if let Some(open) = ledger.pages.get_mut(&number) {
            for (cluster, fate) in (first..).zip(&fates) {
                open.page.set(in_page(cluster), *fate);
            }
            open.waiting = open.waiting.saturating_sub(fates.len() as u64);
        }
        ledger.settle(number)
    }

    fn zero(&self, first: u64, count: u64) -> Result<()> {
        self.folder.gate().ask(&self.path)?;
        self.image.zero(first, count)
    }

    /// Stores clusters that are zeros without reading; they lie in one page.
    fn zeros(&self, first: u64, end: u64) -> Result<()> {
        if self.change == Change::Whole {
            return Ok(());
        }
        let number = first / PAGE_CLUSTERS;
        let parent = self.ledger().pages.get(&number).and_then(|open| open.parent.clone());
        let parent = parent.as_deref().map(Vec::as_slice);
        let mut unmarked_bytes = 0;
        for cluster in first..end {
            let (fate, unmarked) = self.fate(cluster, Held::Zeros, parent);
            if fate == Held::Zeros {
                self.image.zero(cluster, 1)?;
                if let Some(open) = self.ledger().pages.get_mut(&number) {
                    open.page.set(in_page(cluster), fate);
                }
            }
            unmarked_bytes += if unmarked { cluster_bytes(self.size_bytes, cluster) as u64 } else { 0 };
        }
        self.ledger().unmarked_bytes += unmarked_bytes;
        Ok(())
    }

    /// Begins a page. Those before it get nothing more to wait for.
    fn enter(&self, number: u64) -> Result<()> {
        let parent = match (self.change, self.chain) {
            (Change::Compare, Some(chain)) => Some(Arc::new(chain.places(number)?)),
            _ => None,
        };
        self.ledger().pages.insert(number, OpenPage { parent, waiting: 1, ..OpenPage::default() });
        Ok(())
    }

    /// The page gets nothing more to wait for.
    fn leave(&self, number: u64) -> Result<()> {
        let mut ledger = self.ledger();
        if let Some(open) = ledger.pages.get_mut(&number) {
            open.waiting = open.waiting.saturating_sub(1);
        }
        ledger.settle(number)
    }
}

impl Ledger {
    /// Writes a page that waits for nothing.
    fn settle(&mut self, number: u64) -> Result<()> {
        if self.pages.get(&number).is_none_or(|open| open.waiting > 0) {
            return Ok(());
        }
        match self.pages.remove(&number) {
            Some(open) => self.sums.page(number, &open.page),
            None => Ok(()),
        }
    }
}

/// Goes through a plan: pieces to read come out, zeros are stored on the way, pages are entered and left.
struct Walk<'a> {
    work: &'a DiskWork<'a>,
    plan: std::slice::Iter<'a, Stretch>,
    now: Option<Stretch>,
    page: Option<u64>,
}

impl Walk<'_> {
    /// The next piece to read (offset, length in bytes).
    fn next(&mut self) -> Result<Option<(u64, u32)>> {
        loop {
            let Some(run) = self.now.take().or_else(|| self.plan.next().copied()) else {
                if let Some(page) = self.page.take() {
                    self.work.leave(page)?;
                }
                return Ok(None);
            };
            if run.zero && self.work.change == Change::Whole {
                continue;
            }
            let page = run.first / PAGE_CLUSTERS;
            if self.page != Some(page) {
                if let Some(page) = self.page.replace(page) {
                    self.work.leave(page)?;
                }
                self.work.enter(page)?;
            }
            let page_end = (page + 1).saturating_mul(PAGE_CLUSTERS);
            let longest = if run.zero { PAGE_CLUSTERS } else { PIECE_CLUSTERS };
            let end = run.end.min(page_end).min(run.first.saturating_add(longest));
            self.now = (end < run.end).then_some(Stretch { first: end, ..run });
            if run.zero {
                self.work.storing.cancel.check()?;
                self.work.zeros(run.first, end)?;
                continue;
            }
            let offset = run.first * CLUSTER_BYTES;
            // At most 1 MiB.
            let length = (end * CLUSTER_BYTES).min(self.work.size_bytes).saturating_sub(offset) as u32;
            let mut ledger = self.work.ledger();
            if let Some(open) = ledger.pages.get_mut(&page) {
                open.waiting += end - run.first;
            }
            ledger.asked.insert(offset, length);
            return Ok(Some((offset, length)));
        }
    }
}

fn in_page(cluster: u64) -> usize {
    usize::try_from(cluster % PAGE_CLUSTERS).unwrap_or(0)
}

fn nonsense(what: &str) -> DriverError {
    DriverError::new(Kind::Permanent, "reading a disk", format!("the source gave {what}"))
}
