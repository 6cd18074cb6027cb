//! A minimal XML-RPC client of the tests' own, over a plain socket, so that malformed requests can be sent too.
//!
//! It is no second implementation to trust: stories also use Python's xmlrpc.client and pyone.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::xml::{self, Element};

/// A value on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `<i4>` or `<int>` or `<i8>`.
    Int(i64),
    /// `<boolean>`.
    Bool(bool),
    /// `<string>`, or no type at all.
    Text(String),
    /// `<array>`.
    Array(Vec<Value>),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}
impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}
impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}

/// What came back to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// `[true, value, …]`.
    Done(Value),
    /// `[false, sentence, code, object id]`.
    Refused {
        /// The sentence.
        message: String,
        /// The error code.
        code: i64,
        /// The object that caused it, −1 if none.
        object: i64,
    },
    /// An XML-RPC fault: the call itself was wrong.
    Fault {
        /// faultCode.
        code: i64,
        /// faultString.
        message: String,
    },
}

impl Answer {
    /// The number of a successful answer.
    ///
    /// # Errors
    /// When the call was refused or answered something else.
    pub fn id(&self) -> Result<i64> {
        match self {
            Self::Done(Value::Int(id)) => Ok(*id),
            other => bail!("expected a number, got {other:?}"),
        }
    }

    /// The text of a successful answer.
    ///
    /// # Errors
    /// When the call was refused or answered something else.
    pub fn text(&self) -> Result<&str> {
        match self {
            Self::Done(Value::Text(text)) => Ok(text),
            other => bail!("expected a text, got {other:?}"),
        }
    }
}

/// An HTTP reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Header lines as sent.
    pub headers: Vec<String>,
    /// The body; bytes that are not UTF-8 are replaced.
    pub body: String,
}

/// POSTs `body` to `endpoint` (`http://127.0.0.1:2633/RPC2`).
///
/// # Errors
/// When nobody listens, or the reply is not HTTP or takes longer than `deadline`.
pub fn post(endpoint: &str, body: &[u8], deadline: Duration) -> Result<Reply> {
    let (address, path) = split(endpoint)?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: text/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut request = head.into_bytes();
    request.extend_from_slice(body);
    raw(endpoint, &request, deadline)
}

/// Sends bytes as they are and reads the reply.
///
/// # Errors
/// As [`post`].
pub fn raw(endpoint: &str, request: &[u8], deadline: Duration) -> Result<Reply> {
    let (address, _) = split(endpoint)?;
    let mut stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(deadline))?;
    stream.set_write_timeout(Some(deadline))?;
    // A server that refuses early closes its reading side; its answer still counts.
    let sent = stream.write_all(request);
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    if bytes.is_empty() {
        sent.context("sending the request")?;
        read.context("reading the reply")?;
        bail!("{address} closed the connection without a reply");
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").context("the reply is not HTTP")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).context("the reply is not HTTP")?;
    let headers: Vec<String> = lines.map(str::to_owned).collect();
    let chunked = headers.iter().any(|line| line.to_ascii_lowercase().replace(' ', "") == "transfer-encoding:chunked");
    let body = if chunked { unchunk(body) } else { body.to_owned() };
    Ok(Reply { status, headers, body })
}

/// Calls a method with the parameters given; the session, if the method wants one, is the first of them.
///
/// # Errors
/// When no XML-RPC answer comes within a minute.
pub fn call(endpoint: &str, method: &str, parameters: &[Value]) -> Result<Answer> {
    let reply = post(endpoint, request(method, parameters).as_bytes(), Duration::from_secs(60))?;
    if reply.status != 200 {
        bail!("{method}: HTTP status {}: {}", reply.status, reply.body);
    }
    answer(&reply.body).with_context(|| format!("{method}: {}", reply.body.chars().take(400).collect::<String>()))
}

/// The body of a call.
#[must_use]
pub fn request(method: &str, parameters: &[Value]) -> String {
    let parameters: String =
        parameters.iter().map(|value| format!("<param><value>{}</value></param>", spelled(value))).collect();
    format!(
        "<?xml version=\"1.0\"?><methodCall><methodName>{method}</methodName><params>{parameters}</params></methodCall>"
    )
}

