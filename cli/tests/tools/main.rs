//! The tools as a user sees them: real processes against a fake daemon.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a broken rig ends the test; the lint only spares functions marked as tests"
)]

mod backups;
mod completion;
mod doctor;
mod door;
mod failures;
mod infrastructure;
mod interrupts;
mod jobs;
mod lines;
mod man;
mod people;
mod schedules;
mod sessions;
mod tables;
mod typing;
mod verbs;
mod vms;
mod waiting;
