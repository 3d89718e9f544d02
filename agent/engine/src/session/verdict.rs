//! What two proofs say about two volumes.

use tranship_proto::message::{Gap, Proof};

/// How the two sides compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What we read.
    pub ours: Proof,
    /// What the destination read.
    pub theirs: Proof,
    /// What differs, if anything does.
    pub differences: Vec<Gap>,
}

impl Verdict {
    /// Whether both volumes hold the same, read after the challenge was made.
    pub fn is_equal(&self) -> bool {
        self.ours.canonical == self.theirs.canonical
            && self.ours.challenge == self.theirs.challenge
            && self.ours.entries == self.theirs.entries
            && self.ours.bytes == self.theirs.bytes
    }
}
