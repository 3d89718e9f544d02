//! Waiting for a condition.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything in a cluster may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Looks again and again until something is there, and gives it.
///
/// # Panics
/// When it does not come within [`PATIENCE`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        thread::park_timeout(LOOK);
    }
}
