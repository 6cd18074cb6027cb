//! Giving a disk back.
//!
//! The plan goes through the pages of the newest-first chain, so each cluster is read once, from the layer that has it. A
//! crew reads and compares with the digests, one thread writes the target. Zeros and holes are left out.
//!
//! Invariants: nothing reaches the target that does not have its digest; what is left out is in the list of damages, or
//! the restore fails.

use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Sender, bounded};

use super::chain::{Chain, Fetched, Layers, Place, cluster_bytes};
use super::crew::{self, Crew};
use super::series::Series;
use super::sums::{PAGE_CLUSTERS, Sum, sum};
use crate::datastore::{Damage, MAX_DAMAGES, Restored};
use crate::qcow2::CLUSTER_BYTES;
use crate::{Cancel, DiskReader, DiskWriter, DriverError, Kind, Pace, Progress, Result};

/// Clusters that are read in one go: 1 MiB.
const PIECE_CLUSTERS: usize = 16;

/// A restore under way.
pub(super) struct Restoring<'a> {
    pub(super) chain: &'a Chain,
    pub(super) threads: usize,
    pub(super) pace: &'a Pace,
    pub(super) skip_bad: bool,
    pub(super) progress: &'a Progress,
    pub(super) cancel: &'a Cancel,
}

/// Neighbouring clusters of one layer.
struct Piece {
    first: u64,
    layer: usize,
    sums: Vec<Sum>,
    /// What another disk has in their place.
    offered: Option<Vec<u8>>,
}

/// A cluster that cannot be given back.
struct Bad {
    cluster: u64,
    /// The layer that should have it, when that is known.
    layer: Option<usize>,
    what: String,
}

#[derive(Default)]
struct Found {
    bad: Vec<Bad>,
    fetched_bytes: u64,
}

