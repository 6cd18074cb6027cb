//! What a disk held at each moment: the model that restore points are judged by.
//!
//! A disk begins as zeros, and each write makes the next *moment* of it, numbered from 0 on. QEMU lets no write be half in a
//! point in time, so a point is right when it is, byte for byte, one of the moments between two that are known. A write
//! that was begun when its QEMU was killed may be lost or not; what really became of it is read from the disk afterwards
//! ([`History::found`]).

use anyhow::{Result, bail};

/// Size of the pieces in which a found disk is compared.
const PIECE: usize = 4096;

/// Bytes that one write changed.
#[derive(Debug, Clone)]
enum Change {
    /// A length of one value.
    Fill { value: u8, length: usize },
    /// These.
    Bytes(Vec<u8>),
}

#[derive(Debug, Clone)]
struct Write {
    changes: Vec<(usize, Change)>,
    /// When it was known to be done, milliseconds of the epoch.
    done_at: Option<i64>,
}

impl Write {
    fn apply(&self, bytes: &mut [u8]) {
        for (offset, change) in &self.changes {
            match change {
                Change::Fill { value, length } => bytes[*offset..*offset + *length].fill(*value),
                Change::Bytes(new) => bytes[*offset..*offset + new.len()].copy_from_slice(new),
            }
        }
    }
}

/// A disk through time.
#[derive(Debug)]
pub struct History {
    /// The earliest moment that is still known, and its number.
    base: Vec<u8>,
    first: usize,
    writes: Vec<Write>,
    latest: Vec<u8>,
}

impl History {
    /// A disk of zeros.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { base: vec![0; bytes], first: 0, writes: Vec::new(), latest: vec![0; bytes] }
    }

    /// Its size.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.base.len()
    }

    /// The number of the newest moment, a write that was only begun included.
    #[must_use]
    pub fn newest(&self) -> usize {
        self.first + self.writes.len()
    }

    /// A write is about to be made.
    pub fn begin(&mut self, offset: usize, length: usize, value: u8) {
        let write = Write { changes: vec![(offset, Change::Fill { value, length })], done_at: None };
        write.apply(&mut self.latest);
        self.writes.push(write);
    }

    /// The last write is made, and flushed.
    pub fn done(&mut self, now_ms: i64) {
        if let Some(last) = self.writes.last_mut() {
            last.done_at = Some(now_ms);
        }
    }

    /// The disk was looked at while nobody wrote: this is what it holds, whatever became of the last write.
    pub fn found(&mut self, actual: &[u8], now_ms: i64) {
        let pieces = actual.chunks(PIECE).zip(self.latest.chunks(PIECE)).enumerate();
        let differing = pieces.filter(|(_, (actual, latest))| actual != latest);
        let changes = differing.map(|(at, (actual, _))| (at * PIECE, Change::Bytes(actual.to_vec()))).collect();
        let write = Write { changes, done_at: Some(now_ms) };
        write.apply(&mut self.latest);
        for earlier in self.writes.iter_mut().rev().take_while(|write| write.done_at.is_none()) {
            earlier.done_at = Some(now_ms);
        }
        self.writes.push(write);
    }

    /// The number of the newest moment that was surely there before a time, seconds of the epoch.
    #[must_use]
    pub fn surely_before(&self, epoch_s: i64) -> usize {
        let before = |write: &&Write| write.done_at.is_some_and(|done| done < epoch_s.saturating_mul(1000));
        self.first + self.writes.iter().take_while(before).count()
    }

    /// Judges what a restore point holds: it must be one of the moments `from..=to`; which.
    ///
    /// # Errors
    /// Telling the bytes that differ from the nearest of them.
    pub fn judge(&self, content: &[u8], from: usize, to: usize) -> Result<usize> {
        if content.len() != self.base.len() {
            bail!("it has {} bytes, the disk {}", content.len(), self.base.len());
        }
        let mut now = self.base.clone();
        let mut nearest: Option<(usize, Vec<usize>)> = None;
        for moment in self.first..=to.min(self.newest()) {
            if moment > self.first {
                self.writes[moment - self.first - 1].apply(&mut now);
            }
            if moment < from {
                continue;
            }
            let differing = differing(&now, content);
            if differing.is_empty() {
                return Ok(moment);
            }
            if nearest.as_ref().is_none_or(|(_, best)| differing.len() < best.len()) {
                nearest = Some((moment, differing));
            }
        }
        let elsewhere = self.moment_of(content).map_or_else(
            || "it is no moment that is known".to_owned(),
            |moment| format!("it is what the disk was at moment {moment}"),
        );
        let Some((moment, pieces)) = nearest else { bail!("moments {from} to {to} are not known; {elsewhere}") };
        let at = pieces[0] * PIECE;
        bail!(
            "it is none of the moments {from} to {to}; from moment {moment} it differs in {} pieces of {PIECE} bytes, the \
             first at {at}, where it has {:#04x}; {elsewhere}",
            pieces.len(),
            content[at]
        )
    }

    fn moment_of(&self, content: &[u8]) -> Option<usize> {
        let mut now = self.base.clone();
        (self.first..=self.newest()).find(|moment| {
            if *moment > self.first {
                self.writes[moment - self.first - 1].apply(&mut now);
            }
            now == content
        })
    }

    /// Forgets how the disk came to be what it was at `moment`.
    pub fn forget_before(&mut self, moment: usize) {
        let count = moment.saturating_sub(self.first).min(self.writes.len());
        for write in self.writes.drain(..count) {
            write.apply(&mut self.base);
        }
        self.first += count;
    }
}

