//! The door over TLS: Python's client as judge, and clients that send something else, or nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where something is wrong")]

use one_core::access::Caller;
use one_core::refusal::Refusal;
use oned::rpc::{Answer, Door, Limits, Listener, Method, ParamSpec, Tls, serve};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

const SESSION: &str = "oneadmin:pass:word";
/// A limit of time that is waited for here. Who is to keep within it needs some of it where much else is going on.
const SHORT: Duration = Duration::from_secs(3);

struct TestDoor;

impl Door for TestDoor {
    fn authenticate(&self, session: &str) -> Result<Caller, Refusal> {
        if session == SESSION { Ok(Caller::oneadmin()) } else { Err(Refusal::BadSession) }
    }

    fn has_metrics(&self) -> bool {
        true
    }

    fn metrics(&self, _caller: &Caller) -> Result<Option<String>, Refusal> {
        Ok(Some("figures 1\n".to_owned()))
    }
}

static TABLE: &[Method<TestDoor>] = &[
    Method {
        name: "one.test.text",
        params: &[ParamSpec::text("text")],
        help: "Gives the text back.",
        run: |_, _, args| Ok(Answer::Text(args.text(0).to_owned())),
    },
    Method {
        name: "one.test.flood",
        params: &[],
        help: "Gives 32 MiB.",
        run: |_, _, _| Ok(Answer::Text("x".repeat(32 << 20))),
    },
];

/// A root, and a certificate for 127.0.0.1 that it signed, as files.
struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test root");
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let root = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &root).unwrap();
        std::fs::write(folder.path().join("root.pem"), root.pem()).unwrap();
        std::fs::write(folder.path().join("cert.pem"), leaf.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
        Self { folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tls(&self) -> Tls {
        Tls::load(&self.file("cert.pem"), &self.file("key.pem")).unwrap()
    }
}

/// A server of the test's own on a free port; ends when dropped.
struct Server {
    address: SocketAddr,
    certificates: Certificates,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(limits: Limits) -> Self {
        let certificates = Certificates::make();
        let tls = certificates.tls();
        let (stop, stopped) = oneshot::channel();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = Listener::new(tokio::net::TcpListener::from_std(socket).unwrap(), Some(tls));
                let stopped = async {
                    let _ = stopped.await;
                };
                serve(listener, Arc::new(TestDoor), TABLE, limits, stopped).await.unwrap();
            });
        });
        Self { address, certificates, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    fn secure(&self) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.certificates.file("root.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), self.connect())
    }

    /// Whether a good client is served, however long it has to wait for its place.
    fn serves_a_good_client(&self) {
        let mut stream = self.secure();
        stream.write_all(&request("one.test.text", "<param><value>good</value></param>")).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the server says that it closes (close_notify)");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("<string>good</string>"), "{answer}");
    }

    fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn request(method: &str, params: &str) -> Vec<u8> {
    let body = format!(
        "<methodCall><methodName>{method}</methodName><params>\
         <param><value><string>{SESSION}</string></value></param>{params}</params></methodCall>"
    );
    let head = format!("POST /RPC2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    (head + &body).into_bytes()
}

#[test]
fn pythons_own_client_calls_over_https_and_checks_the_certificate() {
    let server = Server::start(Limits::default());
    let script = r#"
import ssl, sys, xmlrpc.client
url, root = sys.argv[1:]
trusting = ssl.create_default_context(cafile=root)
one = xmlrpc.client.ServerProxy(url, context=trusting)
for size in [0, 1, 100, 20_000, 300_000]:
    text = "x" * size + "."
    assert one.one.test.text("oneadmin:pass:word", text) == [True, text, 0], size
assert one.one.test.text("oneadmin:wrong", "x")[2] == 256
old = ssl.create_default_context(cafile=root)
old.maximum_version = ssl.TLSVersion.TLSv1_2
assert xmlrpc.client.ServerProxy(url, context=old).one.test.text("oneadmin:pass:word", "a")[1] == "a"
try:
    xmlrpc.client.ServerProxy(url, context=ssl.create_default_context()).one.test.text("oneadmin:pass:word", "a")
    raise SystemExit("called although nobody trusts that root")
except ssl.SSLCertVerificationError:
    pass
assert one.one.test.text("oneadmin:pass:word", "after")[1] == "after"
print("good")
"#;
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(format!("https://{}/RPC2", server.address))
        .arg(server.certificates.file("root.pem"))
        .output()
        .expect("python3 is needed: apt install python3");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "good\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn figures_for_monitoring_are_read_over_https_too() {
    let server = Server::start(Limits::default());
    let mut stream = server.secure();
    // oneadmin:pass:word
    let head = "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
                Authorization: Basic b25lYWRtaW46cGFzczp3b3Jk\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("figures 1\n"), "{answer}");
}

#[test]
fn plain_http_is_told_what_is_spoken_and_closed_in_order() {
    let server = Server::start(Limits::default());
    for text in ["", &"x".repeat(300_000)] {
        let mut stream = server.connect();
        stream.write_all(&request("one.test.text", &format!("<param><value>{text}</value></param>"))).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an end, and no reset connection");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 400") && head.contains(&format!("Content-Length: {}", body.len())),
            "{head}"
        );
        assert!(body.contains("https") && !answer.contains("pass:word"), "{answer}");
    }
    server.serves_a_good_client();
}

