//! The disks of a VM as backups see them: which take part, and whether the VM can do increments.

use serde::{Deserialize, Serialize};

use super::config::BackupConfig;
use crate::refusal::Refusal;
use crate::template::{Template, Vector};

/// What kind of disk it is, as far as backups care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskKind {
    /// Made from an image; always backed up.
    Image,
    /// Volatile data (`TYPE=fs`); backed up with BACKUP_VOLATILE only.
    Volatile,
    /// Swap; never backed up.
    Swap,
    /// A CD; never backed up.
    Cdrom,
    /// A shared folder (`TYPE=FILESYSTEM`, virtiofs); a VM with one cannot be backed up.
    Filesystem,
}

/// One disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// DISK_ID.
    pub id: i64,
    /// What it is.
    pub kind: DiskKind,
    /// Image format (`qcow2`, `raw`), lower case; empty when unknown.
    pub format: String,
    /// SIZE in MB.
    pub size_mb: i64,
    /// Has it disk snapshots?
    pub has_snapshots: bool,
}

impl Disk {
    /// Reads a DISK vector of the system template. `None` without a DISK_ID. `has_snapshots` is false: templates do
    /// not say.
    pub fn from_vector(disk: &Vector) -> Option<Self> {
        let format = disk.get("FORMAT").or_else(|| disk.get("DRIVER")).unwrap_or("");
        Some(Self {
            id: disk.int("DISK_ID")?,
            kind: Self::kind_of(disk),
            format: format.to_ascii_lowercase(),
            size_mb: disk.int("SIZE").unwrap_or(0).max(0),
            has_snapshots: false,
        })
    }

    fn kind_of(disk: &Vector) -> DiskKind {
        let kind = disk.get("TYPE").unwrap_or("").to_ascii_uppercase();
        let image = disk.get("IMAGE_ID").is_some() || disk.get("IMAGE").is_some();
        match kind.as_str() {
            "SWAP" => DiskKind::Swap,
            "FS" => DiskKind::Volatile,
            "FILESYSTEM" => DiskKind::Filesystem,
            // CDROM, RBD_CDROM, GLUSTER_CDROM …; DISK_TYPE spells the first one CD_ROM.
            kind if kind.ends_with("CDROM") || kind.ends_with("CD_ROM") => DiskKind::Cdrom,
            _ if image || disk.get("SOURCE").is_some() => DiskKind::Image,
            _ => DiskKind::Volatile,
        }
    }

    /// Can it be backed up at all under this setting of BACKUP_VOLATILE?
    fn eligible(&self, volatile: bool) -> bool {
        match self.kind {
            DiskKind::Image => true,
            DiskKind::Volatile => volatile,
            DiskKind::Swap | DiskKind::Cdrom | DiskKind::Filesystem => false,
        }
    }
}

/// Why a VM cannot do increments. As a [`Refusal`] it has the sentence of `one.vm.updateconf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IncrementObstacle {
    /// The VM has system snapshots.
    SystemSnapshots,
    /// A disk to back up has snapshots or is no qcow2.
    Disks,
}

impl From<IncrementObstacle> for Refusal {
    fn from(obstacle: IncrementObstacle) -> Self {
        match obstacle {
            IncrementObstacle::SystemSnapshots => Self::IncrementWithSnapshots,
            IncrementObstacle::Disks => Self::IncrementUnfitDisks,
        }
    }
}

/// All that backups want to know of a VM's disks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disks {
    /// The disks, in any order.
    pub list: Vec<Disk>,
    /// Has the VM system snapshots?
    pub system_snapshots: bool,
}

impl Disks {
    /// Reads the DISK and SNAPSHOT vectors of the system template; `with_snapshots` names the disks that have disk
    /// snapshots.
    pub fn from_template(template: &Template, with_snapshots: &[i64]) -> Self {
        let mut list: Vec<Disk> = template.vectors("DISK").filter_map(Disk::from_vector).collect();
        for disk in &mut list {
            disk.has_snapshots = with_snapshots.contains(&disk.id);
        }
        Self { list, system_snapshots: template.vectors("SNAPSHOT").next().is_some() }
    }

    /// Does the VM have a shared folder, which rules backups out?
    pub fn has_filesystem(&self) -> bool {
        self.list.iter().any(|disk| disk.kind == DiskKind::Filesystem)
    }

    /// The disks that a backup under `config` holds, ids ascending.
    pub fn chosen(&self, config: &BackupConfig) -> Vec<&Disk> {
        let mut chosen: Vec<&Disk> = self
            .list
            .iter()
            .filter(|disk| disk.eligible(config.backup_volatile))
            .filter(|disk| config.disk_ids.is_empty() || config.disk_ids.contains(&disk.id))
            .collect();
        chosen.sort_by_key(|disk| disk.id);
        chosen.dedup_by_key(|disk| disk.id);
        chosen
    }

    /// Can a disk of this id be backed up at all?
    pub fn can_back_up(&self, id: i64, volatile: bool) -> bool {
        self.list.iter().any(|disk| disk.id == id && disk.eligible(volatile))
    }

