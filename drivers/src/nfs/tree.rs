//! Who lies upon whom in a series: which layers nothing needs, and which can be merged.
//!
//! A manifest that is damaged does not tell its parent. The headers of its images do: each increment names its backing file
//! in the parent's folder. Where these cannot be read either, anything could lie below it.
//!
//! Invariants: nothing is called unneeded or mergeable while somebody could lie upon it of whom we cannot tell. An I/O
//! failure is never taken for damage: what cannot be read now may be sound.

use std::collections::{BTreeMap, BTreeSet};

use super::folder::Folder;
use super::manifest::{MANIFEST, Manifest, is_point_id};
use super::series::Series;
use crate::qcow2::Image;
use crate::{Kind, Progress, Result};

/// Points and layers with their parents.
pub(super) struct Tree {
    nodes: BTreeMap<String, Member>,
    children: BTreeMap<String, Vec<String>>,
    /// Somebody's parent is not known: nothing may be removed or merged.
    unknown: bool,
}

struct Member {
    parent: Option<String>,
    /// A layer, no point.
    hidden: bool,
}

impl Tree {
    /// Reads all manifests.
    ///
    /// # Errors
    /// Those that a later try may not have.
    pub(super) fn read(series: &Series, progress: &Progress) -> Result<Self> {
        let mut tree = Self { nodes: BTreeMap::new(), children: BTreeMap::new(), unknown: false };
        for id in series.ids()? {
            progress.beat();
            match series.node(&id) {
                Ok(Some(node)) => {
                    let Manifest { parent, .. } = node.manifest;
                    tree.add(id, parent, node.hidden);
                }
                // It lost its manifest: to a removal that was cut off, or by an accident that can be mended. What it lies
                // upon stays as long as others lie upon it.
                Ok(None) => {
                    if let Some(folder) = series.folder().folder(&id)?
                        && let Ok(parent) = named_parent(&folder)
                    {
                        tree.add(id, parent, true);
                    }
                }
                Err(error) if error.kind == Kind::Retry => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "a manifest cannot be read");
                    let folder = if error.kind == Kind::Corrupt { series.folder().folder(&id)? } else { None };
                    match folder.map(|folder| (named_parent(&folder), folder)) {
                        Some((Ok(parent), folder)) => tree.add(id, parent, folder.length(MANIFEST)?.is_none()),
                        _ => tree.unknown = true,
                    }
                }
            }
        }
        Ok(tree)
    }

    fn add(&mut self, id: String, parent: Option<String>, hidden: bool) {
        if let Some(parent) = &parent {
            self.children.entry(parent.clone()).or_default().push(id.clone());
        }
        self.nodes.insert(id, Member { parent, hidden });
    }

    fn is_hidden(&self, id: &str) -> bool {
        self.nodes.get(id).is_some_and(|node| node.hidden)
    }

    fn successors(&self, id: &str) -> &[String] {
        self.children.get(id).map_or(&[], Vec::as_slice)
    }

    /// Whether nothing lies upon `id`, for certain.
    pub(super) fn is_bare(&self, id: &str) -> bool {
        !self.unknown && self.successors(id).is_empty()
    }

    /// A layer that nothing lies upon.
    pub(super) fn unneeded(&self) -> Option<String> {
        self.nodes.keys().find(|id| self.is_hidden(id) && self.is_bare(id)).cloned()
    }

    /// A row of layers, oldest first, each with one successor, and what lies upon the last of them, which is none of `left`.
    pub(super) fn run(&self, left: &BTreeSet<String>) -> Option<(Vec<String>, String)> {
        if self.unknown {
            return None;
        }
        let single = |id: &str| self.is_hidden(id) && self.successors(id).len() == 1;
        for (id, node) in &self.nodes {
            if !single(id) || node.parent.as_deref().is_some_and(single) {
                continue;
            }
            let mut run = vec![id.clone()];
            let mut next = self.successors(id)[0].clone();
            // Parents that go round in a circle have no beginning, so this ends.
            while single(&next) && run.len() <= self.nodes.len() {
                run.push(next.clone());
                next = self.successors(&next)[0].clone();
            }
            if !left.contains(&next) {
                return Some((run, next));
            }
        }
        None
    }
}

/// The parent that the images of a folder name; an error (without a text, nobody needs one) when they do not tell.
fn named_parent(folder: &Folder) -> std::result::Result<Option<String>, ()> {
    let names = folder.names().map_err(|_| ())?;
    let mut found: BTreeSet<Option<String>> = BTreeSet::new();
    for name in names.iter().filter(|name| is_image(name)) {
        let file = folder.open(name).map_err(|_| ())?.ok_or(())?;
        let image = Image::open(file, name).map_err(|_| ())?;
        let parent = image.backing_name().map(|backing| {
            let id = backing.strip_prefix("../").and_then(|rest| rest.split('/').next());
            id.filter(|id| is_point_id(id)).map(str::to_owned).ok_or(())
        });
        found.insert(parent.transpose()?);
    }
    // Whole disks beside increments have no parent; two parents cannot be.
    let parents: Vec<&String> = found.iter().flatten().collect();
    match (found.len(), parents[..].len()) {
        (0, _) | (_, 2..) => Err(()),
        _ => Ok(parents.first().map(|id| (*id).clone())),
    }
}

/// Whether a name is `disk.ID.LABEL`.
fn is_image(name: &str) -> bool {
    name.strip_prefix("disk.").and_then(|rest| rest.split_once('.')).is_some_and(|(id, label)| {
        let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        number(id) && number(label)
    })
}
