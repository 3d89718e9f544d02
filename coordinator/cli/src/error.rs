//! What goes wrong, as it is printed: once, at the edge, with what to do.

use std::borrow::Cow;
use std::error::Error;
use std::iter;

use serde_json::{Value, json};
use thiserror::Error;
use tranship_agent::report::printable;
use tranship_api::Side;

use crate::exit::Exit;

/// How the standard library ends the texts of `ENFILE` and `EMFILE`, of the machine and of the process.
const TOO_MANY_OPEN_FILES: [&str; 2] = ["(os error 23)", "(os error 24)"];

/// Why a command did not end with [`Exit::Done`].
///
/// The message is a sentence that names the object and the limit; what is beneath it is the source.
#[derive(Debug, Error)]
#[error("{message}")]
pub(crate) struct RunError {
    exit: Exit,
    code: Cow<'static, str>,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
    /// Texts of what is beneath, where the errors themselves are elsewhere.
    causes: Vec<String>,
}

impl RunError {
    /// What was typed cannot be done.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "TS-U001", message).hint(hint)
    }

    /// Said no before anything was changed.
    pub(crate) fn refused(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Exit::Refused, code, message)
    }

    /// Broke during work; the source is authoritative.
    pub(crate) fn failed(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, code, message)
    }

    /// The user stopped it.
    pub(crate) fn stopped(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, "TS-P109", message)
    }

    fn new(exit: Exit, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { exit, code: code.into(), message: message.into(), hint: None, source: None, causes: Vec::new() }
    }

    /// What the user can do; else the code's own hint is printed.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What is beneath it.
    pub(crate) fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whether it may be over by itself: a cluster does not answer, or not in time.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(&*self.code, "TS-K901" | "TS-K902" | "TS-K904")
    }

    /// The same, where it comes after something was done.
    pub(crate) fn after_the_start(self) -> Self {
        let exit = if self.exit == Exit::Refused { Exit::Failed } else { self.exit };
        Self { exit, ..self }
    }

    /// The same, where this side is authoritative after it.
    pub(crate) fn with(self, authoritative: Side) -> Self {
        let exit = if self.exit == Exit::Failed { Exit::failed_with(authoritative) } else { self.exit };
        Self { exit, ..self }
    }

    /// Whether somebody else has taken over.
    pub(crate) fn is_superseded(&self) -> bool {
        self.code == "TS-P107"
    }

    /// Whether no record was found because there is none, or none that could be asked for.
    pub(crate) fn leaves_the_record_open(&self) -> bool {
        matches!(&*self.code, "TS-K901" | "TS-K903" | "TS-K914")
    }

    /// How the process ends.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    fn causes(&self) -> Vec<String> {
        let first = self.source.as_deref().map(|source| source as &dyn Error);
        let beneath = iter::successors(first, |&error| error.source()).map(ToString::to_string);
        beneath.chain(self.causes.iter().cloned()).map(|cause| printable(&cause)).collect()
    }

    fn hint_text(&self) -> &str {
        // Whatever was opened, on this side or on the other, whose errors come as text.
        let is_out_of_files = |text: &str| TOO_MANY_OPEN_FILES.iter().any(|end| text.contains(end));
        if is_out_of_files(&self.message) || self.causes().iter().any(|cause| is_out_of_files(cause)) {
            return "raise the limit on open files on both sides (`ulimit -n 1024`), then run the same command again";
        }
        self.hint.as_deref().unwrap_or_else(|| default_hint(&self.code))
    }

    /// For people, on several lines.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("error {}: {}", self.code, self.message);
        for cause in self.causes() {
            text.push_str(&format!("\n  because: {cause}"));
        }
        text.push_str(&format!("\n  what to do: {}", self.hint_text()));
        text
    }

    /// For scripts.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "error": {
            "code": self.code,
            "message": self.message,
            "causes": self.causes(),
            "hint": self.hint_text(),
        } })
    }
}

impl From<tranship_coordinator::Error> for RunError {
    fn from(error: tranship_coordinator::Error) -> Self {
        use tranship_coordinator::Error as Failure;
        let exit = match &error {
            failure if failure.code() == "TS-K948" => Exit::Gaps,
            Failure::Refused { .. } | Failure::Kubeconfig { .. } | Failure::Missing { .. } => Exit::Refused,
            _ => Exit::Failed,
        };
        let (code, hint) = (error.code().to_owned(), error.todo().map(str::to_owned));
        let message = error.to_string();
        let mut failed = Self::new(exit, code, message);
        failed.hint = hint;
        // Its own text is the message; what is beneath it stays beneath.
        failed.causes = iter::successors(error.source(), |&cause| cause.source()).map(ToString::to_string).collect();
        failed
    }
}

/// What to do about a code, where the place that met it knows nothing better.
fn default_hint(code: &str) -> &'static str {
    match code {
        "TS-P100" | "TS-P105" => "run the same version of tranship on both sides",
        "TS-P106" => "one side runs `sync`, the other `receive`",
        "TS-P107" => "a newer session has taken over; nothing needs to be done here",
        "TS-P108" => "wait for the other pass to end, or add --wait; a device has to be unmounted",
        "TS-P109" => "run the same command again: it goes on where it stopped",
        "TS-E220" => "choose a mode that carries it (--mode owner or exact), or name it in --accept-gap",
        "TS-E230" | "TS-E231" => "make room at the destination, then run the same command again",
        "TS-E233" => {
            "give a folder on both sides, or a device or image; `receive --image` makes an image, not a folder"
        }
        "TS-E250" => "look at the kernel's log for this disk; run the same command again once it is healthy",
        "TS-E251" => "see that the state folder exists, is writable and has room, or choose another with --state",
        "TS-E252" | "TS-E253" => "run the same command again: what changed meanwhile is taken then",
        "TS-E260" => "stop what writes to the source, then run the final pass again",
        "TS-E240" => "use Linux 5.8 or newer; where a sandbox runs this, let it allow openat2 and statx",
        "TS-S602" => {
            "see that `receive` still runs there: its ticket ends with it. Start it again and use the new ticket; if it \
             runs, let a firewall pass its port, UDP and TCP, or let this side listen (`sync SRC --listen`)"
        }
        "TS-D500" => {
            "run the same command again: what differs was put in doubt, is read there and sent. If it comes again, somebody \
             writes to the destination, or its disk or memory is failing: do not use it"
        }
        _ => "run the same command again; with -v it says more",
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn example() -> RunError {
        RunError::failed("TS-E250", "cannot read /dev/sdz at offset 4096")
            .because(io::Error::other(io::Error::other("medium\u{1b}[31m error")))
    }

    #[test]
    fn an_error_says_what_why_and_what_to_do() {
        let expected = "error TS-E250: cannot read /dev/sdz at offset 4096\n  \
                        because: medium\\u{1b}[31m error\n  \
                        what to do: look at the kernel's log for this disk; run the same command again once it is healthy";
        assert_eq!(example().to_text(), expected);
        assert_eq!(example().exit(), Exit::Failed);
    }

    #[test]
    fn a_script_gets_the_same() {
        let json = example().hint("replace the disk").to_json();
        assert_eq!(json["error"]["code"], "TS-E250");
        assert_eq!(json["error"]["causes"][0], "medium\\u{1b}[31m error");
        assert_eq!(json["error"]["hint"], "replace the disk");
    }
}
