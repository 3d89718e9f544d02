//! Two volumes and what is remembered of them, and the binary that moves one to the other.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tranship_tests::filesystems::{FileSystem, Kind};
use tranship_tests::processes::{DEADLINE, Outcome, Running, binary, wait_for};
use tranship_tests::walker::{Contract, compare};

/// The longest that a pass over a large tree may take here.
pub(crate) const LONG: Duration = Duration::from_secs(180);

/// Whether loop devices, mounts and owners can be had here; says so if not.
#[expect(clippy::print_stderr, reason = "a test that is left out has to say why")]
pub(crate) fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("left out: only root can mount file systems");
    }
    is_root
}

/// A source and a destination that are folders, each on a file system of its own, or on the same.
pub(crate) struct Pair {
    source: FileSystem,
    destination: FileSystem,
    /// What both sides remember.
    pub(crate) state: TempDir,
}

impl Pair {
    /// Two folders.
    pub(crate) fn of_folders() -> Self {
        Self::of(FileSystem::folder().expect("made"), FileSystem::folder().expect("made"))
    }

    /// Two new file systems.
    pub(crate) fn mounted(source: Kind, destination: Kind, bytes: u64) -> Self {
        let mounted = |kind| FileSystem::mounted(kind, bytes).expect("mounted");
        Self::of(mounted(source), mounted(destination))
    }

    /// These two.
    pub(crate) fn of(source: FileSystem, destination: FileSystem) -> Self {
        Self { source, destination, state: TempDir::new().expect("made") }
    }

    /// The truth.
    pub(crate) fn source(&self) -> &Path {
        self.source.path()
    }

    /// Its copy.
    pub(crate) fn destination(&self) -> &Path {
        self.destination.path()
    }

    /// Starts `sync` with further arguments.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(arguments))
    }

    /// The same, not started yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        sync_command(self.source(), self.destination(), self.state.path(), arguments)
    }

    /// One pass.
    pub(crate) fn sync(&self, arguments: &[&str]) -> Outcome {
        self.start(arguments).finish(LONG)
    }

    /// One pass that is done.
    pub(crate) fn stage(&self, arguments: &[&str]) -> Outcome {
        self.sync(arguments).expect_code(0)
    }

    /// A final pass that is proven, and looked at.
    pub(crate) fn finish(&self, arguments: &[&str]) -> Outcome {
        let outcome = self.stage(&[&["--final"], arguments].concat());
        expect_proof(&outcome);
        outcome
    }

    /// What differs is nothing.
    pub(crate) fn expect_equal(&self, contract: &Contract) {
        let lines = compare(self.source(), self.destination(), contract).expect("both can be walked");
        assert!(lines.is_empty(), "source | destination\n{}", lines.join("\n"));
    }
}

/// Runs a tool to its end.
pub(crate) fn succeed(command: &mut Command) {
    let output = command.output().expect("started");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// `sync` with the report as JSON.
pub(crate) fn sync_command(source: &Path, destination: &Path, state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(["--output", "json", "--quiet", "sync"]).arg("--state").arg(state);
    command.args(arguments).arg(source).arg(destination);
    command
}

/// One pass between these two.
pub(crate) fn sync(source: &Path, destination: &Path, state: &Path, arguments: &[&str]) -> Outcome {
    Running::start(&mut sync_command(source, destination, state, arguments)).finish(LONG)
}

/// The report tells of two equal digests and no open gap.
pub(crate) fn expect_proof(outcome: &Outcome) {
    let report = outcome.json();
    let digest = report["digest_source"].as_str().expect("a digest of the source").to_owned();
    assert_eq!(report["digest_destination"].as_str(), Some(&*digest), "{report}");
    assert_eq!(report["proof"]["canonical"].as_str(), Some(&*digest), "{report}");
    assert_eq!(report["final"].as_bool(), Some(true), "{report}");
}

/// Nothing was read, sent or written but the greeting.
pub(crate) fn expect_idle(outcome: &Outcome) {
    for key in
        ["entries_changed", "bytes_read_source", "bytes_read_destination", "bytes_written_destination", "bytes_literal"]
    {
        assert_eq!(outcome.number(key), 0, "{key} in {}", outcome.json());
    }
}

/// The code of the error that ended it.
pub(crate) fn error_code(outcome: &Outcome) -> String {
    let json = outcome.json();
    json["error"]["code"].as_str().unwrap_or_else(|| panic!("no error in {outcome:#?}")).to_owned()
}

/// All that was said about the error, in one line.
pub(crate) fn error_text(outcome: &Outcome) -> String {
    outcome.json()["error"].to_string()
}

/// The notes of a report, in one text.
pub(crate) fn notes(outcome: &Outcome) -> String {
    let json = outcome.json();
    json["notes"].as_array().into_iter().flatten().filter_map(|note| note.as_str()).collect::<Vec<_>>().join("\n")
}

/// Returns once whatever is changed from now on gets a time that tells it from what was changed before.
pub(crate) fn let_clocks_tick(beside: &Path) {
    // Our own measure of what can be told apart, with room: two ticks of the slowest clock are 20 ms.
    const APART_NANOS: i128 = 40_000_000;
    let probe = beside.with_extension("probe");
    let now = || {
        File::create(&probe).and_then(|mut file| file.write_all(b"x")).expect("written");
        let about = fs::metadata(&probe).expect("it is there");
        i128::from(about.ctime()) * 1_000_000_000 + i128::from(about.ctime_nsec())
    };
    let start = now();
    wait_for("the next tick", DEADLINE, || (now() > start + APART_NANOS).then_some(()));
    fs::remove_file(&probe).expect("removed");
}

/// A receiver's arguments.
pub(crate) fn receive_arguments(destination: &Path, state: &Path, arguments: &[&str]) -> Vec<OsString> {
    let mut all: Vec<OsString> =
        ["--output", "json", "--quiet", "--listen", "127.0.0.1:0", "--state"].map(Into::into).to_vec();
    all.push(state.into());
    all.extend(arguments.iter().map(Into::into));
    all.push(destination.into());
    all
}

/// Files in a state folder and beneath it.
pub(crate) fn files_beneath(folder: &Path) -> Vec<PathBuf> {
    let (mut files, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).expect("it can be listed") {
            let entry = entry.expect("it can be listed");
            if entry.file_type().expect("it has a type").is_dir() {
                open.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    files
}
