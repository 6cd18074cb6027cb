//! The wire: one XML-RPC call over HTTP or HTTPS and its answer.
//!
//! Nothing else in this crate knows XML-RPC, HTTP, TLS or sockets. Each call opens a connection of its own, with a deadline
//! for the connection and one for the answer. Protocol facts: OpenNebula's XML-RPC reference (session first, answer
//! array `[success, value or text, code, …]`, faults for unknown methods).

mod endpoint;
mod session;
mod tls;

use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use dxr::{FaultResponse, MethodCall, MethodResponse, Value};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::objects::Kind;
pub use endpoint::Endpoint;
pub use session::Session;
pub(crate) use session::auth_file;
use tls::Trust;

/// How long a connection may take to come up.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// How long the daemon may take to answer: restores look into the backup store before they answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(600);

/// Largest answer; the same bound as OpenNebula's MESSAGE_SIZE.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// One parameter of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    /// An `i4`, or an `i8` when it does not fit.
    Int(i64),
    /// A string.
    Text(String),
    /// A boolean.
    Bool(bool),
    /// An array of `i4`.
    Ints(Vec<i64>),
}

impl From<i64> for Param {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<bool> for Param {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for Param {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Param {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

/// The value of a successful call.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// An id.
    Id(i64),
    /// A document or another text.
    Text(String),
}

impl Answer {
    /// The id.
    ///
    /// # Errors
    /// When the daemon answered something else.
    pub fn id(&self) -> Result<i64> {
        match self {
            Self::Id(id) => Ok(*id),
            Self::Text(text) => {
                text.trim().parse().map_err(|_| anyhow!("the daemon answered a text where an id was due"))
            }
        }
    }

    /// The text; an id is written out.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::Id(id) => id.to_string(),
            Self::Text(text) => text,
        }
    }
}

/// The daemon understood the call and said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// OpenNebula's error code (0x0100 authentication, 0x0400 no such object, …).
    pub code: i64,
    /// The daemon's sentence.
    pub text: String,
}

impl Refused {
    /// The fault for "no such method": the daemon is another, or older than we.
    pub const NO_METHOD: i64 = -506;
    /// The code for "nobody with this name and password".
    pub const AUTHENTICATION: i64 = 0x0100;
    /// The code for "not authorised".
    pub const AUTHORIZATION: i64 = 0x0200;
    /// The code for "no such object".
    pub const NO_EXISTS: i64 = 0x0400;
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refused {}

/// There is no connection to the daemon, or it broke off: the daemon is not running, or is just being restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable(String);

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreachable {}

/// A way to the daemon: an address and a session.
#[derive(Debug)]
pub struct Client {
    endpoint: Endpoint,
    session: Session,
    trust: Trust,
    runtime: tokio::runtime::Runtime,
    told: Option<Told>,
}

/// What a client says of its calls with `--verbose`.
#[derive(Debug)]
struct Told {
    kind: &'static Kind,
    verb: String,
}

impl Told {
    /// One line for a call that changed an object of the kind; creating tells the id anyway.
    fn tell(&self, method: &str, params: &[Param]) -> Result<()> {
        let changes = ["info", "infoextended", "allocate", "instantiate", "events"]
            .iter()
            .all(|verb| method != self.kind.method(verb));
        let ours = method.starts_with(&self.kind.method(""));
        match params.iter().find_map(|param| if let Param::Int(id) = param { Some(id) } else { None }) {
            Some(id) if changes && ours => {
                crate::terminal::put_line(&format!("{} {id}: {} done", self.kind.member, self.verb))
            }
            _ => Ok(()),
        }
    }
}

impl Client {
    /// A client for `endpoint`; nothing is sent yet.
    ///
    /// # Errors
    /// When the event loop cannot be made (no file descriptors left).
    pub fn new(endpoint: Endpoint, session: Session) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the event loop")?;
        Ok(Self { endpoint, session, trust: Trust::from_environment(), runtime, told: None })
    }

    /// From now on each call that changes an object of `kind` is told on standard output: `VM 3: resume done`.
    pub(crate) fn tell(&mut self, kind: &'static Kind, verb: &str) {
        self.told = Some(Told { kind, verb: verb.to_owned() });
    }