impl Restoring<'_> {
    /// Writes the disk into `target`.
    pub(super) fn run(
        &self,
        series: &Series,
        point: &str,
        target: &mut dyn DiskWriter,
        current: Option<Box<dyn DiskReader>>,
    ) -> Result<Restored> {
        if let Some(reason) = self.chain.fault().filter(|_| !self.skip_bad) {
            let doing = format!("restoring disk {} of restore point {point}", self.chain.disk);
            return Err(DriverError::new(Kind::Corrupt, doing, reason));
        }
        self.progress.add_total(self.chain.size_bytes);
        let found = Mutex::new(Found::default());
        let (results, queue) = bounded::<(u64, Vec<u8>)>(2 * self.threads);
        let (work, written) = std::thread::scope(|scope| {
            let writer = scope.spawn(move || -> Result<u64> {
                let mut written = 0;
                for (offset, bytes) in queue {
                    target.write_at(offset, &bytes)?;
                    written += bytes.len() as u64;
                }
                Ok(written)
            });
            let work = crew::run(
                self.threads,
                |piece| self.take(piece, &results, &found),
                |crew| self.plan(current, crew, &found),
            );
            drop(results);
            let written = writer.join().unwrap_or_else(|_| Err(crew::ended()));
            (work, written)
        });
        // The writer's error made the others fail.
        let written_bytes = written?;
        work?;
        self.cancel.check()?;
        let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let damages = self.damages(series, point, found.bad)?;
        Ok(Restored { written_bytes, fetched_bytes: found.fetched_bytes, damages })
    }

    /// Hands out all pieces.
    fn plan(
        &self,
        mut current: Option<Box<dyn DiskReader>>,
        crew: &Crew<'_, Piece>,
        found: &Mutex<Found>,
    ) -> Result<()> {
        let mut done = 0;
        for number in self.chain.pages() {
            self.cancel.check()?;
            let mut pieces = self.pieces(number, found)?;
            if let Some(reader) = &mut current
                && !self.offer(reader.as_mut(), &mut pieces, crew)?
            {
                current = None;
            }
            for piece in pieces {
                self.cancel.check()?;
                crew.give(piece)?;
            }
            let end = (number + 1).saturating_mul(PAGE_CLUSTERS * CLUSTER_BYTES).min(self.chain.size_bytes);
            self.progress.add_done(end.saturating_sub(done));
            done = end;
        }
        self.progress.add_done(self.chain.size_bytes.saturating_sub(done));
        Ok(())
    }

    /// The pieces of a page.
    fn pieces(&self, number: u64, found: &Mutex<Found>) -> Result<Vec<Piece>> {
        let mut pieces: Vec<Piece> = Vec::new();
        for (cluster, place) in (number * PAGE_CLUSTERS..).zip(self.chain.places(number)?) {
            match place {
                Place::Zeros => {}
                Place::Lost(reason) => self.bad(found, Bad { cluster, layer: None, what: reason.to_string() })?,
                Place::Bytes(layer, sum) => match pieces.last_mut() {
                    Some(piece)
                        if piece.layer == layer
                            && piece.first + piece.sums.len() as u64 == cluster
                            && piece.sums.len() < PIECE_CLUSTERS =>
                    {
                        piece.sums.push(sum);
                    }
                    _ => pieces.push(Piece { first: cluster, layer, sums: vec![sum], offered: None }),
                },
            }
        }
        Ok(pieces)
    }

    /// Reads what the current disk has in place of `pieces` and hands out those that it answers for; the others stay.
    /// Gives false when it is not to be asked again.
    fn offer(&self, reader: &mut dyn DiskReader, pieces: &mut Vec<Piece>, crew: &Crew<'_, Piece>) -> Result<bool> {
        let size = reader.size_bytes();
        let span = |piece: &Piece| (piece.first * CLUSTER_BYTES, self.span_bytes(piece));
        let wanted: Vec<(u64, u32)> =
            pieces.iter().map(span).filter(|(offset, length)| offset + u64::from(*length) <= size).collect();
        let mut ranges = wanted.into_iter().take_while(|_| !crew.is_failed() && !self.cancel.is_cancelled());
        let mut ours = Ok(());
        let read = reader.read(&mut ranges, &mut |offset, bytes| {
            let at = pieces.iter().position(|piece| span(piece) == (offset, bytes.len() as u32));
            if let Some(at) = at {
                let mut piece = pieces.swap_remove(at);
                piece.offered = Some(bytes);
                ours = crew.give(piece);
                if ours.is_err() {
                    return Err(crew::ended());
                }
            }
            Ok(())
        });
        ours?;
        if let Err(error) = &read {
            self.cancel.check()?;
            tracing::warn!(%error, "the current disk cannot be read; all comes from the datastore");
        }
        Ok(read.is_ok())
    }

    fn span_bytes(&self, piece: &Piece) -> u32 {
        let clusters = piece.first..piece.first + piece.sums.len() as u64;
        // At most 1 MiB.
        clusters.map(|cluster| cluster_bytes(self.chain.size_bytes, cluster) as u32).sum()
    }

    /// Gets the bytes of a piece and passes them on.
    fn take(&self, piece: Piece, results: &Sender<(u64, Vec<u8>)>, found: &Mutex<Found>) -> Result<()> {
        self.cancel.check()?;
        let Piece { first, layer, sums, offered } = piece;
        let send =
            |cluster: u64, bytes: Vec<u8>| results.send((cluster * CLUSTER_BYTES, bytes)).map_err(|_| crew::ended());
        let same: Vec<bool> = match &offered {
            None => vec![false; sums.len()],
            Some(bytes) => {
                bytes.chunks(CLUSTER_BYTES as usize).zip(&sums).map(|(bytes, known)| sum(bytes) == *known).collect()
            }
        };
        if let Some(bytes) = offered.as_ref().filter(|_| same.iter().all(|same| *same)) {
            return send(first, bytes.clone());
        }
        let mut at = 0;
        while at < sums.len() {
            let count = same[at..].iter().take_while(|other| **other == same[at]).count();
            let cluster = first + at as u64;
            if let Some(bytes) = offered.as_ref().filter(|_| same[at]) {
                let start = at * CLUSTER_BYTES as usize;
                send(cluster, bytes[start..bytes.len().min(start + count * CLUSTER_BYTES as usize)].to_vec())?;
            } else {
                let source = self.chain.layers.get(layer).ok_or_else(crew::ended)?;
                self.pace.take(count as u64 * CLUSTER_BYTES, self.progress, self.cancel)?;
                let fetched = source.fetch(cluster, &sums[at..at + count])?;
                self.pass_on(cluster, layer, fetched, &send, found)?;
            }
            at += count;
        }
        Ok(())
    }

    /// Sends what is good and notes what is bad.
    fn pass_on(
        &self,
        first: u64,
        layer: usize,
        fetched: Fetched,
        send: &dyn Fn(u64, Vec<u8>) -> Result<()>,
        found: &Mutex<Found>,
    ) -> Result<()> {
        let Fetched { bytes, bad } = fetched;
        found.lock().unwrap_or_else(PoisonError::into_inner).fetched_bytes += bytes.len() as u64;
        if bad.is_empty() {
            return send(first, bytes);
        }
        for (number, data) in bytes.chunks(CLUSTER_BYTES as usize).enumerate() {
            if bad.iter().all(|(other, _)| *other != number) {
                send(first + number as u64, data.to_vec())?;
            }
        }
        for (number, what) in bad {
            self.bad(found, Bad { cluster: first + number as u64, layer: Some(layer), what })?;
        }
        Ok(())
    }

    fn bad(&self, found: &Mutex<Found>, bad: Bad) -> Result<()> {
        let offset = bad.cluster.saturating_mul(CLUSTER_BYTES);
        if !self.skip_bad {
            let doing = format!("restoring disk {} at byte {offset}", self.chain.disk);
            return Err(DriverError::new(Kind::Corrupt, doing, bad.what));
        }
        found.lock().unwrap_or_else(PoisonError::into_inner).bad.push(bad);
        Ok(())
    }

    /// Neighbouring bad clusters as one damage each, with everybody whom it concerns.
    fn damages(&self, series: &Series, point: &str, mut bad: Vec<Bad>) -> Result<Vec<Damage>> {
        if bad.is_empty() {
            return Ok(Vec::new());
        }
        bad.sort_by_key(|bad| bad.cluster);
        let others = Others::open(series, point, self.chain)?;
        let mut damages: Vec<Damage> = Vec::new();
        for bad in bad {
            let offset = bad.cluster.saturating_mul(CLUSTER_BYTES);
            let length = cluster_bytes(self.chain.size_bytes, bad.cluster) as u64;
            let mut points = vec![point.to_owned()];
            points.extend(others.of(&bad, self.chain)?);
            points.sort();
            let full = damages.len() >= MAX_DAMAGES;
            match damages.last_mut() {
                Some(last) if last.offset + last.length == offset && last.what == bad.what && last.points == points => {
                    last.length += length;
                }
                _ if full => break,
                _ => damages.push(Damage { points, disk: Some(self.chain.disk), offset, length, what: bad.what }),
            }
        }
        Ok(damages)
    }
}

