//! What a source is to do in a pass, what it has its driver do, and what it is told of that.

use tranship_proto::Message;
use tranship_proto::id::Token;
use tranship_proto::message::{
    Ask, Basis, BasisChoice, Challenge, Close, Contract, Gap, Level, Listed, Op, Open, Pack, Piece, Proof, Signature,
    SurveyItem,
};
use tranship_proto::refusal::Refusal;

use crate::session::Greeting;

/// What a pass is to do.
#[derive(Debug, Clone)]
pub struct Order {
    /// What we say of ourselves.
    pub greeting: Greeting,
    /// What counts as equal.
    pub contract: Contract,
    /// Whether there are no writers: then a change that is seen during the pass is an error.
    pub is_final: bool,
    /// Size of a block volume.
    pub block_bytes: Option<u64>,
    /// What is left out.
    pub excludes: Vec<String>,
    /// Whether there is no pass, and only the proof is asked for.
    pub only_examines: bool,
    /// Whether the destination reads back what it wrote, so that a proof at level `tracked` may believe it.
    pub rechecks: bool,
    /// Whether both sides read their volumes again afterwards, and how much of them.
    pub proof: Option<(Level, [u8; 32])>,
    /// The name of the manifest that this pass makes, if it makes one.
    pub token: Token,
    /// Data streams to spread contents over.
    pub data_streams: u32,
    /// Reads to have under way at a time.
    pub reads_max: usize,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Say which manifest we have for this destination.
    Resolve(Basis),
    /// List what the volume has.
    Scan,
    /// Keep these lines of the survey.
    Absorb(Vec<SurveyItem>),
    /// Find the candidates; the survey, if there was one, tells what is held.
    Plan(BasisChoice),
    /// Give the next operations that make room.
    NextStructure,
    /// Read the next contents.
    Read,
    /// Go on with what was asked.
    Refine(Signature),
    /// Give the next operations that come after all contents.
    NextClosing,
    /// Take these places for unknown at the destination.
    Doubt(Vec<Gap>),
    /// Make our manifest of this pass durable under this name.
    Commit(Token),
    /// Read the volume again.
    Prove(Challenge),
    /// Compare the peer's entries with ours.
    Compare(Vec<Listed>),
    /// Name all that the comparison found.
    Explain,
}

/// What comes of a [`Action::Read`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Produced {
    /// Small files.
    Pack(Pack),
    /// Parts of one content, and its end with the last of them.
    Pieces {
        /// The content.
        open: Open,
        /// What changed in it.
        pieces: Vec<Piece>,
        /// Its end, after all its parts were produced.
        close: Option<Close>,
    },
    /// Metadata of files whose content did not change.
    Ops(Vec<Op>),
    /// What of a content goes on when this is answered.
    Ask(Ask),
}

/// What a plan comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Planned {
    /// Entries of the volume.
    pub entries: u64,
    /// Places to look at.
    pub candidates: u64,
    /// Objects to move.
    pub moves: u64,
    /// Bytes of content in them.
    pub bytes: u64,
    /// Whether listing what the pass touches is not worth it.
    pub touches_everything: bool,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The peer said this.
    Received(Message),
    /// Our manifest for the destination, if there is a usable one.
    Resolved(Option<Token>),
    /// The scan is complete.
    Scanned,
    /// The lines are kept.
    Absorbed,
    /// The candidates are known.
    Planned(Planned),
    /// Operations, of [`Action::NextStructure`] or [`Action::NextClosing`]; none left when empty.
    Ops(Vec<Op>),
    /// What a read came to, and whether nothing is left to read.
    Read {
        /// What to send.
        produced: Vec<Produced>,
        /// Whether there was nothing left.
        is_exhausted: bool,
    },
    /// What came of an answer.
    Refined(Vec<Produced>),
    /// The places are taken for unknown.
    Doubted,
    /// Our manifest is durable.
    Committed,
    /// The volume was read again.
    Proved(Proof),
    /// Entries were compared.
    Compared,
    /// What differs.
    Explained(Vec<Gap>),
    /// An action failed, or the user wants it to end.
    Failed(Refusal),
}
