//! The places that connections have at the door, and who gives his up when all are taken.
//!
//! A connection *rests* until a whole request of it has arrived, and again after each answer. When somebody comes and no
//! place is free, the connection that has rested longest is closed: it may be a client that keeps a connection for
//! later, which connects again, or a stranger who opened it to keep others out. A request that has arrived is never
//! given up for a newcomer. So any number of half-open connections cost a client that speaks nothing but a place in
//! line, as long as fewer come than there are places in the time that he needs to send his request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// All places.
pub(super) struct Places {
    free: Arc<Semaphore>,
    resting: Mutex<Resting>,
}

/// Connections that may be closed for others.
#[derive(Default)]
struct Resting {
    next: u64,
    /// A newcomer waits and found nobody to close.
    wanted: bool,
    /// By the time since when they rest, longest first.
    oldest: BTreeMap<u64, Arc<Notify>>,
}

/// One connection's place; free again when dropped.
pub(super) struct Place {
    places: Arc<Places>,
    /// Under which number it rests; `None` while it works on a request.
    number: Mutex<Option<u64>>,
    closing: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

/// What the locks guard is a number or a map that each statement leaves whole, so a panic elsewhere did no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    pub fn new(count: usize) -> Arc<Self> {
        Arc::new(Self { free: Arc::new(Semaphore::new(count)), resting: Mutex::default() })
    }

    /// If no place is free, closes the connection that has rested longest. Call once for each newcomer.
    pub fn make_room(&self) {
        if self.free.available_permits() > 0 {
            return;
        }
        let mut resting = lock(&self.resting);
        match resting.oldest.pop_first() {
            Some((_, closing)) => closing.notify_one(),
            None => resting.wanted = true,
        }
    }

    /// A place, as soon as there is one. `None` never happens: the semaphore is not closed.
    pub async fn take(self: &Arc<Self>) -> Option<Place> {
        let permit = Arc::clone(&self.free).acquire_owned().await.ok()?;
        let place = Place {
            places: Arc::clone(self),
            number: Mutex::new(None),
            closing: Arc::new(Notify::new()),
            _permit: permit,
        };
        // The newcomer that was waited for has come in with it.
        place.rest();
        Some(place)
    }
}

impl Place {
    /// From now on it may be closed for others. `true`: somebody waits already, so it should end with this answer.
    pub fn rest(&self) -> bool {
        let mut number = lock(&self.number);
        let mut resting = lock(&self.places.resting);
        if number.is_none() {
            let since = resting.next;
            *number = Some(since);
            resting.oldest.insert(since, Arc::clone(&self.closing));
            resting.next += 1;
        }
        std::mem::take(&mut resting.wanted)
    }

    /// A whole request has arrived: from now on it is not closed. `false` when that comes too late.
    pub fn work(&self) -> bool {
        let mut number = lock(&self.number);
        match number.take() {
            Some(since) => lock(&self.places.resting).oldest.remove(&since).is_some(),
            None => true,
        }
    }

    /// Ready when the place is wanted for somebody else.
    pub async fn closed(&self) {
        self.closing.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.work();
    }
}
