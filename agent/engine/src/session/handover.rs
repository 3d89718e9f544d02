//! Which data stream a content travels on, and in which order its parts do.
//!
//! Reads come back in any order. Whatever comes first of a content, its `Open` goes before it on the same stream; its
//! `Close` goes last, once as many pieces were handed over as were read.

use std::collections::{BTreeSet, HashMap};

use tranship_proto::Kind;
use tranship_proto::id::ContentId;
use tranship_proto::message::{Barrier, Close, Message, Open, batches};

use super::Channel;
use super::source::Produced;

/// Spreads contents over streams.
#[derive(Debug)]
pub(super) struct Handover {
    data_streams: u32,
    first_stream: u32,
    next_stream: u32,
    packs: u64,
    contents: u64,
    /// Contents of which not all was handed over yet.
    open: HashMap<ContentId, Opened>,
}

/// The streams that know a content, and the pieces so far.
#[derive(Debug, Default)]
struct Opened {
    streams: BTreeSet<u32>,
    pieces: u64,
    close: Option<Close>,
}

impl Handover {
    pub(super) fn new(data_streams: u32) -> Self {
        Self { data_streams, first_stream: 0, next_stream: 0, packs: 0, contents: 0, open: HashMap::new() }
    }

    /// From now on everything goes to the streams from `first` on, as many as before.
    pub(super) fn spread_from(&mut self, first: u32) {
        self.first_stream = first;
    }

    /// Contents of which not all was handed over yet.
    pub(super) fn open_contents(&self) -> usize {
        self.open.len()
    }

    /// What was handed over in all.
    pub(super) fn barrier(&self) -> Barrier {
        debug_assert!(self.open.is_empty(), "every content ends with the last read of it");
        Barrier { packs: self.packs, contents: self.contents }
    }

    /// What to send of what was read, and where.
    pub(super) fn messages(&mut self, produced: Produced) -> Vec<(Channel, Message)> {
        match produced {
            Produced::Pack(pack) => {
                self.packs += 1;
                vec![(Channel::Data(self.next_stream()), Message::Pack(pack))]
            }
            Produced::Ops(ops) => {
                batches(ops).into_iter().map(|ops| (Channel::Control, Message::Structure(ops))).collect()
            }
            Produced::Ask(ask) => vec![(Channel::Control, Message::Ask(ask))],
            Produced::Pieces { open, pieces, close } => {
                let id = open.content;
                let count = pieces.len() as u64;
                let mut messages = Vec::with_capacity(pieces.len() + 2);
                for piece in pieces {
                    // One writer for each file is what file systems like; a device takes as many as there are.
                    let stream = if open.kind == Kind::Block { self.next_stream() } else { self.stream_of(id) };
                    self.open_on(stream, &open, &mut messages);
                    messages.push((Channel::Data(stream), Message::Piece(piece)));
                }
                let opened = self.open.entry(id).or_default();
                opened.pieces += count;
                opened.close = close.or(opened.close.take());
                self.close_when_complete(&open, &mut messages);
                messages
            }
        }
    }

    fn close_when_complete(&mut self, open: &Open, messages: &mut Vec<(Channel, Message)>) {
        let id = open.content;
        let Some(opened) = self.open.get(&id) else { return };
        if opened.close.as_ref().is_none_or(|close| close.pieces != opened.pieces) {
            return;
        }
        let stream = opened.streams.iter().next().copied().unwrap_or_else(|| self.stream_of(id));
        self.open_on(stream, open, messages);
        if let Some(close) = self.open.remove(&id).and_then(|opened| opened.close) {
            self.contents += 1;
            messages.push((Channel::Data(stream), Message::Close(close)));
        }
    }

    /// Says what a content is on `stream`, once, before anything else of it.
    fn open_on(&mut self, stream: u32, open: &Open, messages: &mut Vec<(Channel, Message)>) {
        if self.open.entry(open.content).or_default().streams.insert(stream) {
            messages.push((Channel::Data(stream), Message::Open(open.clone())));
        }
    }

    fn stream_of(&self, content: ContentId) -> u32 {
        self.first_stream + content.0 % self.data_streams
    }

    fn next_stream(&mut self) -> u32 {
        self.next_stream = (self.next_stream + 1) % self.data_streams;
        self.first_stream + self.next_stream
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tranship_proto::Place;
    use tranship_proto::id::Digest;
    use tranship_proto::message::{Codec, Onto, Piece};

    use super::*;

    const CONTENT: ContentId = ContentId(5);

    fn read(index: u64, close: Option<Close>) -> Produced {
        let open = Open { content: CONTENT, place: Place::root(), kind: Kind::File, size: 2 << 20, onto: Onto::Zeros };
        let piece = Piece {
            content: CONTENT,
            index,
            bytes: 1 << 20,
            changed: 0,
            zeros: 0,
            leaves: Vec::new(),
            digest: Digest([0; 32]),
            delta: None,
            codec: Codec::Plain,
            body: Bytes::new(),
        };
        Produced::Pieces { open, pieces: vec![piece], close }
    }

    #[test]
    fn a_content_that_moves_to_other_streams_is_opened_there_and_closed_once() {
        let mut handover = Handover::new(4);
        let told = |messages: Vec<(Channel, Message)>| -> Vec<(Channel, &'static str)> {
            messages.into_iter().map(|(channel, message)| (channel, message.name())).collect()
        };
        let first = told(handover.messages(read(0, None)));
        assert_eq!(first, [(Channel::Data(1), "Open"), (Channel::Data(1), "Piece")]);
        handover.spread_from(4);
        let close = Close { content: CONTENT, size: 2 << 20, pieces: 2, digest: Digest([0; 32]), meta: None };
        let second = told(handover.messages(read(1, Some(close))));
        let on_new = Channel::Data(5);
        assert_eq!(second, [(on_new, "Open"), (on_new, "Piece"), (Channel::Data(1), "Close")]);
        assert_eq!(handover.barrier(), Barrier { packs: 0, contents: 1 });
    }
}
