//! A series: its folder, its points, and the change of names that a crash may have cut off.
//!
//! ```text
//! HH/SERIES/POINT/     a point or, without a `manifest.json`, a layer that other points need
//! HH/SERIES/.new-POINT a point under construction
//! HH/SERIES/switch.json  a layer is being put into another's place; see [`Switch`]
//! ```
//!
//! SERIES is the series' name, of a member of a group with `+` for the slash; HH spreads groups as well.

use std::fs::File;

use serde::{Deserialize, Serialize};

use super::folder::{Folder, PART};
use super::lease::Patience;
use super::manifest::{
    DOCUMENT, DiskFacts, HIDDEN, MANIFEST, MAX_DOCUMENT_BYTES, MAX_MANIFEST_BYTES, Manifest, VERSION, disk_file, hex,
    is_point_id,
};
use super::sums::sum;
use crate::datastore::SeriesName;
use crate::{DriverError, Kind, Result};

/// The file of a [`Switch`].
pub(super) const SWITCH: &str = "switch.json";
/// Most points that one switch removes.
const MAX_RUN: usize = 100_000;

/// The layers of `run` are merged into one, and that is taking the place of the layers of `into`. From the moment that
/// this file is there, `manifest` is what `into` is, wherever its files still lie: the merged images under their old names
/// in `from`, the digests as parts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Switch {
    pub(super) version: u32,
    /// Points that are forgotten, oldest first.
    pub(super) run: Vec<String>,
    pub(super) into: String,
    pub(super) manifest: Manifest,
    pub(super) moves: Vec<Move>,
}

/// A merged image and its new place.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Move {
    pub(super) disk: u32,
    /// The point in whose folder it was merged.
    pub(super) from: String,
    /// Number at the end of its name there.
    pub(super) label: u32,
}

/// An open series.
pub(super) struct Series {
    name: String,
    /// Its folder's name.
    file_name: String,
    folder: Folder,
    switch: Option<Switch>,
}

/// A point or layer.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) folder: Folder,
    pub(super) manifest: Manifest,
    /// Forgotten, and kept only for others.
    pub(super) hidden: bool,
}

/// Whether a text can name a series; others never become part of a path.
pub(super) fn check_name(series: &str) -> Result<()> {
    SeriesName::parse(series).map(drop)
}

/// The folder above a series: a share with very many entries in one directory is slow.
pub(super) fn parent_folder(series: &str) -> String {
    hex(&sum(series.as_bytes())[..1])
}

pub(super) fn missing(point: &str) -> DriverError {
    DriverError::new(Kind::Missing, format!("opening restore point {point}"), "it is not there")
}

impl Series {
    /// Opens a series, if it is there.
    pub(super) fn open(base: &Folder, name: &str) -> Result<Option<Self>> {
        let file_name = SeriesName::parse(name)?.file_name();
        let Some(above) = base.folder(&parent_folder(name))? else { return Ok(None) };
        above.folder(&file_name)?.map(|folder| Self::read(name, file_name, folder)).transpose()
    }

    /// Opens a series or makes it.
    pub(super) fn make(base: &Folder, name: &str) -> Result<Self> {
        let file_name = SeriesName::parse(name)?.file_name();
        base.share_with_group();
        let folder = base.make_folder(&parent_folder(name))?.make_folder(&file_name)?;
        Self::read(name, file_name, folder)
    }

    fn read(name: &str, file_name: String, folder: Folder) -> Result<Self> {
        let mut series = Self { name: name.to_owned(), file_name, folder, switch: None };
        series.switch = series.read_switch()?;
        Ok(series)
    }

