//! What users write, and what they are shown.
//!
//! A [`Migration`] is what is wanted; a [`Record`] is what is known of it, kept in both clusters; a [`Finding`] is what
//! stands in the way. The command line and whatever else shows a migration build on these types and on nothing else.
//! Nothing here does IO, reads a clock, or knows a cluster.

pub mod finding;
pub mod hook;
pub mod migration;
pub mod object;
pub mod quantity;
pub mod record;
pub mod view;

pub use finding::{Finding, Findings, Severity};
pub use migration::Migration;
pub use object::{ObjectRef, Side};
pub use record::Record;

/// Group of our objects, and prefix of our labels and annotations.
pub const GROUP: &str = "tranship.io";

/// Group and version of [`Migration`].
pub const API_VERSION: &str = "tranship.io/v1alpha1";

/// Label on everything of ours: the migration's name.
pub const LABEL_MIGRATION: &str = "tranship.io/migration";

/// Label on everything of ours: the migration's identity, which no other has, whatever its name.
pub const LABEL_ID: &str = "tranship.io/id";

/// Label on what was brought to the destination, beside the two above.
pub const LABEL_BROUGHT: &str = "tranship.io/brought";

/// Label on the pods of agents: `source` or `destination`.
pub const LABEL_AGENT: &str = "tranship.io/agent";

/// Label on a coordinator that lives in a cluster, and on all that it has of its own.
pub const LABEL_COORDINATOR: &str = "tranship.io/coordinator";
