//! The header, and the entries of tables: bytes to values and back.
//!
//! Everything that must change together lies in the first sector, so that one write of 512 bytes switches an image from one
//! state to the next. The name of the backing file lies there too when it fits.

use super::{Backing, CLUSTER, CLUSTER_BYTES, Compression, L2_ENTRIES, MAX_SIZE_BYTES, SECTOR};

/// Bytes that are switched at once.
pub(super) const SWITCH_BYTES: usize = 512;
/// Longest name of a backing file (specification).
const MAX_BACKING_BYTES: usize = 1023;
/// Ours: all fixed fields, the type of compression, padding.
const HEADER_BYTES: u32 = 112;
/// Shortest header of version 3.
const MIN_HEADER_BYTES: u32 = 104;
/// Log2 of the bits of a refcount.
const REFCOUNT_ORDER: u32 = 4;
/// QEMU's limit of the refcount table, 8 MiB.
const MAX_REFCOUNT_TABLE_CLUSTERS: u32 = 128;
/// Header extensions; QEMU writes five at most.
const MAX_EXTENSIONS: usize = 100;

const FEATURE_DIRTY: u64 = 1;
const FEATURE_CORRUPT: u64 = 1 << 1;
const FEATURE_EXTERNAL_DATA: u64 = 1 << 2;
const FEATURE_COMPRESSION: u64 = 1 << 3;
const FEATURE_EXTENDED_L2: u64 = 1 << 4;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_BITMAPS: u32 = 0x2385_2875;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// Where longer names lie, in turns, so that the one in use is never overwritten.
const NAME_PLACES: [u64; 2] = [4096, 8192];

/// Bit 63 of entries: the refcount is exactly 1.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
/// Bits of an offset in L1 and L2 entries.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Where the number of sectors starts in a descriptor of a compressed cluster: 62 - (16 - 8).
const SECTORS_SHIFT: u32 = 54;

/// The parts of the header that we use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) size_bytes: u64,
    pub(super) l1_at: u64,
    pub(super) l1_entries: u32,
    pub(super) refcounts_at: u64,
    pub(super) refcount_clusters: u32,
    /// Type of compression of compressed clusters; never `None`.
    pub(super) compression: Compression,
    pub(super) backing: Option<BackingName>,
    /// Dirty bitmaps are kept in it.
    pub(super) bitmaps: bool,
}

/// The name of a backing file in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackingName {
    pub(super) name: Vec<u8>,
    pub(super) format: Option<Vec<u8>>,
    /// Where the name lies; 0 = in the first sector, right after the extensions.
    at: u64,
}

impl BackingName {
    /// A name that QEMU will take for a file.
    pub(super) fn new(backing: &Backing) -> Result<Self, String> {
        let name = backing.name.as_bytes();
        if name.is_empty() || name.len() > MAX_BACKING_BYTES {
            return Err("the backing file's name has to have 1 to 1023 bytes".to_owned());
        }
        let relative = !name.starts_with(b"/");
        if relative && backing.name.split('/').next().is_some_and(|first| first.contains(':')) {
            return Err("QEMU would take the backing file's name for a protocol; put ./ before it".to_owned());
        }
        Ok(Self { name: name.to_vec(), format: Some(backing.format.as_str().into()), at: 0 })
    }
}

/// The bytes of a header: the sector that is switched, and what has to be durable before.
pub(super) struct HeaderBytes {
    pub(super) sector: [u8; SWITCH_BYTES],
    /// A name that does not fit the sector: where, and its bytes.
    pub(super) name: Option<(u64, Vec<u8>)>,
}

