//! `onevm backups`: every restore point of a VM, over all images and datastores.

use anyhow::Result;
use clap::Args;

use crate::objects::{IMAGE, VM};
use crate::points;
use crate::table::{self, ListOptions};
use crate::wire::Client;

/// The columns that are shown when nobody chooses.
const DEFAULT: [&str; 8] = ["DATE", "KIND", "IMAGE", "INC", "READ", "STORED", "WHERE", "VERIFIED"];

#[derive(Args, Debug)]
pub struct Options {
    /// Id or name; of a VM that is gone the id
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    options: ListOptions,
}

pub fn run(client: &Client, options: &Options) -> Result<()> {
    let id = VM.id(client, &options.id)?;
    let pool = IMAGE.pool_for(client, &options.options, "info")?;
    let points = points::of_pool(&pool, |image| image.ids_at("VMS").contains(&id));
    if points.is_empty() {
        // A VM without backups is an empty table; a VM that never was is a mistake.
        VM.info(client, id, false)?;
    }
    table::list(&points::document(points), points::POINT, &points::COLUMNS, &DEFAULT, &options.options)
}
