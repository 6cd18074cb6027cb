//! The stories: the real daemon, its commands, a real libvirt with real QEMUs, restic and Python's clients.
//!
//! One binary, one file per subject. A test is one story; its name is what it proves.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod backup_jobs;
mod clients;
mod commands;
mod crash;
mod disks;
mod disks_life;
mod door;
mod events;
mod faults;
mod faults_data;
mod life;
mod modes;
mod python;
mod shares;
mod torture;
mod tour;
mod vm_restore;
