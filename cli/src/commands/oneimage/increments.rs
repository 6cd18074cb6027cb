//! `oneimage increments`: the restore points in one backup image.

use anyhow::{Result, bail};
use clap::Args;

use crate::objects::IMAGE;
use crate::table::{self, ListOptions};
use crate::wire::Client;
use crate::{points, states};

/// The columns that are shown when nobody chooses.
const DEFAULT: [&str; 9] = ["ID", "PID", "KIND", "DATE", "SIZE", "READ", "STORED", "TIME", "VERIFIED"];

// One image is one owner's.
#[derive(Args, Debug)]
#[command(mut_arg("whose", |whose| whose.hide(true)))]
pub struct Options {
    /// Id or name of the backup image
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    options: ListOptions,
}

pub fn run(client: &Client, options: &Options) -> Result<()> {
    let id = IMAGE.id(client, &options.id)?;
    let image = IMAGE.info(client, id, false)?;
    if !states::is_backup(&image) {
        bail!("image {id} is no backup and has no increments; `oneimage list --backup` lists the backups");
    }
    let points = points::document(points::of_image(&image));
    table::list(&points, points::POINT, &points::COLUMNS, &DEFAULT, &options.options)
}
