//! Volumes on real file systems. What needs root or a tool says so and is skipped where it is missing.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by a panic, and says why it skips")]

#[path = "volume/block.rs"]
mod block;
#[path = "volume/confinement.rs"]
mod confinement;
#[path = "volume/support.rs"]
mod support;
#[path = "volume/tree.rs"]
mod tree;
