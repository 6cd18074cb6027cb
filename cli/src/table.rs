//! Fixed-width tables as OpenNebula's tools print them, and the options of every `list`.
//!
//! On a terminal a cell is cut to its column, except that the name columns share what is left of the line. Elsewhere
//! nothing is cut: columns grow to their content, so that a script never reads half a name.

mod about;
mod order;
mod spread;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use regex::{Regex, RegexBuilder};

use crate::layout::Layout;
use crate::terminal::clean;
use crate::xml::Element;
use crate::{terminal, tools, units, width};

/// Columns grow no further than this; a longer cell sticks out of its own line only. One huge cell must not make every
/// line of a table huge.
const GROWN_MAX: usize = 512;

/// One column of a table.
#[derive(Clone, Copy)]
pub struct Column {
    /// Title, in capitals; the word that `--list` and `--filter` use.
    pub name: &'static str,
    /// Least width, and the width on a narrow terminal.
    pub width: usize,
    /// Aligned to the left?
    pub left: bool,
    /// How the column reacts to content that is wider.
    pub fit: Fit,
    /// The cell of one element.
    pub cell: fn(&Element, &ListOptions) -> String,
    /// What it is, where its title means something else elsewhere.
    pub about: &'static str,
}

/// What happens with content wider than the column.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// Cut on a terminal, grow elsewhere.
    Content,
    /// As Content, and take a share of the spare width of a terminal.
    Share,
    /// Always cut (the minutes' letter of the TIME column, for one).
    Cut,
    /// Never cut.
    Full,
    /// Cut on a terminal, where it gets so many thousandths of the spare width; grow elsewhere.
    Fill(u32),
}

impl Column {
    /// A column aligned to the right.
    pub const fn right(name: &'static str, width: usize, cell: fn(&Element, &ListOptions) -> String) -> Self {
        Self { name, width, left: false, fit: Fit::Content, cell, about: "" }
    }

    /// A column aligned to the left.
    pub const fn left(name: &'static str, width: usize, cell: fn(&Element, &ListOptions) -> String) -> Self {
        Self { name, width, left: true, fit: Fit::Content, cell, about: "" }
    }

    /// The same column with another fit.
    #[must_use]
    pub const fn fit(self, fit: Fit) -> Self {
        Self { fit, ..self }
    }

    /// The cell as it is shown.
    fn text(&self, element: &Element, options: &ListOptions) -> String {
        clean(&(self.cell)(element, options))
    }

    /// The same column with words of its own for `--describe`.
    #[must_use]
    pub const fn about(self, about: &'static str) -> Self {
        Self { about, ..self }
    }
}

