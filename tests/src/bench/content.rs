//! What the measured disk holds, and what is written to it between backups. The same bytes in every run.
//!
//! The disk exists twice: in the VM, and as a raw file for the stock tools. [`Dirt`] is written to both.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::{self, LONG};
use crate::libvirtd::Libvirtd;

/// 2^20.
pub const MIB: u64 = 1 << 20;
/// Words that the text is made of. With so many, zstd at level 3 packs it to about a third, as it does prose.
const WORDS: usize = 6000;
/// Size of the disk's pieces when it is written.
const PIECE: usize = 1 << 20;

/// A sequence of numbers that looks random and is the same for the same seed: splitmix64, by Steele, Lea and Flood.
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// The sequence of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Bytes that no compressor makes smaller.
    pub fn noise(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.draw().to_le_bytes()[..part.len()]);
        }
    }
}

/// Text of made-up words.
#[derive(Debug)]
pub struct Prose {
    words: Vec<Vec<u8>>,
    numbers: Numbers,
}

impl Prose {
    /// The text of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut numbers = Numbers::new(42);
        let word = |numbers: &mut Numbers| {
            let letters = 2 + numbers.draw() % 9;
            let mut word: Vec<u8> = (0..letters).map(|_| b'a' + (numbers.draw() % 26) as u8).collect();
            word.push(if numbers.draw().is_multiple_of(12) { b'\n' } else { b' ' });
            word
        };
        let words = (0..WORDS).map(|_| word(&mut numbers)).collect();
        Self { words, numbers: Numbers::new(seed) }
    }

    /// The next `length` bytes of it.
    pub fn text(&mut self, length: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(length + 16);
        while text.len() < length {
            text.extend_from_slice(&self.words[self.numbers.draw() as usize % WORDS]);
        }
        text.truncate(length);
        text
    }
}

/// Writes a disk of `bytes`: `filled` of it in all, half of that random data, half text; the rest is never written. Disks of
/// different `seed` have nothing in common.
///
/// # Errors
/// When the file cannot be written.
pub fn make_disk(path: &Path, bytes: u64, filled: u64, seed: u64) -> Result<()> {
    let mut file = BufWriter::new(File::create(path).with_context(|| path.display().to_string())?);
    let (mut numbers, mut prose) = (Numbers::new(seed), Prose::new(seed + 1));
    let mut noise = vec![0; PIECE];
    for piece in 0..filled / 2 / PIECE as u64 {
        numbers.noise(&mut noise);
        if piece == 0 {
            // The firmware must not take it for something to boot.
            noise[..512].fill(0);
        }
        file.write_all(&noise)?;
    }
    for _ in 0..filled / 2 / PIECE as u64 {
        file.write_all(&prose.text(PIECE))?;
    }
    let file = file.into_inner()?;
    file.set_len(bytes)?;
    Ok(file.sync_all()?)
}

/// Writes to a disk: equal lengths at equal distances, half of them random, half text.
#[derive(Debug)]
pub struct Dirt {
    places: Vec<(u64, PathBuf)>,
    length: u64,
}

impl Dirt {
    /// `bytes` of a disk of `disk_bytes`, in pieces of `length`, spread over all of it; each `round` hits other places with
    /// other bytes. The bytes lie in files of `folder`, which is made.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn make(folder: &Path, disk_bytes: u64, bytes: u64, length: u64, round: u64) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let count = bytes.div_ceil(length);
        let distance = disk_bytes / count / length * length;
        let shifts = (distance / length).min(5);
        let (mut numbers, mut prose) = (Numbers::new(1000 + round), Prose::new(2000 + round));
        let mut places = Vec::new();
        for place in 0..count {
            let path = folder.join(place.to_string());
            let size = usize::try_from(length)?;
            let bytes = if place % 2 == 0 {
                let mut noise = vec![0; size];
                numbers.noise(&mut noise);
                noise
            } else {
                prose.text(size)
            };
            fs::write(&path, bytes)?;
            places.push((place * distance + round % shifts * length, path));
        }
        Ok(Self { places, length })
    }

    /// Number of places.
    #[must_use]
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// Bytes in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.places.len() as u64 * self.length
    }

    /// Writes it to a raw image.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_to_file(&self, image: &Path) -> Result<()> {
        let file = OpenOptions::new().write(true).open(image)?;
        for (offset, path) in &self.places {
            file.write_all_at(&fs::read(path)?, *offset)?;
        }
        Ok(file.sync_all()?)
    }

    /// Writes it to the first disk of a running domain through the guest's own device, by one virsh for all places.
    ///
    /// # Errors
    /// When QEMU did not confirm each of them within five minutes.
    pub fn write_to_guest(&self, libvirtd: &Libvirtd, domain: &str) -> Result<()> {
        let log = libvirtd.domain_log(domain);
        let before = fs::metadata(&log)?.len();
        let mut orders = String::new();
        for (offset, path) in &self.places {
            orders.push_str(&format!(
                "qemu-monitor-command {domain} --hmp 'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend \
                 \"write -s {} {offset} {}\"'\n",
                path.display(),
                self.length
            ));
        }
        let mut virsh = std::process::Command::new("virsh");
        virsh.args(["-q", "-c", &libvirtd.uri()]);
        command::run_with_input(&mut virsh, Some(orders.as_bytes()), LONG)?.checked("writing through virsh")?;
        let confirmed = format!("wrote {0}/{0} bytes at offset", self.length);
        let from = usize::try_from(before)?;
        let said = command::wait_for("QEMU to confirm the writes", LONG, || {
            let text = fs::read(&log)?;
            let text = String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned();
            let over = text.contains("rror") || text.contains("failed");
            Ok((over || text.matches(&confirmed).count() >= self.places.len()).then_some(text))
        })?;
        if said.matches(&confirmed).count() != self.places.len() {
            bail!("writing to {domain}: {}", said.lines().find(|line| !line.contains("wrote")).unwrap_or_default());
        }
        Ok(())
    }
}

/// Lets what was written before reach the disk, so that what is measured next does not pay for it.
pub fn settle() {
    rustix::fs::sync();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dirt_has_its_size_lies_within_the_disk_and_never_overlaps() {
        let dir = tempfile::tempdir().unwrap();
        for (disk, percent, length) in [(4096 * MIB, 1, MIB), (512 * MIB, 1, 64 << 10), (64 * MIB, 20, MIB)] {
            for round in 0..7 {
                let bytes = disk * percent / 100;
                let dirt = Dirt::make(dir.path(), disk, bytes, length, round).unwrap();
                assert!(dirt.bytes() >= bytes && dirt.bytes() < bytes + length);
                assert!(dirt.places.windows(2).all(|pair| pair[0].0 + length <= pair[1].0));
                assert!(dirt.places.iter().all(|(offset, _)| offset % length == 0 && offset + length <= disk));
            }
        }
    }

    #[test]
    fn a_disk_is_noise_then_text_then_a_hole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        make_disk(&path, 16 * MIB, 8 * MIB, 1).unwrap();
        let bytes = fs::read(&path).unwrap();
        let (four, eight) = (4 << 20, 8 << 20);
        assert_eq!(bytes.len(), 16 << 20);
        assert!(bytes[four..eight].iter().all(|byte| byte.is_ascii_lowercase() || b" \n".contains(byte)));
        assert!(bytes[eight..].iter().all(|byte| *byte == 0));
        let mut seen = [0_u32; 256];
        bytes[512..four].iter().for_each(|byte| seen[usize::from(*byte)] += 1);
        assert!(seen.iter().all(|count| count.abs_diff((4 << 20) / 256) < 1000));
    }
}
