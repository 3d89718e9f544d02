//! Real file systems to work in, gone when dropped.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Which file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ext4 in an image behind a loop device.
    Ext4,
    /// XFS in an image behind a loop device; at least 300 MiB.
    Xfs,
    /// Btrfs in an image behind a loop device; at least 114 MiB.
    Btrfs,
    /// Memory.
    Tmpfs,
}

/// Why a file system cannot be had here.
#[derive(Debug)]
pub struct Unavailable {
    /// What was tried.
    pub step: String,
    /// What came of it.
    pub why: String,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.why)
    }
}

impl std::error::Error for Unavailable {}

/// A folder, or a mounted file system; unmounted and removed when dropped.
#[derive(Debug)]
pub struct FileSystem {
    path: PathBuf,
    is_mounted: bool,
    /// Holds the image and the mount point.
    around: Option<TempDir>,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Tmpfs => "tmpfs",
        }
    }
}

impl FileSystem {
    /// A folder where temporary things are.
    pub fn folder() -> io::Result<Self> {
        let around = TempDir::new()?;
        let path = around.path().join("root");
        fs::create_dir(&path)?;
        Ok(Self { path, is_mounted: false, around: Some(around) })
    }

    /// A new file system of this size. Needs to be root.
    pub fn mounted(kind: Kind, bytes: u64) -> Result<Self, Unavailable> {
        Self::mounted_with(kind, bytes, &[])
    }

    /// A new file system, made with further options of its `mkfs` (for tmpfs, of its mount).
    pub fn mounted_with(kind: Kind, bytes: u64, options: &[&str]) -> Result<Self, Unavailable> {
        let because = |step: &str| {
            let step = step.to_owned();
            move |error: io::Error| Unavailable { step, why: error.to_string() }
        };
        let around = TempDir::new().map_err(because("make a folder"))?;
        let path = around.path().join("root");
        fs::create_dir(&path).map_err(because("make a folder"))?;
        let mut mount = Command::new("mount");
        if kind == Kind::Tmpfs {
            let options: String = options.iter().map(|option| format!(",{option}")).collect();
            mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}{options}"), "tmpfs"]);
        } else {
            let image = around.path().join("image");
            File::create(&image).and_then(|file| file.set_len(bytes)).map_err(because("make an image"))?;
            let mut mkfs = Command::new(format!("mkfs.{}", kind.name()));
            // Small file systems would get smaller blocks and inodes than those that people use.
            mkfs.args(if kind == Kind::Ext4 { &["-Fq", "-b", "4096", "-I", "256"][..] } else { &["-q"] });
            run(mkfs.args(options).arg(&image))?;
            mount.args(["-o", "loop", "-t", kind.name()]).arg(&image);
        }
        run(mount.arg(&path))?;
        Ok(Self { path, is_mounted: true, around: Some(around) })
    }

    /// Its root directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        if self.is_mounted && run(Command::new("umount").arg(&self.path)).is_err() {
            // Somebody is still in it, such as a process of a test that panics: out of sight at least, and gone with it.
            let _ = run(Command::new("umount").arg("--lazy").arg(&self.path));
        }
        if !self.is_mounted && !rustix::process::geteuid().is_root() {
            let _ = run(Command::new("chmod").args(["-R", "u+rwX"]).arg(&self.path));
        }
        // `rm` knows how to remove what is deeper than paths or open files can be.
        if let Some(around) = self.around.take() {
            let _ = run(Command::new("rm").arg("-rf").arg("--one-file-system").arg(around.path()));
        }
    }
}

fn run(command: &mut Command) -> Result<(), Unavailable> {
    let step = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(Unavailable { step, why: String::from_utf8_lossy(&output.stderr).trim().to_owned() }),
        Err(error) => Err(Unavailable { step, why: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_mounted_while_it_is_held() {
        if !rustix::process::geteuid().is_root() {
            assert!(FileSystem::mounted(Kind::Tmpfs, 1 << 20).is_err());
            return;
        }
        for (kind, magic) in
            [(Kind::Ext4, 0xef53), (Kind::Xfs, 0x5846_5342), (Kind::Btrfs, 0x9123_683e), (Kind::Tmpfs, 0x0102_1994)]
        {
            let system = FileSystem::mounted(kind, 320 << 20).expect("mounted");
            let path = system.path().to_owned();
            assert_eq!(rustix::fs::statfs(&path).expect("there").f_type as u64, magic, "{kind:?}");
            drop(system);
            assert!(!path.exists(), "{kind:?}");
        }
    }

    #[test]
    fn what_cannot_be_had_says_why() {
        let error = FileSystem::mounted(Kind::Xfs, 1 << 20).expect_err("far too small");
        assert!(error.to_string().starts_with("mkfs.xfs: "), "{error}");
    }
}
