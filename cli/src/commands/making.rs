//! What the verbs that make objects share: a template from file, pipe or options, the cluster, a copy, the printed id.
//!
//! Options stand before the text of the file, since of two values of one name the first counts.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Args;

use crate::objects::{self, CLUSTER, Kind};
use crate::wire::{Client, Param};
use crate::{input, template_text, terminal};

/// Where the template of a new object comes from.
#[derive(Args, Clone, Debug)]
pub struct Source {
    /// File with the template (- for standard input); options go before it
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Name, instead of the one in the template
    #[arg(long)]
    name: Option<String>,
    /// A few words about it
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

impl Source {
    /// Calls `one.<kind>.allocate(template, rest…)` and prints the new id.
    ///
    /// # Errors
    /// As [`Source::text`], and a refusal of the daemon.
    pub fn make(&self, client: &Client, kind: &Kind, given: &str, rest: &[Param]) -> Result<i64> {
        let text = self.text(given)?;
        let params = std::iter::once(text.into()).chain(rest.iter().cloned());
        allocate(client, kind, params).map_err(|error| of_unread(error, self.file.is_none() && !given.is_empty()))
    }

    /// The template. `given` is what other options say, as attributes; when there is any, a pipe is not read unless it is
    /// asked for by `-`: a loop that reads a list from it would lose the rest.
    ///
    /// # Errors
    /// A file that cannot be read, neither file nor options, a name that the grammar cannot carry.
    fn text(&self, given: &str) -> Result<String> {
        let own = attributes(&[("NAME", self.name.clone()), ("DESCRIPTION", self.description.clone())])?;
        let file = match &self.file {
            None if !given.is_empty() => String::new(),
            file => input::read_required(file.as_deref())?,
        };
        template_text::in_front(&format!("{own}{given}"), &file)
    }
}

/// The error of a creation; when standard input was left `unread` and something is there, that is said, too.
#[must_use]
pub fn of_unread(error: anyhow::Error, unread: bool) -> anyhow::Error {
    if unread && terminal::something_is_piped_in() {
        return anyhow!("{error:#} (what was piped in was not read, since there are options: name it with -)");
    }
    error
}

/// `KEY = "VALUE"` lines for what was given.
///
/// # Errors
/// For a value that the grammar cannot carry.
pub fn attributes(given: &[(&str, Option<String>)]) -> Result<String> {
    let given = given.iter().filter_map(|(key, value)| Some((key, value.as_deref()?)));
    given.map(|(key, value)| template_text::attribute(key, value)).collect()
}

/// The cluster of a new object.
#[derive(Args, Clone, Debug)]
pub struct InCluster {
    /// Cluster, id or name; default is the default cluster
    #[arg(short, long, value_name = "CLUSTER")]
    cluster: Option<String>,
}

impl InCluster {
    /// Its id; −1 when none was named.
    ///
    /// # Errors
    /// An unknown name.
    pub fn id(&self, client: &Client) -> Result<i64> {
        self.cluster.as_deref().map_or(Ok(-1), |word| CLUSTER.id(client, word))
    }
}

/// Calls `one.<kind>.allocate` and prints the new id.
///
/// # Errors
/// A refusal of the daemon.
pub fn allocate(client: &Client, kind: &Kind, params: impl IntoIterator<Item = Param>) -> Result<i64> {
    objects::put_id(&client.call(&kind.method("allocate"), params)?)
}

/// An object and the name of its copy.
#[derive(Args, Clone, Debug)]
pub struct Duplicate {
    /// Id or name
    #[arg(value_name = "ID")]
    id: String,
    /// Name of the copy
    #[arg(value_name = "NAME")]
    name: String,
}

impl Duplicate {
    /// Calls `one.<kind>.clone(id, name, rest…)` and prints the new id.
    ///
    /// # Errors
    /// A refusal of the daemon, an unknown name.
    pub fn run(&self, client: &Client, kind: &Kind, rest: &[Param]) -> Result<i64> {
        let id = kind.id(client, &self.id)?;
        let params = [id.into(), self.name.as_str().into()].into_iter().chain(rest.iter().cloned());
        objects::put_id(&client.call(&kind.method("clone"), params)?)
    }
}
