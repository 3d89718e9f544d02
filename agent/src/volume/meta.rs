//! Metadata of an open object: what a fidelity mode carries of it, and how it is set.
//!
//! | | plain | owner | exact |
//! |---|---|---|---|
//! | permission bits, sticky, setgid of directories, mtime, `user.*` | yes | yes | yes |
//! | owner, group, setuid and setgid of files, ACLs, `security.capability` | gap | yes | yes |
//! | `trusted.*` | gap | gap | yes |
//! | immutable, append-only, encrypted, verity | gap | gap | gap |
//! | labels that belong to a host (`security.selinux`, `security.SMACK64*`) | never | never | never |
//! | any other attribute (`security.ima`, `system.nfs4_acl`, `btrfs.*`, …) | gap | gap | gap |
//!
//! Not seen, because the kernel does not show it: `trusted.*` without `CAP_SYS_ADMIN`, and project identifiers.

use std::ffi::CString;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, CWD, Mode, StatxAttributes, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use tranship_engine::Stat;
use tranship_proto::entry::{Kind, Meta, Place, Xattr};
use tranship_proto::limit::{XATTR_VALUE_BYTES_MAX, XATTRS_BYTES_MAX, XATTRS_MAX};
use tranship_proto::message::{Fidelity, Gap, GapKind};

use super::VolumeError;
use super::seen::Seen;

/// An open object.
#[derive(Debug)]
pub(super) struct Object<'a> {
    fd: BorrowedFd<'a>,
    way: Way,
}

/// How the kernel is told which object is meant.
#[derive(Debug)]
enum Way {
    /// By its descriptor, which is open for reading or writing.
    Descriptor,
    /// By the link of its `O_PATH` descriptor in `/proc/self/fd`. It leads to the open object itself, whatever has its
    /// name by now; most calls refuse such a descriptor.
    Link(CString),
    /// Its descriptor is `O_PATH` and there is no `/proc`: owner and times can be set, nothing else.
    Bare,
}

/// Which owners the mode `plain` takes for its own: those of this process.
fn is_own(stat: &Stat) -> bool {
    let groups = rustix::process::getgroups().unwrap_or_default();
    let group = Gid::from_raw(stat.gid);
    stat.uid == rustix::process::geteuid().as_raw() && (group == rustix::process::getegid() || groups.contains(&group))
}

/// The permission bits that a mode carries.
fn carried_bits(fidelity: Fidelity, kind: Kind) -> u16 {
    match (fidelity, kind) {
        (Fidelity::Owner | Fidelity::Exact, _) => 0o7777,
        // On a directory it hands the group down, which volumes with a shared group depend on; it gives no rights.
        (Fidelity::Plain, Kind::Directory) => 0o3777,
        (Fidelity::Plain, _) => 0o1777,
    }
}

/// What becomes of an extended attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Carried,
    Gap(GapKind),
    /// It belongs to the host and not to the data.
    Ignored,
}

fn fate(name: &[u8], fidelity: Fidelity) -> Fate {
    let from_owner_on = |gap| if fidelity == Fidelity::Plain { Fate::Gap(gap) } else { Fate::Carried };
    match name {
        b"system.posix_acl_access" | b"system.posix_acl_default" => from_owner_on(GapKind::Acl),
        b"security.capability" => from_owner_on(GapKind::Capability),
        b"security.selinux" => Fate::Ignored,
        b"system.nfs4_acl" => Fate::Gap(GapKind::Acl),
        _ if name.starts_with(b"security.SMACK64") => Fate::Ignored,
        _ if name.starts_with(b"user.") => Fate::Carried,
        _ if name.starts_with(b"trusted.") && fidelity == Fidelity::Exact => Fate::Carried,
        _ => Fate::Gap(GapKind::Xattr),
    }
}

/// Whether the kernel refused for reasons of rights or of the file system's abilities, which is a gap and no failure.
fn is_refusal(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::TOOBIG | Errno::RANGE
    )
}

/// What the metadata of one object cannot be.
struct Gaps<'a> {
    place: &'a Place,
    /// Whether it is promised at all: in mode `plain` the root directory belongs to whoever made the volume.
    is_promised: bool,
    found: Vec<Gap>,
}

impl<'a> Gaps<'a> {
    fn new(place: &'a Place, fidelity: Fidelity) -> Self {
        Self { place, is_promised: !(place.is_root() && fidelity == Fidelity::Plain), found: Vec::new() }
    }

    fn add(&mut self, what: GapKind, detail: impl Into<String>) {
        if self.is_promised {
            self.found.push(Gap { place: self.place.clone(), what, detail: detail.into() });
        }
    }

    fn has(&self, what: GapKind) -> bool {
        self.found.iter().any(|gap| gap.what == what)
    }
}