impl Header {
    /// The bytes. `old_name_at`: where the header in use has its name, if it lies outside the first sector.
    pub(super) fn bytes(&self, old_name_at: Option<u64>) -> HeaderBytes {
        let mut sector = Vec::with_capacity(SWITCH_BYTES);
        let features = if self.compression == Compression::Zstd { FEATURE_COMPRESSION } else { 0 };
        let fields = [
            (Field::Word(0x5146_49fb)),
            Field::Word(3),
            Field::Long(0), // The name's place, filled in below.
            Field::Word(0),
            Field::Word(CLUSTER.trailing_zeros()),
            Field::Long(self.size_bytes),
            Field::Word(0), // No encryption.
            Field::Word(self.l1_entries),
            Field::Long(self.l1_at),
            Field::Long(self.refcounts_at),
            Field::Word(self.refcount_clusters),
            Field::Word(0), // No snapshots.
            Field::Long(0),
            Field::Long(features),
            Field::Long(0),
            Field::Long(0),
            Field::Word(REFCOUNT_ORDER),
            Field::Word(HEADER_BYTES),
            Field::Long(if self.compression == Compression::Zstd { 1 << 56 } else { 0 }),
        ];
        for field in fields {
            match field {
                Field::Word(value) => sector.extend(value.to_be_bytes()),
                Field::Long(value) => sector.extend(value.to_be_bytes()),
            }
        }
        if let Some(format) = self.backing.as_ref().and_then(|backing| backing.format.as_ref()) {
            sector.extend(EXTENSION_BACKING_FORMAT.to_be_bytes());
            sector.extend(u32::try_from(format.len()).unwrap_or(0).to_be_bytes());
            sector.extend(format);
            sector.resize(sector.len().next_multiple_of(8), 0);
        }
        sector.extend([0; 8]);
        let mut outside = None;
        if let Some(BackingName { name, .. }) = &self.backing {
            let mut at = sector.len() as u64;
            if sector.len() + name.len() <= SWITCH_BYTES {
                sector.extend(name);
            } else {
                at = if old_name_at == Some(NAME_PLACES[0]) { NAME_PLACES[1] } else { NAME_PLACES[0] };
                outside = Some((at, name.clone()));
            }
            sector[8..16].copy_from_slice(&at.to_be_bytes());
            sector[16..20].copy_from_slice(&u32::try_from(name.len()).unwrap_or(0).to_be_bytes());
        }
        sector.resize(SWITCH_BYTES, 0);
        let mut out = [0; SWITCH_BYTES];
        out.copy_from_slice(&sector[..SWITCH_BYTES]);
        HeaderBytes { sector: out, name: outside }
    }

    /// Where the name of the backing file lies, if that is outside the first sector.
    pub(super) fn outside_name_at(&self) -> Option<u64> {
        self.backing.as_ref().map(|backing| backing.at).filter(|at| *at > 0)
    }

    /// Reads a header. `first` is the file's first cluster or what there is of it.
    pub(super) fn parse(first: &[u8], file_bytes: u64) -> Result<Self, String> {
        let word = |at| be32(first, at).ok_or_else(cut);
        let long = |at| be64(first, at).ok_or_else(cut);
        if word(0)? != 0x5146_49fb {
            return Err("it is no qcow2 image, or one that was never finished".to_owned());
        }
        let version = word(4)?;
        if version != 3 {
            return Err(format!("its qcow2 version is {version}; only 3 is read here"));
        }
        if word(20)? != CLUSTER.trailing_zeros() {
            return Err("its clusters are not of 64 KiB; no other size is read here".to_owned());
        }
        let features = long(72)?;
        check_features(features)?;
        if word(32)? != 0 {
            return Err("it is encrypted, which is not read here".to_owned());
        }
        if word(60)? != 0 {
            return Err("it holds internal snapshots, which are not read here".to_owned());
        }
        if word(96)? != REFCOUNT_ORDER {
            return Err("its refcounts are not of 16 bits; no other width is read here".to_owned());
        }
        let header_bytes = word(100)?;
        if header_bytes < MIN_HEADER_BYTES || !header_bytes.is_multiple_of(8) || u64::from(header_bytes) > CLUSTER_BYTES
        {
            return Err(format!("its header has an impossible length ({header_bytes} bytes)"));
        }
        let kind = if header_bytes > MIN_HEADER_BYTES { *first.get(104).ok_or_else(cut)? } else { 0 };
        let compression = match (features & FEATURE_COMPRESSION != 0, kind) {
            (false, 0) => Compression::Zlib,
            (true, 1) => Compression::Zstd,
            _ => return Err(format!("its compression is of an unknown type ({kind})")),
        };
        let (backing_at, name) = backing_name(first, header_bytes)?;
        let extensions = Extensions::parse(first, index32(header_bytes), backing_at.unwrap_or(CLUSTER_BYTES))?;
        let backing = name.map(|name| {
            let at = backing_at.unwrap_or(0);
            // A name that ends within the first sector is rewritten with it.
            let inside = at + name.len() as u64 <= SWITCH_BYTES as u64;
            BackingName { name, format: extensions.backing_format, at: if inside { 0 } else { at } }
        });
        let header = Self {
            size_bytes: long(24)?,
            l1_at: long(40)?,
            l1_entries: word(36)?,
            refcounts_at: long(48)?,
            refcount_clusters: word(56)?,
            compression,
            backing,
            bitmaps: extensions.bitmaps,
        };
        header.check_tables(file_bytes)?;
        Ok(header)
    }

