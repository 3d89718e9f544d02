//! What a destination has its driver do in a pass, and what it is told of that.

use std::sync::Arc;

use tranship_proto::Message;
use tranship_proto::message::{
    Ask, Basis, Begin, Challenge, Close, Committed, Examine, Finish, Gap, Listed, Op, Open, Pack, Piece, Proof,
    Rechecked, Signature, SurveyItem,
};
use tranship_proto::refusal::Refusal;

use super::Touch;

/// One thing to apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Operations, in this order.
    Ops(Vec<Op>),
    /// Small files.
    Pack(Pack),
    /// One piece.
    Piece(Arc<Open>, Piece),
    /// The end of a content.
    Close(Arc<Open>, Close),
}

/// Names one job.
pub type JobId = u64;

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Say what we hold.
    Inspect,
    /// Get ready for this pass.
    Begin(Begin),
    /// Read the volume for this challenge, although there was no pass.
    Examine(Examine, Challenge),
    /// Give the next lines of what we hold.
    Survey,
    /// Record durably that this is about to be touched.
    Intend(Vec<Touch>),
    /// Apply this; several may be under way.
    Apply(JobId, Job),
    /// Give the signature that is asked for.
    Sign(Ask),
    /// Flush what was applied, then record it durably as done.
    Checkpoint,
    /// Make our manifest of this pass durable.
    Commit(Finish),
    /// Read back what was written and not read from the device since.
    Recheck,
    /// Read the volume again, past the page cache.
    Prove(Challenge),
    /// Give the next entries that were read for the proof.
    List,
    /// Take these places for unknown.
    Doubt(Vec<Gap>),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer said this, on the control stream or on a data stream.
    Received(Message),
    /// What we hold.
    Inspected(Basis),
    /// Ready for the pass.
    Begun,
    /// Lines of the survey, and whether these are the last.
    Surveyed {
        /// The lines.
        items: Vec<SurveyItem>,
        /// Whether nothing follows.
        is_last: bool,
    },
    /// The intents are durable.
    Intended,
    /// A job is applied, not flushed yet.
    Applied {
        /// Which.
        job: JobId,
        /// Bytes of content that it wrote or found right.
        bytes: u64,
        /// Entries that it completed.
        entries: u64,
        /// What could not be carried.
        gaps: Vec<Gap>,
    },
    /// What was asked for.
    Signed(Signature),
    /// What had been applied when the checkpoint began is durable.
    Checkpointed,
    /// Our manifest is durable.
    Committed(Committed),
    /// What was written was read back, or some of it.
    Rechecked(Rechecked),
    /// The volume was read again.
    Proved(Proof),
    /// Entries that were read; none left when empty.
    Listed(Vec<Listed>),
    /// The places are taken for unknown.
    Doubted,
    /// An action failed, or the user wants it to end.
    Failed(Refusal),
}
