//! Reads in flight: which of their bytes have come.

/// A read that the server has not answered in full.
pub(super) struct Pending {
    pub(super) offset: u64,
    pub(super) data: Vec<u8>,
    /// Ranges of `data` that came, ascending and not overlapping.
    covered: Vec<(u32, u32)>,
    pub(super) chunks: usize,
    /// The server's word for why it failed.
    pub(super) error: Option<(u32, String)>,
}

impl Pending {
    /// A request just sent.
    pub(super) fn new(offset: u64, length: u32) -> Self {
        Self { offset, data: vec![0; length as usize], covered: Vec::new(), chunks: 0, error: None }
    }

    /// At most [`crate::MAX_READ_BYTES`].
    fn length(&self) -> u32 {
        u32::try_from(self.data.len()).unwrap_or(u32::MAX)
    }

    /// The buffer for `length` bytes at `offset` of the disk; none when they were not asked for, are none, or came before.
    pub(super) fn take(&mut self, offset: u64, length: u32) -> Option<&mut [u8]> {
        let start = u32::try_from(offset.checked_sub(self.offset)?).ok()?;
        let end = start.checked_add(length)?;
        if length == 0 || end > self.length() {
            return None;
        }
        let place = self.covered.partition_point(|range| range.0 < start);
        let left_is_free = place.checked_sub(1).is_none_or(|left| self.covered[left].1 <= start);
        let right_is_free = self.covered.get(place).is_none_or(|right| right.0 >= end);
        if !(left_is_free && right_is_free) {
            return None;
        }
        self.covered.insert(place, (start, end));
        self.data.get_mut(start as usize..end as usize)
    }

    /// All of it came at once.
    pub(super) fn take_all(&mut self) {
        self.covered = vec![(0, self.length())];
    }

    /// Whether every byte came.
    pub(super) fn is_whole(&self) -> bool {
        self.covered.iter().map(|(start, end)| end - start).sum::<u32>() == self.length()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_takes_each_byte_once_and_only_what_was_asked() {
        let mut read = Pending::new(1000, 100);
        assert!(read.take(999, 2).is_none());
        assert!(read.take(1099, 2).is_none());
        assert!(read.take(1010, 0).is_none());
        assert!(read.take(u64::MAX, 1).is_none());
        assert!(read.take(1050, 50).is_some());
        assert!(read.take(1049, 2).is_none());
        assert!(read.take(1060, 1).is_none());
        assert!(!read.is_whole());
        assert!(read.take(1000, 50).is_some());
        assert!(read.take(1000, 1).is_none());
        assert!(read.is_whole());
    }
}
