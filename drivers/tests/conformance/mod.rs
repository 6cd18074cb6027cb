//! The suite that every backup datastore driver passes.
//!
//! A driver's test file is a [`Rig`] and one line:
//!
//! ```ignore
//! mod shared;
//! #[macro_use]
//! mod conformance;
//! conformance!(MyRig::new());
//! ```
//!
//! Each sentence is a test of its own on a store of its own. A sentence is about the contract in `datastore.rs` only; what
//! a format promises beside it (a foreign tool that reads it, say) belongs into the driver's own tests. Disks are small:
//! the whole suite takes seconds.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

pub mod catalogue;
pub mod changes;
pub mod damage;
pub mod disk;
pub mod faults;
pub mod forgetting;
pub mod fulls;
pub mod grouped;
pub mod groups;
pub mod history;
pub mod restoring;
#[cfg(feature = "restic")]
pub mod rigs;
pub mod together;
pub mod verifying;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use drivers::datastore::{Depth, RestoreRequest, Restored, SourceDisk, StoreRequest, Stored, Verified, VerifyRequest};
use drivers::{BackupDatastore, Cancel, DiskReader, Kind, Progress, Result};
use tempfile::TempDir;

pub use self::disk::{Source, Target};
pub use crate::shared::ShortForms;

/// Asked with its path before a file or directory is changed.
pub type Gate = Arc<dyn Fn(&Path) -> std::io::Result<()> + Send + Sync>;

/// One store for one sentence, and what the suite has to know about its driver.
pub trait Rig {
    /// Opens the store; each call gives an object of its own, as another daemon would have.
    fn open(&self) -> Box<dyn BackupDatastore>;

    /// The directory that the datastore works in. The directory above it holds nothing else.
    fn place(&self) -> PathBuf;

    /// Opens the store so that it asks `gate` before each change and waits for its answer, if the driver can do that.
    fn open_gated(&self, _gate: Gate) -> Option<Box<dyn BackupDatastore>> {
        None
    }

    /// What is read and compared as one, bytes: a changed byte costs reading the aligned range of this length around it.
    /// At least 4096, a power of two.
    fn chunk(&self) -> u64;

    /// What a differing byte of a disk at hand costs to fetch, bytes.
    fn fetch_grain(&self) -> u64 {
        self.chunk()
    }

    /// The files that hold points: disks, documents, whatever describes them. Not locks, scripts and reserves. The longest
    /// of them holds bytes of disks in its middle.
    fn files(&self) -> Vec<PathBuf>;
}

