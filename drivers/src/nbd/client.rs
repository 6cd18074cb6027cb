//! The conversation: handshake, block status, windowed reads.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::extents::{self, MAX_EXTENTS};
use super::failure::{lost, nonsense, refused_option, refused_request};
use super::link::Link;
use super::pending::Pending;
use super::wire::{self, Descriptor};
use crate::{Content, DiskReader, DriverError, Extent, HandedOver, Kind, MAX_READ_BYTES, Result};

/// Requests in flight. QEMU works on 16 requests of one client at a time; more would only queue.
const WINDOW: usize = 16;
/// Answers to one option before we call it nonsense; a real server sends a handful.
const MAX_OPTION_REPLIES: usize = 64;
/// Bytes that one block-status request asks about. The server may answer for less.
const STATUS_BYTES: u64 = 2 << 30;
/// Most descriptors that a whole disk may take, merged or not. Ends a conversation with a server that goes forward byte
/// by byte.
const MAX_DESCRIPTORS: usize = 64 << 20;
/// Most chunks of one answer. QEMU makes a chunk for each change between data and hole, at 512 bytes the closest.
const MAX_CHUNKS: usize = MAX_READ_BYTES as usize / 512 + 2;

/// One disk of an NBD server, readable. Says goodbye when dropped.
#[derive(Debug)]
pub struct Export {
    link: Link,
    /// How the disk is called in errors.
    name: String,
    size_bytes: u64,
    /// Answers come in chunks.
    structured: bool,
    /// Id of `base:allocation`, if granted. Without it everything counts as data.
    allocation: Option<u32>,
    /// Id of the dirty bitmap; always there when one was asked for.
    dirty: Option<u32>,
    next_cookie: u64,
    /// Something failed earlier, so answers may be missing or left over.
    broken: bool,
}

/// What a handshake agreed on, for [`Export::take_over`].
#[derive(serde::Serialize, serde::Deserialize)]
struct Agreed {
    name: String,
    size_bytes: u64,
    structured: bool,
    allocation: Option<u32>,
    dirty: Option<u32>,
    next_cookie: u64,
    timeout_ms: u32,
}

/// Header of one answer or of one chunk of it.
struct Header {
    cookie: u64,
    /// The answer ends with this one.
    done: bool,
    body: Body,
}

enum Body {
    /// An answer without chunks: error number, 0 = the bytes follow.
    Simple { errno: u32 },
    /// A chunk: its type and the length of what follows.
    Chunk { kind: u16, length: u32 },
}

