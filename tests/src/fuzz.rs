//! Decoders, given anything.
//!
//! A target is a plain function that panics when a promise is broken. It is driven on the stable compiler by a seeded
//! mutator over samples and a corpus, for a bounded number of executions, so that the same bytes come at every run; a fuzzer with
//! coverage can drive the same functions.

use std::fs;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tranship_proto::codec::{Reader, Writer};
use tranship_proto::frame::{HEADER_BYTES, Header};
use tranship_proto::limit::{DEPTH_MAX, PLACE_BYTES_MAX};
use tranship_proto::{Frame, Message, Name, Place};

use crate::random::Random;
use crate::samples;

/// Something that takes bytes of a peer, or of a stored file.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, and that of its folder in the corpus.
    pub name: &'static str,
    /// Panics when a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs that it takes well; the corpus adds those that were telling once.
    pub samples: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "frame",
        run: frame,
        samples: || samples::messages().iter().map(|m| m.encode().to_bytes()).collect(),
    },
    Target {
        name: "place",
        run: place,
        samples: || vec![b"a".to_vec(), b"a\0b\0c".to_vec(), b"a\0b\xff\x02\x01c".to_vec()],
    },
];

/// Whatever is decoded comes back the same from its own bytes.
pub fn frame(input: &[u8]) {
    let Some((header, rest)) = input.split_first_chunk::<HEADER_BYTES>() else { return };
    let Ok(header) = Header::decode(header) else { return };
    let Some((head, rest)) = rest.split_at_checked(header.head_bytes) else { return };
    let Some((body, _)) = rest.split_at_checked(header.body_bytes) else { return };
    let frame = Frame { kind: header.kind, head: Bytes::copy_from_slice(head), body: Bytes::copy_from_slice(body) };
    if let Ok(message) = Message::decode(frame) {
        let again = message.encode();
        assert_eq!(Header::decode(&again.header()).map(|header| header.kind), Ok(header.kind));
        assert_eq!(Message::decode(again).as_ref(), Ok(&message));
    }
}

/// A place holds only names that can lead nowhere else, and comes back from each of its forms.
pub fn place(input: &[u8]) {
    let (before, after) = input.split_at(input.iter().position(|&byte| byte == 0xff).unwrap_or(0));
    let previous = Place::from_bytes(before).unwrap_or_default();
    for place in
        [Place::from_bytes(after), Place::decode_after(&previous, &mut Reader::new(after))].into_iter().flatten()
    {
        assert!(place.as_bytes().len() <= PLACE_BYTES_MAX && place.depth() <= DEPTH_MAX);
        for name in place.names() {
            assert_eq!(Name::new(name.as_bytes()), Ok(name));
            assert!(name.as_bytes() != b".." && !name.as_bytes().contains(&b'/'));
        }
        if let Some((parent, name)) = place.split() {
            assert_eq!(parent.join(name).as_ref(), Ok(&place));
            assert!(parent < place && place.is_within(&parent));
        }
        let mut writer = Writer::new();
        place.encode_after(&previous, &mut writer);
        let bytes = writer.finish();
        assert_eq!(Place::decode_after(&previous, &mut Reader::new(&bytes)).as_ref(), Ok(&place));
        assert!(place.to_string().bytes().all(|byte| (0x20..0x7f).contains(&byte)));
    }
}

/// Gives a target its samples and every input of its corpus as they are, and then `executions` mutations of them.
///
/// # Panics
/// When the target does, with the seed and the input that it was given.
pub fn drive(target: Target, executions: u64, seed: u64) {
    let corpus = corpus(target).expect("the corpus can be read");
    let mut random = Random::new(seed);
    for input in &corpus {
        give(target, input, seed);
    }
    for _ in 0..executions {
        give(target, &mutated(&corpus, &mut random), seed);
    }
}

fn give(target: Target, input: &[u8], seed: u64) {
    if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        let path = std::env::temp_dir().join(format!("tranship-fuzz-{}-{seed}", target.name));
        let kept = fs::write(&path, input).map_or_else(|error| error.to_string(), |()| path.display().to_string());
        let what = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        panic!("{} broke with seed {seed}; its {} bytes are in {kept}\n{what}", target.name, input.len());
    }
}

/// Where the corpus of a target lies.
pub fn corpus_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)
}

fn corpus(target: Target) -> io::Result<Vec<Vec<u8>>> {
    let mut paths: Vec<_> = match fs::read_dir(corpus_path(target.name)) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    paths.sort();
    let found = paths.iter().map(fs::read).collect::<io::Result<Vec<_>>>()?;
    Ok([(target.samples)(), found].concat())
}

/// One input of the corpus with some bytes changed, moved, removed, or taken from another one.
fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const TELLING: &[u8] = &[0, 1, 0x7f, 0x80, 0xff, b'/', b'.', 2, 12, 40];
    let mut input = random.choose(corpus).cloned().unwrap_or_default();
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() as u64 + 1) as usize;
        let end = at + random.below((input.len() - at) as u64 + 1).min(16) as usize;
        match random.below(8) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = *random.choose(TELLING).expect("there are some"),
            2 if at < input.len() => input[at] = input[at].wrapping_add(1),
            3 => input.insert(at, *random.choose(TELLING).expect("there are some")),
            4 => drop(input.drain(at..end)),
            5 => input.truncate(at),
            6 => input.extend_from_within(at..end),
            _ => {
                let other = random.choose(corpus).cloned().unwrap_or_default();
                let from = random.below(other.len() as u64 + 1) as usize;
                let to = (from + 32).min(other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
        }
    }
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_promise_is_reported_with_its_seed() {
        let picky = Target { name: "place", run: |input| assert!(input.len() < 5, "too long"), samples: Vec::new };
        let report = panic::catch_unwind(|| drive(picky, 1_000, 42)).expect_err("some input is longer");
        let report = report.downcast_ref::<String>().expect("it has a text");
        assert!(report.contains("seed 42"), "{report}");
    }

    #[test]
    fn mutations_are_many_and_repeatable() {
        let corpus = corpus(TARGETS[0]).expect("read");
        let inputs = |seed| {
            let mut random = Random::new(seed);
            (0..1_000).map(|_| mutated(&corpus, &mut random)).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(inputs(1), inputs(1));
        assert!(inputs(1).len() > 900, "{}", inputs(1).len());
    }
}
