//! Snapshots as records: the tree of one disk (`SNAPSHOTS`), and the list of a VM (`SNAPSHOT` in its TEMPLATE).
//!
//! What it is: which snapshots there are, from which each grew, which one is in use, and what may be deleted. What it is
//! not: it touches no disk. A record is made when the work begins and confirmed or taken back when the driver answers.
//!
//! Invariants: ids of a disk's snapshots are never used again; a parent knows its children and they know it; there are at
//! most [`MAX_SNAPSHOTS`] of each.

use serde::{Deserialize, Serialize};

use crate::backup::Mode;
use crate::doc::{DiskSnapshotsView, SnapshotView};
use crate::refusal::Refusal;
use crate::template::{Template, Vector};

/// The most snapshots that a disk, or a VM, may have.
pub const MAX_SNAPSHOTS: usize = 256;

/// The longest name of a snapshot, in characters.
const MAX_NAME_CHARS: usize = 128;

/// Names of snapshots are free text, unlike those of objects: users put dates and times into them.
fn check_name(name: &str) -> Result<(), Refusal> {
    let broken = |reason: &str| Err(Refusal::BadName { reason: reason.to_owned() });
    if name.chars().count() > MAX_NAME_CHARS {
        return broken("the name of a snapshot has at most 128 characters");
    }
    if name.chars().any(char::is_control) {
        return broken("the name of a snapshot cannot contain control characters");
    }
    Ok(())
}

/// Refuses to make snapshots of a VM whose backups are increments: both want to know what changed, each for itself.
/// `action` is the word in the sentence, `disk-snapshot-create` or `snapshot-create`.
///
/// # Errors
/// [`Refusal::NotWithIncrements`].
pub fn allowed_beside_backups(action: &str, mode: Mode) -> Result<(), Refusal> {
    match mode {
        Mode::Full => Ok(()),
        Mode::Increment => Err(Refusal::NotWithIncrements { action: action.to_owned() }),
    }
}

/// What a disk's driver says about snapshots whose parent is gone (`ALLOW_ORPHANS`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Orphans {
    /// NO: snapshots form a chain; what others grew from must stay.
    #[default]
    No,
    /// YES: snapshots do not depend on each other, so none has a parent.
    Yes,
    /// MIXED: they hang on the snapshot that the disk was last reverted to.
    Mixed,
}

impl Orphans {
    /// From the driver's word and the disk's format. FORMAT means: as the format wants it; only raw files stand alone.
    pub fn from_word(word: &str, format: &str) -> Self {
        let is = |known: &str| word.eq_ignore_ascii_case(known);
        match () {
            () if is("YES") => Self::Yes,
            () if is("MIXED") => Self::Mixed,
            () if is("FORMAT") && format.eq_ignore_ascii_case("raw") => Self::Yes,
            () => Self::No,
        }
    }

    /// The word in documents.
    pub fn word(self) -> &'static str {
        match self {
            Self::No => "NO",
            Self::Yes => "YES",
            Self::Mixed => "MIXED",
        }
    }
}

/// One snapshot of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSnapshot {
    /// Its number, unique in the disk.
    pub id: i64,
    /// Its name, may be empty.
    pub name: String,
    /// The snapshot it grew from, −1 for none.
    pub parent: i64,
    /// Those that grew from it, ascending.
    pub children: Vec<i64>,
    /// When it was made, epoch seconds.
    pub date: i64,
    /// Its size in MB, as it counts for quotas: that of the disk.
    pub size_mb: i64,
}

/// All snapshots of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSnapshots {
    /// The disk.
    pub disk_id: i64,
    orphans: Orphans,
    current_base: i64,
    next_snapshot: i64,
    active: Option<i64>,
    snapshots: Vec<DiskSnapshot>,
}

impl DiskSnapshots {
    /// A disk without snapshots.
    pub fn new(disk_id: i64, orphans: Orphans) -> Self {
        Self { disk_id, orphans, current_base: -1, next_snapshot: 0, active: None, snapshots: Vec::new() }
    }

    /// The snapshots, ids ascending.
    pub fn snapshots(&self) -> &[DiskSnapshot] {
        &self.snapshots
    }

