//! What is promised: the harness.
//!
//! It makes worlds ([`filesystems`], [`variety`], [`changes`], [`cluster`]), drives the real binary in them
//! ([`processes`]), breaks input ([`fuzz`]), and judges the result ([`walker`]). The judge shares no code with what it judges.

pub mod changes;
pub mod cluster;
pub mod filesystems;
pub mod fuzz;
pub mod processes;
pub mod random;
pub mod samples;
pub mod variety;
pub mod walker;
