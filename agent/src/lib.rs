//! What is done on a node: disks, links, time.

pub mod link;
pub mod volume;
