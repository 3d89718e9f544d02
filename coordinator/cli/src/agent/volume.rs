//! What the kernel tells of a volume without opening it.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use tranship_proto::control::{VolumeFacts, VolumeKind};

use super::options::Place;

/// Bytes in the unit in which the kernel gives the size of devices.
const SECTOR_BYTES: u64 = 512;

/// Tells of it.
pub(super) fn facts(place: &Place) -> io::Result<VolumeFacts> {
    let about = fs::metadata(&place.path)?;
    let kind = about.file_type();
    let name = place.name.clone();
    if !kind.is_dir() {
        let bytes = if kind.is_block_device() { device_bytes(about.rdev()) } else { about.len() };
        let (bytes_total, bytes_used) = (bytes, bytes);
        let kind = VolumeKind::Block;
        return Ok(VolumeFacts { name, kind, bytes_total, bytes_used, inodes_total: 0, inodes_used: 0 });
    }
    let system = rustix::fs::statvfs(&place.path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(system.f_frsize);
    Ok(VolumeFacts {
        name,
        kind: VolumeKind::Tree,
        bytes_total: bytes(system.f_blocks),
        bytes_used: bytes(system.f_blocks.saturating_sub(system.f_bfree)),
        inodes_total: system.f_files,
        inodes_used: system.f_files.saturating_sub(system.f_ffree),
    })
}

/// 0 where sysfs does not tell.
fn device_bytes(device: u64) -> u64 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let path = format!("/sys/dev/block/{major}:{minor}/size");
    let sectors = fs::read_to_string(Path::new(&path)).ok().and_then(|text| text.trim().parse::<u64>().ok());
    sectors.unwrap_or(0).saturating_mul(SECTOR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_a_tree_and_a_file_is_a_block_volume() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let image = folder.path().join("image");
        fs::write(&image, [0; 4_096]).expect("written");
        let place = |path: &Path| Place { name: "a".into(), path: path.to_owned(), state: "/state".into() };
        let tree = facts(&place(folder.path())).expect("it is there");
        assert_eq!((tree.kind, tree.bytes_total > 0), (VolumeKind::Tree, true));
        assert!(tree.bytes_used <= tree.bytes_total && tree.inodes_used <= tree.inodes_total, "{tree:?}");
        let block = facts(&place(&image)).expect("it is there");
        assert_eq!((block.kind, block.bytes_total, block.bytes_used), (VolumeKind::Block, 4_096, 4_096));
        assert!(facts(&place(&folder.path().join("none"))).is_err());
    }
}
