//! A block volume: a device, or an image file that stands for one.
//!
//! It has one content, at the root, and no metadata: all its bytes are its content. A device has no times, so its stat
//! is the same for ever and says nothing about changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, FileType, Mode, OFlags, SeekFrom, major, minor};
use rustix::io::Errno;
use tranship_engine::Stat;
use tranship_proto::codec::Writer;
use tranship_proto::entry::{Kind, Meta, Place, Time};
use tranship_proto::message::{Fidelity, Gap, VolumeKind};

use super::beneath::{OpenError, read_kernel_file};
use super::bytes::{Bytes, Cache, Direct};
use super::durable::Durable;
use super::seen::Seen;
use super::{Access, Content, Facts, LeftOut, Look, Volume, VolumeError, Walked};

/// An open device or image.
#[derive(Debug)]
pub struct Block {
    inner: Arc<Inner>,
    /// The directory that holds an image which we made: its entry must be durable too.
    folder: Option<OwnedFd>,
    durable: Durable,
}

#[derive(Debug)]
struct Inner {
    fd: Arc<OwnedFd>,
    direct: Option<Arc<Direct>>,
    is_device: bool,
    /// From where on a device was made zeros, so that it happens once.
    zeros_from: AtomicU64,
}

impl Block {
    /// Opens a block volume that is only read.
    pub fn open_source(path: &Path) -> Result<Self, OpenError> {
        let fd = open(path, OFlags::RDONLY)?;
        Self::new(path, fd, None)
    }

    /// The same for a last pass: a device that is mounted or in other exclusive use is refused (`EBUSY`), and cannot be
    /// mounted while it is open here.
    pub fn open_idle_source(path: &Path) -> Result<Self, OpenError> {
        let fd = open(path, OFlags::RDONLY | exclusive(path)?)?;
        Self::new(path, fd, None)
    }

