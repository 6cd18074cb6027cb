//! The tools as a user sees them: real processes against a fake daemon.

mod door;
mod failures;
mod tables;
mod verbs;
mod waiting;
