//! The plug is pulled, and everything outside fails once, at every single call: backups, restores, removals and cancels over
//! the dummy drivers, where one run takes a fraction of a second. Whatever happened, the same must hold afterwards.
//!
//! A crash is one of the real daemon, which aborts at the n-th point that it reaches, n = 1, 2, … until it comes to the end.
//! Flaws and everything around are played by an engine in this process, whose clock the tests move.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where something is wrong")]
#![allow(clippy::print_stdout, reason = "shown only when a test fails: where it was")]

#[cfg(feature = "testing")]
#[path = "plug/backup_jobs.rs"]
mod backup_jobs;
#[cfg(feature = "testing")]
#[path = "plug/crash.rs"]
mod crash;
#[cfg(feature = "testing")]
#[path = "plug/flaws.rs"]
mod flaws;
#[cfg(feature = "testing")]
#[path = "plug/model.rs"]
mod model;
#[cfg(feature = "testing")]
#[path = "plug/month.rs"]
mod month;
#[cfg(feature = "testing")]
#[path = "plug/retention.rs"]
mod retention;
#[cfg(feature = "testing")]
#[path = "plug/sound.rs"]
mod sound;
#[cfg(feature = "testing")]
#[path = "plug/stories.rs"]
mod stories;
#[cfg(feature = "testing")]
#[path = "plug/world.rs"]
mod world;

#[cfg(not(feature = "testing"))]
#[test]
fn the_plug_cannot_be_pulled() {
    panic!("run with --features testing: without, the daemon has no crash points");
}