    /// Can the VM do increments under `config`?
    ///
    /// The VM may have no snapshots. With INCREMENT_MODE=CBT (also when it is not set) all disks of the backup must be
    /// qcow2, because only qcow2 keeps a dirty bitmap over a restart, and have no snapshots, because a bitmap does not cover
    /// what a revert brings back. With SNAPSHOT there is no bitmap: raw disks will do, and snapshots of disks do no harm.
    pub fn can_increment(&self, config: &BackupConfig) -> Result<(), IncrementObstacle> {
        if self.system_snapshots {
            return Err(IncrementObstacle::SystemSnapshots);
        }
        let tracked = |disk: &&Disk| disk.format == "qcow2" && !disk.has_snapshots;
        let readable = |disk: &&Disk| matches!(disk.format.as_str(), "qcow2" | "raw");
        let chosen = self.chosen(config);
        if if config.tracks() { chosen.iter().all(tracked) } else { chosen.iter().all(readable) } {
            Ok(())
        } else {
            Err(IncrementObstacle::Disks)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::config::IncrementMode;

    fn vector(pairs: &[(&str, &str)]) -> Vector {
        pairs.iter().copied().collect()
    }

    #[test]
    fn the_kind_of_a_disk_follows_its_type_and_image() {
        let table: [(&[(&str, &str)], DiskKind); 8] = [
            (&[("DISK_ID", "0"), ("IMAGE_ID", "3"), ("TYPE", "FILE")], DiskKind::Image),
            (&[("DISK_ID", "0"), ("IMAGE", "alpine")], DiskKind::Image),
            (&[("DISK_ID", "0"), ("TYPE", "swap"), ("SIZE", "10")], DiskKind::Swap),
            (&[("DISK_ID", "0"), ("TYPE", "fs"), ("SIZE", "10")], DiskKind::Volatile),
            (&[("DISK_ID", "0"), ("SIZE", "10")], DiskKind::Volatile),
            (&[("DISK_ID", "0"), ("IMAGE_ID", "1"), ("TYPE", "CDROM")], DiskKind::Cdrom),
            (&[("DISK_ID", "0"), ("IMAGE_ID", "1"), ("TYPE", "RBD_CDROM")], DiskKind::Cdrom),
            (&[("DISK_ID", "0"), ("IMAGE_ID", "1"), ("TYPE", "FILESYSTEM")], DiskKind::Filesystem),
        ];
        for (pairs, kind) in table {
            assert_eq!(Disk::from_vector(&vector(pairs)).unwrap().kind, kind, "{pairs:?}");
        }
        assert_eq!(Disk::from_vector(&vector(&[("SIZE", "1")])), None);
    }

    #[test]
    fn swap_and_cds_take_no_part_and_volatile_disks_only_on_request() {
        let template = Template::parse(
            "DISK=[DISK_ID=3,TYPE=fs,SIZE=5,FORMAT=raw]\nDISK=[DISK_ID=0,IMAGE_ID=1,TYPE=FILE,FORMAT=qcow2,SIZE=256]\n\
             DISK=[DISK_ID=1,TYPE=swap,SIZE=9]\nDISK=[DISK_ID=2,IMAGE_ID=4,TYPE=CDROM,FORMAT=raw]\n",
        )
        .unwrap();
        let disks = Disks::from_template(&template, &[]);
        let ids = |config: &BackupConfig| disks.chosen(config).iter().map(|disk| disk.id).collect::<Vec<_>>();
        let mut config = BackupConfig::default();
        assert_eq!(ids(&config), [0]);
        assert_eq!(disks.can_increment(&config), Ok(()));
        config.backup_volatile = true;
        assert_eq!(ids(&config), [0, 3]);
        assert_eq!(disks.can_increment(&config), Err(IncrementObstacle::Disks));
        config.disk_ids = vec![0, 2];
        assert_eq!(ids(&config), [0]);
        assert_eq!(disks.can_increment(&config), Ok(()));
    }

    #[test]
    fn without_a_record_of_changes_raw_disks_and_disks_with_snapshots_can_do_increments() {
        let disk =
            |id: i64, format: &str| format!("DISK=[DISK_ID={id},IMAGE_ID=1,TYPE=FILE,FORMAT=\"{format}\",SIZE=256]\n");
        let cbt = BackupConfig::default();
        let snapshot = BackupConfig { increment_mode: Some(IncrementMode::Snapshot), ..BackupConfig::default() };
        let unfit = Err(IncrementObstacle::Disks);
        for (formats, with_snapshots, by_cbt, by_snapshot) in [
            (["qcow2", "qcow2"], &[][..], Ok(()), Ok(())),
            (["qcow2", "raw"], &[], unfit, Ok(())),
            (["qcow2", "qcow2"], &[0], unfit, Ok(())),
            (["qcow2", "rbd"], &[], unfit, unfit),
            (["qcow2", ""], &[], unfit, unfit),
        ] {
            let text = disk(0, formats[0]) + &disk(1, formats[1]);
            let disks = Disks::from_template(&Template::parse(&text).unwrap(), with_snapshots);
            assert_eq!(disks.can_increment(&cbt), by_cbt, "{formats:?}");
            assert_eq!(disks.can_increment(&snapshot), by_snapshot, "{formats:?}");
            let held = Disks { system_snapshots: true, ..disks };
            assert_eq!(held.can_increment(&snapshot), Err(IncrementObstacle::SystemSnapshots));
        }
    }

    #[test]
    fn snapshots_of_the_vm_or_of_a_disk_rule_increments_out() {
        let text = "DISK=[DISK_ID=0,IMAGE_ID=1,TYPE=FILE,FORMAT=qcow2,SIZE=256]\n";
        let template = Template::parse(text).unwrap();
        let config = BackupConfig::default();
        assert_eq!(Disks::from_template(&template, &[0]).can_increment(&config), Err(IncrementObstacle::Disks));
        let template = Template::parse(&format!("{text}SNAPSHOT=[SNAPSHOT_ID=0,NAME=a]\n")).unwrap();
        let disks = Disks::from_template(&template, &[]);
        assert_eq!(disks.can_increment(&config), Err(IncrementObstacle::SystemSnapshots));
    }
}
