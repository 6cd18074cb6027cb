//! Load on the daemon's door: calls over connections that stay open, on threads.
//!
//! A client of its own, because measuring must cost little beside what is measured: it sends a request in one write, reads
//! the answer into one buffer and looks at no more of it than whether the call succeeded.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::rpc::{Value, request};

const DEADLINE: Duration = Duration::from_secs(60);

/// A connection to the door; opened anew when the daemon closes it after its share of calls.
#[derive(Debug)]
pub struct Client {
    address: String,
    stream: Option<TcpStream>,
    answer: Vec<u8>,
}

impl Client {
    /// A client of `http://HOST:PORT/RPC2`; nothing is sent yet.
    ///
    /// # Errors
    /// When it is no such address.
    pub fn new(endpoint: &str) -> Result<Self> {
        let rest = endpoint.strip_prefix("http://").with_context(|| format!("not an endpoint: {endpoint}"))?;
        let address = rest.split('/').next().unwrap_or(rest).to_owned();
        Ok(Self { address, stream: None, answer: Vec::new() })
    }

    /// Calls a method; the body of the answer.
    ///
    /// # Errors
    /// When no answer comes, or the call does not succeed.
    pub fn call(&mut self, method: &str, parameters: &[Value]) -> Result<&[u8]> {
        let body = request(method, parameters);
        let message = format!(
            "POST /RPC2 HTTP/1.1\r\nHost: {}\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        stream.write_all(message.as_bytes())?;
        let (head, stays) = self.read(&mut stream)?;
        if stays {
            self.stream = Some(stream);
        }
        let body = self.answer.get(head..).unwrap_or_default();
        let start = body.get(..body.len().min(400)).unwrap_or_default();
        let start = String::from_utf8_lossy(start);
        if !start.contains("<boolean>1</boolean>") {
            bail!("{method} did not succeed: {start}");
        }
        Ok(body)
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(&self.address).with_context(|| format!("connecting to {}", self.address))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(stream)
    }

    /// Reads one answer; where its body begins, and whether the connection stays open.
    fn read(&mut self, stream: &mut TcpStream) -> Result<(usize, bool)> {
        let mut length = 0;
        let mut whole: Option<(usize, usize, bool)> = None;
        loop {
            if let Some((head, total, stays)) = whole
                && length >= total
            {
                self.answer.truncate(total);
                return Ok((head, stays));
            }
            let wanted = whole.map_or(length + (16 << 10), |(_, total, _)| total);
            if self.answer.len() < wanted {
                self.answer.resize(wanted, 0);
            }
            let room = self.answer.get_mut(length..).unwrap_or_default();
            let count = stream.read(room)?;
            if count == 0 {
                bail!("the daemon closed the connection within an answer");
            }
            length += count;
            if whole.is_none() {
                whole = head(self.answer.get(..length).unwrap_or_default())?;
            }
        }
    }
}

/// Where the body begins, where it ends, and whether the connection stays; none while the head is incomplete.
fn head(bytes: &[u8]) -> Result<Option<(usize, usize, bool)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).to_ascii_lowercase();
    if !text.starts_with("http/1.1 200") {
        bail!("{text}");
    }
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length: usize = field("content-length:").context("an answer without a length")?.parse()?;
    Ok(Some((end + 4, end + 4 + length, field("connection:") != Some("close"))))
}

/// What was done under load.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Calls in all.
    pub calls: u64,
    /// Calls per second.
    pub per_second: f64,
}

/// The calls that `threads` clients get in `time` together. `call` makes one call: it is given the client, the
/// number of the thread and how many calls it made before.
///
/// # Errors
/// The first call that fails.
pub fn rate(
    endpoint: &str,
    threads: u64,
    time: Duration,
    call: impl Fn(&mut Client, u64, u64) -> Result<()> + Sync,
) -> Result<Load> {
    let began = Instant::now();
    let run = |thread: u64| {
        let mut client = Client::new(endpoint)?;
        let mut count = 0;
        while began.elapsed() < time {
            call(&mut client, thread, count)?;
            count += 1;
        }
        Ok(count)
    };
    let counts: Result<Vec<u64>> = std::thread::scope(|scope| {
        let run = &run;
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        handles.into_iter().map(|handle| handle.join().unwrap_or_else(|_| bail!("a client panicked"))).collect()
    });
    let calls = counts?.iter().sum::<u64>();
    Ok(Load { calls, per_second: calls as f64 / began.elapsed().as_secs_f64() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_tells_where_the_answer_ends() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        assert_eq!(head(text).unwrap(), Some((57, 62, false)));
        assert_eq!(head(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
        assert_eq!(head(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n").unwrap(), Some((38, 39, true)));
        assert!(head(b"HTTP/1.1 503 No\r\n\r\n").is_err());
    }
}
