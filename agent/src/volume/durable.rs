//! Flushing, and never believing a second answer.

use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use tranship_proto::entry::Place;

use super::VolumeError;

/// Remembers that a flush failed.
///
/// The kernel reports a failed write-back once to each handle, drops what was dirty, and answers the next call with
/// success. So the first failure is the answer to all that follow, and calls are one after the other: none can slip
/// past one that is about to fail.
#[derive(Debug, Default)]
pub(super) struct Durable {
    failure: Mutex<Option<Errno>>,
}

impl Durable {
    /// Does `sync`, unless one has failed before.
    pub(super) fn sync(
        &self,
        operation: &'static str,
        sync: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), VolumeError> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            *failure = sync().err();
        }
        match *failure {
            Some(errno) => Err(VolumeError::of(operation, &Place::root(), errno)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_flush_is_never_cured_by_another() {
        let durable = Durable::default();
        assert!(durable.sync("flush", || Ok(())).is_ok());
        assert!(durable.sync("flush", || Err(Errno::IO)).is_err());
        assert!(durable.sync("flush", || Ok(())).is_err());
    }
}
