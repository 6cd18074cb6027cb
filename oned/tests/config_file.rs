//! `oned.conf` and the key file over the real binary: what is shown, what is warned of, what stops the start.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where something is wrong")]

use one_core::refusal::ObjectKind;
use one_core::template::Template;
use oned::config::{Config, Overrides};
use oned::secret::{KEY_FILE, SecretKey};
use oned::store::{Store, StoreError};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START: Duration = Duration::from_secs(60);

fn oned(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oned"));
    command.arg("--state-dir").arg(directory).args(["--listen", "127.0.0.1:0"]);
    command.env_remove("ONE_AUTH").env_remove("KEEPLAST_LOG").env_remove("NOTIFY_SOCKET").env("TZ", "UTC");
    command
}

/// A daemon of the test's own with that configuration; ended when dropped.
struct Daemon {
    child: Child,
    endpoint: String,
}

impl Daemon {
    fn start(directory: &Path, conf: &str) -> Self {
        std::fs::write(directory.join("oned.conf"), conf).unwrap();
        let file = directory.join(".one/one_endpoint");
        let _ = std::fs::remove_file(&file);
        let child = oned(directory).stderr(Stdio::null()).spawn().unwrap();
        let mut daemon = Self { child, endpoint: String::new() };
        let until = Instant::now() + START;
        loop {
            assert!(daemon.child.try_wait().unwrap().is_none(), "ended at once: {}", log_of(directory));
            assert!(Instant::now() < until, "no endpoint: {}", log_of(directory));
            if let Ok(text) = std::fs::read_to_string(&file) {
                text.trim().clone_into(&mut daemon.endpoint);
                return daemon;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What Python's client gets from a method without parameters; `root` is a certificate to trust.
    fn call(&self, directory: &Path, method: &str, root: Option<&Path>) -> String {
        let script = r#"
import ssl, sys, xmlrpc.client
url, session, method, root = sys.argv[1:]
context = ssl.create_default_context(cafile=root) if root else None
one = xmlrpc.client.ServerProxy(url, context=context)
ok, text, code = getattr(one, method)(session)[:3]
assert ok is True and code == 0, text
sys.stdout.write(text)
"#;
        let session = std::fs::read_to_string(directory.join(".one/one_auth")).unwrap();
        let output = Command::new("python3")
            .args(["-c", script, &self.endpoint, session.trim(), method])
            .arg(root.unwrap_or(Path::new("")))
            .output()
            .expect("python3 is needed: apt install python3");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log_of(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("oned.log")).unwrap_or_default()
}

/// What a daemon says that does not start.
fn refusal(directory: &Path, conf: &str) -> String {
    std::fs::write(directory.join("oned.conf"), conf).unwrap();
    let mut child = oned(directory).stderr(Stdio::piped()).spawn().unwrap();
    let until = Instant::now() + START;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    told
}

/// Holds the document against OpenNebula's schema.
fn check_schema(document: &str) {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/xsd/opennebula_configuration.xsd");
    let root = "<OPENNEBULA_CONFIGURATION";
    let named = document.replacen(root, &format!("{root} xmlns=\"http://opennebula.org/XMLSchema\""), 1);
    let mut child = Command::new("xmllint")
        .args(["--noout", "--nonet", "--schema"])
        .arg(schema)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("xmllint does not start; install it: apt-get install libxml2-utils");
    child.stdin.take().unwrap().write_all(named.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{document}", String::from_utf8_lossy(&output.stderr));
}

/// In the manner of the file that OpenNebula installs: blocks, lists, settings that mean nothing here.
const OPENNEBULA: &str = r#"
LOG = [
  SYSTEM      = "file",
  DEBUG_LEVEL = 4
]
MONITORING_INTERVAL_MARKET = 600
SCRIPTS_REMOTE_DIR=/var/tmp/one
DB = [ BACKEND = "mysql",
       SERVER  = "localhost",
       PASSWD  = "opensesame" ]
VNC_PORTS = [
    START    = 5900,
    RESERVED = "32768:65536"
]
FEDERATION = [ MODE = "STANDALONE", ZONE_ID = 0, SERVER_ID = -1, MASTER_ONED = "" ]
MAC_PREFIX   = "06:1f"
VLAN_IDS = [
    START    = "2",
    RESERVED = "0, 1, 100:199, 4095"
]
DEFAULT_IMAGE_TYPE    = "DATABLOCK"
IM_MAD = [ NAME = "kvm", EXECUTABLE = "one_im_ssh", ARGUMENTS = "-r 3 -t 15 kvm" ]
VM_MAD = [ NAME = "kvm", EXECUTABLE = "one_vmm_exec", KEEP_SNAPSHOTS = "yes" ]
VM_MANAGE_OPERATIONS = "undeploy, hold, backup,
    restore"
DEFAULT_VDC_VNET_ACL      = "USE+MANAGE"
DEFAULT_VDC_CLUSTER_NET_ACL = "-"
VM_RESTRICTED_ATTR = "CONTEXT/FILES"
VM_RESTRICTED_ATTR = "NIC/MAC"
DATASTORE_ENCRYPTED_ATTR = "RESTIC_PASSWORD"
CLUSTER_ENCRYPTED_ATTR = "TOKEN"
API_LIST_ORDER = "DESC"
SESSION_EXPIRATION_TIME = 600
"#;

#[test]
fn an_oned_conf_of_opennebula_is_used_and_what_means_nothing_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), OPENNEBULA);
    let document = daemon.call(folder.path(), "one.system.config", None);
    check_schema(&document);
    for (name, value) in [
        ("MAC_PREFIX", "06:1f"),
        ("DEFAULT_IMAGE_TYPE", "DATABLOCK"),
        ("VM_RESTRICTED_ATTR", "NIC/MAC"),
        ("VM_RESTRICTED_ATTR", "DISK/SOURCE"),
        ("CLUSTER_ENCRYPTED_ATTR", "TOKEN"),
        ("DEFAULT_VDC_VNET_ACL", "USE+MANAGE"),
        ("API_LIST_ORDER", "DESC"),
        ("SESSION_EXPIRATION_TIME", "600"),
        ("RESERVED", "0, 1, 100:199, 4095"),
    ] {
        assert!(document.contains(&format!("<{name}><![CDATA[{value}]]></{name}>")), "{name}: {document}");
    }
    let log = log_of(folder.path());
    let told: Vec<&str> = log.lines().filter(|line| line.contains("mean nothing here")).collect();
    assert_eq!(told.len(), 1, "{log}");
    for name in ["DB (line 8, column 1)", "VNC_PORTS (line 11", "FEDERATION", "IM_MAD", "VM_MAD", "SCRIPTS_REMOTE_DIR"]
    {
        assert!(told[0].contains(name), "{name}: {told:?}");
    }
    assert!(!log.contains("opensesame") && !document.contains("opensesame"));
}

#[test]
fn the_document_obeys_the_schema_with_the_defaults_and_with_the_example_file() {
    let example = include_str!("../../share/oned.conf");
    let bare: String = example.lines().map(|line| line.strip_prefix("#= ").unwrap_or(line).to_owned() + "\n").collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("oned.conf");
    std::fs::write(&path, bare).unwrap();
    let overrides = Overrides { listen: None, state_dir: folder.path().to_owned() };
    for file in [None, Some(path.as_path())] {
        let config = Config::load(file, &overrides).unwrap();
        check_schema(&config.to_document());
    }
}

#[test]
fn every_mistake_is_told_at_the_start_and_none_is_left_for_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let told = refusal(folder.path(), "PORT = 99999\nMAX_BACKUPS = few\nLOG = [ DEBUG_LEVEL = 7 ]\nPROT = 5\n");
    for sentence in [
        "PORT (line 1, column 8) is \"99999\", but must be a number from 0 to 65535.",
        "MAX_BACKUPS (line 2, column 15) is \"few\"",
        "LOG/DEBUG_LEVEL (line 3, column 23) is \"7\", but must be a number from 0 to 5.",
    ] {
        assert!(told.contains(sentence), "{sentence}: {told}");
    }
    let told = refusal(folder.path(), "PORT = 5\nLOG = [ DEBUG_LEVEL 7 ]\n");
    assert!(told.contains("at line 2"), "{told}");
}

#[test]
fn with_certificate_and_key_the_daemon_and_its_zone_speak_https() {
    let folder = tempfile::tempdir().unwrap();
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, signed.cert.pem()).unwrap();
    std::fs::write(&key, signed.signing_key.serialize_pem()).unwrap();
    let conf = format!("TLS_CERTIFICATE = {}\nTLS_KEY = {}\n", certificate.display(), key.display());
    let daemon = Daemon::start(folder.path(), &conf);
    assert!(daemon.endpoint.starts_with("https://127.0.0.1:"), "{}", daemon.endpoint);
    assert!(daemon.call(folder.path(), "one.system.version", Some(&certificate)).starts_with("7."));
    let zones = daemon.call(folder.path(), "one.zonepool.info", Some(&certificate));
    assert!(zones.contains(&daemon.endpoint), "{zones}");
    drop(daemon);

