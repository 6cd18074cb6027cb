//! A store all of whose series are in a group: what holds for a series without one holds for a member, too.

use std::path::PathBuf;

use drivers::datastore::{
    Capacity, Forgotten, ImageTarget, PointFacts, RestoreRequest, Restored, SourceDisk, StoreRequest, Stored, Verified,
    VerifyRequest,
};
use drivers::{BackupDatastore, Cancel, DiskWriter, Progress, Result};

use super::{Gate, Rig};

/// The group, and the slash.
const GROUP: &str = "job-3/";

/// A rig with all series in a group.
pub struct Grouped<R>(pub R);

impl<R: Rig> Rig for Grouped<R> {
    fn open(&self) -> Box<dyn BackupDatastore> {
        Box::new(InGroup(self.0.open()))
    }

    fn place(&self) -> PathBuf {
        self.0.place()
    }

    fn open_gated(&self, gate: Gate) -> Option<Box<dyn BackupDatastore>> {
        self.0.open_gated(gate).map(|store| Box::new(InGroup(store)) as _)
    }

    fn chunk(&self) -> u64 {
        self.0.chunk()
    }

    fn fetch_grain(&self) -> u64 {
        self.0.fetch_grain()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.0.files()
    }
}

struct InGroup(Box<dyn BackupDatastore>);

fn member(series: &str) -> String {
    format!("{GROUP}{series}")
}

impl BackupDatastore for InGroup {
    fn capacity(&self) -> Result<Capacity> {
        self.0.capacity()
    }

    fn store(
        &self,
        request: &StoreRequest<'_>,
        disks: Vec<SourceDisk>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Stored> {
        let StoreRequest { series, tags, job, time, parent, document } = *request;
        let series = &member(series);
        self.0.store(&StoreRequest { series, tags, job, time, parent, document }, disks, progress, cancel)
    }

    fn find(&self, series: &str, job: &str) -> Result<Option<Stored>> {
        self.0.find(&member(series), job)
    }

    fn inspect(&self, series: &str, point: &str) -> Result<Stored> {
        self.0.inspect(&member(series), point)
    }

    fn document(&self, series: &str, point: &str) -> Result<Vec<u8>> {
        self.0.document(&member(series), point)
    }

    fn restore(
        &self,
        request: RestoreRequest<'_>,
        target: &mut dyn DiskWriter,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Restored> {
        let series = &member(request.series);
        self.0.restore(RestoreRequest { series, ..request }, target, progress, cancel)
    }

    fn restore_image(
        &self,
        request: RestoreRequest<'_>,
        target: &ImageTarget,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Restored> {
        let series = &member(request.series);
        self.0.restore_image(RestoreRequest { series, ..request }, target, progress, cancel)
    }

    fn verify(
        &self,
        request: &VerifyRequest<'_>,
        save: &mut dyn FnMut(&str) -> Result<()>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Verified> {
        let VerifyRequest { series, points, depth, resume } = *request;
        let series = &member(series);
        self.0.verify(&VerifyRequest { series, points, depth, resume }, save, progress, cancel)
    }

    fn forget(&self, series: &str, points: &[String], progress: &Progress, cancel: &Cancel) -> Result<Forgotten> {
        self.0.forget(&member(series), points, progress, cancel)
    }

    fn sweep(&self, series: &str, progress: &Progress) -> Result<()> {
        self.0.sweep(&member(series), progress)
    }

    fn series(&self) -> Result<Vec<String>> {
        let names = self.0.series()?;
        let own = |name: &String| name.strip_prefix(GROUP).unwrap_or_else(|| panic!("series {name}")).to_owned();
        Ok(names.iter().map(own).collect())
    }

    fn points(&self, series: &str) -> Result<Vec<PointFacts>> {
        self.0.points(&member(series))
    }
}
