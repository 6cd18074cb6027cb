//! A fingerprint of what a guest would read from an image.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};
use sha2::{Digest, Sha256};

use super::SECTOR_BYTES;
use crate::hypervisor::DiskFormat;
use crate::{DriverError, Result};

const PIECE_BYTES: usize = 1 << 20;

/// SHA-256 of the whole content of an image as a guest sees it, as 64 hex digits. Backing files are followed, so this is
/// only for images of our own making (tests, comparing a restored VM), never for what a user gave.
///
/// # Errors
/// When the image or one of its backing files cannot be read.
pub fn content_digest(path: &Path, format: DiskFormat) -> Result<String> {
    let failed = |e| DriverError::io(format!("reading {}", path.display()), e);
    let mut hash = Sha256::new();
    let mut buffer = vec![0_u8; PIECE_BYTES];
    match format {
        DiskFormat::Raw => {
            let mut file = File::open(path).map_err(failed)?;
            let mut total = 0_u64;
            loop {
                let count = match file.read(&mut buffer) {
                    Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                    other => other.map_err(failed)?,
                };
                if count == 0 {
                    break;
                }
                hash.update(&buffer[..count]);
                total += count as u64;
            }
            let padding = usize::try_from(total.next_multiple_of(SECTOR_BYTES) - total).unwrap_or(0);
            hash.update(&[0; SECTOR_BYTES as usize][..padding]);
        }
        DiskFormat::Qcow2 => {
            let image = Qcow2::<imago::file::File>::builder_path(path);
            let image = image.open(PermissiveImplicitOpenGate::default()).map_err(failed)?;
            let image = FormatAccess::new(image);
            let mut at = 0;
            while at < image.size() {
                let count = usize::try_from(image.size() - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
                image.read(&mut buffer[..count], at).map_err(failed)?;
                hash.update(&buffer[..count]);
                at += count as u64;
            }
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
