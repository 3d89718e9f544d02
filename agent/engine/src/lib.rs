//! What is decided about bytes.

pub mod stat;

pub use stat::Stat;