/// Options that every `list` takes.
#[derive(Args, Clone, Debug, Default)]
pub struct ListOptions {
    /// Whose objects: a (all), m (mine), g (mine and my groups'), G (my primary group's), or a user name or id
    #[arg(value_name = "WHOSE")]
    pub whose: Option<String>,
    /// Columns to show, in this order
    #[arg(short, long, value_name = "COLUMN,...", value_delimiter = ',')]
    pub list: Vec<String>,
    /// A list of columns by the name that it has in ~/.one/cli or /etc/one/cli (else ONE_LISTCONF, else default)
    #[arg(short = 'c', long, value_name = "NAME", conflicts_with = "list")]
    pub listconf: Option<String>,
    /// Show only rows for which this holds: COLUMN=VALUE, also != < <= > >= and ~ (a regular expression)
    #[arg(short, long, value_name = "COLUMN=VALUE,...", value_delimiter = ',')]
    pub filter: Vec<String>,
    /// AND or OR between several filters
    #[arg(long, value_name = "AND|OR", default_value = "AND", ignore_case = true, value_parser = ["AND", "OR"])]
    pub operator: String,
    /// Order of the rows: by these columns, one with - in front from high to low; without it as the daemon has them
    #[arg(short, long, value_name = "COLUMN,...", value_delimiter = ',', allow_hyphen_values = true)]
    pub order: Vec<String>,
    /// Comma separated values
    #[arg(long)]
    pub csv: bool,
    /// The separator of --csv
    #[arg(long, value_name = "CHARACTER", default_value = ",")]
    pub csv_del: String,
    /// The daemon's XML document
    #[arg(short, long, conflicts_with_all = ["json", "yaml", "csv"])]
    pub xml: bool,
    /// The daemon's document as JSON
    #[arg(short, long, conflicts_with_all = ["yaml", "csv"])]
    pub json: bool,
    /// The daemon's document as YAML
    #[arg(short, long, conflicts_with = "csv")]
    pub yaml: bool,
    /// Ids instead of the names of users and groups
    #[arg(short, long)]
    pub numeric: bool,
    /// Sizes as plain numbers of KiB
    #[arg(short, long)]
    pub kilobytes: bool,
    /// No line with the titles
    #[arg(long)]
    pub no_header: bool,
    /// Widths of columns
    #[arg(short, long, value_name = "COLUMN=WIDTH,...", value_delimiter = ',')]
    pub size: Vec<String>,
    /// Columns that are never cut
    #[arg(long, value_name = "COLUMN,...", value_delimiter = ',')]
    pub adjust: Vec<String>,
    /// Fill the line of a terminal with these columns, each with its share: NAME=0.4,HOST=0.6; all when none is named
    #[arg(long, value_name = "COLUMN=SHARE,...", value_delimiter = ',', num_args = 0..=1, conflicts_with = "no_expand")]
    pub expand: Option<Vec<String>>,
    /// No column takes more of the line than its width
    #[arg(long)]
    pub no_expand: bool,
    /// What the columns are, instead of a table
    #[arg(long)]
    pub describe: bool,
    /// Not through the pager that ONE_PAGER names
    #[arg(long)]
    pub no_pager: bool,
}

impl ListOptions {
    /// Is the daemon's document asked for, no table?
    #[must_use]
    pub fn is_document(&self) -> bool {
        self.xml || self.json || self.yaml
    }

    /// A size given in MiB: `172M`, or KiB without a unit.
    #[must_use]
    pub fn mib(&self, value: i64) -> String {
        if self.kilobytes { value.saturating_mul(1024).to_string() } else { units::mib(value) }
    }

    /// A size given in KiB: `172K`, or without the unit.
    #[must_use]
    pub fn kib(&self, value: i64) -> String {
        if self.kilobytes { value.to_string() } else { units::kib(value) }
    }
}

/// Prints the members of a pool document as the options and the user's own layout say.
///
/// # Errors
/// For an unknown column or list of columns, and a filter that cannot be understood.
pub fn list(pool: &Element, member: &str, columns: &[Column], default: &[&str], options: &ListOptions) -> Result<()> {
    if options.describe {
        return describe(columns);
    }
    if options.xml {
        return terminal::put(&pool.to_xml());
    }
    if options.json {
        return terminal::put(&crate::json::pretty(pool));
    }
    if options.yaml {
        return terminal::put(&crate::yaml::pretty(pool));
    }
    let width = terminal::width();
    let layout = layout_of(member, options)?;
    let columns: Vec<Column> = columns.iter().map(|column| layout.changed(column)).collect();
    let own = own_list(&layout, &columns, options)?;
    let text = render(pool, member, &columns, own.as_deref().unwrap_or(default), options, width)?;
    if options.no_pager { terminal::put(&text) } else { terminal::put_paged(&text) }
}

/// Prints what the columns are, a line each: `NAME                : Name`. No daemon is asked.
///
/// # Errors
/// When standard output cannot take it.
pub fn describe(columns: &[Column]) -> Result<()> {
    let lines: Vec<_> = columns.iter().map(|column| format!("{:<20}: {}\n", column.name, about::of(column))).collect();
    terminal::put(&lines.concat())
}

/// Is a column of that title shown, or looked at, by the table of a kind? A cell may cost a call.
///
/// # Errors
/// As [`list`].
pub fn is_asked(title: &str, member: &str, columns: &[Column], options: &ListOptions) -> Result<bool> {
    let names = |text: &String| {
        let letters = text.trim_start_matches('-').chars();
        let name: String = letters.take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        name.eq_ignore_ascii_case(title)
    };
    if [&options.list, &options.filter, &options.order].into_iter().flatten().any(names) {
        return Ok(true);
    }
    let layout = layout_of(member, options)?;
    let own = own_list(&layout, columns, options)?;
    Ok(own.is_some_and(|own| own.iter().any(|name| name.eq_ignore_ascii_case(title))))
}

