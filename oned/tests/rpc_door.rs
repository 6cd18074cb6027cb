//! The door over real sockets, with a table of its own: Python's client, and requests that no client would send.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where something is wrong")]

use one_core::access::Caller;
use one_core::refusal::{ObjectKind, Refusal};
use oned::rpc::{Answer, Args, Door, Limits, Method, ParamSpec, serve};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

const SESSION: &str = "oneadmin:pass:word";
const HOUR: Duration = Duration::from_secs(3600);
/// A limit of time that is waited for here. Who is to keep within it needs some of it where much else is going on.
const SHORT: Duration = Duration::from_secs(3);

struct TestDoor {
    has_metrics: bool,
}

/// Of somebody who may not see figures.
const OTHER_SESSION: &str = "user:pass";

impl Door for TestDoor {
    fn authenticate(&self, session: &str) -> Result<Caller, Refusal> {
        match session {
            SESSION => Ok(Caller::oneadmin()),
            OTHER_SESSION => Ok(Caller { uid: 2, name: "user".to_owned(), ..Caller::oneadmin() }),
            _ => Err(Refusal::BadSession),
        }
    }

    fn has_metrics(&self) -> bool {
        self.has_metrics
    }

    fn metrics(&self, caller: &Caller) -> Result<Option<String>, Refusal> {
        Ok((caller.uid == 0).then(|| format!("{FIGURES}# {}\n", "x".repeat(3 << 20))))
    }

    fn admit(&self, method: &str) -> Result<(), Refusal> {
        if method == "one.test.shut" { Err(Refusal::Action("shut".to_owned())) } else { Ok(()) }
    }

    fn why_absent(&self, method: &str) -> Option<&'static str> {
        (method == "one.absent.thing").then_some("it was left out")
    }
}

type Row = Method<TestDoor>;

static TABLE: &[Row] = &[
    Row {
        name: "one.test.int",
        params: &[ParamSpec::int("number")],
        help: "Gives the number back.",
        run: |_, _, args| Ok(Answer::Id(args.int(0))),
    },
    Row {
        name: "one.test.slow",
        params: &[ParamSpec::int("number")],
        help: "Gives the number back, later.",
        run: slow,
    },
    Row {
        name: "one.test.text",
        params: &[ParamSpec::text("text")],
        help: "Gives the text back.",
        run: |_, _, args| Ok(Answer::Text(args.text(0).to_owned())),
    },
    Row {
        name: "one.test.bool",
        params: &[ParamSpec::bool("choice").or_bool(false)],
        help: "Says yes or no.",
        run: yes_or_no,
    },
    Row {
        name: "one.test.ints",
        params: &[ParamSpec::ints("numbers").or_no_ints()],
        help: "Sums up.",
        run: |_, _, args| Ok(Answer::Id(args.ints(0).iter().sum())),
    },
    Row {
        name: "one.test.big",
        params: &[],
        help: "Gives a number above 32 bits.",
        run: |_, _, _| Ok(Answer::Id(1 << 40)),
    },
    Row {
        name: "one.test.control",
        params: &[],
        help: "Gives forbidden characters.",
        run: |_, _, _| Ok(Answer::Text("bell\u{7} and\r\u{0} feed\u{c}\u{ffff}".to_owned())),
    },
    Row { name: "one.test.shut", params: &[], help: "Is never run.", run: |_, _, _| panic!("not admitted") },
    Row { name: "one.test.panic", params: &[], help: "Panics.", run: |_, _, _| panic!("secret") },
    Row {
        name: "one.test.flood",
        params: &[],
        help: "Gives 32 MiB.",
        run: |_, _, _| Ok(Answer::Text("x".repeat(32 << 20))),
    },
    Row {
        name: "one.testpool.info",
        params: &[ParamSpec::int("flag"), ParamSpec::int("start"), ParamSpec::int("end")],
        help: "Gives 32 MiB for a whole pool from its start on, else a word.",
        run: |_, _, args| {
            Ok(Answer::Text(if (args.int(1), args.int(2)) == (0, -1) {
                "x".repeat(32 << 20)
            } else {
                "page".to_owned()
            }))
        },
    },
    Row {
        name: "one.vm.info",
        params: &[ParamSpec::int("id"), ParamSpec::bool("decrypt").or_bool(false)],
        help: "Shows a virtual machine.",
        run: info,
    },
    Row {
        name: "one.system.version",
        params: &[],
        help: "Says which line of the API is spoken.",
        run: |_, _, _| Ok(Answer::Text("7.0.2".to_owned())),
    },
];

