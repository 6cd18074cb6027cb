//! What `make bench` is made of: a disk with known content, the stock tools beside which we are measured, the daemon
//! under measurement, and the table. The scenario itself is `bin/bench.rs`.

pub mod content;
pub mod cpu;
pub mod stock;
pub mod subject;
pub mod table;
