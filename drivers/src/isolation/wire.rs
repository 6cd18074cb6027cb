//! Frames and messages between the two processes.
//!
//! A frame is 17 bytes of head (little endian: length of the body, u32; kind, one byte; reader, u32; offset, u64) and the
//! body. Frames of kind *part* and one of kind *end* make a message: the length of a JSON text (u32), the text, and bytes
//! that belong to it. Frames of kind *bulk* carry bytes of a disk.
//!
//! Invariants: memory is taken for what has come and at most one frame beyond it, whatever the other side announces; a
//! frame that came in part is kept until the rest is there.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::datastore::{Capacity, Change, Depth, Forgotten, ImageTarget, PointFacts, Restored, Stored, Verified};
use crate::room::is_full;
use crate::{Content, DiskProgress, DriverError, Extent, Kind, MAX_READ_BYTES, Result};

/// Bytes of a frame's head.
const HEAD_BYTES: usize = 17;
/// Longest body: the longest read of a disk.
pub(super) const MAX_BODY_BYTES: usize = MAX_READ_BYTES as usize;
/// Longest message that a child takes. A list of 4 Mi extents, the most that a disk has, takes 17 bytes each.
pub(super) const MAX_TO_CHILD_BYTES: usize = 128 << 20;
/// Longest message that the parent takes: a catalogue of some ten thousand points.
pub(super) const MAX_TO_PARENT_BYTES: usize = 32 << 20;
/// Longest text of an error.
const MAX_ERROR_CHARS: usize = 4096;
/// Bytes of an extent.
const EXTENT_BYTES: usize = 17;

const PART: u8 = 0;
const END: u8 = 1;
const BULK: u8 = 2;

/// What is sent.
pub(super) struct Frame {
    kind: u8,
    reader: u32,
    offset: u64,
    body: Vec<u8>,
}

impl Frame {
    /// Bytes of a disk, at most [`MAX_BODY_BYTES`].
    pub(super) fn bulk(reader: u32, offset: u64, body: Vec<u8>) -> Self {
        Self { kind: BULK, reader, offset, body }
    }

    /// Sends it whole.
    pub(super) fn write(&self, stream: &mut impl Write) -> io::Result<()> {
        write_frame(stream, self.kind, self.reader, self.offset, &self.body)
    }
}

fn write_frame(stream: &mut impl Write, kind: u8, reader: u32, offset: u64, body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_BODY_BYTES);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a frame is too long"))?;
    let mut head = [0; HEAD_BYTES];
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4] = kind;
    head[5..9].copy_from_slice(&reader.to_le_bytes());
    head[9..].copy_from_slice(&offset.to_le_bytes());
    stream.write_all(&head)?;
    stream.write_all(body)
}

/// Sends bytes of a disk, in as many frames as they need.
pub(super) fn write_bulk(stream: &mut impl Write, mut offset: u64, bytes: &[u8]) -> io::Result<()> {
    for piece in bytes.chunks(1 << 20) {
        write_frame(stream, BULK, 0, offset, piece)?;
        offset = offset.saturating_add(piece.len() as u64);
    }
    Ok(())
}

/// The frames of a message.
///
/// # Errors
/// [`Kind::Permanent`] when it is longer than `limit`, so that the other side would not take it.
pub(super) fn message(content: &impl Serialize, tail: &[u8], limit: usize) -> Result<Vec<Frame>> {
    let doing = "handing a call or its answer to another process";
    let json = serde_json::to_vec(content).map_err(|error| DriverError::other(Kind::Permanent, doing, error))?;
    let bytes = json.len().saturating_add(tail.len()).saturating_add(4);
    let length = u32::try_from(json.len()).ok().filter(|_| bytes <= limit);
    let length = length
        .ok_or_else(|| DriverError::new(Kind::Permanent, doing, format!("it is longer than {} MiB", limit >> 20)))?;
    let mut bytes = Vec::with_capacity(4 + json.len() + tail.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&json);
    bytes.extend_from_slice(tail);
    let mut frames: Vec<Frame> = bytes
        .chunks(MAX_BODY_BYTES)
        .map(|body| Frame { kind: PART, reader: 0, offset: 0, body: body.to_vec() })
        .collect();
    if let Some(last) = frames.last_mut() {
        last.kind = END;
    }
    Ok(frames)
}

