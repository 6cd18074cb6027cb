//! The disks of a VM: attached, detached, grown, saved as images, and the lists of their snapshots.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::settling::settled;
use crate::commands::snapshots;
use crate::commands::verbs::One;
use crate::commands::vm_options::mib;
use crate::objects::{IMAGE, VM};
use crate::show::{Page, or_dash};
use crate::watch::WaitOptions;
use crate::wire::{Client, Param};
use crate::xml::Element;
use crate::{input, template_text, terminal, units};

/// The verbs.
#[derive(Subcommand, Debug)]
pub enum Disks {
    /// Give a VM another disk
    DiskAttach(Attach),
    /// Take a disk from a VM
    DiskDetach(Detach),
    /// Make a disk larger
    DiskResize(Resize),
    /// Save a disk as a new image
    DiskSaveas(SaveAs),
    /// Give a snapshot of a disk a new name
    DiskSnapshotRename(SnapshotRename),
    /// The snapshots of a disk
    DiskSnapshotList(Disk),
    /// The snapshots of a whole VM
    SnapshotList(One),
}

#[derive(Args, Debug)]
pub struct Attach {
    #[command(flatten)]
    vm: One,
    /// Image, id or name
    #[arg(short, long, value_name = "IMAGE", conflicts_with = "file")]
    image: Option<String>,
    /// File with a DISK vector (- for standard input)
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// First letters of the device: vd, sd or hd
    #[arg(long, value_name = "PREFIX", requires = "image")]
    prefix: Option<String>,
    /// Device in the guest, like vdb
    #[arg(short, long, value_name = "DEVICE", requires = "image")]
    target: Option<String>,
    /// How the host caches it: none, writethrough, writeback, directsync or unsafe
    #[arg(long, value_name = "CACHE", requires = "image")]
    cache: Option<String>,
    /// What becomes of blocks that the guest gives up: ignore or unmap
    #[arg(long, value_name = "DISCARD", requires = "image")]
    discard: Option<String>,
    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Args, Debug)]
pub struct Disk {
    #[command(flatten)]
    vm: One,
    /// Id of the disk
    #[arg(value_name = "DISK")]
    disk: u32,
}

#[derive(Args, Debug)]
pub struct Detach {
    #[command(flatten)]
    disk: Disk,
    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Args, Debug)]
pub struct Resize {
    #[command(flatten)]
    disk: Disk,
    /// New size: 20g, 512m; without a unit MB
    #[arg(value_name = "SIZE")]
    size: String,
    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Args, Debug)]
pub struct SaveAs {
    #[command(flatten)]
    disk: Disk,
    /// Name of the image
    #[arg(value_name = "NAME")]
    name: String,
    /// Its type: OS, DATABLOCK or CDROM; else that of the disk's image
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// This snapshot of the disk, id or name; else the disk as it is
    #[arg(short, long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Args, Debug)]
pub struct SnapshotRename {
    #[command(flatten)]
    disk: Disk,
    /// Id or name of the snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// New name
    #[arg(value_name = "NAME")]
    name: String,
}

impl Disks {
    /// Does it.
    pub fn run(&self, client: &Client) -> Result<()> {
        match self {
            Self::DiskAttach(options) => {
                let text = options.text(client)?;
                let vm = VM.id(client, &options.vm.id)?;
                settled(client, vm, &options.wait, || call(client, vm, "attach", [text.into()])).map(|_| ())
            }
            Self::DiskDetach(options) => options.disk.call(client, "detach", [], &options.wait).map(|_| ()),
            Self::DiskResize(options) => {
                let size = mib("the size", &options.size)?;
                options.disk.call(client, "diskresize", [size.into()], &options.wait).map(|_| ())
            }
            Self::DiskSaveas(options) => options.run(client),
            Self::DiskSnapshotRename(options) => {
                let rest = [options.disk.snapshot(client, &options.snapshot)?.into(), options.name.as_str().into()];
                options.disk.call(client, "disksnapshotrename", rest, &WaitOptions::default()).map(|_| ())
            }
            Self::DiskSnapshotList(options) => options.list_snapshots(client),
            Self::SnapshotList(target) => {
                let vm = VM.info(client, VM.id(client, &target.id)?, false)?;
                let mut page = Page::new(0);
                if let Some(template) = vm.at("TEMPLATE") {
                    snapshots::of_vm(&mut page, template);
                }
                terminal::put(page.finish())
            }
        }
    }
}

fn call(client: &Client, vm: i64, verb: &str, rest: impl IntoIterator<Item = Param>) -> Result<i64> {
    client.call(&VM.method(verb), std::iter::once(vm.into()).chain(rest))?.id()
}

impl Disk {
    fn call(
        &self,
        client: &Client,
        verb: &str,
        rest: impl IntoIterator<Item = Param>,
        wait: &WaitOptions,
    ) -> Result<i64> {
        let vm = VM.id(client, &self.vm.id)?;
        let disk = Param::Int(self.disk.into());
        settled(client, vm, wait, || call(client, vm, verb, std::iter::once(disk).chain(rest)))
    }

