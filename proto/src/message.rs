//! The closed set of messages, and their bytes.

use bytes::Bytes;

use crate::codec::{Reader, WireError, Writer};
use crate::entry::{Kind, Meta, Place, decode_target};
use crate::feature::{self, Feature};
use crate::frame::Frame;
use crate::id::{ContentId, Digest, Epoch, Token};
use crate::limit::{
    BATCH_MAX, BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, BODY_BYTES_MAX, DELTA_BASE_BYTES_MAX, FILE_BYTES_MAX,
    LEAVES_PER_PIECE, PACK_FILES_MAX, PACKED_FILE_BYTES_MAX, PATTERNS_MAX, PIECE_BYTES,
};
use crate::refusal::Refusal;
use crate::version::MAGIC;

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
}

/// Who is truth and who receives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Holds the truth.
    Source,
    /// Receives it.
    Destination,
}

/// How much of an object's metadata is carried; each is a contract (`docs/fidelity.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fidelity {
    /// Content, names, modes, times, `user.*` attributes; owners as whoever runs the destination.
    Plain,
    /// And all owners, ACLs and file capabilities.
    Owner,
    /// And device nodes and `trusted.*`.
    Exact,
}

/// What must be equal for two volumes to count as equal: all that the mode carries, less what the user said may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contract {
    /// The mode.
    pub fidelity: Fidelity,
    /// Accepted kinds of gaps, a bit for each [`GapKind::number`].
    pub without: u32,
}

impl Contract {
    /// All that `fidelity` carries.
    pub fn all(fidelity: Fidelity) -> Self {
        Self { fidelity, without: 0 }
    }

    /// The same, with `kind` accepted as missing.
    pub fn accepting(self, kind: GapKind) -> Self {
        Self { without: self.without | 1 << kind.number(), ..self }
    }

    /// Whether `kind` may be missing.
    pub fn accepts(self, kind: GapKind) -> bool {
        self.without >> kind.number() & 1 == 1
    }
}

/// A tree of files, or one block volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeKind {
    /// Files in directories.
    Tree,
    /// A device or an image.
    Block,
}

/// The greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Oldest version that the sender speaks.
    pub oldest: u32,
    /// Newest version that the sender speaks.
    pub newest: u32,
    /// What the sender can and must have.
    pub features: Vec<Feature>,
    /// What the sender is.
    pub role: Role,
    /// The sender's fencing number.
    pub epoch: Epoch,
    /// The kind of the sender's volume, as far as it exists.
    pub volume: Option<VolumeKind>,
    /// The sender's build, for people.
    pub build: String,
}

/// What a destination holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basis {
    /// Names the volume, so that a source keeps one manifest for each of its destinations.
    pub volume: Digest,
    /// Its last committed manifest.
    pub token: Option<Token>,
    /// Whether a pass was cut off since.
    pub is_interrupted: bool,
    /// Whether it has nothing at all: the first copy needs no survey.
    pub is_empty: bool,
    /// Bytes that the volume can hold.
    pub capacity_bytes: u64,
    /// Bytes that are free in it.
    pub free_bytes: u64,
}

/// What a pass builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BasisChoice {
    /// Both sides hold this manifest; the survey tells only what is in doubt since.
    Common(Token),
    /// No manifest is common; the survey tells everything.
    Survey,
    /// The destination is empty, or not worth reading: everything is sent.
    Nothing,
}

/// The source begins a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// What both sides take for granted.
    pub basis: BasisChoice,
    /// The contract for metadata.
    pub fidelity: Fidelity,
    /// Whether the source has no writers.
    pub is_final: bool,
    /// Size of a block volume.
    pub block_bytes: Option<u64>,
    /// Patterns of what is left out on both sides, in gitignore's syntax.
    pub excludes: Vec<String>,
}

/// What is compared without a pass. Nothing is changed by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examine {
    /// Size of a block volume: a larger destination is equal if zeros follow.
    pub block_bytes: Option<u64>,
    /// Patterns of what is left out on both sides, in gitignore's syntax.
    pub excludes: Vec<String>,
}

/// One line of a survey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SurveyItem {
    /// Nothing is at this place, nor beneath it.
    Absent(Place),
    /// An entry as it was found.
    Present(Box<Surveyed>),
    /// Digests of consecutive pieces of the entry before.
    Pieces(Vec<Digest>),
}

/// An entry as a destination found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surveyed {
    /// Where.
    pub place: Place,
    /// What.
    pub kind: Kind,
    /// Bytes of content.
    pub size: u64,
    /// Digest of its metadata, if it could be read.
    pub meta: Option<Digest>,
    /// Digest of its content, if it has one and it was read.
    pub content: Option<Digest>,
    /// The first name of its inode, if this is a later one.
    pub leader: Option<Place>,
}

/// How much a pass may touch, and how much it is for progress and for the space check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Whether it may touch so much that listing it is not worth it.
    pub touches_everything: bool,
    /// Entries that may change.
    pub entries: u64,
    /// Bytes of content that may be sent.
    pub bytes: u64,
}

