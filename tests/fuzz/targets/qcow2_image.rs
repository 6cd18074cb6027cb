//! An image in a backup directory: it is read or refused, and what was merged into can be read.
#![no_main]

use std::io::Write;

use drivers::qcow2::{CLUSTER_BYTES, Image, Merge, Place};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("a temporary file");
    // Most images are longer than what a fuzzer makes; the rest is a hole.
    file.set_len((bytes.len() as u64).max(12 * CLUSTER_BYTES)).expect("a temporary file");
    let another = || file.try_clone().expect("a second handle");
    if let Ok(image) = Image::open(another(), "image") {
        let clusters = image.size_bytes().div_ceil(CLUSTER_BYTES);
        let runs = image.runs(0, clusters.min(20_000)).unwrap_or_default();
        assert_eq!(runs.iter().map(|run| run.clusters).sum::<u64>(), if runs.is_empty() { 0 } else { clusters.min(20_000) });
        for run in runs.iter().filter(|run| run.place == Place::Data).take(20) {
            let _ = image.read(run.first, u32::try_from(run.clusters.min(4)).expect("at most 4"));
        }
    }
    let Ok(mut merge) = Merge::begin(another(), "image") else { return };
    let _ = merge.write(0, &[1; 2 * CLUSTER_BYTES as usize]);
    let _ = merge.zero(1, 2);
    if merge.finish().is_ok() {
        Image::open(another(), "image").expect("a merged image opens");
    }
});