impl Export {
    /// Connects to the server at `socket` and opens `export`; with `dirty_bitmap` [`DiskReader::extents`] lists only what
    /// that bitmap marks. `timeout` is the longest wait for the handshake, and later for each next answer.
    ///
    /// # Errors
    /// [`Kind::Retry`] when nobody listens or answers in time, [`Kind::Missing`] when the server does not know the export
    /// or does not grant the bitmap, [`Kind::Permanent`] when it speaks no NBD that we understand.
    pub fn connect_unix(socket: &Path, export: &str, dirty_bitmap: Option<&str>, timeout: Duration) -> Result<Self> {
        let doing = format!("opening NBD export {export:?} at {}", socket.display());
        let bitmap_context = dirty_bitmap.map(|name| format!("qemu:dirty-bitmap:{name}"));
        if export.len().max(bitmap_context.as_ref().map_or(0, String::len)) > wire::MAX_NAME_BYTES {
            return Err(DriverError::new(Kind::Permanent, doing, "the name is longer than NBD allows (4096 bytes)"));
        }
        // A socket that is not there yet is a server that is not up yet, not a missing disk.
        let link = Link::connect(socket, timeout).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => DriverError {
                kind: Kind::Retry,
                doing: doing.clone(),
                reason: "no NBD server has made this socket yet".to_owned(),
                source: Some(Box::new(e)),
            },
            _ => lost(&doing, e),
        })?;
        let mut this = Self {
            link,
            name: export.to_owned(),
            size_bytes: 0,
            structured: false,
            allocation: None,
            dirty: None,
            next_cookie: 1,
            broken: false,
        };
        this.handshake(export, bitmap_context.as_deref(), &doing).inspect_err(|_| this.broken = true)?;
        Ok(this)
    }

    /// Goes on with the connection of another process's export, which [`DiskReader::hand_over`] gave away.
    ///
    /// # Errors
    /// [`Kind::Permanent`] for a state that is none.
    pub fn take_over(given: HandedOver) -> Result<Self> {
        let doing = "taking over an NBD connection";
        let state: Agreed =
            serde_json::from_str(&given.state).map_err(|error| DriverError::other(Kind::Permanent, doing, error))?;
        if i64::try_from(state.size_bytes).is_err() {
            return Err(DriverError::new(Kind::Permanent, doing, "its size is impossible"));
        }
        Ok(Self {
            link: Link::over(given.socket, Duration::from_millis(state.timeout_ms.into())),
            name: state.name,
            size_bytes: state.size_bytes,
            structured: state.structured,
            allocation: state.allocation,
            dirty: state.dirty,
            next_cookie: state.next_cookie,
            broken: false,
        })
    }

    /// Whether the server tells what is allocated; if not, all that is asked for counts as data.
    #[must_use]
    pub fn knows_allocation(&self) -> bool {
        self.allocation.is_some()
    }

    fn handshake(&mut self, export: &str, bitmap_context: Option<&str>, doing: &str) -> Result<()> {
        self.greet(doing)?;
        let answer = self.negotiate(wire::OPT_STRUCTURED_REPLY, &[], doing, |_, _| Ok(()))?;
        self.structured = answer.is_none();
        if self.structured {
            self.choose_contexts(export, bitmap_context, doing)?;
        }
        if let Some(context) = bitmap_context
            && self.dirty.is_none()
        {
            let reason = format!("the server does not offer {context}: the bitmap is missing or unusable");
            return Err(DriverError::new(Kind::Missing, doing, reason));
        }
        self.go(export, doing)
    }

    fn greet(&mut self, doing: &str) -> Result<()> {
        let greeting: [u8; 18] = self.link.read_array().map_err(|e| lost(doing, e))?;
        let flags = u16::from_be_bytes([greeting[16], greeting[17]]);
        if wire::u64_at(&greeting, 0) != Some(wire::GREETING)
            || wire::u64_at(&greeting, 8) != Some(wire::OPTION)
            || flags & wire::FLAG_FIXED_NEWSTYLE == 0
        {
            return Err(nonsense(doing, "its greeting is not that of a fixed newstyle NBD server"));
        }
        let ours = u32::from(flags & (wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES));
        self.link.write_all(&ours.to_be_bytes()).map_err(|e| lost(doing, e))
    }

    /// Sends an option and hands each answer before the last to `each`. Returns the error's number and text if the server
    /// refused the option.
    fn negotiate(
        &mut self,
        number: u32,
        data: &[u8],
        doing: &str,
        mut each: impl FnMut(u32, &[u8]) -> Result<()>,
    ) -> Result<Option<(u32, String)>> {
        self.link.write_all(&wire::option(number, data)).map_err(|e| lost(doing, e))?;
        for _ in 0..MAX_OPTION_REPLIES {
            let head: [u8; 20] = self.link.read_array().map_err(|e| lost(doing, e))?;
            let word = |at| wire::u32_at(&head, at).unwrap_or(0);
            let (kind, length) = (word(12), word(16));
            if wire::u64_at(&head, 0) != Some(wire::OPTION_REPLY) || word(8) != number {
                return Err(nonsense(doing, "it answered another option than the one asked"));
            }
            if length > wire::MAX_OPTION_REPLY_BYTES {
                return Err(nonsense(doing, format!("it announced an option answer of {length} bytes")));
            }
            let data = self.link.read_vec(length).map_err(|e| lost(doing, e))?;
            match kind {
                wire::REP_ACK => return Ok(None),
                kind if kind & wire::REP_ERROR != 0 => return Ok(Some((kind, wire::printable(&data)))),
                kind => each(kind, &data)?,
            }
        }
        Err(nonsense(doing, "its answers to one option do not end"))
    }

    fn choose_contexts(&mut self, export: &str, bitmap_context: Option<&str>, doing: &str) -> Result<()> {
        const ALLOCATION: &str = "base:allocation";
        let mut asked = vec![ALLOCATION.to_owned()];
        asked.extend(bitmap_context.map(str::to_owned));
        let (mut allocation, mut dirty) = (None, None);
        let data = wire::set_meta_context(export, &asked);
        let refused = self.negotiate(wire::OPT_SET_META_CONTEXT, &data, doing, |kind, data| {
            let (Some(id), wire::REP_META_CONTEXT) = (wire::u32_at(data, 0), kind) else {
                return Ok(());
            };
            match data.get(4..) {
                Some(name) if name == ALLOCATION.as_bytes() => allocation = Some(id),
                Some(name) if bitmap_context.is_some_and(|b| name == b.as_bytes()) => dirty = Some(id),
                _ => {}
            }
            Ok(())
        })?;
        match refused {
            None if allocation.is_some() && allocation == dirty => {
                Err(nonsense(doing, "it gave two contexts one number"))
            }
            None => {
                (self.allocation, self.dirty) = (allocation, dirty);
                Ok(())
            }
            // No contexts at all; the caller decides whether that is enough.
            Some((wire::REP_ERR_UNSUP, _)) => Ok(()),
            Some(refusal) => Err(refused_option(doing, &refusal)),
        }
    }

    fn go(&mut self, export: &str, doing: &str) -> Result<()> {
        let mut size = None;
        let refused = self.negotiate(wire::OPT_GO, &wire::go(export), doing, |kind, data| {
            if kind == wire::REP_INFO && data.get(..2) == Some(&wire::INFO_EXPORT.to_be_bytes()) {
                size = wire::u64_at(data, 2);
            }
            Ok(())
        })?;
        if let Some(refusal) = refused {
            return Err(refused_option(doing, &refusal));
        }
        match size {
            None => Err(nonsense(doing, "it did not tell the size of the export")),
            Some(size) if i64::try_from(size).is_err() => {
                Err(nonsense(doing, format!("it claims a size of {size} bytes")))
            }
            Some(size) => {
                self.size_bytes = size;
                Ok(())
            }
        }
    }

    /// Fails once an earlier call has failed.
    fn usable(&self, doing: &str) -> Result<()> {
        if self.broken {
            return Err(DriverError::new(
                Kind::Retry,
                doing,
                "this NBD connection was given up after an earlier failure; open the export again",
            ));
        }
        Ok(())
    }

    fn send(&mut self, command: u16, offset: u64, length: u32, doing: &str) -> Result<u64> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        self.link.restart_deadline();
        self.link.write_all(&wire::request(command, cookie, offset, length)).map_err(|e| lost(doing, e))?;
        Ok(cookie)
    }

    fn read_header(&mut self, doing: &str) -> Result<Header> {
        let magic: [u8; 4] = self.link.read_array().map_err(|e| lost(doing, e))?;
        match u32::from_be_bytes(magic) {
            wire::SIMPLE_REPLY => {
                let head: [u8; 12] = self.link.read_array().map_err(|e| lost(doing, e))?;
                let errno = wire::u32_at(&head, 0).unwrap_or(0);
                Ok(Header { cookie: wire::u64_at(&head, 4).unwrap_or(0), done: true, body: Body::Simple { errno } })
            }
            wire::STRUCTURED_REPLY if self.structured => {
                let head: [u8; 16] = self.link.read_array().map_err(|e| lost(doing, e))?;
                let flags = u16::from_be_bytes([head[0], head[1]]);
                let kind = u16::from_be_bytes([head[2], head[3]]);
                Ok(Header {
                    cookie: wire::u64_at(&head, 4).unwrap_or(0),
                    done: flags & wire::CHUNK_DONE != 0,
                    body: Body::Chunk { kind, length: wire::u32_at(&head, 12).unwrap_or(0) },
                })
            }
            other => Err(nonsense(doing, format!("an answer starts with {other:#010x}"))),
        }
    }

    /// Number and text of an error chunk.
    fn read_error(&mut self, length: u32, doing: &str) -> Result<(u32, String)> {
        if !(6..=wire::MAX_ERROR_BYTES).contains(&length) {
            return Err(nonsense(doing, format!("it announced an error of {length} bytes")));
        }
        let data = self.link.read_vec(length).map_err(|e| lost(doing, e))?;
        Ok(wire::error_chunk(&data))
    }

    fn list_extents(&mut self, doing: &str) -> Result<Vec<Extent>> {
        let mut out = Vec::new();
        if self.allocation.is_none() && self.dirty.is_none() {
            extents::push(&mut out, 0, self.size_bytes, Content::Data);
            return Ok(out);
        }
        let mut at = 0;
        let mut seen = 0;
        while at < self.size_bytes {
            let length = STATUS_BYTES.min(self.size_bytes - at);
            let (allocation, dirty) = self.block_status(at, length, doing)?;
            seen += allocation.as_ref().map_or(0, Vec::len) + dirty.as_ref().map_or(0, Vec::len);
            at = extents::combine(&mut out, at, self.size_bytes, allocation.as_deref(), dirty.as_deref());
            extents::limit(&mut out, MAX_EXTENTS, at);
            if seen > MAX_DESCRIPTORS {
                let reason = format!("the server names more than {MAX_DESCRIPTORS} ranges");
                return Err(DriverError::new(Kind::Permanent, doing, reason));
            }
        }
        Ok(out)
    }

    /// What the granted contexts say from `offset` on; each granted one is there and not empty.
    fn block_status(&mut self, offset: u64, length: u64, doing: &str) -> Result<StatusOf> {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let cookie = self.send(wire::CMD_BLOCK_STATUS, offset, length, doing)?;
        let (mut allocation, mut dirty) = (None, None);
        let mut error = None;
        // One chunk for each context, one that only says "done", one error each: more is nonsense.
        for _ in 0..8 {
            let header = self.read_header(doing)?;
            if header.cookie != cookie {
                return Err(nonsense(doing, "it answered a request that was not made"));
            }
            match header.body {
                Body::Simple { errno: 0 } => return Err(nonsense(doing, "block status came without chunks")),
                Body::Simple { errno } => error = Some((errno, String::new())),
                Body::Chunk { kind: wire::CHUNK_NONE, length: 0 } => {}
                Body::Chunk { kind, length } if kind & wire::CHUNK_ERROR != 0 => {
                    error = Some(self.read_error(length, doing)?);
                }
                Body::Chunk { kind: wire::CHUNK_BLOCK_STATUS, length } if length <= wire::MAX_STATUS_BYTES => {
                    let data = self.link.read_vec(length).map_err(|e| lost(doing, e))?;
                    let list = data.get(4..).and_then(wire::descriptors);
                    let list = list.ok_or_else(|| nonsense(doing, "a block-status chunk is empty or cut"))?;
                    let id = wire::u32_at(&data, 0);
                    let slot = if id == self.allocation { &mut allocation } else { &mut dirty };
                    if slot.is_some() || (id != self.allocation && id != self.dirty) {
                        return Err(nonsense(
                            doing,
                            "block status came for a context that was not asked for, or twice",
                        ));
                    }
                    *slot = Some(list);
                }
                Body::Chunk { kind, length } => {
                    return Err(nonsense(doing, format!("block status has a chunk of type {kind}, {length} bytes")));
                }
            }
            if header.done {
                if let Some(error) = error {
                    return Err(refused_request(doing, &error));
                }
                if allocation.is_some() != self.allocation.is_some() || dirty.is_some() != self.dirty.is_some() {
                    return Err(nonsense(doing, "block status left out a granted context"));
                }
                return Ok((allocation, dirty));
            }
        }
        Err(nonsense(doing, "the chunks of one block status do not end"))
    }

    fn read_window(
        &mut self,
        ranges: &mut dyn Iterator<Item = (u64, u32)>,
        sink: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
        doing: &str,
    ) -> Result<()> {
        let mut pending: HashMap<u64, Pending> = HashMap::with_capacity(WINDOW);
        let mut more = true;
        loop {
            while more && pending.len() < WINDOW {
                let Some((offset, length)) = ranges.next() else {
                    more = false;
                    break;
                };
                self.check_range(offset, length, doing)?;
                let cookie = self.send(wire::CMD_READ, offset, length, doing)?;
                pending.insert(cookie, Pending::new(offset, length));
            }
            if pending.is_empty() {
                return Ok(());
            }
            // Neither the source of ranges nor the sink counts against the server.
            self.link.restart_deadline();
            let done = self.next_completed(&mut pending, doing)?;
            if let Some(error) = done.error {
                return Err(refused_request(&format!("{doing} at {}", done.offset), &error));
            }
            sink(done.offset, done.data)?;
        }
    }

    fn check_range(&self, offset: u64, length: u32, doing: &str) -> Result<()> {
        let inside = offset.checked_add(u64::from(length)).is_some_and(|end| end <= self.size_bytes);
        if length == 0 || length > MAX_READ_BYTES || !inside {
            let reason = format!("asked for {length} bytes at {offset} of a disk of {} bytes", self.size_bytes);
            return Err(DriverError::new(Kind::Permanent, doing, reason));
        }
        Ok(())
    }

    /// Takes chunks until one of the pending reads has its last.
    fn next_completed(&mut self, pending: &mut HashMap<u64, Pending>, doing: &str) -> Result<Pending> {
        loop {
            let header = self.read_header(doing)?;
            let entry = pending.get_mut(&header.cookie);
            let entry = entry.ok_or_else(|| nonsense(doing, "it answered a request that was not made"))?;
            entry.chunks += 1;
            if entry.chunks > MAX_CHUNKS {
                return Err(nonsense(doing, "the chunks of one read do not end"));
            }
            match header.body {
                Body::Simple { errno: 0 } if self.structured => {
                    return Err(nonsense(doing, "data came without chunks although chunks were agreed on"));
                }
                Body::Simple { errno: 0 } => {
                    self.link.read_exact(&mut entry.data).map_err(|e| lost(doing, e))?;
                    entry.take_all();
                }
                Body::Simple { errno } => entry.error = Some((errno, String::new())),
                Body::Chunk { kind, length } => self.take_chunk(kind, length, entry, doing)?,
            }
            if header.done {
                let done = pending.remove(&header.cookie);
                let done = done.ok_or_else(|| nonsense(doing, "it answered a request that was not made"))?;
                if done.error.is_none() && !done.is_whole() {
                    return Err(nonsense(doing, "a read ended before all its bytes came"));
                }
                return Ok(done);
            }
        }
    }

    fn take_chunk(&mut self, kind: u16, length: u32, entry: &mut Pending, doing: &str) -> Result<()> {
        match (kind, length) {
            (wire::CHUNK_NONE, 0) => {}
            (wire::CHUNK_DATA, 9..) => {
                let offset = u64::from_be_bytes(self.link.read_array().map_err(|e| lost(doing, e))?);
                let target = entry.take(offset, length - 8);
                let target = target.ok_or_else(|| nonsense(doing, "data came that was not asked for, or twice"))?;
                self.link.read_exact(target).map_err(|e| lost(doing, e))?;
            }
            (wire::CHUNK_HOLE, 12) => {
                let head: [u8; 12] = self.link.read_array().map_err(|e| lost(doing, e))?;
                let (offset, length) = (wire::u64_at(&head, 0), wire::u32_at(&head, 8));
                // The buffer starts as zeros and each byte is written once at most, so there is nothing to fill.
                let taken = offset.zip(length).and_then(|(offset, length)| entry.take(offset, length));
                taken.ok_or_else(|| nonsense(doing, "a hole came that was not asked for, or twice"))?;
            }
            (kind, length) if kind & wire::CHUNK_ERROR != 0 => entry.error = Some(self.read_error(length, doing)?),
            _ => return Err(nonsense(doing, format!("a read has a chunk of type {kind}, {length} bytes"))),
        }
        Ok(())
    }
}

