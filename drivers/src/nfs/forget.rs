//! Forgetting points and cleaning up.
//!
//! 1. Each forgotten point's `manifest.json` becomes `layer.json`: from then on it is no point, only layers.
//! 2. Layers that no point needs are removed.
//! 3. A row of layers with one successor is merged: the newest clusters of all of them and of the successor are written
//!    into the image of the oldest, which then takes the place of the successor's own (see [`Switch`]). So the cost is that
//!    of the increments, not of the disk. Layers with two successors stay until one of these is gone.
//!
//! Each step can be repeated from the names that lie there, whenever it was cut off; 2 and 3 are what a sweep does.
//! Meanwhile all points can be read: what is overwritten in the oldest layer is hidden from every point by a newer one.
//!
//! Invariants: the caller holds the series' write lease alone. Files change their names only under the names lease. A
//! layer that cannot be read whole is left as it is, and so is everything around it.

use std::collections::BTreeSet;

use super::NfsConfig;
use super::chain::{Layer, image_bytes};
use super::folder::{Folder, NEW, PART};
use super::lease::{Lease, Patience, Which};
use super::manifest::{DiskFacts, HIDDEN, MANIFEST, VERSION, disk_file};
use super::series::{Move, Node, Series, Switch};
use super::sums::{Held, PAGE_CLUSTERS, Page, SumsWriter};
use super::tree::Tree;
use crate::datastore::Forgotten;
use crate::qcow2::{CLUSTER_BYTES, Merge};
use crate::{DriverError, Kind, Result};

/// Clusters that are copied in one go: 1 MiB.
const PIECE_CLUSTERS: usize = 16;

/// What cleaning a series needs.
pub(super) struct Cleaning<'a> {
    pub(super) config: &'a NfsConfig,
    pub(super) base: &'a Folder,
    pub(super) patience: Patience<'a>,
}