/// What the user's file says of the table.
fn layout_of(member: &str, options: &ListOptions) -> Result<Layout> {
    let tool = tools::TOOLS.iter().find(|tool| tool.kind.member == member);
    tool.map_or_else(|| Ok(Layout::default()), |tool| Layout::of(tool.name, options.listconf.is_some()))
}

/// The columns that the user's file chooses, unless the options do.
fn own_list<'a>(layout: &'a Layout, columns: &[Column], options: &ListOptions) -> Result<Option<Vec<&'a str>>> {
    if !options.list.is_empty() {
        return Ok(None);
    }
    layout.list(options.listconf.as_deref(), std::env::var("ONE_LISTCONF").ok().as_deref(), columns)
}

fn render(
    pool: &Element,
    member: &str,
    columns: &[Column],
    default: &[&str],
    options: &ListOptions,
    width: Option<usize>,
) -> Result<String> {
    let find = |name: &str| match columns.iter().find(|column| column.name.eq_ignore_ascii_case(name.trim())) {
        Some(column) => Ok(column),
        None => {
            let known: Vec<_> = columns.iter().map(|column| column.name).collect();
            bail!("there is no column {name}; there are {}", known.join(", "))
        }
    };
    let names = match options.list.is_empty() {
        true => default.to_vec(),
        false => options.list.iter().map(String::as_str).collect(),
    };
    let mut shown = names.into_iter().map(|name| find(name).copied()).collect::<Result<Vec<Column>>>()?;
    spread::apply(&mut shown, options, &find)?;
    resize(&mut shown, options, &find)?;
    let filters = options.filter.iter().map(|text| Filter::parse(text, &find)).collect::<Result<Vec<_>>>()?;
    let any = options.operator.eq_ignore_ascii_case("OR");
    let holds = |element: &&Element| {
        let mut results = filters.iter().map(|filter| filter.holds(element, options));
        filters.is_empty() || if any { results.any(|yes| yes) } else { results.all(|yes| yes) }
    };
    let mut elements: Vec<&Element> = pool.all(member).filter(holds).collect();
    order::sort(&mut elements, options, &find)?;
    let rows: Vec<Vec<String>> = elements
        .into_iter()
        .map(|element| shown.iter().map(|column| column.text(element, options)).collect())
        .collect();
    Ok(if options.csv { csv(&shown, &rows, options) } else { fixed(&shown, &rows, !options.no_header, width) })
}

/// What `--size` and `--adjust` say of the columns that are shown.
fn resize<'a>(shown: &mut [Column], options: &ListOptions, find: &impl Fn(&str) -> Result<&'a Column>) -> Result<()> {
    let mut set = |name: &str, width: Option<usize>, fit: Fit| -> Result<()> {
        let name = find(name)?.name;
        for column in shown.iter_mut().filter(|column| column.name == name) {
            (column.width, column.fit) = (width.unwrap_or(column.width), fit);
        }
        Ok(())
    };
    for text in &options.size {
        match text.split_once('=').map(|(name, width)| (name, width.trim().parse::<u16>())) {
            Some((name, Ok(width))) if usize::from(width) <= GROWN_MAX => set(name, Some(width.into()), Fit::Cut)?,
            _ => bail!("--size {text}: write for instance NAME=30, at most {GROWN_MAX}"),
        }
    }
    options.adjust.iter().try_for_each(|name| set(name, None, Fit::Full))
}

fn csv(columns: &[Column], rows: &[Vec<String>], options: &ListOptions) -> String {
    let separator = &options.csv_del;
    let quote = |cell: &str| {
        if cell.contains(['"', '\n']) || cell.contains(separator.as_str()) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell.to_owned()
        }
    };
    let mut out = String::new();
    if !options.no_header {
        out.push_str(&columns.iter().map(|column| column.name).collect::<Vec<_>>().join(separator));
        out.push('\n');
    }
    for row in rows {
        out.push_str(&row.iter().map(|cell| quote(cell.trim())).collect::<Vec<_>>().join(separator));
        out.push('\n');
    }
    out
}

