//! What `make bench` is made of: a disk with known content, the stock tools beside which we are measured, the daemon
//! under measurement, and the table. The scenario itself is `bin/bench.rs`. And [`core`]: the daemon alone in a large cloud,
//! with [`schedules`] of its own.

pub mod content;
#[cfg(feature = "population")]
pub mod core;
pub mod cpu;
pub mod figures;
#[cfg(feature = "population")]
pub mod limits;
pub mod load;
pub mod memory;
pub mod peers;
#[cfg(feature = "population")]
pub mod population;
#[cfg(feature = "population")]
pub mod schedules;
pub mod stock;
pub mod subject;
pub mod table;
