//! What is promised: the harness.
