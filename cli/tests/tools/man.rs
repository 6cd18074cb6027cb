//! Man pages, judged by those who read them: man(1), groff and mandoc.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::door::{Door, Ran};

/// The pages in a directory of the home.
fn pages(door: &Door) -> Vec<PathBuf> {
    let directory = door.home().join("man1");
    std::fs::create_dir(&directory).unwrap();
    assert_eq!(door.run("keeplast", &["man", "man1"]).good(), "");
    let mut pages: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    assert_eq!(pages.len(), cli::tools::TOOLS.len() + 1, "{pages:?}");
    pages
}

fn judged(package: &str, program: &str, arguments: &[&str], page: &Path) -> Ran {
    let mut command = Command::new(program);
    command.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8").args(arguments).arg(page).stdin(Stdio::null());
    Ran::of(command.output().unwrap_or_else(|error| panic!("{program}: {error}; apt-get install {package}")))
}

#[test]
fn man_groff_and_mandoc_find_nothing_wrong_with_the_pages() {
    let door = Door::open();
    for page in pages(&door) {
        let text = judged("man-db", "man", &["--warnings", "-l", "-P", "cat"], &page).good();
        for section in ["NAME", "SYNOPSIS", "EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO"] {
            assert!(text.lines().any(|line| line == section), "{section} is not in {}", page.display());
        }
        judged("groff-base", "groff", &["-ww", "-man", "-Tutf8", "-k", "-z"], &page).good();
        let told = judged("mandoc", "mandoc", &["-T", "lint"], &page);
        assert_eq!((told.out.as_str(), told.err.as_str()), ("", ""), "{}", page.display());
    }
}

#[test]
fn pages_go_nowhere_but_into_a_directory_that_is_there() {
    let door = Door::open();
    let told = door.run("keeplast", &["man", "absent"]).bad();
    assert!(told.contains("absent/keeplast.1 cannot be written; make the directory first"), "{told}");
    assert_eq!(std::fs::read_dir(door.home()).unwrap().count(), 1);
}