    /// The size against the first-level table, and both tables against the file.
    fn check_tables(&self, file_bytes: u64) -> Result<(), String> {
        let size = self.size_bytes;
        if size == 0 || size > MAX_SIZE_BYTES || !size.is_multiple_of(SECTOR) {
            return Err(format!("its header names an impossible size ({size} bytes)"));
        }
        let inside = |at: u64, bytes: u64| {
            at > 0 && at.is_multiple_of(CLUSTER_BYTES) && at.checked_add(bytes).is_some_and(|end| end <= file_bytes)
        };
        let entries = u64::from(self.l1_entries);
        if entries < l1_entries(size) || entries > l1_entries(MAX_SIZE_BYTES) {
            return Err(format!("its first-level table has {entries} entries, which do not fit {size} bytes"));
        }
        if !inside(self.l1_at, entries * 8) {
            return Err("its first-level table lies outside the file; it is damaged or was not copied whole".to_owned());
        }
        let clusters = self.refcount_clusters;
        // The last cluster may be cut short: QEMU extends files only as far as it writes.
        if clusters == 0 || clusters > MAX_REFCOUNT_TABLE_CLUSTERS || !inside(self.refcounts_at, 8) {
            return Err("its refcount table lies outside the file; it is damaged or was not copied whole".to_owned());
        }
        Ok(())
    }
}

/// A field of the header.
enum Field {
    Word(u32),
    Long(u64),
}

fn check_features(features: u64) -> Result<(), String> {
    let why = if features & FEATURE_CORRUPT != 0 {
        "it is marked corrupt by whoever wrote it; qemu-img check tells more".to_owned()
    } else if features & FEATURE_EXTERNAL_DATA != 0 {
        "its data lie in another file, which is not read here".to_owned()
    } else if features & FEATURE_EXTENDED_L2 != 0 {
        "it has extended second-level tables, which are not read here".to_owned()
    } else if features & !(FEATURE_DIRTY | FEATURE_COMPRESSION) != 0 {
        format!("it uses qcow2 features that are not known here (bits {features:#x})")
    } else {
        return Ok(());
    };
    Err(why)
}

/// Where the name of the backing file lies, and the name.
fn backing_name(first: &[u8], header_bytes: u32) -> Result<(Option<u64>, Option<Vec<u8>>), String> {
    let at = be64(first, 8).ok_or_else(cut)?;
    let length = index32(be32(first, 16).ok_or_else(cut)?);
    if at == 0 {
        return Ok((None, None));
    }
    let bad = || "the place of its backing file's name is impossible".to_owned();
    let start = usize::try_from(at).map_err(|_| bad())?;
    let end = start.checked_add(length).ok_or_else(bad)?;
    if start < index32(header_bytes) || length > MAX_BACKING_BYTES || end > CLUSTER {
        return Err(bad());
    }
    if length == 0 {
        return Ok((Some(at), None));
    }
    let name = first.get(start..end).ok_or_else(cut)?;
    if std::str::from_utf8(name).is_err() || name.contains(&0) {
        return Err("the name of its backing file is not UTF-8".to_owned());
    }
    Ok((Some(at), Some(name.to_vec())))
}

/// What the header extensions say.
#[derive(Default)]
struct Extensions {
    backing_format: Option<Vec<u8>>,
    bitmaps: bool,
}