fn slow(_: &TestDoor, _: &Caller, args: &Args) -> Result<Answer, Refusal> {
    std::thread::sleep(Duration::from_millis(20));
    Ok(Answer::Id(args.int(0)))
}

fn yes_or_no(_: &TestDoor, _: &Caller, args: &Args) -> Result<Answer, Refusal> {
    Ok(Answer::Text(if args.bool(0) { "yes" } else { "no" }.to_owned()))
}

fn info(_: &TestDoor, _: &Caller, args: &Args) -> Result<Answer, Refusal> {
    match args.int(0) {
        0 => Ok(Answer::Text(VM.to_owned())),
        id => Err(Refusal::NoSuch { kind: ObjectKind::Vm, id }),
    }
}

/// How the figures begin.
const FIGURES: &str = "# HELP a b\n# TYPE a gauge\na 1\n";

const VM: &str = "<VM><ID>0</ID><NAME>a</NAME><BACKUPS><BACKUP_CONFIG/><BACKUP_IDS/></BACKUPS></VM>";

/// A server of the test's own on a free port; ends when dropped.
struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(limits: Limits) -> Self {
        Self::start_with(limits, TestDoor { has_metrics: true })
    }

    fn start_with(limits: Limits, door: TestDoor) -> Self {
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
                serve(listener, Arc::new(door), TABLE, limits, stopped).await.unwrap();
            });
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
        stream
    }

    /// Sends raw bytes and reads until the server closes.
    fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn post(&self, body: &[u8]) -> String {
        let mut request =
            format!("POST /RPC2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len())
                .into_bytes();
        request.extend_from_slice(body);
        self.exchange(&request)
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

fn call(method: &str, params: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><methodCall><methodName>{method}</methodName><params>\
         <param><value><string>{SESSION}</string></value></param>{params}</params></methodCall>"
    )
}

#[test]
fn pythons_own_client_gets_every_type_refusal_and_fault_as_documented() {
    let server = Server::start(Limits { connections: 40, calls_at_once: 8, ..Limits::default() });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/door/client.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(format!("http://{}/RPC2", server.address))
        .output()
        .expect("python3 is needed: apt install python3");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "good\n");
}

#[test]
fn an_answer_is_text_xml_with_a_declaration_and_a_length() {
    let server = Server::start(Limits::default());
    let answer = server.post(call("one.test.int", "<param><value><i8>5</i8></value></param>").as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: text/xml"), "{head}");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
    assert_eq!(
        body,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<methodResponse><params><param><value><array><data>\
         <value><boolean>1</boolean></value><value><i4>5</i4></value><value><i4>0</i4></value>\
         </data></array></value></param></params></methodResponse>"
    );
}

#[test]
fn untyped_values_are_strings_and_method_names_may_have_blanks_around() {
    let server = Server::start(Limits::default());
    let answer = server.post(call(" one.test.text\n", "<param><value>plain</value></param>").as_bytes());
    assert!(answer.contains("<value><string>plain</string></value>"), "{answer}");
}

#[test]
fn a_malformed_request_is_a_fault_that_repeats_nothing_of_it() {
    let server = Server::start(Limits::default());
    let good = call("one.test.text", "<param><value>x</value></param>");
    let mut not_utf8 = good.clone().into_bytes();
    let place = not_utf8.len() - 40;
    not_utf8[place] = 0xff;
    let deep = format!(
        "<methodCall><methodName>x</methodName><params><param>{}</param></params></methodCall>",
        "<value><array><data>".repeat(50_000)
    );
    let bodies: [&[u8]; 9] = [
        b"",
        b"pass:word",
        &good.as_bytes()[..good.len() - 10],
        &not_utf8,
        b"<methodCall><methodName>one.test.text</methodName><params><param><value><int>pass:word</int></value></param></params></methodCall>",
        b"<methodCall><params><param><value>pass:word</value></param></params></methodCall>",
        b"<!DOCTYPE a [<!ENTITY b 'pass:word'>]><methodCall><methodName>&b;</methodName></methodCall>",
        b"<methodResponse><params/></methodResponse>",
        deep.as_bytes(),
    ];
    for body in bodies {
        let answer = server.post(body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]);
        assert!(answer.contains("<fault>") && answer.contains("<i4>-503</i4>"), "{shown}: {answer}");
        assert!(!answer.contains("pass:word"), "{shown}: {answer}");
    }
    let left_out = server.post(call("one.absent.thing", "").as_bytes());
    assert!(left_out.contains("-506") && left_out.contains("one.absent.thing is not available: it was left out."));
    let shut = server.post(call("one.test.shut", "").as_bytes());
    assert!(shut.contains("[one.test.shut] shut") && shut.contains("<i4>2048</i4>"), "{shut}");
    let odd_name = server.post(call("pass:word &lt;b&gt;", "").as_bytes());
    assert!(odd_name.contains("-506") && !odd_name.contains("pass:word"), "{odd_name}");
}