    /// Opens a block volume that is written. A device that is mounted or in other exclusive use is refused (`EBUSY`),
    /// and cannot be mounted while it is open here; an image is made, empty, if nothing is there.
    pub fn open_destination(path: &Path) -> Result<Self, OpenError> {
        // For a device O_EXCL means exclusive use, and nothing is made; for a path without anything it makes a file.
        match open(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL) {
            Ok(fd) => {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let folder = open_any(parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
                return Self::new(path, fd, Some(folder));
            }
            Err(OpenError::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let fd = open(path, OFlags::RDWR | exclusive(path)?)?;
        Self::new(path, fd, None)
    }

    fn new(path: &Path, fd: OwnedFd, folder: Option<OwnedFd>) -> Result<Self, OpenError> {
        let seen = Seen::of(&fd).map_err(failed(path))?;
        // A second opening of the same path is only used if it leads to the same thing.
        let direct = open_any(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::DIRECT).ok();
        let direct = direct.filter(|direct| Seen::of(direct).is_ok_and(|other| other.is_same(&seen)));
        let inner = Inner {
            fd: Arc::new(fd),
            direct: direct.and_then(Direct::new).map(Arc::new),
            is_device: seen.stat.kind == Kind::BlockDevice,
            zeros_from: AtomicU64::new(u64::MAX),
        };
        Ok(Self { inner: Arc::new(inner), folder, durable: Durable::default() })
    }

    fn seen(&self) -> Result<Seen, VolumeError> {
        self.inner.seen()
    }

    fn device_identity(&self, seen: &Seen, identity: &mut Writer) -> Result<(), VolumeError> {
        let number = seen.stat.device;
        identity.bytes(b"device");
        identity.u64(number);
        identity.u64(self.inner.size()?);
        let folder = facts_folder(number);
        // A partition has its start, and its disk one step up has the rest. The last two tell apart what has no serial.
        let files =
            ["start", "serial", "wwid", "device/serial", "device/wwid", "../serial", "../wwid", "../device/wwid"];
        let serials: Vec<_> = files.iter().filter_map(|file| read_kernel_file(&format!("{folder}/{file}"))).collect();
        let has_serial = serials.len() > usize::from(read_kernel_file(&format!("{folder}/start")).is_some());
        serials.iter().for_each(|text| identity.bytes(text));
        if !has_serial {
            for file in ["diskseq", "../diskseq"] {
                identity.bytes(&read_kernel_file(&format!("{folder}/{file}")).unwrap_or_default());
            }
        }
        Ok(())
    }

    /// What only a tree can do.
    fn refuse<T>(place: &Place) -> Result<T, VolumeError> {
        Err(VolumeError::of("change a block volume as a tree", place, Errno::OPNOTSUPP))
    }
}

/// What asks for exclusive use of what is at `path`, which only devices know.
fn exclusive(path: &Path) -> Result<OFlags, OpenError> {
    let seen = Seen::of(open_any(path, OFlags::PATH)?).map_err(failed(path))?;
    Ok(if seen.stat.kind == Kind::BlockDevice { OFlags::EXCL } else { OFlags::empty() })
}

/// Folders in which the kernel keeps the [`Volume::facts`] of the device at `path`, for a process that has to name
/// beforehand what it will read. There are none for anything but a device.
pub fn folders_of_facts(path: &Path) -> Vec<PathBuf> {
    let number = match rustix::fs::stat(path) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice => stat.st_rdev,
        _ => return Vec::new(),
    };
    let folder = facts_folder(number);
    ["", "..", "device", "../device"]
        .map(|name| Path::new(&folder).join(name))
        .into_iter()
        .filter(|f| f.is_dir())
        .collect()
}

fn facts_folder(number: u64) -> String {
    format!("/sys/dev/block/{}:{}", major(number), minor(number))
}

impl Volume for Block {
    fn facts(&self) -> Result<Facts, VolumeError> {
        let seen = self.seen()?;
        let size = self.inner.size()?;
        let mut identity = Writer::new();
        let mut capacity_bytes = size;
        if self.inner.is_device {
            self.device_identity(&seen, &mut identity)?;
        } else {
            let about = rustix::fs::fstatvfs(&*self.inner.fd).map_err(at_root("look at"))?;
            identity.bytes(b"image");
            identity.u64(about.f_fsid);
            identity.u64(seen.stat.inode);
            identity.option(seen.stat.btime, |w, time| time.encode(w));
            // An image grows; one that is sparse may say more than there is.
            capacity_bytes = size.saturating_add(about.f_bavail.saturating_mul(about.f_frsize));
        }
        Ok(Facts {
            kind: VolumeKind::Block,
            identity: identity.finish(),
            capacity_bytes,
            free_bytes: capacity_bytes,
            is_empty: !self.inner.is_device && size == 0,
            time_step: Duration::from_millis(20),
        })
    }

    fn settle(&self) -> Result<(), VolumeError> {
        self.durable.sync("settle", || rustix::fs::fdatasync(&*self.inner.fd))
    }

    fn walk(
        &self,
        _skip: &(dyn Fn(&Place, Kind) -> bool + Sync),
        _stop: &AtomicBool,
        visit: &mut dyn FnMut(Walked) -> Result<(), VolumeError>,
    ) -> Result<Vec<LeftOut>, VolumeError> {
        visit(Walked { place: Place::root(), stat: self.inner.stat()? })?;
        Ok(Vec::new())
    }

    fn look(&self, place: &Place, _fidelity: Fidelity) -> Result<Look, VolumeError> {
        expect_root(place)?;
        self.inner.look()
    }

    fn open(&self, place: &Place, access: Access) -> Result<Box<dyn Content>, VolumeError> {
        expect_root(place)?;
        let direct = self.inner.direct.clone();
        let cache = match access {
            Access::ReadDevice => Cache::Passed(direct),
            // What a file system on the device wrote is not in the device's own cache, which may hold older bytes.
            Access::Read | Access::ReadFirst if self.inner.is_device => Cache::Passed(direct),
            Access::Read => Cache::Spared(direct),
            Access::ReadFirst | Access::Write | Access::Create => Cache::Used,
            Access::Beside => return Self::refuse(place),
        };
        let content =
            Raw { bytes: Bytes::new(Arc::clone(&self.inner.fd), cache, Place::root()), inner: Arc::clone(&self.inner) };
        if access == Access::Create && !self.inner.is_device {
            content.set_size(0)?;
        }
        Ok(Box::new(content))
    }

    fn put(&self, place: &Place, _: &[u8], _: &Meta, _: Fidelity) -> Result<(Stat, Vec<Gap>), VolumeError> {
        Self::refuse(place)
    }

    fn make_directory(&self, place: &Place) -> Result<(), VolumeError> {
        Self::refuse(place)
    }

    fn make_symlink(&self, place: &Place, _: &[u8], _: &Meta, _: Fidelity) -> Result<(Stat, Vec<Gap>), VolumeError> {
        Self::refuse(place)
    }

    fn make_link(&self, place: &Place, _: &Place) -> Result<Stat, VolumeError> {
        Self::refuse(place)
    }

    fn make_special(
        &self,
        place: &Place,
        _: Kind,
        _: u64,
        _: &Meta,
        _: Fidelity,
    ) -> Result<(Option<Stat>, Vec<Gap>), VolumeError> {
        Self::refuse(place)
    }

    fn set_meta(&self, place: &Place, _: Kind, _: &Meta, _: Fidelity) -> Result<(Stat, Vec<Gap>), VolumeError> {
        expect_root(place)?;
        Ok((self.inner.stat()?, Vec::new()))
    }

    fn remove(&self, place: &Place) -> Result<(), VolumeError> {
        Self::refuse(place)
    }

    fn rename(&self, from: &Place, _: &Place) -> Result<(), VolumeError> {
        Self::refuse(from)
    }

    fn flush(&self) -> Result<(), VolumeError> {
        self.durable.sync("flush", || {
            rustix::fs::fsync(&*self.inner.fd)?;
            self.folder.as_ref().map_or(Ok(()), rustix::fs::fsync)
        })
    }
}

impl Inner {
    fn seen(&self) -> Result<Seen, VolumeError> {
        Seen::of(&*self.fd).map_err(at_root("stat"))
    }

    fn size(&self) -> Result<u64, VolumeError> {
        // The one way that both devices and files know. Nobody reads at this position.
        rustix::fs::seek(&*self.fd, SeekFrom::End(0)).map_err(at_root("measure"))
    }

    fn stat(&self) -> Result<Stat, VolumeError> {
        let of_file = self.seen()?.stat;
        let (kind, size) = (Kind::Block, self.size()?);
        let (mode, uid, gid, links, device) = (0, 0, 0, 1, 0);
        if self.is_device {
            let time = Time::default();
            return Ok(Stat {
                kind,
                mode,
                uid,
                gid,
                size,
                mtime: time,
                ctime: time,
                btime: None,
                inode: 0,
                links,
                device,
            });
        }
        Ok(Stat { kind, mode, uid, gid, size, links, device, ..of_file })
    }

    fn look(&self) -> Result<Look, VolumeError> {
        Ok(Look { stat: self.stat()?, meta: Meta::default(), target: None, gaps: Vec::new() })
    }
}

/// The open content.
#[derive(Debug)]
struct Raw {
    bytes: Bytes,
    inner: Arc<Inner>,
}

impl Content for Raw {
    fn stat(&self) -> Result<Stat, VolumeError> {
        self.inner.stat()
    }

    fn look(&self, _fidelity: Fidelity) -> Result<Look, VolumeError> {
        self.inner.look()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, VolumeError> {
        self.bytes.read_at(buffer, offset)
    }

    fn data_from(&self, offset: u64) -> Result<Option<u64>, VolumeError> {
        self.bytes.data_from(offset, self.inner.size()?)
    }

    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, VolumeError> {
        self.bytes.next_data(offset, self.inner.size()?)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), VolumeError> {
        self.bytes.write_at(bytes, offset)
    }

    fn zero_at(&self, offset: u64, bytes: u64) -> Result<(), VolumeError> {
        if self.inner.is_device {
            self.bytes.zero_on_device(offset, bytes)
        } else {
            self.bytes.zero_in_file(offset, bytes, self.inner.size()?)
        }
    }

    fn land(&self) -> Result<(), VolumeError> {
        Ok(())
    }

    fn set_size(&self, bytes: u64) -> Result<(), VolumeError> {
        if !self.inner.is_device {
            return rustix::fs::ftruncate(&*self.inner.fd, bytes).map_err(at_root("set size of"));
        }
        let size = self.inner.size()?;
        if bytes > size {
            let source = std::io::Error::other(format!("the device holds {size} bytes, {bytes} are needed"));
            return Err(VolumeError::Full { place: Place::root(), source });
        }
        // Old labels of partitions and arrays lie at the end of a larger device.
        if self.inner.zeros_from.load(Ordering::Acquire) > bytes {
            self.bytes.zero_on_device(bytes, size - bytes)?;
            self.inner.zeros_from.store(bytes, Ordering::Release);
        }
        Ok(())
    }

    fn set_meta(&self, _meta: &Meta, _fidelity: Fidelity) -> Result<(Stat, Vec<Gap>), VolumeError> {
        Ok((self.inner.stat()?, Vec::new()))
    }
}

/// Opens a device or a regular file for its data.
fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, OpenError> {
    let refuse = |found| Err(OpenError::Kind { path: PathBuf::from(path), found });
    // Looked at first: opening a FIFO would wait, and opening a character device may do anything.
    match open_any(path, OFlags::PATH).and_then(|fd| Seen::of(fd).map_err(failed(path))) {
        Ok(seen) => match seen.stat.kind {
            Kind::File | Kind::BlockDevice => {}
            Kind::Directory => return refuse("directory"),
            Kind::Fifo => return refuse("fifo"),
            Kind::Socket => return refuse("socket"),
            Kind::CharDevice | Kind::Symlink | Kind::Block => return refuse("character device"),
        },
        Err(OpenError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let fd = open_any(path, flags | OFlags::NONBLOCK)?;
    match Seen::of(&fd).map_err(failed(path))?.stat.kind {
        Kind::File | Kind::BlockDevice => Ok(fd),
        _ => refuse("different thing than a moment ago"),
    }
}

fn open_any(path: &Path, flags: OFlags) -> Result<OwnedFd, OpenError> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::openat(CWD, path, flags, Mode::RUSR | Mode::WUSR).map_err(failed(path))
}

fn failed(path: &Path) -> impl Fn(Errno) -> OpenError {
    move |errno| OpenError::Io { path: path.into(), source: errno.into() }
}

fn at_root(operation: &'static str) -> impl Fn(Errno) -> VolumeError {
    move |errno| VolumeError::of(operation, &Place::root(), errno)
}

fn expect_root(place: &Place) -> Result<(), VolumeError> {
    if place.is_root() { Ok(()) } else { Err(VolumeError::Vanished { place: place.clone() }) }
}
