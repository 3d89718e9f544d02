//! One of each: messages with every field in use.

use bytes::Bytes;
use tranship_proto::entry::{Time, Xattr};
use tranship_proto::feature;
use tranship_proto::id::{ContentId, Digest, Epoch, Token};
use tranship_proto::limit::PIECE_BYTES;
use tranship_proto::message::{
    Ack, Ask, Barrier, Basis, BasisChoice, Begin, Challenge, Close, Codec, Committed, Contract, Delta, Examine, Extent,
    Fidelity, Finish, Gap, GapKind, Hello, Level, Listed, Onto, Op, Open, Pack, Packed, Piece, Plan, Probed, Proof,
    Rechecked, Role, Signature, SurveyItem, Surveyed, VolumeKind,
};
use tranship_proto::refusal::Reason;
use tranship_proto::{Kind, Message, Meta, Place, Refusal};

/// The place that a path with `/` leads to.
///
/// # Panics
/// When there can be no such place.
pub fn place(path: &str) -> Place {
    Place::from_bytes(path.replace('/', "\0").into_bytes()).expect("a path without empty names")
}

/// Metadata with attributes.
pub fn meta() -> Meta {
    let xattr = |name: &str, value: &[u8]| Xattr { name: name.as_bytes().into(), value: value.into() };
    Meta {
        mode: 0o4755,
        uid: 1_000,
        gid: u32::MAX - 1,
        mtime: Time { seconds: -1, nanos: 999_999_999 },
        xattrs: vec![xattr("user.a", b""), xattr("user.b", b"\0\xff")],
    }
}

/// At least one message of every kind.
pub fn messages() -> Vec<Message> {
    [greetings(), changes(), contents(), endings()].concat()
}

fn greetings() -> Vec<Message> {
    let token = Some(Token([1; 16]));
    let surveyed = Surveyed {
        place: place("a"),
        kind: Kind::File,
        size: 5_000_000,
        meta: Some(Digest([5; 32])),
        content: Some(Digest([6; 32])),
        leader: Some(place("0")),
    };
    let begin = |basis| {
        Message::Begin(Begin {
            basis,
            fidelity: Fidelity::Exact,
            is_final: true,
            block_bytes: Some(1 << 40),
            excludes: vec!["*.tmp".into()],
        })
    };
    vec![
        Message::Hello(Hello {
            oldest: 1,
            newest: 2,
            features: feature::ours(),
            role: Role::Destination,
            epoch: Epoch(7),
            volume: Some(VolumeKind::Tree),
            build: "0.1.0".into(),
        }),
        Message::Refuse(Refusal::new(Reason::Version, "peer speaks 3..4")),
        Message::Basis(Basis {
            volume: Digest([9; 32]),
            token,
            is_interrupted: true,
            is_empty: false,
            capacity_bytes: 1 << 40,
            free_bytes: 1 << 39,
        }),
        begin(BasisChoice::Common(Token([1; 16]))),
        begin(BasisChoice::Survey),
        begin(BasisChoice::Nothing),
        Message::Survey(vec![
            SurveyItem::Present(Box::new(surveyed)),
            SurveyItem::Pieces(vec![Digest([3; 32]); 5]),
            SurveyItem::Absent(place("b/c")),
        ]),
        Message::SurveyEnd,
        Message::Plan(Plan { touches_everything: false, entries: 3, bytes: 1 << 33 }),
    ]
}

fn changes() -> Vec<Message> {
    let ops = vec![
        Op::Delete { place: place("a") },
        Op::MoveOut { place: place("a/b"), slot: 1 },
        Op::MoveIn { place: place("c"), slot: 1 },
        Op::MakeDirectory { place: place("d") },
        Op::Symlink { place: place("d/e"), target: b"../../etc".as_slice().into(), meta: meta() },
        Op::Link { place: place("d/f"), leader: place("c") },
        Op::Special { place: place("d/g"), kind: Kind::CharDevice, device: 0x103, meta: meta() },
        Op::SetMeta { place: place("d"), kind: Kind::Directory, meta: meta() },
    ];
    vec![Message::Structure(ops), Message::Barrier(Barrier { packs: 2, contents: 1 })]
}

