//! What is decided about bytes.
//!
//! The path of a byte is *plan → session → scan → signature → delta → wire → apply → verify → commit*. This crate
//! decides every step of it between the plan and the commit, and does none: it reads no file, opens no socket, asks no
//! clock and draws no random number. What it needs comes in as arguments, and stored lists as [`std::io::Read`].

pub mod delta;
pub mod digest;
pub mod entry;
pub mod exclude;
pub mod moves;
pub mod overlay;
pub mod pack;
pub mod piece;
pub mod plan;
pub mod predict;
pub mod run;
pub mod session;
pub mod shift;
pub mod stat;

pub use entry::{Change, Entry};
pub use stat::Stat;
