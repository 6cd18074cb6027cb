//! What kind of image a file is, from its own bytes.
//!
//! Nothing here trusts the file: all reads are bounded (at most one qcow2 cluster, 2 MiB, and the last sector), numbers
//! are checked before they are used, and no other file is opened. Layout: QEMU's `docs/interop/qcow2.txt`, limits as in
//! QEMU's block driver, so that what passes here is not refused at the start of the VM.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::SECTOR_BYTES;
use crate::hypervisor::DiskFormat;
use crate::{DriverError, Kind, Result};

/// What an image file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFacts {
    /// Its format.
    pub format: DiskFormat,
    /// The size that a guest sees, bytes. For raw the file's length, rounded up to whole sectors as QEMU does.
    pub virtual_size_bytes: u64,
    /// Bytes that the file takes on its file system.
    pub allocated_bytes: u64,
    /// The file that unallocated ranges are read from, as written in the header; never followed here.
    pub backing: Option<String>,
    /// Guest data lies in another file.
    pub external_data: bool,
    /// It holds internal snapshots.
    pub has_snapshots: bool,
    /// More about qcow2; none for raw.
    pub qcow2: Option<Qcow2Facts>,
}

/// The parts of a qcow2 header that decide what can be done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qcow2Facts {
    /// 2 (`compat=0.10`) or 3.
    pub version: u32,
    /// Bytes of a cluster.
    pub cluster_bytes: u32,
    /// Format of the backing file, if the header names it.
    pub backing_format: Option<String>,
    /// Guest data is encrypted.
    pub encrypted: bool,
    /// Persistent bitmaps.
    pub bitmaps: u32,
    /// The incompatible-feature bits, all known ones: 0 dirty, 1 corrupt, 2 external data, 3 compression type, 4 extended L2.
    pub incompatible_features: u64,
}

impl ImageFacts {
    /// Whether QEMU can keep dirty bitmaps in it: qcow2 of version 3.
    #[must_use]
    pub fn can_track(&self) -> bool {
        self.qcow2.as_ref().is_some_and(|q| q.version >= 3)
    }

    /// Whether the header is marked corrupt by whoever wrote the image.
    #[must_use]
    pub fn is_marked_corrupt(&self) -> bool {
        self.qcow2.as_ref().is_some_and(|q| q.incompatible_features & FEATURE_CORRUPT != 0)
    }
}

/// What the first and last bytes of a file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signature {
    Qcow2,
    /// A format that is no plain disk; its name.
    Foreign(&'static str),
    /// Bytes that can be a wrapping as well as the honest start of a plain disk; its name.
    Doubtful(&'static str),
    Raw,
}

const FEATURE_CORRUPT: u64 = 1 << 1;
const FEATURE_EXTERNAL_DATA: u64 = 1 << 2;
const FEATURE_EXTENDED_L2: u64 = 1 << 4;
const KNOWN_FEATURES: u64 = 0b1_1111;

/// Bytes of the fixed part of a version 2 header.
const HEADER_V2_BYTES: usize = 72;
/// Shortest version 3 header.
const HEADER_V3_BYTES: usize = 104;
/// Longest name of a backing file (specification).
const MAX_BACKING_BYTES: usize = 1023;
/// QEMU's limit of the first-level table, 32 MiB.
const MAX_L1_ENTRIES: u64 = (32 << 20) / 8;
/// QEMU's limit of the refcount table.
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// QEMU's limit.
const MAX_SNAPSHOTS: u32 = 65_536;
/// QEMU's limit.
const MAX_BITMAPS: u32 = 65_535;
/// Header extensions; QEMU writes five at most.
const MAX_EXTENSIONS: usize = 100;

/// Looks at the image file `path`.
///
/// # Errors
/// [`Kind::Missing`] when there is no such file; [`Kind::Permanent`] when it is no regular file, or of a format that is
/// neither qcow2 nor raw; [`Kind::Corrupt`] when it starts like qcow2 and is not sound.
pub fn probe(path: &Path) -> Result<ImageFacts> {
    let doing = format!("looking at {}", path.display());
    // A named pipe would hold a plain open until somebody writes into it.
    let file = OpenOptions::new().read(true).custom_flags(nonblocking()).open(path);
    let file = file.map_err(|e| DriverError::io(&*doing, e))?;
    probe_file(&file, &doing, false)
}

/// O_NONBLOCK as std wants it.
fn nonblocking() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits().cast_signed()
}