fn fixed(columns: &[Column], rows: &[Vec<String>], header: bool, width: Option<usize>) -> String {
    let widths = widths(columns, rows, width);
    let cut = width.is_some();
    let mut out = String::new();
    let mut push = |cells: &mut dyn Iterator<Item = &str>| {
        let line: Vec<String> = cells
            .zip(columns.iter().zip(&widths))
            .map(|(cell, (column, width))| {
                pad(cell, *width, column.left, column.fit == Fit::Cut || cut && column.fit != Fit::Full)
            })
            .collect();
        out.push_str(line.join(" ").trim_end());
        out.push('\n');
    };
    if header {
        push(&mut columns.iter().map(|column| column.name));
    }
    for row in rows {
        push(&mut row.iter().map(String::as_str));
    }
    out
}

/// The width of each column; `terminal` None means that nothing is cut.
fn widths(columns: &[Column], rows: &[Vec<String>], terminal: Option<usize>) -> Vec<usize> {
    let needed = |index: usize, column: &Column| {
        let cells = rows.iter().filter_map(|row| row.get(index)).map(|cell| width::of(cell));
        cells.max().unwrap_or(0).max(width::of(column.name))
    };
    let mut widths: Vec<usize> = columns.iter().map(|column| column.width).collect();
    let taken = widths.iter().sum::<usize>() + columns.len().saturating_sub(1);
    let mut spare = terminal.map_or(usize::MAX, |width| width.saturating_sub(taken));
    if terminal.is_some() {
        spare -= spread::fill(columns, &mut widths, spare);
    }
    for (index, column) in columns.iter().enumerate() {
        let may_grow = match column.fit {
            Fit::Cut => false,
            Fit::Share | Fit::Full => true,
            Fit::Content | Fit::Fill(_) => terminal.is_none(),
        };
        if may_grow {
            let wanted = needed(index, column).min(GROWN_MAX).saturating_sub(column.width);
            let growth = if column.fit == Fit::Full { wanted } else { wanted.min(spare) };
            widths[index] += growth;
            spare = spare.saturating_sub(growth);
        }
    }
    widths
}

/// The cell in its width. Not by `format!`, whose widths end at 65 535 with a panic.
fn pad(cell: &str, width: usize, left: bool, cut: bool) -> String {
    let cell = if cut { width::cut(cell, width) } else { cell };
    // Where a letter of two columns does not fit, one column stays empty.
    let blanks = " ".repeat(width.saturating_sub(width::of(cell)));
    if left { format!("{cell}{blanks}") } else { format!("{blanks}{cell}") }
}

/// One condition of `--filter`.
struct Filter<'a> {
    column: &'a Column,
    comparison: &'static str,
    value: String,
    /// The value of `~`.
    pattern: Option<Regex>,
}

/// Largest compiled pattern; a megabyte is far more than anybody types.
const PATTERN_BYTES_MAX: usize = 1 << 20;