/// A sentence each, on a store that the expression makes for it; and all of them once more with every series in a group.
/// With `once` before the expression without that: for another way to set up a driver that was through it.
macro_rules! conformance {
    ($rig:expr) => {
        conformance!(once $rig);

        mod in_a_group {
            #[allow(unused_imports, reason = "what the expression needs is not known here")]
            use super::*;

            conformance!(each conformance::grouped::Grouped($rig));
        }
    };
    (once $rig:expr) => {
        conformance!(each $rig);
        conformance!(@ $rig;
            groups: members_of_groups_and_others_are_apart_whatever_they_are_called,
                no_point_of_a_member_is_seen_used_or_forgotten_through_another_series,
                members_of_a_group_are_stored_forgotten_and_swept_at_the_same_time;
        );
    };
    (each $rig:expr) => {
        conformance!(@ $rig;
            fulls: a_full_comes_back_byte_for_byte,
                a_full_restores_into_qcow2_and_raw_images_that_qemu_img_finds_equal,
                zeros_are_neither_read_nor_written,
                zeros_that_are_listed_as_data_are_not_stored,
                each_disk_is_counted_for_itself,
                zero_runs_at_every_alignment_come_back,
                disks_of_many_sizes_come_back_and_take_increments,
                several_disks_keep_their_ids_and_their_order,
                a_second_full_is_a_point_for_itself,
                documents_of_no_byte_and_of_a_mebibyte_come_back,
                progress_never_runs_ahead_and_ends_whole;
            changes: an_increment_reads_only_what_changed_and_is_complete,
                an_increment_without_a_change_reads_nothing,
                an_increment_may_add_leave_out_and_renew_disks,
                increments_grow_from_any_point_that_is_there,
                a_parent_that_does_not_fit_is_refused_before_anything_is_read,
                a_comparison_reads_all_and_stores_only_what_differs,
                what_the_record_of_changes_did_not_list_is_counted_exactly,
                one_byte_that_was_not_marked_is_noticed;
            faults: a_reader_whose_extents_make_no_sense_is_refused,
                a_reader_that_answers_something_else_is_refused,
                a_read_error_at_any_point_publishes_nothing_and_leaves_nothing,
                a_cancel_before_the_store_reads_nothing,
                a_cancel_in_the_middle_ends_the_store_soon_and_publishes_nothing,
                a_store_of_no_disk_or_of_one_disk_twice_does_no_harm;
            catalogue: what_was_stored_is_found_inspected_and_listed,
                points_are_listed_oldest_first,
                a_clock_that_went_back_between_backups_does_no_harm,
                a_parent_is_told_as_long_as_it_is_there,
                storing_twice_under_one_job_gives_one_point,
                series_are_listed_sorted_and_apart,
                what_is_not_there_is_missing,
                hostile_series_names_are_refused_and_leave_no_file,
                hostile_point_ids_are_missing,
                space_is_told_truly,
                a_probe_says_yes_and_leaves_all_as_it_was;
            forgetting: any_points_can_be_forgotten_in_any_order_and_the_others_stay_equal,
                forgetting_repeated_and_of_unknown_points_is_harmless,
                space_of_forgotten_points_comes_back,
                what_forgetting_resized_is_told,
                all_points_can_be_forgotten_and_the_series_goes_on,
                other_series_are_untouched_by_forgetting,
                what_a_killed_store_left_is_swept,
                a_killed_forget_is_finished_or_has_not_happened;
            restoring: a_disk_at_hand_that_is_equal_saves_all_fetching,
                a_disk_at_hand_that_differs_a_little_costs_a_little,
                a_disk_at_hand_of_another_size_or_content_gives_the_right_bytes,
                a_cancelled_restore_says_so_and_leaves_no_image,
                an_error_of_the_target_ends_the_restore,
                a_restore_image_of_an_unknown_disk_leaves_no_file;
            together: restores_go_on_while_others_are_stored_and_forgotten,
                two_daemons_store_into_two_series_at_once,
                two_daemons_store_into_one_series_at_once,
                a_sweep_beside_a_store_harms_nothing;
            verifying: a_sound_store_verifies_clean,
                verifying_unknown_points_is_missing,
                a_verification_goes_on_where_it_was_interrupted,
                an_error_of_save_ends_the_verification,
                a_resume_text_that_makes_no_sense_does_no_harm,
                a_cancelled_verification_says_so;
            damage: a_flipped_byte_is_found_and_the_rest_is_restored_without_it,
                a_file_that_is_gone_or_cut_is_found_by_a_quick_look,
                a_damaged_parent_is_refused_or_the_increment_is_right,
                no_flipped_byte_in_any_file_ever_gives_wrong_bytes,
                damages_found_before_an_interruption_are_not_lost;
            history: any_history_equals_a_byte_map;
        );
    };
    (@ $rig:expr; $($theme:ident: $($sentence:ident),+;)+) => {$($(
        #[test]
        fn $sentence() {
            conformance::$theme::$sentence(&$rig);
        }
    )+)+};
}

/// A folder for a store: in memory where there is room, because the suite waits for little but `fsync`. That what is
/// published survives a power cut is a matter of the driver's own tests.
pub fn folder() -> TempDir {
    const ROOM: u64 = 4 << 30;
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |space| space.f_bavail.saturating_mul(space.f_frsize));
    if free < ROOM { TempDir::new() } else { TempDir::new_in(memory) }.unwrap()
}

/// The series of most sentences.
pub const SERIES: &str = "7";
/// The time of most points.
pub const TIME: i64 = 1_700_000_000;
/// How long others may keep a series busy before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Calls about one series with everything else as usual.
#[derive(Clone, Copy)]
pub struct Series<'a> {
    pub datastore: &'a dyn BackupDatastore,
    pub name: &'a str,
}

/// The usual series of `datastore`.
pub fn series(datastore: &dyn BackupDatastore) -> Series<'_> {
    Series { datastore, name: SERIES }
}

