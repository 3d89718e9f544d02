//! The real binary: started, watched, stopped.
//!
//! Everything that waits has a deadline, and what runs longer is killed and shown.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;

/// How long anything may take that should be over at once.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The binary that was built with these tests, or the one that `TRANSHIP_BINARY` names.
///
/// # Panics
/// When there is none.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TRANSHIP_BINARY") {
        return path.into();
    }
    // A test lies in `deps`, the binary beside that folder.
    let test = std::env::current_exe().expect("a process knows its program");
    let path = test.ancestors().skip(1).map(|folder| folder.join("tranship")).find(|path| path.is_file());
    path.unwrap_or_else(|| panic!("no binary near {}: cargo build --package tranship", test.display()))
}

/// What a finished process left.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; nothing if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The lines of its standard output that were not taken before.
    pub stdout: Vec<String>,
    /// All of its standard error.
    pub stderr: String,
}

impl Outcome {
    /// The object on the last line of the standard output, as `--output json` prints it.
    ///
    /// # Panics
    /// When there is none.
    pub fn json(&self) -> Value {
        let last = self.stdout.last().unwrap_or_else(|| panic!("nothing was printed: {self:?}"));
        match serde_json::from_str(last) {
            Ok(object @ Value::Object(_)) => object,
            other => panic!("the last line is no object: {other:?} in {self:?}"),
        }
    }

    /// A number in that object.
    ///
    /// # Panics
    /// When there is none.
    pub fn number(&self, key: &str) -> u64 {
        let json = self.json();
        json.get(key).and_then(Value::as_u64).unwrap_or_else(|| panic!("no number {key:?} in {json}"))
    }

    /// Itself, if this is how it ended.
    ///
    /// # Panics
    /// With all that it printed, if not.
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }
}

/// A process that runs; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
}

/// Runs our binary to its end, within [`DEADLINE`].
pub fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Outcome {
    Running::start(Command::new(binary()).args(arguments)).finish(DEADLINE)
}

impl Running {
    /// Starts a process and takes its output.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut pipe = child.stderr.take().expect("it is piped");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.split(b'\n').map_while(io::Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        let stderr = thread::spawn(move || {
            let mut bytes = Vec::new();
            // What came before an error is all there is.
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Self { child, lines, stderr: Some(stderr) }
    }

    /// Its process identifier.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its standard output; nothing if it has none any more.
    ///
    /// # Panics
    /// When none comes in time.
    pub fn line(&mut self, within: Duration) -> Option<String> {
        match self.lines.recv_timeout(within) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no line within {within:?}: {:#?}", self.stop()),
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(self.pid(), signal)?)
    }

    /// Ends it at once, as a power cut would, and says what it left.
    pub fn kill(mut self) -> Outcome {
        self.stop()
    }

    /// Whether it ends in time.
    pub fn ends(&self, within: Duration) -> bool {
        let handle = pidfd_open(self.pid(), PidfdFlags::empty()).expect("it was not waited for");
        let timeout = Timespec::try_from(within).expect("a short time");
        poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&timeout)).expect("polled") > 0
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time; then it is killed.
    pub fn finish(mut self, within: Duration) -> Outcome {
        assert!(self.ends(within), "not finished within {within:?}: {:#?}", self.stop());
        self.collect()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn stop(&mut self) -> Outcome {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.collect()
    }

    fn collect(&mut self) -> Outcome {
        let status = self.child.wait().expect("it is our child");
        let stderr = self.stderr.take().map(|thread| thread.join().expect("it only reads")).unwrap_or_default();
        Outcome { code: status.code(), signal: status.signal(), stdout: self.lines.iter().collect(), stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A destination that listens.
#[derive(Debug)]
pub struct Receiving {
    /// The process.
    pub running: Running,
    /// What a source needs to find it and to be let in.
    pub ticket: String,
}

/// Starts `tranship receive` and reads its ticket.
///
/// # Panics
/// When no ticket comes in time.
pub fn receive<A: Into<OsString>>(arguments: impl IntoIterator<Item = A>) -> Receiving {
    let arguments = arguments.into_iter().map(Into::into);
    let mut running = Running::start(Command::new(binary()).arg("receive").args(arguments));
    match running.line(DEADLINE) {
        Some(ticket) if !ticket.trim().is_empty() => Receiving { running, ticket: ticket.trim().to_owned() },
        line => panic!("{line:?} is no ticket: {:#?}", running.kill()),
    }
}

/// Looks until there is something, which must be soon.
///
/// # Panics
/// When there is nothing in time.
pub fn wait_for<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} did not come within {within:?}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn shell(script: &str) -> Running {
        Running::start(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn an_outcome_tells_code_lines_and_object() {
        let outcome =
            shell("echo one; echo two >&2; echo '{\"bytes_sent\":7}'; exit 3").finish(DEADLINE).expect_code(3);
        assert_eq!(outcome.stdout, ["one", "{\"bytes_sent\":7}"]);
        assert_eq!((outcome.number("bytes_sent"), outcome.stderr.as_str()), (7, "two\n"));
    }

    #[test]
    fn what_is_no_object_is_said() {
        let outcome = shell("echo '{}'; echo done").finish(DEADLINE);
        assert!(catch_unwind(|| outcome.json()).is_err());
    }

    #[test]
    fn lines_come_while_it_runs_and_a_kill_is_seen() {
        let mut running = shell("echo ticket; exec cat /dev/zero > /dev/null");
        assert_eq!(running.line(DEADLINE).as_deref(), Some("ticket"));
        assert_eq!(running.kill().signal, Some(9));
    }

    #[test]
    fn what_runs_too_long_is_killed_and_shown() {
        let running = shell("echo here >&2; exec cat /dev/zero > /dev/null");
        let id = running.id();
        let panic =
            catch_unwind(AssertUnwindSafe(|| running.finish(Duration::from_millis(200)))).expect_err("too long");
        assert!(panic.downcast_ref::<String>().is_some_and(|text| text.contains("not finished")));
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn a_signal_reaches_it() {
        let mut running = shell("trap 'exit 5' TERM; echo ready; while :; do read -t 1 x < /dev/zero; done");
        assert_eq!(running.line(DEADLINE).as_deref(), Some("ready"));
        running.signal(Signal::TERM).expect("sent");
        assert_eq!(running.finish(DEADLINE).code, Some(5));
    }

    #[test]
    fn waiting_ends_with_the_condition_or_the_deadline() {
        let mut looks = 0;
        let found = wait_for("three", DEADLINE, || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found, 3);
        assert!(catch_unwind(|| wait_for("nothing", Duration::from_millis(20), || None::<()>)).is_err());
    }
}
