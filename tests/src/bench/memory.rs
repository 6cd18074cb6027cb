//! Memory of a process and everything it started, watched while something runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks.
const STEP: Duration = Duration::from_millis(20);

/// Resident bytes of a process and its descendants, shared pages counted once each; 0 when it is gone.
#[must_use]
pub fn resident_bytes(pid: i32) -> u64 {
    let own = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    // What other processes have mapped too (the program's own file) would be counted once per process.
    let line = own.lines().find(|line| line.starts_with("RssAnon:")).unwrap_or_default();
    let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0);
    kib * 1024 + children(pid).into_iter().map(resident_bytes).sum::<u64>()
}

/// The processes that a process has started and that live.
#[must_use]
pub fn children(pid: i32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Watches a process until asked for the highest value.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    highest: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Starts looking.
    #[must_use]
    pub fn start(pid: i32) -> Self {
        let (stop, highest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (end, most) = (Arc::clone(&stop), Arc::clone(&highest));
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                most.fetch_max(resident_bytes(pid), Ordering::Relaxed);
                std::thread::sleep(STEP);
            }
        });
        Self { stop, highest, thread }
    }

    /// The most that was seen, bytes.
    #[must_use]
    pub fn highest(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        // Only a panic of its own could make it fail, and it has none.
        self.thread.join().ok();
        self.highest.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_touched_is_seen() {
        let me = i32::try_from(std::process::id()).unwrap();
        let before = resident_bytes(me);
        let watch = Watch::start(me);
        let block = vec![1_u8; 64 << 20];
        std::thread::sleep(STEP * 5);
        std::hint::black_box(&block);
        assert!(watch.highest() >= before + (60 << 20));
    }
}
