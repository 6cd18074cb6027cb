//! The machine's processors: kept busy with nothing, or left alone by some processes, while something is measured.

use std::fs;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Does something while as many threads compute as there are processors.
pub fn all_busy(act: impl FnOnce() -> Result<()>) -> Result<()> {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| {
                let mut number = 1_u64;
                while !is_over.load(Ordering::Relaxed) {
                    number = black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                }
            });
        }
        let done = act();
        is_over.store(true, Ordering::Relaxed);
        done
    })
}

/// Does something while these processes keep off one processor; not at all, and false, where there is only one.
pub fn one_spared(processes: &[i32], act: impl FnOnce() -> Result<()>) -> Result<bool> {
    let all = sched_getaffinity(None)?;
    let mut most = all;
    let Some(spared) = (0..CpuSet::MAX_CPU).rev().find(|processor| all.is_set(*processor)) else { return Ok(false) };
    most.unset(spared);
    if most.count() == 0 {
        return Ok(false);
    }
    hold(processes, &most)?;
    let done = act();
    hold(processes, &all)?;
    done.map(|()| true)
}

/// Holds all threads of these processes, and those that they start later, to some processors.
fn hold(processes: &[i32], to: &CpuSet) -> Result<()> {
    for process in processes {
        let threads = format!("/proc/{process}/task");
        for thread in fs::read_dir(&threads).context(threads)? {
            let Some(thread) = thread?.file_name().to_str().and_then(|id| Pid::from_raw(id.parse().ok()?)) else {
                continue;
            };
            match sched_setaffinity(Some(thread), to) {
                // It has ended since.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error).context("holding a thread to some processors"),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_keeps_off_one_processor_and_may_use_it_again() {
        let own = i32::try_from(std::process::id()).unwrap();
        let before = sched_getaffinity(None).unwrap().count();
        let mut meanwhile = before;
        let done = one_spared(&[own], || {
            meanwhile = sched_getaffinity(None)?.count();
            Ok(())
        });
        assert_eq!((done.unwrap(), meanwhile), (before > 1, if before > 1 { before - 1 } else { before }));
        assert_eq!(sched_getaffinity(None).unwrap().count(), before);
    }

    #[test]
    fn what_is_done_beside_busy_processors_ends_them() {
        let mut done = false;
        all_busy(|| {
            done = true;
            Ok(())
        })
        .unwrap();
        assert!(done);
    }
}
