//! Secret attributes at rest: sealed with AES-256-GCM before they reach the database, opened when a driver needs them.
//!
//! A sealed value is the text `enc:v1:` and, in base64 without padding, a random nonce of 12 bytes, the ciphertext and a
//! tag of 16 bytes. The kind of the object and the attribute's path are authenticated with it, so a value opens only in
//! the place that it was sealed for. Which attributes are secret says the configuration (`…_ENCRYPTED_ATTR`).
//!
//! The key is 32 random bytes in the file `one_key` of the state directory, mode 0600, made at the first start.
//!
//! What it is not: it protects a copy of the database, not a machine whose state directory can be read. It asks for no
//! right; the api decides who sees what.
//!
//! Invariants: neither key nor clear text is part of an error or of `Debug`; what a client sends is never taken for sealed,
//! however it looks; an empty value stays empty; a key file is never overwritten.

use crate::config::AttributeList;
use crate::instance::{sync_folder_of, write_part};
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use one_core::refusal::ObjectKind;
use one_core::template::{Attribute, Template, Value, Vector};
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The name of the key file in the state directory.
pub const KEY_FILE: &str = "one_key";

/// How a sealed value begins.
pub const MARK: &str = "enc:v1:";
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// Why something cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Something with the key file did not work.
    #[error("Cannot {doing} the key file {}: {source}", path.display())]
    File {
        /// As in "write".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What stood in the way.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} is not a key: it must hold {KEY_BYTES} bytes, made by oned. Put the right file there.", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// Others than the owner have rights on the file.
    #[error(
        "The key file {0} has mode {mode:03o}, so others may use it. Run: chmod 600 {0}",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is no key, but there are values sealed with it.
    #[error(
        "The key file {} is missing, but the database holds encrypted values ({attribute}). Put back the key that belongs to this database; without it they are lost.",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// One of the values: `DATASTORE RESTIC_PASSWORD`.
        attribute: String,
    },
    /// A value was sealed with another key, for another place, or was changed.
    #[error(
        "The encrypted value of {attribute} cannot be opened with the key of this daemon: {KEY_FILE} belongs to another database, or the value was changed. Put the right key file back, or set the attribute again."
    )]
    Foreign {
        /// The attribute: `DATASTORE RESTIC_PASSWORD`.
        attribute: String,
    },
    /// The system gives no random numbers.
    #[error("The system gives no random numbers: {0}")]
    Random(String),
}

/// The key of this daemon; shows itself as stars only.
pub struct SecretKey {
    cipher: Aes256Gcm,
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(***)")
    }
}

