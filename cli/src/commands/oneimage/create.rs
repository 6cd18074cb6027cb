//! `oneimage create`: an image from options, a template, or both.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::restore;
use crate::commands::making;
use crate::commands::vm_options::mib;
use crate::objects::{DATASTORE, IMAGE};
use crate::watch::WaitOptions;
use crate::wire::Client;
use crate::{input, template_text, terminal};

#[derive(Args, Debug)]
pub struct Options {
    /// File with a template (- for standard input); options go before it
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Datastore, id or name
    #[arg(short, long, value_name = "DATASTORE")]
    datastore: Option<String>,
    /// Name
    #[arg(long)]
    name: Option<String>,
    /// File or URL to copy from, as the daemon sees it
    #[arg(long)]
    path: Option<String>,
    /// OS, DATABLOCK, CDROM, KERNEL, RAMDISK or CONTEXT
    #[arg(long = "type", value_name = "TYPE")]
    image_type: Option<String>,
    /// Size of an empty image: 20g, 512m; without a unit MB
    #[arg(long, value_name = "SIZE")]
    size: Option<String>,
    /// raw or qcow2
    #[arg(long)]
    format: Option<String>,
    /// File system of an empty image, like ext4
    #[arg(long, value_name = "FILESYSTEM")]
    fs: Option<String>,
    /// What the disk is: FILE, BLOCK, CDROM or RBD
    #[arg(long = "disk_type", alias = "disk-type", value_name = "TYPE")]
    disk_type: Option<String>,
    /// Where its data lie already, for those that are no file
    #[arg(long)]
    source: Option<String>,
    /// Driver for the disk in the VM: raw or qcow2
    #[arg(long)]
    driver: Option<String>,
    /// Keep the changes that a VM makes
    #[arg(long)]
    persistent: bool,
    /// First letters of the device: vd, sd or hd
    #[arg(long)]
    prefix: Option<String>,
    /// Device in the guest, like vdb
    #[arg(long, value_name = "DEVICE")]
    target: Option<String>,
    /// A few words about it
    #[arg(long)]
    description: Option<String>,
    /// Do not look whether the datastore has room (administrators)
    #[arg(long = "no_check_capacity", alias = "no-check-capacity")]
    no_check_capacity: bool,
    /// Print the template instead of creating the image
    #[arg(long)]
    dry: bool,
    #[command(flatten)]
    wait: WaitOptions,
}

pub fn run(client: &Client, options: &Options) -> Result<()> {
    if options.dry {
        return terminal::put(&text(options)?);
    }
    let Some(datastore) = &options.datastore else {
        bail!("Datastore to save the image is mandatory: -d datastore_id | name");
    };
    let text = text(options)?;
    let datastore = DATASTORE.id(client, datastore)?;
    let mut params = vec![text.into(), datastore.into()];
    if options.no_check_capacity {
        params.push(true.into());
    }
    // Without options the text would have been read from standard input.
    let unread = options.file.is_none() && !given(options)?.is_empty();
    let id = making::allocate(client, &IMAGE, params).map_err(|error| making::of_unread(error, unread))?;
    if options.wait.wait { restore::until_ready(client, id, &options.wait) } else { Ok(()) }
}

/// Options first: of two scalars of one name the first counts.
fn text(options: &Options) -> Result<String> {
    let given = given(options)?;
    // With options and no file, whatever standard input is is nobody's business.
    if options.file.is_some() || given.is_empty() {
        return template_text::in_front(&given, &input::read_required(options.file.as_deref())?);
    }
    Ok(given)
}

fn given(options: &Options) -> Result<String> {
    making::attributes(&[
        ("NAME", options.name.clone()),
        ("PATH", options.path.as_deref().map(absolute).transpose()?),
        ("TYPE", options.image_type.as_ref().map(|kind| kind.to_uppercase())),
        ("SIZE", options.size.as_deref().map(|size| mib("--size", size)).transpose()?),
        ("FORMAT", options.format.clone()),
        ("FS", options.fs.clone()),
        ("DISK_TYPE", options.disk_type.clone()),
        ("SOURCE", options.source.clone()),
        ("DRIVER", options.driver.clone()),
        ("PERSISTENT", options.persistent.then(|| "YES".to_owned())),
        ("DEV_PREFIX", options.prefix.clone()),
        ("TARGET", options.target.clone()),
        ("DESCRIPTION", options.description.clone()),
    ])
}

/// The daemon has another working directory than we: a relative path is made absolute, a URL stays.
fn absolute(path: &str) -> Result<String> {
    if path.contains("://") || path.starts_with('/') {
        return Ok(path.to_owned());
    }
    let full = std::path::absolute(path).with_context(|| format!("--path {path}"))?;
    full.into_os_string()
        .into_string()
        .map_err(|_| anyhow::anyhow!("--path {path}: the working directory is not UTF-8"))
}
