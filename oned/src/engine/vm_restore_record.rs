//! What a restore in place writes down: which new files are whole, and in the end what the VM's disks are now.

use one_core::lifecycle::SystemSnapshots;
use serde::{Deserialize, Serialize};

use super::Trouble;
use super::image_jobs::mb;
use crate::ledger::{self, stored};
use crate::store::rows::{JobRow, VmRow};
use crate::store::{StoreError, Tx};
use crate::{devices, quota};

/// What the job's row says of the new files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    /// Those that are whole.
    pub(super) disks: Vec<MadeDisk>,
}

/// A new file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MadeDisk {
    /// The VM's disk id.
    pub(super) id: u32,
    /// Size that the guest sees.
    pub(super) size_bytes: u64,
    /// What was written of it.
    pub(super) written_bytes: u64,
    /// What of that came from the datastore.
    pub(super) fetched_bytes: u64,
}

impl Made {
    pub(super) fn of(job: &JobRow) -> Result<Self, StoreError> {
        if job.result.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str(&job.result)
            .map_err(|e| StoreError::Broken { doing: "reading a job's result", reason: e.to_string() })
    }

    pub(super) fn has(&self, id: u32) -> bool {
        self.disks.iter().any(|disk| disk.id == id)
    }

    pub(super) fn text(&self) -> Result<String, StoreError> {
        serde_json::to_string(self)
            .map_err(|e| StoreError::Broken { doing: "writing a job's result", reason: e.to_string() })
    }
}

/// What the VM's records say of disks that were replaced: their size, no snapshots of them, so none of the VM, and a chain
/// of backups that begins anew. The row is stored.
pub(super) fn record(tx: &mut Tx<'_>, row: &mut VmRow, made: &Made) -> Result<(), Trouble> {
    let mut template = stored(&row.template);
    for disk in &made.disks {
        let Some(vector) = devices::disk_mut(&mut template, disk.id.into()) else { continue };
        let size_mb = mb(disk.size_bytes);
        vector.set("SIZE", size_mb.to_string());
        if vector.get("DISK_SNAPSHOT_TOTAL_SIZE").is_some() {
            vector.set("DISK_SNAPSHOT_TOTAL_SIZE", "0");
        }
        let image = vector.int("IMAGE_ID").filter(|_| vector.yes("PERSISTENT").unwrap_or(false));
        if let Some(mut image) = image.map(|id| tx.image_find(id)).transpose()?.flatten() {
            image.size_mb = size_mb;
            quota::save_image(tx, &image)?;
        }
    }
    SystemSnapshots::default().write_to(&mut template);
    row.template = template.to_text();
    for disk in &made.disks {
        devices::take_snapshots(row, disk.id.into());
    }
    devices::settle_backups(row, None);
    let mut config = ledger::config_of(row);
    config.reset_chain();
    row.backup_config = ledger::config_text(&config);
    quota::save_vm(tx, row)?;
    Ok(())
}
