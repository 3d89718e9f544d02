//! What applications do to a source, and strangers to a destination.

use tranship_agent::volume::Access;
use tranship_agent::volume::memory::{MemoryVolume, VirtualClock};
use tranship_proto::entry::{Kind, Name, Place, Time, Xattr};

use crate::chance::Chance;

const KIB: u64 = 1 << 10;
const LEAF: u64 = 16 * KIB;

/// Fills a new volume.
pub(crate) fn fill(volume: &MemoryVolume, chance: &mut Chance, clock: &VirtualClock, is_block: bool) {
    let count = if chance.one_in(8) { chance.below(200) } else { chance.below(25) };
    for _ in 0..count.max(u64::from(is_block)) {
        if is_block {
            write_block(volume, chance)
        } else {
            add(volume, chance)
        }
        clock.advance(std::time::Duration::from_millis(chance.below(5)));
    }
}

/// Does a few things.
pub(crate) fn work(volume: &MemoryVolume, chance: &mut Chance, is_block: bool) {
    for _ in 0..1 + chance.below(4) {
        if is_block { write_block(volume, chance) } else { change(volume, chance) }
    }
}

fn size(chance: &mut Chance) -> u64 {
    match chance.below(24) {
        0..4 => 0,
        4..17 => chance.below(4 * KIB),
        17..20 => LEAF * chance.below(6),
        20..22 => 64 * KIB + chance.below(100 * KIB),
        22 => LEAF * (4 + chance.below(100)),
        _ => chance.below(3 << 20),
    }
}

/// Zeros, one byte again and again, or noise, changing from leaf to leaf.
fn bytes(chance: &mut Chance, count: u64) -> Vec<u8> {
    let mut bytes = vec![0; count as usize];
    for leaf in bytes.chunks_mut(LEAF as usize) {
        match chance.below(4) {
            0 => {}
            1 => leaf.fill(chance.below(3) as u8),
            _ => {
                let mut at = chance.next() | 1;
                for bytes in leaf.chunks_mut(4) {
                    at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    bytes.copy_from_slice(&at.to_be_bytes()[..bytes.len()]);
                }
            }
        }
    }
    bytes
}

fn some(volume: &MemoryVolume, chance: &mut Chance, wanted: impl Fn(Kind) -> bool) -> Option<(Place, u64)> {
    let places: Vec<_> = volume.places().into_iter().filter(|(_, kind, _)| wanted(*kind)).collect();
    chance.pick(&places).map(|(place, _, size)| (place.clone(), *size))
}

/// A name that was often there before: names come again, as other kinds too.
fn fresh_place(volume: &MemoryVolume, chance: &mut Chance) -> Place {
    let (parent, _) = some(volume, chance, |kind| kind == Kind::Directory).expect("there is a root");
    let names = ["a", "b", "c", "d.x", "d", "e e", "f\u{1}", "longer name", "ü"];
    let name = if chance.one_in(3) {
        format!("n{}", chance.below(60))
    } else {
        (*chance.pick(&names).expect("there are some")).to_owned()
    };
    let parent = if parent.depth() > 6 { Place::root() } else { parent };
    parent.join(Name::new(name.as_bytes()).expect("valid")).expect("short")
}

fn add(volume: &MemoryVolume, chance: &mut Chance) {
    let place = fresh_place(volume, chance);
    match chance.below(20) {
        0..4 => volume.make(&place, Kind::Directory, None),
        4 => volume.make(&place, Kind::Symlink, Some(if chance.one_in(2) { b"../x" } else { b"nowhere" })),
        5 => volume.make(&place, Kind::Fifo, None),
        6 => volume.make(&place, Kind::Socket, None),
        7..9 => {
            if let Some((leader, _)) = some(volume, chance, |kind| kind != Kind::Directory) {
                volume.link(&place, &leader);
            }
        }
        _ => {
            volume.make(&place, Kind::File, None);
            let size = size(chance);
            volume.write(&place, &bytes(chance, size), 0);
        }
    }
    if chance.one_in(4) {
        attributes(volume, chance, &place);
    }
}

