//! A measurement of the way between two agents, in place of a pass.

use crate::codec::{Reader, WireError, Writer};
use crate::limit::{PROBE_BYTES_MAX, PROBE_MS_MAX};

/// What came in of a burst, as far as it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probed {
    /// Bytes of bodies.
    pub bytes: u64,
    /// Microseconds in which they came; 0 if there were too few to tell.
    pub microseconds: u64,
}

impl Probed {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.u64(self.bytes);
        w.u64(self.microseconds);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            bytes: r.at_most("bytes of a burst", PROBE_BYTES_MAX)?,
            microseconds: r.at_most("microseconds of a burst", PROBE_MS_MAX * 1_000)?,
        })
    }
}
