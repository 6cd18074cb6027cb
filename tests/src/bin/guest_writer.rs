//! Runs inside the tests' guest: writes of 4 KiB, one after the other through a block device, past the page cache and each
//! with an fsync. Tells how long each took, in microseconds: `GUEST write 1234`. Ends only with the guest.
//!
//! `guest_writer /dev/vdb`

#![expect(clippy::print_stdout, reason = "its output is the guest's console")]

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

/// Length of a write, and what O_DIRECT wants its memory aligned to.
const LENGTH: usize = 4096;
/// O_DIRECT of Linux on x86-64.
const DIRECT: i32 = 0o40000;
/// Between two writes, so that it is the disk that is measured and not the console.
const PAUSE: Duration = Duration::from_millis(5);

fn main() -> std::io::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_default();
    let mut device = OpenOptions::new().read(true).write(true).custom_flags(DIRECT).open(path)?;
    let size = device.seek(SeekFrom::End(0))?;
    let memory = vec![0x5a; 2 * LENGTH];
    let start = memory.as_ptr().align_offset(LENGTH);
    let piece = &memory[start..start + LENGTH];
    loop {
        for at in 0..size / LENGTH as u64 {
            let began = Instant::now();
            device.write_all_at(piece, at * LENGTH as u64)?;
            device.sync_all()?;
            println!("GUEST write {}", began.elapsed().as_micros());
            std::thread::sleep(PAUSE);
        }
    }
}