/// What was read from an object.
pub(super) struct Read {
    /// Taken last: a change while the rest was read shows in it.
    pub(super) stat: Stat,
    /// What the mode carries. Owners are 0 in the mode that does not carry them.
    pub(super) meta: Meta,
    /// What it does not.
    pub(super) gaps: Vec<Gap>,
}

impl<'a> Object<'a> {
    /// An object that is open for reading or writing.
    pub(super) fn open(fd: &'a impl AsFd) -> Self {
        Self { fd: fd.as_fd(), way: Way::Descriptor }
    }

    /// An object that is open as a place only (`O_PATH`), with its path in `/proc/self/fd` if there is one.
    pub(super) fn named(fd: &'a impl AsFd, path: Option<CString>) -> Self {
        Self { fd: fd.as_fd(), way: path.map_or(Way::Bare, Way::Link) }
    }

    /// Reads its metadata.
    pub(super) fn read(&self, place: &Place, fidelity: Fidelity) -> Result<Read, VolumeError> {
        let mut gaps = Gaps::new(place, fidelity);
        let xattrs =
            self.xattrs(fidelity, &mut gaps).map_err(|errno| VolumeError::of("read metadata of", place, errno))?;
        let seen = Seen::of(self.fd).map_err(|errno| VolumeError::of("stat", place, errno))?;
        let stat = seen.stat;
        let bits = carried_bits(fidelity, stat.kind);
        if stat.mode & !bits != 0 {
            gaps.add(GapKind::Mode, format!("mode {:04o}", stat.mode));
        }
        if fidelity == Fidelity::Plain && !is_own(&stat) {
            gaps.add(GapKind::Owner, format!("{}:{}", stat.uid, stat.gid));
        }
        for (attribute, word) in [
            (StatxAttributes::IMMUTABLE, "immutable"),
            (StatxAttributes::APPEND, "append-only"),
            (StatxAttributes::ENCRYPTED, "encrypted"),
            (StatxAttributes::VERITY, "verity"),
        ] {
            if seen.attributes.contains(attribute) {
                gaps.add(GapKind::Flags, word);
            }
        }
        let (uid, gid) = if fidelity == Fidelity::Plain { (0, 0) } else { (stat.uid, stat.gid) };
        let meta = Meta { mode: stat.mode & bits, uid, gid, mtime: stat.mtime, xattrs };
        Ok(Read { stat, meta, gaps: gaps.found })
    }

    /// Makes its metadata what `meta` says, as far as the mode carries it, and tells what it is now.
    ///
    /// The order is the kernel's: a change of owner takes setuid, setgid and capabilities away, an ACL changes the
    /// permission bits, and each of them is a change that time shows.
    pub(super) fn set(&self, place: &Place, meta: &Meta, fidelity: Fidelity) -> Result<(Stat, Vec<Gap>), VolumeError> {
        let mut gaps = Gaps::new(place, fidelity);
        let failed = |errno| VolumeError::of("set metadata of", place, errno);
        let before = Seen::of(self.fd).map_err(failed)?.stat;
        if fidelity != Fidelity::Plain && (before.uid, before.gid) != (meta.uid, meta.gid) {
            self.set_owner(meta, &mut gaps).map_err(failed)?;
        }
        self.set_xattrs(meta, fidelity, &mut gaps).map_err(failed)?;
        if before.kind != Kind::Symlink {
            self.set_bits(meta.mode & carried_bits(fidelity, before.kind), &mut gaps).map_err(failed)?;
        }
        self.set_mtime(meta, &mut gaps).map_err(failed)?;
        let after = Seen::of(self.fd).map_err(failed)?.stat;
        if after.mtime != meta.mtime && !gaps.has(GapKind::Time) {
            gaps.add(GapKind::Time, format!("kept as {}.{:09}", after.mtime.seconds, after.mtime.nanos));
        }
        if fidelity != Fidelity::Plain && (after.uid, after.gid) != (meta.uid, meta.gid) && !gaps.has(GapKind::Owner) {
            gaps.add(GapKind::Owner, format!("kept as {}:{}", after.uid, after.gid));
        }
        Ok((after, gaps.found))
    }