impl Cleaning<'_> {
    /// Makes `points` mere layers; those that are not there are none already.
    pub(super) fn hide(&self, series: &Series, points: &[String]) -> Result<()> {
        let mut hidden = Vec::new();
        let mut held = Vec::new();
        for id in points.iter().collect::<BTreeSet<_>>() {
            // A manifest that cannot be read does not keep its point from being forgotten.
            let folder = if super::manifest::is_point_id(id) { series.folder().folder(id)? } else { None };
            let Some(folder) = folder.filter(|folder| folder.length(MANIFEST).is_ok_and(|found| found.is_some()))
            else {
                continue;
            };
            match series.node(id) {
                Ok(Some(node)) => {
                    held.push(series.hold(&node, true, self.patience)?);
                    hidden.push(folder);
                }
                Ok(None) => {}
                Err(error) if error.kind == Kind::Corrupt => hidden.push(folder),
                Err(error) => return Err(error),
            }
        }
        for folder in &hidden {
            folder.rename(MANIFEST, folder, HIDDEN)?;
            folder.sync()?;
        }
        Ok(())
    }

    /// Steps 2 and 3; gives what came of them.
    pub(super) fn compact(&self, series: &mut Series) -> Result<Forgotten> {
        let mut done = Forgotten::default();
        if series.switch().is_some() {
            self.switch(series, &mut done)?;
        }
        // Points below which nothing can be merged now.
        let mut left = BTreeSet::new();
        loop {
            self.patience.cancel.check()?;
            let tree = Tree::read(series, self.patience.progress)?;
            if let Some(id) = tree.unneeded() {
                let freed = series.folder().remove_folder(&id, &[MANIFEST, HIDDEN])?;
                done.freed_bytes = done.freed_bytes.saturating_add(freed);
                self.patience.progress.beat();
                continue;
            }
            let Some((run, into)) = tree.run(&left) else { return Ok(done) };
            match self.merge(series, &run, &into) {
                Ok(true) => self.switch(series, &mut done)?,
                Ok(false) => {
                    left.insert(into);
                }
                // Until the switch is in force all is as it was.
                Err(error) if error.kind == Kind::Corrupt && series.switch().is_none() => {
                    leave(&into, &error.to_string());
                    left.insert(into);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Merges `run`, oldest first, and `into`; gives false when that is not possible.
    fn merge(&self, series: &mut Series, run: &[String], into: &str) -> Result<bool> {
        let mut nodes = Vec::new();
        for id in run.iter().map(String::as_str).chain([into]) {
            match series.node(id) {
                Ok(Some(node)) => nodes.push(node),
                Ok(None) => return Ok(leave(into, "a layer is missing")),
                Err(error) if error.kind == Kind::Corrupt => return Ok(leave(into, &error.to_string())),
                Err(error) => return Err(error),
            }
        }
        let Some((last, _)) = nodes.split_last() else { return Ok(false) };
        let mut manifest = last.manifest.clone();
        let mut moves = Vec::new();
        for facts in &mut manifest.disks {
            if !facts.increment {
                continue;
            }
            // From the newest layer down to one that needs no other.
            let mut layers: Vec<(&Node, Layer)> = Vec::new();
            for node in nodes.iter().rev() {
                let Some(below) = node.manifest.disk(facts.id).filter(|below| below.size_bytes == facts.size_bytes)
                else {
                    return Ok(leave(into, "a parent does not hold the disk"));
                };
                let layer = Layer::open(series, node, below)?;
                if let Some(reason) = layer.fault() {
                    return Ok(leave(into, reason));
                }
                let whole = !below.increment;
                layers.push((node, layer));
                if whole {
                    break;
                }
            }
            let Some(merged) = self.merge_disk(series, last, facts, &layers)? else { continue };
            moves.push(merged);
        }
        let oldest = &nodes[0].manifest;
        manifest.parent = oldest.parent.clone().filter(|_| manifest.disks.iter().any(|disk| disk.increment));
        manifest.count_bytes()?;
        let switch = Switch { version: VERSION, run: run.to_vec(), into: into.to_owned(), manifest, moves };
        series.begin_switch(switch)?;
        Ok(true)
    }

    /// Writes what the newer layers hold into the oldest one's image, and the digests of all beside the newest.
    fn merge_disk(
        &self,
        series: &Series,
        newest: &Node,
        facts: &mut DiskFacts,
        layers: &[(&Node, Layer)],
    ) -> Result<Option<Move>> {
        let Some(((target_node, target), sources)) = layers.split_last().filter(|(_, sources)| !sources.is_empty())
        else {
            return Ok(None);
        };
        let corrupt = |what: &str| DriverError::new(Kind::Corrupt, format!("merging {}", target.shown), what);
        let file = target_node.folder.open_to_write(&target.facts.file)?.ok_or_else(|| corrupt("it is missing"))?;
        let mut merge = Merge::begin(file, &target.shown)?;
        let part = format!("{}{PART}", facts.sums.file);
        newest.folder.remove(&part)?;
        let (path, gate) = (newest.folder.path().join(&part), newest.folder.gate().clone());
        let mut sums = SumsWriter::create(newest.folder.create(&part)?, path, gate, facts.size_bytes)?;

        let pages_of = |layer: &Layer| layer.sums.as_ref().map(|sums| sums.pages().collect()).unwrap_or_default();
        let changed: BTreeSet<u64> = sources.iter().flat_map(|(_, layer)| -> Vec<u64> { pages_of(layer) }).collect();
        let kept: Vec<u64> = pages_of(target);
        let all: BTreeSet<u64> = changed.iter().copied().chain(kept).collect();
        for number in all {
            self.patience.cancel.check()?;
            self.patience.progress.beat();
            let read =
                |layer: &Layer| layer.page(number)?.map_err(|reason| corrupt(&reason)).map(Option::unwrap_or_default);
            let mut page = read(target)?;
            if changed.contains(&number) {
                let pages: Vec<Page> = sources.iter().map(|(_, layer)| read(layer)).collect::<Result<_>>()?;
                self.merge_page(series, number, &mut page, &pages, sources, target, &mut merge)?;
            }
            sums.page(number, &page)?;
        }
        target_node.folder.gate().ask(&target_node.folder.path().join(&target.facts.file))?;
        let finished = merge.finish()?;
        facts.file_bytes = finished.file_bytes;
        facts.taken_bytes = target_node.folder.taken_bytes(&target.facts.file)?;
        facts.increment = target.facts.increment;
        facts.sums = sums.finish(facts.sums.file.clone())?;
        newest.folder.sync()?;
        Ok(Some(Move { disk: facts.id, from: target.point.clone(), label: target.facts.label() }))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one page of one merge")]
    fn merge_page(
        &self,
        series: &Series,
        number: u64,
        page: &mut Page,
        pages: &[Page],
        sources: &[(&Node, Layer)],
        target: &Layer,
        merge: &mut Merge,
    ) -> Result<()> {
        let size_bytes = target.facts.size_bytes;
        let first = number * PAGE_CLUSTERS;
        let count = size_bytes.div_ceil(CLUSTER_BYTES).saturating_sub(first).min(PAGE_CLUSTERS);
        let count = usize::try_from(count).unwrap_or(0);
        let gate_path = series.folder().path().join(&target.point).join(&target.facts.file);
        // The newest layer that holds anything of the cluster.
        let newest = |slot: usize| {
            let found = pages.iter().enumerate().map(|(at, page)| (at, page.get(slot)));
            found.into_iter().find(|(_, held)| *held != Held::Nothing)
        };
        let mut slot = 0;
        while slot < count {
            let Some((at, held)) = newest(slot) else {
                slot += 1;
                continue;
            };
            let same_kind = |other: &(usize, Held)| {
                other.0 == at && std::mem::discriminant(&other.1) == std::mem::discriminant(&held)
            };
            let run: Vec<Held> = (slot..count.min(slot + PIECE_CLUSTERS))
                .map_while(|slot| newest(slot).filter(same_kind))
                .map(|(_, held)| held)
                .collect();
            let cluster = first + slot as u64;
            series.folder().gate().ask(&gate_path)?;
            if held == Held::Zeros {
                merge.zero(cluster, run.len() as u64)?;
            } else {
                let wanted: Vec<_> =
                    run.iter().filter_map(|held| if let Held::Bytes(sum) = held { Some(*sum) } else { None }).collect();
                let Some((_, source)) = sources.get(at) else { return Ok(()) };
                self.copy(source, cluster, &wanted, target, merge)?;
            }
            for (slot, held) in (slot..).zip(&run) {
                // Below a layer without a parent there are only zeros.
                let nothing = *held == Held::Zeros && !target.facts.increment;
                page.set(slot, if nothing { Held::Nothing } else { *held });
            }
            slot += run.len();
        }
        Ok(())
    }

    fn copy(
        &self,
        source: &Layer,
        cluster: u64,
        sums: &[super::sums::Sum],
        target: &Layer,
        merge: &mut Merge,
    ) -> Result<()> {
        let mut fetched = source.fetch_readable(cluster, sums)?;
        if let Some((_, reason)) = fetched.bad.first() {
            // It keeps its digest, so it stays the damage that it is.
            tracing::warn!(%reason, "a damaged range is merged as it is");
        }
        let end = (cluster + sums.len() as u64).saturating_mul(CLUSTER_BYTES).min(image_bytes(target.facts.size_bytes));
        let length = usize::try_from(end.saturating_sub(cluster * CLUSTER_BYTES)).unwrap_or(0);
        fetched.bytes.resize(length, 0);
        let Patience { progress, cancel, .. } = self.patience;
        self.config.pace.take(length as u64, progress, cancel)?;
        merge.write(cluster, &fetched.bytes)?;
        progress.add_done(length as u64);
        Ok(())
    }

    /// Carries out the switch that is in force; every step of it may be done already.
    fn switch(&self, series: &mut Series, done: &mut Forgotten) -> Result<()> {
        let Some(switch) = series.switch().cloned() else { return Ok(()) };
        let before: u64 = self.bytes_of(series, switch.run.iter().chain([&switch.into]))?;
        {
            let _names = Lease::take(self.base, series.name(), Which::Names, true, self.patience)?;
            if let Some(into) = series.folder().folder(&switch.into)? {
                for step in &switch.moves {
                    let Some(facts) = switch.manifest.disk(step.disk) else { continue };
                    let old = disk_file(step.disk, step.label);
                    if let Some(from) = series.folder().folder(&step.from)?
                        && from.length(&old)?.is_some()
                    {
                        from.rename(&old, &into, &facts.file)?;
                        into.sync()?;
                        from.sync()?;
                    }
                    let part = format!("{}{PART}", facts.sums.file);
                    if into.length(&part)?.is_some() {
                        into.rename(&part, &into, &facts.sums.file)?;
                        into.sync()?;
                    }
                }
                let name = if into.length(MANIFEST)?.is_some() { MANIFEST } else { HIDDEN };
                into.write(name, &switch.manifest.text()?)?;
                if name == MANIFEST {
                    done.resized.retain(|(id, _)| *id != switch.into);
                    done.resized.push((switch.into.clone(), switch.manifest.stored_bytes));
                }
            }
            for id in &switch.run {
                series.folder().remove_folder(id, &[MANIFEST, HIDDEN])?;
            }
        }
        let after = self.bytes_of(series, [&switch.into].into_iter())?;
        done.freed_bytes = done.freed_bytes.saturating_add(before.saturating_sub(after));
        series.end_switch()
    }

    fn bytes_of<'a>(&self, series: &Series, ids: impl Iterator<Item = &'a String>) -> Result<u64> {
        let mut sum = 0_u64;
        for id in ids {
            if let Some(folder) = series.folder().folder(id)? {
                sum = sum.saturating_add(folder.used_bytes(0)?);
            }
        }
        Ok(sum)
    }

    /// Removes what stores and merges that were cut off left.
    pub(super) fn leftovers(&self, series: &Series) -> Result<()> {
        let folder = series.folder();
        let tree = Tree::read(series, self.patience.progress)?;
        for name in folder.names()? {
            self.patience.progress.beat();
            if name.starts_with(NEW) {
                folder.remove_folder(&name, &[])?;
            } else if name.ends_with(PART) {
                folder.remove(&name)?;
            } else if super::manifest::is_point_id(&name)
                && let Some(inner) = folder.folder(&name)?
            {
                if inner.length(MANIFEST)?.is_none() && inner.length(HIDDEN)?.is_none() {
                    // One that lost its manifest by an accident may still be mended by hand, and others lie upon it.
                    if tree.is_bare(&name) {
                        folder.remove_folder(&name, &[])?;
                    }
                    continue;
                }
                // Of a switch in force they are not.
                if series.switch().is_none_or(|switch| switch.into != name) {
                    for part in inner.names()?.iter().filter(|name| name.ends_with(PART)) {
                        inner.remove(part)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn leave(into: &str, reason: &str) -> bool {
    tracing::warn!(point = into, reason, "layers below a restore point are left as they are");
    false
}
