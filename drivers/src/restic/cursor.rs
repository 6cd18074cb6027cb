//! How far a deep verification came, as a text that fits into a database's row.
//!
//! Packs are read in the order of their ids. The text counts, for each of the 256 folders of packs, how many of the needed
//! packs were read, and has a digest of their ids: packs that came or went meanwhile (a prune rewrites them) change the
//! digest, and that folder is read again. Packs in which damage was found are read again, too: so damage need not be kept.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::format::Id;
use crate::datastore::VerifyRequest;

/// Damaged packs that are kept; with more the text stays as it is, and what follows is read again.
const MAX_DAMAGED: usize = 500;

/// See the module text.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Cursor {
    /// Digest of the points.
    points: String,
    /// By the first byte of the ids: packs read, and the digest of their ids.
    folders: BTreeMap<u8, (usize, String)>,
    /// Packs with damage.
    damaged: Vec<Id>,
    /// Bytes read.
    pub(super) read_bytes: u64,
}

impl Cursor {
    /// The start of a verification.
    pub(super) fn new(request: &VerifyRequest<'_>) -> Self {
        let points = digest(request.points.iter().map(|point| point.as_bytes()));
        Self { points, ..Self::default() }
    }

    /// The one that `request` goes on from. A text that cannot be understood, or of other points, is no help: from the start.
    pub(super) fn of(request: &VerifyRequest<'_>) -> Self {
        let fresh = Self::new(request);
        let resumed = request.resume.and_then(|text| serde_json::from_str::<Self>(text).ok());
        resumed.filter(|cursor| cursor.points == fresh.points).unwrap_or(fresh)
    }

    /// Whether damage was found in a pack: it is to be read again, after the others.
    pub(super) fn is_damaged(&self, pack: &Id) -> bool {
        self.damaged.contains(pack)
    }

    /// Whether each of `packs` (ascending) was read.
    pub(super) fn finished(&self, packs: &[Id]) -> Vec<bool> {
        let mut finished = Vec::with_capacity(packs.len());
        for folder in packs.chunk_by(|a, b| a.0[0] == b.0[0]) {
            let count = match self.folders.get(&folder[0].0[0]) {
                Some((count, ids)) if *count <= folder.len() && *ids == digest_of(&folder[..*count]) => *count,
                _ => 0,
            };
            finished.extend((0..folder.len()).map(|at| at < count));
        }
        finished
    }

    /// Takes note of the packs (ascending) of which `is_done` says that they were read, up to the first of each folder that
    /// was not, and of those that have damage.
    pub(super) fn advance(&mut self, packs: &[Id], is_done: &[bool], damaged: &[Id], read_bytes: u64) {
        if damaged.len() > MAX_DAMAGED {
            return;
        }
        self.read_bytes = read_bytes;
        self.damaged = damaged.to_vec();
        self.folders.clear();
        let mut start = 0;
        for folder in packs.chunk_by(|a, b| a.0[0] == b.0[0]) {
            let count = is_done[start..start + folder.len()].iter().take_while(|done| **done).count();
            start += folder.len();
            if count > 0 {
                self.folders.insert(folder[0].0[0], (count, digest_of(&folder[..count])));
            }
        }
    }

    /// The text, below 64 KiB.
    pub(super) fn text(&self) -> String {
        // Maps with integer keys and plain lists always encode.
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn digest_of(ids: &[Id]) -> String {
    digest(ids.iter().map(|id| id.0.as_slice()))
}

fn digest<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for piece in pieces {
        hash.update((piece.len() as u64).to_le_bytes());
        hash.update(piece);
    }
    let mut text = Id(hash.finalize().into()).hex();
    text.truncate(16);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datastore::Depth;

    fn id(folder: u8, number: u8) -> Id {
        let mut id = [number; 32];
        id[0] = folder;
        Id(id)
    }

    #[test]
    fn packs_that_came_or_went_make_their_folder_unread_and_no_other() {
        let points = ["a".to_owned()];
        let request = VerifyRequest { series: "7", points: &points, depth: Depth::Deep, resume: None };
        let packs = [id(0, 1), id(0, 5), id(3, 1), id(3, 2), id(3, 3), id(9, 1)];
        let mut cursor = Cursor::new(&request);
        cursor.advance(&packs, &[true, true, true, true, false, true], &[id(0, 5)], 77);
        let text = cursor.text();
        let again = Cursor::of(&VerifyRequest { resume: Some(&text), ..request });
        assert_eq!(again, cursor);
        assert_eq!(again.finished(&packs), [true, true, true, true, false, true]);
        assert!(again.is_damaged(&id(0, 5)) && !again.is_damaged(&id(0, 1)));
        // One came into folder 0, one went from folder 9, one came behind what was read of folder 3.
        let packs = [id(0, 1), id(0, 4), id(0, 5), id(3, 1), id(3, 2), id(3, 3), id(3, 4), id(9, 2)];
        assert_eq!(again.finished(&packs), [false, false, false, true, true, false, false, false]);

        let others = ["a".to_owned(), "b".to_owned()];
        assert_eq!(Cursor::of(&VerifyRequest { points: &others, resume: Some(&text), ..request }).read_bytes, 0);
        assert_eq!(Cursor::of(&VerifyRequest { resume: Some("{]"), ..request }).read_bytes, 0);
    }

    #[test]
    fn the_text_fits_however_many_packs_there_are() {
        let points = ["a".to_owned()];
        let request = VerifyRequest { series: "7", points: &points, depth: Depth::Deep, resume: None };
        let mut packs: Vec<Id> = (0..=255).flat_map(|folder| (0..200).map(move |number| id(folder, number))).collect();
        packs.sort_unstable();
        let mut cursor = Cursor::new(&request);
        cursor.advance(&packs, &vec![true; packs.len()], &packs[..MAX_DAMAGED], u64::MAX);
        assert!(cursor.text().len() < 64 << 10, "{}", cursor.text().len());
        let before = cursor.clone();
        cursor.advance(&packs, &vec![true; packs.len()], &packs[..=MAX_DAMAGED], u64::MAX);
        assert_eq!(cursor, before);
    }
}
