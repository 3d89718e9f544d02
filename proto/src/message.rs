//! The closed set of messages, and their bytes.

mod batch;
mod content;
mod contract;
mod hello;
mod list;
mod pass;
mod piece;
mod probe;
mod proof;
mod structure;
mod survey;

use bytes::Bytes;

use crate::codec::{Reader, WireError, Writer};
use crate::frame::Frame;
use crate::refusal::Refusal;

pub use self::batch::{Batch, Item, batches, bytes_of};
pub use self::content::{Close, Codec, Onto, Open, Pack, Packed};
pub use self::contract::{Contract, Fidelity, Gap, GapKind};
pub use self::hello::{Hello, Role, VolumeKind};
pub use self::pass::{Ack, Barrier, Basis, BasisChoice, Begin, Committed, Finish, Plan};
pub use self::piece::{Ask, Delta, Extent, Piece, Signature};
pub use self::probe::Probed;
pub use self::proof::{Challenge, Examine, Level, Listed, Proof, Rechecked};
pub use self::structure::Op;
pub use self::survey::{SurveyItem, Surveyed};

/// Everything that one agent can say to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// First from both sides: who speaks, and how.
    Hello(Hello),
    /// Last from either side: why not.
    Refuse(Refusal),
    /// Destination: what it holds.
    Basis(Basis),
    /// Source: what this pass builds on.
    Begin(Begin),
    /// Source, instead of a pass: only challenges follow, about volumes as they are.
    Examine(Examine),
    /// Destination: entries of the basis that no common manifest tells, in order.
    Survey(Vec<SurveyItem>),
    /// Destination: the survey is complete.
    SurveyEnd,
    /// Source: how much this pass may touch.
    Plan(Plan),
    /// Source: operations to do in this order.
    Structure(Vec<Op>),
    /// Source, on each data stream that carries pieces of it: pieces of this content follow.
    Open(Open),
    /// Source, on a data stream: all pieces of this content were sent.
    Close(Close),
    /// Source: everything before this must be done before anything after it.
    Barrier(Barrier),
    /// Source: the pass is complete.
    Finish(Finish),
    /// Source, on a data stream: small files as a whole.
    Pack(Pack),
    /// Source, on a data stream: what changed in one piece of one content.
    Piece(Piece),
    /// Source: of which bytes a signature is wanted.
    Ask(Ask),
    /// Destination: the signature of these bytes.
    Signature(Signature),
    /// Destination: this much is durable.
    Ack(Ack),
    /// Destination: what it could not carry.
    Gaps(Vec<Gap>),
    /// Destination: its manifest of this pass is durable.
    Committed(Committed),
    /// Source: read back, from the device, what was written and nobody has read since.
    Recheck,
    /// Destination: what became of it, said now and then and at the end.
    Rechecked(Rechecked),
    /// Either: read your volume again, with this nonce in the digest.
    Challenge(Challenge),
    /// Either: what was read.
    Proof(Proof),
    /// Either: one digest for each entry, in order, to find what differs.
    Listing(Vec<Listed>),
    /// Either: the listing is complete.
    ListingEnd,
    /// Either: nothing more will be said.
    Bye,
    /// Whoever has dialled, where there is no session: measure this link now. On a data stream, what is measured: bytes that
    /// mean nothing.
    Probe(Bytes),
    /// Destination, to a source that has dialled: what came in of the burst.
    Probed(Probed),
}

impl Message {
    /// Whether it travels on a data stream, where order between streams means nothing.
    pub fn is_data(&self) -> bool {
        matches!(self, Self::Pack(_) | Self::Open(_) | Self::Piece(_) | Self::Close(_))
    }

