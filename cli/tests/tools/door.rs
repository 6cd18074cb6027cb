//! A fake daemon: a thread that answers XML-RPC calls from a script and remembers what it was asked.
//!
//! Bodies are read with a plain TCP listener, so that the wire of the tools is tested from outside.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// One call as it came in: method and parameters, session left out, in a readable form.
pub type Calls = Arc<Mutex<Vec<String>>>;

/// What the fake daemon says to one method; the last answer is repeated.
type Script = Vec<(&'static str, VecDeque<String>)>;

/// A fake daemon with a home directory for the tool that talks to it.
pub struct Door {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    calls: Calls,
    home: tempfile::TempDir,
}

impl Door {
    pub fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let script: Arc<Mutex<Script>> = Arc::default();
        let calls = Calls::default();
        let (thread_script, thread_calls) = (Arc::clone(&script), Arc::clone(&calls));
        // The thread ends with the test process: each test has a process-wide listener of its own.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = serve(stream.unwrap(), &thread_script, &thread_calls);
            }
        });
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".one")).unwrap();
        let auth = home.path().join(".one/one_auth");
        std::fs::write(&auth, "oneadmin:secret\n").unwrap();
        restrict(&auth, 0o600);
        Self { address, script, calls, home }
    }

    /// Adds an answer with a value: an id or a text.
    pub fn says(self, method: &'static str, value: impl Into<Value>) -> Self {
        let value = match value.into() {
            Value::Id(id) => format!("<i4>{id}</i4>"),
            Value::Text(text) => format!("<string>{}</string>", escape(&fill_in_now(&text))),
        };
        self.queue(method, good(&value))
    }

    /// Adds a refusal.
    pub fn refuses(self, method: &'static str, code: i32, text: &str) -> Self {
        let text = escape(text);
        self.answer(method, &format!("<value><boolean>0</boolean></value><value><string>{text}</string></value><value><i4>{code}</i4></value><value><i4>-1</i4></value>"))
    }

    /// Closes the connection instead of answering, as a daemon that is being restarted.
    pub fn goes_away_at(self, method: &'static str) -> Self {
        self.queue(method, String::new())
    }

    /// From now on says this and nothing else.
    pub fn changes_to(&self, method: &'static str, text: &str) {
        let body = good(&format!("<string>{}</string>", escape(text)));
        let mut script = self.script.lock().unwrap();
        script.retain(|(name, _)| *name != method);
        script.push((method, VecDeque::from([body])));
    }

    fn answer(self, method: &'static str, values: &str) -> Self {
        self.queue(method, body(values))
    }

    fn queue(self, method: &'static str, body: String) -> Self {
        {
            let mut script = self.script.lock().unwrap();
            match script.iter_mut().find(|(name, _)| *name == method) {
                Some((_, answers)) => answers.push_back(body),
                None => script.push((method, VecDeque::from([body]))),
            }
        }
        self
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// A tool that talks to this daemon.
    pub fn tool(&self, tool: &str, arguments: &[&str]) -> Command {
        let mut command = tool_command(tool, arguments, self.home.path());
        command.env("ONE_XMLRPC", format!("http://{}/RPC2", self.address));
        command
    }

    /// Runs a tool with nothing on standard input.
    pub fn run(&self, tool: &str, arguments: &[&str]) -> Ran {
        Ran::of(self.tool(tool, arguments).stdin(Stdio::null()).output().unwrap())
    }

    /// Runs a tool with a text on standard input.
    pub fn run_with_input(&self, tool: &str, arguments: &[&str], input: &str) -> Ran {
        let mut child = self
            .tool(tool, arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Ran::of(child.wait_with_output().unwrap())
    }

    /// Runs a line, as behind `keeplast`, on a pseudo terminal: standard input is one, so that the editor opens. script(1)
    /// is in bsdutils, which every Debian has.
    pub fn run_on_a_terminal(&self, line: &str, editor: &Path) -> Output {
        let tool = self.tool("keeplast", &[]);
        let line = format!("{} {line}", tool.get_program().to_str().unwrap());
        let mut command = Command::new("script");
        command.env_clear().envs(tool.get_envs().filter_map(|(key, value)| Some((key, value?))));
        command.env("EDITOR", editor).env("TMPDIR", self.home()).env("SHELL", "/bin/sh");
        command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().unwrap()
    }

    /// The text with what is another in each run, address and home, replaced by names.
    pub fn masked(&self, text: &str) -> String {
        text.replace(&self.address.to_string(), "DOOR").replace(&self.home().display().to_string(), "HOME")
    }

    /// The calls so far, one per line.
    pub fn calls(&self) -> String {
        self.calls.lock().unwrap().join("\n")
    }
}

fn good(value: &str) -> String {
    body(&format!("<value><boolean>1</boolean></value><value>{value}</value><value><i4>0</i4></value>"))
}

fn body(values: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><methodResponse><params><param><value><array><data>{values}</data></array></value></param></params></methodResponse>"
    )
}