#[test]
fn rubbish_ends_its_own_connection_only() {
    let server = Server::start(Limits::default());
    for rubbish in [&b"\x00\x01\x02"[..], b"\x16\x03\x01\x00\x05hello", b"\x16\xff\xff\xff\xff", &[0x80; 5_000]] {
        let mut stream = server.connect();
        stream.write_all(rubbish).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an end, and no reset connection");
        assert!(answer.len() < 100, "an alert at most");
    }
    server.serves_a_good_client();
}

#[test]
fn half_open_handshakes_do_not_stop_a_good_client() {
    let server = Server::start(Limits { connections: 8, ..Limits::default() });
    let mut silent: Vec<TcpStream> = (0..6).map(|_| server.connect()).collect();
    for (length, stream) in silent.iter_mut().enumerate().skip(1) {
        stream.write_all(&b"\x16\x03\x01\x02\x00\x01\x00"[..length]).unwrap();
    }
    server.serves_a_good_client();
    drop(silent);
}

#[test]
fn a_handshake_that_is_not_finished_loses_its_place() {
    let server = Server::start(Limits { connections: 1, idle: SHORT, ..Limits::default() });
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00"] {
        let mut stream = server.connect();
        stream.write_all(begun).unwrap();
        server.serves_a_good_client();
        let mut answer = Vec::new();
        // The server closed it before it served the other; what had been read by then decides between end and reset.
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 100, "{answer:?}");
    }
}

#[test]
fn more_clients_than_places_are_all_served() {
    let server = Server::start(Limits { connections: 3, ..Limits::default() });
    std::thread::scope(|scope| {
        for _ in 0..30 {
            scope.spawn(|| server.serves_a_good_client());
        }
    });
}

#[test]
fn an_answer_on_its_way_is_not_given_up_for_a_newcomer() {
    let hour = Duration::from_secs(3_600);
    let grace = Duration::from_millis(1);
    let server = Server::start(Limits { connections: 2, idle: hour, stall: hour, grace, ..Limits::default() });
    let mut reader = server.secure();
    reader.write_all(&request("one.test.flood", "")).unwrap();
    reader.read_exact(&mut [0; 1]).unwrap();
    // The newcomer's second place is that of the silent one, who came after the reader.
    let silent = server.connect();
    let plain = request("one.test.text", "");
    let mut newcomer = server.connect();
    newcomer.write_all(&plain).unwrap();
    let mut sent_away = String::new();
    newcomer.read_to_string(&mut sent_away).unwrap();
    assert!(sent_away.starts_with("HTTP/1.1 400"), "{sent_away}");
    drop(silent);
    let mut answer = String::new();
    reader.read_to_string(&mut answer).unwrap();
    assert!(answer.len() > 32 << 20 && answer.ends_with("</methodResponse>"), "{} bytes", answer.len());
}

#[test]
fn a_client_that_never_reads_its_answer_loses_its_place() {
    let server = Server::start(Limits { connections: 1, stall: SHORT, ..Limits::default() });
    let mut deaf = server.secure();
    deaf.write_all(&request("one.test.flood", "")).unwrap();
    server.serves_a_good_client();
    drop(deaf);
}

#[test]
fn at_the_end_silent_connections_are_closed_before_and_after_the_handshake() {
    let hour = Duration::from_secs(3_600);
    let mut server = Server::start(Limits { idle: hour, shutdown: hour, ..Limits::default() });
    let silent = server.connect();
    let mut idle = server.secure();
    while idle.conn.is_handshaking() {
        idle.conn.complete_io(&mut idle.sock).unwrap();
    }
    // Returns only when no connection is left, or after an hour.
    server.stop();
    assert_eq!(idle.read(&mut [0]).unwrap_or(0), 0);
    drop(silent);
}

#[test]
fn files_that_are_no_certificate_with_its_key_are_refused_with_a_sentence() {
    let (one, other) = (Certificates::make(), Certificates::make());
    let refused = |certificate: PathBuf, key: PathBuf| Tls::load(&certificate, &key).err().unwrap().to_string();
    let absent = refused(one.file("absent.pem"), one.file("key.pem"));
    assert!(absent.starts_with("Cannot read TLS_CERTIFICATE ") && absent.contains("absent.pem"), "{absent}");
    let absent = refused(one.file("cert.pem"), one.file("absent.pem"));
    assert!(absent.starts_with("Cannot read TLS_KEY "), "{absent}");
    let swapped = refused(one.file("key.pem"), one.file("cert.pem"));
    assert!(swapped.contains("holds no certificate in PEM form"), "{swapped}");
    let twice = refused(one.file("cert.pem"), one.file("cert.pem"));
    assert!(twice.contains("holds no private key in PEM form"), "{twice}");
    let mismatch = refused(one.file("cert.pem"), other.file("key.pem"));
    assert!(mismatch.contains("cannot be used together") && mismatch.contains("key.pem"), "{mismatch}");
    std::fs::write(one.file("huge.pem"), vec![b'x'; 2 << 20]).unwrap();
    assert!(refused(one.file("huge.pem"), one.file("key.pem")).contains("larger than"));
}
