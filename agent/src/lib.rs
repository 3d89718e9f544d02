//! What is done on a node: disks, links, time.

pub mod state;
pub mod volume;
