//! Disks in memory that tell what was asked of them, and lie when they are told to.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use drivers::datastore::{Change, SourceDisk};
use drivers::{Cancel, Content, DiskReader, DiskWriter, DriverError, Extent, Kind, Result};

pub use crate::shared::memory::noise;

const SECTOR: usize = 512;

/// What was read of a disk.
#[derive(Clone, Default)]
pub struct Reads(Arc<Mutex<Vec<Range<u64>>>>);

impl Reads {
    pub fn bytes(&self) -> u64 {
        self.0.lock().unwrap().iter().map(|range| range.end - range.start).sum()
    }

    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Fails when anything was read but the aligned chunks that `wanted` touches, each once.
    pub fn assert_within(&self, wanted: &[Extent], chunk: u64, size: u64) {
        let allowed: Vec<Range<u64>> =
            wanted.iter().map(|extent| extent.offset / chunk * chunk..extent.end().next_multiple_of(chunk)).collect();
        let mut reads = self.0.lock().unwrap().clone();
        reads.sort_by_key(|range| range.start);
        assert!(reads.windows(2).all(|pair| pair[0].end <= pair[1].start), "something was read twice: {reads:?}");
        for read in &reads {
            assert!(read.end <= size, "{read:?} of {size} bytes was read");
            let mut at = read.start;
            while at < read.end {
                let home = allowed.iter().find(|range| range.contains(&at));
                at = home.unwrap_or_else(|| panic!("{read:?} was read, only {allowed:?} may be")).end;
            }
        }
    }
}

/// What a disk answers instead of what it was asked for, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    Nothing,
    Short,
    Long,
    Twice,
    Elsewhere,
    Beyond,
    Extra,
    /// The answer before once more, when it was as long.
    Again,
}

/// What happens before the answer of this number, from 0.
pub type Before = Box<dyn FnMut(usize) -> Result<()> + Send>;

/// A disk to store.
#[derive(Default)]
pub struct Source {
    pub bytes: Arc<Vec<u8>>,
    pub extents: Vec<Extent>,
    pub reads: Reads,
    pub before: Option<Before>,
    pub lie: Option<Lie>,
    /// What was answered last.
    pub last: Option<(u64, u32)>,
}

pub fn data(offset: u64, length: u64) -> Extent {
    Extent { offset, length, content: Content::Data }
}

pub fn zero(offset: u64, length: u64) -> Extent {
    Extent { offset, length, content: Content::Zero }
}

/// The error that tests put into reads.
pub fn injected() -> DriverError {
    DriverError::new(Kind::Retry, "reading a disk", "injected")
}

impl Source {
    /// All of a disk, sectors of zeros listed as such.
    pub fn of(bytes: &[u8]) -> Self {
        Self::listing(bytes, listed(bytes, |_| true))
    }

    /// A disk that lists `extents`.
    pub fn listing(bytes: &[u8], extents: Vec<Extent>) -> Self {
        Self { bytes: Arc::new(bytes.to_vec()), extents, ..Self::default() }
    }

    /// What is `new` on a disk that was `old`.
    pub fn since(old: &[u8], new: &[u8]) -> Self {
        Self::listing(new, differences(old, new))
    }

    /// Calls `before` ahead of each answer.
    pub fn before(self, before: impl FnMut(usize) -> Result<()> + Send + 'static) -> Self {
        Self { before: Some(Box::new(before)), ..self }
    }

    /// Fails the answer of this number.
    pub fn failing(self, number: usize) -> Self {
        self.before(move |at| if at == number { Err(injected()) } else { Ok(()) })
    }

    /// Asks for the stop ahead of the answer of this number.
    pub fn cancelling(self, number: usize, cancel: &Cancel) -> Self {
        let cancel = cancel.clone();
        self.before(move |at| {
            if at == number {
                cancel.cancel();
            }
            Ok(())
        })
    }

    pub fn lying(self, lie: Lie) -> Self {
        Self { lie: Some(lie), ..self }
    }

    pub fn whole(self, id: u32) -> SourceDisk {
        SourceDisk { id, reader: Box::new(self), change: Change::Whole, marked: None }
    }

    pub fn changes(self, id: u32) -> SourceDisk {
        SourceDisk { id, reader: Box::new(self), change: Change::SinceParent, marked: None }
    }

    pub fn compared(self, id: u32, marked: Option<Vec<Extent>>) -> SourceDisk {
        SourceDisk { id, reader: Box::new(self), change: Change::Compare, marked }
    }

