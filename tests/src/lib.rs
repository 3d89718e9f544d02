//! What is promised: the harness.
//!
//! It makes worlds ([`filesystems`]), breaks input ([`fuzz`]), and judges the result ([`walker`]). The judge shares
//! no code with what it judges.

pub mod filesystems;
pub mod fuzz;
pub mod random;
pub mod samples;
pub mod walker;