impl SecretKey {
    fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        Self { cipher: Aes256Gcm::new(&Key::<Aes256Gcm>::from(*bytes)) }
    }

    /// The key in the file; `None` when there is no such file.
    ///
    /// # Errors
    /// When the file cannot be read, is no key, or others may use it.
    pub fn load(path: &Path) -> Result<Option<Self>, SecretError> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_error("read", path)(error)),
        };
        let mode = file.metadata().map_err(file_error("read", path))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SecretError::Exposed { path: path.to_owned(), mode });
        }
        // One byte more, to notice a longer file.
        let mut bytes = Zeroizing::new([0; KEY_BYTES + 1]);
        let mut length = 0;
        while let Some(rest) = bytes.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match file.read(rest) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(file_error("read", path)(error)),
            }
        }
        match bytes.first_chunk() {
            Some(key) if length == KEY_BYTES => Ok(Some(Self::new(key))),
            _ => Err(SecretError::NoKey { path: path.to_owned() }),
        }
    }

    /// The key in the file, which is made with a new random key if it is missing.
    ///
    /// # Errors
    /// As [`Self::load`], and when the file cannot be made.
    pub fn load_or_create(path: &Path) -> Result<Self, SecretError> {
        if let Some(key) = Self::load(path)? {
            return Ok(key);
        }
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        random(&mut *bytes)?;
        make(path, &*bytes).map_err(file_error("make", path))?;
        Ok(Self::new(&bytes))
    }

    /// As [`Self::load_or_create`], for a daemon that starts on a database: `stored` are the templates that it holds and
    /// the list of secret attributes of each. A key is made only for a database without sealed values.
    ///
    /// # Errors
    /// As [`Self::load_or_create`]; [`SecretError::Missing`] without a key for sealed values, [`SecretError::Foreign`]
    /// with a key that does not open them all.
    pub fn for_database<'l>(
        path: &Path,
        stored: impl IntoIterator<Item = (ObjectKind, Template, &'l AttributeList)>,
    ) -> Result<Self, SecretError> {
        let mut key = Self::load(path)?;
        for (kind, template, list) in stored {
            match &key {
                Some(key) => drop(key.open(kind, &template, list)?),
                None => {
                    if let Some(attribute) = first_sealed(kind, &template, list) {
                        return Err(SecretError::Missing { path: path.to_owned(), attribute });
                    }
                }
            }
        }
        match key.take() {
            Some(key) => Ok(key),
            None => Self::load_or_create(path),
        }
    }

    /// Seals the listed attributes of a template from the database. Values that are sealed with this key already stay
    /// byte for byte.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn seal(&self, kind: ObjectKind, stored: &Template, list: &AttributeList) -> Result<Template, SecretError> {
        each(stored, list, |path, value| {
            if self.open_value(kind, path, value).is_some() { Ok(None) } else { self.seal_value(kind, path, value) }
        })
    }

    /// Seals the listed attributes of a template that a client sent. Whatever it looks like, a value is plain text, but
    /// for one: the sealed value that the same attribute has in `old`, the object's stored template, stays. So a client
    /// that sends back what it was shown changes nothing, and one that learnt a sealed value of another object gets
    /// nothing for it.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn seal_sent(
        &self,
        kind: ObjectKind,
        sent: &Template,
        old: Option<&Template>,
        list: &AttributeList,
    ) -> Result<Template, SecretError> {
        let mut kept = HashSet::new();
        if let Some(old) = old {
            each(old, list, |path, value| {
                if self.open_value(kind, path, value).is_some() {
                    kept.insert((path.to_owned(), value.to_owned()));
                }
                Ok(None)
            })?;
        }
        each(sent, list, |path, value| {
            if !kept.is_empty() && kept.contains(&(path.to_owned(), value.to_owned())) {
                return Ok(None);
            }
            self.seal_value(kind, path, value)
        })
    }

    /// The template with the listed attributes in clear text. Values that were never sealed stay as they are.
    ///
    /// # Errors
    /// [`SecretError::Foreign`] naming the first attribute that does not open.
    pub fn open(&self, kind: ObjectKind, stored: &Template, list: &AttributeList) -> Result<Template, SecretError> {
        each(stored, list, |path, value| match self.open_value(kind, path, value) {
            Some(clear) => Ok(Some(clear)),
            None if is_sealed(value) => Err(SecretError::Foreign { attribute: named(kind, path) }),
            None => Ok(None),
        })
    }

    fn seal_value(&self, kind: ObjectKind, path: &str, clear: &str) -> Result<Option<String>, SecretError> {
        if clear.is_empty() {
            return Ok(None);
        }
        let mut nonce = [0; NONCE_BYTES];
        random(&mut nonce)?;
        let aad = named(kind, path);
        let payload = Payload { msg: clear.as_bytes(), aad: aad.as_bytes() };
        // Fails only above 64 GiB, and templates are far smaller.
        let sealed = self
            .cipher
            .encrypt(&Nonce::from(nonce), payload)
            .map_err(|_| SecretError::Random("the value is too long".to_owned()))?;
        let mut bytes = nonce.to_vec();
        bytes.extend_from_slice(&sealed);
        Ok(Some(format!("{MARK}{}", STANDARD_NO_PAD.encode(bytes))))
    }

    fn open_value(&self, kind: ObjectKind, path: &str, value: &str) -> Option<String> {
        let bytes = sealed_bytes(value)?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_BYTES>()?;
        let aad = named(kind, path);
        let payload = Payload { msg: sealed, aad: aad.as_bytes() };
        let clear = self.cipher.decrypt(&Nonce::from(*nonce), payload).ok()?;
        String::from_utf8(clear).ok()
    }
}

/// Whether a stored value has the form of a sealed one.
#[must_use]
pub fn is_sealed(value: &str) -> bool {
    sealed_bytes(value).is_some()
}

fn sealed_bytes(value: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD_NO_PAD.decode(value.strip_prefix(MARK)?).ok()?;
    (bytes.len() > NONCE_BYTES + TAG_BYTES).then_some(bytes)
}

/// What is authenticated with a value, and what errors say: `DATASTORE RESTIC_PASSWORD`, `VM CONTEXT/PASSWORD`. Part of
/// the stored form: never change it.
fn named(kind: ObjectKind, path: &str) -> String {
    format!("{} {path}", kind.acl_name())
}

fn first_sealed(kind: ObjectKind, template: &Template, list: &AttributeList) -> Option<String> {
    let mut found = None;
    // The closure never fails.
    let _ = each(template, list, |path, value| {
        if found.is_none() && is_sealed(value) {
            found = Some(named(kind, path));
        }
        Ok(None)
    });
    found
}