/// The other points of the series that share layers with a chain.
struct Others(Vec<(String, Chain)>);

impl Others {
    fn open(series: &Series, point: &str, chain: &Chain) -> Result<Self> {
        let mut layers: Layers =
            chain.layers.iter().map(|layer| ((layer.point.clone(), chain.disk), layer.clone())).collect();
        let mut others = Vec::new();
        for node in series.points()? {
            if node.manifest.point != point && node.manifest.disk(chain.disk).is_some() {
                let other = Chain::open(series, &node, chain.disk, &mut layers)?;
                others.push((node.manifest.point, other));
            }
        }
        Ok(Self(others))
    }

    /// Those that read a bad cluster, too.
    fn of(&self, bad: &Bad, chain: &Chain) -> Result<Vec<String>> {
        let mut points = Vec::new();
        let page = bad.cluster / PAGE_CLUSTERS;
        for (point, other) in &self.0 {
            let Ok(slot) = usize::try_from(bad.cluster % PAGE_CLUSTERS) else { continue };
            let reads = match (other.places(page)?.get(slot), bad.layer.and_then(|at| chain.layers.get(at))) {
                (Some(Place::Bytes(at, _)), Some(layer)) => {
                    other.layers.get(*at).is_some_and(|theirs| theirs.point == layer.point)
                }
                (Some(Place::Lost(reason)), None) => **reason == *bad.what,
                _ => false,
            };
            if reads {
                points.push(point.clone());
            }
        }
        Ok(points)
    }
}
