//! A block device as sysfs shows it: which one it is, where it begins, and what it has counted.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FileType, major, minor};
use tranship_proto::codec::{Reader, WireError, Writer};

use super::TrackError;
use super::folder::{Folder, invalid};
use super::pieces::{DEVICE_BYTES_MAX, SECTOR_BYTES};

/// A device's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number {
    pub(super) major: u32,
    pub(super) minor: u32,
}

/// Devices of one disk in a filter, which has at most a page.
const MEMBERS_MAX: usize = 128;

/// What must stay the same for tracking to mean anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    /// The volume: a whole disk or a partition.
    pub(super) volume: Number,
    /// Number that the kernel gives to each attached disk, never twice: tells it from one attached later.
    pub(super) sequence: u64,
    /// Where the volume begins on its disk, and how long it is.
    pub(super) start_sector: u64,
    pub(super) sectors: u64,
    /// The disk and all its partitions, in order: whatever is written through any of them may be the volume's.
    pub(super) members: Vec<Number>,
}

impl Shape {
    pub(super) fn bytes(&self) -> u64 {
        self.sectors * SECTOR_BYTES
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        self.volume.encode(w);
        w.u64(self.sequence);
        w.u64(self.start_sector);
        w.u64(self.sectors);
        w.u64(self.members.len() as u64);
        self.members.iter().for_each(|member| member.encode(w));
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            volume: Number::decode(r)?,
            sequence: r.u64("sequence")?,
            start_sector: r.u64("start")?,
            sectors: r.at_most("sectors", DEVICE_BYTES_MAX / SECTOR_BYTES)?,
            members: (0..r.count("members", MEMBERS_MAX)?).map(|_| Number::decode(r)).collect::<Result<_, _>>()?,
        })
    }
}

impl Number {
    fn encode(self, w: &mut Writer) {
        w.u64(u64::from(self.major));
        w.u64(u64::from(self.minor));
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { major: r.u32("major")?, minor: r.u32("minor")? })
    }

    /// As the kernel keeps it, and a filter compares it: `MKDEV` in `linux/kdev_t.h`.
    pub(super) fn internal(self) -> u32 {
        self.major << 20 | self.minor
    }

    fn parse(text: &str) -> io::Result<Self> {
        let number = text
            .split_once(':')
            .and_then(|(major, minor)| Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? }));
        number.ok_or_else(|| invalid("dev", text))
    }
}

/// What a disk has counted since it was attached: `Documentation/block/stat.rst`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    /// Sectors written and discarded, of requests that are complete.
    pub(super) sectors: u64,
    /// Whether writes are on their way.
    pub(super) is_writing: bool,
}

/// A device that is attached now.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) shape: Shape,
    disk: Folder,
}

impl Device {
    /// The device that `handle` is.
    pub(super) fn of(handle: impl AsFd) -> Result<Self, TrackError> {
        let stat = rustix::fs::fstat(handle).map_err(TrackError::io("look at the device"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
            return Err(TrackError::NoDevice);
        }
        let number = Number { major: major(stat.st_rdev), minor: minor(stat.st_rdev) };
        let device = Self::find(number).map_err(TrackError::io("look at the device in sysfs"))?;
        let device = device.ok_or(TrackError::Missing { what: "the device's number of attachment (Linux 5.15)" })?;
        device.check()?;
        Ok(device)
    }

    /// The device with a number; nothing if the kernel does not number attachments, or none is attached.
    pub(super) fn find(number: Number) -> io::Result<Option<Self>> {
        let volume = match Folder::open(&format!("/sys/dev/block/{}:{}", number.major, number.minor)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let sectors = volume.value("size")?;
        let (disk, start_sector) = match volume.has("partition") {
            true => (volume.folder("..")?, volume.value("start")?),
            false => (volume, 0),
        };
        let sequence = match disk.value("diskseq") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut members = vec![Number::parse(&disk.read("dev")?)?];
        for name in disk.names()? {
            if disk.has(&format!("{name}/partition")) {
                members.push(Number::parse(&disk.read(&format!("{name}/dev"))?)?);
            }
        }
        members.sort_unstable();
        Ok(Some(Self { shape: Shape { volume: number, sequence, start_sector, sectors, members }, disk }))
    }

    /// Whether it can be tracked at all.
    fn check(&self) -> Result<(), TrackError> {
        let io = TrackError::io("look at the device in sysfs");
        if !self.counts().map_err(io)? {
            return Err(TrackError::Missing { what: "the device's counters (queue/iostats is off)" });
        }
        // Zones are reset without a sector being written.
        if self.disk.read("queue/zoned").is_ok_and(|model| model != "none") {
            return Err(TrackError::Missing { what: "a device without zones" });
        }
        if self.shape.members.len() > MEMBERS_MAX {
            return Err(TrackError::Missing { what: "a disk of at most 127 partitions" });
        }
        if self.shape.sectors > DEVICE_BYTES_MAX / SECTOR_BYTES {
            return Err(TrackError::Missing { what: "a device of at most 64 TiB" });
        }
        Ok(())
    }

    /// Whether its counters are on: they are the second witness of what was written.
    pub(super) fn counts(&self) -> io::Result<bool> {
        Ok(self.disk.value("queue/iostats")? != 0)
    }

    pub(super) fn counted(&self) -> io::Result<Counted> {
        let stat = self.disk.read("stat")?;
        let in_flight = self.disk.read("inflight")?;
        let counted = counted_of(&stat, &in_flight);
        counted.ok_or_else(|| invalid("stat", &stat))
    }
}

/// Sectors written are the seventh column, sectors discarded the fourteenth; writes are the second in `inflight`.
fn counted_of(stat: &str, in_flight: &str) -> Option<Counted> {
    let column = |text: &str, at: usize| text.split_ascii_whitespace().nth(at)?.parse::<u64>().ok();
    Some(Counted { sectors: column(stat, 6)?.checked_add(column(stat, 13)?)?, is_writing: column(in_flight, 1)? != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_taken_from_their_columns() {
        let stat = "     120        0     2557        6       35        0     4441       14        0       16       27  \
                    1        0     4096        0       17        6";
        assert_eq!(counted_of(stat, "       0        0"), Some(Counted { sectors: 8537, is_writing: false }));
        assert_eq!(counted_of(stat, "       3        1"), Some(Counted { sectors: 8537, is_writing: true }));
        // Kernels before 4.18 count no discards, so nothing can be said.
        assert_eq!(counted_of("120 0 2557 6 35 0 4441 14 0 16 27", "0 0"), None);
    }

    #[test]
    fn a_number_is_written_as_the_kernel_keeps_it() {
        assert_eq!(Number::parse("7:0").unwrap().internal(), 7_340_032);
        assert_eq!(Number::parse("259:17").unwrap(), Number { major: 259, minor: 17 });
        assert!(Number::parse("259").is_err());
    }

    #[test]
    fn a_shape_comes_back() {
        let member = |minor| Number { major: 8, minor };
        let shape = Shape {
            volume: member(2),
            sequence: 31,
            start_sector: 2048,
            sectors: 40_960,
            members: vec![member(0), member(1), member(2)],
        };
        let mut writer = Writer::new();
        shape.encode(&mut writer);
        let bytes = writer.finish();
        assert_eq!(Shape::decode(&mut Reader::new(&bytes)), Ok(shape));
    }
}
