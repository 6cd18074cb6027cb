//! Image files of domains that are off: their size and the snapshots inside them, through qemu-img.
//!
//! QEMU's image locks refuse every change while a domain or a reader of a backup has the file open; that is
//! [`Kind::Retry`] here. Whether the domain runs is the caller's to know.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::offline::{self, qemu_img_within};
use crate::hypervisor::{DiskFormat, DomainDisk};
use crate::{DriverError, Kind, Result};

/// How long one qemu-img call may take. It walks the image's tables, which are large for large disks.
const CHANGE_WITHIN: Duration = Duration::from_secs(600);
/// Limit of a whole call: looking and changing, with time for libvirt.
pub(super) const TWO_CHANGES_WITHIN: Duration = Duration::from_secs(2 * 600 + 120);

/// A snapshot inside an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageSnapshot {
    /// QEMU's number of it.
    id: String,
    /// Our name of it.
    pub(super) name: String,
}

fn info(doing: &str, disk: &DomainDisk) -> Result<Value> {
    let arguments = ["info", "--force-share", "--output=json", "-f", disk.format.as_str()];
    let text = qemu_img_within(CHANGE_WITHIN, doing, &arguments, &disk.path, &[])?;
    serde_json::from_slice(&text).map_err(|error| DriverError::other(Kind::Corrupt, doing, error))
}

/// The size that a guest sees.
pub(super) fn size_bytes(disk: &DomainDisk) -> Result<u64> {
    let doing = format!("reading the size of {}", disk.path.display());
    let size = info(&doing, disk)?.get("virtual-size").and_then(Value::as_u64);
    size.ok_or_else(|| DriverError::new(Kind::Corrupt, doing, "qemu-img does not tell it"))
}

/// Makes the image longer.
pub(super) fn resize(disk: &DomainDisk, bytes: u64) -> Result<()> {
    let doing = format!("resizing {} to {bytes} bytes", disk.path.display());
    let arguments = ["resize", "-q", "-f", disk.format.as_str()];
    qemu_img_within(CHANGE_WITHIN, &doing, &arguments, &disk.path, &[&bytes.to_string()]).map(drop)
}

/// The snapshots of an image; none for other formats than qcow2.
pub(super) fn snapshots(disk: &DomainDisk) -> Result<Vec<ImageSnapshot>> {
    let doing = format!("listing the snapshots of {}", disk.path.display());
    let value = info(&doing, disk)?;
    let text = |value: &Value, name: &str| value.get(name)?.as_str().map(str::to_owned);
    let one = |value: &Value| Some(ImageSnapshot { id: text(value, "id")?, name: text(value, "name")? });
    Ok(value.get("snapshots").and_then(Value::as_array).into_iter().flatten().filter_map(one).collect())
}

fn find(disk: &DomainDisk, name: &str) -> Result<Option<ImageSnapshot>> {
    Ok(snapshots(disk)?.into_iter().find(|snapshot| snapshot.name == name))
}

fn change(doing: &str, option: &str, which: &str, image: &Path) -> Result<()> {
    qemu_img_within(CHANGE_WITHIN, doing, &["snapshot", option, which], image, &[]).map(drop)
}

/// What a guest wrote into a raw disk is no header of ours, whatever it looks like.
fn only_qcow2(doing: &str, disk: &DomainDisk) -> Result<()> {
    match disk.format {
        DiskFormat::Qcow2 => Ok(()),
        DiskFormat::Raw => Err(DriverError::new(Kind::Permanent, doing, "only qcow2 images keep snapshots")),
    }
}

/// Makes a snapshot unless there is one of this name.
pub(super) fn create_snapshot(disk: &DomainDisk, name: &str) -> Result<()> {
    let doing = format!("making snapshot {name} of {}", disk.path.display());
    only_qcow2(&doing, disk)?;
    if find(disk, name)?.is_some() {
        return Ok(());
    }
    change(&doing, "-c", name, &disk.path)
}

/// Puts the image back to a snapshot; the names of its dirty bitmaps, which go first: they would miss the change, and QEMU
/// refuses to revert an image that has any.
pub(super) fn revert_snapshot(disk: &DomainDisk, name: &str) -> Result<Vec<String>> {
    let doing = format!("reverting {} to snapshot {name}", disk.path.display());
    only_qcow2(&doing, disk)?;
    let missing = || DriverError::new(Kind::Missing, doing.as_str(), "the image has no such snapshot");
    // By its number: one that is called like another's number would not be found.
    let snapshot = find(disk, name)?.ok_or_else(missing)?;
    let bitmaps: Vec<String> = offline::bitmaps(&disk.path)?.into_iter().map(|bitmap| bitmap.name).collect();
    bitmaps.iter().try_for_each(|bitmap| offline::remove_bitmap(&disk.path, bitmap))?;
    change(&doing, "-a", &snapshot.id, &disk.path)?;
    Ok(bitmaps)
}

/// Deletes a snapshot; an absent one, or an absent image, is success.
pub(super) fn delete_snapshot(disk: &DomainDisk, name: &str) -> Result<()> {
    let found = match find(disk, name) {
        Err(error) if error.kind == Kind::Missing => None,
        other => other?,
    };
    if found.is_none() {
        return Ok(());
    }
    change(&format!("deleting snapshot {name} of {}", disk.path.display()), "-d", name, &disk.path)
}
