//! What is compared.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tranship_tests::filesystems::{FileSystem, Kind};
use tranship_tests::walker::{self, Contract};

use crate::contestants::{Contestant, Place};
use crate::measure::{Cost, Costs};
use crate::{Scale, data};

/// A table row: what somebody is asked to do, and who.
pub(crate) struct Workload {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    data: Data,
    step: Step,
    contestants: &'static [Contestant],
}

/// What lies at the source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Data {
    /// A folder with one large file.
    FolderWithImage,
    /// The same with a file of words.
    FolderWithText,
    /// The large file itself.
    Image,
    /// A folder with many small files.
    SmallFiles,
    /// A million files, a hundred in each folder.
    MillionFiles,
    /// A million files in one folder.
    MillionInOneFolder,
    /// A million files with two names each.
    MillionHardLinks,
    /// An image of 64 GiB with nothing in it.
    HugeImage,
}

impl Data {
    fn is_image(self) -> bool {
        matches!(self, Self::Image | Self::HugeImage)
    }
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A copy into nothing; a new file system for every run.
    First,
    /// A copy after one block in a hundred was rewritten.
    AfterRewrites,
    /// A copy after a few bytes were inserted near the front.
    AfterInsertion,
    /// A copy after 4 KiB were written in each MiB.
    AfterScatteredWrites,
    /// A copy after nothing happened.
    AfterNothing,
}

use Contestant::{Diskrsync, Rsync, RsyncTls, Tranship, TranshipWith};

pub(crate) const WORKLOADS: &[Workload] = &[
    Workload {
        id: "W1",
        what: "first copy of a folder with one large file of random bytes, MTU 1500",
        data: Data::FolderWithImage,
        step: Step::First,
        contestants: &[Tranship, RsyncTls(&["-a"]), Rsync(&["-a"])],
    },
    Workload {
        id: "W2",
        what: "copy again after one 4 KiB block in a hundred was rewritten in place",
        data: Data::Image,
        step: Step::AfterRewrites,
        contestants: &[
            Tranship,
            RsyncTls(&["-a", "--inplace"]),
            Rsync(&["-a", "--inplace"]),
            Rsync(&["-a", "--inplace", "-B4096"]),
            Rsync(&["-aW", "--inplace"]),
            Diskrsync,
        ],
    },
    Workload {
        id: "W3",
        what: "copy again after nothing happened, large file, read as a whole",
        data: Data::Image,
        step: Step::AfterNothing,
        contestants: &[Tranship, Rsync(&["-aI", "--inplace"]), RsyncTls(&["-aI", "--inplace"]), Diskrsync],
    },
    Workload {
        id: "W4",
        what: "copy again after 64 bytes were inserted near the front of a large file",
        data: Data::FolderWithImage,
        step: Step::AfterInsertion,
        contestants: &[Tranship, RsyncTls(&["-a"]), Rsync(&["-a"])],
    },
    Workload {
        id: "W5",
        what: "first copy of many small files",
        data: Data::SmallFiles,
        step: Step::First,
        contestants: &[Tranship, RsyncTls(&["-a"]), Rsync(&["-a"])],
    },
    Workload {
        id: "W6",
        what: "copy again after nothing happened, many small files",
        data: Data::SmallFiles,
        step: Step::AfterNothing,
        contestants: &[Tranship, RsyncTls(&["-a", "--delete"]), Rsync(&["-a", "--delete"])],
    },
    Workload {
        id: "C1",
        what: "our choice of compression on a fast link: first copy of a large file that compresses well",
        data: Data::FolderWithText,
        step: Step::First,
        contestants: &[
            Tranship,
            TranshipWith(&["--compress", "none"]),
            TranshipWith(&["--compress", "lz4"]),
            TranshipWith(&["--compress", "zstd:1"]),
        ],
    },
    Workload {
        id: "C2",
        what: "our choice of compression on a fast link: first copy of a large file of random bytes",
        data: Data::FolderWithImage,
        step: Step::First,
        contestants: &[Tranship, TranshipWith(&["--compress", "none"])],
    },
    Workload {
        id: "T1",
        what: "our choice of transport: first copy of a folder with one large file of random bytes, MTU 1500",
        data: Data::FolderWithImage,
        step: Step::First,
        contestants: &[
            Tranship,
            TranshipWith(&["--transport", "quic"]),
            TranshipWith(&["--transport", "tcp"]),
            TranshipWith(&["--connections", "4"]),
        ],
    },
    Workload {
        id: "M1",
        what: "memory: first copy of a million files",
        data: Data::MillionFiles,
        step: Step::First,
        contestants: &[Tranship],
    },
    Workload {
        id: "M2",
        what: "memory: first copy of a million files in one folder",
        data: Data::MillionInOneFolder,
        step: Step::First,
        contestants: &[Tranship],
    },
    Workload {
        id: "M3",
        what: "memory: first copy of a million files with two names each",
        data: Data::MillionHardLinks,
        step: Step::First,
        contestants: &[Tranship],
    },
    Workload {
        id: "M4",
        what: "memory: an image of 64 GiB after 4 KiB were written in each MiB",
        data: Data::HugeImage,
        step: Step::AfterScatteredWrites,
        contestants: &[Tranship],
    },
];

