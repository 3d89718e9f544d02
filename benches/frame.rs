//! What a message costs on its way to the socket and back, with nothing else around it.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tranship_proto::frame::{HEADER_BYTES, Header};
use tranship_proto::id::{ContentId, Digest};
use tranship_proto::limit::{LEAVES_PER_PIECE, PIECE_BYTES};
use tranship_proto::message::{Codec, Op, Pack, Packed, Piece};
use tranship_proto::{Message, Meta, Place};

/// A whole piece: the message of large files.
fn piece() -> Message {
    Message::Piece(Piece {
        content: ContentId(1),
        index: 1_000,
        bytes: PIECE_BYTES as u32,
        changed: u64::MAX,
        zeros: 0,
        leaves: vec![Digest([1; 32]); LEAVES_PER_PIECE],
        digest: Digest([2; 32]),
        delta: None,
        codec: Codec::Plain,
        body: Bytes::from(vec![3; PIECE_BYTES]),
    })
}

/// A hundred files of 8 KiB: the message of small files.
fn pack() -> Message {
    const FILE_BYTES: u32 = 8 << 10;
    let files = (0..100).map(|number| Packed {
        place: place(number),
        size: FILE_BYTES,
        digest: Digest([2; 32]),
        meta: Meta { mode: 0o644, ..Meta::default() },
    });
    let body = Bytes::from(vec![3; 100 * FILE_BYTES as usize]);
    Message::Pack(Pack { files: files.collect(), codec: Codec::Plain, body })
}

/// A thousand deletions: the message of small changes.
fn structure() -> Message {
    Message::Structure((0..1_000).map(|number| Op::Delete { place: place(number) }).collect())
}

fn place(number: u32) -> Place {
    Place::from_bytes(format!("some\0folder\0file-{number:05}").into_bytes()).expect("it is a valid place")
}

fn frames(criterion: &mut Criterion) {
    for (name, message) in [("piece", piece()), ("pack", pack()), ("structure", structure())] {
        let frame = message.encode();
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(frame.wire_bytes() as u64));
        group.bench_function("encode", |bencher| bencher.iter(|| black_box(&message).encode()));
        group.bench_function("decode", |bencher| {
            bencher.iter_batched(|| frame.clone(), |frame| Message::decode(black_box(frame)), BatchSize::SmallInput);
        });
        group.bench_function("header", |bencher| {
            let header: [u8; HEADER_BYTES] = frame.header();
            bencher.iter(|| Header::decode(black_box(&header)));
        });
        group.finish();
    }
}

criterion_group!(benches, frames);
criterion_main!(benches);
