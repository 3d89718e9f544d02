//! Messages that wait: for the link, or for their turn.

use std::collections::VecDeque;

use tranship_proto::Message;
use tranship_proto::message::{Item, bytes_of};

use super::Channel;

/// What holds a message.
pub(super) trait Weighed {
    fn weight(&self) -> usize;
}

/// What waits, in order, and what it holds in memory.
#[derive(Debug)]
pub(super) struct Queue<T> {
    items: VecDeque<T>,
    bytes: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { items: VecDeque::new(), bytes: 0 }
    }
}

impl<T: Weighed> Queue<T> {
    pub(super) fn push(&mut self, item: T) {
        self.bytes += item.weight();
        self.items.push_back(item);
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let item = self.items.pop_front()?;
        self.bytes -= item.weight();
        Some(item)
    }

    pub(super) fn front(&self) -> Option<&T> {
        self.items.front()
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Bytes in memory, near enough.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Weighed for (Channel, Message) {
    fn weight(&self) -> usize {
        self.1.weight()
    }
}

impl Weighed for Message {
    /// Its bulk, and a little for itself.
    fn weight(&self) -> usize {
        256 + match self {
            Self::Piece(piece) => piece.body.len() + piece.leaves.len() * 32,
            Self::Pack(pack) => pack.body.len() + bytes_of(&pack.files),
            Self::Structure(ops) => bytes_of(ops),
            Self::Survey(items) => bytes_of(items),
            Self::Gaps(gaps) => bytes_of(gaps),
            Self::Listing(entries) => bytes_of(entries),
            Self::Open(open) => open.place.as_bytes().len(),
            Self::Ask(ask) => ask.place.as_bytes().len(),
            Self::Close(close) => close.meta.as_ref().map_or(0, Item::bytes),
            _ => 0,
        }
    }
}