/// What came.
pub(super) enum Received {
    /// See [`Message::open`].
    Message(Message),
    /// Bytes of a disk.
    Bulk {
        /// Whose.
        reader: u32,
        /// Where.
        offset: u64,
        /// Never empty.
        bytes: Vec<u8>,
    },
}

/// A message that came whole.
pub(super) struct Message(Vec<u8>);

impl Message {
    /// Its content and the bytes that belong to it.
    pub(super) fn open<T: DeserializeOwned>(&self) -> io::Result<(T, &[u8])> {
        let (length, rest) = self.0.split_first_chunk::<4>().ok_or_else(|| confused("a message is too short"))?;
        let (json, tail) = rest
            .split_at_checked(u32::from_le_bytes(*length) as usize)
            .ok_or_else(|| confused("a message is shorter than it says"))?;
        let content = serde_json::from_slice(json).map_err(|_| confused("a message cannot be read"))?;
        Ok((content, tail))
    }
}

/// The receiving end.
pub(super) struct Incoming {
    stream: UnixStream,
    max_message: usize,
    head: Option<(u8, u32, u64)>,
    /// The head or body under way, as long as it will be.
    buffer: Vec<u8>,
    filled: usize,
    /// Parts of a message.
    parts: Vec<u8>,
}

impl Incoming {
    /// Takes messages of at most `max_message` bytes from the stream.
    pub(super) fn new(stream: UnixStream, max_message: usize) -> Self {
        Self { stream, max_message, head: None, buffer: vec![0; HEAD_BYTES], filled: 0, parts: Vec::new() }
    }

    /// The stream below.
    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The next message or bytes; none when the stream's read time-out passed first.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] at the end of the stream, [`io::ErrorKind::InvalidData`] for nonsense.
    pub(super) fn next(&mut self) -> io::Result<Option<Received>> {
        loop {
            while self.filled < self.buffer.len() {
                match self.stream.read(&mut self.buffer[self.filled..]) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(count) => self.filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
            if let Some(received) = self.take()? {
                return Ok(Some(received));
            }
        }
    }

    /// Takes the head or body that is in the buffer, and makes room for the next.
    fn take(&mut self) -> io::Result<Option<Received>> {
        self.filled = 0;
        let Some((kind, reader, offset)) = self.head.take() else {
            let head: [u8; HEAD_BYTES] =
                self.buffer.as_slice().try_into().map_err(|_| confused("a frame's head is cut"))?;
            let [a, b, c, d, kind, e, f, g, h, offset @ ..] = head;
            let length = u32::from_le_bytes([a, b, c, d]) as usize;
            if length == 0 || length > MAX_BODY_BYTES || kind > BULK {
                return Err(confused("a frame has an impossible head"));
            }
            if kind != BULK && self.parts.len().saturating_add(length) > self.max_message {
                return Err(confused("a message is too long"));
            }
            self.head = Some((kind, u32::from_le_bytes([e, f, g, h]), u64::from_le_bytes(offset)));
            self.buffer = vec![0; length];
            return Ok(None);
        };
        let body = std::mem::replace(&mut self.buffer, vec![0; HEAD_BYTES]);
        if kind == BULK {
            return Ok(Some(Received::Bulk { reader, offset, bytes: body }));
        }
        if kind == END && self.parts.is_empty() {
            return Ok(Some(Received::Message(Message(body))));
        }
        self.parts.extend_from_slice(&body);
        Ok((kind == END).then(|| Received::Message(Message(std::mem::take(&mut self.parts)))))
    }
}

/// The other side does not speak as we do.
pub(super) fn confused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Extents as bytes.
pub(super) fn extents_to_bytes(extents: &[Extent]) -> Vec<u8> {
    let mut out = Vec::with_capacity(extents.len() * EXTENT_BYTES);
    for extent in extents {
        out.extend_from_slice(&extent.offset.to_le_bytes());
        out.extend_from_slice(&extent.length.to_le_bytes());
        out.push(u8::from(extent.content == Content::Data));
    }
    out
}

/// Back again. That they are ascending and on the disk is for their user to see to.
pub(super) fn extents_from_bytes(bytes: &[u8]) -> Vec<Extent> {
    let (whole, _) = bytes.as_chunks::<EXTENT_BYTES>();
    let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    whole
        .iter()
        .map(|bytes| Extent {
            offset: number(&bytes[..8]),
            length: number(&bytes[8..16]),
            content: if bytes[16] == 1 { Content::Data } else { Content::Zero },
        })
        .collect()
}

/// A [`DriverError`] on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Fault {
    kind: Kind,
    doing: String,
    reason: String,
    /// As [`is_full`] says of it, here and on the other side.
    is_full: bool,
}

