//! Real processes between real file systems.

mod damage;
mod deltas;
mod host;
mod kills;
mod trees;
mod writers;
