//! The loops that run a session: wait for one thing, hand it to the session, do what the session asks for.
//!
//! A loop owns its session; nothing is locked. Disk work runs on threads that block, and comes back as an event. What
//! must keep its order goes through one serial lane; reads and writes of contents run side by side. Each stream of the
//! link has a task of its own with a short queue, so that a slow stream holds back the disk and not the memory.

mod destination;
mod lanes;
mod source;
mod streams;
mod transport;

use thiserror::Error;
use tranship_engine::session::Failure;
use tranship_proto::refusal::Reason;

use crate::link::LinkError;
use crate::pass::PassError;

pub use destination::{Received, receive};
pub use source::{Sent, send};
pub use transport::Trial;

/// Why a session did not come to its end. The source's volume is as it was; the destination's is one that the next
/// session takes up.
#[derive(Debug, Error)]
pub enum DriveError {
    /// One of the two sides said no.
    #[error("{}", .0.refusal.detail)]
    Refused(Failure),
    /// The link broke.
    #[error("the link to the other agent broke")]
    Link(#[from] LinkError),
    /// The peer left without a word.
    #[error("the other agent ended the conversation in state {state}")]
    Left {
        /// Where we stood.
        state: &'static str,
    },
    /// Nothing could be begun.
    #[error(transparent)]
    Pass(#[from] PassError),
}

impl DriveError {
    /// The stable code that users and scripts see.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(failure) => failure.refusal.reason.code(),
            Self::Link(error) => error.code(),
            Self::Left { .. } => "TS-P120",
            Self::Pass(error) => error.refusal().reason.code(),
        }
    }

    /// Whether it was said before anything was changed.
    pub fn is_before_any_effect(&self) -> bool {
        use Reason as R;
        let reason = match self {
            Self::Refused(failure) => failure.refusal.reason,
            Self::Pass(error) => error.refusal().reason,
            Self::Link(_) | Self::Left { .. } => return false,
        };
        matches!(reason, R::Version | R::Feature | R::Role | R::Epoch | R::Kind | R::Space | R::Fidelity | R::Busy)
    }

    /// Whether another pass is at work on one of the volumes.
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Refused(failure) => failure.refusal.reason == Reason::Busy,
            Self::Pass(error) => error.refusal().reason == Reason::Busy,
            Self::Link(_) | Self::Left { .. } => false,
        }
    }

    /// Whether another attempt over a new link may fare better.
    pub fn is_of_link(&self) -> bool {
        matches!(self, Self::Link(_) | Self::Left { .. })
    }
}
