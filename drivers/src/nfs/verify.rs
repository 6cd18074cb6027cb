//! Looking whether points can be given back.
//!
//! Quick: every manifest, document, image and list of digests is there, has its length and its inner structure. Deep:
//! also the documents' bytes, every cluster that one of the points reads, once, against its digest, and whether each image
//! says of itself what its list of digests says, so that stock tools read the same.
//!
//! A cluster that a newer layer hides from all points is not looked at: nobody reads it, and a merge may be changing it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::NfsConfig;
use super::chain::{Chain, Layer, Layers, PageOrReason, Place, cluster_bytes};
use super::crew;
use super::lease::Patience;
use super::manifest::DOCUMENT;
use super::series::{Node, Series};
use super::sums::{Held, PAGE_CLUSTERS, Page, Sum};
use crate::datastore::{Damage, Depth, MAX_DAMAGES, Verified, VerifyRequest};
use crate::qcow2::{self, CLUSTER_BYTES};
use crate::{Cancel, Kind, Progress, Result};

/// Clusters that are read in one go: 1 MiB.
const PIECE_CLUSTERS: usize = 16;
/// Pages between two looks at what was found: 1 GiB of disk.
const BATCH_PAGES: u64 = 16;
/// How often the place is saved at least.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// The version of the text of a place.
const SAVED_VERSION: u32 = 2;
/// Longest text of a place.
const MAX_SAVED_BYTES: usize = 64 << 10;

/// Where a deep look was interrupted.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    version: u32,
    /// Disks that are done, in order of their ids.
    disks: usize,
    /// Pages of the next disk that are done.
    pages: u64,
    read_bytes: u64,
    #[serde(with = "packed")]
    damages: Vec<Damage>,
}

/// A look under way.
pub(super) struct Verifying<'a> {
    pub(super) config: &'a NfsConfig,
    pub(super) series: &'a Series,
    pub(super) request: &'a VerifyRequest<'a>,
    pub(super) progress: &'a Progress,
    pub(super) cancel: &'a Cancel,
}

/// All layers that the points read, opened.
pub(super) struct Opened {
    nodes: Vec<Node>,
    /// By disk: (number of the point in `nodes`, its chain).
    chains: BTreeMap<u32, Vec<(usize, Chain)>>,
    damages: Vec<Damage>,
}

impl Opened {
    /// Keeps the points from being forgotten meanwhile.
    pub(super) fn hold(&self, series: &Series, patience: Patience<'_>) -> Result<Vec<Option<File>>> {
        self.nodes.iter().map(|node| series.hold(node, false, patience)).collect()
    }
}

/// A row of clusters of one layer to look at.
struct Piece {
    layer: Arc<Layer>,
    first: u64,
    sums: Vec<Sum>,
    readers: Vec<usize>,
}

/// A range that is bad: offset, length, how, and the numbers of the points that read it.
type Bad = (u64, u64, String, Vec<usize>);

/// What one cluster of a layer must be, and which points read it.
type Wanted = BTreeMap<(usize, usize), (Sum, Vec<usize>)>;

