//! The verbs that objects of many kinds have: list, top, show, update, rename, delete, chown, chgrp, chmod, enable, disable,
//! lock, unlock. Those that make objects share [`making`](super::making).
//!
//! A tool takes the groups of verbs that its kind knows into its own enum by `#[command(flatten)]`, so that a verb has the
//! same arguments, options and calls everywhere. What only one kind does is not here.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::objects::{GROUP, Kind, USER};
use crate::show::{Page, ShowOptions};
use crate::table::{self, Column, ListOptions};
use crate::wire::{Client, Param};
use crate::xml::Element;
use crate::{each, input, terminal};

/// One object, by id or name.
#[derive(Args, Clone, Debug)]
pub struct One {
    /// Id or name
    #[arg(value_name = "ID", allow_negative_numbers = true)]
    pub id: String,
}

/// One or more objects.
#[derive(Args, Clone, Debug)]
pub struct Several {
    /// Id, name, list (0,1,5) or range (0..3)
    #[arg(value_name = "ID,...", allow_negative_numbers = true)]
    pub ids: String,
}

/// How the objects of a kind look: as rows of a table and as a page.
pub struct Face {
    /// The kind.
    pub kind: &'static Kind,
    /// All columns of its table.
    pub columns: &'static [Column],
    /// Titles of the columns that are shown when nobody chooses.
    pub default: &'static [&'static str],
    /// Writes the page of one object.
    pub fill: fn(&mut Page, &Element),
}

/// Labels of all pages but that of a VM.
pub const LABEL_WIDTH: usize = 15;

impl Face {
    /// Prints the table.
    ///
    /// # Errors
    /// A refusal of the daemon, an unknown column or user.
    pub fn list(&self, client: &Client, options: &ListOptions) -> Result<()> {
        if options.describe {
            return table::describe(self.columns);
        }
        self.table(&self.kind.pool_for(client, options, "info")?, options)
    }

    /// Prints the table of a pool that is already here.
    ///
    /// # Errors
    /// An unknown column, a filter without a comparison.
    pub fn table(&self, pool: &Element, options: &ListOptions) -> Result<()> {
        table::list(pool, self.kind.member, self.columns, self.default, options)
    }

    /// Is a column of that title shown, or looked at?
    ///
    /// # Errors
    /// A list of columns that there is not.
    pub fn is_asked(&self, title: &str, options: &ListOptions) -> Result<bool> {
        table::is_asked(title, self.kind.member, self.columns, options)
    }

    /// Prints the page.
    ///
    /// # Errors
    /// A refusal of the daemon, an unknown name.
    pub fn show(&self, client: &Client, show: &Show) -> Result<()> {
        let document = self.kind.info(client, self.kind.id(client, &show.id)?, show.options.decrypt)?;
        put_document(&document, &show.options, LABEL_WIDTH, self.fill)
    }
}

/// Looking at objects.
#[derive(Subcommand, Debug)]
pub enum Viewing {
    /// A table of all
    List(ListOptions),
    /// The table again and again
    Top(Top),
    /// Everything about one
    Show(Show),
}

impl Viewing {
    /// Does it.
    ///
    /// # Errors
    /// As [`Face::list`] and [`Face::show`].
    pub fn run(self, client: &Client, face: &Face) -> Result<()> {
        match self {
            Self::List(options) => face.list(client, &options),
            Self::Top(top) => top.draw(|options| face.list(client, options)),
            Self::Show(show) => face.show(client, &show),
        }
    }
}

/// A table that is drawn again and again, with the options `T` of the table.
#[derive(Args, Clone, Debug)]
pub struct Top<T: Args = ListOptions> {
    #[command(flatten)]
    options: T,
    /// Time between two tables
    #[arg(short, long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    delay: u64,
}

