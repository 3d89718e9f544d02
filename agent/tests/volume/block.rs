//! What a block volume promises.

use std::os::unix::fs::FileExt;

use tranship_agent::volume::block::Block;
use tranship_agent::volume::{Access, OpenError, Volume, VolumeError};
use tranship_proto::entry::{Kind, Place};
use tranship_proto::message::VolumeKind;

use crate::support::{Loop, Mount, can, place, walk};

#[test]
fn an_image_is_made_sized_and_punched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let block = Block::open_destination(&path).unwrap();
    assert!(block.facts().unwrap().is_empty);
    let content = block.open(&Place::root(), Access::Write).unwrap();
    content.set_size(8 << 20).unwrap();
    content.write_at(&[1; 1 << 20], 1 << 20).unwrap();
    content.write_at(&[2; 1 << 20], 3 << 20).unwrap();
    content.zero_at(3 << 20, 1 << 20).unwrap();
    block.flush().unwrap();
    assert_eq!(content.next_data(0).unwrap(), Some((1 << 20, 2 << 20)));
    assert_eq!(content.next_data(2 << 20).unwrap(), None);
    let mut expected = vec![0; 8 << 20];
    expected[1 << 20..2 << 20].fill(1);
    for access in [Access::Read, Access::ReadDevice] {
        let mut buffer = vec![9; (8 << 20) + 5];
        let read = block.open(&Place::root(), access).unwrap().read_at(&mut buffer, 0).unwrap();
        assert!(buffer[..read] == expected, "{access:?}");
    }
    let facts = block.facts().unwrap();
    assert_eq!((facts.kind, facts.is_empty), (VolumeKind::Block, false));
    assert_eq!(Block::open_source(&path).unwrap().facts().unwrap().identity, facts.identity);
    let (walked, _) = walk(&block);
    assert_eq!((walked.len(), walked[0].stat.kind, walked[0].stat.size), (1, Kind::Block, 8 << 20));
    assert!(block.remove(&Place::root()).is_err());
    assert!(matches!(block.open(&place("x"), Access::Read), Err(VolumeError::Vanished { .. })));
}

#[test]
fn a_device_is_written_zeroed_and_read_past_the_cache() {
    if !can(&["losetup"]) {
        return;
    }
    let device = Loop::new(16 << 20);
    let image = std::fs::OpenOptions::new().read(true).write(true).open(device.image()).unwrap();
    image.write_all_at(&[7; 4096], (16 << 20) - 4096).unwrap();
    let block = Block::open_destination(device.device.as_ref()).unwrap();
    assert_eq!(block.facts().unwrap().capacity_bytes, 16 << 20);
    let content = block.open(&Place::root(), Access::Write).unwrap();
    assert_eq!(content.stat().unwrap().size, 16 << 20);
    assert!(matches!(content.set_size((16 << 20) + 1), Err(VolumeError::Full { .. })));
    content.write_at(&[1; 3 << 20], 0).unwrap();
    content.zero_at(1000, (1 << 20) + 1).unwrap();
    // Smaller than the device: what is beyond is zeros afterwards.
    content.set_size(12 << 20).unwrap();
    block.flush().unwrap();
    let mut expected = vec![0; 16 << 20];
    expected[..3 << 20].fill(1);
    expected[1000..(1 << 20) + 1001].fill(0);
    assert!(std::fs::read(device.image()).unwrap() == expected);
    // The device changes behind its own cache.
    image.write_all_at(&[5; 512], 2 << 20).unwrap();
    expected[2 << 20..(2 << 20) + 512].fill(5);
    drop((content, block));
    let source = Block::open_source(device.device.as_ref()).unwrap();
    for access in [Access::Read, Access::ReadDevice] {
        let mut buffer = vec![9; (16 << 20) + 5];
        let read = source.open(&Place::root(), access).unwrap().read_at(&mut buffer, 0).unwrap();
        assert!(buffer[..read] == expected, "{access:?}");
    }
}

#[test]
fn a_device_in_use_is_no_destination() {
    if !can(&["losetup", "mkfs.ext4"]) {
        return;
    }
    let device = Loop::new(16 << 20);
    let path = std::path::PathBuf::from(&device.device);
    crate::support::run("mkfs.ext4", &["-qF", &device.device]);
    let mount = Mount::of(device);
    let Err(OpenError::Io { source, .. }) = Block::open_destination(&path) else { panic!("it is mounted") };
    assert_eq!(source.kind(), std::io::ErrorKind::ResourceBusy);
    // As a source it is fine.
    Block::open_source(&path).unwrap();
    drop(mount);
}

#[test]
fn two_devices_are_two_volumes() {
    if !can(&["losetup"]) {
        return;
    }
    let (one, other) = (Loop::new(1 << 20), Loop::new(1 << 20));
    let identity = |device: &str| Block::open_source(device.as_ref()).unwrap().facts().unwrap().identity;
    assert_ne!(identity(&one.device), identity(&other.device));
    assert_eq!(identity(&one.device), identity(&one.device));
}

#[test]
fn what_is_no_block_volume_is_refused_unopened() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    for path in [folder.path(), &fifo, "/dev/null".as_ref()] {
        for result in [Block::open_source(path), Block::open_destination(path)] {
            assert_eq!(result.unwrap_err().code(), "TS-E233", "{path:?}");
        }
    }
    assert_eq!(Block::open_source(&folder.path().join("gone")).unwrap_err().code(), "TS-E250");
}