impl From<&DriverError> for Fault {
    fn from(error: &DriverError) -> Self {
        let DriverError { kind, doing, reason, .. } = error;
        Self { kind: *kind, doing: doing.clone(), reason: reason.clone(), is_full: is_full(error) }
    }
}

impl Fault {
    /// The error again, its text cut and made fit for a log line.
    pub(super) fn error(self) -> DriverError {
        let plain = |text: String| -> String {
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_ERROR_CHARS).collect()
        };
        let below = self.is_full.then(|| io::Error::from(io::ErrorKind::StorageFull));
        DriverError {
            source: below.map(|error| Box::new(error) as _),
            ..DriverError::new(self.kind, plain(self.doing), plain(self.reason))
        }
    }
}

/// Where a disk's bytes come from.
#[derive(Serialize, Deserialize)]
pub(super) enum Source {
    /// From the next socket that came with the call, with this state; see [`crate::HandedOver`].
    Handed(String),
    /// From the parent, which has the reader.
    Asked {
        /// Of the disk.
        size_bytes: u64,
    },
}

/// One disk of a store.
#[derive(Serialize, Deserialize)]
pub(super) struct Disk {
    pub(super) id: u32,
    pub(super) change: Change,
    pub(super) source: Source,
    /// Whether a message with its extents follows.
    pub(super) marked: bool,
}

/// A call of [`crate::BackupDatastore`].
#[derive(Serialize, Deserialize)]
pub(super) enum Call {
    Capacity,
    Probe,
    /// The document is the message's tail.
    Store {
        series: String,
        tags: Vec<String>,
        job: String,
        time: i64,
        parent: Option<String>,
        disks: Vec<Disk>,
    },
    Find {
        series: String,
        job: String,
    },
    Inspect {
        series: String,
        point: String,
    },
    Document {
        series: String,
        point: String,
    },
    /// Without `image` the bytes go to the parent.
    Restore {
        series: String,
        point: String,
        disk: u32,
        skip_bad: bool,
        current: Option<Source>,
        image: Option<ImageTarget>,
    },
    Verify {
        series: String,
        points: Vec<String>,
        depth: Depth,
        resume: Option<String>,
    },
    Forget {
        series: String,
        points: Vec<String>,
    },
    Sweep {
        series: String,
    },
    Series,
    Points {
        series: String,
    },
}

/// What a call gave.
#[derive(Serialize, Deserialize)]
pub(super) enum Answer {
    Capacity(Capacity),
    Probed,
    Stored(Stored),
    Found(Option<Stored>),
    /// It is the message's tail.
    Document,
    Restored(Restored),
    Verified(Verified),
    Forgotten(Forgotten),
    Swept,
    Series(Vec<String>),
    Points(Vec<PointFacts>),
}

/// Messages of the parent during an operation.
#[derive(Serialize, Deserialize)]
pub(super) enum ToChild {
    /// The first one.
    Call(Call),
    /// Extents of the next disk that has some, as the tail. They follow the call.
    Marked,
    Cancel,
    /// Extents of a reader as the tail, or why not.
    Extents(u32, Option<Fault>),
    /// All ranges of a [`ToParent::Read`] were sent, or why not.
    ReadEnd(u32, Option<Fault>),
    /// The text was saved, or why not.
    Saved(Option<Fault>),
    /// Bytes could not be written; those that follow are thrown away.
    WriteFailed(Fault),
}

