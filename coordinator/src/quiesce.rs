//! Stopping what uses the claims, and starting it again: every change by UID, with the exact former value, and taken back
//! only where nobody else has changed it since.

mod blame;
mod change;
mod holder;
mod live;
mod plan;
mod tell;
mod wait;

pub(crate) use blame::changed_by;
pub use change::{Undone, make, taken_back_by, undo};
pub(crate) use holder::pods;
pub use holder::{Hold, Holder, holders};
pub use plan::plan;
pub use tell::{News, stopped, tell};
pub use wait::{Release, wait_released};
