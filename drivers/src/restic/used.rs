//! Counts the bytes of all files below a directory, a little with each call: a store of some hundred thousand packs on a
//! slow share takes minutes, and who asks for its space waits seconds.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a finished count is good.
const GOOD_FOR: Duration = Duration::from_secs(60);
/// How long one call counts, but for the folder that it is in.
pub(super) const BUDGET: Duration = Duration::from_secs(2);

/// A count that is kept between calls.
#[derive(Default)]
pub(super) struct UsedBytes {
    finished: Option<(Instant, u64)>,
    walk: Option<Walk>,
}

/// A count under way.
struct Walk {
    folders: Vec<PathBuf>,
    bytes: u64,
}

impl UsedBytes {
    /// The bytes below `base` as last counted; while the first count is under way, those that it has found by now. Counts on
    /// for at most about `budget`, at least one folder.
    ///
    /// # Errors
    /// When a folder cannot be listed; what vanishes meanwhile does not count.
    pub(super) fn get(&mut self, base: &Path, budget: Duration) -> io::Result<u64> {
        if let (None, Some((at, bytes))) = (&self.walk, self.finished)
            && at.elapsed() < GOOD_FOR
        {
            return Ok(bytes);
        }
        let until = Instant::now() + budget;
        let mut walk = self.walk.take().unwrap_or_else(|| Walk { folders: vec![base.to_owned()], bytes: 0 });
        while let Some(folder) = walk.folders.pop() {
            match walk.count(&folder) {
                Err(error) if error.kind() == ErrorKind::NotFound && folder != base => {}
                other => other?,
            }
            if Instant::now() >= until && !walk.folders.is_empty() {
                let known = self.finished.map_or(walk.bytes, |(_, bytes)| bytes);
                self.walk = Some(walk);
                return Ok(known);
            }
        }
        self.finished = Some((Instant::now(), walk.bytes));
        Ok(walk.bytes)
    }
}

impl Walk {
    fn count(&mut self, folder: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => self.folders.push(entry.path()),
                Ok(metadata) => self.bytes = self.bytes.saturating_add(metadata.len()),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_takes_many_calls_ends_with_all_bytes_and_is_then_kept() {
        let base = tempfile::tempdir().unwrap();
        for number in 0..5_usize {
            let folder = base.path().join(format!("{number}/inner"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("file"), vec![1; 100 + number]).unwrap();
        }
        let mut used = UsedBytes::default();
        let told: Vec<u64> = (0..11).map(|_| used.get(base.path(), Duration::ZERO).unwrap()).collect();
        assert_eq!((told[0], told[10]), (0, 510));
        assert!(told.is_sorted(), "{told:?}");
        std::fs::write(base.path().join("more"), [1]).unwrap();
        assert_eq!(used.get(base.path(), Duration::ZERO).unwrap(), 510);
        // While it is counted again, what was known is told.
        used.finished = used.finished.and_then(|(at, bytes)| Some((at.checked_sub(GOOD_FOR)?, bytes)));
        for _ in 0..10 {
            assert_eq!(used.get(base.path(), Duration::ZERO).unwrap(), 510);
        }
        assert_eq!(used.get(base.path(), Duration::ZERO).unwrap(), 511);
    }

    #[test]
    fn a_place_that_is_gone_is_an_error() {
        let base = tempfile::tempdir().unwrap();
        let error = UsedBytes::default().get(&base.path().join("gone"), BUDGET).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
