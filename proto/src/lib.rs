//! What two agents say to each other.
//!
//! **Participants.** A *source* holds the truth of one volume; a *destination* receives it. Either may be the one that
//! listens. They share a *link*: one ordered control stream and any number of ordered data streams, encrypted and
//! authenticated below this crate.
//!
//! **Goals.** A destination can always tell what it holds durably; a source says each change once; every byte that is
//! applied is checked against a digest; nothing that a peer says can make us allocate, loop or resolve a path.
//!
//! **Non-goals.** Encryption, authentication and pacing (the link), and what to say when (`tranship-engine`).
//!
//! ```text
//!        source                                   destination
//!          │ Hello ──────────────────────────────────▶ │   version, features, role, epoch
//!          │ ◀────────────────────────────────── Hello │
//!          │ ◀────────────────────────────────── Basis │   which manifest it holds, what is in doubt
//!          │ Begin ──────────────────────────────────▶ │   which basis counts, fidelity, final or not
//!          │ ◀────────────────────── Survey…, SurveyEnd│   what the basis does not tell
//!          │ Plan, Structure… ───────────────────────▶ │   make room: deletions, renames, directories
//!          │ Pack, Open, Piece, Close… ══════════════▶ │   contents, on the data streams
//!          │ ◀───────────────────────────────── Ack, … │   durable so far
//!          │ Barrier, Structure…, Finish ────────────▶ │   links, special files, metadata
//!          │ ◀────────────────────────────── Committed │   the manifest is durable there
//!          │ Challenge, Proof ◀──────────────────────▶ │   both volumes read again
//!          │ Bye ◀───────────────────────────────────▶ │
//! ```
//!
//! In a cluster a coordinator tells agents what to do: [`control`].
//!
//! Nothing here does IO, reads a clock, or knows tokio.

pub mod codec;
pub mod control;
pub mod entry;
pub mod feature;
pub mod frame;
pub mod id;
pub mod limit;
pub mod message;
pub mod refusal;
pub mod version;

pub use codec::WireError;
pub use entry::{Kind, Meta, Name, Place};
pub use frame::Frame;
pub use message::Message;
pub use refusal::Refusal;
