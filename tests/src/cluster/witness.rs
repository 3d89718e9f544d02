//! Somebody who sees every pod of both clusters: the application must never run on both sides.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::space::Space;
use super::watch::Watch;

/// Watches until it is asked.
pub struct Witness {
    seen: Arc<Mutex<Seen>>,
    watch: Watch,
}

#[derive(Default)]
struct Seen {
    /// Pods with a container that runs, on each side.
    running: [BTreeSet<String>; 2],
    /// Sides on which the application ran at any time.
    ran: [bool; 2],
    /// Moments at which it ran on both.
    both: Vec<String>,
}

impl Witness {
    /// Watches pods with these labels on both sides of a space.
    pub fn start(space: &Space, labels: &str) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let noted = Arc::clone(&seen);
        let watch = Watch::start(space.places(), labels, move |side, event| {
            noted.lock().unwrap_or_else(PoisonError::into_inner).take(side as usize, event);
        });
        Self { seen, watch }
    }

    /// Ends, and says what it saw.
    ///
    /// # Panics
    /// When the application ever ran on both sides at once, or did not run on one of them at all.
    pub fn swears(mut self) {
        assert!(self.watch.is_whole(), "the witness looked away");
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(seen.both.is_empty(), "the application ran on both sides: {:#?}", seen.both);
        assert_eq!(seen.ran, [true; 2], "the application did not run on both sides, one after the other");
    }
}

impl Seen {
    fn take(&mut self, side: usize, event: &Value) {
        let pod = &event["object"];
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let containers = pod["status"]["containerStatuses"].as_array();
        let runs = containers.is_some_and(|all| all.iter().any(|one| one["state"].get("running").is_some()));
        if runs && event["type"] != "DELETED" {
            self.running[side].insert(name);
            self.ran[side] = true;
        } else {
            self.running[side].remove(&name);
        }
        if self.running.iter().all(|pods| !pods.is_empty()) {
            self.both.push(format!("{:?} after {event}", self.running));
        }
    }
}
