//! What is orchestrated in clusters: preflight, pairs of agents, quiesce, fence, cutover, rollback.
//!
//! The coordinator never sees data. What it decides from is in the [`Record`](tranship_api::Record), which lies in both
//! clusters; what it says to agents is `tranship_proto::control`.

pub mod cluster;
pub mod error;
pub mod fence;
pub mod quiesce;
pub mod workload;

pub use cluster::Cluster;
pub use error::Error;
