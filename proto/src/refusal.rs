//! Why a peer says no: a number on the wire, a stable code for people, and a sentence.

use crate::codec::{Reader, WireError, Writer};

/// A refusal, said once before the session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub reason: Reason,
    /// What exactly, with the object and the limit. Untrusted: escaped by whoever prints it.
    pub detail: String,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $code:literal;)*) => {
        /// Reasons to say no. Numbers are added, never reused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// The number on the wire.
            pub fn number(self) -> u64 {
                match self { $(Self::$name => $number,)* }
            }

            /// The stable code that users and scripts see.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            fn from_number(number: u64) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// No protocol version is shared.
    Version = 1, "TS-P100";
    /// A required feature is unknown.
    Feature = 2, "TS-P105";
    /// A message that breaks the protocol.
    Protocol = 3, "TS-P103";
    /// Both sides want to be the same role.
    Role = 4, "TS-P106";
    /// A session with a higher epoch exists.
    Epoch = 5, "TS-P107";
    /// A tree on one side and a block volume on the other.
    Kind = 6, "TS-E233";
    /// The destination is too small.
    Space = 7, "TS-E231";
    /// The destination cannot carry what the fidelity mode promises.
    Fidelity = 8, "TS-E220";
    /// The volume's own storage failed.
    Storage = 9, "TS-E250";
    /// The source changed during a final pass.
    Changed = 10, "TS-E260";
    /// Another session uses this volume.
    Busy = 11, "TS-P108";
    /// The peer was stopped by its user.
    Stopped = 12, "TS-P109";
    /// A digest did not match after it was sent again.
    Digest = 13, "TS-D500";
    /// The state folder cannot be read or written.
    State = 14, "TS-E251";
    /// The destination is full.
    Full = 15, "TS-E230";
}

impl Refusal {
    /// A refusal for `reason`.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        if detail.len() > crate::limit::TEXT_BYTES_MAX {
            let cut = (0..=crate::limit::TEXT_BYTES_MAX).rev().find(|&at| detail.is_char_boundary(at)).unwrap_or(0);
            detail.truncate(cut);
        }
        Self { reason, detail }
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.u64(self.reason.number());
        writer.bytes(self.detail.as_bytes());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let number = reader.u64("refusal")?;
        let detail = reader.text("refusal")?;
        // A newer peer may have reasons that we do not know; its sentence still reaches the user.
        Ok(Self { reason: Reason::from_number(number).unwrap_or(Reason::Protocol), detail })
    }
}

impl From<&WireError> for Refusal {
    fn from(error: &WireError) -> Self {
        Self::new(Reason::Protocol, error.to_string())
    }
}