fn differing(ours: &[u8], theirs: &[u8]) -> Vec<usize> {
    let pieces = ours.chunks(PIECE).zip(theirs.chunks(PIECE)).enumerate();
    pieces.filter(|(_, (ours, theirs))| ours != theirs).map(|(at, _)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(fills: &[(usize, usize, u8)]) -> Vec<u8> {
        let mut bytes = vec![0; 16 * PIECE];
        fills.iter().for_each(|(offset, length, value)| bytes[*offset..*offset + *length].fill(*value));
        bytes
    }

    #[test]
    fn a_point_is_right_only_if_it_is_one_moment_of_its_time() {
        let mut history = History::new(16 * PIECE);
        history.begin(0, PIECE, 1);
        history.done(1_500);
        history.begin(PIECE, PIECE, 2);
        history.done(2_500);
        history.begin(0, PIECE, 3);
        let second = disk(&[(0, PIECE, 1), (PIECE, PIECE, 2)]);
        assert_eq!(history.judge(&second, 0, 3).unwrap(), 2);
        let outside = history.judge(&second, 3, 3).unwrap_err().to_string();
        assert!(outside.contains("at moment 2"), "{outside}");
        // Of two writes only the later one: no moment.
        let torn = history.judge(&disk(&[(PIECE, PIECE, 2)]), 0, 3).unwrap_err().to_string();
        assert!(torn.contains("no moment that is known"), "{torn}");
        assert_eq!(history.surely_before(2), 1);
        assert_eq!(history.surely_before(3), 2);
        assert_eq!(history.surely_before(9), 2, "the last one is not done");
    }

    #[test]
    fn what_became_of_an_unfinished_write_is_found_and_old_moments_can_be_forgotten() {
        let mut history = History::new(16 * PIECE);
        history.begin(0, 2 * PIECE, 1);
        let half = disk(&[(0, PIECE, 1)]);
        history.found(&half, 1_000);
        assert_eq!(history.newest(), 2);
        assert_eq!(history.judge(&half, 2, 2).unwrap(), 2);
        history.begin(4 * PIECE, PIECE, 9);
        history.done(2_000);
        history.forget_before(2);
        assert_eq!(history.judge(&half, 0, 3).unwrap(), 2);
        assert_eq!(history.judge(&disk(&[(0, PIECE, 1), (4 * PIECE, PIECE, 9)]), 0, 3).unwrap(), 3);
        assert!(history.judge(&disk(&[]), 0, 3).is_err());
    }
}
