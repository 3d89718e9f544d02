//! Which pieces of a block device were written since the last committed pass, as the kernel saw it.
//!
//! A [`Tracker`] has the kernel record every request that changes a disk, in an instance of its own of the kernel's
//! tracing. The instance lives in the kernel and needs no process: a pass resumes the tracker from its file, takes
//! what was written, and goes away again. The set that it gives is a superset in pieces of 1 MiB, never a subset:
//! whatever raises a doubt makes the interval [void](Interval::Void), and the caller compares the whole volume.
//!
//! Two witnesses must agree: the sectors in the events, and the disk's own counters of sectors written and discarded.
//! What goes round the tracepoint (commands passed through to the device, a stacked driver that redirects) is found by
//! that, as is what was dropped. What it cannot see: bytes that change without a write to this device on this
//! node, by another node, by the storage itself (a snapshot that is rolled back), or beneath it (a write to the disk
//! under a logical volume). A volume is tracked only while it is attached to one node.
//!
//! ```text
//! start ─► the first pass reads everything ─► commit(token)
//!   └► resume ─► basis() is the manifest at hand? ─► take() ─► Tracked: the pass reads that ─► commit(token)
//!                                                        └──► Void: start anew, then read everything
//! ```
//!
//! Needs root (`CAP_SYS_ADMIN`), tracing of block devices in the kernel and Linux 5.15; else [`Tracker::start`] says
//! what is missing. Where a device never comes to rest for two seconds, tracking does not begin.

mod device;
mod event;
mod folder;
mod instance;
mod pieces;
mod record;
mod tracking;

use std::fmt;
use std::fmt::Write as _;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thiserror::Error;
use tranship_proto::id::Token;

use device::{Counted, Device};
use folder::Folder;
use instance::Instance;
pub use pieces::Pieces;
use pieces::SECTOR_BYTES;
use record::Record;
pub use tracking::Tracking;

/// Bytes of the kernel's memory in the ring of one tracker, over all processors: about a million writes between two
/// passes.
pub const RING_BYTES_DEFAULT: u64 = 64 << 20;

/// How long a device is given to come to rest.
const REST: Duration = Duration::from_secs(2);

/// Time between two looks at the counters: requests that a driver holds back for a moment appear in it.
const LOOK: Duration = Duration::from_millis(5);

/// Sectors that may be queued and not complete: more than any device queues. Beyond that the counters stand still.
const IN_FLIGHT_SECTORS_MAX: u64 = (256 << 20) / SECTOR_BYTES;

/// Why a device is not tracked. The caller goes on by comparing.
#[derive(Debug, Error)]
pub enum TrackError {
    /// It is a folder or a file.
    #[error("not a block device")]
    NoDevice,
    /// The kernel has no tracing, or does not let this process use it.
    #[error("cannot use the kernel's tracing; it needs CAP_SYS_ADMIN and tracefs")]
    NoTracing {
        /// What the kernel said.
        source: io::Error,
    },
    /// Something that tracking needs is not there.
    #[error("the kernel or the device lacks {what}")]
    Missing {
        /// What.
        what: &'static str,
    },
    /// There were writes on their way all the time, so that there is no point to count from.
    #[error("the device did not come to rest; tracking begins with a later pass")]
    Busy,
    /// The kernel said no.
    #[error("cannot {operation}")]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The tracker's file is damaged.
    #[error("cannot use what {path} says of tracking")]
    Record {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl TrackError {
    /// The stable code that users and scripts see.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoDevice => "TS-E270",
            Self::NoTracing { .. } => "TS-E271",
            Self::Missing { .. } => "TS-E272",
            Self::Busy => "TS-E273",
            Self::Io { .. } => "TS-E274",
            Self::Record { .. } => "TS-E275",
        }
    }

    fn io<E: Into<io::Error>>(operation: &'static str) -> impl Fn(E) -> Self + Copy {
        move |source| Self::Io { operation, source: source.into() }
    }
}