/// One operation on the tree, done in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Remove what is there, with everything beneath it.
    Delete {
        /// Where.
        place: Place,
    },
    /// Move it into a numbered slot outside the tree's own names, until its new place is ready.
    MoveOut {
        /// From where.
        place: Place,
        /// To which slot.
        slot: u32,
    },
    /// Move it from its slot to its new place, replacing what is there.
    MoveIn {
        /// To where.
        place: Place,
        /// From which slot.
        slot: u32,
    },
    /// Make a directory; its metadata follows later.
    MakeDirectory {
        /// Where.
        place: Place,
    },
    /// Make a symbolic link, replacing what is there.
    Symlink {
        /// Where.
        place: Place,
        /// To what, verbatim.
        target: Box<[u8]>,
        /// Owner, time and attributes.
        meta: Meta,
    },
    /// Make another name of a regular file, replacing what is there.
    Link {
        /// Where.
        place: Place,
        /// The file's first name in the order of places.
        leader: Place,
    },
    /// Make a FIFO or a device node, or record a socket.
    Special {
        /// Where.
        place: Place,
        /// Which.
        kind: Kind,
        /// Device number, 0 for others.
        device: u64,
        /// Owner, mode, time and attributes.
        meta: Meta,
    },
    /// Set metadata of what is there.
    SetMeta {
        /// Where.
        place: Place,
        /// What must be there.
        kind: Kind,
        /// To what.
        meta: Meta,
    },
}

impl Op {
    /// Where it acts.
    pub fn place(&self) -> &Place {
        match self {
            Self::Delete { place }
            | Self::MoveOut { place, .. }
            | Self::MoveIn { place, .. }
            | Self::MakeDirectory { place }
            | Self::Symlink { place, .. }
            | Self::Link { place, .. }
            | Self::Special { place, .. }
            | Self::SetMeta { place, .. } => place,
        }
    }
}

/// Pieces of a content may follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Its number in this pass.
    pub content: ContentId,
    /// Where it is.
    pub place: Place,
    /// File or block volume.
    pub kind: Kind,
    /// Bytes that it has at the source.
    pub size: u64,
    /// What its pieces are written onto.
    pub onto: Onto,
}

/// What pieces are written onto.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onto {
    /// A new file of zeros, which replaces what is there at once.
    Zeros,
    /// What is there.
    Basis,
    /// A new file of zeros beside what is there, which it replaces in the end: pieces may be deltas against the old one.
    Beside,
}

/// All pieces of a content were sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// Its number in this pass.
    pub content: ContentId,
    /// Bytes that it has; more is cut off.
    pub size: u64,
    /// Pieces that were sent.
    pub pieces: u64,
    /// Digest of all its bytes.
    pub digest: Digest,
    /// Metadata, except for a block volume.
    pub meta: Option<Meta>,
}

/// Everything before this must be done before anything after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Barrier {
    /// Packs that were sent so far in this pass.
    pub packs: u64,
    /// Contents that were opened so far in this pass.
    pub contents: u64,
}

/// The pass is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finish {
    /// The name of the manifest that both sides now make, if anything changed.
    pub token: Token,
    /// Entries of the volume, for a first plausibility check.
    pub entries: u64,
}

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// As it is.
    Plain,
    /// One LZ4 block.
    Lz4,
    /// One Zstandard frame.
    Zstd,
}

/// Small files as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// The files, in the order of their bytes.
    pub files: Vec<Packed>,
    /// How the bytes are packed.
    pub codec: Codec,
    /// Their contents, one after the other.
    pub body: Bytes,
}

/// One small file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Where.
    pub place: Place,
    /// Its bytes in the body.
    pub size: u32,
    /// Digest of its content.
    pub digest: Digest,
    /// Its metadata.
    pub meta: Meta,
}

impl Pack {
    /// Bytes of all files, unpacked.
    pub fn raw_bytes(&self) -> usize {
        self.files.iter().map(|file| file.size as usize).sum()
    }
}

/// What changed in one piece of one content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Which content.
    pub content: ContentId,
    /// Which piece of it.
    pub index: u64,
    /// Bytes of the piece: [`PIECE_BYTES`], less in the last one.
    pub bytes: u32,
    /// Leaves that changed.
    pub changed: u64,
    /// Those of them that are all zeros and are not in the body.
    pub zeros: u64,
    /// Digests of the changed leaves that are in the body, in order; none for a delta.
    pub leaves: Vec<Digest>,
    /// Digest of the whole piece, as it is when this is applied.
    pub digest: Digest,
    /// What the unpacked body is a delta against; nothing if it is the changed leaves themselves.
    pub delta: Option<Delta>,
    /// How the leaves are packed.
    pub codec: Codec,
    /// The changed leaves that are not zeros, one after the other.
    pub body: Bytes,
}

