//! Names, places and metadata of one object in a tree.

use std::fmt;

use crate::codec::{Reader, WireError, Writer};
use crate::limit::{
    DEPTH_MAX, NAME_BYTES_MAX, PLACE_BYTES_MAX, TARGET_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
    XATTRS_BYTES_MAX, XATTRS_MAX,
};

/// One component of a place: 1 to 255 bytes, without `/` and NUL, and neither `.` nor `..`. Not necessarily UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Checks `bytes`, whoever they come from.
    pub fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        let refuse = |why| Err(WireError::Name { what: "name", why });
        match bytes {
            b"" => refuse("it is empty"),
            b"." | b".." => refuse("it points to a directory"),
            _ if bytes.len() > NAME_BYTES_MAX => refuse("it is longer than 255 bytes"),
            _ if bytes.contains(&b'/') => refuse("it contains '/'"),
            _ if bytes.contains(&0) => refuse("it contains NUL"),
            _ => Ok(Self(bytes)),
        }
    }

    /// The bytes.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

/// Where an object is in its volume: the names from the root down. The root itself has no names.
///
/// The names are kept with NUL between them, so that comparing bytes compares name by name: a directory comes directly
/// before everything in it. This is the order of every list of entries in the system. A place is never given to the
/// kernel as a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place(Box<[u8]>);

impl Place {
    /// The root of a volume, and the only place of a block volume.
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks names that are separated by NUL.
    pub fn from_bytes(bytes: impl Into<Box<[u8]>>) -> Result<Self, WireError> {
        let bytes = bytes.into();
        if bytes.len() > PLACE_BYTES_MAX {
            return Err(WireError::Limit { what: "place", value: bytes.len() as u64, max: PLACE_BYTES_MAX as u64 });
        }
        let mut depth = 0;
        if !bytes.is_empty() {
            for name in bytes.split(|&byte| byte == 0) {
                Name::new(name)?;
                depth += 1;
            }
        }
        if depth > DEPTH_MAX {
            return Err(WireError::Limit { what: "depth", value: depth as u64, max: DEPTH_MAX as u64 });
        }
        Ok(Self(bytes))
    }

    /// The place of `name` in this directory.
    pub fn join(&self, name: Name<'_>) -> Result<Self, WireError> {
        if self.is_root() {
            return Ok(Self(name.0.into()));
        }
        let bytes = [&self.0, &[0][..], name.0].concat();
        if bytes.len() > PLACE_BYTES_MAX {
            return Err(WireError::Limit { what: "place", value: bytes.len() as u64, max: PLACE_BYTES_MAX as u64 });
        }
        let depth = self.depth() + 1;
        if depth > DEPTH_MAX {
            return Err(WireError::Limit { what: "depth", value: depth as u64, max: DEPTH_MAX as u64 });
        }
        Ok(Self(bytes.into()))
    }

    /// The names with NUL between them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// How many names lead here.
    pub fn depth(&self) -> usize {
        self.names().count()
    }

    /// The names from the root down.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = Name<'_>> {
        // A root has no names, where `split` would give one empty one.
        self.0.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(Name)
    }

    /// The directory that holds this place and the name in it; nothing for the root.
    pub fn split(&self) -> Option<(Place, Name<'_>)> {
        if self.is_root() {
            return None;
        }
        let (parent, name) = match self.0.iter().rposition(|&byte| byte == 0) {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (&self.0[..0], &self.0[..]),
        };
        Some((Place(parent.into()), Name(name)))
    }

    /// Whether this is `ancestor` or lies somewhere beneath it.
    pub fn is_within(&self, ancestor: &Place) -> bool {
        ancestor.is_root()
            || (self.0.starts_with(&ancestor.0) && matches!(self.0.get(ancestor.0.len()), None | Some(0)))
    }

    /// The place that this becomes when its ancestor `from` moves to `to`; nothing if it does not lie beneath `from`.
    pub fn rebased(&self, from: &Place, to: &Place) -> Option<Place> {
        if !self.is_within(from) {
            return None;
        }
        let rest = if from.is_root() { &self.0[..] } else { self.0.get(from.0.len() + 1..).unwrap_or_default() };
        Some(Place(match (to.is_root(), rest.is_empty()) {
            (true, _) => rest.into(),
            (false, true) => to.0.clone(),
            (false, false) => [&to.0, &[0][..], rest].concat().into(),
        }))
    }

    /// Writes this place as its difference from the one before it in the same list.
    pub fn encode_after(&self, previous: &Place, writer: &mut Writer) {
        let shared = self.0.iter().zip(&previous.0).take_while(|(a, b)| a == b).count();
        writer.u64(shared as u64);
        writer.bytes(&self.0[shared..]);
    }

    /// Reads a place that was written by [`Place::encode_after`].
    pub fn decode_after(previous: &Place, reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let shared = reader.at_most("shared part of a place", previous.0.len() as u64)? as usize;
        let rest = reader.bytes("place", PLACE_BYTES_MAX)?;
        Self::from_bytes([&previous.0[..shared], rest].concat())
    }
}

