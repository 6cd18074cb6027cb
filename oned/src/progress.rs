//! How far running transfers are. Kept in memory only: it tells, it decides nothing, and a restart loses nothing by it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use drivers::Progress;
use one_core::backup::config::{DISK_PROGRESS, PROGRESS};
use one_core::template::{Template, Vector};

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
    pub fn show(&self, subject: Subject, action: &str, progress: &Progress) -> Shown {
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.insert(subject, (action.to_string(), progress.clone()));
        Shown { board: self.clone(), subject }
    }

    /// Puts the transfer of `subject` into the template that its document shows: PROGRESS with ACTION, DONE_BYTES and
    /// TOTAL_BYTES, and DISK_PROGRESS with DISK_ID, DONE_BYTES and TOTAL_BYTES for each disk that was begun.
    pub fn put_into(&self, template: &mut Template, subject: Subject) {
        let board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((action, progress)) = board.get(&subject) else { return };
        let vector = |(name, value): (&str, String), done: u64, total: u64| {
            let bytes = [("DONE_BYTES", done.to_string()), ("TOTAL_BYTES", total.to_string())];
            std::iter::once((name, value))
                .chain(bytes)
                .map(|(name, value)| (name.to_owned(), value))
                .collect::<Vector>()
        };
        let (done, total) = progress.get();
        template.set_vector(PROGRESS, vector(("ACTION", action.clone()), done, total));
        for disk in progress.disks() {
            template.push_vector(DISK_PROGRESS, vector(("DISK_ID", disk.id.to_string()), disk.done, disk.total));
        }
    }
}

/// Takes a transfer off the board when dropped.
///
/// That has to be before its end is stored: a document that shows the end shows no progress any more.
#[must_use]
pub struct Shown {
    board: Board,
    subject: Subject,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.board.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.subject);
    }
}