/// A body that copies from what the destination held before the pass: a delta in librsync's format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// The extents of the old content that it copies from, one after the other.
    pub base: Vec<Extent>,
    /// Bytes of the delta, unpacked.
    pub bytes: u32,
}

impl Extent {
    /// Bytes of all `extents`.
    pub fn total_bytes(extents: &[Self]) -> usize {
        extents.iter().map(|extent| extent.bytes as usize).sum()
    }
}

/// A question for the signature of what the destination holds: where a change is smaller than a leaf, or bytes moved and
/// nobody knows how far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Names the question in the answer.
    pub question: u32,
    /// The content.
    pub place: Place,
    /// Which of its bytes, one extent after the other.
    pub extents: Vec<Extent>,
    /// Bytes in a block of the signature, from [`BLOCK_BYTES_MIN`] to [`BLOCK_BYTES_MAX`].
    pub block_bytes: u32,
}

/// The answer to an [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The question.
    pub question: u32,
    /// A signature in librsync's format; empty if the bytes are not there.
    pub body: Bytes,
}

/// Consecutive bytes of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The offset of the first.
    pub at: u64,
    /// How many there are.
    pub bytes: u32,
}

/// This much is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ack {
    /// Bytes of content that were applied and flushed in this pass.
    pub bytes: u64,
    /// Entries that were applied and flushed in this pass.
    pub entries: u64,
}

/// Something that could not be carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Where.
    pub place: Place,
    /// What kind of thing, as users name it in `--accept-gap`.
    pub what: GapKind,
    /// Details for people.
    pub detail: String,
}

macro_rules! gap_kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $word:literal;)*) => {
        /// Kinds of gaps. Numbers are added, never reused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum GapKind { $($(#[$doc])* $name,)* }

        impl GapKind {
            /// All kinds.
            pub const ALL: &'static [GapKind] = &[$(Self::$name),*];

            /// The word that users see and give.
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// The number on the wire.
            pub fn number(self) -> u8 {
                match self { $(Self::$name => $number,)* }
            }

            fn from_number(number: u8) -> Result<Self, WireError> {
                match number {
                    $($number => Ok(Self::$name),)*
                    value => Err(WireError::Meaningless { what: "gap", value: u64::from(value) }),
                }
            }
        }
    };
}

gap_kinds! {
    /// Owner or group.
    Owner = 1, "owner";
    /// Permission bits, setuid, setgid or sticky.
    Mode = 2, "mode";
    /// Modification time.
    Time = 3, "time";
    /// An extended attribute.
    Xattr = 4, "xattr";
    /// A POSIX access control list.
    Acl = 5, "acl";
    /// A file capability.
    Capability = 6, "capability";
    /// A device node.
    Device = 7, "device";
    /// A socket: recorded, not made.
    Socket = 8, "socket";
    /// Something that could not be read.
    Unreadable = 9, "unreadable";
    /// A name, depth or size that the destination cannot hold.
    Limit = 10, "limit";
    /// Inode flags such as immutable, or project identifiers.
    Flags = 11, "flags";
}

/// What a destination did in a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Committed {
    /// The manifest that is durable now.
    pub token: Option<Token>,
    /// Bytes of the volume that were read.
    pub read_bytes: u64,
    /// Bytes of the volume that were written.
    pub written_bytes: u64,
    /// Entries that were found changed behind our back.
    pub drifted_entries: u64,
}

/// How much is read for a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Every byte on both sides.
    Full,
    /// What changed since the pass that read it, and a sample of the rest.
    Tracked,
}

/// Read your volume again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    /// Key of the challenge digest: nobody could have computed it before.
    pub nonce: [u8; 32],
    /// How much to read.
    pub level: Level,
    /// The contract under which metadata counts.
    pub contract: Contract,
    /// Whether each entry's digest is wanted too, because the whole one differed.
    pub lists_entries: bool,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// The canonical digest: the same for equal volumes, whenever and wherever it is made.
    pub canonical: Digest,
    /// The digest of the same bytes under the challenge's nonce.
    pub challenge: Digest,
    /// Entries in the volume.
    pub entries: u64,
    /// Logical bytes of content, holes included.
    pub bytes: u64,
    /// Bytes that were read for this proof.
    pub read_bytes: u64,
}

