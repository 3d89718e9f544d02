//! What a source has to say and the link has not taken yet.

use std::collections::VecDeque;

use tranship_proto::Message;
use tranship_proto::message::bytes_of;

use super::Channel;

/// Messages in order, and what they hold in memory.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    messages: VecDeque<(Channel, Message)>,
    bytes: usize,
}

impl Outbox {
    pub(super) fn push(&mut self, channel: Channel, message: Message) {
        self.bytes += weight(&message);
        self.messages.push_back((channel, message));
    }

    pub(super) fn pop(&mut self) -> Option<(Channel, Message)> {
        let (channel, message) = self.messages.pop_front()?;
        self.bytes -= weight(&message);
        Some((channel, message))
    }

    /// What the messages hold in memory, near enough.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What a message counts for: its bulk, and a little for itself.
fn weight(message: &Message) -> usize {
    256 + match message {
        Message::Piece(piece) => piece.body.len() + piece.leaves.len() * 32,
        Message::Pack(pack) => pack.body.len() + bytes_of(&pack.files),
        Message::Structure(ops) => bytes_of(ops),
        _ => 0,
    }
}
