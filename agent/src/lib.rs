//! What is done on a node: disks, links, time.

pub mod monitor;
pub mod report;
pub mod volume;