/// One entry's digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Where.
    pub place: Place,
    /// What.
    pub kind: Kind,
    /// Bytes of content.
    pub size: u64,
    /// Digest of its metadata.
    pub meta: Digest,
    /// Digest of its content.
    pub content: Digest,
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
            Self::Challenge(_) => "Challenge",
            Self::Proof(_) => "Proof",
            Self::Listing(_) => "Listing",
            Self::ListingEnd => "ListingEnd",
            Self::Bye => "Bye",
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Frame {
        let mut w = Writer::new();
        let mut body = Bytes::new();
        let kind = match self {
            Self::Hello(hello) => {
                hello.encode(&mut w);
                1
            }
            Self::Refuse(refusal) => {
                refusal.encode(&mut w);
                2
            }
            Self::Basis(basis) => {
                w.array(&basis.volume.0);
                w.option(basis.token, |w, token| w.array(&token.0));
                w.bool(basis.is_interrupted);
                w.bool(basis.is_empty);
                w.u64(basis.capacity_bytes);
                w.u64(basis.free_bytes);
                3
            }
            Self::Begin(begin) => {
                begin.encode(&mut w);
                4
            }
            Self::Survey(items) => {
                encode_survey(items, &mut w);
                5
            }
            Self::SurveyEnd => 6,
            Self::Plan(plan) => {
                w.bool(plan.touches_everything);
                w.u64(plan.entries);
                w.u64(plan.bytes);
                7
            }
            Self::Structure(ops) => {
                encode_list(ops, Op::place, &mut w, |w, op| op.encode(w));
                8
            }
            Self::Open(open) => {
                w.u64(u64::from(open.content.0));
                open.place.encode_after(&Place::root(), &mut w);
                w.u8(open.kind.number());
                w.u64(open.size);
                w.u8(open.onto.number());
                9
            }
            Self::Close(close) => {
                w.u64(u64::from(close.content.0));
                w.u64(close.size);
                w.u64(close.pieces);
                w.array(&close.digest.0);
                w.option(close.meta.as_ref(), |w, meta| meta.encode(w));
                10
            }
            Self::Barrier(barrier) => {
                w.u64(barrier.packs);
                w.u64(barrier.contents);
                11
            }
            Self::Finish(finish) => {
                w.array(&finish.token.0);
                w.u64(finish.entries);
                12
            }
            Self::Pack(pack) => {
                w.u8(pack.codec.number());
                encode_list(
                    &pack.files,
                    |file| &file.place,
                    &mut w,
                    |w, file| {
                        w.u64(u64::from(file.size));
                        w.array(&file.digest.0);
                        file.meta.encode(w);
                    },
                );
                body = pack.body.clone();
                13
            }
            Self::Piece(piece) => {
                piece.encode(&mut w);
                body = piece.body.clone();
                14
            }
            Self::Ask(ask) => {
                w.u64(u64::from(ask.question));
                ask.place.encode_after(&Place::root(), &mut w);
                encode_extents(&ask.extents, &mut w);
                w.u64(u64::from(ask.block_bytes));
                23
            }
            Self::Signature(signature) => {
                w.u64(u64::from(signature.question));
                body = signature.body.clone();
                24
            }
            Self::Ack(ack) => {
                w.u64(ack.bytes);
                w.u64(ack.entries);
                15
            }
            Self::Gaps(gaps) => {
                encode_list(
                    gaps,
                    |gap| &gap.place,
                    &mut w,
                    |w, gap| {
                        w.u8(gap.what.number());
                        w.bytes(gap.detail.as_bytes());
                    },
                );
                16
            }
            Self::Committed(committed) => {
                w.option(committed.token, |w, token| w.array(&token.0));
                w.u64(committed.read_bytes);
                w.u64(committed.written_bytes);
                w.u64(committed.drifted_entries);
                17
            }
            Self::Challenge(challenge) => {
                w.array(&challenge.nonce);
                w.u8(challenge.level.number());
                w.u8(challenge.contract.fidelity.number());
                w.u64(u64::from(challenge.contract.without));
                w.bool(challenge.lists_entries);
                18
            }
            Self::Proof(proof) => {
                w.array(&proof.canonical.0);
                w.array(&proof.challenge.0);
                w.u64(proof.entries);
                w.u64(proof.bytes);
                w.u64(proof.read_bytes);
                19
            }
            Self::Listing(entries) => {
                encode_list(
                    entries,
                    |entry| &entry.place,
                    &mut w,
                    |w, entry| {
                        w.u8(entry.kind.number());
                        w.u64(entry.size);
                        w.array(&entry.meta.0);
                        w.array(&entry.content.0);
                    },
                );
                20
            }
            Self::ListingEnd => 21,
            Self::Bye => 22,
            Self::Examine(examine) => {
                w.option(examine.block_bytes, Writer::u64);
                encode_patterns(&examine.excludes, &mut w);
                25
            }
        };
        Frame { kind, head: w.finish().into(), body }
    }

    /// The message in `frame`, checked in every field.
    pub fn decode(frame: Frame) -> Result<Self, WireError> {
        let mut r = Reader::new(&frame.head);
        let body = frame.body;
        let body_bytes = body.len();
        let message = match frame.kind {
            1 => Self::Hello(Hello::decode(&mut r)?),
            2 => Self::Refuse(Refusal::decode(&mut r)?),
            3 => Self::Basis(Basis {
                volume: decode_digest(&mut r)?,
                token: r.option("token", decode_token)?,
                is_interrupted: r.bool("interrupted")?,
                is_empty: r.bool("empty")?,
                capacity_bytes: r.u64("capacity")?,
                free_bytes: r.u64("free bytes")?,
            }),
            4 => Self::Begin(Begin::decode(&mut r)?),
            5 => Self::Survey(decode_survey(&mut r)?),
            6 => Self::SurveyEnd,
            7 => Self::Plan(Plan {
                touches_everything: r.bool("plan")?,
                entries: r.u64("entries")?,
                bytes: r.u64("bytes")?,
            }),
            8 => Self::Structure(decode_list(&mut r, "operations", BATCH_MAX, Op::decode)?),
            9 => Self::Open(Open {
                content: ContentId(r.u32("content")?),
                place: Place::decode_after(&Place::root(), &mut r)?,
                kind: Kind::from_number(r.u8("kind")?)?,
                size: r.at_most("size", FILE_BYTES_MAX)?,
                onto: Onto::from_number(r.u8("onto")?)?,
            }),
            10 => Self::Close(Close {
                content: ContentId(r.u32("content")?),
                size: r.at_most("size", FILE_BYTES_MAX)?,
                pieces: r.u64("pieces")?,
                digest: decode_digest(&mut r)?,
                meta: r.option("metadata", Meta::decode)?,
            }),
            11 => Self::Barrier(Barrier { packs: r.u64("packs")?, contents: r.u64("contents")? }),
            12 => Self::Finish(Finish { token: decode_token(&mut r)?, entries: r.u64("entries")? }),
            13 => return Pack::decode(r, body).map(Self::Pack),
            14 => return Piece::decode(r, body).map(Self::Piece),
            15 => Self::Ack(Ack { bytes: r.u64("bytes")?, entries: r.u64("entries")? }),
            16 => Self::Gaps(decode_list(&mut r, "gaps", BATCH_MAX, |place, r| {
                Ok(Gap { place, what: GapKind::from_number(r.u8("gap")?)?, detail: r.text("gap")? })
            })?),
            17 => Self::Committed(Committed {
                token: r.option("token", decode_token)?,
                read_bytes: r.u64("bytes read")?,
                written_bytes: r.u64("bytes written")?,
                drifted_entries: r.u64("drifted entries")?,
            }),
            18 => Self::Challenge(Challenge {
                nonce: r.array("nonce")?,
                level: Level::from_number(r.u8("level")?)?,
                contract: Contract {
                    fidelity: Fidelity::from_number(r.u8("fidelity")?)?,
                    without: r.u32("accepted gaps")?,
                },
                lists_entries: r.bool("listing")?,
            }),
            19 => Self::Proof(Proof {
                canonical: decode_digest(&mut r)?,
                challenge: decode_digest(&mut r)?,
                entries: r.u64("entries")?,
                bytes: r.u64("bytes")?,
                read_bytes: r.u64("bytes read")?,
            }),
            20 => Self::Listing(decode_list(&mut r, "entries", BATCH_MAX, |place, r| {
                Ok(Listed {
                    place,
                    kind: Kind::from_number(r.u8("kind")?)?,
                    size: r.at_most("size", FILE_BYTES_MAX)?,
                    meta: decode_digest(r)?,
                    content: decode_digest(r)?,
                })
            })?),
            21 => Self::ListingEnd,
            22 => Self::Bye,
            23 => Self::Ask(Ask::decode(&mut r)?),
            24 => return Signature::decode(r, body).map(Self::Signature),
            25 => {
                Self::Examine(Examine { block_bytes: decode_block_bytes(&mut r)?, excludes: decode_patterns(&mut r)? })
            }
            value => return Err(WireError::Meaningless { what: "message kind", value: u64::from(value) }),
        };
        r.finish()?;
        match body_bytes {
            0 => Ok(message),
            bytes => Err(WireError::Trailing { bytes }),
        }
    }
}

