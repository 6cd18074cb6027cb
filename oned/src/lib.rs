//! The daemon: OpenNebula's core as far as backups need it.
//!
//! `rpc` and `scheduler` are doors: they call `api`, which checks rights and writes what is wanted into `store`; `engine`
//! makes it true with the drivers. `ledger` and `job` are the records that api and engine both write. See ARCHITECTURE.md.

pub mod api;
pub mod capacity;
pub mod cards;
pub mod clock;
pub mod cloud;
pub mod config;
pub mod crash;
pub mod daemon;
pub mod devices;
pub mod disks;
pub mod engine;
pub mod events;
pub mod examination;
pub mod hosts;
pub mod instance;
pub mod job;
pub mod ledger;
pub mod log;
pub mod methods;
pub mod progress;
pub mod quota;
pub mod rpc;
pub mod scheduler;
pub mod secret;
pub mod service;
pub mod session;
pub mod store;
pub mod verification;
pub mod wake;
