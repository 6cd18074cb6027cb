//! How far running transfers are. Kept in memory only: it tells, it decides nothing, and a restart loses nothing by it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use drivers::Progress;
use one_core::template::Vector;

/// What is being worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A VM by id.
    Vm(i64),
    /// An image by id.
    Image(i64),
}

/// The board that running jobs write to and documents are rendered from; cheap to clone.
#[derive(Clone, Default)]
pub struct Board(Arc<Mutex<HashMap<Subject, (String, Progress)>>>);

impl Board {
    /// Puts a transfer up; it stays until the returned guard is dropped.
    #[must_use]
    pub fn show(&self, subject: Subject, action: &str, progress: &Progress) -> Shown {
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.insert(subject, (action.to_string(), progress.clone()));
        Shown { board: self.clone(), subject }
    }

    /// The transfer of `subject` as the vector that documents show: ACTION, DONE_BYTES, TOTAL_BYTES.
    #[must_use]
    pub fn vector(&self, subject: Subject) -> Option<Vector> {
        let board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (action, progress) = board.get(&subject)?;
        let (done, total) = progress.get();
        let mut vector = Vector::new();
        vector.set("ACTION", action.clone());
        vector.set("DONE_BYTES", done.to_string());
        vector.set("TOTAL_BYTES", total.to_string());
        Some(vector)
    }
}

/// Takes a transfer off the board when dropped.
pub struct Shown {
    board: Board,
    subject: Subject,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.board.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.subject);
    }
}
