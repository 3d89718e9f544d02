//! What is done on a node: disks, links, time.

pub mod confine;
pub mod content;
pub mod destination;
pub mod driver;
pub mod gaps;
pub mod link;
pub mod monitor;
pub mod parallel;
pub mod pass;
pub mod probe;
pub mod prove;
pub mod remap;
pub mod report;
pub mod source;
pub mod state;
pub mod sync;
pub mod track;
pub mod volume;