#[test]
fn a_request_with_too_many_values_is_refused_before_it_is_built() {
    let server = Server::start(Limits::default());
    let answer = server.post(call("one.test.text", &"<param><value/></param>".repeat(250_000)).as_bytes());
    assert!(answer.contains("<i4>-509</i4>"), "{answer}");
}

#[test]
fn only_post_to_the_two_paths_is_served() {
    let server = Server::start(Limits::default());
    let ask = |line: &str| {
        server.exchange(
            format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").as_bytes(),
        )
    };
    let get = ask("GET /RPC2");
    assert!(get.starts_with("HTTP/1.1 405") && get.to_ascii_lowercase().contains("allow: post"), "{get}");
    assert!(ask("POST /other").starts_with("HTTP/1.1 404"));
    assert!(ask("GET /other").starts_with("HTTP/1.1 404"));
    assert!(ask("POST /").starts_with("HTTP/1.1 200"));
    assert!(ask("POST /RPC2").starts_with("HTTP/1.1 200"));
}

/// A request for the figures; `more` are further lines of its head.
fn scrape(server: &Server, verb: &str, more: &str) -> String {
    server.exchange(format!("{verb} /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n").as_bytes())
}

fn basic(session: &str) -> String {
    use base64::Engine as _;
    format!("Authorization: Basic {}\r\n", base64::engine::general_purpose::STANDARD.encode(session))
}

#[test]
fn figures_for_monitoring_are_given_by_get_to_a_session_in_basic_authentication() {
    let server = Server::start(Limits::default());
    let answer = scrape(&server, "GET", &basic(SESSION));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
    assert!(body.starts_with(FIGURES) && body.len() > 3 << 20, "{} bytes", body.len());
    let post = scrape(&server, "POST", &format!("{}Content-Length: 0\r\n", basic(SESSION)));
    assert!(post.starts_with("HTTP/1.1 405") && post.to_ascii_lowercase().contains("allow: get"), "{post}");
}

#[test]
fn whoever_may_not_see_the_figures_is_asked_for_a_name_and_password() {
    let server = Server::start(Limits { refusal_delay: Duration::ZERO, ..Limits::default() });
    let bearer = "Authorization: Bearer oneadmin:pass:word\r\n".to_owned();
    let strangers = [String::new(), bearer, basic("oneadmin:wrong"), basic("oneadmin"), basic(OTHER_SESSION)];
    for more in &strangers {
        let answer = scrape(&server, "GET", more);
        let head = answer.split_once("\r\n\r\n").unwrap().0.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 401"), "{more}: {answer}");
        assert!(head.contains("www-authenticate: basic realm=\"oned\", charset=\"utf-8\""), "{more}: {answer}");
        assert!(!answer.contains("wrong") && !answer.contains("# HELP"), "{answer}");
    }
}

#[test]
fn a_wrong_password_for_the_figures_is_slowed_down_like_every_other() {
    let limits =
        Limits { refusal_delay: Duration::from_secs(3600), shutdown: Duration::from_millis(100), ..Limits::default() };
    let server = Server::start(limits);
    let mut guessing = server.connect();
    guessing.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: a\r\n{}\r\n", basic("oneadmin:wrong"));
    guessing.write_all(request.as_bytes()).unwrap();
    assert!(guessing.read(&mut [0; 1]).is_err(), "the answer came at once");
    assert!(scrape(&server, "GET", "").starts_with("HTTP/1.1 401"));
    assert!(scrape(&server, "GET", &basic(SESSION)).starts_with("HTTP/1.1 200"));
}

#[test]
fn there_are_no_figures_where_they_are_off() {
    let server = Server::start_with(Limits::default(), TestDoor { has_metrics: false });
    assert!(scrape(&server, "GET", &basic(SESSION)).starts_with("HTTP/1.1 404"));
}