    /// The snapshot that the disk grows from now.
    pub fn active(&self) -> Option<i64> {
        self.active
    }

    /// One snapshot.
    ///
    /// # Errors
    /// [`Refusal::NoSnapshot`].
    pub fn get(&self, id: i64) -> Result<&DiskSnapshot, Refusal> {
        self.snapshots.iter().find(|snapshot| snapshot.id == id).ok_or(Refusal::NoSnapshot { snapshot: id })
    }

    fn get_mut(&mut self, id: i64) -> Option<&mut DiskSnapshot> {
        self.snapshots.iter_mut().find(|snapshot| snapshot.id == id)
    }

    /// Records a new snapshot when its making begins; it is not in use until [`DiskSnapshots::created`]. Returns its id.
    ///
    /// # Errors
    /// A bad name (none is allowed), too many snapshots.
    pub fn create(&mut self, name: &str, size_mb: i64, now: i64) -> Result<i64, Refusal> {
        check_name(name)?;
        if self.snapshots.len() >= MAX_SNAPSHOTS {
            return Err(Refusal::TooManySnapshots { limit: MAX_SNAPSHOTS });
        }
        let id = self.next_snapshot;
        let parent = match self.orphans {
            Orphans::No => self.active.unwrap_or(-1),
            Orphans::Mixed => self.current_base,
            Orphans::Yes => -1,
        };
        if let Some(parent) = self.get_mut(parent) {
            parent.children.push(id);
        }
        let name = name.to_owned();
        self.snapshots.push(DiskSnapshot { id, name, parent, children: Vec::new(), date: now, size_mb });
        self.next_snapshot = id.saturating_add(1);
        Ok(id)
    }

    /// The driver has made the snapshot: the disk grows from it now. With MIXED the disk stays where it is.
    pub fn created(&mut self, id: i64) {
        if self.orphans != Orphans::Mixed && self.get(id).is_ok() {
            self.active = Some(id);
        }
    }

    /// Whether the disk can go back to this snapshot.
    ///
    /// # Errors
    /// [`Refusal::NoSnapshot`].
    pub fn may_revert(&self, id: i64) -> Result<(), Refusal> {
        self.get(id).map(|_| ())
    }

    /// The driver has put the disk back to this snapshot.
    pub fn reverted(&mut self, id: i64) {
        if self.get(id).is_err() {
            return;
        }
        self.active = Some(id);
        if self.orphans == Orphans::Mixed {
            self.current_base = id;
        }
    }

    /// Whether the snapshot can be deleted. Where orphans are allowed all can.
    ///
    /// # Errors
    /// [`Refusal::NoSnapshot`]; [`Refusal::SnapshotActive`], [`Refusal::SnapshotWithChildren`] (OpenNebula's rule).
    pub fn may_delete(&self, id: i64) -> Result<(), Refusal> {
        let snapshot = self.get(id)?;
        if self.orphans == Orphans::Yes {
            return Ok(());
        }
        if self.active == Some(id) {
            return Err(Refusal::SnapshotActive { snapshot: id });
        }
        if !snapshot.children.is_empty() {
            return Err(Refusal::SnapshotWithChildren { snapshot: id, children: joined(&snapshot.children) });
        }
        Ok(())
    }

    /// The snapshot is gone: the driver has deleted it, or could not make it. What grew from it grows from its parent then.
    pub fn deleted(&mut self, id: i64) {
        let Some(index) = self.snapshots.iter().position(|snapshot| snapshot.id == id) else { return };
        let gone = self.snapshots.remove(index);
        for child in &gone.children {
            if let Some(child) = self.get_mut(*child) {
                child.parent = gone.parent;
            }
        }
        if let Some(parent) = self.get_mut(gone.parent) {
            parent.children.retain(|child| *child != id);
            parent.children.extend(&gone.children);
            parent.children.sort_unstable();
        }
        let heir = (gone.parent >= 0).then_some(gone.parent);
        if self.active == Some(id) {
            self.active = heir;
        }
        if self.current_base == id {
            self.current_base = heir.unwrap_or(-1);
        }
    }