    /// The same daemon, called by another user.
    ///
    /// # Errors
    /// For a name that no user can have; when the event loop cannot be made.
    pub fn as_user(&self, user: &str, password: &str) -> Result<Self> {
        Self::new(self.endpoint.clone(), Session::of(user, password)?)
    }

    /// The file that the session is from, if it is from the one of `ONE_AUTH`.
    #[must_use]
    pub fn session_file(&self) -> Option<&Path> {
        self.session.file()
    }

    /// The name of the user who calls.
    ///
    /// # Errors
    /// When there is no session.
    pub fn user(&self) -> Result<&str> {
        self.session.user()
    }

    /// Calls `method` with the session put in front of `params`.
    ///
    /// # Errors
    /// [`Refused`] when the daemon says no; otherwise a sentence with the endpoint and what stood in the way.
    pub fn call(&self, method: &str, params: impl IntoIterator<Item = Param>) -> Result<Answer> {
        let params: Vec<Param> = params.into_iter().collect();
        let mut values = vec![Value::String(self.session.text()?.to_owned())];
        for param in &params {
            values.push(encode(param.clone())?);
        }
        let body = MethodCall { name: method.into(), params: values }
            .to_xml()
            .map_err(|_| anyhow!("the call {method} cannot be written as XML"))?;
        let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{body}");
        let answer = self.runtime.block_on(self.post(body))?;
        let answer = decode(&answer)
            .with_context(|| format!("calling {method} at {}", self.endpoint))
            .map_err(|error| self.refusal(method, error))?;
        if let Some(told) = &self.told {
            told.tell(method, &params)?;
        }
        Ok(answer)
    }

    /// A refusal is shown as the daemon wrote it, without our own words in front; where its words name no way out, ours
    /// follow.
    fn refusal(&self, method: &str, error: anyhow::Error) -> anyhow::Error {
        let mut refused = match error.downcast::<Refused>() {
            Ok(refused) => refused,
            Err(error) => return error,
        };
        match refused.code {
            // Not every refusal of this code is about who calls.
            Refused::AUTHENTICATION if refused.text.contains("authenticated") => {
                let text = refused.text.trim_end_matches('.');
                refused.text = format!(
                    "{text}; {} is wrong for {}, the user is disabled, or a token has ended",
                    self.session.origin(),
                    self.endpoint
                );
            }
            Refused::NO_METHOD => {
                refused.text = format!(
                    "what answers at {} does not know {method}: it is no oned, or one older than this command ({})",
                    self.endpoint, refused.text
                );
            }
            _ => {}
        }
        refused.into()
    }

    async fn post(&self, body: String) -> Result<String> {
        let endpoint = &self.endpoint;
        let connect = tokio::net::TcpStream::connect((endpoint.host.as_str(), endpoint.port));
        let stream = match tokio::time::timeout(CONNECT_DEADLINE, connect).await {
            Err(_) => bail!(
                "cannot reach oned at {endpoint}: no connection within {} s; see that it runs and no firewall is in between, or {OTHER_ADDRESS}",
                CONNECT_DEADLINE.as_secs()
            ),
            Ok(Err(error)) => return Err(unreachable_daemon(endpoint, &error)),
            Ok(Ok(stream)) => stream,
        };
        let answer = if endpoint.tls {
            let stream = match tokio::time::timeout(CONNECT_DEADLINE, self.trust.secure(stream, endpoint)).await {
                Err(_) => {
                    bail!(
                        "cannot reach oned at {endpoint}: no TLS handshake within {} s; is it an http address?",
                        CONNECT_DEADLINE.as_secs()
                    )
                }
                Ok(secured) => secured?,
            };
            tokio::time::timeout(ANSWER_DEADLINE, exchange(stream, endpoint, body)).await
        } else {
            tokio::time::timeout(ANSWER_DEADLINE, exchange(stream, endpoint, body)).await
        };
        match answer {
            Err(_) => bail!(
                "oned at {endpoint} did not answer within {} s; what was asked may still be done, so look before you ask again",
                ANSWER_DEADLINE.as_secs()
            ),
            Ok(answer) => answer.with_context(|| format!("talking to oned at {endpoint}")),
        }
    }
}

