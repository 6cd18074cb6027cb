//! Bodies of responses, and how many large ones there may be at a time.
//!
//! A text that is the result of a call is escaped piece by piece while it is sent: the list of a large cloud has tens of
//! megabytes, more than twice as many once it is escaped, and is in memory once only, as the method made it.
//!
//! Invariants: a body is as long as its announced length, or the connection ends before its last bytes, without which it
//! is no document; a large one holds a place in its [`Gate`] until it is sent, and who takes it too slowly is cut off, so
//! that nobody can keep the places of all.

use super::codec::{forbidden_length, special};
use super::method::Answer;
use super::places::Answering;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Bytes that are handed over at a time.
const PIECE: usize = 64 << 10;

/// Bodies above this size keep their place in the gate until they are sent.
const LARGE: u64 = 1 << 20;

/// Who takes a large answer must be at least this fast (bytes per second) once his first seconds are over.
const SLOWEST_TAKER: u64 = 128 << 10;
const FIRST_SECONDS: u64 = 15;

/// Calls that may wait at a gate at the same time; each waits on a thread.
const WAITING_MAX: usize = 16;

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<methodResponse><params><param><value><array><data>\
                    <value><boolean>1</boolean></value><value><string>";
const TAIL: &str =
    "</string></value><value><i4>0</i4></value></data></array></value></param></params></methodResponse>";

/// A response's body.
pub(super) struct AnswerBody {
    head: Bytes,
    /// Sent escaped, from `at` on.
    text: String,
    at: usize,
    tail: &'static str,
    /// Bytes that have not been handed over.
    left: u64,
    length: u64,
    began: Instant,
    place: Option<Place>,
    _answering: Option<Answering>,
}

impl AnswerBody {
    /// Bytes as they are.
    pub(super) fn whole(body: impl Into<Bytes>) -> Self {
        let head = body.into();
        let length = head.len() as u64;
        let began = Instant::now();
        Self { head, text: String::new(), at: 0, tail: "", left: length, length, began, place: None, _answering: None }
    }

    /// The answer of a call that succeeded with a text.
    pub(super) fn text(text: String) -> Self {
        let text = if text.is_empty() { Answer::EMPTY.to_owned() } else { text };
        let length = (HEAD.len() + escaped_length(&text) + TAIL.len()) as u64;
        let head = Bytes::from_static(HEAD.as_bytes());
        let began = Instant::now();
        Self { head, text, at: 0, tail: TAIL, left: length, length, began, place: None, _answering: None }
    }

    /// With a place behind the gate until it is sent, if it is large.
    pub(super) fn keeping(mut self, place: Option<Place>) -> Self {
        self.place = place.filter(|_| self.length > LARGE);
        self
    }

    /// With somebody who learns of the end of this body.
    pub(super) fn telling(self, answering: Answering) -> Self {
        Self { _answering: Some(answering), ..self }
    }

    fn is_too_slow(&self) -> bool {
        let sent = self.length - self.left;
        self.length > LARGE && self.began.elapsed().as_secs() > FIRST_SECONDS + sent / SLOWEST_TAKER
    }

