//! A Unix socket on which nothing waits past a deadline.

use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

/// Headers are gathered in this much; longer reads go past it straight into their target.
const BUFFER_BYTES: usize = 16 << 10;

/// The socket with its current deadline.
#[derive(Debug)]
pub(super) struct Link {
    reader: BufReader<Timed>,
    timeout: Duration,
}

#[derive(Debug)]
struct Timed {
    stream: UnixStream,
    deadline: Instant,
}

impl Link {
    /// Connects; the first deadline starts now. A listener whose queue is full would hold a plain connect for ever, so
    /// the time-out is set on the socket first.
    pub(super) fn connect(socket: &Path, timeout: Duration) -> io::Result<Self> {
        let timeout = timeout.max(Duration::from_millis(1));
        let address = SocketAddrUnix::new(socket)?;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, Some(timeout))?;
        rustix::net::connect(&fd, &address)?;
        let timed = Timed { stream: UnixStream::from(fd), deadline: Instant::now() + timeout };
        Ok(Self { reader: BufReader::with_capacity(BUFFER_BYTES, timed), timeout })
    }

    /// Goes on with a socket that is connected already.
    pub(super) fn over(socket: OwnedFd, timeout: Duration) -> Self {
        let timeout = timeout.max(Duration::from_millis(1));
        let timed = Timed { stream: UnixStream::from(socket), deadline: Instant::now() + timeout };
        Self { reader: BufReader::with_capacity(BUFFER_BYTES, timed), timeout }
    }

    /// Another handle of the socket; none while bytes are here that the other handle would not get.
    pub(super) fn socket(&self) -> Option<OwnedFd> {
        if !self.reader.buffer().is_empty() {
            return None;
        }
        self.reader.get_ref().stream.as_fd().try_clone_to_owned().ok()
    }

    /// The longest wait for the next answer.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Gives the next steps the whole time-out again.
    pub(super) fn restart_deadline(&mut self) {
        self.reader.get_mut().deadline = Instant::now() + self.timeout;
    }

    /// Fills `buffer`.
    pub(super) fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.reader.read_exact(buffer)
    }

    /// The next `N` bytes.
    pub(super) fn read_array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut out = [0; N];
        self.read_exact(&mut out)?;
        Ok(out)
    }

    /// The next `length` bytes; the caller has bounded `length`.
    pub(super) fn read_vec(&mut self, length: u32) -> io::Result<Vec<u8>> {
        let mut out = vec![0; length as usize];
        self.read_exact(&mut out)?;
        Ok(out)
    }

    /// Sends everything.
    pub(super) fn write_all(&mut self, data: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(data)
    }
}

impl Timed {
    fn time_left(&self) -> io::Result<Duration> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(timed_out()),
            // The kernel counts microseconds and takes 0 as "no limit".
            left => Ok(left.max(Duration::from_millis(1))),
        }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.time_left()?))?;
        self.stream.read(buffer).map_err(name_time_out)
    }
}

impl Write for Timed {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let left = self.time_left()?;
        self.stream.set_write_timeout(Some(left))?;
        self.stream.write(data).map_err(name_time_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The kernel reports an elapsed socket time-out as "would block".
fn name_time_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { timed_out() } else { error }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the NBD server did not answer in time")
}
