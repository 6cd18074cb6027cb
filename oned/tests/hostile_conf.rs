//! `oned.conf` with a mistake in it: refused by line and attribute, or read; never a panic, never a secret in the error.

#![allow(clippy::unwrap_used, reason = "a test stops where something is wrong")]

use oned::config::{Config, Overrides};
use proptest::prelude::*;
use std::io::Write;

const SECRET: &str = "hiddenword";

const CONF: &str = r#"# As of the original, with a password that this daemon has no use for.
LOG = [ SYSTEM = "file", DEBUG_LEVEL = 3 ]
MONITORING_INTERVAL_HOST = 180
DB = [ BACKEND = "mysql", PASSWD = "hiddenword", PORT = 0 ]
PORT = 2633
LISTEN_ADDRESS = "0.0.0.0"
TIMEZONE = "Europe/Madrid"
DATASTORE_LOCATION = "/var/lib/one/datastores"
SAFE_DIRS = "/var/tmp,/srv"
DEFAULT_UMASK = 177
"#;

const NAMES: &[&str] = &[
    "LISTEN_ADDRESS",
    "PORT",
    "MAX_CONN",
    "TIMEOUT",
    "MESSAGE_SIZE",
    "MAX_BACKUPS",
    "TIMEZONE",
    "DATASTORE_LOCATION",
    "SAFE_DIRS",
    "DEFAULT_DEVICE_PREFIX",
    "DEFAULT_UMASK",
    "ENABLE_OTHER_PERMISSIONS",
    "LOG",
    "NOBODY_KNOWS",
];

fn load(text: &[u8]) -> Result<Config, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text).unwrap();
    let overrides = Overrides { state_dir: "/var/lib/one".into(), ..Overrides::default() };
    Config::load(Some(file.path()), &overrides).map_err(|error| error.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_damaged_file_is_read_or_refused_without_its_password(place in any::<usize>(), byte in any::<u8>()) {
        let mut text = CONF.as_bytes().to_vec();
        let place = place % text.len();
        text[place] = byte;
        match load(&text) {
            Ok(config) => {
                prop_assert!(!config.to_document().contains(SECRET) && !config.warnings.join(" ").contains(SECRET));
            }
            Err(error) => prop_assert!(!error.contains(SECRET), "{}", error),
        }
    }

    #[test]
    fn any_value_of_any_attribute_is_taken_or_refused_by_name(
        name in proptest::sample::select(NAMES), value in "(-?[0-9]{1,20}|[^\"\\\\]{0,20}|\\[ *[A-Z_]{0,12} *=? *[0-9]{0,3} *\\])"
    ) {
        match load(format!("{name} = \"{value}\"\n").as_bytes()) {
            Ok(config) => prop_assert!(config.to_document().ends_with("</OPENNEBULA_CONFIGURATION>")),
            Err(error) => prop_assert!(error.contains(name) || error.contains("]]>"), "{}", error),
        }
    }

    #[test]
    fn no_bytes_make_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = load(&bytes);
    }
}
