//! Disks in memory.
#![allow(dead_code, reason = "no test needs all of it")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use drivers::{Cancel, Content, DiskReader, DiskWriter, DriverError, Extent, Kind, Result};

/// A disk in memory that counts what is read of it.
#[derive(Clone, Default)]
pub struct MemoryReader {
    pub data: Arc<Vec<u8>>,
    pub extents: Vec<Extent>,
    pub read_bytes: Arc<AtomicU64>,
    /// Fails the read that reaches this many bytes.
    pub fail_after: Option<u64>,
    /// Says success after this many pieces.
    pub stop_after: Option<usize>,
    /// Asks for the stop after its first piece.
    pub cancel: Option<Cancel>,
    /// Meets the test at its first read, twice: "I am here", "go on".
    pub meeting: Option<Arc<Barrier>>,
}

impl MemoryReader {
    /// Lists everything: zero pages as `Zero`.
    pub fn whole(data: &[u8]) -> Self {
        let mut extents: Vec<Extent> = Vec::new();
        for (number, page) in data.chunks(512).enumerate() {
            let content = if page.iter().all(|byte| *byte == 0) { Content::Zero } else { Content::Data };
            let length = page.len() as u64;
            match extents.last_mut() {
                Some(last) if last.content == content => last.length += length,
                _ => extents.push(Extent { offset: number as u64 * 512, length, content }),
            }
        }
        Self { data: Arc::new(data.to_vec()), extents, ..Self::default() }
    }

    /// Lists `extents` only.
    pub fn changed(data: &[u8], extents: Vec<Extent>) -> Self {
        Self { data: Arc::new(data.to_vec()), extents, ..Self::default() }
    }
}

impl DiskReader for MemoryReader {
    fn size_bytes(&self) -> u64 {
        self.data.len() as u64
    }

    fn extents(&mut self) -> Result<Vec<Extent>> {
        Ok(self.extents.clone())
    }

    fn read(
        &mut self,
        ranges: &mut dyn Iterator<Item = (u64, u32)>,
        sink: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        if let Some(meeting) = self.meeting.take() {
            meeting.wait();
            meeting.wait();
        }
        // Answers come in pairs and each pair turned round, as from a server with several requests in flight.
        let mut waiting: Vec<(u64, u32)> = Vec::new();
        let mut given = 0;
        loop {
            let next = ranges.next();
            waiting.extend(next);
            if waiting.len() < 2 && next.is_some() {
                continue;
            }
            while let Some((offset, length)) = waiting.pop() {
                let before = self.read_bytes.fetch_add(length.into(), Ordering::Relaxed);
                if self.fail_after.is_some_and(|limit| before + u64::from(length) > limit) {
                    return Err(DriverError::new(Kind::Retry, "reading a disk", "injected"));
                }
                if self.stop_after.is_some_and(|limit| given >= limit) {
                    return Ok(());
                }
                sink(offset, self.data[offset as usize..][..length as usize].to_vec())?;
                given += 1;
                if let Some(cancel) = &self.cancel {
                    cancel.cancel();
                }
            }
            if next.is_none() {
                return Ok(());
            }
        }
    }
}

/// Takes what is restored.
#[derive(Default)]
pub struct MemoryWriter {
    pub data: Vec<u8>,
    pub written: u64,
    /// As in [`MemoryReader`].
    pub meeting: Option<Arc<Barrier>>,
}

impl DiskWriter for MemoryWriter {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        if let Some(meeting) = self.meeting.take() {
            meeting.wait();
            meeting.wait();
        }
        self.data[offset as usize..][..data.len()].copy_from_slice(data);
        self.written += data.len() as u64;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Bytes that no compression shortens, the same for the same seed.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}