impl<'a> Filter<'a> {
    /// Two-letter comparisons stand before the one-letter ones that they begin with.
    const COMPARISONS: [&'static str; 7] = ["!=", "<=", ">=", "=", "<", ">", "~"];

    fn parse(text: &str, find: &impl Fn(&str) -> Result<&'a Column>) -> Result<Self> {
        let found = Self::COMPARISONS
            .iter()
            .filter_map(|comparison| text.find(comparison).map(|at| (at, *comparison)))
            .min_by_key(|(at, comparison)| (*at, std::cmp::Reverse(comparison.len())));
        let Some((at, comparison)) = found else {
            bail!("the filter {text} compares nothing; write for instance STAT=runn")
        };
        let column = find(&text[..at])?;
        let value = text[at + comparison.len()..].trim().to_owned();
        let pattern = (comparison == "~").then(|| pattern(&value)).transpose();
        let pattern = pattern.with_context(|| format!("the filter {text} has no regular expression"))?;
        Ok(Self { column, comparison, value, pattern })
    }

    fn holds(&self, element: &Element, options: &ListOptions) -> bool {
        let cell = self.column.text(element, options);
        let cell = cell.trim();
        if let Some(pattern) = &self.pattern {
            return pattern.is_match(cell);
        }
        let order = order::compare(cell, &self.value);
        match self.comparison {
            "=" => order.is_eq(),
            "!=" => order.is_ne(),
            "<" => order.is_lt(),
            "<=" => order.is_le(),
            ">" => order.is_gt(),
            _ => order.is_ge(),
        }
    }
}

/// The last line of what the parser says is the reason; those before it draw an arrow.
fn pattern(text: &str) -> Result<Regex> {
    RegexBuilder::new(text).size_limit(PATTERN_BYTES_MAX).dfa_size_limit(PATTERN_BYTES_MAX).build().map_err(|error| {
        let said = error.to_string();
        let reason = said.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        anyhow::anyhow!(reason)
    })
}

/// A small table inside of `show`: the columns are only as wide as given or needed, nothing is cut.
#[must_use]
pub fn plain(titles: &[(&str, usize, bool)], rows: &[Vec<String>]) -> String {
    let mut out = String::new();
    let width = |index: usize, least: usize, title: &str| {
        let cells = rows.iter().filter_map(|row| row.get(index)).map(|cell| width::of(&clean(cell)));
        cells.max().unwrap_or(0).min(GROWN_MAX).max(least).max(title.len())
    };
    let widths: Vec<usize> =
        titles.iter().enumerate().map(|(index, (title, least, _))| width(index, *least, title)).collect();
    let mut push = |cells: Vec<String>| {
        let line: Vec<String> = cells
            .iter()
            .zip(titles.iter().zip(&widths))
            .map(|(cell, ((_, _, left), width))| pad(cell, *width, *left, false))
            .collect();
        out.push_str(line.join(" ").trim_end());
        out.push('\n');
    };
    push(titles.iter().map(|(title, ..)| (*title).to_owned()).collect());
    for row in rows {
        push(row.iter().map(|cell| clean(cell)).collect());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column::right("ID", 4, |vm, _| vm.text_at("ID").to_owned()),
        Column::left("NAME", 6, |vm, _| vm.text_at("NAME").to_owned()).fit(Fit::Share),
        Column::right("MEM", 5, |vm, _| vm.text_at("MEM").to_owned()),
    ];

    fn pool() -> Element {
        Element::parse(
            "<P><VM><ID>0</ID><NAME>a,\"long\" name</NAME><MEM>10</MEM></VM><VM><ID>12</ID><NAME>b&#10;c</NAME><MEM>9</MEM></VM></P>",
        )
        .unwrap()
    }

    fn text(options: &ListOptions, width: Option<usize>) -> Result<String> {
        render(&pool(), "VM", &COLUMNS, &["ID", "NAME", "MEM"], options, width)
    }

    fn filtered(filter: &[&str], operator: &str) -> Result<String> {
        let filter = filter.iter().map(|text| (*text).to_owned()).collect();
        text(
            &ListOptions {
                filter,
                operator: operator.into(),
                no_header: true,
                list: vec!["id".into()],
                ..ListOptions::default()
            },
            None,
        )
    }

    #[test]
    fn columns_grow_off_a_terminal_and_share_the_line_on_one() {
        let options = ListOptions::default();
        assert_eq!(
            text(&options, None).unwrap(),
            "  ID NAME            MEM\n   0 a,\"long\" name    10\n  12 b c               9\n"
        );
        assert_eq!(
            text(&options, Some(19)).unwrap(),
            "  ID NAME       MEM\n   0 a,\"long\"    10\n  12 b c          9\n"
        );
        assert_eq!(text(&options, Some(1)).unwrap(), "  ID NAME     MEM\n   0 a,\"lon    10\n  12 b c        9\n");
    }

    #[test]
    fn letters_of_two_columns_keep_the_table_straight() {
        let pool = "<P><VM><ID>0</ID><NAME>日本語の機械</NAME><MEM>1</MEM></VM><VM><ID>1</ID><NAME>e&#x301;&#x202e;x</NAME><MEM>2</MEM></VM></P>";
        let pool = Element::parse(pool).unwrap();
        let text =
            |width| render(&pool, "VM", &COLUMNS, &["ID", "NAME", "MEM"], &ListOptions::default(), width).unwrap();
        assert_eq!(text(None), "  ID NAME           MEM\n   0 日本語の機械     1\n   1 e\u{301} x              2\n");
        assert_eq!(text(Some(18)), "  ID NAME      MEM\n   0 日本語      1\n   1 e\u{301} x         2\n");
        let shown =
            plain(&[("A", 1, true), ("B", 1, false)], &[vec!["日".into(), "1".into()], vec!["y".into(), "2".into()]]);
        assert_eq!(shown, "A  B\n日 1\ny  2\n");
    }

    #[test]
    fn widths_can_be_said() {
        let wide = ListOptions { size: vec!["mem=3".into(), "ID=2".into()], ..ListOptions::default() };
        assert_eq!(text(&wide, Some(12)).unwrap(), "ID NAME   MEM\n 0 a,\"lon  10\n12 b c      9\n");
        let whole = ListOptions { adjust: vec!["name".into()], ..ListOptions::default() };
        assert_eq!(text(&whole, Some(1)).unwrap(), text(&ListOptions::default(), None).unwrap());
        for size in ["NAME", "NAME=x", "NAME=9999", "X=1"] {
            assert!(text(&ListOptions { size: vec![size.into()], ..ListOptions::default() }, None).is_err(), "{size}");
        }
    }

    #[test]
    fn a_huge_cell_sticks_out_and_harms_no_other_line() {
        let huge = "x".repeat(100_000);
        let pool =
            Element::parse(&format!("<P><VM><ID>0</ID><NAME>{huge}</NAME></VM><VM><ID>1</ID></VM></P>")).unwrap();
        let text = render(&pool, "VM", &COLUMNS, &["NAME", "ID"], &ListOptions::default(), None).unwrap();
        let lengths: Vec<_> = text.lines().map(str::len).collect();
        assert_eq!(lengths, [GROWN_MAX + 5, 100_005, GROWN_MAX + 5]);
        let shown = plain(&[("A", 1, true), ("B", 1, false)], &[vec![huge, "1".into()], vec!["y".into(), "2".into()]]);
        assert_eq!(shown.lines().last().map(str::len), Some(GROWN_MAX + 2));
    }

    #[test]
    fn comma_separated_values_are_quoted_when_needed() {
        let options = ListOptions { csv: true, csv_del: ",".into(), ..ListOptions::default() };
        assert_eq!(text(&options, None).unwrap(), "ID,NAME,MEM\n0,\"a,\"\"long\"\" name\",10\n12,b c,9\n");
    }

    #[test]
    fn sizes_can_be_plain_numbers() {
        let plain = ListOptions { kilobytes: true, ..ListOptions::default() };
        assert_eq!((plain.mib(2), plain.kib(2)), ("2048".to_owned(), "2".to_owned()));
        let scaled = ListOptions::default();
        assert_eq!((scaled.mib(2048), scaled.kib(2048)), ("2G".to_owned(), "2M".to_owned()));
    }

    #[test]
    fn filters_compare_numbers_as_numbers() {
        assert_eq!(filtered(&["MEM>9"], "AND").unwrap(), "   0\n");
        assert_eq!(filtered(&["mem>=9", "NAME!=x"], "AND").unwrap(), "   0\n  12\n");
        assert_eq!(filtered(&["NAME~long", "ID=12"], "OR").unwrap(), "   0\n  12\n");
        assert_eq!(filtered(&["NAME~long", "ID=12"], "AND").unwrap(), "");
        assert_eq!(filtered(&["name~^b.c$"], "AND").unwrap(), "  12\n");
        let said = format!("{:#}", filtered(&["NAME~("], "AND").unwrap_err());
        assert_eq!(said, "the filter NAME~( has no regular expression: unclosed group");
        assert!(filtered(&[r"NAME~\w{9000}{9000}"], "AND").is_err());
        assert!(filtered(&["MEM"], "AND").is_err());
        assert!(filtered(&["X=1"], "AND").unwrap_err().to_string().contains("ID, NAME, MEM"));
    }
}