/// Reads the body of an answer.
///
/// # Errors
/// When it is not one of OpenNebula's answers or a fault.
pub fn answer(body: &str) -> Result<Answer> {
    let document = xml::parse(body)?;
    if let Some(fault) = document.find("fault/value/struct") {
        let member = |name: &str| -> Result<Value> {
            let found = fault.find_all("member").into_iter().find(|member| member.text("name") == name);
            value(found.and_then(|member| member.find("value")).with_context(|| format!("a fault without {name}"))?)
        };
        return match (member("faultCode")?, member("faultString")?) {
            (Value::Int(code), Value::Text(message)) => Ok(Answer::Fault { code, message }),
            other => bail!("a fault with {other:?}"),
        };
    }
    let Value::Array(items) = value(document.find("params/param/value").context("neither params nor fault")?)? else {
        bail!("the answer is not an array");
    };
    match &items[..] {
        [Value::Bool(true), result, Value::Int(0), ..] => Ok(Answer::Done(result.clone())),
        [Value::Bool(false), Value::Text(message), Value::Int(code), rest @ ..] => {
            let object = if let [Value::Int(id), ..] = rest { *id } else { -1 };
            Ok(Answer::Refused { message: message.clone(), code: *code, object })
        }
        other => bail!("an answer of unknown shape: {other:?}"),
    }
}

fn split(endpoint: &str) -> Result<(&str, &str)> {
    let rest = endpoint.strip_prefix("http://").with_context(|| format!("not an endpoint: {endpoint:?}"))?;
    Ok(rest.find('/').map_or((rest, "/RPC2"), |slash| rest.split_at(slash)))
}

fn spelled(value: &Value) -> String {
    match value {
        Value::Int(number) => format!("<i4>{number}</i4>"),
        Value::Bool(yes) => format!("<boolean>{}</boolean>", i32::from(*yes)),
        Value::Text(text) => format!("<string>{}</string>", quick_xml::escape::escape(text.as_str())),
        Value::Array(items) => {
            let items: String = items.iter().map(|item| format!("<value>{}</value>", spelled(item))).collect();
            format!("<array><data>{items}</data></array>")
        }
    }
}

fn value(element: &Element) -> Result<Value> {
    let Some(typed) = element.children.first() else {
        return Ok(Value::Text(element.text.clone()));
    };
    Ok(match typed.name.as_str() {
        "i4" | "int" | "i8" => Value::Int(typed.text.trim().parse()?),
        "boolean" => Value::Bool(typed.text.trim() == "1"),
        "string" => Value::Text(typed.text.clone()),
        "array" => Value::Array(typed.find_all("data/value").into_iter().map(value).collect::<Result<_>>()?),
        other => bail!("a value of type {other}"),
    })
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = rest.get(..size).filter(|chunk| !chunk.is_empty()) else {
            break;
        };
        whole.push_str(chunk);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_refusals_and_faults_are_told_apart() {
        let array = |items: &str| {
            format!(
                "<methodResponse><params><param><value><array><data>{items}</data></array></value></param></params></methodResponse>"
            )
        };
        let done = array("<value><boolean>1</boolean></value><value><i4>7</i4></value><value><i4>0</i4></value>");
        assert_eq!(answer(&done).unwrap(), Answer::Done(Value::Int(7)));
        let refused = array(
            "<value><boolean>0</boolean></value><value>no &lt;way&gt;</value><value><i4>1024</i4></value><value><i4>3</i4></value>",
        );
        let expected = Answer::Refused { message: "no <way>".into(), code: 1024, object: 3 };
        assert_eq!(answer(&refused).unwrap(), expected);
        let fault = "<methodResponse><fault><value><struct><member><name>faultCode</name><value><int>-506</int></value></member>\
                     <member><name>faultString</name><value><string>unknown</string></value></member></struct></value></fault></methodResponse>";
        assert_eq!(answer(fault).unwrap(), Answer::Fault { code: -506, message: "unknown".into() });
    }
}