    fn read_switch(&self) -> Result<Option<Switch>> {
        let Some(text) = self.folder.read(SWITCH, MAX_MANIFEST_BYTES)? else { return Ok(None) };
        let doing = || format!("reading {}", self.folder.path().join(SWITCH).display());
        let corrupt = |reason: &str| DriverError::new(Kind::Corrupt, doing(), reason);
        let switch: Switch = serde_json::from_slice(&text).map_err(|error| corrupt(&error.to_string()))?;
        if switch.version != VERSION {
            return Err(DriverError::new(Kind::Permanent, doing(), "it is of a version that is not known here"));
        }
        // Checked as its own file would be.
        Manifest::parse(&switch.manifest.text()?, &self.name, &switch.into)?;
        let in_run = |id: &String| switch.run.contains(id);
        let sound = is_point_id(&switch.into)
            && switch.run.len() <= MAX_RUN
            && switch.run.iter().all(|id| is_point_id(id))
            && !in_run(&switch.into)
            && switch.moves.iter().all(|step| in_run(&step.from) && switch.manifest.disk(step.disk).is_some());
        if sound { Ok(Some(switch)) } else { Err(corrupt("it names what cannot be")) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The name of its folder.
    pub(super) fn file_name(&self) -> &str {
        &self.file_name
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    pub(super) fn switch(&self) -> Option<&Switch> {
        self.switch.as_ref()
    }

    /// Puts a switch into force, durable.
    pub(super) fn begin_switch(&mut self, switch: Switch) -> Result<()> {
        let text = serde_json::to_vec_pretty(&switch)
            .map_err(|error| DriverError::other(Kind::Permanent, "writing a change of names", error))?;
        self.folder.write(SWITCH, &text)?;
        self.switch = Some(switch);
        Ok(())
    }

    /// Ends the switch, whose every step is done.
    pub(super) fn end_switch(&mut self) -> Result<()> {
        self.folder.remove(SWITCH)?;
        self.folder.sync()?;
        self.switch = None;
        Ok(())
    }

    /// The names of all folders of points and layers.
    pub(super) fn ids(&self) -> Result<Vec<String>> {
        let mut names = self.folder.names()?;
        names.retain(|name| is_point_id(name));
        Ok(names)
    }

    /// The point or layer of this id, if it is there.
    ///
    /// # Errors
    /// As [`Manifest::parse`].
    pub(super) fn node(&self, id: &str) -> Result<Option<Node>> {
        if !is_point_id(id) {
            return Ok(None);
        }
        let Some(folder) = self.folder.folder(id)? else { return Ok(None) };
        let (text, hidden) = match folder.read(MANIFEST, MAX_MANIFEST_BYTES)? {
            Some(text) => (text, false),
            None => match folder.read(HIDDEN, MAX_MANIFEST_BYTES)? {
                Some(text) => (text, true),
                None => return Ok(None),
            },
        };
        let manifest = match &self.switch {
            Some(switch) if switch.into == id => switch.manifest.clone(),
            _ => Manifest::parse(&text, &self.name, id)?,
        };
        Ok(Some(Node { folder, manifest, hidden }))
    }

    /// The published point of this id.
    ///
    /// # Errors
    /// [`Kind::Missing`] when it is not there.
    pub(super) fn point(&self, id: &str) -> Result<Node> {
        self.node(id)?.filter(|node| !node.hidden).ok_or_else(|| missing(id))
    }

    /// All published points; those that are damaged are left out with a warning.
    pub(super) fn points(&self) -> Result<Vec<Node>> {
        let mut nodes = Vec::new();
        for id in self.ids()? {
            match self.node(&id) {
                Ok(Some(node)) if !node.hidden => nodes.push(node),
                Ok(_) => {}
                Err(error) if error.kind == Kind::Retry => return Err(error),
                Err(error) => tracing::warn!(%error, "a restore point is left out"),
            }
        }
        Ok(nodes)
    }

    /// Whether any point is published in it.
    pub(super) fn has_points(&self) -> Result<bool> {
        for id in self.ids()? {
            if let Some(folder) = self.folder.folder(&id)?
                && folder.length(MANIFEST)?.is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The image of a disk, and where it lies for people.
    pub(super) fn image(&self, node: &Node, disk: &DiskFacts) -> Result<(Option<File>, String)> {
        if let Some(switch) = &self.switch
            && switch.into == node.manifest.point
            && let Some(step) = switch.moves.iter().find(|step| step.disk == disk.id)
            && let Some(folder) = self.folder.folder(&step.from)?
        {
            let name = disk_file(disk.id, step.label);
            if let Some(file) = folder.open(&name)? {
                return Ok((Some(file), folder.path().join(name).display().to_string()));
            }
        }
        let shown = node.folder.path().join(&disk.file).display().to_string();
        Ok((node.folder.open(&disk.file)?, shown))
    }

    /// The digests of a disk.
    pub(super) fn sums(&self, node: &Node, disk: &DiskFacts) -> Result<Option<File>> {
        if let Some(switch) = &self.switch
            && switch.into == node.manifest.point
            && switch.moves.iter().any(|step| step.disk == disk.id)
            && let Some(file) = node.folder.open(&format!("{}{PART}", disk.sums.file))?
        {
            return Ok(Some(file));
        }
        node.folder.open(&disk.sums.file)
    }

    /// The document of a point, compared with its digest.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] when it is missing or damaged.
    pub(super) fn document(&self, node: &Node) -> Result<Vec<u8>> {
        let facts = &node.manifest.document;
        let corrupt = |reason: &str| {
            let doing = format!("reading {}", node.folder.path().join(DOCUMENT).display());
            DriverError::new(Kind::Corrupt, doing, reason)
        };
        let text = node.folder.read(DOCUMENT, MAX_DOCUMENT_BYTES)?.ok_or_else(|| corrupt("it is missing"))?;
        if text.len() as u64 != facts.length || hex(&sum(&text)) != facts.sha256 {
            return Err(corrupt("it does not have the digest that the manifest tells"));
        }
        Ok(text)
    }

    /// Keeps a point from being forgotten while it is read, as long as the file is held. Ends at once where no locks can
    /// be had: the digests still find what changed.
    pub(super) fn hold(&self, node: &Node, exclusive: bool, patience: Patience<'_>) -> Result<Option<File>> {
        // The document is the one file of a point that is never replaced.
        let file = if exclusive { node.folder.open_to_write(DOCUMENT)? } else { node.folder.open(DOCUMENT)? };
        let Some(file) = file else { return Ok(None) };
        let doing = format!("reserving restore point {}", node.manifest.point);
        match patience.lock(&file, exclusive, patience.deadline(), &doing, "a restore or a forget") {
            Err(error) if !exclusive && !matches!(error.kind, Kind::Retry | Kind::Cancelled) => return Ok(None),
            other => other?,
        }
        // It may have been forgotten while we waited.
        if node.folder.length(MANIFEST)?.is_none() { Err(missing(&node.manifest.point)) } else { Ok(Some(file)) }
    }
}
