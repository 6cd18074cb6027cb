//! What a user's file says of a table: which columns it shows, under which name, and how wide they are.
//!
//! The files are OpenNebula's: `onevm.yaml` in ~/.one/cli, else in $ONE_LOCATION/etc/cli or /etc/one/cli. A key is a column
//! (a map with `size`, `left`, `right`, `adjust`, `expand`) or a list of columns: `default`, or one that --listconf and
//! ONE_LISTCONF name. Keys and words may be Ruby symbols (`:ID`). What a file says of columns that are not there is ignored.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::{Context as _, Result, bail};
use yaml_rust2::parser::{Event, Parser};
use yaml_rust2::{Yaml, YamlLoader};

use crate::table::{Column, Fit};
use crate::terminal;

/// Real files have some kilobytes.
const BYTES_MAX: u64 = 1 << 20;

/// Real files nest three deep.
const DEPTH_MAX: usize = 16;

/// A file that was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Layout {
    lists: BTreeMap<String, Vec<String>>,
    changes: BTreeMap<String, Change>,
}

/// What the file says of one column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Change {
    width: Option<usize>,
    left: Option<bool>,
    adjust: bool,
    expand: bool,
}

impl Layout {
    /// The layout of a tool's table; an empty one when no file speaks of it. A file that cannot be used is only worth a
    /// warning, unless `asked` says that somebody named a list of it.
    ///
    /// # Errors
    /// A file that cannot be used, when asked.
    pub fn of(tool: &str, asked: bool) -> Result<Self> {
        let Some(file) = places(tool).into_iter().find(|file| file.exists()) else { return Ok(Self::default()) };
        match Self::read(&file) {
            Ok(layout) => Ok(layout),
            Err(error) if asked => Err(error),
            Err(error) => {
                warn_once(&format!("{error:#}; the columns are as without it"));
                Ok(Self::default())
            }
        }
    }

    fn read(file: &Path) -> Result<Self> {
        let name = file.display();
        let mut text = String::new();
        let handle = File::open(file).with_context(|| format!("cannot read {name}"))?;
        handle.take(BYTES_MAX + 1).read_to_string(&mut text).with_context(|| format!("cannot read {name}"))?;
        if text.len() as u64 > BYTES_MAX {
            bail!("{name} is larger than 1 MiB: that is no file with columns");
        }
        Self::parse(&text).with_context(|| format!("cannot use {name}"))
    }

    fn parse(text: &str) -> Result<Self> {
        refuse_what_grows(text)?;
        let documents = YamlLoader::load_from_str(text).context("it is no YAML")?;
        let mut layout = Self::default();
        let Some(document) = documents.into_iter().next() else { return Ok(layout) };
        let map = match document {
            Yaml::Hash(map) => map,
            Yaml::Null => return Ok(layout),
            _ => bail!("it is no map of columns and lists"),
        };
        for (key, value) in map {
            let Some(key) = word(&key) else { continue };
            match value {
                Yaml::Array(names) => {
                    layout.lists.insert(key.to_lowercase(), names.iter().filter_map(word).collect());
                }
                Yaml::Hash(_) => {
                    layout.changes.insert(key.to_uppercase(), change(&value));
                }
                _ => {}
            }
        }
        Ok(layout)
    }

    /// The names of the list to show: the one that `--listconf` names, the one that ONE_LISTCONF names if there is such a
    /// one (it is for all tools), else `default`. None when the file has none, or none with a column that there is.
    ///
    /// # Errors
    /// When `named` is not in the file.
    pub fn list(
        &self,
        named: Option<&str>,
        environment: Option<&str>,
        columns: &[Column],
    ) -> Result<Option<Vec<&str>>> {
        let find = |name: &str| self.lists.get(&name.trim_start_matches(':').to_lowercase());
        let list = match named {
            Some(name) => match find(name) {
                Some(list) => Some(list),
                None if self.lists.is_empty() => {
                    bail!("--listconf {name}: there is no file with lists of columns; they lie in ~/.one/cli")
                }
                None => {
                    let known: Vec<&str> = self.lists.keys().map(String::as_str).collect();
                    bail!("--listconf {name}: there is no such list of columns; there are {}", known.join(", "))
                }
            },
            None => environment.and_then(find).or_else(|| find("default")),
        };
        let Some(list) = list else { return Ok(None) };
        let is_there = |name: &&str| columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        let (known, unknown): (Vec<&str>, Vec<&str>) = list.iter().map(String::as_str).partition(is_there);
        if !unknown.is_empty() {
            warn_once(&format!("there are no columns {}: they are left out", unknown.join(", ")));
        }
        Ok(Some(known).filter(|known| !known.is_empty()))
    }