#[test]
fn an_oversized_body_is_refused_whether_announced_or_chunked() {
    let server = Server::start(Limits { message_bytes: 10_000, ..Limits::default() });
    let fits =
        server.post(call("one.test.text", &format!("<param><value>{}</value></param>", "x".repeat(9_000))).as_bytes());
    assert!(fits.starts_with("HTTP/1.1 200"), "{fits}");
    let announced = server.post(&vec![b'x'; 3_000_000]);
    assert!(announced.starts_with("HTTP/1.1 413") && announced.contains("10000 bytes"), "{announced}");
    let mut chunked = b"POST /RPC2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..300 {
        chunked.extend_from_slice(b"2710\r\n");
        chunked.extend_from_slice(&[b'x'; 10_000]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let answer = server.exchange(&chunked);
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[test]
fn a_client_that_sends_its_head_or_body_too_slowly_loses_its_place() {
    let server = Server::start(Limits { connections: 1, idle: SHORT, stall: SHORT, ..Limits::default() });
    for started in ["", "POST /RPC2 HT", "POST /RPC2 HTTP/1.1\r\nHost: a\r\nX: "] {
        let answer = server.exchange(started.as_bytes());
        assert!(!answer.contains(" 200 "), "{started:?}: {answer}");
    }
    let slow_body = server.exchange(b"POST /RPC2 HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n<meth");
    assert!(slow_body.starts_with("HTTP/1.1 408"), "{slow_body}");
    let next = server.post(call("one.test.int", "<param><value><int>1</int></value></param>").as_bytes());
    assert!(next.starts_with("HTTP/1.1 200"), "{next}");
}

#[test]
fn a_client_that_never_reads_its_answer_loses_its_place() {
    let server = Server::start(Limits { connections: 1, stall: SHORT, ..Limits::default() });
    let body = call("one.test.flood", "");
    let mut deaf = server.connect();
    write!(deaf, "POST /RPC2 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let next = server.post(call("one.test.int", "<param><value><int>1</int></value></param>").as_bytes());
    assert!(next.starts_with("HTTP/1.1 200"), "{next}");
    drop(deaf);
}

/// The call of `one.testpool.info` whose page ends at `end`; −1 for the whole pool.
fn pool_call(end: i64) -> String {
    let int = |value: i64| format!("<param><value><int>{value}</int></value></param>");
    call("one.testpool.info", &[-2, 0, end].map(int).concat())
}

/// A client that has asked for the whole pool and read no more than the first byte of the answer.
fn takes_nothing(server: &Server) -> TcpStream {
    let mut stream = server.connect();
    let body = pool_call(-1);
    write!(
        stream,
        "POST /RPC2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    stream
}

fn is_whole_pool(answer: &str) -> bool {
    answer.contains("TP/1.1 200") && answer.len() > 32 << 20 && answer.ends_with("</methodResponse>")
}

#[test]
fn whole_pools_beyond_the_limit_wait_and_pages_do_not() {
    let server = Server::start(Limits { whole_pools: 1, pool_patience: HOUR, ..Limits::default() });
    let mut first = takes_nothing(&server);
    std::thread::scope(|scope| {
        let second = scope.spawn(|| server.post(pool_call(-1).as_bytes()));
        assert!(server.post(pool_call(-1000).as_bytes()).contains("<string>page</string>"));
        assert!(!second.is_finished(), "answered beside another whole pool");
        let mut answer = String::new();
        first.read_to_string(&mut answer).unwrap();
        assert!(is_whole_pool(&answer));
        assert!(is_whole_pool(&second.join().unwrap()));
    });
}

#[test]
fn whole_pools_that_wait_in_vain_are_refused_until_a_place_is_free() {
    let server = Server::start(Limits { whole_pools: 1, pool_patience: Duration::ZERO, ..Limits::default() });
    let mut first = takes_nothing(&server);
    let refused = server.post(pool_call(-1).as_bytes());
    assert!(
        refused.contains("[one.testpool.info] Too many whole pools") && refused.contains("<i4>8192</i4>"),
        "{refused}"
    );
    // Pages of more than a thousand count as whole pools.
    assert!(server.post(pool_call(-1001).as_bytes()).contains("Too many whole pools"));
    let stranger = server.post(pool_call(-1).replace(SESSION, "oneadmin:guess").as_bytes());
    assert!(stranger.contains("<i4>256</i4>"), "{stranger}");
    let mut answer = String::new();
    first.read_to_string(&mut answer).unwrap();
    assert!(is_whole_pool(&answer));
    assert!(is_whole_pool(&server.post(pool_call(-1).as_bytes())));
}

#[test]
fn a_client_that_is_cut_off_sees_that_its_answer_is_not_whole_and_the_next_gets_its_own() {
    let server = Server::start(Limits { whole_pools: 1, pool_patience: HOUR, stall: SHORT, ..Limits::default() });
    let mut deaf = takes_nothing(&server);
    // It waits until the other one is cut off.
    assert!(is_whole_pool(&server.post(pool_call(-1).as_bytes())));
    let mut cut = Vec::new();
    // An end or a reset connection.
    let _ = deaf.read_to_end(&mut cut);
    let cut = String::from_utf8(cut).unwrap();
    let (head, body) = cut.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    let announced = head.split_once("content-length: ").unwrap().1.lines().next().unwrap();
    assert!(body.len() < announced.parse().unwrap(), "{head}");
    assert!(!body.contains("</string>"), "ends inside of the text");
}

#[test]
fn pythons_client_takes_no_part_of_an_answer_for_a_whole_one() {
    let server = Server::start(Limits::default());
    let script = r#"
import sys, xmlrpc.client
whole = sys.stdin.buffer.read()
xmlrpc.client.loads(whole)
for length in range(len(whole)):
    try:
        raise SystemExit(f"{xmlrpc.client.loads(whole[:length])} from {length} bytes")
    except (xmlrpc.client.expat.ExpatError, xmlrpc.client.ResponseError):
        pass
"#;
    let multi = "<methodCall><methodName>system.multicall</methodName><params><param><value><array><data><value><struct>\
        <member><name>methodName</name><value>system.listMethods</value></member><member><name>params</name><value>\
        <array><data/></array></value></member></struct></value></data></array></value></param></params></methodCall>";
    for request in [&call("one.vm.info", "<param><value><int>0</int></value></param>"), &pool_call(-5), multi] {
        let answer = server.post(request.as_bytes());
        let (_, xml) = answer.split_once("\r\n\r\n").unwrap();
        let python = Command::new("python3").args(["-c", script]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut python = python.expect("python3 is needed: apt install python3");
        python.stdin.take().unwrap().write_all(xml.as_bytes()).unwrap();
        let output = python.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A multicall of calls given as name and parameters.
fn multicall(calls: &[(&str, &str)]) -> String {
    let one = |(name, params): &(&str, &str)| {
        format!(
            "<value><struct><member><name>methodName</name><value>{name}</value></member><member><name>params</name>\
             <value><array><data>{params}</data></array></value></member></struct></value>"
        )
    };
    let calls: String = calls.iter().map(one).collect();
    format!(
        "<methodCall><methodName>system.multicall</methodName><params><param><value><array><data>{calls}</data></array>\
         </value></param></params></methodCall>"
    )
}

#[test]
fn a_multicall_makes_no_more_calls_once_its_answers_are_too_long() {
    let server = Server::start(Limits { multicall_bytes: 10_000, ..Limits::default() });
    let params = format!("<value>{SESSION}</value><value>{}</value>", "x".repeat(6_000));
    let panics = ("one.test.panic", &*format!("<value>{SESSION}</value>"));
    let text = ("one.test.text", &*params);
    let answer = server.post(multicall(&[text, text, panics, text]).as_bytes());
    assert_eq!(answer.matches(&"x".repeat(6_000)).count(), 2, "{answer}");
    assert_eq!(answer.matches("<i4>-509</i4>").count(), 2, "{answer}");
    assert!(!answer.contains("8192"), "the call was made: {answer}");
    // What needs no session counts as well, and so do refusals.
    for small in [("system.listMethods", ""), ("one.none", ""), ("one.vm.info", panics.1)] {
        let answer = server.post(multicall(&[small; 1000]).as_bytes());
        assert!(answer.matches("it was not called").count() > 800, "{}: {} bytes", small.0, answer.len());
    }
}

#[test]
fn a_stranger_gets_less_from_a_multicall_than_a_user() {
    let server = Server::start(Limits::default());
    let list = ("system.listMethods", "");
    let stranger = server.post(multicall(&[list; 1000]).as_bytes());
    let whole = stranger.matches("<string>one.test.int</string>").count();
    assert!((10..900).contains(&whole) && stranger.len() < 1 << 20, "{whole} lists, {} bytes", stranger.len());
    let params = format!("<value>{SESSION}</value><value><int>1</int></value>");
    let mut calls = [list; 1000];
    calls[0] = ("one.test.int", &params);
    let user = server.post(multicall(&calls).as_bytes());
    assert_eq!(user.matches("<string>one.test.int</string>").count(), 999);
    // Each refusal comes as one.
    let guess = "<value>oneadmin:guess</value><value><int>1</int></value>";
    let refused = server.post(multicall(&[("one.test.int", guess); 1000]).as_bytes());
    assert_eq!(refused.matches("<i4>256</i4>").count(), 1000);
}

#[test]
fn a_multicall_that_lists_pools_needs_one_place_for_all() {
    let server = Server::start(Limits { whole_pools: 1, pool_patience: Duration::ZERO, ..Limits::default() });
    // Whole by its end, though short.
    let params = format!(
        "<value>{SESSION}</value>{}",
        [-2, 1, -1].map(|int| format!("<value><int>{int}</int></value>")).concat()
    );
    let pool = ("one.testpool.info", &*params);
    let answer = server.post(multicall(&[pool, pool]).as_bytes());
    assert_eq!(answer.matches("<string>page</string>").count(), 2, "{answer}");
    let deaf = takes_nothing(&server);
    let answer = server.post(multicall(&[pool, pool]).as_bytes());
    assert_eq!(answer.matches("Too many whole pools").count(), 2, "{} bytes", answer.len());
    drop(deaf);
}

#[test]
fn a_connection_is_kept_until_its_share_of_requests_is_used() {
    let server = Server::start(Limits { requests_per_connection: 3, ..Limits::default() });
    let body = call("one.test.int", "<param><value><int>1</int></value></param>");
    let one = format!("POST /RPC2 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let answers = server.exchange(one.repeat(3).as_bytes());
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 3, "{answers}");
    assert_eq!(answers.to_ascii_lowercase().matches("connection: close").count(), 1, "{answers}");
}

#[test]
fn a_connection_that_asks_nothing_more_is_closed_after_a_while() {
    let server = Server::start(Limits { idle: SHORT, ..Limits::default() });
    let body = call("one.test.int", "<param><value><int>1</int></value></param>");
    let answer = server
        .exchange(format!("POST /RPC2 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("<i4>1</i4>"), "{answer}");
}

#[test]
fn at_the_end_running_calls_are_answered_and_idle_connections_closed() {
    let mut server = Server::start(Limits::default());
    let mut idle = server.connect();
    let body = call("one.test.slow", "<param><value><int>1</int></value></param>");
    let mut busy = server.connect();
    write!(busy, "POST /RPC2 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut first = [0; 1];
    // The first byte of an answer to another call shows that the server is past accepting both.
    let mut probe = server.connect();
    write!(probe, "POST /RPC2 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    probe.read_exact(&mut first).unwrap();
    server.stop();
    let mut answer = String::new();
    busy.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("<i4>1</i4>"), "{answer}");
    assert_eq!(idle.read(&mut first).unwrap_or(0), 0);
    assert!(TcpStream::connect(server.address).is_err());
}

#[test]
fn a_table_with_a_mistake_does_not_start() {
    static TWICE: &[Row] = &[
        Row { name: "one.a", params: &[], help: "A.", run: |_, _, _| Ok(Answer::Id(0)) },
        Row { name: "one.a", params: &[], help: "A.", run: |_, _, _| Ok(Answer::Id(0)) },
    ];
    static HOLE: &[Row] = &[Row {
        name: "one.a",
        params: &[ParamSpec::int("a").or_int(1), ParamSpec::int("b")],
        help: "A.",
        run: |_, _, _| Ok(Answer::Id(0)),
    }];
    static KIND: &[Row] = &[Row {
        name: "one.a",
        params: &[ParamSpec::int("a").or_bool(true)],
        help: "A.",
        run: |_, _, _| Ok(Answer::Id(0)),
    }];
    for table in [TWICE, HOLE, KIND] {
        let error = oned::rpc::method::check_table(table).unwrap_err();
        assert!(error.contains("one.a"), "{error}");
    }
    oned::rpc::method::check_table(TABLE).unwrap();
}
