//! What has to be carried, and what could not be.

use super::list::{decode_list, encode_list};
use crate::codec::{Reader, WireError, Writer};
use crate::entry::Place;
use crate::limit::BATCH_MAX;

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

impl Contract {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.u8(self.fidelity.number());
        w.u64(u64::from(self.without));
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { fidelity: Fidelity::from_number(r.u8("fidelity")?)?, without: r.u32("accepted gaps")? })
    }
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

impl Gap {
    pub(super) fn encode_all(gaps: &[Self], w: &mut Writer) {
        encode_list(
            gaps,
            |gap| &gap.place,
            w,
            |w, gap| {
                w.u8(gap.what.number());
                w.bytes(gap.detail.as_bytes());
            },
        );
    }

    pub(super) fn decode_all(r: &mut Reader<'_>) -> Result<Vec<Self>, WireError> {
        decode_list(r, "gaps", BATCH_MAX, |place, r| {
            Ok(Self { place, what: GapKind::from_number(r.u8("gap")?)?, detail: r.text("gap")? })
        })
    }
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