/// A tool with an environment of its own.
pub fn tool_command(tool: &str, arguments: &[&str], home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keeplast"));
    // What a link of that name does.
    command.arg0(tool);
    command
        .args(arguments)
        .env_clear()
        .env("TZ", "UTC")
        .env("HOME", home)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.current_dir(home);
    command
}

/// A value that the fake daemon answers.
pub enum Value {
    Id(i64),
    Text(String),
}

impl From<i64> for Value {
    fn from(id: i64) -> Self {
        Self::Id(id)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// What a run of a tool left.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The output of a run that must have succeeded in silence.
    pub fn good(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{}", self.out);
        self.out
    }

    /// The one line of a run that must have failed with status 255 and no output.
    pub fn bad(self) -> String {
        assert_eq!((self.code, self.out.as_str()), (Some(255), ""), "{}", self.err);
        assert_eq!(self.err.lines().count(), 1, "{}", self.err);
        self.err.trim_end().to_owned()
    }
}

/// Both ends of a new pseudo terminal: what a person has, and what a process has.
pub fn pseudo_terminal() -> (OwnedFd, OwnedFd) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    (ours, theirs)
}

/// A document from the golden folder.
pub fn document(name: &str) -> String {
    std::fs::read_to_string(golden("documents").join(format!("{name}.xml"))).unwrap()
}

/// Compares with a golden file; UPDATE_GOLDEN=1 writes it.
pub fn assert_golden(name: &str, text: &str) {
    let file = golden("output").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("{}: {error}; UPDATE_GOLDEN=1 writes it", file.display()));
    assert_eq!(text, expected, "{name} differs; if it should, UPDATE_GOLDEN=1 rewrites it");
}

fn golden(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder)
}

pub fn restrict(file: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// `{NOW-90}` in a document becomes the time 90 seconds ago, so that running times can be golden.
fn fill_in_now(document: &str) -> String {
    let now = cli::units::now();
    let mut parts = document.split("{NOW");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (offset, rest) = part.split_once('}').unwrap();
        out.push_str(&(now + offset.parse::<i64>().unwrap()).to_string());
        out.push_str(rest);
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn serve(stream: TcpStream, script: &Mutex<Script>, calls: &Calls) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let call = String::from_utf8(body).unwrap();
    let method =
        call.split("<methodName>").nth(1).and_then(|rest| rest.split("</methodName>").next()).unwrap_or_default();
    calls.lock().unwrap().push(readable(method, &call));
    let answer = next_answer(&mut script.lock().unwrap(), method);
    if answer.is_empty() {
        return Ok(());
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.len()
    );
    let mut stream = reader.into_inner();
    stream.write_all(head.as_bytes())?;
    stream.write_all(answer.as_bytes())
}

fn next_answer(script: &mut Script, method: &str) -> String {
    match script.iter_mut().find(|(name, _)| *name == method) {
        Some((_, answers)) if answers.len() > 1 => answers.pop_front().unwrap(),
        Some((_, answers)) => answers[0].clone(),
        None => "<methodResponse><fault><value><struct><member><name>faultCode</name><value><int>-506</int></value></member><member><name>faultString</name><value><string>unexpected call</string></value></member></struct></value></fault></methodResponse>".to_owned(),
    }
}

/// `one.vm.info(0, false)`
fn readable(method: &str, call: &str) -> String {
    let mut parameters: Vec<String> = Vec::new();
    for parameter in call.split("<value>").skip(1) {
        let inner = parameter.split("</value>").next().unwrap();
        let text = inner.split('>').nth(1).and_then(|text| text.split('<').next()).unwrap_or_default();
        let text = text
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&quot;", "\"")
            .replace("&apos;", "'")
            .replace("&amp;", "&");
        parameters.push(if inner.starts_with("<array>") {
            "array of".to_owned()
        } else if inner.starts_with("<boolean>") {
            (text == "1").to_string()
        } else if inner.starts_with("<string>") {
            format!("{text:?}")
        } else {
            text
        });
    }
    assert_eq!(parameters.first().map(String::as_str), Some("\"oneadmin:secret\""), "the session comes first");
    format!("{method}({})", parameters[1..].join(", "))
}