impl Hello {
    /// The frozen layout: magic, then the versions; a peer of any version can read that far.
    fn encode(&self, w: &mut Writer) {
        w.array(&MAGIC);
        w.u64(u64::from(self.oldest));
        w.u64(u64::from(self.newest));
        feature::encode(&self.features, w);
        w.u8(match self.role {
            Role::Source => 1,
            Role::Destination => 2,
        });
        w.u64(self.epoch.0);
        w.option(self.volume, |w, kind| {
            w.u8(match kind {
                VolumeKind::Tree => 1,
                VolumeKind::Block => 2,
            });
        });
        w.bytes(self.build.as_bytes());
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let magic: [u8; 8] = r.array("magic")?;
        if magic != MAGIC {
            return Err(WireError::Meaningless { what: "magic", value: u64::from_le_bytes(magic) });
        }
        Ok(Self {
            oldest: r.u32("version")?,
            newest: r.u32("version")?,
            features: feature::decode(r)?,
            role: match r.u8("role")? {
                1 => Role::Source,
                2 => Role::Destination,
                value => return Err(WireError::Meaningless { what: "role", value: u64::from(value) }),
            },
            epoch: Epoch(r.u64("epoch")?),
            volume: r.option("volume kind", |r| match r.u8("volume kind")? {
                1 => Ok(VolumeKind::Tree),
                2 => Ok(VolumeKind::Block),
                value => Err(WireError::Meaningless { what: "volume kind", value: u64::from(value) }),
            })?,
            build: r.text("build")?,
        })
    }
}