    /// Gives a snapshot another name.
    ///
    /// # Errors
    /// [`Refusal::NoSnapshot`], a bad or empty name.
    pub fn rename(&mut self, id: i64, name: &str) -> Result<(), Refusal> {
        self.get(id)?;
        check_name(name)?;
        if name.is_empty() {
            return Err(Refusal::BadName { reason: "it cannot be empty".to_owned() });
        }
        if let Some(snapshot) = self.get_mut(id) {
            name.clone_into(&mut snapshot.name);
        }
        Ok(())
    }

    /// What all snapshots together count for quotas, in MB (`DISK_SNAPSHOT_TOTAL_SIZE`).
    pub fn total_size_mb(&self) -> i64 {
        self.snapshots.iter().fold(0, |sum: i64, snapshot| sum.saturating_add(snapshot.size_mb.max(0)))
    }

    /// As the VM's document shows it.
    pub fn view(&self) -> DiskSnapshotsView {
        let snapshots = self.snapshots.iter().map(|snapshot| SnapshotView {
            id: snapshot.id,
            name: snapshot.name.clone(),
            parent: snapshot.parent,
            children: snapshot.children.clone(),
            date: snapshot.date,
            size_mb: snapshot.size_mb,
            active: self.active == Some(snapshot.id),
        });
        DiskSnapshotsView {
            disk_id: self.disk_id,
            allow_orphans: self.orphans.word().to_owned(),
            current_base: self.current_base,
            next_snapshot: self.next_snapshot,
            snapshots: snapshots.collect(),
        }
    }
}

fn joined(ids: &[i64]) -> String {
    ids.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}

/// What a driver does with a snapshot of the VM (`ACTION`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SystemSnapshotAction {
    /// It is being made.
    Create,
    /// The VM is going back to it.
    Revert,
    /// It is being deleted.
    Delete,
}

impl SystemSnapshotAction {
    const ALL: [Self; 3] = [Self::Create, Self::Revert, Self::Delete];

    /// The word in the document.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Revert => "REVERT",
            Self::Delete => "DELETE",
        }
    }
}

/// One snapshot of the VM: memory and disks as they were together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemSnapshot {
    /// Its number (`SNAPSHOT_ID`).
    pub id: i64,
    /// Its name.
    pub name: String,
    /// When it was asked for, epoch seconds (`TIME`).
    pub time: i64,
    /// What the hypervisor calls it; empty until it has answered.
    pub hypervisor_id: String,
    /// What it counts for quotas, in MB (`SYSTEM_DISK_SIZE`).
    pub system_disk_size_mb: i64,
    /// What a driver is doing with it; `ACTIVE` in the document means that there is something.
    pub action: Option<SystemSnapshotAction>,
}

/// All snapshots of one VM, in the order in which they were made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SystemSnapshots {
    snapshots: Vec<SystemSnapshot>,
}

impl SystemSnapshots {
    /// Reads the `SNAPSHOT` vectors of a VM's TEMPLATE. A vector without a number is left out.
    pub fn from_template(template: &Template) -> Self {
        let snapshots = template.vectors("SNAPSHOT").filter_map(|vector| {
            let text = |key| vector.get(key).unwrap_or_default().to_owned();
            let action = vector.get("ACTION").unwrap_or_default();
            Some(SystemSnapshot {
                id: vector.int("SNAPSHOT_ID")?,
                name: text("NAME"),
                time: vector.int("TIME").unwrap_or_default(),
                hypervisor_id: text("HYPERVISOR_ID"),
                system_disk_size_mb: vector.int("SYSTEM_DISK_SIZE").unwrap_or_default(),
                action: SystemSnapshotAction::ALL.into_iter().find(|known| known.word() == action),
            })
        });
        Self { snapshots: snapshots.collect() }
    }

    /// Writes the `SNAPSHOT` vectors in place of those that are there.
    pub fn write_to(&self, template: &mut Template) {
        template.remove("SNAPSHOT");
        for snapshot in &self.snapshots {
            let mut vector = Vector::new();
            if let Some(action) = snapshot.action {
                vector.set("ACTION", action.word());
                vector.set("ACTIVE", "YES");
            }
            vector.set("HYPERVISOR_ID", snapshot.hypervisor_id.as_str());
            vector.set("NAME", snapshot.name.as_str());
            vector.set("SNAPSHOT_ID", snapshot.id.to_string());
            vector.set("SYSTEM_DISK_SIZE", snapshot.system_disk_size_mb.to_string());
            vector.set("TIME", snapshot.time.to_string());
            template.push_vector("SNAPSHOT", vector);
        }
    }