/// The same of an open file. `called_raw`: somebody who should know says that it is raw, which settles doubtful starts.
pub(super) fn probe_file(file: &File, doing: &str, called_raw: bool) -> Result<ImageFacts> {
    let meta = file.metadata().map_err(|e| DriverError::io(doing, e))?;
    if !meta.is_file() {
        return Err(DriverError::new(Kind::Permanent, doing, "it is not a regular file"));
    }
    let head = read_at_most(file, 0, 4096, doing)?;
    let tail = read_at_most(file, meta.len().saturating_sub(SECTOR_BYTES), SECTOR_BYTES, doing)?;
    let name = match signature(&head, &tail) {
        Signature::Qcow2 => {
            let cluster = cluster_bytes(&head).map_err(|reason| DriverError::new(Kind::Corrupt, doing, reason))?;
            let first = read_at_most(file, 0, cluster.max(4096), doing)?;
            return parse_qcow2(&first, meta.len())
                .map(|mut facts| {
                    facts.allocated_bytes = meta.blocks().saturating_mul(512);
                    facts
                })
                .map_err(|reason| DriverError::new(Kind::Corrupt, doing, reason));
        }
        Signature::Foreign(name) => name,
        Signature::Doubtful(name) if !called_raw => name,
        Signature::Doubtful(_) | Signature::Raw => {
            return Ok(ImageFacts {
                format: DiskFormat::Raw,
                virtual_size_bytes: meta.len().next_multiple_of(SECTOR_BYTES),
                allocated_bytes: meta.blocks().saturating_mul(512),
                backing: None,
                external_data: false,
                has_snapshots: false,
                qcow2: None,
            });
        }
    };
    let reason = format!("it is {name}; only qcow2 and raw images can be used (qemu-img convert -O qcow2 makes one)");
    Err(DriverError::new(Kind::Permanent, doing, reason))
}

/// Recognises a format by its magic numbers, taken from the formats' own specifications.
pub(super) fn signature(head: &[u8], tail: &[u8]) -> Signature {
    const STARTS: [(&[u8], &str); 13] = [
        (b"QFI\xfb\x00\x00\x00\x01", "a QEMU image of the first version (qcow)"),
        (b"QED\0", "a QED image"),
        (b"KDMV", "a VMDK image"),
        (b"COWD", "a VMDK image"),
        (b"# Disk DescriptorFile", "a VMDK descriptor"),
        (b"vhdxfile", "a VHDX image"),
        (b"conectix", "a VHD image"),
        (b"WithoutFreeSpace", "a Parallels image"),
        (b"WithouFreSpacExt", "a Parallels image"),
        (b"Bochs Virtual HD Image", "a Bochs image"),
        (b"#!/bin/sh\n#V2.0 Format", "a cloop image"),
        (b"<<< ", "a VDI image"),
        (b"OOOM", "a User Mode Linux COW file"),
    ];
    const DOUBTFUL: [(&[u8], &str); 5] = [
        (b"LUKS\xba\xbe", "a LUKS container"),
        (b"\x1f\x8b", "compressed by gzip"),
        (b"\xfd7zXZ\0", "compressed by xz"),
        (b"BZh", "compressed by bzip2"),
        (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    ];
    if let Some((_, name)) = STARTS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Signature::Foreign(name);
    }
    if head.starts_with(b"QFI\xfb") {
        return Signature::Qcow2;
    }
    if head.get(64..68) == Some(&0xbeda_107f_u32.to_le_bytes()) {
        return Signature::Foreign("a VDI image");
    }
    if tail.starts_with(b"conectix") {
        return Signature::Foreign("a VHD image of fixed size");
    }
    if tail.starts_with(b"koly") {
        return Signature::Foreign("an Apple disk image");
    }
    match DOUBTFUL.iter().find(|(magic, _)| head.starts_with(magic)) {
        Some((_, name)) => Signature::Doubtful(name),
        None => Signature::Raw,
    }
}