/// What was written since the last pass that committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interval {
    /// These pieces, or fewer.
    Tracked {
        /// Of the volume.
        written: Pieces,
        /// How far the device's counters agree.
        agreement: Agreement,
    },
    /// It is not known, for good.
    Void {
        /// Why.
        why: Why,
    },
}

/// How far the sectors in the events agree with the device's own counters, over all intervals since tracking began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agreement {
    /// To the sector, with nothing on its way. A proof asks for this.
    Exact,
    /// Every write that is complete was seen, and more is on its way: a device in use. Enough for a stage; a later
    /// interval that agrees exactly confirms this one, and reports its pieces once more.
    InFlight {
        /// Sectors seen and not counted yet.
        sectors: u64,
    },
}

/// What makes an interval void.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The machine was started again.
    Restarted,
    /// The device was detached, whatever is attached now.
    Detached,
    /// The volume begins or ends elsewhere, or the disk has other partitions.
    Reshaped,
    /// The ring was full.
    Overrun {
        /// Events that nobody has seen.
        events: u64,
    },
    /// Somebody else read the ring, or a process ended while it did.
    Read {
        /// Events that were read in all.
        events: u64,
        /// Those that are known of.
        known: u64,
    },
    /// Tracing was switched off, set otherwise, or removed.
    Meddled,
    /// The device counted what was not seen.
    Unseen {
        /// Sectors.
        sectors: u64,
    },
    /// The device does not count what is seen.
    Uncounted {
        /// Sectors.
        sectors: u64,
    },
    /// It was void before.
    Before {
        /// Why, then.
        why: String,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restarted => f.write_str("the machine was started again"),
            Self::Detached => f.write_str("the device was detached"),
            Self::Reshaped => f.write_str("the device's size or partitions changed"),
            Self::Overrun { events } => write!(f, "{events} events did not fit in the ring"),
            Self::Read { events, known } => write!(f, "{events} events were read, of which {known} are known"),
            Self::Meddled => f.write_str("tracing was switched off or set otherwise"),
            Self::Unseen { sectors } => write!(f, "the device counted {sectors} sectors that were not seen"),
            Self::Uncounted { sectors } => write!(f, "{sectors} sectors were seen that the device did not count"),
            Self::Before { why } => f.write_str(why),
        }
    }
}

/// Tracking of one device. Dropping it changes nothing: the kernel goes on, until [`Tracker::remove`].
///
/// One process at a time may hold it; two void each other's intervals, and that is all.
#[derive(Debug)]
pub struct Tracker {
    path: PathBuf,
    record: Record,
    kernel: Kernel,
    /// Whether the last take met writes that were on their way.
    is_in_flight: bool,
}

/// What is opened of the kernel once, so that a process can be confined afterwards.
#[derive(Debug, Default)]
struct Kernel {
    boot: Option<String>,
    tracefs: Option<Folder>,
}

impl Kernel {
    /// Differs after each start of the machine: `random(4)`.
    fn boot(&mut self) -> Result<&str, TrackError> {
        if self.boot.is_none() {
            let folder = Folder::open("/proc/sys/kernel/random");
            let boot = folder.and_then(|folder| folder.read("boot_id"));
            self.boot = Some(boot.map_err(TrackError::io("tell this start of the machine from others"))?);
        }
        Ok(self.boot.as_deref().expect("it has just been read"))
    }

    fn tracefs(&mut self) -> Result<&Folder, TrackError> {
        if self.tracefs.is_none() {
            self.tracefs = Some(instance::tracefs()?);
        }
        Ok(self.tracefs.as_ref().expect("it has just been opened"))
    }
}