    /// The snapshots, oldest first.
    pub fn snapshots(&self) -> &[SystemSnapshot] {
        &self.snapshots
    }

    /// One snapshot.
    ///
    /// # Errors
    /// [`Refusal::NoSnapshot`].
    pub fn get(&self, id: i64) -> Result<&SystemSnapshot, Refusal> {
        self.snapshots.iter().find(|snapshot| snapshot.id == id).ok_or(Refusal::NoSnapshot { snapshot: id })
    }

    /// The one that a driver is at work on.
    pub fn busy(&self) -> Option<&SystemSnapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.action.is_some())
    }

    fn check_idle(&self) -> Result<(), Refusal> {
        self.busy().map_or(Ok(()), |snapshot| Err(Refusal::SnapshotBusy { snapshot: snapshot.id }))
    }

    /// Begins a new snapshot; without a name it is called `snapshot-<id>`. Returns its id.
    ///
    /// # Errors
    /// A bad name, too many snapshots, another one being worked on.
    pub fn create(&mut self, name: &str, system_disk_size_mb: i64, now: i64) -> Result<i64, Refusal> {
        self.check_idle()?;
        if self.snapshots.len() >= MAX_SNAPSHOTS {
            return Err(Refusal::TooManySnapshots { limit: MAX_SNAPSHOTS });
        }
        let id = self.snapshots.iter().map(|snapshot| snapshot.id.saturating_add(1)).max().unwrap_or(0);
        let name = if name.is_empty() {
            format!("snapshot-{id}")
        } else {
            check_name(name)?;
            name.to_owned()
        };
        let action = Some(SystemSnapshotAction::Create);
        let hypervisor_id = String::new();
        self.snapshots.push(SystemSnapshot { id, name, time: now, hypervisor_id, system_disk_size_mb, action });
        Ok(id)
    }

    /// Begins going back to a snapshot.
    ///
    /// # Errors
    /// [`Refusal::NoSnapshot`], another one being worked on.
    pub fn revert(&mut self, id: i64) -> Result<(), Refusal> {
        self.begin(id, SystemSnapshotAction::Revert)
    }

    /// Begins deleting a snapshot. Any may go: they are complete each.
    ///
    /// # Errors
    /// [`Refusal::NoSnapshot`], another one being worked on.
    pub fn delete(&mut self, id: i64) -> Result<(), Refusal> {
        self.begin(id, SystemSnapshotAction::Delete)
    }

    fn begin(&mut self, id: i64, action: SystemSnapshotAction) -> Result<(), Refusal> {
        self.check_idle()?;
        let found = self.snapshots.iter_mut().find(|snapshot| snapshot.id == id);
        found.ok_or(Refusal::NoSnapshot { snapshot: id })?.action = Some(action);
        Ok(())
    }

    /// The driver has done it. `hypervisor_id` is the name that the hypervisor gave a new snapshot.
    pub fn done(&mut self, hypervisor_id: &str) {
        self.snapshots.retain(|snapshot| snapshot.action != Some(SystemSnapshotAction::Delete));
        for snapshot in &mut self.snapshots {
            if snapshot.action.take() == Some(SystemSnapshotAction::Create) {
                hypervisor_id.clone_into(&mut snapshot.hypervisor_id);
            }
        }
    }

    /// The driver could not do it: a new snapshot is not there, the others are as before.
    pub fn failed(&mut self) {
        self.snapshots.retain(|snapshot| snapshot.action != Some(SystemSnapshotAction::Create));
        for snapshot in &mut self.snapshots {
            snapshot.action = None;
        }
    }

    /// What all snapshots together count for quotas, in MB.
    pub fn total_size_mb(&self) -> i64 {
        self.snapshots.iter().fold(0, |sum: i64, snapshot| sum.saturating_add(snapshot.system_disk_size_mb.max(0)))
    }
}

#[cfg(test)]
#[path = "snapshots_tests.rs"]
mod tests;