impl fmt::Display for Place {
    /// As a relative path, with everything escaped that is not printable ASCII: safe in logs and on terminals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for &byte in &self.0 {
            match byte {
                0 => f.write_str("/")?,
                b'\\' => f.write_str("\\\\")?,
                0x20..=0x7e => write!(f, "{}", byte as char)?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({self})")
    }
}

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device node.
    CharDevice,
    /// A block device node.
    BlockDevice,
    /// Not an object in a tree but a block volume itself: a device, or an image file.
    Block,
}

impl Kind {
    /// The number on the wire and in files.
    pub fn number(self) -> u8 {
        match self {
            Self::Directory => 1,
            Self::File => 2,
            Self::Symlink => 3,
            Self::Fifo => 4,
            Self::Socket => 5,
            Self::CharDevice => 6,
            Self::BlockDevice => 7,
            Self::Block => 8,
        }
    }

    /// The kind with this number.
    pub fn from_number(number: u8) -> Result<Self, WireError> {
        Ok(match number {
            1 => Self::Directory,
            2 => Self::File,
            3 => Self::Symlink,
            4 => Self::Fifo,
            5 => Self::Socket,
            6 => Self::CharDevice,
            7 => Self::BlockDevice,
            8 => Self::Block,
            value => return Err(WireError::Meaningless { what: "kind", value: u64::from(value) }),
        })
    }

    /// Whether it has bytes of its own that are transferred.
    pub fn has_content(self) -> bool {
        matches!(self, Self::File | Self::Block)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "directory",
            Self::File => "file",
            Self::Symlink => "symlink",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::CharDevice => "character device",
            Self::BlockDevice => "block device",
            Self::Block => "block volume",
        })
    }
}

/// A moment in nanosecond steps, before 1970 too: `seconds` counts down to the second before it, as in `struct timespec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Whole seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds after that second, below 10⁹.
    pub nanos: u32,
}

impl Time {
    /// Writes it.
    pub fn encode(self, writer: &mut Writer) {
        writer.i64(self.seconds);
        writer.u64(u64::from(self.nanos));
    }

    /// Reads it.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { seconds: reader.i64("seconds")?, nanos: reader.at_most("nanoseconds", 999_999_999)? as u32 })
    }
}

/// One extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Its full name, as in `user.comment`.
    pub name: Box<[u8]>,
    /// Its value, verbatim; POSIX ACLs are `system.posix_acl_access` and `system.posix_acl_default`.
    pub value: Box<[u8]>,
}

/// What a tree keeps about an object besides its content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// Permission bits with setuid, setgid and sticky: `0o7777`.
    pub mode: u16,
    /// Owner, by number.
    pub uid: u32,
    /// Group, by number.
    pub gid: u32,
    /// Last modification of the content.
    pub mtime: Time,
    /// Extended attributes that the fidelity mode carries, ordered by name.
    pub xattrs: Vec<Xattr>,
}

impl Meta {
    /// Writes it.
    pub fn encode(&self, writer: &mut Writer) {
        writer.u64(u64::from(self.mode));
        writer.u64(u64::from(self.uid));
        writer.u64(u64::from(self.gid));
        self.mtime.encode(writer);
        writer.u64(self.xattrs.len() as u64);
        for xattr in &self.xattrs {
            writer.bytes(&xattr.name);
            writer.bytes(&xattr.value);
        }
    }

