//! The door against strangers who open connections and say nothing, and against bytes that no client would send.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where something is wrong")]

use one_core::access::Caller;
use one_core::refusal::Refusal;
use oned::rpc::{Answer, Door, Limits, Method, ParamSpec, serve};
use proptest::prelude::*;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

const SESSION: &str = "oneadmin:pass:word";
const SECRET: &str = "pass:word";
/// Longer than any test runs.
const LONG: Duration = Duration::from_secs(3600);

/// More than the kernel keeps for a client that does not read.
const FLOOD: usize = 32 << 20;

struct TestDoor;

impl Door for TestDoor {
    fn authenticate(&self, session: &str) -> Result<Caller, Refusal> {
        if session == SESSION { Ok(Caller::oneadmin()) } else { Err(Refusal::BadSession) }
    }
}

static TABLE: &[Method<TestDoor>] = &[
    Method {
        name: "one.test.int",
        params: &[ParamSpec::int("number")],
        help: "Gives the number back.",
        run: |_, _, args| Ok(Answer::Id(args.int(0))),
    },
    Method {
        name: "one.test.flood",
        params: &[],
        help: "Gives 32 MiB.",
        run: |_, _, _| Ok(Answer::Text("x".repeat(FLOOD))),
    },
    Method {
        name: "one.system.version",
        params: &[],
        help: "Says which line of the API is spoken.",
        run: |_, _, _| Ok(Answer::Text("7.0.2".to_owned())),
    },
];

