//! Bringing a VM down: the guest off, the domain forgotten, the files removed. Every step succeeds on what is gone.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use drivers::{Cancel, DriverError, Hypervisor, Kind};

use super::vm_boot::remove_directory;
use super::vm_jobs::is_off;
use super::{Engine, Trouble};
use crate::disks::{self, Origin};
use crate::job::BackupPlan;
use crate::store::rows::VmRow;

/// One wait for the guest to go down; between two of them a cancel is seen.
const SHUTDOWN_STEP: Duration = Duration::from_secs(5);

/// How long a guest may take to shut down in all, as long as OpenNebula waits.
const GUEST_SHUTDOWN: Duration = Duration::from_secs(180);

impl Engine {
    /// Asks the guest to shut down and waits, or switches it off.
    pub(super) fn take_down(
        &self,
        hypervisor: &dyn Hypervisor,
        domain: &str,
        hard: bool,
        cancel: &Cancel,
    ) -> Result<(), DriverError> {
        if is_off(hypervisor.state(domain)?) {
            return Ok(());
        }
        if hard {
            return hypervisor.destroy(domain);
        }
        let deadline = Instant::now() + GUEST_SHUTDOWN;
        loop {
            cancel.check()?;
            match hypervisor.shutdown(domain, SHUTDOWN_STEP) {
                Err(error) if error.kind == Kind::Retry => {}
                done => return done,
            }
            if Instant::now() >= deadline {
                return Err(DriverError::new(
                    Kind::Permanent,
                    format!("shutting down {domain}"),
                    format!("the guest still runs after {} s; use --hard to switch it off", GUEST_SHUTDOWN.as_secs()),
                ));
            }
        }
    }

    /// Removes everything of a VM that is not an image: domain, bitmaps of its backups, files. A host that is gone from the
    /// records took its domain with it.
    pub(super) fn remove_vm(&self, row: &VmRow, cancel: &Cancel) -> Result<(), Trouble> {
        // Dirty bitmaps go from disks that outlive the VM; those of its own disks go with the files.
        let kept: Vec<PathBuf> = self
            .cloud
            .store
            .read(|tx| disks::of_vm(tx, row, &self.cloud.config))?
            .into_iter()
            .filter(|vm_disk| vm_disk.origin == Origin::Image && vm_disk.format == "qcow2" && !vm_disk.readonly)
            .filter(|vm_disk| vm_disk.path.exists())
            .map(|vm_disk| vm_disk.path)
            .collect();
        if (row.host_id.is_some() || !kept.is_empty())
            && let Some(hypervisor) = self.last_host_of(row)?
        {
            self.take_down(hypervisor.as_ref(), &row.deploy_id, true, cancel)?;
            if !kept.is_empty() {
                let ours = |name: &String| BackupPlan::is_checkpoint_of(row.id, name);
                for checkpoint in hypervisor.checkpoints(&row.deploy_id, &kept)?.into_iter().filter(ours) {
                    hypervisor.delete_checkpoint(&row.deploy_id, &checkpoint, &kept)?;
                }
            }
            hypervisor.undefine(&row.deploy_id)?;
        }
        remove_directory(&disks::vm_directory(&self.cloud.config, row.id))
    }
}
