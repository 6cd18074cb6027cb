//! The places that connections have at the door, and who gives his up when all are taken.
//!
//! A connection *rests* until a whole request of it has arrived, and again after each answer. When somebody comes and no
//! place is free, the connection that has rested longest is closed once it has rested for [`Limits::grace`]: it may be
//! a client that keeps a connection for later, which connects again, or a stranger who opened it to keep others out. A
//! request that has arrived is never given up for a newcomer, and a client that sends its request within that time never
//! loses its place. So half-open connections hold others up for a moment only, however long they last.
//!
//! [`Limits::grace`]: super::server::Limits::grace

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};

/// All places.
pub(super) struct Places {
    free: Arc<Semaphore>,
    grace: Duration,
    resting: Mutex<Resting>,
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
    pub fn new(count: usize, grace: Duration) -> Arc<Self> {
        Arc::new(Self { free: Arc::new(Semaphore::new(count)), grace, resting: Mutex::default() })
    }

    /// A place for a newcomer, as soon as there is one; closes another connection for it if none is free.
    pub async fn take(self: &Arc<Self>) -> Place {
        let permit = tokio::select! {
            biased;
            Ok(permit) = Arc::clone(&self.free).acquire_owned() => permit,
            // One is closed, and then we only wait: it ends at once, or somebody else did.
            permit = async { self.close_one().await; Arc::clone(&self.free).acquire_owned().await } => match permit {
                Ok(permit) => permit,
                // The semaphore is never closed.
                Err(_) => pending().await,
            },
        };
        let (number, closing) = (Mutex::new(None), Arc::new(Notify::new()));
        let place = Place { places: Arc::clone(self), number, closing, _permit: permit };
        place.rest();
        place
    }

    /// Closes the connection that has rested longest, when it has rested long enough.
    async fn close_one(&self) {
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
                None => sleep(self.grace).await,
            }
        }
    }
}

impl Place {
    /// From now on it may be closed for others.
    pub fn rest(&self) {
        let mut number = lock(&self.number);
        if number.is_none() {
            let mut resting = lock(&self.places.resting);
            let since = resting.next;
            *number = Some(since);
            resting.oldest.insert(since, (Instant::now(), Arc::clone(&self.closing)));
            resting.next += 1;
        }
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
