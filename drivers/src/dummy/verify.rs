//! Looking whether points can be given back.
//!
//! Both depths look at manifests, documents and the lengths of the disks' files; a deep look also reads every block that
//! is not all zero. Holes are not read: what they give back does not depend on the file.
//!
//! Invariant: a place is saved only together with every damage before it.

use serde::{Deserialize, Serialize};

use super::blocks::{BLOCK_BYTES, BlockTable, digest};
use super::gate::Gate;
use super::point::{Manifest, Point, missing};
use super::restore::{Harm, StoredDisk, Wound};
use super::script::Operation;
use crate::datastore::{Damage, Depth, MAX_DAMAGES, Verified, VerifyRequest};
use crate::{Cancel, DriverError, Kind, Progress, Result};

/// Bytes of a disk between two texts that are saved; there is one after each disk, too.
const SAVE_BYTES: u64 = 16 << 20;

/// How far a verification has come; what is saved.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// Tells the request that it belongs to.
    key: String,
    /// Points that are done.
    point: usize,
    /// Disks of the next point that are done.
    disk: usize,
    /// Bytes of its next disk that are done; whole blocks.
    offset: u64,
    read_bytes: u64,
    /// Damages so far, at most [`MAX_DAMAGES`], 60 bytes each: number of the point, disk, offset, length, harm.
    wounds: Vec<(usize, Option<u32>, u64, u64, Harm)>,
}

impl State {
    /// Goes on where `request` says, or begins.
    fn of(request: &VerifyRequest<'_>, points: usize) -> Self {
        // No series' name and no id holds a line break.
        let key = digest(format!("{:?}\n{}\n{}", request.depth, request.series, request.points.join("\n")).as_bytes());
        let saved = request.resume.and_then(|text| serde_json::from_str::<Self>(text).ok());
        let is_ours = |saved: &Self| {
            let wounds = &saved.wounds;
            saved.key == key
                && saved.offset.is_multiple_of(BLOCK_BYTES)
                && wounds.len() <= MAX_DAMAGES
                && wounds
                    .iter()
                    .all(|(point, _, offset, length, _)| *point < points && offset.checked_add(*length).is_some())
        };
        saved.filter(is_ours).unwrap_or(Self { key, ..Self::default() })
    }

    /// Adds a damage of the point at hand.
    fn add(&mut self, wound: Wound) {
        if let Some((point, disk, offset, length, harm)) = self.wounds.last_mut() {
            let mut last = Wound { disk: *disk, offset: *offset, length: *length, harm: *harm };
            if *point == self.point && last.joins(&wound) {
                *length = last.length;
                return;
            }
        }
        if self.wounds.len() < MAX_DAMAGES {
            self.wounds.push((self.point, wound.disk, wound.offset, wound.length, wound.harm));
        }
    }

    fn damages(&self, ids: &[&str]) -> Vec<Damage> {
        let mut wounds = self.wounds.clone();
        wounds.sort_by_key(|(point, disk, offset, ..)| (*point, *disk, *offset));
        let damage = |(point, disk, offset, length, harm): (usize, _, _, _, _)| {
            ids.get(point).map(|id| Wound { disk, offset, length, harm }.damage(id))
        };
        wounds.into_iter().filter_map(damage).collect()
    }
}

/// A verification under way.
pub(super) struct Verification<'a> {
    pub(super) gate: &'a Gate,
    pub(super) request: &'a VerifyRequest<'a>,
    pub(super) save: &'a mut dyn FnMut(&str) -> Result<()>,
    pub(super) progress: &'a Progress,
    pub(super) cancel: &'a Cancel,
}

