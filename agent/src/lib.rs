//! What is done on a node: disks, links, time.

pub mod volume;