/// The template with `change` made to each listed value; the closure gets `NAME` or `NAME/KEY` and the value, and gives the
/// new value or `None` to keep it.
fn each(
    template: &Template,
    list: &AttributeList,
    mut change: impl FnMut(&str, &str) -> Result<Option<String>, SecretError>,
) -> Result<Template, SecretError> {
    let mut changed = Template::new();
    for Attribute { name, value } in template.attributes() {
        match value {
            Value::Scalar(text) => {
                let new = if list.holds(name, None) { change(name, text)? } else { None };
                changed.push(name, new.unwrap_or_else(|| text.clone()));
            }
            Value::Vector(vector) => {
                let mut pairs = Vector::new();
                for (key, text) in vector.iter() {
                    let listed = list.holds(name, Some(key));
                    let new = if listed { change(&format!("{name}/{key}"), text)? } else { None };
                    pairs.set(key, new.unwrap_or_else(|| text.to_owned()));
                }
                changed.push_vector(name, pairs);
            }
        }
    }
    Ok(changed)
}

fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SecretError {
    let path = path.to_owned();
    move |source| SecretError::File { doing, path, source }
}

fn random(bytes: &mut [u8]) -> Result<(), SecretError> {
    getrandom::fill(bytes).map_err(|error| SecretError::Random(error.to_string()))
}