/// The workloads, one a line.
pub(crate) fn help() -> String {
    let mut text = String::from("Workloads:\n");
    for workload in WORKLOADS {
        writeln!(text, "  {:<4} {}", workload.id, workload.what).expect("a String takes everything");
    }
    text
}

/// What came of one contestant.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) is_ours: bool,
    /// Size of the volume, to relate work to.
    pub(crate) gigabytes: f64,
    pub(crate) result: Result<Costs, String>,
}

/// One contestant's destination and how it fared.
struct Lane {
    contestant: Contestant,
    system: Option<FileSystem>,
    state: PathBuf,
    costs: Vec<Cost>,
    failure: Option<String>,
}

/// Runs a workload: everybody in turn, as often as asked.
pub(crate) fn run(
    workload: &Workload,
    place: &Place,
    scale: Scale,
    runs: u32,
    only: Option<&str>,
) -> io::Result<Vec<Row>> {
    let source = FileSystem::folder()?;
    let bytes = make_data(workload.data, source.path(), scale)?;
    let path = subject(workload.data, source.path());
    let is_wanted = |who: &&Contestant| only.is_none_or(|only| who.name().contains(only));
    let contestants = workload.contestants.iter().filter(is_wanted);
    let mut lanes: Vec<Lane> =
        contestants.map(|contestant| Lane::new(*contestant, place)).collect::<io::Result<_>>()?;
    for lane in lanes.iter_mut().filter(|_| workload.step != Step::First) {
        lane.attempt(|lane| {
            lane.renew(room(workload.data, bytes))?;
            lane.copy(workload.data, place, &path).map(drop)
        });
    }
    for run in 0..runs {
        match workload.step {
            Step::AfterRewrites => data::rewrite_blocks(&path, u64::from(run) + 2)?,
            Step::AfterInsertion => data::insert_near_the_front(&path.join("image"), u64::from(run) + 2)?,
            Step::AfterScatteredWrites => data::write_in_each_mebibyte(&path, u64::from(run) + 2)?,
            Step::First | Step::AfterNothing => {}
        }
        for lane in &mut lanes {
            lane.attempt(|lane| {
                if workload.step == Step::First {
                    lane.renew(room(workload.data, bytes))?;
                }
                let cost = lane.copy(workload.data, place, &path)?;
                lane.costs.push(cost);
                Ok(())
            });
        }
    }
    Ok(lanes.into_iter().map(|lane| lane.into_row(bytes)).collect())
}

