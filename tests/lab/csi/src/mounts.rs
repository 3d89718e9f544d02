//! What is mounted where, as the kernel tells, never as we remember.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::command::run;
use crate::error::Error;

/// A line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Major and minor number of what its files say they are on, such as `7:3`.
    pub(crate) device: String,
    /// Which folder or file of that file system is mounted; `/` for all of it.
    pub(crate) root: PathBuf,
    /// Where.
    pub(crate) point: PathBuf,
    /// Whether this mount, rather than its file system, is read-only.
    pub(crate) is_readonly: bool,
    /// The kind of file system.
    pub(crate) kind: String,
}

/// The topmost mount at exactly this path; nothing if the path is missing or lies within a mount.
pub(crate) fn at(path: &Path) -> Result<Option<Mount>, Error> {
    let path = match fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Io { doing: format!("resolve {}", path.display()), source }),
    };
    Ok(all()?.into_iter().rev().find(|mount| mount.point == path))
}

/// All mounts of the file system that is on a device, those that can be written to first.
pub(crate) fn of_device(device: &str) -> Result<Vec<Mount>, Error> {
    let mut mounts: Vec<_> = all()?.into_iter().filter(|mount| mount.device == device).collect();
    mounts.sort_by_key(|mount| mount.is_readonly);
    Ok(mounts)
}

/// Mounts the file system of a device.
pub(crate) fn mount(device: &Path, point: &Path, kind: &str, flags: &[String]) -> Result<(), Error> {
    let flags = flags.join(",");
    if flags.is_empty() {
        return run("mount", &[&"-t", &kind, &device, &point]).map(drop);
    }
    run("mount", &[&"-t", &kind, &"-o", &flags, &device, &point]).map(drop)
}

/// Shows at `point` what is at `source`.
pub(crate) fn bind(source: &Path, point: &Path) -> Result<(), Error> {
    run("mount", &[&"--bind", &source, &point]).map(drop)
}

/// Makes one mount read-only, and no other mount of its file system.
pub(crate) fn make_readonly(point: &Path) -> Result<(), Error> {
    run("mount", &[&"-o", &"remount,bind,ro", &point]).map(drop)
}

/// Unmounts whatever is mounted at this path; nothing may be.
pub(crate) fn unmount(point: &Path) -> Result<(), Error> {
    while at(point)?.is_some() {
        run("umount", &[&point])?;
    }
    Ok(())
}

fn all() -> Result<Vec<Mount>, Error> {
    let table = fs::read("/proc/self/mountinfo").map_err(Error::io("read the table of mounts"))?;
    Ok(table.split(|&byte| byte == b'\n').filter_map(parse).collect())
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ').skip(2);
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let device = text(fields.next()?);
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    let is_readonly = fields.next()?.split(|&byte| byte == b',').any(|option| option == b"ro");
    let kind = text(fields.skip_while(|field| *field != b"-").nth(1)?);
    Some(Mount { device, root, point, is_readonly, kind })
}

/// The kernel writes space, tab, newline and backslash as three octal digits behind a backslash.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_understood() {
        let line =
            br"36 35 7:3 /a\040b /mnt\134040/x ro,noatime master:1 shared:2 - ext4 /dev/loop3 rw,errors=continue";
        let mount = parse(line).expect("a mount");
        assert_eq!(
            mount,
            Mount {
                device: "7:3".into(),
                root: "/a b".into(),
                point: r"/mnt\040/x".into(),
                is_readonly: true,
                kind: "ext4".into(),
            }
        );
        assert_eq!(parse(b""), None);
    }
}
