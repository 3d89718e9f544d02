//! Loop devices. Which one an image has is asked of the kernel each time and never remembered.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::command::{outcome, run};
use crate::error::Error;

/// How often another process may take the number that we were about to.
const TRIES_MAX: usize = 16;
/// How long somebody who looks at a device, such as udev, may keep it after it was detached.
const DETACH_MAX: Duration = Duration::from_secs(5);

/// A loop device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// Such as `/dev/loop3`.
    pub(crate) path: PathBuf,
    /// Whether it goes as soon as its last user does.
    is_leaving: bool,
}

impl Device {
    /// Major and minor number, as in the table of mounts.
    pub(crate) fn number(&self) -> Result<String, Error> {
        let device = number_of(&self.path)?;
        device.ok_or_else(|| Error::FailedPrecondition(format!("{} is no device", self.path.display())))
    }

    /// Makes it notice that its image has grown.
    pub(crate) fn grow(&self) -> Result<(), Error> {
        run("losetup", &[&"--set-capacity", &self.path]).map(drop)
    }
}

/// Major and minor number of the block device that this path is; nothing if it is something else.
pub(crate) fn number_of(path: &Path) -> Result<Option<String>, Error> {
    use std::os::unix::fs::FileTypeExt;
    let meta = fs::metadata(path).map_err(Error::io(format!("look at {}", path.display())))?;
    let number = meta.rdev();
    let text = || format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    Ok(meta.file_type().is_block_device().then(text))
}

/// The device of an image, if it has one.
///
/// # Errors
/// When it has two, which would not know of each other's writes, or one that is about to go.
pub(crate) fn of(image: &Path) -> Result<Option<Device>, Error> {
    let mut devices = all_of(image)?;
    let device = devices.pop();
    if !devices.is_empty() {
        return Err(Error::FailedPrecondition(format!("{} has several loop devices", image.display())));
    }
    match device {
        Some(device) if device.is_leaving => {
            Err(Error::FailedPrecondition(format!("{} is being detached", device.path.display())))
        }
        device => Ok(device),
    }
}

/// Every device on an image, or on a device.
pub(crate) fn all_of(image: &Path) -> Result<Vec<Device>, Error> {
    let list = run("losetup", &[&"--associated", &image, &"--list", &"--noheadings", &"--output", &"NAME,AUTOCLEAR"])?;
    let device = |line: &str| {
        let (path, is_leaving) = line.split_once(char::is_whitespace)?;
        Some(Device { path: path.into(), is_leaving: is_leaving.trim() == "1" })
    };
    Ok(list.lines().filter_map(device).collect())
}

/// Attaches a new device to an image, or to another device. The caller sees to it that the image has none, or that
/// the new one is read-only. All processes that share `lock` take turns.
pub(crate) fn attach(image: &Path, is_readonly: bool, lock: &Path) -> Result<Device, Error> {
    let turn = File::create(lock).and_then(|file| file.lock().map(|()| file));
    let _turn = turn.map_err(Error::io("wait for a turn to attach a loop device"))?;
    let mode: &[&str] = if is_readonly { &["--read-only"] } else { &[] };
    // Disks have no page cache beneath their own: a second one would hold each byte twice, answer reads that are meant for the
    // disk, and take in writes that nobody has waited for.
    let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"--find", &"--show", &"--direct-io=on"];
    arguments.extend(mode.iter().map(|mode| mode as &dyn AsRef<std::ffi::OsStr>));
    arguments.push(&image);
    for _ in 1..TRIES_MAX {
        let attached = outcome("losetup", &arguments)?;
        if attached.code == Some(0) || !attached.stderr.contains("busy") {
            return Ok(Device { path: attached.success()?.into(), is_leaving: false });
        }
    }
    let path = run("losetup", &arguments)?.into();
    Ok(Device { path, is_leaving: false })
}

/// Detaches every device of an image, and those above them. Nobody may be using them any more.
pub(crate) fn detach_all(image: &Path) -> Result<(), Error> {
    for device in all_of(image)? {
        for above in all_of(&device.path)? {
            detach(&above)?;
        }
        detach(&device)?;
    }
    let deadline = Instant::now() + DETACH_MAX;
    while let Some(device) = all_of(image)?.first() {
        if Instant::now() > deadline {
            return Err(Error::FailedPrecondition(format!("{} is still in use", device.path.display())));
        }
        thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}

/// Detaches one device, or has the kernel do so when its last user is gone.
pub(crate) fn detach(device: &Device) -> Result<(), Error> {
    if device.is_leaving {
        return Ok(());
    }
    run("losetup", &[&"--detach", &device.path]).map(drop)
}