impl Extensions {
    fn parse(first: &[u8], header_bytes: usize, end: u64) -> Result<Self, String> {
        let end = usize::try_from(end).unwrap_or(CLUSTER).min(CLUSTER);
        let mut out = Self::default();
        let mut at = header_bytes;
        for _ in 0..MAX_EXTENSIONS {
            // Without room for another one the list ends as well.
            if at.saturating_add(8) > end {
                return Ok(out);
            }
            let kind = be32(first, at).unwrap_or(EXTENSION_END);
            let length = index32(be32(first, at + 4).unwrap_or(0));
            if kind == EXTENSION_END {
                return Ok(out);
            }
            let start = at + 8;
            let stop = start.checked_add(length).filter(|stop| *stop <= end);
            let data = stop.and_then(|stop| first.get(start..stop));
            let data = data.ok_or_else(|| "a header extension reaches past the header".to_owned())?;
            match kind {
                // QEMU's limit of names of formats.
                EXTENSION_BACKING_FORMAT if length >= 16 => {
                    return Err("the format of its backing file has an impossible name".to_owned());
                }
                EXTENSION_BACKING_FORMAT => out.backing_format = Some(data.to_vec()),
                EXTENSION_BITMAPS => out.bitmaps = true,
                EXTENSION_ENCRYPTION => return Err("it is encrypted, which is not read here".to_owned()),
                EXTENSION_DATA_FILE => {
                    return Err("its data lie in another file, which is not read here".to_owned());
                }
                _ => {}
            }
            at = start + length.next_multiple_of(8);
        }
        Err("its header extensions do not end".to_owned())
    }
}

/// Entries that the first-level table of a disk needs.
pub(super) fn l1_entries(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(CLUSTER_BYTES * L2_ENTRIES as u64)
}

/// Checks the size of a new disk.
pub(super) fn check_size(size_bytes: u64) -> Result<(), String> {
    if size_bytes == 0 || size_bytes > MAX_SIZE_BYTES || !size_bytes.is_multiple_of(SECTOR) {
        return Err(format!("a disk of {size_bytes} bytes is not possible (whole sectors of 512 bytes, up to 2 PiB)"));
    }
    Ok(())
}

/// What an entry of a second-level table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Absent,
    /// Reads as zeros; a host cluster (offset) may be kept for it.
    Zero(Option<u64>),
    /// Offset of the host cluster.
    Plain(u64),
    /// Offset of the compressed bytes, and how many there are up to the end of their last sector.
    Packed(u64, u64),
}

impl Entry {
    /// What `word` means, or why it means nothing. Whether it lies inside the file is the caller's question.
    pub(super) fn decode(word: u64) -> Result<Self, String> {
        if word & COMPRESSED != 0 {
            let at = word & ((1 << SECTORS_SHIFT) - 1);
            let sectors = ((word & !(COPIED | COMPRESSED)) >> SECTORS_SHIFT) + 1;
            if at < CLUSTER_BYTES {
                return Err("a compressed cluster lies in the header".to_owned());
            }
            return Ok(Self::Packed(at, sectors * SECTOR - at % SECTOR));
        }
        let host = word & OFFSET;
        if word & !(COPIED | OFFSET | ZERO) != 0 || !host.is_multiple_of(CLUSTER_BYTES) {
            return Err(format!("a table holds the impossible entry {word:#018x}"));
        }
        let kept = (host != 0).then_some(host);
        Ok(match (word & ZERO != 0, kept) {
            (true, kept) => Self::Zero(kept),
            (false, None) if word == 0 => Self::Absent,
            (false, None) => return Err(format!("a table holds the impossible entry {word:#018x}")),
            (false, Some(host)) => Self::Plain(host),
        })
    }

    /// The word of an entry whose host cluster has refcount 1. `Packed` is given the exact number of bytes.
    pub(super) fn encode(self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::Zero(None) => ZERO,
            Self::Zero(Some(host)) => ZERO | COPIED | host,
            Self::Plain(host) => COPIED | host,
            Self::Packed(at, bytes) => {
                let sectors = (at % SECTOR + bytes).div_ceil(SECTOR);
                COMPRESSED | at | (sectors - 1) << SECTORS_SHIFT
            }
        }
    }
}

/// The offset in an entry of the first-level table (0 = no table), or why it is none.
pub(super) fn l1_offset(word: u64) -> Result<u64, String> {
    let at = word & OFFSET;
    if word & !(COPIED | OFFSET) != 0 || !at.is_multiple_of(CLUSTER_BYTES) {
        return Err(format!("its first-level table holds the impossible entry {word:#018x}"));
    }
    Ok(at)
}

/// The entry of the first-level table for a table at `at`, whose refcount is 1.
pub(super) fn l1_word(at: u64) -> u64 {
    COPIED | at
}

fn cut() -> String {
    "it starts as a qcow2 image and ends within the header".to_owned()
}

fn index32(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn be32(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

fn be64(data: &[u8], at: usize) -> Option<u64> {
    data.get(at..)?.first_chunk().map(|b| u64::from_be_bytes(*b))
}
