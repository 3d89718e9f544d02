//! Folders of the kernel's own file systems, by handle: small texts are read and written there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::path::Arg;

/// Bytes in a text: `stat` and the like fill a line, a filter at most a page.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// An open folder.
#[derive(Debug)]
pub(super) struct Folder {
    handle: OwnedFd,
}

impl Folder {
    pub(super) fn of(handle: OwnedFd) -> Self {
        Self { handle }
    }

    pub(super) fn open(path: &str) -> io::Result<Self> {
        Self::open_in(CWD, path)
    }

    /// Its number among this process's open files.
    pub(super) fn number(&self) -> i32 {
        self.handle.as_raw_fd()
    }

    /// Follows links: sysfs is made of them.
    pub(super) fn folder(&self, name: &str) -> io::Result<Self> {
        Self::open_in(self.handle.as_fd(), name)
    }

    fn open_in(parent: BorrowedFd<'_>, name: &str) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { handle: rustix::fs::openat(parent, name, flags, Mode::empty())? })
    }

    pub(super) fn open_file(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(&self.handle, name, flags | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// A text without the line end that closes it.
    pub(super) fn read(&self, name: &str) -> io::Result<String> {
        let file = self.open_file(name, OFlags::RDONLY)?;
        let mut bytes = vec![0; TEXT_BYTES_MAX];
        let mut len = 0;
        loop {
            match rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut bytes[len..]))? {
                0 => break,
                more => len += more,
            }
        }
        let text = std::str::from_utf8(&bytes[..len]).map_err(|error| invalid(name, &error.to_string()))?;
        Ok(text.trim_end().to_owned())
    }

    /// A number that stands alone in a file.
    pub(super) fn value(&self, name: &str) -> io::Result<u64> {
        let text = self.read(name)?;
        text.parse().map_err(|_| invalid(name, &text))
    }

    pub(super) fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let file = self.open_file(name, OFlags::WRONLY | OFlags::TRUNC)?;
        match rustix::io::write(&file, text.as_bytes())? {
            len if len == text.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.handle)? {
            let name = entry?.file_name().as_str()?.to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        rustix::fs::statat(&self.handle, name, AtFlags::empty()).is_ok()
    }

    pub(super) fn make_folder(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.handle, name, Mode::RWXU)?)
    }

    pub(super) fn remove_folder(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.handle, name, AtFlags::REMOVEDIR)?)
    }
}

pub(super) fn invalid(name: &str, text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{name} says {text:?}"))
}