impl Tracker {
    /// Begins to track `device`, an open block device, and remembers it in the file `state`. What was tracked there
    /// before is removed. When this returns, every later write to the device will be reported.
    ///
    /// `ring_bytes` of the kernel's memory are taken now; see [`RING_BYTES_DEFAULT`]. On an error nothing is left.
    pub fn start(device: impl AsFd, state: &Path, ring_bytes: u64) -> Result<Self, TrackError> {
        // Also where it cannot be read: then its instance is unknown, and a restart of the machine removes it.
        if let Ok(Some(former)) = Self::resume(state) {
            former.remove()?;
        }
        let device = Device::of(device)?;
        let mut kernel = Kernel::default();
        let (boot, name) = (kernel.boot()?.to_owned(), random_name()?);
        let instance = Instance::make(kernel.tracefs()?, &name, &device.shape, ring_bytes);
        let instance = instance.map_err(TrackError::io("make an instance of the kernel's tracing"))?;
        let bytes = device.shape.bytes();
        let record = Record {
            boot,
            instance: name,
            shape: device.shape.clone(),
            base_sectors: 0,
            seen_sectors: 0,
            events: 0,
            void: None,
            basis: None,
            reported: Pieces::none(bytes),
            written: Pieces::none(bytes),
        };
        let mut tracker = Self { path: state.to_owned(), record, kernel, is_in_flight: false };
        if let Err(error) = tracker.find_base(&device, &instance).and_then(|()| tracker.save()) {
            drop(instance);
            let _ = Instance::remove(tracker.kernel.tracefs()?, &tracker.record.instance);
            return Err(error);
        }
        Ok(tracker)
    }

    /// Goes on with what is remembered in the file `state`; nothing if there is none.
    pub fn resume(state: &Path) -> Result<Option<Self>, TrackError> {
        match Record::load(state) {
            Ok(record) => {
                let (path, kernel) = (state.to_owned(), Kernel::default());
                Ok(record.map(|record| Self { path, record, kernel, is_in_flight: false }))
            }
            Err(error) => Err(TrackError::Record { path: state.to_owned(), source: error.into() }),
        }
    }

    /// Whether it tracks `device`, an open block device.
    pub fn is_of(&self, device: impl AsFd) -> Result<bool, TrackError> {
        Ok(Device::of(device)?.shape == self.record.shape)
    }

    /// What a process that is confined has to be allowed to read for further takes, and the folder in which it has to
    /// be allowed to remove folders for the end. It must have begun or taken before.
    pub fn folders(&self) -> Option<(PathBuf, PathBuf)> {
        let tracefs = self.kernel.tracefs.as_ref()?;
        // The mount has no name of its own, but our handle has one.
        let instances = PathBuf::from(format!("/proc/self/fd/{}/instances", tracefs.number()));
        Some((instances.join(&self.record.instance), instances))
    }

    /// The manifest that [`Tracker::take`] counts from; nothing before the first commit. A caller that holds another
    /// one must not use what was tracked.
    pub fn basis(&self) -> Option<Token> {
        self.record.basis
    }

    /// Reads what was written since the last commit, and begins the next interval: a write is in the one or in the
    /// other. Until [`Tracker::commit`] each take reports again what the last one did. Waits up to two seconds for
    /// the device to come to rest.
    ///
    /// Take first and read the volume then: what is written meanwhile is reported next time.
    ///
    /// # Errors
    /// An error leaves open what was read from the kernel; the next take finds out and is void.
    pub fn take(&mut self) -> Result<Interval, TrackError> {
        let interval = match self.read()? {
            Ok(agreement) => {
                self.is_in_flight = agreement != Agreement::Exact;
                self.record.reported.absorb(&mut self.record.written);
                Interval::Tracked { written: self.record.reported.clone(), agreement }
            }
            Err(why) => {
                self.record.void.get_or_insert(why.to_string());
                Interval::Void { why }
            }
        };
        self.save()?;
        Ok(interval)
    }

    /// Says that a pass has committed as `basis` what the last take reported, or the whole volume if there was none.
    ///
    /// What was on its way at that take may have reached the device after the pass has read there. Which of the writes
    /// that was nobody knows, so that all of them are reported again until a take finds the device at rest.
    pub fn commit(&mut self, basis: Token) -> Result<(), TrackError> {
        if !self.is_in_flight {
            self.record.reported.clear();
        }
        self.record.basis = Some(basis);
        self.save()
    }