fn unreachable_daemon(endpoint: &Endpoint, error: &std::io::Error) -> anyhow::Error {
    let reason = error.to_string();
    let text = match reason.strip_prefix("failed to lookup address information: ") {
        Some(reason) => format!(
            "cannot reach oned at {endpoint}: the host name {} cannot be resolved ({reason}); {OTHER_ADDRESS}",
            endpoint.host
        ),
        None if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            format!("cannot reach oned at {endpoint}: connection refused; start the daemon (oned), or {OTHER_ADDRESS}")
        }
        None => format!("cannot reach oned at {endpoint}: {reason}; {OTHER_ADDRESS}"),
    };
    Unreachable(text).into()
}

/// What to do when nobody is there.
const OTHER_ADDRESS: &str = "name another address with --endpoint or ONE_XMLRPC";

fn broken(endpoint: &Endpoint, error: &hyper::Error) -> anyhow::Error {
    if error.is_parse() {
        let hint = if endpoint.tls { "" } else { "; if it speaks TLS, write https://" };
        return anyhow!("what answers is no HTTP server ({error}){hint}");
    }
    Unreachable(format!("the connection broke off before the answer was complete: {error}")).into()
}

fn unwelcome(status: hyper::StatusCode) -> anyhow::Error {
    match status.as_u16() {
        429 | 503 => anyhow!("HTTP status {status}: it has too much to do just now; try again"),
        413 => anyhow!("HTTP status {status}: the request is larger than it takes"),
        _ => anyhow!("HTTP status {status}: this is no XML-RPC address of oned; {OTHER_ADDRESS}"),
    }
}

async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin, endpoint: &Endpoint, body: String) -> Result<String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("starting the HTTP exchange")?;
    // The connection lives as long as the exchange; it is polled beside it and dropped with it.
    let exchange = async {
        let request = hyper::Request::post(endpoint.path.as_str())
            .header(hyper::header::HOST, endpoint.authority())
            .header(hyper::header::CONTENT_TYPE, "text/xml")
            .header(hyper::header::USER_AGENT, concat!("keeplast-cli/", env!("CARGO_PKG_VERSION")))
            .header(hyper::header::CONNECTION, "close")
            .body(Full::new(Bytes::from(body)))
            .context("writing the HTTP request")?;
        let response = sender.send_request(request).await.map_err(|error| broken(endpoint, &error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(unwelcome(status));
        }
        let collected = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = collected.map_err(|error| match error.downcast_ref::<hyper::Error>() {
            Some(error) => broken(endpoint, error),
            None => anyhow!("the answer is larger than {ANSWER_BYTES_MAX} bytes"),
        })?;
        String::from_utf8(body.to_bytes().into()).context("the answer is not UTF-8")
    };
    let (answer, _connection) = tokio::join!(exchange, connection);
    answer
}

