//! One conversation of a pair, from hello to bye.
//!
//! A session is fed events and the time, and polled for what to say, what to do and when to wake it up. It never acts:
//! whoever drives it (the agent with disks and a link, the simulation with neither) does the actions and reports back.
//! Time is what has passed since the driver started, on a clock that never goes back.
//!
//! The two halves are [`source::SourceSession`] and [`destination::DestinationSession`].

pub mod destination;
mod handover;
mod intents;
mod queue;
pub mod source;
mod unflushed;
mod verdict;

use tranship_proto::feature;
use tranship_proto::id::Epoch;
use tranship_proto::message::{Hello, Role, VolumeKind};
use tranship_proto::refusal::{Reason, Refusal};
use tranship_proto::version;

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// The control stream.
    Control,
    /// A data stream, by number.
    Data(u32),
}

/// Why a session ended without reaching its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What was said.
    pub refusal: Refusal,
    /// Whether the peer said it.
    pub is_from_peer: bool,
}

/// What either side says of itself.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// Our fencing number.
    pub epoch: Epoch,
    /// Our volume's kind.
    pub volume: Option<VolumeKind>,
    /// Our build.
    pub build: String,
}

impl Greeting {
    fn hello(&self, role: Role) -> Hello {
        Hello {
            oldest: version::OLDEST,
            newest: version::NEWEST,
            features: feature::ours(),
            role,
            epoch: self.epoch,
            volume: self.volume,
            build: self.build.clone(),
        }
    }

    /// Checks what the peer says of itself; gives the version to speak.
    fn meet(&self, role: Role, theirs: &Hello) -> Result<u32, Refusal> {
        let ours = (version::OLDEST, version::NEWEST);
        let Some(version) = version::choose(ours, (theirs.oldest, theirs.newest)) else {
            let detail = format!("peer speaks {}..{}, this agent {}..{}", theirs.oldest, theirs.newest, ours.0, ours.1);
            return Err(Refusal::new(Reason::Version, detail));
        };
        if let Some(name) = feature::first_unknown(&theirs.features) {
            return Err(Refusal::new(Reason::Feature, format!("peer requires the unknown feature {name:?}")));
        }
        if theirs.role == role {
            return Err(Refusal::new(Reason::Role, format!("both sides are a {role:?}").to_lowercase()));
        }
        if let (Some(ours), Some(theirs)) = (self.volume, theirs.volume)
            && ours != theirs
        {
            let detail = format!("a {ours:?} volume here, a {theirs:?} volume there").to_lowercase();
            return Err(Refusal::new(Reason::Kind, detail));
        }
        Ok(version)
    }
}

/// A refusal of a message that has no business in the present state.
fn out_of_turn(name: &str, state: &str) -> Refusal {
    Refusal::new(Reason::Protocol, format!("{name} in state {state}"))
}
