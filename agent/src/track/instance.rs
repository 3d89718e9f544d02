//! A private instance of the kernel's tracing: a ring buffer of its own, which lives on without a process.
//!
//! Sources: `Documentation/trace/ftrace.rst` (instances, `trace_pipe`, `stats`) and `Documentation/trace/events.rst`
//! (filters).

use std::io;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::TrackError;
use super::device::{Number, Shape};
use super::event::{Event, Lines};
use super::folder::{Folder, invalid};

const EVENT: &str = "events/block/block_bio_queue";

/// Bytes of one read of the trace: a few pages of text.
const READ_BYTES: usize = 64 << 10;

/// Opens tracefs. A mount that nobody else sees and that goes with its handle: no folder is needed, and it works
/// whether or not the system has mounted it somewhere.
pub(super) fn tracefs() -> Result<Folder, TrackError> {
    let private = || -> Result<Folder, Errno> {
        let context = rustix::mount::fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(&context)?;
        let bare =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        Ok(Folder::of(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, bare)?))
    };
    let tracefs = match private() {
        Ok(folder) => folder,
        Err(error) => Folder::open("/sys/kernel/tracing")
            .ok()
            .filter(|folder| folder.has("instances"))
            .ok_or(TrackError::NoTracing { source: error.into() })?,
    };
    match tracefs.has(EVENT) {
        true => Ok(tracefs),
        false => Err(TrackError::Missing { what: "the tracepoint block_bio_queue (CONFIG_BLK_DEV_IO_TRACE)" }),
    }
}

/// What has become of the events of an instance, over all processors, since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fate {
    /// Read by somebody.
    pub(super) read: u64,
    /// Overwritten or dropped, and never seen by anybody.
    pub(super) lost: u64,
}

/// An open instance.
#[derive(Debug)]
pub(super) struct Instance {
    folder: Folder,
}

impl Instance {
    /// Makes an instance that records what changes a disk, from now on.
    pub(super) fn make(tracefs: &Folder, name: &str, shape: &Shape, ring_bytes: u64) -> io::Result<Self> {
        let instances = tracefs.folder("instances")?;
        instances.make_folder(name)?;
        let made = instances.folder(name).map(|folder| Self { folder });
        let begun = made.and_then(|instance| instance.begin(shape, ring_bytes).map(|()| instance));
        if begun.is_err() {
            let _ = instances.remove_folder(name);
        }
        begun
    }

    /// The instance of this name, if it is there.
    pub(super) fn open(tracefs: &Folder, name: &str) -> io::Result<Option<Self>> {
        // In one step: a confined process may open the one and not the other.
        match tracefs.folder(&format!("instances/{name}")) {
            Ok(folder) => Ok(Some(Self { folder })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the instance of this name with everything in it.
    pub(super) fn remove(tracefs: &Folder, name: &str) -> io::Result<()> {
        match tracefs.remove_folder(&format!("instances/{name}")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn begin(&self, shape: &Shape, ring_bytes: u64) -> io::Result<()> {
        let processors = self.processors()?.len().max(1) as u64;
        self.folder.write("buffer_size_kb", &(ring_bytes / 1024 / processors).max(1).to_string())?;
        // Full is full: what is lost is counted in both cases, and this one costs less.
        self.folder.write("options/overwrite", "0")?;
        self.folder.write("options/context-info", "0")?;
        self.folder.write(&format!("{EVENT}/filter"), &filter(&shape.members))?;
        self.folder.write(&format!("{EVENT}/enable"), "1")
    }

    /// Whether it still records what it was made to record.
    pub(super) fn is_intact(&self, shape: &Shape) -> io::Result<bool> {
        Ok(self.folder.read(&format!("{EVENT}/filter"))? == filter(&shape.members)
            && self.folder.read(&format!("{EVENT}/enable"))? == "1"
            && self.folder.read("tracing_on")? == "1")
    }

    /// Reads what is there, and removes it from the ring. Returns how many events that were.
    pub(super) fn drain(&self, mut sink: impl FnMut(Event)) -> io::Result<u64> {
        let pipe = self.folder.open_file("trace_pipe", OFlags::RDONLY | OFlags::NONBLOCK)?;
        let (mut lines, mut events) = (Lines::default(), 0);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match rustix::io::retry_on_intr(|| rustix::io::read(&pipe, &mut buffer[..])) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(events),
                Ok(len) => lines.feed(&buffer[..len], |line| {
                    if let Some(event) = Event::parse(line) {
                        events += 1;
                        sink(event);
                    }
                }),
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) fn fate(&self) -> io::Result<Fate> {
        let mut all = Fate::default();
        for processor in self.processors()? {
            let text = self.folder.read(&format!("per_cpu/{processor}/stats"))?;
            let fate = fate_of(&text).ok_or_else(|| invalid("stats", &text))?;
            all = Fate { read: all.read + fate.read, lost: all.lost + fate.lost };
        }
        Ok(all)
    }

    fn processors(&self) -> io::Result<Vec<String>> {
        self.folder.folder("per_cpu")?.names()
    }
}

/// Requests to any device of the disk that are no reads and have a size: flushes have none.
fn filter(members: &[Number]) -> String {
    let devices: Vec<_> = members.iter().map(|member| format!("dev == {}", member.internal())).collect();
    format!("({}) && nr_sector > 0 && !(rwbs ~ \"R*\")", devices.join(" || "))
}

fn fate_of(stats: &str) -> Option<Fate> {
    let value = |name: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().parse::<u64>().ok()
    };
    let lost = value("overrun")? + value("commit overrun")? + value("dropped events")?;
    Some(Fate { read: value("read events")?, lost })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_loss_is_counted() {
        let stats = |overrun, commit, dropped, read| {
            format!(
                "entries: 5\noverrun: {overrun}\ncommit overrun: {commit}\nbytes: 68\noldest event ts:  4228.605291\n\
                 now ts:  4230.643050\ndropped events: {dropped}\nread events: {read}\n"
            )
        };
        assert_eq!(fate_of(&stats(0, 0, 0, 7)), Some(Fate { read: 7, lost: 0 }));
        assert_eq!(fate_of(&stats(1, 20, 300, 7)), Some(Fate { read: 7, lost: 321 }));
        assert_eq!(fate_of("entries: 5\n"), None);
    }

    #[test]
    fn a_filter_names_every_device_of_the_disk() {
        let members = [Number { major: 7, minor: 0 }, Number { major: 259, minor: 1 }];
        assert_eq!(filter(&members), "(dev == 7340032 || dev == 271581185) && nr_sector > 0 && !(rwbs ~ \"R*\")");
    }
}