    fn snapshot(&self, client: &Client, word: &str) -> Result<i64> {
        snapshots::id(client, &self.vm.id, Some(self.disk), word)
    }

    fn list_snapshots(&self, client: &Client) -> Result<()> {
        let vm = VM.info(client, VM.id(client, &self.vm.id)?, false)?;
        let disk = i64::from(self.disk);
        let mut disks = vm.at("TEMPLATE").into_iter().flat_map(|template| template.all("DISK"));
        if !disks.any(|found| found.int_at("DISK_ID") == Some(disk)) {
            bail!("VM {} has no disk {disk}; onevm show lists its disks", vm.text_at("ID"));
        }
        let list = vm.all("SNAPSHOTS").find(|list| list.int_at("DISK_ID") == Some(disk));
        let mut page = Page::new(0);
        snapshots::of_disks(&mut page, list.into_iter(), vm.at("MONITORING"));
        terminal::put(page.finish())
    }
}

impl Attach {
    fn text(&self, client: &Client) -> Result<String> {
        let Some(image) = &self.image else {
            let missing = "name the disk to attach: --image IMAGE, or --file FILE with a DISK vector";
            return input::read_or(self.file.as_deref(), missing);
        };
        let given = [
            ("DEV_PREFIX", &self.prefix),
            ("TARGET", &self.target),
            ("CACHE", &self.cache),
            ("DISCARD", &self.discard),
        ];
        let mut parts = vec![("IMAGE_ID", IMAGE.id(client, image)?.to_string())];
        parts.extend(given.into_iter().filter_map(|(name, value)| value.clone().map(|value| (name, value))));
        template_text::vector("DISK", &parts)
    }
}

impl SaveAs {
    fn run(&self, client: &Client) -> Result<()> {
        let kind = self.kind.as_deref().unwrap_or_default().to_uppercase();
        let snapshot = self.snapshot.as_deref().map_or(Ok(-1), |word| self.disk.snapshot(client, word))?;
        let rest = [self.name.as_str().into(), kind.into(), snapshot.into()];
        let image = self.disk.call(client, "disksaveas", rest, &self.wait)?;
        terminal::put_line(&format!("Image ID: {image}"))
    }
}

/// The VM DISKS block of `onevm show`; the disk with the context is one of them.
pub fn block(page: &mut Page, vm: &Element, template: &Element) {
    let measured = |id: Option<i64>| {
        let mut sizes = vm.at("MONITORING").into_iter().flat_map(|figures| figures.all("DISK_SIZE"));
        sizes.find(|size| size.int_at("ID") == id)?.int_at("SIZE").map(units::mib)
    };
    let row = |disk: &Element| {
        let used = measured(disk.int_at("DISK_ID")).unwrap_or_else(|| "-".to_owned());
        let size = disk.int_at("SIZE").map_or("-".to_owned(), units::mib);
        let text = |name| or_dash(disk.text_at(name));
        let save = if disk.text_at("SAVE").is_empty() { "NO" } else { disk.text_at("SAVE") };
        vec![
            text("DISK_ID"),
            text("DATASTORE"),
            text("TARGET"),
            image(disk),
            format!("{used}/{size}"),
            disk.text_at("TYPE").to_lowercase(),
            save.to_owned(),
        ]
    };
    let mut rows: Vec<_> = template.all("DISK").map(row).collect();
    if let Some(context) = template.child("CONTEXT").filter(|context| context.child("DISK_ID").is_some()) {
        let text = |name| or_dash(context.text_at(name));
        let rest = ["CONTEXT", "-/-", "-", "-"].map(str::to_owned);
        rows.push([text("DISK_ID"), "-".to_owned(), text("TARGET")].into_iter().chain(rest).collect());
    }
    if rows.is_empty() {
        return;
    }
    let titles = [
        ("ID", 3, false),
        ("DATASTORE", 10, true),
        ("TARGET", 6, true),
        ("IMAGE", 35, true),
        ("SIZE", 11, true),
        ("TYPE", 4, true),
        ("SAVE", 4, false),
    ];
    page.header("VM DISKS").table(&titles, &rows);
}

/// The image of a disk; a volatile one says what it is instead.
fn image(disk: &Element) -> String {
    let size = disk.int_at("SIZE").map(units::mib);
    match (disk.text_at("IMAGE"), disk.text_at("TYPE").to_lowercase().as_str(), size) {
        ("", "fs", Some(size)) => format!("{} - {size}", or_dash(disk.text_at("FORMAT"))),
        ("", "swap", Some(size)) => size,
        (image, ..) => or_dash(image),
    }
}
