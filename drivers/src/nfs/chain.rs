//! One disk of one point as it can be read: its layers, newest first, and which of them has each cluster.
//!
//! What is damaged does not stop a chain from being opened: the clusters that only the damaged part had are
//! [`Place::Lost`], all others are as good as ever.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::sync::{Arc, PoisonError, RwLock};

use super::manifest::DiskFacts;
use super::series::{Node, Series};
use super::sums::{Held, PAGE_CLUSTERS, Page, Sum, Sums, sum};
use crate::qcow2::{CLUSTER_BYTES, Image, Run};
use crate::{DriverError, Kind, Result};

/// Longest chain; each layer of it keeps two files open.
pub(super) const MAX_CHAIN: usize = 250;
/// The unit of sizes of images.
const SECTOR_BYTES: u64 = 512;

/// One layer of a disk.
pub(super) struct Layer {
    pub(super) point: String,
    pub(super) hidden: bool,
    pub(super) facts: DiskFacts,
    /// Where the image lies, for people.
    pub(super) shown: String,
    pub(super) sums: std::result::Result<Sums, String>,
    image: std::result::Result<OpenImage, String>,
    /// Length of the image's file, if it is there.
    pub(super) file_bytes: Option<u64>,
}

/// An image, and its file to read the tables anew.
struct OpenImage {
    file: File,
    image: RwLock<Arc<Image>>,
}

/// A page, if the layer holds anything of it, or why nobody can tell.
pub(super) type PageOrReason = std::result::Result<Option<Arc<Page>>, String>;

/// Layers that are open, by point and disk.
pub(super) type Layers = HashMap<(String, u32), Arc<Layer>>;

/// Where a cluster's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// It is all zeros.
    Zeros,
    /// In the layer of this number, with this digest.
    Bytes(usize, Sum),
    /// Nobody can tell, for this reason.
    Lost(Arc<str>),
}

/// The layers of a disk, newest first.
pub(super) struct Chain {
    pub(super) disk: u32,
    pub(super) size_bytes: u64,
    pub(super) layers: Vec<Arc<Layer>>,
    /// Why the layers below the last one are not there, if they should be.
    pub(super) broken: Option<Arc<str>>,
}

/// The length of an image for a disk of this many bytes.
pub(super) fn image_bytes(size_bytes: u64) -> u64 {
    size_bytes.next_multiple_of(SECTOR_BYTES)
}

/// The bytes that a disk of `size_bytes` has in a cluster.
pub(super) fn cluster_bytes(size_bytes: u64, cluster: u64) -> usize {
    let left = size_bytes.saturating_sub(cluster.saturating_mul(CLUSTER_BYTES)).min(CLUSTER_BYTES);
    usize::try_from(left).unwrap_or(0)
}

/// A failure as a text, unless it has to end the operation.
fn told<T>(result: Result<T>) -> Result<std::result::Result<T, String>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) if matches!(error.kind, Kind::Retry | Kind::Cancelled) => Err(error),
        Err(error) => Ok(Err(error.to_string())),
    }
}

impl Layer {
    /// Opens the files of a disk of a point.
    ///
    /// # Errors
    /// Only those that a later try may not have.
    pub(super) fn open(series: &Series, node: &Node, facts: &DiskFacts) -> Result<Self> {
        let mut shown = node.folder.path().join(&facts.file).display().to_string();
        let mut file_bytes = None;
        let image = match series.image(node, facts) {
            Err(error) => Err(error),
            Ok((file, at)) => {
                shown = at;
                file_bytes = file.as_ref().and_then(|file| file.metadata().ok()).map(|metadata| metadata.len());
                open_image(file, &shown, facts)
            }
        };
        let path = node.folder.path().join(&facts.sums.file);
        let sums = series.sums(node, facts).and_then(|file| match file {
            None => Err(DriverError::new(Kind::Corrupt, format!("opening {}", path.display()), "it is missing")),
            Some(file) => Sums::open(file, path, &facts.sums, facts.size_bytes),
        });
        Ok(Self {
            point: node.manifest.point.clone(),
            hidden: node.hidden,
            facts: facts.clone(),
            shown,
            file_bytes,
            sums: told(sums)?,
            image: told(image)?.map(|(file, image)| OpenImage { file, image: RwLock::new(Arc::new(image)) }),
        })
    }

    /// What the layer holds of a page; its failure as a text.
    pub(super) fn page(&self, number: u64) -> Result<std::result::Result<Option<Page>, String>> {
        match &self.sums {
            Err(reason) => Ok(Err(reason.clone())),
            Ok(sums) => told(sums.page(number)),
        }
    }

