//! `keeplast`: what is not about one kind of object.

mod doctor;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::completion::{self, Shell};
use crate::{Connection, links, man, terminal};

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
    /// Examine daemon, hosts and datastores; say what to do
    Doctor(doctor::Options),
    /// Make onevm, oneimage and so on links to this program
    InstallLinks(InstallLinks),
    /// Print the completion of all these for bash, zsh or fish
    Completion(Completion),
    /// Write a man page per tool into a directory
    Man(Man),
}

#[derive(Args, Debug)]
struct Man {
    /// Directory for the pages, like /usr/local/share/man/man1; it must exist
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

#[derive(Args, Debug)]
struct Completion {
    /// Shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
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
            Verb::Doctor(options) => doctor::run(&self.connection, &options),
            Verb::InstallLinks(options) => links::install(&options.directory, options.force),
            Verb::Man(options) => man::write(&options.directory),
            Verb::Completion(options) => terminal::put(&completion::script(options.shell)?),
        }
    }
}
