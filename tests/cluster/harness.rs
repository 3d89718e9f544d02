//! What the scenarios are made of.

pub(crate) mod app;
mod database;
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

pub(crate) use database::{Client, Database};
pub(crate) use kill::{agents, evict, kill};
pub(crate) use lab::{Side, link};
pub(crate) use machine::{Machine, places, said};
pub(crate) use place::{Place, uid};
pub(crate) use rest::AtRest;
pub(crate) use space::{Space, in_space, in_spaces};
pub(crate) use volume::{Volume, changes, uncarried};
pub(crate) use wait::until;
pub(crate) use witness::{Guest, Witness};
pub(crate) use writer::{Follower, Writer};