    /// Reads clusters from `first` on that must have `sums`.
    ///
    /// # Errors
    /// Only those that a later try may not have; damage is part of the result.
    pub(super) fn fetch(&self, first: u64, sums: &[Sum]) -> Result<Fetched> {
        let open = match &self.image {
            Ok(open) => open,
            Err(reason) => return Ok(Fetched::lost(sums.len(), reason)),
        };
        let image = Arc::clone(&open.image.read().unwrap_or_else(PoisonError::into_inner));
        let fetched = self.fetch_from(&image, first, sums)?;
        if fetched.bad.is_empty() {
            return Ok(fetched);
        }
        // A merge may have put new tables into the same file meanwhile; what we need of it has not changed.
        match told(open_image(open.file.try_clone().ok(), &self.shown, &self.facts))? {
            Err(_) => Ok(fetched),
            Ok((_, image)) => {
                let image = Arc::new(image);
                *open.image.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&image);
                self.fetch_from(&image, first, sums)
            }
        }
    }

    /// As [`Self::fetch`], for copying clusters whose source is removed afterwards: damage is part of the result, but what
    /// cannot be read now is not taken for damaged.
    ///
    /// # Errors
    /// Every failed I/O.
    pub(super) fn fetch_readable(&self, first: u64, sums: &[Sum]) -> Result<Fetched> {
        let fetched = self.fetch(first, sums)?;
        let (false, Ok(open)) = (fetched.bad.is_empty(), &self.image) else { return Ok(fetched) };
        let image = Arc::clone(&open.image.read().unwrap_or_else(PoisonError::into_inner));
        let mut all = Fetched { bytes: Vec::new(), bad: Vec::new() };
        for (number, expected) in sums.iter().enumerate() {
            let cluster = first + number as u64;
            let mut bytes = match image.read(cluster, 1) {
                Ok(bytes) => bytes,
                // Damage has no error below it.
                Err(error) if error.source.is_some() => return Err(error),
                Err(_) => Vec::new(),
            };
            bytes.resize(cluster_bytes(self.facts.size_bytes, cluster), 0);
            if sum(&bytes) != *expected {
                all.bad.push((number, format!("{}: the bytes do not have their digest", self.shown)));
            }
            all.bytes.extend(bytes);
        }
        Ok(all)
    }

    /// What the image itself says that it holds; its failure as a text.
    pub(super) fn runs(&self, first: u64, clusters: u64) -> Result<std::result::Result<Vec<Run>, String>> {
        match &self.image {
            Err(reason) => Ok(Err(reason.clone())),
            Ok(open) => {
                let image = Arc::clone(&open.image.read().unwrap_or_else(PoisonError::into_inner));
                told(image.runs(first, clusters))
            }
        }
    }

    /// Why nothing of it can be read, if so.
    pub(super) fn fault(&self) -> Option<&String> {
        self.sums.as_ref().err().or(self.image.as_ref().err())
    }

    fn fetch_from(&self, image: &Image, first: u64, sums: &[Sum]) -> Result<Fetched> {
        let count = u32::try_from(sums.len()).unwrap_or(0);
        let mut bytes = match told(image.read(first, count))? {
            Ok(bytes) => bytes,
            Err(reason) if sums.len() == 1 => return Ok(Fetched::lost(1, &reason)),
            Err(_) => return self.fetch_singly(image, first, sums),
        };
        let length: usize = (first..first + sums.len() as u64).map(|at| cluster_bytes(self.facts.size_bytes, at)).sum();
        bytes.resize(length, 0);
        let bad = bytes.chunks(CLUSTER_BYTES as usize).zip(sums).enumerate();
        let bad = bad.filter(|(_, (bytes, expected))| sum(bytes) != **expected);
        let bad = bad.map(|(number, _)| (number, format!("{}: the bytes do not have their digest", self.shown)));
        Ok(Fetched { bad: bad.collect(), bytes })
    }

    fn fetch_singly(&self, image: &Image, first: u64, sums: &[Sum]) -> Result<Fetched> {
        let mut all = Fetched { bytes: Vec::new(), bad: Vec::new() };
        for (number, expected) in sums.iter().enumerate() {
            let cluster = first + number as u64;
            let one = self.fetch_from(image, cluster, std::slice::from_ref(expected))?;
            all.bad.extend(one.bad.into_iter().map(|(_, reason)| (number, reason)));
            let mut bytes = one.bytes;
            bytes.resize(cluster_bytes(self.facts.size_bytes, cluster), 0);
            all.bytes.extend(bytes);
        }
        Ok(all)
    }
}

fn open_image(file: Option<File>, shown: &str, facts: &DiskFacts) -> Result<(File, Image)> {
    let corrupt = |reason: &str| DriverError::new(Kind::Corrupt, format!("opening {shown}"), reason);
    let file = file.ok_or_else(|| corrupt("it is missing"))?;
    let again = file.try_clone().map_err(|error| DriverError::io(format!("opening {shown}"), error))?;
    let image = Image::open(file, shown)?;
    if image.size_bytes() != image_bytes(facts.size_bytes) {
        return Err(corrupt("it is the image of a disk of another size"));
    }
    Ok((again, image))
}

/// Clusters that were read.
pub(super) struct Fetched {
    /// Up to the disk's end; what is bad holds anything. Empty when all is bad.
    pub(super) bytes: Vec<u8>,
    /// Numbers of clusters in `bytes` that are not what they must be, and why; ascending.
    pub(super) bad: Vec<(usize, String)>,
}

