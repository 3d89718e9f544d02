//! Loop devices, file systems on them, and short words for common things.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use tranship_agent::volume::tree::Tree;
use tranship_agent::volume::{LeftOut, Volume, Walked};
use tranship_proto::entry::{Meta, Place, Time};

pub(crate) fn place(path: &str) -> Place {
    Place::from_bytes(path.replace('/', "\0").into_bytes()).unwrap()
}

pub(crate) fn meta() -> Meta {
    Meta { mode: 0o640, mtime: Time { seconds: 1_234_567_890, nanos: 987_654_321 }, ..Meta::default() }
}

pub(crate) fn walk(volume: &dyn Volume) -> (Vec<Walked>, Vec<LeftOut>) {
    let mut walked = Vec::new();
    let mut visit = |found| {
        walked.push(found);
        Ok(())
    };
    let left_out = volume.walk(&|_, _| false, &AtomicBool::new(false), &mut visit).unwrap();
    (walked, left_out)
}

/// Runs a command that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Whether a test can do what it needs; says why if not.
pub(crate) fn can(programs: &[&str]) -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return false;
    }
    let folders = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
    let missing =
        programs.iter().find(|program| !folders.iter().any(|folder| Path::new(folder).join(program).exists()));
    if let Some(program) = missing {
        eprintln!("skipped: needs {program}");
    }
    missing.is_none()
}

/// A loop device with its file.
pub(crate) struct Loop {
    pub(crate) device: String,
    folder: tempfile::TempDir,
}

impl Loop {
    pub(crate) fn new(bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        let device = run("losetup", &["--find", "--show", image.to_str().unwrap()]);
        Self { device, folder }
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.device]).output();
    }
}

/// A mounted file system of its own.
pub(crate) struct Mount {
    pub(crate) path: PathBuf,
    _folder: tempfile::TempDir,
    _device: Option<Loop>,
}

impl Mount {
    pub(crate) fn tmpfs(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_path_buf();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", path.to_str().unwrap()]);
        Self { path, _folder: folder, _device: None }
    }

    /// Makes a file system (`ext4`, `xfs`, `btrfs`) on a loop device.
    pub(crate) fn new(kind: &str, bytes: u64) -> Self {
        let device = Loop::new(bytes);
        let quiet = if kind == "ext4" { "-qF" } else { "-qf" };
        run(&format!("mkfs.{kind}"), &[quiet, &device.device]);
        Self::of(device)
    }

    pub(crate) fn of(device: Loop) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_path_buf();
        run("mount", &[&device.device, path.to_str().unwrap()]);
        Self { path, _folder: folder, _device: Some(device) }
    }

    pub(crate) fn join(&self, path: &str) -> PathBuf {
        self.path.join(path)
    }

    pub(crate) fn tree(&self) -> Tree {
        Tree::open(&self.path).unwrap()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A child that another test starts holds all our handles until it becomes its program.
        let unmount = || Command::new("umount").args(["--recursive", self.path.to_str().unwrap()]).output();
        let since = std::time::Instant::now();
        while !unmount().unwrap().status.success() {
            if since.elapsed() > std::time::Duration::from_secs(10) {
                assert!(std::thread::panicking(), "a handle was left open");
                return;
            }
        }
    }
}

/// One file system of each kind that can be made here.
pub(crate) fn each_file_system(test: impl Fn(&str, &Mount)) {
    if !can(&["mount", "losetup"]) {
        return;
    }
    test("tmpfs", &Mount::tmpfs("64m"));
    for (kind, megabytes) in [("ext4", 64), ("xfs", 320), ("btrfs", 128)] {
        if can(&[&format!("mkfs.{kind}")]) {
            test(kind, &Mount::new(kind, megabytes << 20));
        }
    }
}
