//! The links that give the one binary its many names.
//!
//! A link is made beside its place and renamed into it: a name that worked works at every moment, also while two of these
//! run at once. What is not ours is not replaced unless that was asked for.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::tools::TOOLS;

/// Lays down a link per tool in `directory`; all of them or, when one name is taken by something else, none.
///
/// # Errors
/// When `directory` is no directory, a name in it is taken and `force` is not given, or it cannot be written.
pub fn install(directory: &Path, force: bool) -> Result<()> {
    let program = std::env::current_exe().context("finding the path of this program")?;
    let directory = directory.canonicalize().with_context(|| {
        format!("the links cannot be made in {}; make the directory first, or name another", directory.display())
    })?;
    if !directory.is_dir() {
        bail!("the links cannot be made in {}: it is no directory", directory.display());
    }
    let target = relative(&program, &directory);
    let places: Vec<PathBuf> = TOOLS.iter().map(|tool| directory.join(tool.name)).collect();
    if !force {
        places.iter().try_for_each(|place| must_be_ours(place, &program))?;
    }
    places.iter().try_for_each(|place| link(&target, place))
}

/// Beside the program the name alone does, so that the folder can be moved.
fn relative(program: &Path, directory: &Path) -> PathBuf {
    match (program.parent(), program.file_name()) {
        (Some(parent), Some(name)) if parent == directory => name.into(),
        _ => program.to_owned(),
    }
}

/// Free, or a link to a program of this one's name, wherever it lies and whether it is there or not.
fn must_be_ours(place: &Path, program: &Path) -> Result<()> {
    let Ok(found) = fs::symlink_metadata(place) else { return Ok(()) };
    let ours = found.is_symlink() && fs::read_link(place).is_ok_and(|target| target.file_name() == program.file_name());
    if !ours {
        bail!(
            "{} is there already and is no link to {}: name another directory, or say --force to replace it",
            place.display(),
            program.display()
        );
    }
    Ok(())
}

fn link(target: &Path, place: &Path) -> Result<()> {
    let fresh = place.with_extension(format!("new-{}", std::process::id()));
    let made = match symlink(target, &fresh) {
        // Left by a run that was killed, whose process number we have got.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::remove_file(&fresh).and_then(|()| symlink(target, &fresh))
        }
        other => other,
    };
    made.and_then(|()| fs::rename(&fresh, place)).with_context(|| {
        let _ = fs::remove_file(&fresh);
        format!("the link {} cannot be made", place.display())
    })
}