    let only = refusal(folder.path(), &format!("TLS_KEY = {}\n", key.display()));
    assert!(only.contains("TLS_KEY (line 1, column 11)") && only.contains("together with TLS_CERTIFICATE"), "{only}");
    let other = rcgen::KeyPair::generate().unwrap();
    std::fs::write(&key, other.serialize_pem()).unwrap();
    let told = refusal(folder.path(), &conf);
    assert!(told.contains("cannot be used together") && told.contains("key.pem"), "{told}");
    std::fs::remove_file(&certificate).unwrap();
    let told = refusal(folder.path(), &conf);
    assert!(told.contains("Cannot read TLS_CERTIFICATE") && told.contains("cert.pem"), "{told}");
}

#[test]
fn a_database_with_sealed_values_wants_its_key_back() {
    let folder = tempfile::tempdir().unwrap();
    drop(Daemon::start(folder.path(), ""));
    let path = folder.path().join(KEY_FILE);
    let key = SecretKey::load(&path).unwrap().expect("the first start makes a key");
    let overrides = Overrides { listen: None, state_dir: folder.path().to_owned() };
    let config = Config::load(None, &overrides).unwrap();
    {
        let store = Store::open(&folder.path().join("one.db")).unwrap();
        let change = |tx: &mut oned::store::Tx<'_>| {
            let mut row = tx.datastore(1)?;
            let mut template = Template::parse(&row.template).unwrap();
            template.set("RESTIC_PASSWORD", "correct horse");
            let kind = ObjectKind::Datastore;
            row.template = key.seal(kind, &template, config.encrypted(kind)).unwrap().to_text();
            tx.datastore_update(&row)?;
            Ok::<_, StoreError>(row.template)
        };
        let stored = store.write(change).unwrap();
        assert!(stored.contains("enc:v1:") && !stored.contains("correct"), "{stored}");
    }
    drop(Daemon::start(folder.path(), ""));

    let elsewhere = folder.path().join("elsewhere");
    std::fs::rename(&path, &elsewhere).unwrap();
    let told = refusal(folder.path(), "");
    assert!(told.contains("one_key is missing") && told.contains("DATASTORE RESTIC_PASSWORD"), "{told}");
    assert!(!path.exists(), "no other key is made");
    SecretKey::load_or_create(&path).unwrap();
    let told = refusal(folder.path(), "");
    assert!(told.contains("cannot be opened with the key") && told.contains("DATASTORE RESTIC_PASSWORD"), "{told}");
    std::fs::rename(&elsewhere, &path).unwrap();
    drop(Daemon::start(folder.path(), ""));
    assert!(!log_of(folder.path()).contains("enc:v1:"));
}