fn encode_patterns(patterns: &[String], w: &mut Writer) {
    w.u64(patterns.len() as u64);
    patterns.iter().for_each(|pattern| w.bytes(pattern.as_bytes()));
}

fn decode_patterns(r: &mut Reader<'_>) -> Result<Vec<String>, WireError> {
    (0..r.count("patterns", PATTERNS_MAX)?).map(|_| r.text("pattern")).collect()
}

fn decode_block_bytes(r: &mut Reader<'_>) -> Result<Option<u64>, WireError> {
    r.option("block size", |r| r.at_most("block size", FILE_BYTES_MAX))
}

impl Begin {
    fn encode(&self, w: &mut Writer) {
        match self.basis {
            BasisChoice::Common(token) => {
                w.u8(1);
                w.array(&token.0);
            }
            BasisChoice::Survey => w.u8(2),
            BasisChoice::Nothing => w.u8(3),
        }
        w.u8(self.fidelity.number());
        w.bool(self.is_final);
        w.option(self.block_bytes, Writer::u64);
        encode_patterns(&self.excludes, w);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            basis: match r.u8("basis")? {
                1 => BasisChoice::Common(decode_token(r)?),
                2 => BasisChoice::Survey,
                3 => BasisChoice::Nothing,
                value => return Err(WireError::Meaningless { what: "basis", value: u64::from(value) }),
            },
            fidelity: Fidelity::from_number(r.u8("fidelity")?)?,
            is_final: r.bool("final")?,
            block_bytes: decode_block_bytes(r)?,
            excludes: decode_patterns(r)?,
        })
    }
}

impl Op {
    fn encode(&self, w: &mut Writer) {
        match self {
            Self::Delete { .. } => w.u8(1),
            Self::MoveOut { slot, .. } => {
                w.u8(2);
                w.u64(u64::from(*slot));
            }
            Self::MoveIn { slot, .. } => {
                w.u8(3);
                w.u64(u64::from(*slot));
            }
            Self::MakeDirectory { .. } => w.u8(4),
            Self::Symlink { target, meta, .. } => {
                w.u8(5);
                w.bytes(target);
                meta.encode(w);
            }
            Self::Link { leader, .. } => {
                w.u8(6);
                leader.encode_after(&Place::root(), w);
            }
            Self::Special { kind, device, meta, .. } => {
                w.u8(7);
                w.u8(kind.number());
                w.u64(*device);
                meta.encode(w);
            }
            Self::SetMeta { kind, meta, .. } => {
                w.u8(8);
                w.u8(kind.number());
                meta.encode(w);
            }
        }
    }

    fn decode(place: Place, r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match r.u8("operation")? {
            1 => Self::Delete { place },
            2 => Self::MoveOut { place, slot: r.u32("slot")? },
            3 => Self::MoveIn { place, slot: r.u32("slot")? },
            4 => Self::MakeDirectory { place },
            5 => Self::Symlink { place, target: decode_target(r)?, meta: Meta::decode(r)? },
            6 => {
                let leader = Place::decode_after(&Place::root(), r)?;
                if leader >= place {
                    return Err(WireError::Order { what: "hard link" });
                }
                Self::Link { place, leader }
            }
            7 => Self::Special {
                place,
                kind: match Kind::from_number(r.u8("kind")?)? {
                    kind @ (Kind::Fifo | Kind::Socket | Kind::CharDevice | Kind::BlockDevice) => kind,
                    kind => {
                        return Err(WireError::Meaningless { what: "special kind", value: u64::from(kind.number()) });
                    }
                },
                device: r.u64("device")?,
                meta: Meta::decode(r)?,
            },
            8 => Self::SetMeta { place, kind: Kind::from_number(r.u8("kind")?)?, meta: Meta::decode(r)? },
            value => return Err(WireError::Meaningless { what: "operation", value: u64::from(value) }),
        })
    }
}

impl Pack {
    fn decode(mut r: Reader<'_>, body: Bytes) -> Result<Self, WireError> {
        let codec = Codec::from_number(r.u8("codec")?)?;
        let files = decode_list(&mut r, "files", PACK_FILES_MAX, |place, r| {
            Ok(Packed {
                place,
                size: r.at_most("file size", PACKED_FILE_BYTES_MAX as u64)? as u32,
                digest: decode_digest(r)?,
                meta: Meta::decode(r)?,
            })
        })?;
        r.finish()?;
        let pack = Self { files, codec, body };
        let raw = pack.raw_bytes();
        check_body(codec, &pack.body, raw)?;
        Ok(pack)
    }
}

