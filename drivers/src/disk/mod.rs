//! Image files on this host: what they are, taking them in, making new ones, filling restored ones.
//!
//! It knows qcow2 and raw, no datastore and no hypervisor. It never opens a file that an image names (backing file, data
//! file) on its own; only [`content_digest`] follows chains, and that is for images of our own making.
//!
//! Invariants: a target has its final name only when it is whole and fsynced, file and directory; until then it is called
//! `NAME.part`, and it is removed when its maker is dropped ([`sweep_parts`] removes what a killed process left). A file
//! is only called raw when its bytes are those of no image format that we know.

mod allowed;
mod digest;
mod import;
mod overlay;
mod part;
mod probe;
mod sparse;
mod writer;

pub use allowed::allowed_source;
pub use digest::content_digest;
pub use import::import;
pub use overlay::{create_blank, create_overlay};
pub use part::{remove, sweep_part, sweep_parts};
pub use probe::{ImageFacts, Qcow2Facts, probe};
pub use writer::{Qcow2Writer, RawWriter};

/// The unit of disks: sizes are multiples of it, as QEMU wants them.
const SECTOR_BYTES: u64 = 512;