    /// Ends tracking: removes the kernel's instance and the file.
    pub fn remove(mut self) -> Result<(), TrackError> {
        if self.record.boot == self.kernel.boot()? {
            let removed = Instance::remove(self.kernel.tracefs()?, &self.record.instance);
            removed.map_err(TrackError::io("remove an instance of the kernel's tracing"))?;
        }
        Record::remove(&self.path).map_err(TrackError::io("remove the tracker's file"))
    }

    /// Checks everything that can make the interval void, and reads the events in between.
    fn read(&mut self) -> Result<Result<Agreement, Why>, TrackError> {
        let io = TrackError::io("read the kernel's tracing");
        if let Some(why) = self.record.void.clone() {
            return Ok(Err(Why::Before { why }));
        }
        if self.record.boot != self.kernel.boot()? {
            return Ok(Err(Why::Restarted));
        }
        let device = match self.find_device()? {
            Ok(device) => device,
            Err(why) => return Ok(Err(why)),
        };
        let Some(instance) = Instance::open(self.kernel.tracefs()?, &self.record.instance).map_err(io)? else {
            return Ok(Err(Why::Meddled));
        };
        let agreement = self.settle(&device, &instance)?;
        // Asked last, so that it holds for everything that was read.
        let fate = instance.fate().map_err(io)?;
        let is_intact = instance.is_intact(&self.record.shape).map_err(io)? && device.counts().map_err(io)?;
        let known = self.record.events;
        Ok(match self.find_device()? {
            Err(why) => Err(why),
            Ok(_) if fate.lost > 0 => Err(Why::Overrun { events: fate.lost }),
            Ok(_) if fate.read != known => Err(Why::Read { events: fate.read, known }),
            Ok(_) if !is_intact => Err(Why::Meddled),
            Ok(_) => agreement,
        })
    }

    /// The device, if it is the same as ever.
    fn find_device(&self) -> Result<Result<Device, Why>, TrackError> {
        let device = Device::find(self.record.shape.volume).map_err(TrackError::io("look at the device in sysfs"))?;
        Ok(match device {
            Some(device) if device.shape == self.record.shape => Ok(device),
            Some(device) if device.shape.sequence == self.record.shape.sequence => Err(Why::Reshaped),
            _ => Err(Why::Detached),
        })
    }

    /// Finds the count from which the events add up: two looks at a device at rest.
    fn find_base(&mut self, device: &Device, instance: &Instance) -> Result<(), TrackError> {
        let end = Instant::now() + REST;
        let mut last = None;
        while Instant::now() < end {
            let look = self.look(device, instance)?;
            if !look.is_writing && last == Some((look, self.record.seen_sectors)) {
                self.record.base_sectors =
                    look.sectors.checked_sub(self.record.seen_sectors).ok_or(TrackError::Busy)?;
                return Ok(());
            }
            last = Some((look, self.record.seen_sectors));
            std::thread::sleep(LOOK);
        }
        Err(TrackError::Busy)
    }

    /// Reads events until they add up, twice in a row, or the time is over.
    fn settle(&mut self, device: &Device, instance: &Instance) -> Result<Result<Agreement, Why>, TrackError> {
        let end = Instant::now() + REST;
        let mut last = None;
        loop {
            let look = self.look(device, instance)?;
            let wanted = self.record.base_sectors.saturating_add(self.record.seen_sectors);
            if look == (Counted { sectors: wanted, is_writing: false }) && last == Some(look) {
                return Ok(Ok(Agreement::Exact));
            }
            if Instant::now() >= end {
                return Ok(judge(wanted, look.sectors));
            }
            last = Some(look);
            std::thread::sleep(LOOK);
        }
    }