/// Messages of the child during an operation.
#[derive(Serialize, Deserialize)]
pub(super) enum ToParent {
    /// It goes on: bytes done and bytes in all of what belongs to no disk, and the same for each disk.
    Progress(u64, u64, Vec<DiskProgress>),
    AskExtents(u32),
    /// Ranges (offset, length) to read.
    Read(u32, Vec<(u64, u32)>),
    Save(String),
    /// The last one.
    Answer(std::result::Result<Answer, Fault>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(bytes: &[u8], limit: usize) -> io::Result<Vec<Received>> {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let writer = {
            let bytes = bytes.to_vec();
            std::thread::spawn(move || drop(ours.write_all(&bytes)))
        };
        let mut incoming = Incoming::new(theirs, limit);
        let mut found = Vec::new();
        let result = loop {
            match incoming.next() {
                Ok(received) => found.extend(received),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break Ok(found),
                Err(error) => break Err(error),
            }
        };
        drop(incoming);
        writer.join().unwrap();
        result
    }

    #[test]
    fn a_message_longer_than_a_frame_comes_whole_and_bytes_between_its_parts_too() {
        let tail: Vec<u8> = (0..MAX_BODY_BYTES + 5).map(|at| at as u8).collect();
        let mut frames = message(&ToChild::Marked, &tail, MAX_TO_CHILD_BYTES).unwrap();
        frames.insert(1, Frame::bulk(3, 7, vec![1, 2]));
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes).unwrap());
        let mut found = received(&bytes, MAX_TO_CHILD_BYTES).unwrap();
        let Some(Received::Message(message)) = found.pop() else { panic!("no message") };
        let (content, got) = message.open::<ToChild>().unwrap();
        assert!(matches!(content, ToChild::Marked) && got == tail);
        assert!(matches!(&found[..], [Received::Bulk { reader: 3, offset: 7, bytes }] if *bytes == [1, 2]));
    }

    #[test]
    fn lengths_that_nobody_sends_are_refused_before_memory_is_taken() {
        let head = |length: u32, kind: u8| [&length.to_le_bytes()[..], &[kind], &[0; 12]].concat();
        for (length, kind) in [(u32::MAX, BULK), (u32::MAX, PART), (0, END), (5, 9)] {
            let error = received(&head(length, kind), 1 << 30).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        // Many parts without an end.
        let mut bytes = Vec::new();
        for _ in 0..4 {
            bytes.extend(head(1000, PART));
            bytes.extend([7; 1000]);
        }
        assert_eq!(received(&bytes, 3500).map(|_| ()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn garbage_in_a_message_is_an_error() {
        for body in [&b""[..], &[1], &[255, 255, 255, 255, 1], &[2, 0, 0, 0, b'{', b'}'], &[0, 0, 0, 0]] {
            assert!(Message(body.to_vec()).open::<ToParent>().is_err());
        }
    }

    #[test]
    fn extents_come_back_as_they_were() {
        let all = [
            Extent { offset: 0, length: 512, content: Content::Data },
            Extent { offset: u64::MAX - 1, length: 1, content: Content::Zero },
        ];
        assert_eq!(extents_from_bytes(&extents_to_bytes(&all)), all);
        assert_eq!(extents_from_bytes(&[1; 16]), []);
    }

    #[test]
    fn an_error_that_there_is_no_room_is_still_one_on_the_other_side() {
        for (errno, full) in [(28, true), (122, true), (13, false)] {
            let error = DriverError::io("writing a", io::Error::from_raw_os_error(errno));
            let came = Fault::from(&Fault::from(&error).error()).error();
            assert_eq!((is_full(&came), came.to_string()), (full, error.to_string()));
        }
    }

    #[test]
    fn an_error_keeps_kind_and_words_in_one_line() {
        let fault = Fault::from(&DriverError::new(Kind::Corrupt, "reading", "a\nb"));
        let error = fault.error();
        assert_eq!((error.kind, error.to_string()), (Kind::Corrupt, "reading: a b".to_owned()));
    }
}
