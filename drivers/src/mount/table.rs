//! The kernel's table of mounts: what is mounted at a point. It is a text in /proc, so nothing here can wait for a server,
//! which a stat() of the point could.
//!
//! Format: proc_pid_mountinfo(5). Texts in it are bytes with blanks and backslashes written as three octal digits.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::{DriverError, Result};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    id: u64,
    parent: u64,
    point: PathBuf,
    /// The kernel's type, e.g. `nfs4`, `fuse.sshfs`.
    pub(super) kind: String,
    /// What the file system calls its source; for a loop device the file behind it.
    pub(super) source: OsString,
}

impl fmt::Display for Mounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.source.to_string_lossy(), self.kind)
    }
}

/// The uppermost mount at `point`, which must be free of symbolic links.
pub(super) fn at(point: &Path) -> Result<Option<Mounted>> {
    let table = std::fs::read("/proc/self/mountinfo")
        .map_err(|error| DriverError::io("reading the table of mounts (/proc/self/mountinfo)", error))?;
    Ok(top(&table, point).map(|mut found| {
        if let Some(file) = behind_loop(&found.source) {
            found.source = file;
        }
        found
    }))
}

/// Mounts at one point lie on each other: the uppermost is nobody's parent.
fn top(table: &[u8], point: &Path) -> Option<Mounted> {
    let here: Vec<Mounted> =
        table.split(|byte| *byte == b'\n').filter_map(entry).filter(|m| m.point == point).collect();
    let covered = |mount: &Mounted| here.iter().any(|other| other.parent == mount.id);
    here.iter().rev().find(|mount| !covered(mount)).cloned()
}

fn entry(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let point = decoded(fields.nth(2)?);
    // Any number of optional fields, then a dash.
    fields.find(|field| *field == b"-")?;
    let kind = decoded(fields.next()?).to_string_lossy().into_owned();
    let source = decoded(fields.next()?);
    Some(Mounted { id, parent, point: point.into(), kind, source })
}

/// `\040` and its like as the bytes that they stand for.
fn decoded(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let escape = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let value =
            escape.filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit))).and_then(|digits| {
                let value = digits.iter().fold(0_u16, |value, digit| value * 8 + u16::from(digit - b'0'));
                u8::try_from(value).ok()
            });
        bytes.push(value.unwrap_or(*first));
        rest = tail.get(if value.is_some() { 3 } else { 0 }..).unwrap_or_default();
    }
    OsString::from_vec(bytes)
}

/// The file behind `/dev/loopN`; its number alone says nothing about what is mounted.
fn behind_loop(source: &OsString) -> Option<OsString> {
    let name = Path::new(source).strip_prefix("/dev").ok()?.to_str()?;
    name.strip_prefix("loop")?.parse::<u32>().ok()?;
    let text = std::fs::read(format!("/sys/block/{name}/loop/backing_file")).ok()?;
    Some(OsString::from_vec(text.strip_suffix(b"\n").unwrap_or(&text).to_vec()))
}

/// Whether two names of a source are the same, but for slashes at the end (the NFS client drops them).
pub(super) fn same_source(one: &[u8], other: &[u8]) -> bool {
    let trimmed = |text: &[u8]| {
        let length = text.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        text.get(..length).unwrap_or_default().to_vec()
    };
    trimmed(one) == trimmed(other)
}

/// Whether a mount of type `asked` shows up as `found`: `nfs` as `nfs4`, `cifs` as `smb3`, `glusterfs` as
/// `fuse.glusterfs`, `ntfs-3g` as `fuseblk`.
pub(super) fn same_kind(asked: &str, found: &str) -> bool {
    let family = |kind: &str| match kind {
        "nfs4" => "nfs".to_owned(),
        "smb3" => "cifs".to_owned(),
        other => other.strip_prefix("fuse.").unwrap_or(other).to_owned(),
    };
    matches!(asked, "auto" | super::FSTAB)
        || family(asked) == family(found)
        || found == "fuseblk"
        || (asked == "fuse" && found.starts_with("fuse."))
}

/// `point` with the symbolic links of the directories above it resolved; `None` while they do not exist. The last part is
/// not looked at: a server that is gone may be behind it.
pub(super) fn resolved(point: &Path) -> Result<Option<PathBuf>> {
    let doing = || format!("looking up the mount point {}", point.display());
    let (Some(above), Some(name)) = (point.parent(), point.file_name()) else {
        return Err(DriverError::new(crate::Kind::Permanent, doing(), "it is no absolute path below a directory"));
    };
    match above.canonicalize() {
        Ok(above) => Ok(Some(above.join(name))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DriverError::io(doing(), error)),
    }
}

/// As bytes, for [`same_source`].
pub(super) fn bytes(text: &OsString) -> &[u8] {
    text.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        40 22 0:50 / /srv/a\\040b rw - nfs4 nas:/share\\134x rw,vers=4.2\n\
        41 22 0:51 / /srv/twice rw master:1 propagate_from:2 - nfs old:/x rw\n\
        39 41 0:52 / /srv/twice rw - fuse.sshfs me@new:/y rw\n\
        nonsense\n\n17\n";

    #[test]
    fn points_are_decoded_and_of_two_the_upper_one_counts() {
        let found = top(TABLE, Path::new("/srv/a b")).unwrap();
        assert_eq!((found.kind.as_str(), found.source.to_str()), ("nfs4", Some("nas:/share\\x")));
        // The upper one has the lower number: ids are used again.
        assert_eq!(top(TABLE, Path::new("/srv/twice")).unwrap().to_string(), "me@new:/y (fuse.sshfs)");
        assert_eq!(top(TABLE, Path::new("/srv")), None);
        assert_eq!(decoded(b"a\\04"), OsString::from("a\\04"));
        assert_eq!(decoded(b"\\999\\777\\"), OsString::from("\\999\\777\\"));
    }

    #[test]
    fn sources_and_types_are_compared_as_the_kernel_shows_them() {
        assert!(same_source(b"nas:/share/", b"nas:/share"));
        assert!(same_source(b"nas:/", b"nas:/"));
        assert!(!same_source(b"nas:/share", b"nas:/share2"));
        assert!(same_kind("nfs", "nfs4") && same_kind("cifs", "smb3") && same_kind("glusterfs", "fuse.glusterfs"));
        assert!(same_kind("fuse.sshfs", "fuse.sshfs") && same_kind("ntfs-3g", "fuseblk") && same_kind("fstab", "xfs"));
        assert!(!same_kind("nfs", "ext4") && !same_kind("fuse.sshfs", "fuse.rclone"));
    }
}
