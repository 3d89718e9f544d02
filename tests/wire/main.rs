//! What comes over the wire, and what must not.

mod fuzz;