/// Reads `length` bytes at `offset`, or what is there of them.
fn read_at_most(file: &File, offset: u64, length: u64, doing: &str) -> Result<Vec<u8>> {
    let mut out = vec![0; usize::try_from(length).unwrap_or(0)];
    let mut done = 0;
    while done < out.len() {
        match file.read_at(&mut out[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(DriverError::io(doing, e)),
        }
    }
    out.truncate(done);
    Ok(out)
}

fn cluster_bytes(head: &[u8]) -> std::result::Result<u64, String> {
    match be32(head, 20) {
        Some(bits @ 9..=21) => Ok(1 << bits),
        Some(bits) => Err(format!("its qcow2 header names clusters of 2^{bits} bytes (2^9 to 2^21 are possible)")),
        None => Err(cut()),
    }
}

/// `first` is the file's first cluster, or all of a shorter file.
fn parse_qcow2(first: &[u8], file_bytes: u64) -> std::result::Result<ImageFacts, String> {
    let cluster = cluster_bytes(first)?;
    let word = |at| be32(first, at).ok_or_else(cut);
    let long = |at| be64(first, at).ok_or_else(cut);
    let version = word(4)?;
    let (features, header_bytes) = match version {
        2 => (0, HEADER_V2_BYTES),
        3 => (long(72)?, usize::try_from(word(100)?).unwrap_or(usize::MAX)),
        other => return Err(format!("its qcow2 version is {other} (2 and 3 are known)")),
    };
    if features & !KNOWN_FEATURES != 0 {
        return Err(format!("it uses qcow2 features that are not known here (bits {features:#x})"));
    }
    if version == 3 && (header_bytes < HEADER_V3_BYTES || header_bytes as u64 > cluster || word(96)? > 6) {
        return Err("its qcow2 header has impossible lengths".to_owned());
    }
    let encryption = word(32)?;
    if encryption > 2 {
        return Err(format!("its qcow2 encryption method is {encryption} (0, 1 and 2 are known)"));
    }
    let snapshots = word(60)?;
    if snapshots > MAX_SNAPSHOTS {
        return Err(format!("its qcow2 header names {snapshots} snapshots"));
    }
    check_tables(first, features, cluster, file_bytes)?;
    let backing = backing_name(first, header_bytes, cluster)?;
    let extensions = Extensions::parse(first, header_bytes, backing.as_ref().map_or(cluster, |(at, _)| *at))?;
    let external_data = features & FEATURE_EXTERNAL_DATA != 0;
    Ok(ImageFacts {
        format: DiskFormat::Qcow2,
        virtual_size_bytes: long(24)?,
        allocated_bytes: 0,
        backing: backing.map(|(_, name)| name),
        external_data: external_data || extensions.data_file,
        has_snapshots: snapshots > 0,
        qcow2: Some(Qcow2Facts {
            version,
            cluster_bytes: u32::try_from(cluster).unwrap_or(u32::MAX),
            backing_format: extensions.backing_format,
            encrypted: encryption != 0 || extensions.encryption,
            bitmaps: extensions.bitmaps,
            incompatible_features: features,
        }),
    })
}

/// The size against the first-level table, and both tables against the file.
fn check_tables(first: &[u8], features: u64, cluster: u64, file_bytes: u64) -> std::result::Result<(), String> {
    let size = be64(first, 24).ok_or_else(cut)?;
    let l1_entries = u64::from(be32(first, 36).ok_or_else(cut)?);
    let l1_at = be64(first, 40).ok_or_else(cut)?;
    let refcounts_at = be64(first, 48).ok_or_else(cut)?;
    let refcounts_bytes = u64::from(be32(first, 56).ok_or_else(cut)?) * cluster;
    let entry = if features & FEATURE_EXTENDED_L2 == 0 { 8 } else { 16 };
    // At most 2^21 × 2^18 bytes, so this does not overflow.
    let bytes_per_l1_entry = cluster * (cluster / entry);
    if size.div_ceil(bytes_per_l1_entry) > l1_entries || l1_entries > MAX_L1_ENTRIES || i64::try_from(size).is_err() {
        return Err(format!("its qcow2 header names an impossible size ({size} bytes, {l1_entries} table entries)"));
    }
    let inside =
        |at: u64, bytes: u64| at.is_multiple_of(cluster) && at.checked_add(bytes).is_some_and(|end| end <= file_bytes);
    if l1_entries > 0 && (l1_at == 0 || !inside(l1_at, l1_entries * 8)) {
        return Err("its first-level table lies outside the file; it is damaged or was not copied whole".to_owned());
    }
    // The last cluster may be cut short: QEMU extends files only as far as it writes.
    if refcounts_bytes == 0 || refcounts_bytes > MAX_REFCOUNT_TABLE_BYTES || !inside(refcounts_at, 8) {
        return Err("its refcount table lies outside the file; it is damaged or was not copied whole".to_owned());
    }
    Ok(())
}

/// Where the name of the backing file lies, and the name.
fn backing_name(first: &[u8], header_bytes: usize, cluster: u64) -> std::result::Result<Option<(u64, String)>, String> {
    let at = be64(first, 8).ok_or_else(cut)?;
    let length = be32(first, 16).ok_or_else(cut)? as usize;
    if at == 0 {
        return Ok(None);
    }
    let bad = || "the place of its backing file's name is impossible".to_owned();
    let start = usize::try_from(at).map_err(|_| bad())?;
    let end = start.checked_add(length).ok_or_else(bad)?;
    if start < header_bytes || length > MAX_BACKING_BYTES || end as u64 > cluster {
        return Err(bad());
    }
    let name = first.get(start..end).ok_or_else(cut)?;
    Ok(Some((at, String::from_utf8_lossy(name).into_owned())))
}

/// What the header extensions say.
#[derive(Default)]
struct Extensions {
    backing_format: Option<String>,
    data_file: bool,
    encryption: bool,
    bitmaps: u32,
}

impl Extensions {
    const END: u32 = 0;
    const BACKING_FORMAT: u32 = 0xe279_2aca;
    const BITMAPS: u32 = 0x2385_2875;
    const ENCRYPTION: u32 = 0x0537_be77;
    const DATA_FILE: u32 = 0x4441_5441;

    fn parse(first: &[u8], header_bytes: usize, end: u64) -> std::result::Result<Self, String> {
        let mut out = Self::default();
        let mut at = header_bytes;
        for _ in 0..MAX_EXTENSIONS {
            // Without room for another one the list ends as well.
            if at as u64 + 8 > end {
                return Ok(out);
            }
            // A file that ends within its first cluster is one that nothing was written to yet; the rest reads as zeros.
            let kind = be32(first, at).unwrap_or(Self::END);
            let length = be32(first, at + 4).unwrap_or(0) as usize;
            if kind == Self::END {
                return Ok(out);
            }
            let start = at + 8;
            let stop = start.checked_add(length).filter(|stop| *stop as u64 <= end);
            let data = stop.and_then(|stop| first.get(start..stop));
            let data = data.ok_or_else(|| "a header extension reaches past the header".to_owned())?;
            match kind {
                Self::BACKING_FORMAT => {
                    out.backing_format = Some(String::from_utf8_lossy(&data[..length.min(64)]).into_owned());
                }
                Self::DATA_FILE => out.data_file = true,
                Self::ENCRYPTION => out.encryption = true,
                Self::BITMAPS => {
                    out.bitmaps = be32(data, 0).ok_or_else(cut)?;
                    if out.bitmaps > MAX_BITMAPS {
                        return Err(format!("its qcow2 header names {} bitmaps", out.bitmaps));
                    }
                }
                _ => {}
            }
            at = start + length.next_multiple_of(8);
        }
        Err("its header extensions do not end".to_owned())
    }
}

fn cut() -> String {
    "it starts as a qcow2 image and ends within the header".to_owned()
}

fn be32(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

fn be64(data: &[u8], at: usize) -> Option<u64> {
    data.get(at..)?.first_chunk().map(|b| u64::from_be_bytes(*b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_after_the_magic_are_parsed_or_refused(
            tail in prop::collection::vec(any::<u8>(), 0..600),
            version in 0_u32..5,
            bits in 8_u32..23,
            length in 0_u64..1 << 40,
        ) {
            let mut head = b"QFI\xfb".to_vec();
            head.extend(version.to_be_bytes());
            head.extend(&tail);
            if head.len() > 24 {
                head[20..24].copy_from_slice(&bits.to_be_bytes());
            }
            let _ = parse_qcow2(&head, length);
            let _ = signature(&head, &tail);
        }

        #[test]
        fn a_sound_header_with_changed_bytes_is_parsed_or_refused(
            changes in prop::collection::vec((0_usize..512, any::<u8>()), 0..6),
            cut in 0_usize..1024,
        ) {
            let mut head = sound();
            for (at, byte) in changes {
                head[at] = byte;
            }
            head.truncate(cut.max(1));
            if let Ok(facts) = parse_qcow2(&head, 1 << 20) {
                prop_assert!(i64::try_from(facts.virtual_size_bytes).is_ok());
                prop_assert!(facts.backing.is_none_or(|name| name.len() <= 3 * MAX_BACKING_BYTES));
            }
        }
    }

    /// 1 GiB, clusters of 64 KiB, backing file `base`.
    fn sound() -> Vec<u8> {
        let mut out = vec![0; 1024];
        let mut put = |at: usize, data: &[u8]| out[at..at + data.len()].copy_from_slice(data);
        put(0, b"QFI\xfb\0\0\0\x03");
        put(8, &512_u64.to_be_bytes());
        put(16, &4_u32.to_be_bytes());
        put(20, &16_u32.to_be_bytes());
        put(24, &(1_u64 << 30).to_be_bytes());
        put(36, &2_u32.to_be_bytes());
        put(40, &0x3_0000_u64.to_be_bytes());
        put(48, &0x1_0000_u64.to_be_bytes());
        put(56, &1_u32.to_be_bytes());
        put(96, &4_u32.to_be_bytes());
        put(100, &104_u32.to_be_bytes());
        put(104, &Extensions::BACKING_FORMAT.to_be_bytes());
        put(108, &3_u32.to_be_bytes());
        put(112, b"raw");
        put(512, b"base");
        out
    }

    #[test]
    fn a_sound_header_is_read() {
        let facts = parse_qcow2(&sound(), 1 << 20).unwrap();
        assert_eq!(facts.virtual_size_bytes, 1 << 30);
        assert_eq!(facts.backing.as_deref(), Some("base"));
        assert_eq!(facts.qcow2.unwrap().backing_format.as_deref(), Some("raw"));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for (at, bytes) in [
            (24, u64::MAX.to_be_bytes()),
            (24, (1_u64 << 62).to_be_bytes()),
            (40, (1_u64 << 40).to_be_bytes()),
            (48, u64::MAX.to_be_bytes()),
            (8, u64::MAX.to_be_bytes()),
            (8, 65_535_u64.to_be_bytes()),
            (72, (1_u64 << 5).to_be_bytes()),
        ] {
            let mut head = sound();
            head[at..at + 8].copy_from_slice(&bytes);
            assert!(parse_qcow2(&head, 1 << 20).is_err(), "at {at}: {bytes:?}");
        }
    }
}