    fn piece(&mut self) -> Bytes {
        if self.text.is_empty() {
            return self.head.split_to(self.head.len().min(PIECE));
        }
        let mut piece = Vec::with_capacity(usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE + HEAD.len()));
        piece.extend_from_slice(&std::mem::take(&mut self.head));
        self.at = escape(&self.text, self.at, &mut piece);
        if self.at >= self.text.len() {
            piece.extend_from_slice(self.tail.as_bytes());
            self.text = String::new();
            self.place = None;
        }
        Bytes::from(piece)
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if self.is_too_slow() {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        let piece = self.piece();
        self.left = self.left.saturating_sub(piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// What stands for the special byte at `at`, and how many bytes of the text it stands for.
fn replacement(bytes: &[u8], at: usize) -> (&'static str, usize) {
    match bytes.get(at) {
        Some(b'<') => ("&lt;", 1),
        Some(b'>') => ("&gt;", 1),
        Some(b'&') => ("&amp;", 1),
        // A reader would make a newline of a bare one.
        Some(b'\r') => ("&#13;", 1),
        _ => ("", forbidden_length(bytes, at)),
    }
}

fn escaped_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let specials = bytes.iter().enumerate().filter(|(_, byte)| special(**byte));
    let (added, dropped) = specials.fold((0, 0), |(added, dropped), (at, _)| {
        let (new, old) = replacement(bytes, at);
        (added + new.len(), dropped + old)
    });
    text.len() + added - dropped
}

/// Appends the text from `at` on, escaped, until a piece is full; where the next one begins.
fn escape(text: &str, mut at: usize, piece: &mut Vec<u8>) -> usize {
    let bytes = text.as_bytes();
    while at < bytes.len() && piece.len() < PIECE {
        let rest = bytes.get(at..).unwrap_or_default();
        let rest = rest.get(..rest.len().min(PIECE - piece.len())).unwrap_or_default();
        let plain = rest.iter().position(|byte| special(*byte)).unwrap_or(rest.len());
        piece.extend_from_slice(rest.get(..plain).unwrap_or_default());
        at += plain;
        if plain < rest.len() {
            let (new, old) = replacement(bytes, at);
            if old == 0 {
                piece.extend(bytes.get(at));
            }
            piece.extend_from_slice(new.as_bytes());
            at += old.max(1);
        }
    }
    at
}

/// Lets so many in at a time.
pub(super) struct Gate {
    state: Mutex<Taken>,
    freed: Condvar,
    places: usize,
    patience: Duration,
}

#[derive(Default)]
struct Taken {
    inside: usize,
    waiting: usize,
}

/// A place behind a gate; free again when it is dropped.
pub(super) struct Place(Arc<Gate>);

impl Gate {
    /// With so many places, each waited for at most `patience`.
    pub(super) fn new(places: usize, patience: Duration) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), freed: Condvar::new(), places, patience })
    }

    /// A place, or `None` when none became free in time or too many wait already. Blocks.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.inside >= self.places {
            if state.waiting >= WAITING_MAX {
                return None;
            }
            state.waiting += 1;
            let is_full = |state: &mut Taken| state.inside >= self.places;
            let woken = self.freed.wait_timeout_while(state, self.patience, is_full);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
            if state.inside >= self.places {
                return None;
            }
        }
        state.inside += 1;
        drop(state);
        Some(Place(Arc::clone(self)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).inside -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::codec::{answer_value, clean, encode};
    use dxr::{MethodResponse, Value};
    use proptest::prelude::*;

    /// What is sent, with the announced length checked.
    fn sent(mut body: AnswerBody) -> String {
        let announced = body.size_hint().exact().unwrap();
        let mut bytes = Vec::new();
        let mut context = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(frame)) = Pin::new(&mut body).poll_frame(&mut context) {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(!piece.is_empty() && piece.len() <= PIECE + 300);
            bytes.extend_from_slice(&piece);
        }
        assert!(body.is_end_stream());
        assert_eq!(bytes.len() as u64, announced);
        String::from_utf8(bytes).unwrap()
    }

    fn read(xml: &str) -> Value {
        MethodResponse::from_xml(xml).unwrap().value
    }

    proptest! {
        #[test]
        fn a_text_sent_in_pieces_is_read_as_the_same_answer(
            parts in proptest::collection::vec(
                prop_oneof![any::<String>(), "[<>&\r\u{7}\u{fffe}\u{ffff}\u{efff}ö]{0,9}", Just("<VM><![CDATA[a]]></VM>".repeat(999))],
                0..12,
            ),
        ) {
            let text = parts.concat();
            let xml = sent(AnswerBody::text(text.clone()));
            let kept = clean(&text).replace('\r', "\u{1}");
            let Value::Array(array) = read(&xml.replace("&#13;", "_CR_")) else { panic!("no array") };
            let expected = if text.is_empty() { "-".to_owned() } else { kept.replace('\u{1}', "_CR_") };
            prop_assert_eq!(&array[1], &Value::String(expected));
            prop_assert_eq!((&array[0], &array[2], array.len()), (&Value::Boolean(true), &Value::Integer(0), 3));
        }
    }

    #[test]
    fn an_ordinary_text_reads_as_every_other_answer_does() {
        let text = "<VM><NAME><![CDATA[a & b]]></NAME></VM>";
        let other = encode(Ok(answer_value("one.a", &Ok(Answer::Text(text.into())))));
        assert_eq!(read(&sent(AnswerBody::text(text.into()))), read(&other));
        assert_eq!(sent(AnswerBody::whole("No.\n")), "No.\n");
        assert_eq!(sent(AnswerBody::whole("")), "");
    }

    #[test]
    fn a_large_text_keeps_its_place_until_it_is_sent() {
        let gate = Gate::new(1, Duration::ZERO);
        let enter = || gate.enter();
        let of = |bytes| AnswerBody::text("x".repeat(bytes)).keeping(enter());
        let large = usize::try_from(LARGE).unwrap();
        let small = of(1);
        let first = of(large);
        drop(small);
        assert!(enter().is_none());
        sent(first);
        let dropped = of(large);
        assert!(enter().is_none());
        drop(dropped);
        assert!(enter().is_some());
    }

    fn next(body: &mut AnswerBody) -> Option<io::Result<Bytes>> {
        match Pin::new(body).poll_frame(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(frame) => frame.map(|frame| frame.map(|frame| frame.into_data().unwrap())),
            Poll::Pending => panic!("a body never waits"),
        }
    }

    #[test]
    fn who_takes_a_large_answer_too_slowly_is_cut_off_and_frees_the_place() {
        let gate = Gate::new(1, Duration::ZERO);
        let large = "x".repeat(3 * usize::try_from(LARGE).unwrap());
        let bodies = [AnswerBody::text(large.clone()).keeping(gate.enter()), AnswerBody::whole(large)];
        for mut body in bodies {
            let length = body.length;
            while length - body.left < length / 2 {
                next(&mut body).unwrap().unwrap();
            }
            let pace = FIRST_SECONDS + (length - body.left) / SLOWEST_TAKER;
            body.began = Instant::now().checked_sub(Duration::from_secs(pace)).unwrap();
            // As fast as is asked for.
            next(&mut body).unwrap().unwrap();
            body.began = body.began.checked_sub(Duration::from_secs(2)).unwrap();
            assert_eq!(next(&mut body).unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert!(body.left > 0, "the end is never sent");
            drop(body);
            assert!(gate.enter().is_some());
        }
        let mut small = AnswerBody::text("x".repeat(PIECE * 2));
        small.began = Instant::now().checked_sub(Duration::from_secs(100)).unwrap();
        sent(small);
    }

    #[test]
    fn the_last_bytes_of_an_answer_are_those_that_make_it_whole() {
        let array = vec![answer_value("one.a", &Ok(Answer::Id(1)))];
        let bodies = [
            AnswerBody::text("<VM/>".into()),
            AnswerBody::text(String::new()),
            AnswerBody::whole(encode(Ok(Value::Array(array)))),
            AnswerBody::whole(encode(Err(crate::rpc::codec::Fault::internal()))),
        ];
        for body in bodies {
            let xml = sent(body);
            let end = "</methodResponse>";
            assert_eq!(xml.find(end), Some(xml.len() - end.len()), "{xml}");
            MethodResponse::from_xml(&xml[..xml.len() - 1]).unwrap_err();
        }
    }

    #[test]
    fn a_gate_lets_those_who_wait_in_one_after_the_other_and_sends_the_rest_away() {
        let gate = Gate::new(1, Duration::from_secs(3600));
        let first = gate.enter().unwrap();
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..WAITING_MAX).map(|_| scope.spawn(|| gate.enter().is_some())).collect();
            while gate.state.lock().unwrap().waiting < WAITING_MAX {
                std::thread::yield_now();
            }
            assert!(gate.enter().is_none(), "too many wait");
            drop(first);
            assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
        });
        let state = gate.state.lock().unwrap();
        assert_eq!((state.inside, state.waiting), (0, 0));
    }

    #[test]
    fn who_waits_in_vain_at_a_gate_leaves_no_trace() {
        let gate = Gate::new(1, Duration::from_millis(1));
        let first = gate.enter();
        assert!(gate.enter().is_none());
        drop(first);
        assert!(gate.enter().is_some());
        assert_eq!(gate.state.lock().unwrap().waiting, 0);
    }
}