    fn set_owner(&self, meta: &Meta, gaps: &mut Gaps<'_>) -> Result<(), Errno> {
        let detail = || format!("{}:{}", meta.uid, meta.gid);
        // To the kernel this number means "leave it".
        if meta.uid == u32::MAX || meta.gid == u32::MAX {
            gaps.add(GapKind::Owner, detail());
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        match rustix::fs::chownat(self.fd, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH) {
            Err(errno) if is_refusal(errno) => gaps.add(GapKind::Owner, detail()),
            result => result?,
        }
        Ok(())
    }

    fn set_bits(&self, wanted: u16, gaps: &mut Gaps<'_>) -> Result<(), Errno> {
        if Seen::of(self.fd)?.stat.mode == wanted {
            return Ok(());
        }
        let mode = Mode::from_raw_mode(wanted.into());
        let result = match &self.way {
            Way::Descriptor => rustix::fs::fchmod(self.fd, mode),
            Way::Link(path) => rustix::fs::chmodat(CWD, path, mode, AtFlags::empty()),
            Way::Bare => Err(Errno::NOSYS),
        };
        match result {
            Err(errno) if is_refusal(errno) => {}
            result => result?,
        }
        // setgid is dropped without a word if we are not in the group.
        let mode = Seen::of(self.fd)?.stat.mode;
        if mode != wanted {
            gaps.add(GapKind::Mode, format!("{wanted:04o} is {mode:04o}"));
        }
        Ok(())
    }

    fn set_mtime(&self, meta: &Meta, gaps: &mut Gaps<'_>) -> Result<(), Errno> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: meta.mtime.seconds, tv_nsec: meta.mtime.nanos.into() },
        };
        let result = match self.way {
            Way::Descriptor => rustix::fs::futimens(self.fd, &times),
            Way::Link(_) | Way::Bare => rustix::fs::utimensat(self.fd, c"", &times, AtFlags::EMPTY_PATH),
        };
        match result {
            Err(errno) if is_refusal(errno) => gaps.add(GapKind::Time, "cannot be set"),
            result => result?,
        }
        Ok(())
    }

    fn set_xattrs(&self, meta: &Meta, fidelity: Fidelity, gaps: &mut Gaps<'_>) -> Result<(), Errno> {
        // What a peer sends beyond the mode is not set, whatever it is.
        let (wanted, refused): (Vec<&Xattr>, Vec<&Xattr>) =
            meta.xattrs.iter().partition(|xattr| fate(&xattr.name, fidelity) == Fate::Carried);
        for xattr in refused {
            gaps.add(GapKind::Xattr, escaped(&xattr.name));
        }
        // What the object has besides is no gap of the one that it is made like.
        let have = match self.xattrs(fidelity, &mut Gaps::new(gaps.place, fidelity)) {
            Err(errno) if is_refusal(errno) => Vec::new(),
            have => have?,
        };
        for Xattr { name, .. } in &have {
            if !wanted.iter().any(|xattr| xattr.name == *name) {
                match self.remove_xattr(name) {
                    Err(Errno::NODATA) => {}
                    Err(errno) if is_refusal(errno) => gaps.add(gap_of(name), format!("{} stays", escaped(name))),
                    result => result?,
                }
            }
        }
        let is_capability = |xattr: &&Xattr| *xattr.name == *b"security.capability";
        let (last, first): (Vec<&Xattr>, Vec<&Xattr>) = wanted.into_iter().partition(is_capability);
        for xattr in first.into_iter().chain(last) {
            if have.contains(xattr) {
                continue;
            }
            match self.set_xattr(xattr) {
                Err(errno) if is_refusal(errno) => gaps.add(gap_of(&xattr.name), escaped(&xattr.name)),
                // ext4 says this too when an inode's attributes outgrow their one block.
                Err(Errno::NOSPC) if self.has_room()? => {
                    gaps.add(GapKind::Limit, format!("{} does not fit", escaped(&xattr.name)));
                }
                result => result?,
            }
        }
        Ok(())
    }

    /// Whether the file system can still hold the largest attribute that there is, many times.
    fn has_room(&self) -> Result<bool, Errno> {
        let about = rustix::fs::fstatvfs(self.fd)?;
        Ok(about.f_bavail.saturating_mul(about.f_frsize) > 16 * XATTR_VALUE_BYTES_MAX as u64)
    }

    /// Its attributes that the mode carries, ordered by name. An error is one of the device's.
    fn xattrs(&self, fidelity: Fidelity, gaps: &mut Gaps<'_>) -> Result<Vec<Xattr>, Errno> {
        let mut xattrs = Vec::new();
        let mut total_bytes = 0;
        for name in self.xattr_names(gaps)? {
            match fate(&name, fidelity) {
                Fate::Ignored => continue,
                Fate::Gap(what) => gaps.add(what, escaped(&name)),
                Fate::Carried => match self.xattr(&name) {
                    Ok(value) if total_bytes + name.len() + value.len() > XATTRS_BYTES_MAX => {
                        gaps.add(GapKind::Limit, format!("{}: more attributes than can be carried", escaped(&name)));
                    }
                    Ok(value) => {
                        total_bytes += name.len() + value.len();
                        xattrs.push(Xattr { name, value });
                    }
                    Err(Errno::NODATA) => {}
                    Err(errno) if is_refusal(errno) => gaps.add(GapKind::Unreadable, escaped(&name)),
                    Err(errno) => return Err(errno),
                },
            }
        }
        Ok(xattrs)
    }

