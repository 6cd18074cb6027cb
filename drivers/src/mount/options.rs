//! What each type of share needs beside the administrator's options: nfs(5), mount.cifs(8), mount.ceph(8).

use std::io;

use super::{FSTAB, MountSpec};
use crate::Secret;

/// The longest text that is given to mount(8) as one argument.
const MAX_TEXT_BYTES: usize = 4096;

fn is_nfs(kind: &str) -> bool {
    matches!(kind, "nfs" | "nfs4")
}

fn is_cifs(kind: &str) -> bool {
    matches!(kind, "cifs" | "smb3")
}

/// Whether one of `names` is given, with or without a value.
fn gives(options: &[String], names: &[&str]) -> bool {
    options.iter().any(|option| names.contains(&option.split('=').next().unwrap_or_default()))
}

/// The versions to try, in this order, as options; `None` is without.
pub(super) fn versions(kind: &str, options: &[String]) -> &'static [Option<&'static str>] {
    let short =
        |option: &String| option.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let given = gives(options, &["nfsvers", "vers", "minorversion"]) || options.iter().any(short);
    if is_nfs(kind) && !given { &[Some("vers=4.2"), Some("vers=4.1"), None] } else { &[None] }
}

/// The administrator's options and ours.
pub(super) fn complete(kind: &str, options: &[String], version: Option<&str>) -> Vec<String> {
    let mut list = options.to_vec();
    list.extend(version.map(str::to_owned));
    let mut add = |unless: &[&str], option: &str| {
        if !gives(options, unless) {
            list.push(option.to_owned());
        }
    };
    if is_nfs(kind) {
        add(&["retry"], "retry=0");
    }
    if is_cifs(kind) {
        add(&["nobrl", "brl", "nolock", "lock"], "nobrl");
    }
    add(&["suid", "nosuid"], "nosuid");
    add(&["dev", "nodev"], "nodev");
    list
}

/// The option that names the file with the secrets, where there is one.
pub(super) fn credentials_option(kind: &str) -> Option<&'static str> {
    match kind {
        "cifs" | "smb3" => Some("credentials"),
        "ceph" => Some("secretfile"),
        _ => None,
    }
}

/// Writes the secrets as the type's own mount program reads them.
pub(super) fn write_credentials(kind: &str, secrets: &[(String, Secret)], mut to: impl io::Write) -> io::Result<()> {
    for (name, secret) in secrets {
        if is_cifs(kind) {
            writeln!(to, "{name}={}", secret.expose())?;
        } else {
            writeln!(to, "{}", secret.expose())?;
        }
    }
    to.flush()
}

/// What mount(8) would misread or could not take.
pub(super) fn check(spec: &MountSpec) -> Result<(), String> {
    let word = |text: &str| {
        !text.is_empty() && text.len() <= MAX_TEXT_BYTES && !text.starts_with('-') && !text.contains(char::is_control)
    };
    let kind = spec.kind.as_str();
    if !word(kind) || !kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte)) {
        return Err(format!("'{}' is no type of a file system", kind.escape_debug()));
    }
    if !word(&spec.address) {
        return Err("the share is empty, too long, begins with a dash or holds a control character".into());
    }
    if !spec.point.is_absolute() || spec.point.file_name().is_none() {
        return Err("the mount point is no absolute path below a directory".into());
    }
    let option = |text: &String| word(text) && !text.contains(',') && !text.contains(char::is_whitespace);
    if !spec.options.iter().all(option) {
        return Err("an option is empty, begins with a dash, or holds a comma, a blank or a control character".into());
    }
    if gives(&spec.options, &["bind", "rbind", "move", "remount"]) {
        return Err("an option would change another mount instead of making one".into());
    }
    if kind == FSTAB && !(spec.options.is_empty() && spec.secrets.is_empty()) {
        return Err("a share of type fstab takes no options; they stand in /etc/fstab".into());
    }
    check_secrets(spec)
}

fn check_secrets(spec: &MountSpec) -> Result<(), String> {
    let Some((first, _)) = spec.secrets.first() else { return Ok(()) };
    let kind = spec.kind.as_str();
    let taken: &[&str] = match kind {
        "cifs" | "smb3" => &["username", "password", "password2", "domain"],
        "ceph" => &["secret"],
        _ => &[],
    };
    if let Some((name, _)) = spec.secrets.iter().find(|(name, _)| !taken.contains(&name.as_str())) {
        return Err(format!("'{name}' cannot be given to {kind} shares without showing it"));
    }
    if spec.secrets.iter().any(|(_, secret)| secret.expose().contains(['\n', '\r', '\0'])) {
        return Err(format!("the '{first}' for the share holds a line break"));
    }
    if kind == "ceph" && spec.secrets.len() > 1 {
        return Err("a ceph share takes one secret".into());
    }
    if gives(&spec.options, &["credentials", "cred", "secretfile"]) {
        return Err(format!("both '{first}' and a file with credentials are given; give one of them"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<String> {
        text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn nfs_versions_fall_back_unless_one_is_given() {
        let fallback = [Some("vers=4.2"), Some("vers=4.1"), None];
        for options in ["", "ro", "version=4", "verses", "value,vx"] {
            assert_eq!(versions("nfs", &list(options)), fallback, "{options}");
        }
        for options in ["nfsvers=4", "ro,vers=3", "v4.1", "v3", "minorversion=1"] {
            assert_eq!(versions("nfs", &list(options)), [None], "{options}");
        }
        assert_eq!(versions("cifs", &[]), [None]);
    }

    #[test]
    fn each_type_gets_what_it_needs_unless_the_administrator_says_otherwise() {
        for (kind, given, expected) in [
            ("nfs", "", "vers=4.2,retry=0,nosuid,nodev"),
            ("nfs", "retry=3,soft,suid,dev", "retry=3,soft,suid,dev,vers=4.2"),
            ("cifs", "user=one", "user=one,nobrl,nosuid,nodev"),
            ("cifs", "brl,nodev", "brl,nodev,nosuid"),
            ("ext4", "loop", "loop,nosuid,nodev"),
        ] {
            let version = versions(kind, &list(given))[0];
            assert_eq!(complete(kind, &list(given), version).join(","), expected);
        }
    }

    #[test]
    fn credentials_are_written_as_their_readers_expect_them() {
        let secret = |name: &str, text: &str| (name.to_owned(), Secret::new(text.to_owned()));
        let mut file = Vec::new();
        write_credentials("cifs", &[secret("username", "one"), secret("password", "a,b c")], &mut file).unwrap();
        assert_eq!(file, b"username=one\npassword=a,b c\n");
        let mut file = Vec::new();
        write_credentials("ceph", &[secret("secret", "AQ==")], &mut file).unwrap();
        assert_eq!(file, b"AQ==\n");
    }
}
