//! Template text from a file, from standard input or from an editor.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::terminal;

/// The grammar's own limit.
const BYTES_MAX: u64 = 16 << 20;

/// The text of `file` (`-` is standard input), or of standard input when it is no terminal. None when neither is there.
///
/// # Errors
/// When it cannot be read, is not UTF-8 or is larger than 16 MiB.
pub fn read(file: Option<&Path>) -> Result<Option<String>> {
    match file {
        Some(file) if file != Path::new("-") => {
            let handle = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
            bounded(handle, &file.display().to_string()).map(Some)
        }
        None if std::io::stdin().is_terminal() => Ok(None),
        _ => {
            let text = bounded(std::io::stdin().lock(), "standard input")?;
            // An empty pipe is a mistake far more often than the wish for an empty template.
            if file.is_none() && text.trim().is_empty() {
                bail!("standard input is empty: name a file, or pipe the template in");
            }
            Ok(Some(text))
        }
    }
}

/// As [`read`], for verbs without an editor.
///
/// # Errors
/// As [`read`], and when there is neither file nor pipe.
pub fn read_required(file: Option<&Path>) -> Result<String> {
    read(file)?.context("name a template file, or pipe the template in")
}

/// As [`read`], for verbs that can be told by options, too: with neither file nor anything in a pipe it says `missing`.
///
/// # Errors
/// As [`read`], and `missing`.
pub fn read_or(file: Option<&Path>, missing: &str) -> Result<String> {
    if file.is_none() && !terminal::something_is_piped_in() {
        bail!("{missing}");
    }
    read_required(file)
}

fn bounded(reader: impl std::io::Read, name: &str) -> Result<String> {
    let mut text = String::new();
    reader.take(BYTES_MAX + 1).read_to_string(&mut text).with_context(|| format!("cannot read {name}"))?;
    if text.len() as u64 > BYTES_MAX {
        bail!("{name} is larger than 16 MiB, the limit for a template");
    }
    Ok(text)
}

/// Lets the user edit `text`, then hands it to `send`; a text that comes back as it was is not sent. The file stays when
/// the editor or `send` fails, so that no typing is lost; the error names it.
///
/// # Errors
/// When the editor cannot be started or fails, when the text comes back empty, and what `send` says.
pub fn edit(text: &str, send: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    let file = private_file(text)?;
    let kept = || format!("nothing was changed, your text is kept in {}", file.display());
    let ended = run_editor(&file);
    let read =
        || bounded(File::open(&file).with_context(|| format!("cannot read {}", file.display()))?, "the edited text");
    let edited = match (ended, read()) {
        // Nothing was typed that could be lost.
        (Err(error), Ok(edited)) if edited == text => {
            let _ = std::fs::remove_file(&file);
            return Err(error.context("nothing was changed"));
        }
        (Err(error), _) => return Err(error.context(kept())),
        (Ok(()), edited) => edited.with_context(kept)?,
    };
    if edited == text {
        let _ = std::fs::remove_file(&file);
        terminal::complain("the text is as it was: nothing was changed");
        return Ok(());
    }
    if edited.trim().is_empty() {
        let _ = std::fs::remove_file(&file);
        bail!("the text came back empty: nothing was changed");
    }
    match send(&edited) {
        Ok(()) => {
            let _ = std::fs::remove_file(&file);
            Ok(())
        }
        Err(error) => Err(error.context(format!("not changed, your text is kept in {}", file.display()))),
    }
}

/// A new file that only we can read: templates hold passwords.
fn private_file(text: &str) -> Result<PathBuf> {
    let stamp = chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default();
    let path = std::env::temp_dir().join(format!("one-template-{}-{stamp}.txt", std::process::id()));
    let write = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?.write_all(text.as_bytes());
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// VISUAL, EDITOR or vi; the variable may hold options (`code -w`), there is no shell in between.
fn run_editor(file: &Path) -> Result<()> {
    let named = |name| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
    let editor = named("VISUAL").or_else(|| named("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    let mut words = editor.split_whitespace();
    let program = words.next().context("EDITOR is empty")?;
    let status = Command::new(program).args(words).arg(file).status();
    let status = status.with_context(|| format!("cannot start the editor {program}; set EDITOR, or name a file"))?;
    if !status.success() {
        bail!("the editor {program} failed ({status})");
    }
    Ok(())
}