/// Descriptors of `base:allocation` and of the dirty bitmap.
type StatusOf = (Option<Vec<Descriptor>>, Option<Vec<Descriptor>>);

impl DiskReader for Export {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn extents(&mut self) -> Result<Vec<Extent>> {
        let doing = format!("asking what disk {:?} holds", self.name);
        self.usable(&doing)?;
        self.list_extents(&doing).inspect_err(|_| self.broken = true)
    }

    fn read(
        &mut self,
        ranges: &mut dyn Iterator<Item = (u64, u32)>,
        sink: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let doing = format!("reading disk {:?}", self.name);
        self.usable(&doing)?;
        self.read_window(ranges, sink, &doing).inspect_err(|_| self.broken = true)
    }

    fn hand_over(&mut self) -> Option<HandedOver> {
        if self.broken {
            return None;
        }
        let agreed = Agreed {
            name: self.name.clone(),
            size_bytes: self.size_bytes,
            structured: self.structured,
            allocation: self.allocation,
            dirty: self.dirty,
            next_cookie: self.next_cookie,
            timeout_ms: u32::try_from(self.link.timeout().as_millis()).unwrap_or(u32::MAX),
        };
        let given = HandedOver { state: serde_json::to_string(&agreed).ok()?, socket: self.link.socket()? };
        // Two would read each other's answers, and a goodbye of this one would end the other.
        self.broken = true;
        Some(given)
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        if !self.broken {
            self.link.restart_deadline();
            let cookie = self.next_cookie;
            // Only a courtesy: closing the socket says the same.
            let _ = self.link.write_all(&wire::request(wire::CMD_DISC, cookie, 0, 0));
        }
    }
}