    /// Reads it, and refuses attributes that are not in order or beyond the kernel's limits.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let mode = reader.at_most("mode", 0o7777)? as u16;
        let uid = reader.u32("uid")?;
        let gid = reader.u32("gid")?;
        let mtime = Time::decode(reader)?;
        let mut total = 0;
        let mut xattrs: Vec<Xattr> = Vec::new();
        for _ in 0..reader.count("xattrs", XATTRS_MAX)? {
            let name = reader.bytes("xattr name", XATTR_NAME_BYTES_MAX)?;
            let value = reader.bytes("xattr value", XATTR_VALUE_BYTES_MAX)?;
            if name.is_empty() || name.contains(&0) {
                return Err(WireError::Name { what: "xattr name", why: "it is empty or contains NUL" });
            }
            if xattrs.last().is_some_and(|last| *last.name >= *name) {
                return Err(WireError::Order { what: "xattr name" });
            }
            total += name.len() + value.len();
            if total > XATTRS_BYTES_MAX {
                let (value, max) = (total as u64, XATTRS_BYTES_MAX as u64);
                return Err(WireError::Limit { what: "xattrs of an entry", value, max });
            }
            xattrs.push(Xattr { name: name.into(), value: value.into() });
        }
        Ok(Self { mode, uid, gid, mtime, xattrs })
    }
}

/// Checks a symbolic link's target: 1 to 4,095 bytes without NUL; absolute and dangling ones are targets like any other.
pub fn decode_target(reader: &mut Reader<'_>) -> Result<Box<[u8]>, WireError> {
    match reader.bytes("symlink target", TARGET_BYTES_MAX)? {
        b"" => Err(WireError::Name { what: "symlink target", why: "it is empty" }),
        target if target.contains(&0) => Err(WireError::Name { what: "symlink target", why: "it contains NUL" }),
        target => Ok(target.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> Place {
        Place::from_bytes(path.replace('/', "\0").into_bytes()).expect("valid")
    }

    #[test]
    fn a_directory_comes_directly_before_what_is_in_it() {
        let mut places = ["a.b", "a/z", "a", "b", "a/b/c", "a b", "a/b"].map(place);
        places.sort();
        assert_eq!(places, ["a", "a/b", "a/b/c", "a/z", "a b", "a.b", "b"].map(place));
    }

    #[test]
    fn no_component_can_leave_the_volume() {
        for bytes in [&b".."[..], b"a\0..", b"a\0\0b", b"\0a", b"a\0", b"a/b", b".", b"a\0.\0b"] {
            assert!(Place::from_bytes(bytes).is_err(), "{bytes:?}");
        }
        assert!(Place::from_bytes(vec![b'x'; 256]).is_err());
        assert!(Place::from_bytes(("a\0".repeat(DEPTH_MAX) + "a").into_bytes()).is_err());
    }

    #[test]
    fn places_come_back_after_each_other() {
        let places = ["", "a", "a/b", "a/bc", "b/a", ""].map(place);
        let mut writer = Writer::new();
        for pair in places.windows(2) {
            pair[1].encode_after(&pair[0], &mut writer);
        }
        let bytes = writer.finish();
        let mut reader = Reader::new(&bytes);
        for pair in places.windows(2) {
            assert_eq!(Place::decode_after(&pair[0], &mut reader).as_ref(), Ok(&pair[1]));
        }
    }

    #[test]
    fn a_move_of_an_ancestor_moves_what_is_beneath() {
        assert_eq!(place("a/b/c").rebased(&place("a/b"), &place("x")), Some(place("x/c")));
        assert_eq!(place("a/b").rebased(&place("a/b"), &place("x/y")), Some(place("x/y")));
        assert_eq!(place("a/bc").rebased(&place("a/b"), &place("x")), None);
    }

    #[test]
    fn what_is_printed_cannot_drive_a_terminal() {
        let nasty = Place::from_bytes(&b"a\x1b[31m\0\n\xff"[..]).expect("valid");
        assert_eq!(nasty.to_string(), r"a\x1b[31m/\x0a\xff");
    }
}
