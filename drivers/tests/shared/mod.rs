//! Short forms of a datastore's calls, for tests that neither watch nor cancel.

pub mod isolated;
pub mod memory;
#[cfg(feature = "restic")]
pub mod restic_rig;

use drivers::datastore::{Forgotten, RestoreRequest, Restored};
use drivers::{BackupDatastore, Cancel, DiskWriter, Progress, Result};

pub trait ShortForms: BackupDatastore {
    /// The ids of all points, sorted.
    fn ids(&self, series: &str) -> Result<Vec<String>> {
        let mut ids: Vec<String> = self.points(series)?.into_iter().map(|facts| facts.stored.point).collect();
        ids.sort();
        Ok(ids)
    }

    fn forget_now(&self, series: &str, points: &[String]) -> Result<Forgotten> {
        self.forget(series, points, &Progress::default(), &Cancel::default())
    }

    fn sweep_now(&self, series: &str) -> Result<()> {
        self.sweep(series, &Progress::default())
    }

    fn restore_now(&self, series: &str, point: &str, disk: u32, target: &mut dyn DiskWriter) -> Result<Restored> {
        let request = RestoreRequest { series, point, disk, skip_bad: false, current: None };
        self.restore(request, target, &Progress::default(), &Cancel::default())
    }
}

impl<T: BackupDatastore + ?Sized> ShortForms for T {}
