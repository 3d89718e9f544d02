//! What the scenarios are made of.

mod database;
mod lab;
mod machine;
mod place;
mod space;
mod volume;
mod wait;
mod witness;
mod writer;

pub(crate) use database::{Client, Database};
pub(crate) use lab::{Side, link};
pub(crate) use machine::{Machine, places};
pub(crate) use place::Place;
pub(crate) use space::{Space, in_space, in_spaces};
pub(crate) use volume::{Volume, changes, uncarried};
pub(crate) use witness::Witness;
pub(crate) use writer::{Follower, Writer};
