//! What is done on a node: disks, links, time.

pub mod confine;
pub mod track;
pub mod volume;