impl Verification<'_> {
    /// Looks at `points`, each with its id and given once.
    pub(super) fn run(mut self, points: &[(&str, Point)]) -> Result<Verified> {
        self.cancel.check()?;
        let mut state = State::of(self.request, points.len());
        let mut left = 0_u64;
        for (number, (id, point)) in points.iter().enumerate() {
            let manifest = manifest(point, id)?;
            if let (Some(manifest), Depth::Deep, true) = (manifest, self.request.depth, number >= state.point) {
                let done = if number == state.point { (state.disk, state.offset) } else { (0, 0) };
                left = left.saturating_add(bytes_from(&manifest, done));
            }
            self.progress.beat();
        }
        self.progress.add_total(left);
        while let Some((id, point)) = points.get(state.point) {
            self.cancel.check()?;
            self.progress.beat();
            self.look_at(id, point, &mut state)?;
            (state.point, state.disk, state.offset) = (state.point + 1, 0, 0);
        }
        let ids: Vec<&str> = points.iter().map(|(id, _)| *id).collect();
        Ok(Verified { read_bytes: state.read_bytes, damages: state.damages(&ids) })
    }

    fn look_at(&mut self, id: &str, point: &Point, state: &mut State) -> Result<()> {
        let Some(manifest) = manifest(point, id)? else {
            state.add(Wound::beside(Harm::Manifest));
            return Ok(());
        };
        if (state.disk, state.offset) == (0, 0) {
            match point.document(id, &manifest) {
                Ok(document) => state.read_bytes = state.read_bytes.saturating_add(document.len() as u64),
                Err(error) if error.kind == Kind::Corrupt => state.add(Wound::beside(Harm::Document)),
                Err(error) => return Err(error),
            }
        }
        for disk in manifest.disks.iter().skip(state.disk) {
            let call = self.gate.enter(Operation::VerifyDisk, self.request.series, Some(self.cancel))?;
            let stored = StoredDisk::open(point, id, disk.id, &disk.table)?;
            self.look_at_disk(&stored, &disk.table, state)?;
            call.leave(Some(self.cancel))?;
            (state.disk, state.offset) = (state.disk + 1, 0);
            self.save(state)?;
        }
        Ok(())
    }

    fn look_at_disk(&mut self, disk: &StoredDisk<'_>, table: &BlockTable, state: &mut State) -> Result<()> {
        let misfit = disk.misfit();
        if let (Some(wound), 0) = (misfit, state.offset) {
            state.add(wound);
        }
        if self.request.depth == Depth::Quick {
            return Ok(());
        }
        // What the length tells already is not told again.
        let end = misfit.map_or(table.size_bytes, |wound| wound.offset);
        let mut unsaved = 0;
        for (start, length) in table.pieces(state.offset) {
            self.cancel.check()?;
            let mut at = start;
            while at < (start + length).min(end) {
                let mut block = vec![0; (start + length - at).min(BLOCK_BYTES) as usize];
                if let Some(wound) = disk.read(at, &mut block)? {
                    state.add(wound);
                }
                state.read_bytes = state.read_bytes.saturating_add(block.len() as u64);
                at += block.len() as u64;
            }
            self.progress.add_done(length);
            state.offset = (start + length).div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES);
            unsaved += length;
            if unsaved >= SAVE_BYTES {
                unsaved = 0;
                self.save(state)?;
            }
        }
        Ok(())
    }

    fn save(&mut self, state: &State) -> Result<()> {
        let text = serde_json::to_string(state)
            .map_err(|error| DriverError::other(Kind::Permanent, "saving how far a verification is", error))?;
        (self.save)(&text)?;
        self.cancel.check()
    }
}

/// The manifest of a point that exists; none = it is damaged.
fn manifest(point: &Point, id: &str) -> Result<Option<Manifest>> {
    match point.manifest() {
        Ok(Some(manifest)) => Ok(Some(manifest)),
        Ok(None) => Err(missing(id)),
        Err(error) if error.kind == Kind::Corrupt => Ok(None),
        Err(error) => Err(error),
    }
}

/// Bytes that a deep look at a point reads of its disks, after the first `disks` of them and `offset` of the next one.
fn bytes_from(manifest: &Manifest, (disks, offset): (usize, u64)) -> u64 {
    let left = manifest.disks.iter().skip(disks).zip(std::iter::once(offset).chain(std::iter::repeat(0)));
    left.flat_map(|(disk, from)| disk.table.pieces(from)).map(|(_, length)| length).sum()
}