impl<T: Args> Top<T> {
    /// Draws until interrupted; once when nobody looks, that is off a terminal.
    ///
    /// # Errors
    /// What `list` says.
    pub fn draw(&self, list: impl Fn(&T) -> Result<()>) -> Result<()> {
        if !terminal::is_terminal() {
            return list(&self.options);
        }
        terminal::draw();
        loop {
            let table = terminal::caught(|| list(&self.options))?;
            terminal::put(&match terminal::can_draw() {
                true => screen(&table, terminal::rows()),
                false => format!("{table}\n"),
            })?;
            std::thread::sleep(Duration::from_secs(self.delay));
        }
    }
}

/// A table as it replaces the one before, written at once so that nothing flickers. The beginning stays in sight: what does
/// not fit is counted.
fn screen(table: &str, rows: Option<usize>) -> String {
    let lines: Vec<&str> = table.lines().collect();
    // The cursor stands in a line of its own.
    let room = rows.map_or(usize::MAX, |rows| rows.saturating_sub(1).max(2));
    let shown = if lines.len() <= room { lines.len() } else { room - 1 };
    // Home, and clear what is below.
    let mut out = "\x1b[H\x1b[J".to_owned();
    lines[..shown].iter().for_each(|line| out.push_str(&format!("{line}\n")));
    if shown < lines.len() {
        out.push_str(&format!("... and {} more\n", lines.len() - shown));
    }
    out
}

/// An object to show.
#[derive(Args, Clone, Debug)]
pub struct Show {
    /// Id or name
    #[arg(value_name = "ID", allow_negative_numbers = true)]
    pub(super) id: String,
    #[command(flatten)]
    pub(super) options: ShowOptions,
}

/// An object to show; without an id the one that the daemon knows as the caller's own.
#[derive(Args, Clone, Debug)]
pub struct ShowOwn {
    /// Id or name
    #[arg(value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    options: ShowOptions,
}

impl ShowOwn {
    /// Prints the page that `fill` writes.
    ///
    /// # Errors
    /// A refusal of the daemon, an unknown name.
    pub fn run(&self, client: &Client, kind: &Kind, fill: fn(&mut Page, &Element)) -> Result<()> {
        // −1 is the caller, or his primary group.
        let id = self.id.as_deref().map_or(Ok(-1), |word| kind.id(client, word))?;
        put_document(&kind.info(client, id, self.options.decrypt)?, &self.options, LABEL_WIDTH, fill)
    }
}

/// Prints a document: as it is when the options ask for it, else as the page that `fill` writes.
///
/// # Errors
/// When standard output cannot take it.
pub fn put_document(
    document: &Element,
    options: &ShowOptions,
    label_width: usize,
    fill: impl FnOnce(&mut Page, &Element),
) -> Result<()> {
    if let Some(raw) = options.raw(document) {
        return terminal::put(&raw);
    }
    let mut page = Page::new(label_width);
    fill(&mut page, document);
    terminal::put(page.finish())
}

/// Changing attributes and name.
#[derive(Subcommand, Debug)]
pub enum Changing {
    /// Change the attributes
    Update(Update),
    /// Give a new name
    Rename(Rename),
}

impl Changing {
    /// Does it; an editor begins with what `present` says of the object.
    ///
    /// # Errors
    /// As [`Update::run`] and [`Rename::run`].
    pub fn run(&self, client: &Client, kind: &Kind, present: impl FnOnce(&Element) -> String) -> Result<()> {
        match self {
            Self::Update(update) => update.run(client, kind, "update", present),
            Self::Rename(rename) => rename.run(client, kind),
        }
    }
}

/// An object and its new name.
#[derive(Args, Clone, Debug)]
pub struct Rename {
    /// Id or name
    #[arg(value_name = "ID", allow_negative_numbers = true)]
    id: String,
    /// New name
    #[arg(value_name = "NAME")]
    name: String,
}

impl Rename {
    /// Renames it.
    ///
    /// # Errors
    /// A refusal of the daemon, an unknown name.
    pub fn run(&self, client: &Client, kind: &Kind) -> Result<()> {
        let id = kind.id(client, &self.id)?;
        client.call(&kind.method("rename"), [id.into(), self.name.as_str().into()])?;
        Ok(())
    }
}

