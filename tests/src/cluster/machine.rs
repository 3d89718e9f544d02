//! Where somebody types: a machine that remembers what was done on it, and nothing else.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::processes::{Outcome, Running, binary};
use serde_json::Value;
use tempfile::TempDir;

use super::lab::{lab, say};
use super::rest::AtRest;
use super::space::Space;
use super::wait::until;

/// How long a command may take.
const COMMAND_MAX: Duration = Duration::from_secs(400);

/// A machine with both contexts in its kubeconfig.
pub struct Machine {
    state: TempDir,
    kubeconfig: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl Machine {
    /// One that remembers nothing.
    pub fn new() -> Self {
        Self { state: tempfile::tempdir().expect("a folder"), kubeconfig: lab().layout.kubeconfig_all() }
    }

    /// One that remembers nothing, and whose kubeconfig is another one.
    pub fn with(change: impl FnOnce(&mut Value)) -> Self {
        let machine = Self::new();
        let text = std::fs::read(&machine.kubeconfig).expect("the lab's kubeconfig");
        let mut config = serde_json::from_slice(&text).expect("it is JSON");
        change(&mut config);
        let kubeconfig = machine.state.path().join("kubeconfig");
        std::fs::write(&kubeconfig, config.to_string()).expect("written");
        Self { kubeconfig, ..machine }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(words);
        command.env("KUBECONFIG", &self.kubeconfig).env("XDG_STATE_HOME", self.state.path());
        command.env_remove("TRANSHIP_STOP_AT");
        command
    }

    /// Types a command, which may fail.
    pub fn try_run(&self, words: &[&str]) -> Outcome {
        let began = Instant::now();
        let outcome = Running::start(&mut self.command(words)).finish(COMMAND_MAX);
        let (code, seconds) = (outcome.code, began.elapsed().as_secs_f64());
        say(&format!("  tranship {}: {code:?} after {seconds:.1} s", words.join(" ")));
        outcome
    }

    /// Types a command, which has to succeed.
    pub fn run(&self, words: &[&str]) -> Outcome {
        self.try_run(words).expect_code(0)
    }

    /// Types a command, and does not wait for its end.
    pub fn begin(&self, words: &[&str]) -> Running {
        say(&format!("  tranship {}: begins", words.join(" ")));
        Running::start(&mut self.command(words))
    }

    /// Waits for the end of a command.
    pub fn end(running: Running) -> Outcome {
        let outcome = running.finish(COMMAND_MAX);
        say(&format!("  … which ended with {:?}", outcome.code));
        outcome
    }

    /// Waits until a pass of this kind of step carries bytes of the first volume.
    pub fn await_bytes(&self, space: &Space, phase: &str) {
        until(&format!("bytes of a pass in phase {phase:?}"), || {
            let status = self.status(space);
            let sent = status["volumes"][0]["running"]["bytes_sent"].as_u64().unwrap_or_default();
            (sent > 0 && status["phase"] == phase).then_some(())
        });
    }

    /// Types a command that is cut off right after it has recorded a step.
    pub fn run_until_killed_at(&self, step: &str, words: &[&str]) {
        let outcome = Running::start(self.command(words).env("TRANSHIP_STOP_AT", step)).finish(COMMAND_MAX);
        assert!(outcome.signal.is_some(), "not cut off at {step}: {outcome:#?}");
        say(&format!("  tranship {}: cut off at {step}", words.join(" ")));
    }

    /// Cuts over, in two commands between which the source is at rest, so that it can be looked at before the final pass and
    /// after it.
    pub fn cut_over(&self, space: &Space, claims: &[impl AsRef<str>]) -> AtRest {
        self.run_until_killed_at("final pass", &["cutover", &space.name]);
        let at_rest = AtRest::of(&space.source, claims);
        self.run(&["cutover", &space.name]);
        at_rest
    }

    /// `create` of the migration of a space, with more words, and without the handshake: its own tests have that.
    pub fn create(&self, space: &Space, more: &[&str]) -> Outcome {
        self.run(&[&create_words(space).iter().map(String::as_str).collect::<Vec<_>>()[..], more].concat())
    }

    /// The same, which may fail.
    pub fn try_create(&self, space: &Space, more: &[&str]) -> Outcome {
        self.try_run(&[&create_words(space).iter().map(String::as_str).collect::<Vec<_>>()[..], more].concat())
    }

    /// What `status` says.
    pub fn status(&self, space: &Space) -> Value {
        let words = ["status", &space.name, "--output", "json"];
        Running::start(&mut self.command(&words)).finish(COMMAND_MAX).expect_code(0).json()
    }
}

fn create_words(space: &Space) -> Vec<String> {
    let mut words: Vec<String> = vec!["create".to_owned()];
    words.push(space.name.clone());
    words.extend(places(space));
    // Beside a lab that others use, too, and in which another image has the usual name.
    words.extend(std::env::var("TRANSHIP_IMAGE").ok().map(|image| format!("--image={image}")));
    words.push("--no-handshake".to_owned());
    words
}

/// All that a command printed, in one text.
pub fn said(outcome: &Outcome) -> String {
    format!("{}\n{}", outcome.stdout.join("\n"), outcome.stderr)
}

/// Where a migration lies, as it is typed on a machine that does not remember it.
pub fn places(space: &Space) -> [String; 3] {
    let namespaces = format!("{}:{}", space.source.namespace, space.destination.namespace);
    [
        format!("--from={}", space.source.side.context()),
        format!("--to={}", space.destination.side.context()),
        format!("--namespace={namespaces}"),
    ]
}