    /// The column as the file wants it.
    #[must_use]
    pub fn changed(&self, column: &Column) -> Column {
        let Some(change) = self.changes.get(column.name) else { return *column };
        let fit = match (change.adjust, change.expand) {
            (true, _) => Fit::Full,
            (_, true) => Fit::Share,
            _ => column.fit,
        };
        Column { width: change.width.unwrap_or(column.width), left: change.left.unwrap_or(column.left), fit, ..*column }
    }
}

/// `top` reads the file again for every table.
fn warn_once(text: &str) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| terminal::warn(text));
}

/// Where the file of a tool may be; the first that exists is it.
fn places(tool: &str) -> Vec<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let system = variable("ONE_LOCATION").map_or_else(|| PathBuf::from("/etc/one"), |location| location.join("etc"));
    let own = variable("HOME").map(|home| home.join(".one"));
    own.into_iter().chain([system]).map(|place| place.join("cli").join(format!("{tool}.yaml"))).collect()
}

/// Aliases and nesting make a small file large in memory; no file of columns has them. The parser gives its events one by
/// one, so that this looks before anything is built.
fn refuse_what_grows(text: &str) -> Result<()> {
    let mut parser = Parser::new_from_str(text);
    let mut depth = 0_usize;
    loop {
        match parser.next_token().context("it is no YAML")?.0 {
            Event::StreamEnd => return Ok(()),
            Event::Alias(_) => bail!("it has an alias, which is refused here"),
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            bail!("it nests deeper than {DEPTH_MAX}");
        }
    }
}

/// A text, without the colon of a Ruby symbol.
fn word(value: &Yaml) -> Option<String> {
    value.as_str().map(|text| text.trim_start_matches(':').to_owned())
}

fn change(map: &Yaml) -> Change {
    let mut change = Change::default();
    let Yaml::Hash(map) = map else { return change };
    for (key, value) in map {
        // `:expand: 0.5` is a share; how large a share is no matter here.
        let yes = matches!(value, Yaml::Boolean(true) | Yaml::Integer(1..) | Yaml::Real(_));
        match word(key).as_deref() {
            Some("size") => change.width = value.as_i64().and_then(|size| u16::try_from(size).ok()).map(usize::from),
            Some("left") => change.left = Some(yes),
            Some("right") if yes => change.left = Some(false),
            Some("adjust") => change.adjust = yes,
            Some("expand") => change.expand = yes,
            _ => {}
        }
    }
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 2] =
        [Column::right("ID", 4, |_, _| String::new()), Column::left("NAME", 6, |_, _| String::new())];

    const FILE: &str = "---\n:ID:\n  :desc: the id\n  :size: 9\n  :left: true\n:NAME:\n  :adjust: true\n:UCPU:\n  :size: 4\n\n:default:\n- :ID\n- :UCPU\n:user:\n- :NAME\nplain: [name, id]\n";

    #[test]
    fn a_file_names_lists_and_changes_columns() {
        let layout = Layout::parse(FILE).unwrap();
        let list = |named, environment| layout.list(named, environment, &COLUMNS).unwrap().unwrap();
        assert_eq!(list(None, None), ["ID"]);
        assert_eq!(list(Some("user"), Some("plain")), ["NAME"]);
        assert_eq!(list(None, Some("plain")), ["name", "id"]);
        assert_eq!(list(None, Some("of another tool")), ["ID"]);
        let error = layout.list(Some("nope"), None, &COLUMNS).unwrap_err().to_string();
        assert_eq!(error, "--listconf nope: there is no such list of columns; there are default, plain, user");
        let id = layout.changed(&COLUMNS[0]);
        assert!(id.width == 9 && id.left && id.fit == Fit::Content);
        assert!(layout.changed(&COLUMNS[1]).fit == Fit::Full);
    }

    #[test]
    fn what_is_no_file_of_columns_is_refused_or_says_nothing() {
        let deep = "[".repeat(100_000);
        let steps = "- ".repeat(100_000);
        for text in [deep.as_str(), steps.as_str(), "a: &x [b]\nc: *x", "a: [", "- a", "text"] {
            assert!(Layout::parse(text).is_err(), "{text:.20}");
        }
        for text in ["", "---\n", "1: 2\n:ID: 3\n:NAME:\n  :size: -1\n  :left: 7.5\n"] {
            let layout = Layout::parse(text).unwrap();
            assert_eq!(layout.list(None, None, &COLUMNS).unwrap(), None);
            assert_eq!(layout.changed(&COLUMNS[1]).width, 6);
        }
    }
}