impl Series<'_> {
    pub fn store(&self, job: &str, parent: Option<&str>, disks: Vec<SourceDisk>) -> Result<Stored> {
        self.store_with(job, parent, disks, &Progress::default(), &Cancel::default())
    }

    pub fn store_with(
        &self,
        job: &str,
        parent: Option<&str>,
        disks: Vec<SourceDisk>,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Stored> {
        let tags = ["one-7".to_owned()];
        let request = StoreRequest { series: self.name, tags: &tags, job, time: TIME, parent, document: b"<VM/>" };
        self.datastore.store(&request, disks, progress, cancel)
    }

    /// A full point of `disks`, numbered from 0.
    pub fn full(&self, job: &str, disks: &[&[u8]]) -> Stored {
        let sources = (0..).zip(disks).map(|(id, bytes)| Source::of(bytes).whole(id));
        self.store(job, None, sources.collect()).unwrap()
    }

    /// An increment on `parent` of disks that were and that are, numbered from 0.
    pub fn increment(&self, job: &str, parent: &str, disks: &[(&[u8], &[u8])]) -> Stored {
        let sources = (0..).zip(disks).map(|(id, (old, new))| Source::since(old, new).changes(id));
        self.store(job, Some(parent), sources.collect()).unwrap()
    }

    pub fn restore(&self, point: &str, disk: u32, size: usize) -> Result<Vec<u8>> {
        let mut target = Target::new(size);
        self.datastore.restore_now(self.name, point, disk, &mut target)?;
        Ok(target.bytes)
    }

    pub fn restore_with(
        &self,
        point: &str,
        disk: u32,
        size: usize,
        skip_bad: bool,
        current: Option<Source>,
    ) -> Result<(Vec<u8>, Restored)> {
        let mut target = Target::new(size);
        let current = current.map(|source| Box::new(source) as Box<dyn DiskReader>);
        let request = RestoreRequest { series: self.name, point, disk, skip_bad, current };
        let restored = self.datastore.restore(request, &mut target, &Progress::default(), &Cancel::default())?;
        assert_eq!(restored.written_bytes, target.written);
        Ok((target.bytes, restored))
    }

    /// Fails unless the disks of `point`, numbered from 0, are `disks`.
    pub fn check(&self, point: &str, disks: &[&[u8]]) {
        for (id, bytes) in (0..).zip(disks) {
            let restored = self.restore(point, id, bytes.len()).unwrap();
            assert_equal(&restored, bytes, &format!("disk {id} of {point}"));
        }
    }

    pub fn verify(&self, points: &[String], depth: Depth) -> Result<Verified> {
        self.verify_with(points, depth, None, &mut |_| Ok(()), &Cancel::default())
    }

    pub fn verify_with(
        &self,
        points: &[String],
        depth: Depth,
        resume: Option<&str>,
        save: &mut dyn FnMut(&str) -> Result<()>,
        cancel: &Cancel,
    ) -> Result<Verified> {
        let request = VerifyRequest { series: self.name, points, depth, resume };
        let mut bounded = |text: &str| {
            assert!(text.len() <= 64 << 10, "a text of {} bytes is to be saved", text.len());
            save(text)
        };
        self.datastore.verify(&request, &mut bounded, &Progress::default(), cancel)
    }

    pub fn ids(&self) -> Vec<String> {
        self.datastore.ids(self.name).unwrap()
    }

    pub fn forget(&self, points: &[&str]) -> drivers::datastore::Forgotten {
        let points: Vec<String> = points.iter().map(|point| (*point).to_owned()).collect();
        self.datastore.forget_now(self.name, &points).unwrap()
    }

    pub fn sweep(&self) {
        self.datastore.sweep_now(self.name).unwrap();
    }
}

/// Fails with the first difference only: disks are too long to be printed.
pub fn assert_equal(found: &[u8], wanted: &[u8], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what} is not as long as it was");
    let differs = found.iter().zip(wanted).position(|(a, b)| a != b);
    assert!(differs.is_none(), "{what} differs first at byte {}", differs.unwrap_or(0));
}

/// `work` as often as others keep the series busy.
pub fn patiently<T>(mut work: impl FnMut() -> Result<T>) -> T {
    let since = Instant::now();
    loop {
        match work() {
            Ok(value) => return value,
            Err(error) if error.kind == Kind::Retry && since.elapsed() < PATIENCE => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Every file below a directory with its length, sorted.
pub fn files_below(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.map(|entry| entry.unwrap()) {
            match entry.metadata() {
                Ok(facts) if facts.is_dir() => folders.push(entry.path()),
                Ok(facts) => found.push((entry.path(), facts.len())),
                // Gone since the folder was read.
                Err(_) => {}
            }
        }
    }
    found.sort();
    found
}

/// Bytes that all files of the store take; holes take nothing.
pub fn length_of(rig: &dyn Rig) -> u64 {
    let taken = |path: &PathBuf, length: u64| {
        // A file system that tells no blocks has no holes either.
        let blocks = std::fs::symlink_metadata(path).map_or(0, |facts| facts.blocks().saturating_mul(512));
        if blocks == 0 { length } else { length.min(blocks) }
    };
    files_below(&rig.place()).iter().map(|(path, length)| taken(path, *length)).sum()
}

/// What a store may be longer by for reasons of its own after something that left nothing behind: indexes written anew.
pub const SLACK: u64 = 16 << 10;