    /// Its name, for errors and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Refuse(_) => "Refuse",
            Self::Basis(_) => "Basis",
            Self::Begin(_) => "Begin",
            Self::Examine(_) => "Examine",
            Self::Survey(_) => "Survey",
            Self::SurveyEnd => "SurveyEnd",
            Self::Plan(_) => "Plan",
            Self::Structure(_) => "Structure",
            Self::Open(_) => "Open",
            Self::Close(_) => "Close",
            Self::Barrier(_) => "Barrier",
            Self::Finish(_) => "Finish",
            Self::Pack(_) => "Pack",
            Self::Piece(_) => "Piece",
            Self::Ask(_) => "Ask",
            Self::Signature(_) => "Signature",
            Self::Ack(_) => "Ack",
            Self::Gaps(_) => "Gaps",
            Self::Committed(_) => "Committed",
            Self::Recheck => "Recheck",
            Self::Rechecked(_) => "Rechecked",
            Self::Challenge(_) => "Challenge",
            Self::Proof(_) => "Proof",
            Self::Listing(_) => "Listing",
            Self::ListingEnd => "ListingEnd",
            Self::Bye => "Bye",
            Self::Probe(_) => "Probe",
            Self::Probed(_) => "Probed",
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Frame {
        let mut writer = Writer::new();
        let w = &mut writer;
        let mut body = Bytes::new();
        let kind = match self {
            Self::Hello(hello) => {
                hello.encode(w);
                1
            }
            Self::Refuse(refusal) => {
                refusal.encode(w);
                2
            }
            Self::Basis(basis) => {
                basis.encode(w);
                3
            }
            Self::Begin(begin) => {
                begin.encode(w);
                4
            }
            Self::Survey(items) => {
                SurveyItem::encode_all(items, w);
                5
            }
            Self::SurveyEnd => 6,
            Self::Plan(plan) => {
                plan.encode(w);
                7
            }
            Self::Structure(ops) => {
                Op::encode_all(ops, w);
                8
            }
            Self::Open(open) => {
                open.encode(w);
                9
            }
            Self::Close(close) => {
                close.encode(w);
                10
            }
            Self::Barrier(barrier) => {
                barrier.encode(w);
                11
            }
            Self::Finish(finish) => {
                finish.encode(w);
                12
            }
            Self::Pack(pack) => {
                pack.encode(w);
                body = pack.body.clone();
                13
            }
            Self::Piece(piece) => {
                piece.encode(w);
                body = piece.body.clone();
                14
            }
            Self::Ack(ack) => {
                ack.encode(w);
                15
            }
            Self::Gaps(gaps) => {
                Gap::encode_all(gaps, w);
                16
            }
            Self::Committed(committed) => {
                committed.encode(w);
                17
            }
            Self::Challenge(challenge) => {
                challenge.encode(w);
                18
            }
            Self::Proof(proof) => {
                proof.encode(w);
                19
            }
            Self::Listing(entries) => {
                Listed::encode_all(entries, w);
                20
            }
            Self::ListingEnd => 21,
            Self::Bye => 22,
            Self::Ask(ask) => {
                ask.encode(w);
                23
            }
            Self::Signature(signature) => {
                w.u64(u64::from(signature.question));
                body = signature.body.clone();
                24
            }
            Self::Examine(examine) => {
                examine.encode(w);
                25
            }
            Self::Probe(burst) => {
                body = burst.clone();
                26
            }
            Self::Probed(probed) => {
                probed.encode(w);
                27
            }
            Self::Recheck => 28,
            Self::Rechecked(rechecked) => {
                rechecked.encode(w);
                29
            }
        };
        Frame { kind, head: writer.finish().into(), body }
    }

    /// The message in `frame`, checked in every field.
    pub fn decode(frame: Frame) -> Result<Self, WireError> {
        let mut reader = Reader::new(&frame.head);
        let r = &mut reader;
        let body = frame.body;
        let body_bytes = body.len();
        let message = match frame.kind {
            1 => Self::Hello(Hello::decode(r)?),
            2 => Self::Refuse(Refusal::decode(r)?),
            3 => Self::Basis(Basis::decode(r)?),
            4 => Self::Begin(Begin::decode(r)?),
            5 => Self::Survey(SurveyItem::decode_all(r)?),
            6 => Self::SurveyEnd,
            7 => Self::Plan(Plan::decode(r)?),
            8 => Self::Structure(Op::decode_all(r)?),
            9 => Self::Open(Open::decode(r)?),
            10 => Self::Close(Close::decode(r)?),
            11 => Self::Barrier(Barrier::decode(r)?),
            12 => Self::Finish(Finish::decode(r)?),
            13 => return Pack::decode(reader, body).map(Self::Pack),
            14 => return Piece::decode(reader, body).map(Self::Piece),
            15 => Self::Ack(Ack::decode(r)?),
            16 => Self::Gaps(Gap::decode_all(r)?),
            17 => Self::Committed(Committed::decode(r)?),
            18 => Self::Challenge(Challenge::decode(r)?),
            19 => Self::Proof(Proof::decode(r)?),
            20 => Self::Listing(Listed::decode_all(r)?),
            21 => Self::ListingEnd,
            22 => Self::Bye,
            23 => Self::Ask(Ask::decode(r)?),
            24 => return Signature::decode(reader, body).map(Self::Signature),
            25 => Self::Examine(Examine::decode(r)?),
            26 => return reader.finish().map(|()| Self::Probe(body)),
            27 => Self::Probed(Probed::decode(r)?),
            28 => Self::Recheck,
            29 => Self::Rechecked(Rechecked::decode(r)?),
            value => return Err(WireError::Meaningless { what: "message kind", value: u64::from(value) }),
        };
        reader.finish()?;
        match body_bytes {
            0 => Ok(message),
            bytes => Err(WireError::Trailing { bytes }),
        }
    }
}
