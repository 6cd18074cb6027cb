//! The api layer over a real database and a clock that stands still: what is refused and how, what is written down for the
//! engine, what the scheduler starts. No engine and no hypervisor; the method table of `golden/rights.txt` goes through the
//! door, all else calls the api's functions.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops where something is wrong")]

#[path = "api/attributes.rs"]
mod attributes;
#[path = "api/backup.rs"]
mod backup;
#[path = "api/backup_datastores.rs"]
mod backup_datastores;
#[path = "api/backup_images.rs"]
mod backup_images;
#[path = "api/backup_jobs.rs"]
mod backup_jobs;
#[path = "api/backup_paths.rs"]
mod backup_paths;
#[path = "api/clock_jumps.rs"]
mod clock_jumps;
#[path = "api/disks.rs"]
mod disks;
#[path = "api/dispatch.rs"]
mod dispatch;
#[path = "api/documents.rs"]
mod documents;
#[path = "api/events.rs"]
mod events;
#[path = "api/examination.rs"]
mod examination;
#[path = "api/image_verbs.rs"]
mod image_verbs;
#[path = "api/infrastructure.rs"]
mod infrastructure;
#[path = "api/instantiate.rs"]
mod instantiate;
#[path = "api/life.rs"]
mod life;
#[path = "api/metrics.rs"]
mod metrics;
#[path = "api/names.rs"]
mod names;
#[path = "api/networks.rs"]
mod networks;
#[path = "api/people.rs"]
mod people;
#[path = "api/pools.rs"]
mod pools;
#[path = "api/quotas.rs"]
mod quotas;
#[path = "api/restore.rs"]
mod restore;
#[path = "api/rights.rs"]
mod rights;
#[path = "api/schedule_attributes.rs"]
mod schedule_attributes;
#[path = "api/schedules.rs"]
mod schedules;
#[path = "api/secrets.rs"]
mod secrets;
#[path = "api/sessions.rs"]
mod sessions;
#[path = "api/updateconf.rs"]
mod updateconf;
#[path = "api/verification.rs"]
mod verification;
#[path = "api/vm_restore.rs"]
mod vm_restore;
#[path = "api/world.rs"]
mod world;
