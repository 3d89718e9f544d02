//! What is promised: the harness.
//!
//! It makes worlds ([`filesystems`], [`variety`], [`changes`]), drives the real binary in them ([`processes`]), and
//! judges the result ([`walker`]). The judge shares no code with what it judges.

pub mod filesystems;

pub mod random;

pub mod walker;
