//! Real processes between real file systems.

mod agent;
mod blocks;
mod busy;
mod confined;
mod damage;
mod deltas;
mod demo;
mod host;
mod kills;
mod limits;
mod links;
mod moves;
mod outages;
mod storage;
mod tracked;
mod trees;
mod verify;
mod writers;
