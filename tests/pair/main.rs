//! Real processes between real file systems.

mod blocks;
mod damage;
mod deltas;
mod host;
mod kills;
mod limits;
mod links;
mod moves;
mod trees;
mod writers;
