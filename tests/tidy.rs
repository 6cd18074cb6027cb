//! The rules of the house that neither the compiler nor clippy knows: who may name what, and how long a file may get.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use system_tests::place;

/// Lines of code in a file before its tests; comments and blank lines may be as many as they need to be.
const LINES_MAX: usize = 500;

/// A path (or an external crate) and the only places that may name it.
const OWNERS: [(&[&str], &[&str]); 10] = [
    (&["diesel::", "diesel_migrations::"], &["oned/src/store"]),
    (&["virt::", "virt_sys::"], &["drivers/src/libvirt"]),
    (&["dxr::", "hyper::", "hyper_util::"], &["oned/src/rpc", "cli/src/wire"]),
    (&["rustls::", "tokio_rustls::"], &["oned/src/rpc", "oned/tests/tls.rs", "cli/src/wire"]),
    (&["aes_gcm::"], &["oned/src/secret.rs"]),
    (&["rustic_core::", "rustic_backend::"], &["drivers/src/restic"]),
    (&["clap_complete::"], &["cli/src/completion.rs"]),
    (&["clap_mangen::"], &["cli/src/man.rs"]),
    (&["quick_xml::"], &["oned/core/src", "drivers/src/libvirt", "cli/src", "tests"]),
    (&["SystemTime::now"], &["oned/src/clock.rs", "drivers/src", "cli/src", "tests"]),
];

/// A part of the tree and the paths that it must not name.
const WALLS: [(&str, &[&str]); 5] = [
    ("oned/src/store", &["crate::engine", "crate::api", "crate::rpc", "drivers::"]),
    ("oned/src/engine", &["crate::api", "crate::rpc"]),
    ("oned/src/api", &["crate::rpc", "crate::engine", "crate::scheduler", "drivers::"]),
    ("oned/src/rpc", &["crate::store", "crate::engine", "drivers::"]),
    ("oned/core/src", &["std::fs", "std::net", "std::time::Instant", "std::process", "tokio::"]),
];

fn files(ending: &str) -> Vec<(String, String)> {
    let root = place::source();
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = ["oned", "drivers", "cli", "tests", "templates", "migrations", "docs"]
        .iter()
        .map(|name| root.join(name))
        .collect();
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(ending)
                && let Ok(text) = fs::read_to_string(&path)
            {
                found.push((path.strip_prefix(&root).unwrap().to_string_lossy().into_owned(), text));
            }
        }
    }
    found.sort();
    assert!(ending.is_empty() || !found.is_empty(), "no files ending in {ending}");
    found
}

/// Whether `line` names `path` as a whole word; comments do not count.
fn names(line: &str, path: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices(path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_' || letter == ':')
    })
}

fn offences(mut rule: impl FnMut(&str, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    // This file has to name what it forbids.
    for (path, text) in files(".rs").into_iter().filter(|(path, _)| path != "tests/tidy.rs") {
        for (number, line) in text.lines().enumerate() {
            if rule(&path, line) {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn each_outside_crate_has_one_owner() {
    let found = offences(|path, line| {
        OWNERS.iter().any(|(crates, places)| {
            !places.iter().any(|place| path.starts_with(place)) && crates.iter().any(|name| names(line, name))
        })
    });
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_layer_names_one_it_must_not_know() {
    let found = offences(|path, line| {
        WALLS.iter().any(|(place, forbidden)| path.starts_with(place) && forbidden.iter().any(|name| names(line, name)))
    });
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn unsafe_code_lives_in_one_file() {
    let found = offences(|path, line| path != "drivers/src/libvirt/ffi.rs" && names(line, "unsafe "));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn files_stay_short_and_have_real_names() {
    let mut found = Vec::new();
    for (path, text) in files(".rs") {
        // Tests at the end of a file, and files of tests, may be as long as they need to be.
        let lines = text
            .lines()
            .map(str::trim)
            .take_while(|line| *line != "#[cfg(test)]")
            .filter(|line| !line.is_empty() && !line.starts_with("//"))
            .count();
        let of_tests = path.contains("/tests/") || path.ends_with("tests.rs") || path.starts_with("tests/stories");
        let generated = path == "oned/src/store/schema.rs";
        if lines > LINES_MAX && !of_tests && !generated {
            found.push(format!("{path} has {lines} lines of code without its tests"));
        }
        let name = Path::new(&path).file_stem().unwrap().to_string_lossy().into_owned();
        if ["util", "utils", "common", "helper", "helpers", "manager", "misc"].contains(&name.as_str()) {
            found.push(format!("{path} has a name that says nothing"));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_module_says_what_it_is() {
    let silent: Vec<String> = files(".rs")
        .into_iter()
        .filter(|(path, text)| !path.ends_with("tests.rs") && !text.trim_start().starts_with("//!"))
        .map(|(path, _)| path)
        .collect();
    assert!(silent.is_empty(), "without a module comment: {}", silent.join(", "));
}

#[test]
fn every_migration_can_be_undone() {
    let migrations = place::source().join("migrations");
    for entry in fs::read_dir(migrations).unwrap() {
        let dir = entry.unwrap().path();
        if dir.is_dir() {
            for name in ["up.sql", "down.sql"] {
                let text = fs::read_to_string(dir.join(name)).unwrap_or_default();
                assert!(!text.trim().is_empty(), "{} has no {name}", dir.display());
            }
        }
    }
}

#[test]
fn no_file_names_the_machine_it_was_written_on() {
    let forbidden = [concat!("/wo", "rk/"), concat!("/tmp/tar", "get"), concat!("/home", "/"), concat!("/ro", "ot/")];
    let mut found = Vec::new();
    for (path, text) in files("") {
        for (number, line) in text.lines().enumerate() {
            if forbidden.iter().any(|word| line.contains(word)) {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
