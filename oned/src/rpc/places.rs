//! The places that connections have at the door, and who gives his up when all are taken.
//!
//! A connection *rests* until a whole request of it has arrived, and again once its answer is sent. When somebody comes
//! and no place is free, the connection that has rested longest is *wanted* once it has rested for [`Limits::grace`]: it
//! may be a client that keeps a connection for later, which connects again, or a stranger who opened it to keep others
//! out. It is closed unless a whole request of it turns out to have arrived; then that is answered and another one is
//! wanted in its stead. So neither a request that has arrived nor an answer on its way is given up for a newcomer, a
//! client that sends its request within that time never loses its place, and half-open connections hold others up for a
//! moment only, however long they last.
//!
//! [`Limits::grace`]: super::server::Limits::grace

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};

/// How long a wanted connection is still read from. Any time will do: while we sleep the runtime asks the kernel what
/// has arrived, and only then for timers that are over.
const LAST_LOOK: Duration = Duration::from_millis(1);

/// All places.
pub(super) struct Places {
    free: Arc<Semaphore>,
    grace: Duration,
    resting: Mutex<Resting>,
    /// A wanted connection had a request after all.
    spared: Notify,
}

/// Connections that may be closed for others.
#[derive(Default)]
struct Resting {
    next: u64,
    /// In the order in which they began to rest.
    oldest: BTreeMap<u64, (Instant, Arc<Notify>)>,
}

/// One connection's place; free again when dropped.
pub(super) struct Place {
    places: Arc<Places>,
    /// Under which number it rests; `None` while it works on a request. It is wanted when nobody rests under that number.
    number: Mutex<Option<u64>>,
    wanted: Arc<Notify>,
    /// The answer was handed over, but may not be sent yet.
    answered: Arc<AtomicBool>,
    _permit: OwnedSemaphorePermit,
}

/// What the locks guard is a number or a map that each statement leaves whole, so a panic elsewhere did no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    pub fn new(count: usize, grace: Duration) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(count));
        Arc::new(Self { free, grace, resting: Mutex::default(), spared: Notify::new() })
    }

    /// A place for a newcomer, as soon as there is one; closes another connection for it if none is free.
    pub async fn take(self: &Arc<Self>) -> Place {
        let permit = tokio::select! {
            biased;
            permit = Arc::clone(&self.free).acquire_owned() => permit,
            never = self.make_room() => match never {},
        };
        let permit = match permit {
            Ok(permit) => permit,
            // The semaphore is never closed.
            Err(_) => pending().await,
        };
        let (number, wanted) = (Mutex::new(None), Arc::new(Notify::new()));
        let place = Place { places: Arc::clone(self), number, wanted, answered: Arc::default(), _permit: permit };
        place.rest();
        place
    }

    /// Wants one connection, and another each time that one is spared.
    async fn make_room(&self) -> Infallible {
        loop {
            self.want_one().await;
            self.spared.notified().await;
        }
    }

    /// Wants the connection that has rested longest, when it has rested long enough.
    async fn want_one(&self) {
        loop {
            let long_enough = {
                let mut resting = lock(&self.resting);
                match resting.oldest.first_entry() {
                    Some(oldest) if oldest.get().0.elapsed() >= self.grace => {
                        oldest.remove().1.notify_one();
                        return;
                    }
                    Some(oldest) => Some(oldest.get().0 + self.grace),
                    None => None,
                }
            };
            match long_enough {
                Some(time) => sleep_until(time).await,
                // Everybody works. A pause of no length would spin.
                None => sleep(self.grace.max(LAST_LOOK)).await,
            }
        }
    }
}

impl Place {
    /// From now on it may be closed for others.
    fn rest(&self) {
        let mut number = lock(&self.number);
        if number.is_none() {
            let mut resting = lock(&self.places.resting);
            let since = resting.next;
            *number = Some(since);
            resting.oldest.insert(since, (Instant::now(), Arc::clone(&self.wanted)));
            resting.next += 1;
        }
    }

    /// A whole request has arrived: from now on it is not closed until the answer is sent.
    pub fn work(&self) {
        self.answered.store(false, Ordering::Relaxed);
        if self.leave_rest().is_some_and(|was_wanted| was_wanted) {
            self.places.spared.notify_one();
        }
    }

    /// Says by its end that the answer has been handed over, so that the place rests once all of it is sent.
    pub fn answering(&self) -> Answering {
        Answering(Arc::clone(&self.answered))
    }

    /// Ready when the place is wanted for somebody else and no whole request has arrived. Whoever waits for this reads
    /// from the connection first each time.
    pub async fn closed(&self) {
        loop {
            while !self.is_wanted() {
                self.wanted.notified().await;
            }
            sleep(LAST_LOOK).await;
            if self.is_wanted() {
                return;
            }
        }
    }

    fn is_wanted(&self) -> bool {
        let number = lock(&self.number);
        number.is_some_and(|since| !lock(&self.places.resting).oldest.contains_key(&since))
    }

    /// Whether it was wanted already, if it rested.
    fn leave_rest(&self) -> Option<bool> {
        let since = lock(&self.number).take()?;
        Some(lock(&self.places.resting).oldest.remove(&since).is_none())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave_rest();
    }
}

/// See [`Place::answering`].
pub(super) struct Answering(Arc<AtomicBool>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A stream that tells the place when an answer is sent: nothing is flushed before all that was handed over is written.
pub(super) struct Told<'a, S> {
    pub stream: S,
    pub place: &'a Place,
}

impl<S: AsyncRead + Unpin> AsyncRead for Told<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Told<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(poll, Poll::Ready(Ok(()))) && self.place.answered.swap(false, Ordering::Relaxed) {
            self.place.rest();
        }
        poll
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
