//! The commands against a live daemon of dummy drivers: each session on terminals of 80 and 200 columns and through a
//! pipe, its transcripts compared with golden files. `README.md` here says how to add one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use system_tests::command::{ORDINARY, run};
use system_tests::screen::Screen;
use system_tests::{place, session};

const SCREENS: [Screen; 3] = [Screen::Terminal(80), Screen::Terminal(200), Screen::Pipe];

macro_rules! sessions {
    ($($name:ident)*) => {
        const LISTED: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { prove(stringify!($name)); })*
    };
}

include!("list.in");

fn folder(name: &str) -> PathBuf {
    place::source().join("tests/commands").join(name)
}

/// Plays a session on all screens at once, each with a daemon of its own.
fn prove(name: &str) {
    let faults: Vec<String> = std::thread::scope(|scope| {
        let runs = SCREENS.map(|screen| scope.spawn(move || on(name, screen)));
        runs.into_iter().filter_map(|run| run.join().unwrap().err()).collect()
    });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn on(name: &str, screen: Screen) -> Result<(), String> {
    let transcript = session::play(&folder("sessions").join(format!("{name}.txt")), screen);
    let transcript = transcript.map_err(|error| format!("{name} ({}): {error:#}", screen.name()))?;
    let golden = folder("golden").join(format!("{name}.{}.txt", screen.name()));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, transcript).unwrap();
        return Ok(());
    }
    let write = format!("UPDATE_GOLDEN=1 cargo test -p system-tests --test commands {name}");
    if !golden.exists() {
        return Err(format!("there is no {}; write it, and read it, with:\n  {write}", golden.display()));
    }
    if fs::read_to_string(&golden).unwrap() == transcript {
        return Ok(());
    }
    Err(format!("{name} ({}) is not as in its golden file; if that is meant:\n  {write}\n{}", screen.name(), {
        difference(&golden, &transcript)
    }))
}

fn difference(golden: &Path, transcript: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), transcript).unwrap();
    run(Command::new("diff").arg("-u").args([golden, file.path()]), ORDINARY).unwrap().stdout
}

#[test]
fn every_session_is_in_the_list_and_every_golden_file_has_a_session() {
    let listed: BTreeSet<String> = LISTED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(listed.len(), LISTED.len(), "a session is twice in list.in");
    let stems = |dir: &str| -> BTreeSet<String> {
        let files = fs::read_dir(folder(dir)).unwrap().map(|entry| entry.unwrap().file_name());
        files.map(|name| name.to_string_lossy().split('.').next().unwrap().to_owned()).collect()
    };
    assert_eq!(stems("sessions"), listed, "the files in sessions/, and those in list.in");
    assert!(stems("golden").is_subset(&listed), "golden files without a session: {:?}", stems("golden"));
}