/// Makes the file with mode 0600, whole or not at all, also after a power loss; one that is there stays.
fn make(path: &Path, content: &[u8]) -> io::Result<()> {
    let part = write_part(path, content)?;
    // A link, and no rename, since that would overwrite.
    std::fs::hard_link(&part, path)?;
    std::fs::remove_file(&part)?;
    sync_folder_of(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DATASTORE: ObjectKind = ObjectKind::Datastore;

    fn list() -> AttributeList {
        ["RESTIC_PASSWORD", "CONTEXT/PASSWORD", "S3"].into_iter().collect()
    }

    fn template(text: &str) -> Template {
        Template::parse(text).unwrap()
    }

    fn key() -> SecretKey {
        SecretKey::new(&[7; KEY_BYTES])
    }

    #[test]
    fn listed_attributes_are_sealed_and_opened_and_all_else_stays() {
        let text =
            "NAME=a\nRESTIC_PASSWORD=\"correct horse\"\nCONTEXT=[PASSWORD=p,USER=u]\nS3=[ID=i]\nS3=x\nPASSWORD=z\n";
        let clear = template(text);
        let sealed = key().seal(DATASTORE, &clear, &list()).unwrap();
        let stored = sealed.to_text();
        assert!(!stored.contains("correct") && stored.matches("enc:v1:").count() == 4, "{stored}");
        let context = sealed.vector("CONTEXT").unwrap();
        assert!(is_sealed(context.get("PASSWORD").unwrap()) && context.get("USER") == Some("u"));
        // What the database gives back is the printed form.
        let read = template(&stored);
        assert_eq!(key().open(DATASTORE, &read, &list()).unwrap(), clear.sorted());
        assert_eq!(key().seal(DATASTORE, &read, &list()).unwrap(), read, "what is sealed stays as it is");
        assert_ne!(key().seal(DATASTORE, &clear, &list()).unwrap(), sealed, "each sealing has a nonce of its own");
    }

    #[test]
    fn plain_and_empty_values_of_an_old_database_are_read_as_they_are() {
        let old = template("RESTIC_PASSWORD=\"plain\"\nCONTEXT=[PASSWORD=\"\"]\n");
        assert_eq!(key().open(DATASTORE, &old, &list()).unwrap(), old);
        let sealed = key().seal(DATASTORE, &old, &list()).unwrap();
        assert_eq!(sealed.vector("CONTEXT").unwrap().get("PASSWORD"), Some(""));
    }

    #[test]
    fn a_value_opens_only_with_its_key_in_its_place_and_unchanged() {
        let sealed = key().seal(DATASTORE, &template("RESTIC_PASSWORD=a\n"), &list()).unwrap();
        let value = sealed.scalar("RESTIC_PASSWORD").unwrap().to_owned();
        let told = |error: SecretError| error.to_string();
        let other = SecretKey::new(&[8; KEY_BYTES]);
        let error = told(other.open(DATASTORE, &sealed, &list()).unwrap_err());
        assert!(error.contains("DATASTORE RESTIC_PASSWORD") && !error.contains(&value), "{error}");
        assert!(key().open(ObjectKind::Vm, &sealed, &list()).is_err());
        let mut moved = Template::new();
        moved.set("S3", value.clone());
        assert!(key().open(DATASTORE, &moved, &list()).is_err());
        let mut bytes = STANDARD_NO_PAD.decode(&value[MARK.len()..]).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            let mut changed = Template::new();
            changed.set("RESTIC_PASSWORD", format!("{MARK}{}", STANDARD_NO_PAD.encode(&bytes)));
            assert!(key().open(DATASTORE, &changed, &list()).is_err(), "byte {at}");
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn what_a_client_sends_is_plain_text_however_it_looks() {
        let others = key().seal(DATASTORE, &template("RESTIC_PASSWORD=others\n"), &list()).unwrap();
        let sent = key().seal_sent(DATASTORE, &others, None, &list()).unwrap();
        assert_ne!(sent, others);
        let opened = key().open(DATASTORE, &sent, &list()).unwrap();
        assert_eq!(opened, others, "the ciphertext itself is the password now");
        let made_up = format!("RESTIC_PASSWORD=\"{MARK}{}\"\n", "A".repeat(60));
        let sent = key().seal_sent(DATASTORE, &template(&made_up), Some(&others), &list()).unwrap();
        assert_eq!(key().open(DATASTORE, &sent, &list()).unwrap(), template(&made_up));
    }

    #[test]
    fn what_a_client_sends_back_of_the_same_object_stays() {
        let old = key().seal(DATASTORE, &template("RESTIC_PASSWORD=a\nS3=b\n"), &list()).unwrap();
        assert_eq!(key().seal_sent(DATASTORE, &old, Some(&old), &list()).unwrap(), old);
        let mut swapped = Template::new();
        swapped.set("S3", old.scalar("RESTIC_PASSWORD").unwrap());
        let sent = key().seal_sent(DATASTORE, &swapped, Some(&old), &list()).unwrap();
        assert_ne!(sent, swapped, "the value of another attribute is plain text");
    }

    #[test]
    fn the_key_file_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        assert!(SecretKey::load(&path).unwrap().is_none());
        let first = SecretKey::load_or_create(&path).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.permissions().mode() & 0o777, metadata.len()), (0o600, 32));
        let sealed = first.seal(DATASTORE, &template("RESTIC_PASSWORD=a\n"), &list()).unwrap();
        let again = SecretKey::load_or_create(&path).unwrap();
        assert_eq!(again.open(DATASTORE, &sealed, &list()).unwrap().scalar("RESTIC_PASSWORD"), Some("a"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(format!("{first:?}"), "SecretKey(***)");
    }

    #[test]
    fn a_key_file_that_is_no_key_or_open_to_others_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        for length in [0, 31, 33, 5_000] {
            std::fs::write(&path, vec![1; length]).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(SecretKey::load_or_create(&path), Err(SecretError::NoKey { .. })), "{length}");
            assert_eq!(std::fs::read(&path).unwrap().len(), length);
        }
        std::fs::write(&path, [1; KEY_BYTES]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = SecretKey::load(&path).unwrap_err().to_string();
        assert!(error.contains("mode 640") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_database_with_sealed_values_wants_its_own_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        let list = list();
        let plain = || [(DATASTORE, template("RESTIC_PASSWORD=a\n"), &list)];
        let key = SecretKey::for_database(&path, plain()).unwrap();
        let sealed = key.seal(DATASTORE, &template("RESTIC_PASSWORD=a\n"), &list).unwrap();
        let stored = || [(DATASTORE, template("X=y\n"), &list), (DATASTORE, sealed.clone(), &list)];
        SecretKey::for_database(&path, stored()).unwrap();
        std::fs::remove_file(&path).unwrap();
        let error = SecretKey::for_database(&path, stored()).unwrap_err();
        assert!(matches!(&error, SecretError::Missing { .. }), "{error}");
        assert!(!path.exists(), "no key is made that could not open them");
        SecretKey::load_or_create(&path).unwrap();
        let error = SecretKey::for_database(&path, stored()).unwrap_err();
        assert!(matches!(&error, SecretError::Foreign { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in ".{0,200}") {
            let mut clear = Template::new();
            clear.set("RESTIC_PASSWORD", text);
            let sealed = key().seal_sent(DATASTORE, &clear, None, &list()).unwrap();
            let read = Template::parse(&sealed.to_text()).unwrap();
            prop_assert_eq!(key().open(DATASTORE, &read, &list()).unwrap(), clear);
        }

        #[test]
        fn no_stored_text_makes_it_panic(text in "(enc:v1:)?[A-Za-z0-9+/=]{0,80}") {
            let mut stored = Template::new();
            stored.set("RESTIC_PASSWORD", text);
            let _ = key().open(DATASTORE, &stored, &list());
        }
    }
}
