//! What is orchestrated in clusters: preflight, pairs of agents, quiesce, fence, cutover, rollback.
//!
//! The coordinator never sees data. What it decides from is in the [`Record`](tranship_api::Record), which lies in both
//! clusters; what it says to agents is `tranship_proto::control`.

pub mod agents;
pub mod bring;
pub mod claims;
pub mod cluster;
pub mod control;
pub mod cutover;
pub mod error;
pub mod fence;
pub mod finish;
mod hook;
pub mod ledger;
pub mod leftover;
pub mod observe;
pub mod pair;
pub mod placement;
mod pod;
pub mod preflight;
pub mod quiesce;
mod reclaim;
pub mod resident;
pub mod rights;
pub mod stage;
pub mod verify;
pub mod watch;
pub mod workload;
pub mod yaml;

pub use cluster::Cluster;
pub use error::Error;
pub use ledger::Ledger;