    fn answer(&mut self, (offset, length): (u64, u32), sink: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>) -> Result<()> {
        let number = self.reads.count();
        self.reads.0.lock().unwrap().push(offset..offset + u64::from(length));
        if let Some(before) = &mut self.before {
            before(number)?;
        }
        let bytes = self.bytes[offset as usize..][..length as usize].to_vec();
        let answered = match self.lie.take() {
            None => sink(offset, bytes),
            Some(Lie::Nothing) => Ok(()),
            Some(Lie::Short) => sink(offset, bytes[..bytes.len() - 1].to_vec()),
            Some(Lie::Long) => sink(offset, [bytes, vec![1]].concat()),
            Some(Lie::Twice) => sink(offset, bytes.clone()).and_then(|()| sink(offset, bytes)),
            Some(Lie::Elsewhere) => sink(offset + 1, bytes),
            Some(Lie::Beyond) => sink(1 << 60, bytes),
            Some(Lie::Again) => match self.last {
                Some((offset, last)) if last == length => {
                    sink(offset, self.bytes[offset as usize..][..length as usize].to_vec())
                }
                _ => {
                    self.lie = Some(Lie::Again);
                    sink(offset, bytes)
                }
            },
            Some(Lie::Extra) => sink(offset, bytes).and_then(|()| sink(self.bytes.len() as u64, vec![1])),
        };
        self.last = Some((offset, length));
        answered
    }
}

impl DiskReader for Source {
    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn extents(&mut self) -> Result<Vec<Extent>> {
        Ok(self.extents.clone())
    }

    fn read(
        &mut self,
        ranges: &mut dyn Iterator<Item = (u64, u32)>,
        sink: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        // Three at a time and the last one first, as from a server with several requests in flight.
        loop {
            let mut waiting: Vec<(u64, u32)> = (0..3).map_while(|_| ranges.next()).collect();
            if waiting.is_empty() {
                return Ok(());
            }
            while let Some(range) = waiting.pop() {
                self.answer(range, sink)?;
            }
        }
    }
}

/// Where a disk is restored to.
#[derive(Default)]
pub struct Target {
    pub bytes: Vec<u8>,
    pub written: u64,
    /// What happens before each write.
    pub before: Option<Before>,
    writes: usize,
}

impl Target {
    pub fn new(size: usize) -> Self {
        Self { bytes: vec![0; size], ..Self::default() }
    }
}

impl DiskWriter for Target {
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        if let Some(before) = &mut self.before {
            before(self.writes)?;
        }
        self.writes += 1;
        self.bytes[offset as usize..][..data.len()].copy_from_slice(data);
        self.written += data.len() as u64;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// A long disk that needs no memory: every byte of it is the number of its read.
pub struct Endless {
    pub size: u64,
    pub reads: Reads,
    pub before: Before,
}

impl DiskReader for Endless {
    fn size_bytes(&self) -> u64 {
        self.size
    }

    fn extents(&mut self) -> Result<Vec<Extent>> {
        Ok(vec![data(0, self.size)])
    }

    fn read(
        &mut self,
        ranges: &mut dyn Iterator<Item = (u64, u32)>,
        sink: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        for (offset, length) in ranges {
            let number = self.reads.count();
            self.reads.0.lock().unwrap().push(offset..offset + u64::from(length));
            (self.before)(number)?;
            sink(offset, vec![(number % 255) as u8 + 1; length as usize])?;
        }
        Ok(())
    }
}

/// The sectors for which `is_listed`, as extents.
fn listed(bytes: &[u8], is_listed: impl Fn(usize) -> bool) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for (number, sector) in bytes.chunks(SECTOR).enumerate().filter(|(number, _)| is_listed(*number)) {
        let content = if sector.iter().all(|byte| *byte == 0) { Content::Zero } else { Content::Data };
        let (offset, length) = ((number * SECTOR) as u64, sector.len() as u64);
        match extents.last_mut() {
            Some(last) if last.content == content && last.end() == offset => last.length += length,
            _ => extents.push(Extent { offset, length, content }),
        }
    }
    extents
}

/// The sectors that differ between two states of a disk.
pub fn differences(old: &[u8], new: &[u8]) -> Vec<Extent> {
    assert_eq!(old.len(), new.len());
    listed(new, |number| {
        let range = number * SECTOR..((number + 1) * SECTOR).min(new.len());
        old[range.clone()] != new[range]
    })
}

/// Changes every byte of a range, none of them to what it was.
pub fn invert(bytes: &mut [u8]) {
    for byte in bytes {
        *byte = !*byte;
    }
}

/// Bytes of which none is zero.
pub fn solid(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = noise(length, seed);
    for byte in &mut bytes {
        *byte |= 1;
    }
    bytes
}
