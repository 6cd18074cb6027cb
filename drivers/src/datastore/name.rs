//! The name of a series: what it may be, its parts, and how a driver makes the name of a file or folder of it.
//!
//! Invariant: nothing else becomes part of a path. The file name of a member of a group holds a `+`, which no part of a
//! series' name may hold. So it is never that of a series without a group, nor that of anything else of a driver's.

use crate::{DriverError, Kind, Result};

/// Longest part, bytes.
const PART_MAX: usize = 100;
/// Stands for the slash in file names.
const JOINT: char = '+';

/// The name of a series, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeriesName<'a> {
    /// The group it belongs to: what comes before the slash.
    pub group: Option<&'a str>,
    /// Its name in the group, or without one.
    pub name: &'a str,
}

impl<'a> SeriesName<'a> {
    /// Reads `NAME` or `GROUP/NAME`, each 1 to 100 letters, digits, `_`, `-` or `.`, not beginning with `.`.
    ///
    /// # Errors
    /// [`Kind::Permanent`] for anything else.
    pub fn parse(series: &'a str) -> Result<Self> {
        let (group, name) = series.split_once('/').map_or((None, series), |(group, name)| (Some(group), name));
        if is_part(name) && group.is_none_or(is_part) {
            return Ok(Self { group, name });
        }
        Err(DriverError::new(
            Kind::Permanent,
            "naming a series",
            "its name must be NAME or GROUP/NAME, each 1 to 100 letters, digits, `_`, `-` or `.`, not beginning with `.`",
        ))
    }

    /// A file name that no other series has, at most 201 bytes: `7`, `job-3+7`.
    #[must_use]
    pub fn file_name(&self) -> String {
        self.group.map_or_else(|| self.name.to_owned(), |group| format!("{}{}", group_folder(group), self.name))
    }

    /// The series that a [`Self::file_name`] is of; none for what is none.
    #[must_use]
    pub fn of_file_name(file: &str) -> Option<String> {
        let series = if file.contains('/') { return None } else { file.replacen(JOINT, "/", 1) };
        SeriesName::parse(&series).is_ok().then_some(series)
    }
}

/// The name of a folder for all members of a group, for drivers that keep something in common: `job-3+`. No series' file
/// name is like it.
pub(crate) fn group_folder(group: &str) -> String {
    format!("{group}{JOINT}")
}

/// The group that a [`group_folder`] is of.
pub(crate) fn group_of_folder(folder: &str) -> Option<&str> {
    folder.strip_suffix(JOINT).filter(|group| is_part(group))
}

fn is_part(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=PART_MAX).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_has_a_group_or_none() {
        assert_eq!(SeriesName::parse("7").unwrap(), SeriesName { group: None, name: "7" });
        assert_eq!(SeriesName::parse("job-3/7").unwrap(), SeriesName { group: Some("job-3"), name: "7" });
        let (long, longer) = ("x".repeat(100), "x".repeat(101));
        SeriesName::parse(&format!("{long}/{long}")).unwrap();
        for name in
            ["", "/", "/7", "a/", "a//b", "a/b/c", "..", "../a", "a/..", ".a/b", "a/.b", "a+b", "a/b+", "ä/b", "a/b\n"]
                .into_iter()
                .chain([longer.as_str(), &format!("a/{longer}"), &format!("{longer}/a")])
        {
            assert_eq!(SeriesName::parse(name).unwrap_err().kind, Kind::Permanent, "{name:?}");
        }
    }

    #[test]
    fn a_file_name_tells_its_series_and_a_groups_folder_is_none() {
        assert_eq!(SeriesName::parse("job-3/7").unwrap().file_name(), "job-3+7");
        assert_eq!(SeriesName::of_file_name("job-3+7").as_deref(), Some("job-3/7"));
        for file in ["job-3/7", "job-3+", "+7", "a+b+c", ".lease", ".new-7", "", "switch.json.part~"] {
            assert_eq!(SeriesName::of_file_name(file), None, "{file:?}");
        }
        assert_eq!(group_of_folder(&group_folder("job-3")), Some("job-3"));
        assert_eq!((group_of_folder("job-3"), group_of_folder("+"), group_of_folder("a+b+")), (None, None, None));
    }

    proptest! {
        #[test]
        fn no_two_series_have_one_file_name(one in "[a-z.+/_-]{0,8}", other in "[a-z.+/_-]{0,8}") {
            let file = |series: &str| SeriesName::parse(series).ok().map(|name| name.file_name());
            if let Some(file_name) = file(&one) {
                prop_assert!(!file_name.contains('/') && !file_name.starts_with('.'));
                prop_assert_eq!(SeriesName::of_file_name(&file_name), Some(one.clone()));
                prop_assert!(one == other || file(&other) != Some(file_name));
            }
        }
    }
}