fn make_data(data: Data, root: &Path, scale: Scale) -> io::Result<u64> {
    let divisor = if scale == Scale::Full { 1 } else { 8 };
    match data {
        Data::FolderWithImage | Data::Image => {
            let bytes = (2 << 30) / divisor;
            data::make_random_file(&root.join("image"), bytes, 1).map(|()| bytes)
        }
        Data::FolderWithText => {
            let bytes = (2 << 30) / divisor;
            data::make_text_file(&root.join("text"), bytes, 1).map(|()| bytes)
        }
        Data::SmallFiles => data::make_small_files(root, 100_000 / divisor, 1),
        Data::MillionFiles => data::make_tiny_files(root, 1_000_000 / divisor, 100, 1),
        Data::MillionInOneFolder => data::make_tiny_files(root, 1_000_000 / divisor, u64::MAX, 1),
        Data::MillionHardLinks => data::make_tiny_files(root, 1_000_000 / divisor, 100, 2),
        Data::HugeImage => {
            let bytes = (64 << 30) / divisor;
            fs::File::create(root.join("image"))?.set_len(bytes).map(|()| bytes)
        }
    }
}

/// Bytes of a file system that holds a copy: ext4 has an inode for each 16 KiB.
fn room(data: Data, bytes: u64) -> u64 {
    match data {
        Data::MillionFiles | Data::MillionInOneFolder | Data::MillionHardLinks => 24 << 30,
        _ => bytes * 2 + (1 << 30),
    }
}

/// What is copied, at a source or at a destination.
fn subject(data: Data, root: &Path) -> PathBuf {
    if data.is_image() { root.join("image") } else { root.join("") }
}

impl Lane {
    fn new(contestant: Contestant, place: &Place) -> io::Result<Self> {
        let state = tempfile::Builder::new().prefix("state-").tempdir_in(place.folder())?.keep();
        Ok(Self { contestant, system: None, state, costs: Vec::new(), failure: None })
    }

    /// Goes on unless something failed before; what fails now is kept.
    fn attempt(&mut self, step: impl FnOnce(&mut Self) -> io::Result<()>) {
        if self.failure.is_none()
            && let Err(error) = step(self)
        {
            self.failure = Some(error.to_string());
            // Room for the others.
            self.system = None;
        }
    }

    /// A new destination of this size, and nothing known about the old one.
    fn renew(&mut self, bytes: u64) -> io::Result<()> {
        self.system = None;
        fs::remove_dir_all(&self.state)?;
        fs::create_dir(&self.state)?;
        let system = FileSystem::mounted(Kind::Ext4, bytes).map_err(io::Error::other)?;
        fs::create_dir(system.path().join("target"))?;
        self.system = Some(system);
        Ok(())
    }

    /// One copy, and whether it is one.
    fn copy(&mut self, data: Data, place: &Place, source: &Path) -> io::Result<Cost> {
        let system = self.system.as_ref().ok_or_else(|| io::Error::other("no destination"))?;
        let target = subject(data, &system.path().join("target"));
        let cost = place.copy(self.contestant, source, &target, &self.state)?;
        // rsync takes two times within the same second for equal, and the root was made just before it came.
        let contract = Contract { root: false, ..Contract::plain() };
        let difference = match data {
            image if image.is_image() => {
                (!data::is_same_file(source, &target)?).then(|| "the bytes are others".to_owned())
            }
            _ => walker::compare(source, &target, &contract)?.into_iter().next(),
        };
        difference.map_or(Ok(cost), |difference| Err(io::Error::other(format!("WRONG: {difference}"))))
    }

    fn into_row(self, bytes: u64) -> Row {
        let result = match (self.failure, Costs::new(self.costs)) {
            (None, Some(costs)) => Ok(costs),
            (failure, _) => Err(failure.unwrap_or_else(|| "it did not run".into())),
        };
        let is_ours = self.contestant == Contestant::Tranship;
        Row { name: self.contestant.name(), is_ours, gigabytes: bytes as f64 / 1e9, result }
    }
}