impl Fetched {
    fn lost(count: usize, reason: &str) -> Self {
        Self { bytes: Vec::new(), bad: (0..count).map(|number| (number, reason.to_owned())).collect() }
    }
}

impl Chain {
    /// Opens disk `disk` of `node`, taking layers that are open from `layers`.
    ///
    /// # Errors
    /// [`Kind::Missing`] when the point holds no such disk; those that a later try may not have.
    pub(super) fn open(series: &Series, node: &Node, disk: u32, layers: &mut Layers) -> Result<Self> {
        let point = &node.manifest.point;
        let doing = || format!("opening disk {disk} of restore point {point}");
        let facts = node.manifest.disk(disk);
        let facts = facts.ok_or_else(|| DriverError::new(Kind::Missing, doing(), "the point holds no such disk"))?;
        let mut chain = Self { disk, size_bytes: facts.size_bytes, layers: Vec::new(), broken: None };
        let mut increment = chain.add(series, node, facts, layers)?;
        let mut next = node.manifest.parent.clone();
        while increment {
            let Some(id) = next.take() else { return Ok(chain.broken_by("a parent is not named")) };
            if chain.layers.len() >= MAX_CHAIN || chain.layers.iter().any(|layer| layer.point == id) {
                return Ok(chain.broken_by("its chain of parents has no end"));
            }
            let parent = match told(series.node(&id))? {
                Ok(Some(parent)) => parent,
                Ok(None) => return Ok(chain.broken_by(&format!("its parent {id} is missing"))),
                Err(reason) => return Ok(chain.broken_by(&reason)),
            };
            match parent.manifest.disk(disk) {
                Some(facts) if facts.size_bytes == chain.size_bytes => {
                    increment = chain.add(series, &parent, facts, layers)?;
                }
                _ => return Ok(chain.broken_by(&format!("its parent {id} holds no such disk"))),
            }
            next = parent.manifest.parent;
        }
        Ok(chain)
    }

    fn add(&mut self, series: &Series, node: &Node, facts: &DiskFacts, layers: &mut Layers) -> Result<bool> {
        let key = (node.manifest.point.clone(), facts.id);
        let layer = match layers.get(&key) {
            Some(layer) => Arc::clone(layer),
            None => {
                let layer = Arc::new(Layer::open(series, node, facts)?);
                layers.insert(key, Arc::clone(&layer));
                layer
            }
        };
        self.layers.push(layer);
        Ok(facts.increment)
    }

    fn broken_by(mut self, reason: &str) -> Self {
        self.broken = Some(format!("disk {}: {reason}", self.disk).into());
        self
    }

    /// Why it cannot be read whole, if that is plain already.
    pub(super) fn fault(&self) -> Option<String> {
        let broken = self.broken.as_deref().map(str::to_owned);
        broken.or_else(|| self.layers.iter().find_map(|layer| layer.fault().cloned()))
    }

    /// The numbers of all pages that can hold anything but zeros.
    pub(super) fn pages(&self) -> BTreeSet<u64> {
        let all = self.size_bytes.div_ceil(CLUSTER_BYTES).div_ceil(PAGE_CLUSTERS);
        if self.broken.is_some() || self.layers.iter().any(|layer| layer.sums.is_err()) {
            return (0..all).collect();
        }
        self.layers.iter().filter_map(|layer| layer.sums.as_ref().ok()).flat_map(Sums::pages).collect()
    }

    /// Where the clusters of page `number` are.
    ///
    /// # Errors
    /// Only those that a later try may not have.
    pub(super) fn places(&self, number: u64) -> Result<Vec<Place>> {
        self.places_of(number, &mut |layer| Ok(layer.page(number)?.map(|page| page.map(Arc::new))))
    }

    /// As [`Self::places`], with `page_of` instead of reading.
    pub(super) fn places_of(
        &self,
        number: u64,
        page_of: &mut dyn FnMut(&Arc<Layer>) -> Result<PageOrReason>,
    ) -> Result<Vec<Place>> {
        let clusters = self.size_bytes.div_ceil(CLUSTER_BYTES);
        let count = clusters.saturating_sub(number.saturating_mul(PAGE_CLUSTERS)).min(PAGE_CLUSTERS);
        let mut places: Vec<Option<Place>> = vec![None; usize::try_from(count).unwrap_or(0)];
        let mut below = self.broken.clone();
        for (at, layer) in self.layers.iter().enumerate() {
            let page = match page_of(layer)? {
                Ok(None) => continue,
                Ok(Some(page)) => page,
                Err(reason) => {
                    below = Some(reason.into());
                    break;
                }
            };
            for (slot, place) in places.iter_mut().enumerate().filter(|(_, place)| place.is_none()) {
                *place = match page.get(slot) {
                    Held::Nothing => None,
                    Held::Zeros => Some(Place::Zeros),
                    Held::Bytes(sum) => Some(Place::Bytes(at, sum)),
                };
            }
        }
        let rest = below.map_or(Place::Zeros, Place::Lost);
        Ok(places.into_iter().map(|place| place.unwrap_or_else(|| rest.clone())).collect())
    }
}
