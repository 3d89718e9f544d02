//! What the kernel tells about an object without reading it.

use tranship_proto::codec::{Reader, WireError, Writer};
use tranship_proto::entry::{Kind, Time};

/// The fields of `statx(2)` that decide whether an object changed, and those that are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u16,
    /// Owner, by number.
    pub uid: u32,
    /// Group, by number.
    pub gid: u32,
    /// Bytes of content; of a symbolic link, its target's length; 0 for directories, whose size says nothing.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// Creation, where the file system keeps it: tells an inode from a later one with the same number.
    pub btime: Option<Time>,
    /// Inode number.
    pub inode: u64,
    /// Names of this inode; 1 for directories, whose count says nothing.
    pub links: u64,
    /// Device number of a device node.
    pub device: u64,
}

impl Stat {
    /// Whether `other` can be the same object in the same state: nothing that the kernel maintains has moved, and
    /// there is something that a write would have moved.
    pub fn is_unchanged_since(&self, other: &Stat) -> bool {
        self == other && !self.is_without_times()
    }

    /// Whether this is a device that stands for a volume: nobody keeps times for what is written to it.
    fn is_without_times(&self) -> bool {
        self.kind == Kind::Block && self.mtime == Time::default() && self.ctime == Time::default()
    }

    /// Whether what is found `now` is as this side left it. Every further name of an inode that is made or removed
    /// changes its time of change and its count, whichever name they were recorded for.
    pub fn is_as_left(&self, now: &Stat) -> bool {
        let has_names = self.links > 1 || now.links > 1;
        let left = if has_names { Self { ctime: now.ctime, links: now.links, ..*self } } else { *self };
        left == *now
    }

    /// Whether both are the same inode, whatever happened to it since.
    pub fn is_same_object(&self, other: &Stat) -> bool {
        self.inode == other.inode && self.kind == other.kind && self.btime == other.btime
    }

    /// Writes it.
    pub fn encode(&self, w: &mut Writer) {
        w.u8(self.kind.number());
        w.u64(u64::from(self.mode));
        w.u64(u64::from(self.uid));
        w.u64(u64::from(self.gid));
        w.u64(self.size);
        self.mtime.encode(w);
        self.ctime.encode(w);
        w.option(self.btime, |w, time| time.encode(w));
        w.u64(self.inode);
        w.u64(self.links);
        w.u64(self.device);
    }

    /// Reads it.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            kind: Kind::from_number(r.u8("kind")?)?,
            mode: r.at_most("mode", 0o7777)? as u16,
            uid: r.u32("uid")?,
            gid: r.u32("gid")?,
            size: r.u64("size")?,
            mtime: Time::decode(r)?,
            ctime: Time::decode(r)?,
            btime: r.option("birth time", Time::decode)?,
            inode: r.u64("inode")?,
            links: r.u64("links")?,
            device: r.u64("device")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(kind: Kind, time: Time) -> Stat {
        let (mode, uid, gid, size, inode, links, device) = (0, 0, 0, 1 << 20, 0, 1, 0);
        Stat { kind, mode, uid, gid, size, mtime: time, ctime: time, btime: None, inode, links, device }
    }

    #[test]
    fn a_stat_without_times_never_tells_that_nothing_changed() {
        let device = stat(Kind::Block, Time::default());
        assert!(!device.is_unchanged_since(&device));
        for same in [stat(Kind::Block, Time { seconds: 1, nanos: 0 }), stat(Kind::File, Time::default())] {
            assert!(same.is_unchanged_since(&same));
        }
    }
}