    /// The counters first, then the events: what is complete when it is counted has been queued before.
    fn look(&mut self, device: &Device, instance: &Instance) -> Result<Counted, TrackError> {
        let counted = device.counted().map_err(TrackError::io("read the device's counters"))?;
        let Record { shape, written, seen_sectors, events, .. } = &mut self.record;
        let volume_start = shape.start_sector;
        let drained = instance.drain(|event| {
            let number = device::Number { major: event.major, minor: event.minor };
            if !event.is_write || !shape.members.contains(&number) {
                return;
            }
            *seen_sectors += event.sectors;
            // Sectors of the disk become bytes of the volume; what lies before it is cut off.
            let start = event.sector.saturating_sub(volume_start);
            let end = event.sector.saturating_add(event.sectors).saturating_sub(volume_start);
            written.add(start.saturating_mul(SECTOR_BYTES)..end.saturating_mul(SECTOR_BYTES));
        });
        *events += drained.map_err(TrackError::io("read the kernel's tracing"))?;
        Ok(counted)
    }

    fn save(&self) -> Result<(), TrackError> {
        self.record.save(&self.path).map_err(TrackError::io("write the tracker's file"))
    }
}

/// What to make of counters that do not agree with what was `seen`, on a device in use.
fn judge(seen: u64, counted: u64) -> Result<Agreement, Why> {
    match seen.checked_sub(counted) {
        None => Err(Why::Unseen { sectors: counted - seen }),
        Some(sectors) if sectors > IN_FLIGHT_SECTORS_MAX => Err(Why::Uncounted { sectors }),
        Some(sectors) => Ok(Agreement::InFlight { sectors }),
    }
}

fn random_name() -> Result<String, TrackError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| TrackError::io("get random bytes")(io::Error::from(error)))?;
    let mut name = String::from("tranship-");
    for byte in bytes {
        write!(name, "{byte:02x}").expect("a string takes everything");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_decide_what_a_device_in_use_is_worth() {
        assert_eq!(judge(100, 100), Ok(Agreement::InFlight { sectors: 0 }));
        assert_eq!(judge(108, 100), Ok(Agreement::InFlight { sectors: 8 }));
        assert_eq!(judge(100, 108), Err(Why::Unseen { sectors: 8 }));
        let too_many = IN_FLIGHT_SECTORS_MAX + 1;
        assert_eq!(judge(100 + too_many, 100), Err(Why::Uncounted { sectors: too_many }));
    }

    #[test]
    fn after_a_restart_of_the_machine_nothing_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("track");
        let number = device::Number { major: 7, minor: 0 };
        let shape = device::Shape { volume: number, sequence: 1, start_sector: 0, sectors: 8, members: vec![number] };
        let bytes = shape.bytes();
        let record = Record {
            boot: "another".into(),
            instance: "tranship-0".into(),
            shape,
            base_sectors: 0,
            seen_sectors: 0,
            events: 0,
            void: None,
            basis: None,
            reported: Pieces::none(bytes),
            written: Pieces::none(bytes),
        };
        record.save(&path).unwrap();
        let mut tracker = Tracker::resume(&path).unwrap().unwrap();
        assert_eq!(tracker.take().unwrap(), Interval::Void { why: Why::Restarted });
        // It stays so, and says so.
        let mut tracker = Tracker::resume(&path).unwrap().unwrap();
        let why = Why::Before { why: "the machine was started again".into() };
        assert_eq!(tracker.take().unwrap(), Interval::Void { why });
        tracker.remove().unwrap();
        assert!(Tracker::resume(&path).unwrap().is_none());
    }

    #[test]
    fn nothing_is_tracked_that_is_no_device() {
        let folder = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(folder.path().join("image")).unwrap();
        let error = Tracker::start(&file, &folder.path().join("track"), RING_BYTES_DEFAULT).unwrap_err();
        assert_eq!(error.code(), "TS-E270");
        assert!(Tracker::resume(&folder.path().join("track")).unwrap().is_none());
    }
}
