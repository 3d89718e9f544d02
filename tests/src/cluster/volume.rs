//! What lies in a volume, read by nobody but the kernel and the walker: from a copy of the image behind it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::walker::{Contract, Tree, differences, walk};
use tempfile::TempDir;

use super::frozen::Frozen;
use super::lab::lab;
use super::place::Place;

/// The volume behind a claim.
pub struct Volume {
    image: PathBuf,
    is_xfs: bool,
    is_block: bool,
}

impl Volume {
    /// That of a claim, which is bound.
    pub fn of(place: &Place, claim: &str) -> Self {
        let claim = place.get("persistentvolumeclaim", claim);
        let volume = place.get("persistentvolume", claim["spec"]["volumeName"].as_str().expect("a bound claim"));
        let csi = &volume["spec"]["csi"];
        let handle = csi["volumeHandle"].as_str().expect("a volume of the lab's driver");
        Self {
            image: lab().volumes(place.side).join(handle).join("image"),
            is_xfs: csi["fsType"] == "xfs",
            is_block: claim["spec"]["volumeMode"] == "Block",
        }
    }

    /// Whether it is a device, which has no tree.
    pub fn is_block(&self) -> bool {
        self.is_block
    }

    /// The file behind it.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// What lies in it now. Nobody may write meanwhile.
    pub fn tree(&self) -> Tree {
        let folder = tempfile::tempdir().expect("a folder");
        let copy = {
            let _frozen = Frozen::new(&self.image);
            self.copy(&folder)
        };
        let mounted = Mounted::new(&copy, folder.path().join("volume"), self.is_xfs);
        walk(&mounted.at).expect("a tree")
    }

    /// Its bytes, as a digest.
    pub fn digest(&self) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let mut hasher = blake3::Hasher::new();
        let file = std::fs::File::open(self.copy(&folder)).expect("a copy");
        hasher.update_reader(file).expect("read");
        hasher.finalize().to_hex().to_string()
    }

    fn copy(&self, folder: &TempDir) -> PathBuf {
        let copy = folder.path().join("image");
        // What a file system that is mounted nowhere any more has written may still be on its way to the image.
        run(Command::new("sync").arg("--data").arg(&self.image));
        run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(&self.image).arg(&copy));
        copy
    }
}

/// What is not the same in two trees, everything that can be seen considered.
pub fn changes(before: &Tree, after: &Tree) -> Vec<String> {
    differences(before, after, &Contract::everything())
}

/// What is not the same in two trees, as far as a migration carries owners, access lists and capabilities.
pub fn uncarried(source: &Tree, destination: &Tree) -> Vec<String> {
    differences(source, destination, &Contract::owner())
}

struct Mounted {
    at: PathBuf,
}

impl Mounted {
    fn new(image: &Path, at: PathBuf, is_xfs: bool) -> Self {
        std::fs::create_dir(&at).expect("a folder");
        // A copy has the identity of what it is a copy of, which may be mounted.
        let options = if is_xfs { "loop,nouuid" } else { "loop" };
        run(Command::new("mount").args(["-o", options]).arg(image).arg(&at));
        Self { at }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run(Command::new("umount").arg(&self.at));
    }
}

fn run(command: &mut Command) {
    let status = command.status().expect("a command of the system");
    assert!(status.success(), "{command:?}: {status}");
}