/// A server of the test's own on a free port; ends when dropped.
struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(limits: Limits) -> Self {
        let (stop, stopped) = oneshot::channel();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let stopped = async {
                    let _ = stopped.await;
                };
                serve(listener, Arc::new(TestDoor), TABLE, limits, stopped).await.unwrap();
            });
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends raw bytes and reads until the server closes. `cut`: says that no more bytes will come.
    fn exchange(&self, request: &[u8], cut: bool) -> Vec<u8> {
        let mut stream = self.connect();
        let mut answer = Vec::new();
        // The server may have closed already: bytes that are no HTTP are not read to their end.
        let mut sent = stream.write_all(request);
        if cut {
            sent = sent.and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        }
        let read = stream.read_to_end(&mut answer);
        let closed = |error: &std::io::Error| error.kind() != std::io::ErrorKind::WouldBlock;
        assert!(sent.as_ref().err().is_none_or(closed) && read.as_ref().err().is_none_or(closed), "no end in a minute");
        answer
    }

    fn post(&self, body: &[u8]) -> String {
        let mut request =
            format!("POST /RPC2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len())
                .into_bytes();
        request.extend_from_slice(body);
        String::from_utf8(self.exchange(&request, false)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn call(number: i64) -> String {
    format!(
        "<?xml version=\"1.0\"?><methodCall><methodName>one.test.int</methodName><params><param><value><string>{SESSION}\
         </string></value></param><param><value><int>{number}</int></value></param></params></methodCall>"
    )
}

fn flood_call() -> String {
    let body = format!(
        "<methodCall><methodName>one.test.flood</methodName><params><param><value><string>{SESSION}</string></value>\
         </param></params></methodCall>"
    );
    format!("POST /RPC2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// More open files for this process: each connection has two ends here.
fn allow_many_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum.map_or(Some(65_536), |maximum| Some(maximum.min(65_536)));
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// What a stranger sends before he falls silent: nothing, half a head, half a body, or a whole request, after which he
/// keeps the connection.
fn half_open(server: &Server, kind: usize) -> TcpStream {
    let mut stream = server.connect();
    let started: &[u8] = match kind % 4 {
        0 => b"",
        1 => b"POST /RPC2 HTTP/1.1\r\nHost: a\r\n",
        2 => b"POST /RPC2 HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n<meth",
        _ => b"POST /RPC2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
    };
    // It may have lost its place already.
    let _ = stream.write_all(started);
    stream
}

#[test]
fn a_thousand_half_open_connections_do_not_stop_a_good_client() {
    allow_many_files();
    // The silent ones lose their places to the newcomers, or never.
    let grace = Duration::from_millis(100);
    let server = Server::start(Limits { idle: LONG, stall: LONG, grace, ..Limits::default() });
    let flood: Vec<TcpStream> = (0..1000).map(|kind| half_open(&server, kind)).collect();
    for number in 0..20 {
        let answer = server.post(call(number).as_bytes());
        assert!(answer.contains(&format!("<i4>{number}</i4>")), "{answer}");
    }
    drop(flood);
}

#[test]
fn more_clients_than_places_are_all_served() {
    let server = Server::start(Limits { connections: 3, idle: LONG, grace: LONG, ..Limits::default() });
    std::thread::scope(|scope| {
        for number in 0..30 {
            let server = &server;
            scope.spawn(move || {
                let answer = server.post(call(number).as_bytes());
                assert!(answer.contains(&format!("<i4>{number}</i4>")), "{answer}");
            });
        }
    });
}

#[test]
fn a_client_that_keeps_its_connection_without_need_gives_it_to_the_next() {
    let grace = Duration::from_millis(1);
    let server = Server::start(Limits { connections: 1, idle: LONG, stall: LONG, grace, ..Limits::default() });
    let mut kept = server.connect();
    let body = call(1);
    write!(kept, "POST /RPC2 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    // The answer has begun, so the request was taken.
    assert!(kept.read(&mut [0; 1]).unwrap() > 0);
    assert!(server.post(call(2).as_bytes()).contains("<i4>2</i4>"));
}

#[test]
fn a_request_that_has_arrived_is_answered_however_many_newcomers_want_the_place() {
    // Everybody is asked to leave at once; nobody who has sent a request does.
    let server =
        Server::start(Limits { connections: 2, idle: LONG, stall: LONG, grace: Duration::ZERO, ..Limits::default() });
    let body = call(1);
    let request = format!("POST /RPC2 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for _ in 0..5 {
        let mut burst: Vec<TcpStream> = (0..100).map(|_| server.connect()).collect();
        // Those behind the first ones send while they wait in the kernel's queue.
        for stream in burst.iter_mut().rev().take(90) {
            stream.write_all(request.as_bytes()).unwrap();
        }
        for stream in burst.iter_mut().rev().take(90).rev() {
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
        }
    }
}

#[test]
fn an_answer_on_its_way_is_not_given_up_for_a_newcomer() {
    let grace = Duration::from_millis(1);
    let server = Server::start(Limits { connections: 2, idle: LONG, stall: LONG, grace, ..Limits::default() });
    let mut reader = server.connect();
    reader.write_all(flood_call().as_bytes()).unwrap();
    reader.read_exact(&mut [0; 1]).unwrap();
    // Each newcomer finds both places taken; the silent one loses his, the reader came before him and keeps it.
    for number in 0..3 {
        let silent = server.connect();
        assert!(server.post(call(number).as_bytes()).contains(&format!("<i4>{number}</i4>")));
        drop(silent);
    }
    let mut answer = String::new();
    reader.read_to_string(&mut answer).unwrap();
    assert!(answer.len() > FLOOD && answer.ends_with("</methodResponse>"), "{} bytes", answer.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_bytes_come_to_the_door_the_next_client_is_served_and_no_secret_is_repeated(
        requests in proptest::collection::vec(request(), 1..6)
    ) {
        let server = Server::start(Limits { message_bytes: 100_000, idle: LONG, ..Limits::default() });
        for bytes in requests {
            let answer = String::from_utf8_lossy(&server.exchange(&bytes, true)).into_owned();
            prop_assert!(!answer.contains(SECRET), "{}", answer);
            prop_assert!(answer.is_empty() || answer.starts_with("HTTP/1."), "{}", answer);
            if let Some((_, xml)) = answer.split_once("<?xml") {
                prop_assert!(xml.trim_end().ends_with("</methodResponse>"), "{}", answer);
            }
        }
        let answer = server.post(call(5).as_bytes());
        prop_assert!(answer.contains("<i4>5</i4>"), "{}", answer);
    }
}

/// A request damaged in one place, cut off, or of random bytes.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let body = call(1);
    let whole =
        format!("POST /RPC2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let whole = whole.into_bytes();
    let damaged = (0..whole.len(), any::<u8>(), any::<bool>()).prop_map(move |(place, byte, cut)| {
        let mut bytes = whole.clone();
        if let Some(changed) = bytes.get_mut(place) {
            *changed = byte;
        }
        if cut {
            bytes.truncate(place);
        }
        bytes
    });
    prop_oneof![4 => damaged, 1 => proptest::collection::vec(any::<u8>(), 0..300)]
}
