//! A file system that stands still while its image is copied.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

use super::wait::until;

/// A file system that takes no writes until this is dropped, and of which everything is in its image. Its root is held open:
/// one that was unmounted meanwhile would stay as it is, and nobody could reach it.
pub(super) struct Frozen(Option<File>);

impl Frozen {
    /// The one in this image, if it is mounted anywhere. A file system moves what it has noted in its log to its place
    /// whenever it likes: a copy that is made meanwhile may have neither.
    pub(super) fn new(image: &Path) -> Self {
        let freeze = || {
            let places = mounts(image);
            let mut roots = places.iter().filter_map(|place| File::open(place).ok());
            let frozen = roots.find(|root| fsfreeze("--freeze", root));
            // One that is unmounted meanwhile needs no freezing.
            (frozen.is_some() || places.is_empty()).then_some(frozen)
        };
        Self(until(&format!("{} stands still", image.display()), freeze))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Some(root) = &self.0 {
            assert!(fsfreeze("--unfreeze", root), "a file system stays frozen");
        }
    }
}

/// Where an image is mounted through a loop device, in whatever mount namespace.
fn mounts(image: &Path) -> Vec<PathBuf> {
    let mut losetup = Command::new("losetup");
    losetup.args(["--noheadings", "--output", "NAME", "--associated"]).arg(image);
    let devices = String::from_utf8(losetup.output().expect("losetup runs").stdout).expect("names");
    let devices: Vec<&str> = devices.split_whitespace().collect();
    if devices.is_empty() {
        return Vec::new();
    }
    let processes = fs::read_dir("/proc").expect("processes are listed").flatten();
    let processes = processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    let places = processes.filter_map(|process| {
        let mounts = fs::read_to_string(process.path().join("mountinfo")).ok()?;
        let is_it = |line: &&str| devices.iter().any(|device| line.contains(&format!(" {device} ")));
        let at = mounts.lines().find(is_it)?.split(' ').nth(4)?;
        Some(process.path().join("root").join(at.trim_start_matches('/')))
    });
    places.collect()
}

fn fsfreeze(act: &str, root: &File) -> bool {
    let mut command = Command::new("fsfreeze");
    command.arg(act).arg(format!("/proc/{}/fd/{}", process::id(), root.as_raw_fd())).stderr(Stdio::null());
    command.status().expect("fsfreeze runs").success()
}
