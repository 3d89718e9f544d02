//! What comes along with the claims: the workloads that use them and what these refer to, stopped until a Commit.
//!
//! `plan` reads the source, `apply` makes the objects, `start` and `ready` bring them up, `find_all` finds them again by their
//! mark, so that they are taken away or left without it.
//! What a Secret holds passes through here on its way from one API server to the other: it is never recorded, and a
//! [`Manifest`] does not print itself.

use std::fmt;

use serde_json::Value;
use tranship_api::ObjectRef;

mod apply;
mod found;
mod kind;
mod namespace;
mod plan;
mod ready;
mod references;
mod sanitise;
mod service;
mod start;

pub use apply::{apply, conflicts};
pub(crate) use found::unmarking;
pub use found::{Found, find_all, remove, unmark};
pub use namespace::ensure_namespace;
pub use plan::{made_there, plan};
pub use ready::{Readiness, ready, refusal};
pub(crate) use sanitise::HELD;
pub use sanitise::{Renames, sanitise};
pub use start::start;

/// An object as it is to be at the destination, before it is marked as ours.
#[derive(Clone)]
pub struct Manifest {
    /// What it will be.
    pub object: ObjectRef,
    /// Replicas that it is to have once it may start, 1 for what only runs or does not; nothing for what does not start.
    pub replicas: Option<i32>,
    body: Value,
}

impl Manifest {
    /// The object itself. It may hold secrets.
    pub fn body(&self) -> &Value {
        &self.body
    }
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Manifest({}, replicas {:?})", self.object, self.replicas)
    }
}
