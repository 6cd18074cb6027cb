//! How the spare width of a terminal is shared out when `--expand` or `--no-expand` says so.

use anyhow::{Result, bail};

use super::{Column, Fit, ListOptions};

/// Marks the columns that the options name; without an option everything stays as it is.
///
/// # Errors
/// A column that there is not, a share that is none.
pub fn apply<'a>(
    shown: &mut [Column],
    options: &ListOptions,
    find: &impl Fn(&str) -> Result<&'a Column>,
) -> Result<()> {
    let wishes = options.expand.as_deref();
    if wishes.is_none() && !options.no_expand {
        return Ok(());
    }
    shown.iter_mut().filter(|column| column.fit == Fit::Share).for_each(|column| column.fit = Fit::Content);
    let Some(wishes) = wishes else { return Ok(()) };
    if wishes.is_empty() {
        let all: usize = shown.iter().map(|column| column.width).sum();
        shown.iter_mut().for_each(|column| column.fit = Fit::Fill(thousandths(column.width, all)));
        return Ok(());
    }
    let mut named = Vec::new();
    for wish in wishes {
        let (name, share) = wish.split_once('=').map_or((wish.as_str(), None), |(name, share)| (name, Some(share)));
        let share = share.map(|text| (text, text.trim().parse::<f64>()));
        let share = match share {
            None => None,
            Some((_, Ok(share))) if (0.0..=1.0).contains(&share) => Some((share * 1000.0) as u32),
            Some((text, _)) => bail!("--expand {wish}: {text} is no share of the line: write for instance NAME=0.4"),
        };
        named.push((find(name)?.name, share));
    }
    let is_named = |column: &Column| named.iter().find(|(name, _)| *name == column.name).copied();
    let all: usize = shown.iter().filter(|column| is_named(column).is_some()).map(|column| column.width).sum();
    for column in &mut *shown {
        if let Some((_, share)) = is_named(column) {
            column.fit = Fit::Fill(share.unwrap_or_else(|| thousandths(column.width, all)));
        }
    }
    Ok(())
}

fn thousandths(width: usize, all: usize) -> u32 {
    u32::try_from(width.saturating_mul(1000) / all.max(1)).unwrap_or(u32::MAX)
}

/// Gives the columns that fill their shares of the spare width, the last of them what is left of it; answers how much went.
#[must_use]
pub fn fill(columns: &[Column], widths: &mut [usize], spare: usize) -> usize {
    let mut left = spare;
    let mut last = None;
    for (column, width) in columns.iter().zip(widths.iter_mut()) {
        if let Fit::Fill(share) = column.fit {
            let growth = (spare.saturating_mul(share as usize) / 1000).min(left);
            *width += growth;
            left -= growth;
            last = Some(width);
        }
    }
    match last {
        Some(width) => {
            *width += left;
            spare
        }
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column::right("ID", 4, |_, _| String::new()),
        Column::left("NAME", 6, |_, _| String::new()).fit(Fit::Share),
        Column::left("HOST", 10, |_, _| String::new()),
    ];

    fn widths(options: &ListOptions) -> Result<Vec<usize>> {
        let mut shown = COLUMNS;
        apply(&mut shown, options, &|name: &str| match COLUMNS.iter().find(|column| column.name == name) {
            Some(column) => Ok(column),
            None => bail!("there is no column {name}"),
        })?;
        let mut widths: Vec<usize> = shown.iter().map(|column| column.width).collect();
        let _ = fill(&shown, &mut widths, 20);
        Ok(widths)
    }

    fn expand(wishes: &[&str]) -> ListOptions {
        let wishes = wishes.iter().map(|wish| (*wish).to_owned()).collect();
        ListOptions { expand: Some(wishes), ..ListOptions::default() }
    }

    #[test]
    fn the_spare_width_goes_to_who_is_named_and_all_of_it() {
        assert_eq!(widths(&ListOptions::default()).unwrap(), [4, 6, 10]);
        assert_eq!(widths(&expand(&[])).unwrap(), [8, 12, 20]);
        assert_eq!(widths(&expand(&["NAME"])).unwrap(), [4, 26, 10]);
        assert_eq!(widths(&expand(&["NAME=0.25", "HOST=0.5"])).unwrap(), [4, 11, 25]);
        assert_eq!(widths(&expand(&["NAME=1", "HOST=1"])).unwrap(), [4, 26, 10]);
        for wrong in ["NAME=much", "NAME=2", "NAME=nan", "X"] {
            assert!(widths(&expand(&[wrong])).is_err(), "{wrong}");
        }
    }
}