/// An object and a text that changes it.
#[derive(Args, Clone, Debug)]
pub struct Update {
    /// Id or name
    #[arg(value_name = "ID", allow_negative_numbers = true)]
    id: String,
    /// File with the template (- for standard input); an editor opens when neither file nor pipe is there
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Change only what the text names; without it the text replaces all
    #[arg(short, long)]
    append: bool,
}

impl Update {
    /// `update` and `updateconf`: the text of the file or pipe, else what `present` gives, edited.
    ///
    /// # Errors
    /// A refusal of the daemon, an unknown name, a text or editor that does not work.
    pub fn run(
        &self,
        client: &Client,
        kind: &Kind,
        verb: &str,
        present: impl FnOnce(&Element) -> String,
    ) -> Result<()> {
        self.run_with(client, kind, verb, |id| Ok(present(&kind.info(client, id, false)?)))
    }

    /// As [`Update::run`], for an object whose present text is not in its `info`.
    ///
    /// # Errors
    /// As [`Update::run`], and what `present` says.
    pub fn run_with(
        &self,
        client: &Client,
        kind: &Kind,
        verb: &str,
        present: impl FnOnce(i64) -> Result<String>,
    ) -> Result<()> {
        let id = kind.id(client, &self.id)?;
        let send = |text: &str| {
            client.call(&kind.method(verb), [id.into(), text.into(), i64::from(self.append).into()])?;
            Ok(())
        };
        match input::read(self.file.as_deref())? {
            Some(text) => send(&text),
            None => input::edit(&if self.append { String::new() } else { present(id)? }, send),
        }
    }
}

/// The TEMPLATE of an object, for an editor.
#[must_use]
pub fn template_of(document: &Element) -> String {
    document.at("TEMPLATE").map(|template| crate::show::template_text(template, &[])).unwrap_or_default()
}

/// Removes objects whose call takes nothing but the id.
///
/// # Errors
/// A refusal of the daemon, an unknown name.
pub fn delete(client: &Client, kind: &Kind, target: &Several) -> Result<()> {
    call_each(client, kind, &target.ids, "delete", &[])
}

/// Calls `one.<kind>.<verb>(id, rest…)` for each object.
///
/// # Errors
/// As [`each`].
pub fn call_each(client: &Client, kind: &Kind, ids: &str, verb: &str, rest: &[Param]) -> Result<()> {
    each(&kind.ids(client, ids)?, |id| {
        let params = std::iter::once(Param::from(id)).chain(rest.iter().cloned());
        client.call(&kind.method(verb), params).map(|_| ())
    })
}

/// Whose an object is, and who may do what with it.
#[derive(Subcommand, Debug)]
pub enum Owning {
    /// Give to another user, and group
    Chown(Chown),
    /// Give to another group
    Chgrp(Chgrp),
    /// Change who may use, manage and administer it
    Chmod(Chmod),
}

/// Objects and their new owner.
#[derive(Args, Clone, Debug)]
pub struct Chown {
    #[command(flatten)]
    target: Several,
    /// User, id or name
    #[arg(value_name = "USER")]
    owner: String,
    /// Group, id or name; without it the group stays
    #[arg(value_name = "GROUP")]
    group: Option<String>,
}

/// Objects and their new group.
#[derive(Args, Clone, Debug)]
pub struct Chgrp {
    #[command(flatten)]
    target: Several,
    /// Group, id or name
    #[arg(value_name = "GROUP")]
    group: String,
}

/// Objects and their new permissions.
#[derive(Args, Clone, Debug)]
pub struct Chmod {
    #[command(flatten)]
    target: Several,
    /// Digits for owner, group and others, sums of 4 (use), 2 (manage), 1 (admin), like 640; or changes, like u+m,go-u;
    /// r, w and x are u, m and a
    #[arg(value_name = "OCTET|CHANGES")]
    permissions: String,
}

