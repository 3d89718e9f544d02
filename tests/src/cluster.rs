//! What scenarios between two real clusters are made of, for tests and for measurements.

mod database;
mod lab;
mod machine;
mod place;
mod space;
mod volume;
mod wait;
mod watch;
mod witness;
mod writer;

pub use database::{Client, Database, Load};
pub use lab::{Lab, Side, lab, lab_for_figures, link, say};
pub use machine::{Machine, places};
pub use place::Place;
pub use space::{Space, in_space, in_spaces};
pub use volume::{Volume, changes, uncarried};
pub use wait::until;
pub use watch::Watch;
pub use witness::Witness;
pub use writer::{Act, Follower, Writer};
