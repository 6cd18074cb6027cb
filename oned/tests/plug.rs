//! The plug is pulled, and everything outside fails once, at every single call: backups, restores, removals and cancels over
//! the dummy drivers, where one run takes a fraction of a second. Whatever happened, the same must hold afterwards.
//!
//! A crash is one of the real daemon, which aborts at the n-th point that it reaches, n = 1, 2, … until it comes to the end.
//! Flaws and everything around are played by an engine in this process, whose clock the tests move.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where something is wrong")]
#![allow(clippy::print_stdout, reason = "shown only when a test fails: where it was")]

#[path = "plug/crash.rs"]
mod crash;
#[path = "plug/flaws.rs"]
mod flaws;
#[path = "plug/model.rs"]
mod model;
#[path = "plug/sound.rs"]
mod sound;
#[path = "plug/stories.rs"]
mod stories;
#[path = "plug/world.rs"]
mod world;