impl Owning {
    /// Does it.
    ///
    /// # Errors
    /// A refusal of the daemon, unknown names, permissions that are none.
    pub fn run(&self, client: &Client, kind: &Kind) -> Result<()> {
        match self {
            Self::Chown(options) => options.run(client, kind),
            Self::Chgrp(options) => options.run(client, kind),
            Self::Chmod(options) => options.run(client, kind, &[]),
        }
    }
}

impl Chown {
    /// Gives the objects away.
    ///
    /// # Errors
    /// A refusal of the daemon, unknown names.
    pub fn run(&self, client: &Client, kind: &Kind) -> Result<()> {
        let uid = USER.id(client, &self.owner)?;
        let gid = self.group.as_deref().map_or(Ok(-1), |word| GROUP.id(client, word))?;
        call_each(client, kind, &self.target.ids, "chown", &[uid.into(), gid.into()])
    }
}

/// Taking objects into use and out of it.
#[derive(Subcommand, Debug)]
pub enum Enabling {
    /// Take into use
    Enable(Several),
    /// Take out of use
    Disable(Several),
}

impl Enabling {
    /// Calls `one.<kind>.enable(id, yes or no)` for each.
    ///
    /// # Errors
    /// A refusal of the daemon, an unknown name.
    pub fn run(&self, client: &Client, kind: &Kind) -> Result<()> {
        let (target, enable) = match self {
            Self::Enable(target) => (target, true),
            Self::Disable(target) => (target, false),
        };
        call_each(client, kind, &target.ids, "enable", &[enable.into()])
    }
}

impl Chgrp {
    /// Gives the objects to the group.
    ///
    /// # Errors
    /// A refusal of the daemon, unknown names.
    pub fn run(&self, client: &Client, kind: &Kind) -> Result<()> {
        let gid = GROUP.id(client, &self.group)?;
        call_each(client, kind, &self.target.ids, "chown", &[(-1).into(), gid.into()])
    }
}

impl Chmod {
    /// Changes the permissions; `rest` goes behind the nine bits.
    ///
    /// # Errors
    /// A refusal of the daemon, an unknown name, permissions that are none.
    pub fn run(&self, client: &Client, kind: &Kind, rest: &[Param]) -> Result<()> {
        let bits = permission_bits(&self.permissions)?;
        let params: Vec<Param> = bits.into_iter().map(Param::Int).chain(rest.iter().cloned()).collect();
        call_each(client, kind, &self.target.ids, "chmod", &params)
    }
}

/// The nine parameters of chmod (use, manage, admin of owner, group and others), -1 for what stays: of `640`, or of
/// changes like `u+m,go-u` and `g=um`, where u is the owner, g the group, o others and a all three. OpenNebula's tools have
/// r, w and x for u, m and a (`u=rw,g=r`).
fn permission_bits(text: &str) -> Result<[i64; 9]> {
    let digits: Option<Vec<i64>> = text.chars().map(|digit| digit.to_digit(8).map(i64::from)).collect();
    let mut bits = [-1; 9];
    match digits.as_deref() {
        Some(digits @ [_, _, _]) => {
            for (place, bit) in bits.iter_mut().enumerate() {
                *bit = digits[place / 3] >> (2 - place % 3) & 1;
            }
            return Ok(bits);
        }
        None if text.split(',').all(|change| change_bits(&mut bits, change).is_some()) => return Ok(bits),
        _ => {}
    }
    bail!("{text} says no permissions: write three digits from 0 to 7, like 640, or changes, like u+m,go-u")
}