    /// The names of all its attributes that we are shown, in order.
    fn xattr_names(&self, gaps: &mut Gaps<'_>) -> Result<Vec<Box<[u8]>>, Errno> {
        let list = match read_sized(|buffer| self.list_xattrs(buffer)) {
            Ok(list) => list,
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(Errno::NOSYS) => {
                gaps.add(GapKind::Unreadable, "attributes cannot be read without /proc");
                return Ok(Vec::new());
            }
            Err(Errno::TOOBIG) => {
                gaps.add(GapKind::Limit, "more attributes than the kernel lists");
                return Ok(Vec::new());
            }
            Err(errno) if is_refusal(errno) => {
                gaps.add(GapKind::Unreadable, "attributes");
                return Ok(Vec::new());
            }
            Err(errno) => return Err(errno),
        };
        let names = list.split(|&byte| byte == 0).filter(|name| !name.is_empty());
        let mut names: Vec<Box<[u8]>> = names.map(Into::into).collect();
        names.sort();
        if names.len() > XATTRS_MAX {
            gaps.add(GapKind::Limit, format!("{} attributes", names.len()));
            names.truncate(XATTRS_MAX);
        }
        Ok(names)
    }

    fn xattr(&self, name: &[u8]) -> Result<Box<[u8]>, Errno> {
        read_sized(|buffer| match &self.way {
            Way::Descriptor => rustix::fs::fgetxattr(self.fd, name, buffer),
            Way::Link(path) => rustix::fs::getxattr(path, name, buffer),
            Way::Bare => Err(Errno::NOSYS),
        })
    }

    fn list_xattrs(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match &self.way {
            Way::Descriptor => rustix::fs::flistxattr(self.fd, buffer),
            Way::Link(path) => rustix::fs::listxattr(path, buffer),
            Way::Bare => Err(Errno::NOSYS),
        }
    }

    fn set_xattr(&self, Xattr { name, value }: &Xattr) -> Result<(), Errno> {
        match &self.way {
            Way::Descriptor => rustix::fs::fsetxattr(self.fd, &**name, value, XattrFlags::empty()),
            Way::Link(path) => rustix::fs::setxattr(path, &**name, value, XattrFlags::empty()),
            Way::Bare => Err(Errno::NOSYS),
        }
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        match &self.way {
            Way::Descriptor => rustix::fs::fremovexattr(self.fd, name),
            Way::Link(path) => rustix::fs::removexattr(path, name),
            Way::Bare => Err(Errno::NOSYS),
        }
    }
}

fn gap_of(name: &[u8]) -> GapKind {
    match fate(name, Fidelity::Plain) {
        Fate::Gap(what) => what,
        Fate::Carried | Fate::Ignored => GapKind::Xattr,
    }
}

fn escaped(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}

/// Reads something of unknown size: mostly it is small, and never larger than the kernel's maximum for it.
fn read_sized(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Box<[u8]>, Errno> {
    let mut small = [0; 512];
    match read(&mut small) {
        Err(Errno::RANGE) => {}
        result => return Ok(small[..result?].into()),
    }
    let mut large = vec![0; XATTR_VALUE_BYTES_MAX];
    let bytes = read(&mut large)?;
    large.truncate(bytes);
    Ok(large.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_carries_what_its_contract_says() {
        use Fate::{Carried, Gap, Ignored};
        let check = |name: &str, expected: [Fate; 3]| {
            let modes = [Fidelity::Plain, Fidelity::Owner, Fidelity::Exact];
            assert_eq!(modes.map(|mode| fate(name.as_bytes(), mode)), expected, "{name}");
        };
        check("user.comment", [Carried; 3]);
        check("system.posix_acl_access", [Gap(GapKind::Acl), Carried, Carried]);
        check("system.posix_acl_default", [Gap(GapKind::Acl), Carried, Carried]);
        check("security.capability", [Gap(GapKind::Capability), Carried, Carried]);
        check("trusted.overlay.opaque", [Gap(GapKind::Xattr), Gap(GapKind::Xattr), Carried]);
        check("security.selinux", [Ignored; 3]);
        check("security.ima", [Gap(GapKind::Xattr); 3]);
        check("btrfs.compression", [Gap(GapKind::Xattr); 3]);
        check("system.nfs4_acl", [Gap(GapKind::Acl); 3]);
        check("username.x", [Gap(GapKind::Xattr); 3]);
    }

    #[test]
    fn plain_gives_nobody_the_rights_of_another() {
        assert_eq!(0o4755 & carried_bits(Fidelity::Plain, Kind::File), 0o755);
        assert_eq!(0o2755 & carried_bits(Fidelity::Plain, Kind::File), 0o755);
        assert_eq!(0o2775 & carried_bits(Fidelity::Plain, Kind::Directory), 0o2775);
        assert_eq!(0o6755 & carried_bits(Fidelity::Owner, Kind::File), 0o6755);
    }
}
