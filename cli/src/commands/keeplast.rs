//! `keeplast`: what is not about one kind of object.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::Connection;
use crate::links;

/// Virtual machines and their backups
#[derive(Parser, Debug)]
#[command(name = "keeplast", version)]
pub struct Command {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Make onevm, oneimage and so on links to this program
    InstallLinks(InstallLinks),
}

#[derive(Args, Debug)]
struct InstallLinks {
    /// Directory for the links; it must exist
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Replace files of these names, too, that are no links to this program
    #[arg(long)]
    force: bool,
}

impl Command {
    /// Does what the options say.
    ///
    /// # Errors
    /// Everything that ends in one line on standard error.
    pub fn run(self) -> Result<()> {
        match self.verb {
            Verb::InstallLinks(options) => links::install(&options.directory, options.force),
        }
    }
}