fn attributes(volume: &MemoryVolume, chance: &mut Chance, place: &Place) {
    let mtime = Time { seconds: 1_500_000_000 + chance.below(600_000_000) as i64, nanos: chance.below(1000) as u32 };
    volume.set_attributes(place, 0o700 | chance.below(0o100) as u16, 1000 + chance.below(2) as u32, mtime);
    if chance.one_in(3) {
        let name: &[u8] = [&b"user.a"[..], b"security.capability", b"trusted.x"][chance.below(3) as usize];
        volume.set_xattr(place, Xattr { name: name.into(), value: bytes(chance, 8).into() });
    }
}

fn change(volume: &MemoryVolume, chance: &mut Chance) {
    let file = some(volume, chance, |kind| kind == Kind::File);
    match (chance.below(19), file) {
        (0..4, Some((place, size))) => {
            let offset = chance.below(size + 1);
            let count = chance.below(40 * KIB);
            volume.write(&place, &bytes(chance, count), offset as usize);
        }
        (4, Some((place, size))) => {
            let count = chance.below(20 * KIB);
            volume.write_mapped(&place, &bytes(chance, count), chance.below(size + 1) as usize);
        }
        (5, Some((place, old))) => {
            let new = if chance.one_in(2) { old / LEAF * LEAF / 2 / LEAF * LEAF } else { size(chance) };
            volume.truncate(&place, new as usize);
        }
        (6, Some((place, _))) => {
            // A new file takes the place of the old one.
            let beside = fresh_place(volume, chance);
            volume.make(&beside, Kind::File, None);
            let size = size(chance);
            volume.write(&beside, &bytes(chance, size), 0);
            let _ = volume.move_name(&beside, &place);
        }
        (7..9, _) => {
            if let Some((place, _)) = some(volume, chance, |_| true).filter(|(place, _)| !place.is_root()) {
                volume.take_away(&place);
            }
        }
        (9..12, _) => rename(volume, chance),
        (12, _) => {
            if let Some((place, _)) = some(volume, chance, |_| true) {
                attributes(volume, chance, &place);
            }
        }
        (13, _) => edit(volume, chance),
        _ => add(volume, chance),
    }
}

/// Inserts or removes something in a file that is sent in pieces: what is behind it moves.
fn edit(volume: &MemoryVolume, chance: &mut Chance) {
    let large: Vec<_> =
        volume.places().into_iter().filter(|(_, kind, size)| *kind == Kind::File && *size > 64 * KIB).collect();
    let Some((place, _, size)) = chance.pick(&large).cloned() else { return add(volume, chance) };
    let Some((seen, _)) = volume.seen_at(&place, Access::Read) else { return };
    let at = chance.below(size) as usize;
    let removed = (chance.below(20 * KIB) as usize).min(size as usize - at);
    let count = if chance.one_in(3) { 0 } else { chance.below(20 * KIB) };
    let new = [&bytes(chance, count), &seen.bytes[at + removed..]].concat();
    volume.write(&place, &new, at);
    volume.truncate(&place, at + new.len());
}

/// Objects get other names: one of them, two that change places, or some that each take the next one's.
fn rename(volume: &MemoryVolume, chance: &mut Chance) {
    let last = fresh_place(volume, chance);
    let is_cycle = chance.one_in(3);
    let mut places = vec![last];
    for _ in 0..if is_cycle { 2 } else { 1 + chance.below(3) } {
        places.extend(some(volume, chance, |_| true).map(|(place, _)| place).filter(|place| !place.is_root()));
    }
    // What cannot be moved, into itself or where no directory is, stays.
    for pair in places.windows(2) {
        let _ = volume.move_name(&pair[1], &pair[0]);
    }
    if is_cycle && let (Some(first), Some(last)) = (places.first(), places.last()) {
        let _ = volume.move_name(first, last);
    }
}

fn write_block(volume: &MemoryVolume, chance: &mut Chance) {
    let size = volume.places()[0].2;
    let offset = chance.below(size.max(1)) / 512 * 512;
    let most = if chance.one_in(6) { 1 << 20 } else { 40 * KIB };
    let count = chance.below(most).min(size - offset);
    volume.write(&Place::root(), &bytes(chance, count), offset as usize);
}
