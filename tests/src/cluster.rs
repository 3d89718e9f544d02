//! What scenarios between two real clusters are made of, for tests and for measurements.

pub mod app;
mod database;
mod frozen;
mod kill;
mod lab;
mod machine;
mod place;
mod rest;
mod space;
mod volume;
mod wait;
mod watch;
mod witness;
mod writer;

pub use database::{Client, Database, Load};
pub use kill::{agents, evict, kill};
pub use lab::{Lab, Side, lab, lab_for_figures, link, say};
pub use machine::{Machine, places, said};
pub use place::{Place, uid};
pub use rest::AtRest;
pub use space::{Space, in_space, in_space_alone, in_spaces};
pub use volume::{Volume, changes, uncarried};
pub use wait::until;
pub use watch::Watch;
pub use witness::{Guest, Witness};
pub use writer::{Act, Follower, Writer};
