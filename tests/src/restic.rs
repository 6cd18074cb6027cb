//! Stock restic as the judge of our repositories.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::{self, LONG, Output};

/// A repository and the key to it.
#[derive(Debug, Clone)]
pub struct Repository {
    /// Its directory.
    pub path: PathBuf,
    /// Its password, passed to restic through the environment only.
    pub password: String,
}

impl Repository {
    /// Every repository below `dir`: directories that hold `config`, `keys` and `snapshots`.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn find(dir: &Path, password: &str) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        let mut open = vec![dir.to_owned()];
        while let Some(dir) = open.pop() {
            if ["config", "keys", "snapshots"].iter().all(|name| dir.join(name).exists()) {
                found.push(Self { path: dir, password: password.into() });
                continue;
            }
            for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    open.push(entry.path());
                }
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// Any restic command against the repository; whatever the outcome.
    ///
    /// # Errors
    /// When restic is missing or takes longer than five minutes.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        command::run(&mut self.command(arguments), LONG)
    }

    /// Reads and checks every byte of the repository; restic's words.
    ///
    /// # Errors
    /// When restic finds anything wrong.
    pub fn check(&self) -> Result<String> {
        self.run(&["check", "--read-data"])?.checked("restic check --read-data")
    }

    /// The snapshots, as `restic snapshots --json` gives them.
    ///
    /// # Errors
    /// When restic fails.
    pub fn snapshots(&self) -> Result<Vec<Value>> {
        let text = self.run(&["snapshots", "--json"])?.checked("restic snapshots")?;
        // "null" when there is none.
        Ok(serde_json::from_str::<Option<Vec<Value>>>(&text)?.unwrap_or_default())
    }

    /// The paths of the files in a snapshot.
    ///
    /// # Errors
    /// When restic fails.
    pub fn files(&self, snapshot: &str) -> Result<Vec<String>> {
        let text = self.run(&["ls", snapshot])?.checked("restic ls")?;
        Ok(text.lines().filter(|line| line.starts_with('/')).map(str::to_owned).collect())
    }

    /// The SHA-256 of a file in a snapshot, as restic dumps it.
    ///
    /// # Errors
    /// When restic fails.
    pub fn dump_digest(&self, snapshot: &str, file: &str) -> Result<String> {
        command::digest_of_output(&mut self.command(&["dump", snapshot, file]), LONG)
    }

    /// Writes a file of a snapshot, as restic dumps it, into a new file.
    ///
    /// # Errors
    /// When restic fails.
    pub fn dump(&self, snapshot: &str, file: &str, to: &Path) -> Result<()> {
        command::run_into(&mut self.command(&["dump", snapshot, file]), to, LONG)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut restic = Command::new("restic");
        restic
            .env_remove("RESTIC_REPOSITORY")
            .env("RESTIC_PASSWORD", &self.password)
            .args(["--no-cache", "-q", "-r"])
            .arg(&self.path)
            .args(arguments);
        restic
    }
}

/// The SHA-256 of a disk's content as a guest would read it, whatever the image's format.
///
/// # Errors
/// When qemu-img fails.
pub fn image_digest(image: &Path) -> Result<String> {
    let work = tempfile::tempdir()?;
    let raw = work.path().join("raw");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-U", "-O", "raw"]).arg(image).arg(&raw);
    command::run(&mut convert, LONG)?.checked("qemu-img convert")?;
    command::digest_of_output(Command::new("cat").arg(&raw), LONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_restic_answers_through_this_module() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/repo");
        let repository = Repository { path: path.clone(), password: "it's \"secret\"".into() };
        repository.run(&["init"]).unwrap().checked("restic init").unwrap();
        assert!(repository.snapshots().unwrap().is_empty());
        let file = dir.path().join("file");
        fs::write(&file, "abc").unwrap();
        repository.run(&["backup", &file.to_string_lossy()]).unwrap().checked("restic backup").unwrap();
        repository.check().unwrap();
        let snapshots = repository.snapshots().unwrap();
        let id = snapshots[0]["short_id"].as_str().unwrap();
        let name = file.to_string_lossy();
        assert!(repository.files(id).unwrap().contains(&name.to_string()));
        let digest = repository.dump_digest(id, &name).unwrap();
        assert!(digest.starts_with("ba7816bf"), "{digest}");
        assert_eq!(Repository::find(dir.path(), "x").unwrap()[0].path, path);
    }
}