#[test]
fn a_start_seals_what_the_database_holds_in_clear_and_does_not_say_it() {
    let folder = tempfile::tempdir().unwrap();
    drop(Daemon::start(folder.path(), ""));
    let database = folder.path().join("one.db");
    {
        let store = Store::open(&database).unwrap();
        let change = |tx: &mut oned::store::Tx<'_>| {
            let row = tx.datastore(1)?;
            let template = "RESTIC_PASSWORD=\"correct horse\"".into();
            tx.datastore_update(&oned::store::rows::DatastoreRow { template, ..row })
        };
        store.write::<_, StoreError>(change).unwrap();
    }
    drop(Daemon::start(folder.path(), ""));
    let log = log_of(folder.path());
    assert!(log.contains("Sealed secrets of 1 objects") && !log.contains("correct horse"), "{log}");
    for name in ["one.db", "one.db-wal"] {
        let bytes = std::fs::read(folder.path().join(name)).unwrap_or_default();
        assert!(!bytes.windows(13).any(|window| window == b"correct horse"), "{name}");
    }
    let text = Store::open(&database).unwrap().read::<_, StoreError>(|tx| Ok(tx.datastore(1)?.template)).unwrap();
    assert!(text.contains("enc:v1:"), "{text}");
    let key = folder.path().join(KEY_FILE);
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let told = refusal(folder.path(), "");
    assert!(told.contains("one_key has mode 640") && told.contains("chmod 600"), "{told}");
}