fn encode(param: Param) -> Result<Value> {
    Ok(match param {
        Param::Int(number) => i32::try_from(number).map_or(Value::Long(number), Value::Integer),
        Param::Bool(yes) => Value::Boolean(yes),
        Param::Ints(numbers) => {
            Value::Array(numbers.into_iter().map(|number| encode(Param::Int(number))).collect::<Result<_>>()?)
        }
        Param::Text(text) => {
            // XML 1.0 has no way to carry these, and the encoder would send them raw.
            if let Some(bad) =
                text.chars().find(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r') && u32::from(*c) < 0x20)
            {
                bail!(
                    "the text holds the control character U+{:04X}, which XML cannot carry: remove it",
                    u32::from(bad)
                );
            }
            Value::String(text)
        }
    })
}

fn decode(body: &str) -> Result<Answer> {
    let Ok(response) = MethodResponse::from_xml(body) else {
        if let Ok(fault) = FaultResponse::from_xml(body) {
            let fault = fault.fault;
            return Err(Refused {
                code: fault.code().into(),
                text: format!("{} (fault {})", fault.string(), fault.code()),
            }
            .into());
        }
        bail!("the answer is not an XML-RPC response");
    };
    let Value::Array(values) = response.value else { bail!("the answer is not an array") };
    let mut values = values.into_iter();
    match (values.next(), values.next(), values.next()) {
        (Some(Value::Boolean(true)), Some(value), _) => match value {
            Value::Integer(id) => Ok(Answer::Id(id.into())),
            Value::Long(id) => Ok(Answer::Id(id)),
            Value::String(text) => Ok(Answer::Text(text)),
            _ => bail!("the answer holds neither a text nor an id"),
        },
        (Some(Value::Boolean(false)), Some(Value::String(text)), code) => {
            let code = match code {
                Some(Value::Integer(code)) => code.into(),
                Some(Value::Long(code)) => code,
                _ => -1,
            };
            Err(Refused { code, text }.into())
        }
        _ => bail!("the answer array does not begin with success and value"),
    }
}

/// The first line of a small file.
pub(crate) fn first_line(file: &Path, bytes_max: u64) -> Result<String> {
    let read = || -> std::io::Result<String> {
        let mut text = String::new();
        std::fs::File::open(file)?.take(bytes_max).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => std::io::Error::other("it is not UTF-8"),
        _ => error,
    });
    let text = text.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(values: &str) -> String {
        format!(
            "<methodResponse><params><param><value><array><data>{values}</data></array></value></param></params></methodResponse>"
        )
    }

    #[test]
    fn a_success_array_gives_its_value() {
        let body = answer("<value><boolean>1</boolean></value><value><i4>7</i4></value><value><i4>0</i4></value>");
        assert_eq!(decode(&body).unwrap(), Answer::Id(7));
        let body = answer(
            "<value><boolean>1</boolean></value><value><string>&lt;VM/&gt;</string></value><value><i4>0</i4></value>",
        );
        assert_eq!(decode(&body).unwrap(), Answer::Text("<VM/>".into()));
    }

    #[test]
    fn a_refusal_keeps_code_and_text_with_three_to_five_elements() {
        let body = answer(
            "<value><boolean>0</boolean></value><value><string>[one.vm.info] no</string></value><value><i4>1024</i4></value><value><i4>7</i4></value><value><i8>-1</i8></value>",
        );
        let error = decode(&body).unwrap_err().downcast::<Refused>().unwrap();
        assert_eq!(error, Refused { code: Refused::NO_EXISTS, text: "[one.vm.info] no".into() });
    }

    #[test]
    fn a_fault_and_rubbish_are_errors() {
        let fault = "<methodResponse><fault><value><struct><member><name>faultCode</name><value><int>-506</int></value></member><member><name>faultString</name><value><string>no method</string></value></member></struct></value></fault></methodResponse>";
        assert_eq!(decode(fault).unwrap_err().to_string(), "no method (fault -506)");
        for body in ["", "<html/>", "<methodResponse/>", &answer(""), &answer("<value><i4>1</i4></value>")] {
            assert!(decode(body).is_err(), "{body}");
        }
    }

    #[test]
    fn an_answer_that_nests_without_end_is_refused() {
        for (begin, end) in [
            ("<value><array><data>", "</data></array></value>"),
            ("<value><struct><member><name>a</name>", "</member></struct></value>"),
            ("<x>", "</x>"),
        ] {
            let deep = format!("{}{}", begin.repeat(100_000), end.repeat(100_000));
            for body in [answer(&deep), deep, begin.repeat(100_000)] {
                assert!(decode(&body).is_err(), "{body:.60}");
            }
        }
    }

    #[test]
    fn a_control_character_is_refused_before_it_is_sent() {
        let error = encode(Param::Text("a\u{1b}b".into())).unwrap_err().to_string();
        assert_eq!(error, "the text holds the control character U+001B, which XML cannot carry: remove it");
        assert_eq!(encode(Param::Text("a\tb".into())).unwrap(), Value::String("a\tb".into()));
        assert_eq!(encode(Param::Int(1 << 40)).unwrap(), Value::Long(1 << 40));
    }
}
