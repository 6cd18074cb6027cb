//! Restore points: which there are, and what they hold, read by the field's own tools or restored by the daemon.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cloud::Cloud;
use crate::command::{self, LONG, ORDINARY};
use crate::restic::Repository;
use crate::xml::{self, Element};

/// Image and increment.
pub type PointId = (i64, i64);

/// A restore point as the daemon shows it.
#[derive(Debug, Clone)]
pub struct Point {
    /// Of the datastore.
    pub name: String,
    /// Seconds of the epoch.
    pub date: i64,
    /// Whether it is called FULL.
    pub full: bool,
    /// What the daemon warns of.
    pub warning: String,
}

/// The restore points of a VM.
///
/// # Errors
/// When a backup image is not READY, or its description does not say what it should.
pub fn points_of(cloud: &Cloud, vm: i64) -> Result<BTreeMap<PointId, Point>> {
    let mut points = BTreeMap::new();
    for image in cloud.backup_images(vm)? {
        let document = xml::parse(cloud.one.call("one.image.info", &[image.into()])?.text()?)?;
        if document.text("STATE") != "1" {
            bail!("backup image {image} of VM {vm} is in state {}", document.text("STATE"));
        }
        let infos = document.find_all("TEMPLATE/INCREMENT_INFO");
        let increments = document.find_all("BACKUP_INCREMENTS/INCREMENT");
        if increments.is_empty() || increments.len() != infos.len() {
            bail!("backup image {image} lists {} increments and {} descriptions", increments.len(), infos.len());
        }
        for (increment, info) in increments.into_iter().zip(infos) {
            if increment.text("ID") != info.text("ID") {
                bail!("backup image {image}: increment {} is described as {}", increment.text("ID"), info.text("ID"));
            }
            points.insert((image, increment.number("ID")?), point(increment, info)?);
        }
    }
    Ok(points)
}

fn point(increment: &Element, info: &Element) -> Result<Point> {
    Ok(Point {
        name: info.text("POINT").to_owned(),
        date: increment.number("DATE")?,
        full: increment.text("TYPE") == "FULL",
        warning: info.text("WARNING").to_owned(),
    })
}

/// Reads the first disk of a point without the daemon: stock restic or qemu-img.
///
/// # Errors
/// When the datastore does not have it, or the tool fails.
pub fn read(cloud: &Cloud, datastore: i64, point: &Point) -> Result<Vec<u8>> {
    let work = tempfile::tempdir_in(cloud.work.path())?;
    let raw = work.path().join("raw");
    let base = cloud.one.state().join(format!("datastores/{datastore}"));
    for repository in Repository::find(&base, &cloud.password)? {
        if repository.path.join("snapshots").join(&point.name).exists() {
            let files = repository.files(&point.name)?;
            let disk = files.iter().find(|file| file.ends_with("/disk.0")).context("the snapshot has no disk.0")?;
            repository.dump(&point.name, disk, &raw)?;
            return Ok(fs::read(raw)?);
        }
    }
    let folder = folder_named(&base, &point.name, 3)?;
    let folder = folder.with_context(|| format!("datastore {datastore} has no point {}", point.name))?;
    let is_disk = |name: &str| name.starts_with("disk.0.") && !name.ends_with(".sums");
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        if is_disk(&entry.file_name().to_string_lossy()) {
            return raw_of(&entry.path(), &raw);
        }
    }
    bail!("{} has no first disk", folder.display())
}

/// The folder of a name, at most some levels below.
fn folder_named(dir: &Path, name: &str, levels: usize) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        if entry.file_name() == name {
            return Ok(Some(entry.path()));
        }
        if levels > 1
            && let Some(found) = folder_named(&entry.path(), name, levels - 1)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Has the daemon restore the point, and reads the disk that it made, which goes again.
///
/// # Errors
/// When any step fails.
pub fn restore(cloud: &Cloud, (image, increment): PointId, name: &str) -> Result<Vec<u8>> {
    let (template, images) = cloud.restore(image, &["--increment", &increment.to_string(), "--name", name])?;
    let disk = *images.first().context("no disk was restored")?;
    let source = PathBuf::from(cloud.wait_image(disk)?.text("SOURCE"));
    let work = tempfile::tempdir_in(cloud.work.path())?;
    let content = raw_of(&source, &work.path().join("raw"))?;
    cloud.one.ok("onetemplate", &["delete", &template.to_string()])?;
    cloud.one.ok("oneimage", &["delete", &disk.to_string()])?;
    command::wait_for("the restored disk to go", ORDINARY, || Ok((!source.exists()).then_some(())))?;
    Ok(content)
}

/// What an image of qemu's holds.
///
/// # Errors
/// When qemu-img fails.
pub fn raw_of(image: &Path, raw: &Path) -> Result<Vec<u8>> {
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-U", "-O", "raw"]).arg(image).arg(raw);
    command::run(&mut convert, LONG)?.checked("qemu-img convert")?;
    let content = fs::read(raw)?;
    fs::remove_file(raw)?;
    Ok(content)
}