impl Verifying<'_> {
    /// Opens everything; the caller keeps files from changing their names meanwhile.
    pub(super) fn open(&self) -> Result<Opened> {
        let mut opened = Opened { nodes: Vec::new(), chains: BTreeMap::new(), damages: Vec::new() };
        let ids: BTreeSet<&String> = self.request.points.iter().collect();
        for id in ids {
            self.progress.beat();
            match self.series.point(id) {
                Ok(node) => opened.nodes.push(node),
                Err(error) if error.kind == Kind::Corrupt => {
                    opened.damages.push(beside(vec![id.clone()], None, error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        let mut layers = Layers::new();
        for (number, node) in opened.nodes.iter().enumerate() {
            for disk in &node.manifest.disks {
                self.cancel.check()?;
                self.progress.beat();
                let chain = Chain::open(self.series, node, disk.id, &mut layers)?;
                opened.chains.entry(disk.id).or_default().push((number, chain));
            }
        }
        Ok(opened)
    }

    /// Looks.
    pub(super) fn run(&self, mut opened: Opened, save: &mut dyn FnMut(&str) -> Result<()>) -> Result<Verified> {
        let mut damages = std::mem::take(&mut opened.damages);
        self.structure(&opened, &mut damages)?;
        let mut saved = Saved { version: SAVED_VERSION, ..Saved::default() };
        if self.request.depth == Depth::Deep {
            let resumed = self.request.resume.and_then(|text| serde_json::from_str::<Saved>(text).ok());
            saved = resumed.filter(|resumed| resumed.version == SAVED_VERSION).unwrap_or(saved);
            self.deep(&opened, &mut saved, save)?;
        }
        damages.extend(saved.damages);
        damages.truncate(MAX_DAMAGES);
        Ok(Verified { read_bytes: saved.read_bytes, damages })
    }

    fn structure(&self, opened: &Opened, damages: &mut Vec<Damage>) -> Result<()> {
        for node in &opened.nodes {
            self.progress.beat();
            let point = vec![node.manifest.point.clone()];
            if self.request.depth == Depth::Deep {
                match self.series.document(node) {
                    Err(error) if error.kind == Kind::Retry => return Err(error),
                    Err(error) => damages.push(beside(point, None, error.to_string())),
                    Ok(_) => {}
                }
            } else if node.folder.length(DOCUMENT)? != Some(node.manifest.document.length) {
                let shown = node.folder.path().join(DOCUMENT).display().to_string();
                damages.push(beside(point, None, format!("{shown}: it is missing or has another length")));
            }
        }
        // What is wrong with a layer is told once, with all who need it.
        let mut found: BTreeMap<(u32, String), BTreeSet<String>> = BTreeMap::new();
        for (disk, chains) in &opened.chains {
            for (number, chain) in chains {
                let mut add = |what: String| {
                    found.entry((*disk, what)).or_default().insert(opened.nodes[*number].manifest.point.clone());
                };
                if let Some(reason) = &chain.broken {
                    add(reason.to_string());
                }
                for layer in &chain.layers {
                    if let Some(reason) = layer.fault() {
                        add(reason.clone());
                    } else if !layer.hidden && layer.file_bytes != Some(layer.facts.file_bytes) {
                        let (is, must) = (layer.file_bytes.unwrap_or(0), layer.facts.file_bytes);
                        add(format!("{}: it has {is} bytes instead of {must}", layer.shown));
                    }
                }
            }
        }
        damages.extend(
            found.into_iter().map(|((disk, what), points)| beside(points.into_iter().collect(), Some(disk), what)),
        );
        Ok(())
    }

    fn deep(&self, opened: &Opened, saved: &mut Saved, save: &mut dyn FnMut(&str) -> Result<()>) -> Result<()> {
        let size = |chains: &Vec<(usize, Chain)>| chains.iter().map(|(_, chain)| chain.size_bytes).max().unwrap_or(0);
        for (disk, chains) in &opened.chains {
            self.progress.of_disk(*disk).add_total(size(chains));
        }
        let mut saved_at = Instant::now();
        for (disk, chains) in opened.chains.iter().skip(saved.disks) {
            let progress = self.progress.of_disk(*disk);
            let pages = size(chains).div_ceil(CLUSTER_BYTES).div_ceil(PAGE_CLUSTERS);
            while saved.pages < pages {
                let end = pages.min(saved.pages + BATCH_PAGES);
                let looked = self.batch(opened, *disk, chains, saved.pages..end);
                let (read_bytes, damages) = match looked {
                    Ok(looked) => looked,
                    Err(error) => {
                        save(&saved.text())?;
                        return Err(error);
                    }
                };
                let bytes = |page: u64| page.saturating_mul(PAGE_CLUSTERS * CLUSTER_BYTES).min(size(chains));
                progress.add_done(bytes(end) - bytes(saved.pages));
                saved.read_bytes = saved.read_bytes.saturating_add(read_bytes);
                saved.damages.extend(damages);
                saved.damages.truncate(MAX_DAMAGES);
                saved.pages = end;
                if saved_at.elapsed() >= SAVE_EVERY || read_bytes > 0 {
                    save(&saved.text())?;
                    saved_at = Instant::now();
                }
            }
            saved.disks += 1;
            saved.pages = 0;
        }
        Ok(())
    }

    /// Looks at some pages of a disk; gives the bytes read and what was found.
    fn batch(
        &self,
        opened: &Opened,
        disk: u32,
        chains: &[(usize, Chain)],
        pages: std::ops::Range<u64>,
    ) -> Result<(u64, Vec<Damage>)> {
        let read_bytes = Mutex::new(0_u64);
        let bad: Mutex<Vec<Bad>> = Mutex::default();
        let note = |cluster: u64, length: u64, what: String, readers: Vec<usize>| {
            bad.lock().unwrap_or_else(PoisonError::into_inner).push((cluster * CLUSTER_BYTES, length, what, readers));
        };
        crew::run(
            self.config.threads,
            |piece: Piece| {
                let length = piece.sums.len() as u64 * CLUSTER_BYTES;
                self.config.pace.take(length, self.progress, self.cancel)?;
                self.cancel.check()?;
                let fetched = piece.layer.fetch(piece.first, &piece.sums)?;
                self.progress.beat();
                *read_bytes.lock().unwrap_or_else(PoisonError::into_inner) += fetched.bytes.len() as u64;
                for (number, what) in fetched.bad {
                    let cluster = piece.first + number as u64;
                    let length = cluster_bytes(piece.layer.facts.size_bytes, cluster) as u64;
                    note(cluster, length, what, piece.readers.clone());
                }
                Ok(())
            },
            |crew| {
                for number in pages {
                    self.cancel.check()?;
                    for piece in self.page(chains, number, &note)? {
                        crew.give(piece)?;
                    }
                }
                Ok(())
            },
        )?;
        let mut bad = bad.into_inner().unwrap_or_else(PoisonError::into_inner);
        bad.sort();
        let mut damages: Vec<Damage> = Vec::new();
        for (offset, length, what, readers) in bad {
            let points: Vec<String> =
                readers.iter().map(|number| opened.nodes[*number].manifest.point.clone()).collect();
            let full = damages.len() >= MAX_DAMAGES;
            match damages.last_mut() {
                Some(last) if last.offset + last.length == offset && last.what == what && last.points == points => {
                    last.length += length;
                }
                _ if full => break,
                _ => damages.push(Damage { points, disk: Some(disk), offset, length, what }),
            }
        }
        Ok((read_bytes.into_inner().unwrap_or_else(PoisonError::into_inner), damages))
    }

    /// The pieces of a page that have to be read; what is wrong without reading is noted.
    fn page(
        &self,
        chains: &[(usize, Chain)],
        number: u64,
        note: &dyn Fn(u64, u64, String, Vec<usize>),
    ) -> Result<Vec<Piece>> {
        let first = number * PAGE_CLUSTERS;
        let mut pages: HashMap<usize, PageOrReason> = HashMap::new();
        let mut layers: HashMap<usize, Arc<Layer>> = HashMap::new();
        let mut differing: HashMap<usize, Vec<usize>> = HashMap::new();
        let (mut wanted, mut lost) = (Wanted::new(), BTreeMap::<(usize, String), Vec<usize>>::new());
        for (reader, chain) in chains {
            let places = chain.places_of(number, &mut |layer| {
                let key = Arc::as_ptr(layer) as usize;
                if let Some(page) = pages.get(&key) {
                    return Ok(page.clone());
                }
                let page = layer.page(number)?.map(|page| page.map(Arc::new));
                pages.insert(key, page.clone());
                layers.insert(key, Arc::clone(layer));
                Ok(page)
            })?;
            for (slot, place) in places.iter().enumerate() {
                match place {
                    Place::Zeros => {}
                    Place::Bytes(at, sum) => {
                        let key = Arc::as_ptr(&chain.layers[*at]) as usize;
                        wanted.entry((key, slot)).or_insert_with(|| (*sum, Vec::new())).1.push(*reader);
                    }
                    Place::Lost(what) => lost.entry((slot, what.to_string())).or_default().push(*reader),
                }
            }
            self.compare_tables(chain, number, &pages, &mut differing, &places, &mut |slot, what| {
                lost.entry((slot, what)).or_default().push(*reader);
            })?;
        }
        for ((slot, what), readers) in lost {
            let cluster = first + slot as u64;
            let size = chains.iter().map(|(_, chain)| chain.size_bytes).max().unwrap_or(0);
            note(cluster, cluster_bytes(size, cluster) as u64, what, readers);
        }
        let mut pieces: Vec<Piece> = Vec::new();
        for ((key, slot), (sum, readers)) in wanted {
            let Some(layer) = layers.get(&key) else { continue };
            let cluster = first + slot as u64;
            match pieces.last_mut() {
                Some(piece)
                    if Arc::ptr_eq(&piece.layer, layer)
                        && piece.first + piece.sums.len() as u64 == cluster
                        && piece.readers == readers
                        && piece.sums.len() < PIECE_CLUSTERS =>
                {
                    piece.sums.push(sum);
                }
                _ => pieces.push(Piece { layer: Arc::clone(layer), first: cluster, sums: vec![sum], readers }),
            }
        }
        Ok(pieces)
    }

    /// Tells of each cluster of which an image says something else than its digests, when a point reads it.
    fn compare_tables(
        &self,
        chain: &Chain,
        number: u64,
        pages: &HashMap<usize, PageOrReason>,
        differing: &mut HashMap<usize, Vec<usize>>,
        places: &[Place],
        tell: &mut dyn FnMut(usize, String),
    ) -> Result<()> {
        for (at, layer) in chain.layers.iter().enumerate() {
            // One that is being merged into is ahead of its digests.
            let Some(Ok(page)) = pages.get(&(Arc::as_ptr(layer) as usize)) else { break };
            if layer.hidden {
                continue;
            }
            let key = Arc::as_ptr(layer) as usize;
            let slots = match differing.entry(key) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(free) => free.insert(differences(layer, number, page.as_deref(), places.len())?),
            };
            for slot in slots.iter() {
                let held = page.as_deref().map_or(Held::Nothing, |page| page.get(*slot));
                // Hidden by a newer layer, or read and compared anyway.
                let read = match places.get(*slot) {
                    Some(Place::Bytes(from, _)) => *from > at,
                    Some(Place::Zeros) => !hidden_by_newer(chain, at, *slot, pages),
                    _ => false,
                };
                if read {
                    let says = if held == Held::Nothing { "a cluster that it must not hold" } else { "no zeros" };
                    tell(*slot, format!("{}: its tables are damaged, it holds {says}", layer.shown));
                }
            }
        }
        Ok(())
    }
}

/// The clusters of a page of which an image says something else than its digests.
fn differences(layer: &Layer, number: u64, page: Option<&Page>, count: usize) -> Result<Vec<usize>> {
    let first = number * PAGE_CLUSTERS;
    // A failure shows in reading, too; and what nobody reads may be broken.
    let Ok(runs) = layer.runs(first, count as u64)? else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for run in runs {
        for cluster in run.first..run.first + run.clusters {
            let Ok(slot) = usize::try_from(cluster - first) else { continue };
            let held = page.map_or(Held::Nothing, |page| page.get(slot));
            let fits = match (held, run.place) {
                (Held::Bytes(_), place) => place == qcow2::Place::Data,
                (Held::Zeros, qcow2::Place::Zero) | (Held::Nothing, qcow2::Place::Absent) => true,
                (Held::Zeros, qcow2::Place::Absent) | (Held::Nothing, qcow2::Place::Zero) => !layer.facts.increment,
                _ => false,
            };
            if !fits {
                out.push(slot);
            }
        }
    }
    Ok(out)
}

/// Whether one of the layers above number `at` has zeros in place of a cluster.
fn hidden_by_newer(chain: &Chain, at: usize, slot: usize, pages: &HashMap<usize, PageOrReason>) -> bool {
    chain.layers[..at].iter().any(|layer| match pages.get(&(Arc::as_ptr(layer) as usize)) {
        Some(Ok(Some(page))) => page.get(slot) != Held::Nothing,
        _ => false,
    })
}

fn beside(points: Vec<String>, disk: Option<u32>, what: String) -> Damage {
    Damage { points, disk, offset: 0, length: 0, what }
}

/// Puts damages into a text as [`Packed`].
mod packed {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Damage, Packed};

    pub(super) fn serialize<S: Serializer>(damages: &[Damage], to: S) -> Result<S::Ok, S::Error> {
        Packed::from(damages.to_vec()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Damage>, D::Error> {
        Packed::deserialize(from).map(Vec::from)
    }
}

/// Damages in few bytes: nearly all of them have the same points and texts.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Packed {
    points: Vec<Vec<String>>,
    texts: Vec<String>,
    /// Numbers of points and text, disk, offset, length.
    ranges: Vec<(usize, usize, Option<u32>, u64, u64)>,
}

impl From<Vec<Damage>> for Packed {
    fn from(damages: Vec<Damage>) -> Self {
        fn number<T: PartialEq>(known: &mut Vec<T>, value: T) -> usize {
            known.iter().position(|other| *other == value).unwrap_or_else(|| {
                known.push(value);
                known.len() - 1
            })
        }
        let mut packed = Self::default();
        for Damage { points, disk, offset, length, what } in damages {
            let numbers = (number(&mut packed.points, points), number(&mut packed.texts, what));
            packed.ranges.push((numbers.0, numbers.1, disk, offset, length));
        }
        packed
    }
}

impl From<Packed> for Vec<Damage> {
    /// What names points or texts that are not there is left out.
    fn from(packed: Packed) -> Self {
        let damage = |(points, text, disk, offset, length): (usize, usize, _, _, _)| {
            let points = packed.points.get(points).filter(|points| !points.is_empty())?.clone();
            Some(Damage { points, disk, offset, length, what: packed.texts.get(text)?.clone() })
        };
        packed.ranges.into_iter().take(MAX_DAMAGES).filter_map(damage).collect()
    }
}

impl Saved {
    /// As many damages as fit are kept.
    fn text(&self) -> String {
        let mut count = self.damages.len();
        loop {
            let shorter = Self { damages: self.damages[..count].to_vec(), ..*self };
            match serde_json::to_string(&shorter) {
                Ok(text) if text.len() <= MAX_SAVED_BYTES || count == 0 => return text,
                _ => count = count * 3 / 4,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_keeps_as_many_damages_as_are_told() {
        let damage = |number: usize| Damage {
            points: vec![format!("{:016x}", number % 7); 1 + number % 3],
            disk: Some(0),
            offset: (number as u64) << 40,
            length: CLUSTER_BYTES,
            what: format!("/var/lib/one/datastores/100/79/7/0123456789abcdef/disk.0.{}: the bytes differ", number % 5),
        };
        let damages: Vec<Damage> = (0..MAX_DAMAGES).map(damage).collect();
        let saved = Saved { version: SAVED_VERSION, disks: 1, pages: 3, read_bytes: 4, damages: damages.clone() };
        let text = saved.text();
        assert!(text.len() <= MAX_SAVED_BYTES, "{}", text.len());
        let again: Saved = serde_json::from_str(&text).unwrap();
        assert_eq!(again.damages, damages);
        let nonsense = r#"{"version":2,"disks":0,"pages":0,"read_bytes":0,"damages":{"points":[],"texts":[],"ranges":[[9,9,null,0,0]]}}"#;
        assert_eq!(serde_json::from_str::<Saved>(nonsense).unwrap().damages, []);
    }
}