impl Piece {
    /// Bytes of the changed leaves that are not zeros.
    pub fn raw_bytes(&self) -> usize {
        let in_body = self.changed & !self.zeros;
        let full = in_body.count_ones() as usize * crate::limit::LEAF_BYTES;
        // Only the last leaf of a piece may be short.
        let last = (self.bytes as usize).div_ceil(crate::limit::LEAF_BYTES).saturating_sub(1);
        let missing = (last + 1) * crate::limit::LEAF_BYTES - self.bytes as usize;
        if in_body >> last & 1 == 1 { full - missing } else { full }
    }

    /// Bytes of the body, unpacked.
    pub fn body_bytes(&self) -> usize {
        self.delta.as_ref().map_or_else(|| self.raw_bytes(), |delta| delta.bytes as usize)
    }

    fn encode(&self, w: &mut Writer) {
        w.u64(u64::from(self.content.0));
        w.u64(self.index);
        w.u64(u64::from(self.bytes));
        w.array(&self.changed.to_le_bytes());
        w.array(&self.zeros.to_le_bytes());
        w.array(&self.digest.0);
        w.u8(self.codec.number());
        w.option(self.delta.as_ref(), |w, delta| delta.encode(w));
        for leaf in &self.leaves {
            w.array(&leaf.0);
        }
    }

    fn decode(mut r: Reader<'_>, body: Bytes) -> Result<Self, WireError> {
        let content = ContentId(r.u32("content")?);
        let index = r.at_most("piece", FILE_BYTES_MAX / PIECE_BYTES as u64)?;
        let bytes = r.at_most("piece size", PIECE_BYTES as u64)? as u32;
        let changed = u64::from_le_bytes(r.array("changed leaves")?);
        let zeros = u64::from_le_bytes(r.array("zero leaves")?);
        let digest = decode_digest(&mut r)?;
        let codec = Codec::from_number(r.u8("codec")?)?;
        let last = (bytes as usize).div_ceil(crate::limit::LEAF_BYTES);
        let beyond = if last >= LEAVES_PER_PIECE { 0 } else { u64::MAX << last };
        if bytes == 0 || changed & beyond != 0 || zeros & !changed != 0 {
            return Err(WireError::Meaningless { what: "changed leaves", value: changed });
        }
        let delta = r.option("delta", Delta::decode)?;
        let digests = if delta.is_some() { 0 } else { (changed & !zeros).count_ones() };
        let leaves = (0..digests).map(|_| decode_digest(&mut r)).collect::<Result<Vec<_>, _>>()?;
        r.finish()?;
        let piece = Self { content, index, bytes, changed, zeros, leaves, digest, delta, codec, body };
        check_body(codec, &piece.body, piece.body_bytes())?;
        Ok(piece)
    }
}

impl Delta {
    fn encode(&self, w: &mut Writer) {
        encode_extents(&self.base, w);
        w.u64(u64::from(self.bytes));
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let base = decode_extents(r)?;
        Ok(Self { base, bytes: r.at_most("delta size", BODY_BYTES_MAX as u64)? as u32 })
    }
}

fn encode_extents(extents: &[Extent], w: &mut Writer) {
    w.u64(extents.len() as u64);
    for extent in extents {
        w.u64(extent.at);
        w.u64(u64::from(extent.bytes));
    }
}

fn decode_extents(r: &mut Reader<'_>) -> Result<Vec<Extent>, WireError> {
    let mut total = 0;
    (0..r.count("extents", LEAVES_PER_PIECE)?)
        .map(|_| {
            let at = r.at_most("extent", FILE_BYTES_MAX)?;
            let bytes = r.at_most("extents", DELTA_BASE_BYTES_MAX as u64 - total)?;
            total += bytes;
            Ok(Extent { at, bytes: bytes as u32 })
        })
        .collect()
}

impl Ask {
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let question = r.u32("question")?;
        let place = Place::decode_after(&Place::root(), r)?;
        let extents = decode_extents(r)?;
        let block_bytes = r.at_most("block size", u64::from(BLOCK_BYTES_MAX))? as u32;
        if block_bytes < BLOCK_BYTES_MIN {
            return Err(WireError::Meaningless { what: "block size", value: u64::from(block_bytes) });
        }
        Ok(Self { question, place, extents, block_bytes })
    }
}

impl Signature {
    fn decode(mut r: Reader<'_>, body: Bytes) -> Result<Self, WireError> {
        let question = r.u32("question")?;
        r.finish()?;
        Ok(Self { question, body })
    }
}

impl Onto {
    fn number(self) -> u8 {
        match self {
            Self::Zeros => 0,
            Self::Basis => 1,
            Self::Beside => 2,
        }
    }

    fn from_number(number: u8) -> Result<Self, WireError> {
        match number {
            0 => Ok(Self::Zeros),
            1 => Ok(Self::Basis),
            2 => Ok(Self::Beside),
            value => Err(WireError::Meaningless { what: "onto", value: u64::from(value) }),
        }
    }
}