fn contents() -> Vec<Message> {
    let content = ContentId(9);
    let packed = |path, size| Packed {
        place: place(path),
        size,
        digest: Digest([4; 32]),
        meta: Meta { xattrs: vec![], ..meta() },
    };
    let body = Bytes::from_static(b"bytes of two files");
    let leaf_bytes = 100;
    vec![
        Message::Open(Open { content, place: place("big"), kind: Kind::File, size: 1 << 21, onto: Onto::Basis }),
        Message::Pack(Pack { files: vec![packed("x", 8), packed("x/y", 10)], codec: Codec::Plain, body }),
        Message::Piece(Piece {
            content,
            index: 1,
            bytes: leaf_bytes,
            changed: 1,
            zeros: 0,
            leaves: vec![Digest([5; 32])],
            digest: Digest([6; 32]),
            delta: None,
            codec: Codec::Plain,
            body: Bytes::from(vec![7; leaf_bytes as usize]),
        }),
        Message::Open(Open { content, place: place("big"), kind: Kind::File, size: 1 << 21, onto: Onto::Beside }),
        Message::Piece(Piece {
            content,
            index: 1,
            bytes: PIECE_BYTES as u32,
            changed: u64::MAX,
            zeros: 0,
            leaves: vec![],
            digest: Digest([6; 32]),
            delta: Some(Delta { base: vec![Extent { at: 0x1234, bytes: PIECE_BYTES as u32 }], bytes: 16 }),
            codec: Codec::Plain,
            body: Bytes::from_static(b"rs\x026 a delta\0\0\0\0"),
        }),
        Message::Piece(Piece {
            content,
            index: 0,
            bytes: PIECE_BYTES as u32,
            changed: 0b11,
            zeros: 0b11,
            leaves: vec![],
            digest: Digest([6; 32]),
            delta: None,
            codec: Codec::Plain,
            body: Bytes::new(),
        }),
        Message::Ask(Ask {
            question: 7,
            place: place("big"),
            extents: vec![Extent { at: 0x1234, bytes: 0x4000 }, Extent { at: 0x9234, bytes: 0x8000 }],
            block_bytes: 256,
        }),
        Message::Signature(Signature { question: 7, body: Bytes::from_static(b"rs\x016 a signature") }),
        Message::Close(Close { content, size: 1 << 21, pieces: 2, digest: Digest([6; 32]), meta: Some(meta()) }),
        Message::Ack(Ack { bytes: 1 << 21, entries: 3 }),
    ]
}

fn endings() -> Vec<Message> {
    let token = Token([8; 16]);
    let gap = Gap { place: place("run/s"), what: GapKind::Socket, detail: "recorded, not made".into() };
    vec![
        Message::Finish(Finish { token, entries: 12 }),
        Message::Gaps(vec![gap]),
        Message::Committed(Committed { token: Some(token), read_bytes: 1, written_bytes: 2, drifted_entries: 3 }),
        Message::Recheck,
        Message::Rechecked(Rechecked { read_bytes: 1 << 20, lost_entries: 1, is_done: true }),
        Message::Challenge(Challenge {
            nonce: [9; 32],
            level: Level::Full,
            contract: Contract::all(Fidelity::Owner).accepting(GapKind::Time),
            lists_entries: true,
        }),
        Message::Proof(Proof {
            canonical: Digest([1; 32]),
            challenge: Digest([2; 32]),
            entries: 12,
            bytes: 1 << 33,
            read_bytes: 1 << 32,
        }),
        Message::Listing(vec![Listed {
            place: place("a"),
            kind: Kind::File,
            size: 4,
            meta: Digest([3; 32]),
            content: Digest([4; 32]),
        }]),
        Message::ListingEnd,
        Message::Bye,
        Message::Examine(Examine { block_bytes: Some(1 << 30), excludes: vec!["*.tmp".to_owned()] }),
        Message::Probe(Bytes::from_static(b"anything")),
        Message::Probed(Probed { bytes: 1 << 25, microseconds: 500_000 }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use tranship_proto::{Frame, WireError};

    #[test]
    fn there_is_one_of_every_kind() {
        let is_known = |kind: &u8| {
            let decoded = Message::decode(Frame { kind: *kind, head: Bytes::new(), body: Bytes::new() });
            !matches!(decoded, Err(WireError::Meaningless { what: "message kind", .. }))
        };
        let known: BTreeSet<u8> = (0..=u8::MAX).filter(is_known).collect();
        assert_eq!(messages().iter().map(|message| message.encode().kind).collect::<BTreeSet<_>>(), known);
    }

    #[test]
    fn each_comes_back() {
        for message in messages() {
            assert_eq!(Message::decode(message.encode()), Ok(message));
        }
    }
}