/// One change, `go-u`; None when it is none.
fn change_bits(bits: &mut [i64; 9], change: &str) -> Option<()> {
    let at = change.find(['+', '-', '='])?;
    let (who, what) = change.split_at(at);
    let (sign, what) = what.split_at(1);
    let places =
        |letters: &str, known: &str| letters.chars().map(|letter| known.find(letter)).collect::<Option<Vec<_>>>();
    let who = if matches!(who, "" | "a") { "ugo" } else { who };
    let rights = places(what, "uma").or_else(|| places(what, "rwx"))?;
    let who = places(who, "ugo")?;
    if rights.is_empty() && sign != "=" {
        return None;
    }
    for whose in who {
        if sign == "=" {
            bits[whose * 3..whose * 3 + 3].fill(0);
        }
        for right in &rights {
            bits[whose * 3 + right] = i64::from(sign != "-");
        }
    }
    Some(())
}

/// Keeping objects from being changed.
#[derive(Subcommand, Debug)]
pub enum Locking {
    /// Forbid to use, manage or administer it
    Lock(Lock),
    /// Allow everything again
    Unlock(Several),
}

/// Objects and what is forbidden; nothing said is --use.
#[derive(Args, Clone, Debug)]
pub struct Lock {
    #[command(flatten)]
    target: Several,
    #[command(flatten)]
    level: LockLevel,
}

#[derive(Args, Clone, Debug)]
#[group(multiple = false)]
struct LockLevel {
    /// Nothing may be done with it
    #[arg(long = "use")]
    usage: bool,
    /// It may be used
    #[arg(long)]
    manage: bool,
    /// It may be used and managed
    #[arg(long)]
    admin: bool,
    /// As --use
    #[arg(long)]
    all: bool,
}

impl Locking {
    /// Does it.
    ///
    /// # Errors
    /// A refusal of the daemon, an unknown name.
    pub fn run(&self, client: &Client, kind: &Kind) -> Result<()> {
        match self {
            Self::Lock(Lock { target, level }) => {
                let chosen = [level.usage, level.manage, level.admin, level.all].iter().position(|chosen| *chosen);
                let level = i64::try_from(chosen.unwrap_or(0) + 1)?;
                call_each(client, kind, &target.ids, "lock", &[level.into()])
            }
            Self::Unlock(target) => call_each(client, kind, &target.ids, "unlock", &[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_shows_the_beginning_of_a_table_and_counts_the_rest() {
        let table = "T\na\nb\nc\n";
        assert_eq!(screen(table, Some(5)), "\x1b[H\x1b[JT\na\nb\nc\n");
        assert_eq!(screen(table, Some(4)), "\x1b[H\x1b[JT\na\n... and 2 more\n");
        assert_eq!(screen(table, Some(1)), "\x1b[H\x1b[JT\n... and 3 more\n");
        assert_eq!(screen(table, None), screen(table, Some(9)));
    }

    #[test]
    fn three_digits_become_nine_bits() {
        assert_eq!(permission_bits("640").unwrap(), [1, 1, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(permission_bits("017").unwrap(), [0, 0, 0, 0, 0, 1, 1, 1, 1]);
    }

    #[test]
    fn letters_change_what_they_name_and_nothing_else() {
        let cases = [
            ("u+m", [-1, 1, -1, -1, -1, -1, -1, -1, -1]),
            ("go-u", [-1, -1, -1, 0, -1, -1, 0, -1, -1]),
            ("a+u", [1, -1, -1, 1, -1, -1, 1, -1, -1]),
            ("+a", [-1, -1, 1, -1, -1, 1, -1, -1, 1]),
            ("g=um,o=", [-1, -1, -1, 1, 1, 0, 0, 0, 0]),
            ("u=u,u+a", [1, 0, 1, -1, -1, -1, -1, -1, -1]),
            ("u=rw,g=r,o+x", [1, 1, 0, 1, 0, 0, -1, -1, 1]),
        ];
        for (text, bits) in cases {
            assert_eq!(permission_bits(text).unwrap(), bits, "{text}");
        }
        for wrong in ["", "64", "6400", "648", "u", "u+", "u+z", "u=rm", "x+u", "u+m,", ",", "u+m g-u", "-10", "u++m"] {
            assert!(permission_bits(wrong).is_err(), "{wrong}");
        }
    }
}