/// A plain body must have exactly the bytes that the head announces, and a packed one must be smaller than that.
fn check_body(codec: Codec, body: &Bytes, raw: usize) -> Result<(), WireError> {
    let is_right = match codec {
        Codec::Plain => body.len() == raw,
        Codec::Lz4 | Codec::Zstd => body.len() < raw,
    };
    if raw > BODY_BYTES_MAX || !is_right {
        return Err(WireError::Limit { what: "body", value: body.len() as u64, max: raw.min(BODY_BYTES_MAX) as u64 });
    }
    Ok(())
}

impl Codec {
    fn number(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    fn from_number(number: u8) -> Result<Self, WireError> {
        match number {
            0 => Ok(Self::Plain),
            1 => Ok(Self::Lz4),
            2 => Ok(Self::Zstd),
            value => Err(WireError::Meaningless { what: "codec", value: u64::from(value) }),
        }
    }
}

impl Fidelity {
    /// The number on the wire and in files.
    pub fn number(self) -> u8 {
        match self {
            Self::Plain => 1,
            Self::Owner => 2,
            Self::Exact => 3,
        }
    }

    /// The mode with this number.
    pub fn from_number(number: u8) -> Result<Self, WireError> {
        match number {
            1 => Ok(Self::Plain),
            2 => Ok(Self::Owner),
            3 => Ok(Self::Exact),
            value => Err(WireError::Meaningless { what: "fidelity", value: u64::from(value) }),
        }
    }
}

impl Level {
    fn number(self) -> u8 {
        match self {
            Self::Full => 1,
            Self::Tracked => 2,
        }
    }

    fn from_number(number: u8) -> Result<Self, WireError> {
        match number {
            1 => Ok(Self::Full),
            2 => Ok(Self::Tracked),
            value => Err(WireError::Meaningless { what: "level", value: u64::from(value) }),
        }
    }
}

fn decode_token(r: &mut Reader<'_>) -> Result<Token, WireError> {
    Ok(Token(r.array("token")?))
}

fn decode_digest(r: &mut Reader<'_>) -> Result<Digest, WireError> {
    Ok(Digest(r.array("digest")?))
}

/// Items with places, each place as its difference from the one before.
fn encode_list<T>(items: &[T], place: impl Fn(&T) -> &Place, w: &mut Writer, mut encode: impl FnMut(&mut Writer, &T)) {
    w.u64(items.len() as u64);
    let root = Place::root();
    let mut previous = &root;
    for item in items {
        place(item).encode_after(previous, w);
        encode(w, item);
        previous = place(item);
    }
}

fn decode_list<T>(
    r: &mut Reader<'_>,
    what: &'static str,
    max: usize,
    mut decode: impl FnMut(Place, &mut Reader<'_>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let mut previous = Place::root();
    (0..r.count(what, max)?)
        .map(|_| {
            let place = Place::decode_after(&previous, r)?;
            previous = place.clone();
            decode(place, r)
        })
        .collect()
}

fn encode_survey(items: &[SurveyItem], w: &mut Writer) {
    w.u64(items.len() as u64);
    let root = Place::root();
    let mut previous = &root;
    for item in items {
        match item {
            SurveyItem::Absent(place) => {
                w.u8(1);
                place.encode_after(previous, w);
                previous = place;
            }
            SurveyItem::Present(entry) => {
                w.u8(2);
                entry.place.encode_after(previous, w);
                w.u8(entry.kind.number());
                w.u64(entry.size);
                w.option(entry.meta, |w, digest| w.array(&digest.0));
                w.option(entry.content, |w, digest| w.array(&digest.0));
                w.option(entry.leader.as_ref(), |w, leader| leader.encode_after(&Place::root(), w));
                previous = &entry.place;
            }
            SurveyItem::Pieces(digests) => {
                w.u8(3);
                w.u64(digests.len() as u64);
                digests.iter().for_each(|digest| w.array(&digest.0));
            }
        }
    }
}

fn decode_survey(r: &mut Reader<'_>) -> Result<Vec<SurveyItem>, WireError> {
    let mut previous = Place::root();
    (0..r.count("survey", BATCH_MAX)?)
        .map(|_| {
            Ok(match r.u8("survey")? {
                1 => {
                    previous = Place::decode_after(&previous, r)?;
                    SurveyItem::Absent(previous.clone())
                }
                2 => {
                    previous = Place::decode_after(&previous, r)?;
                    SurveyItem::Present(Box::new(Surveyed {
                        place: previous.clone(),
                        kind: Kind::from_number(r.u8("kind")?)?,
                        size: r.at_most("size", FILE_BYTES_MAX)?,
                        meta: r.option("metadata digest", decode_digest)?,
                        content: r.option("content digest", decode_digest)?,
                        leader: r.option("leader", |r| Place::decode_after(&Place::root(), r))?,
                    }))
                }
                3 => SurveyItem::Pieces(
                    (0..r.count("pieces", BATCH_MAX)?).map(|_| decode_digest(r)).collect::<Result<_, _>>()?,
                ),
                value => return Err(WireError::Meaningless { what: "survey", value: u64::from(value) }),
            })
        })
        .collect()
}
