//! Somebody who sees every pod of both clusters: the application must never run on both sides.

use std::collections::BTreeSet;
use std::io::BufReader;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde_json::Value;

use super::space::Space;

/// Watches until it is asked.
pub struct Witness {
    seen: Arc<Mutex<Seen>>,
    watching: Vec<Child>,
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
        let watch = |(side, place): (usize, &super::Place)| {
            let words = ["get", "pods", "--selector", labels, "--watch", "--output-watch-events", "--output", "json"];
            let mut child = place.command(&words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("kubectl");
            let told = BufReader::new(child.stdout.take().expect("it is piped"));
            let seen = Arc::clone(&seen);
            thread::spawn(move || {
                let events = serde_json::Deserializer::from_reader(told).into_iter::<Value>();
                for event in events.map_while(Result::ok) {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).take(side, &event);
                }
            });
            child
        };
        let watching = space.places().into_iter().enumerate().map(watch).collect();
        Self { seen, watching }
    }

    /// Ends, and says what it saw.
    ///
    /// # Panics
    /// When the application ever ran on both sides at once, or did not run on one of them at all.
    pub fn swears(mut self) {
        for child in &mut self.watching {
            assert!(child.try_wait().expect("it is our child").is_none(), "the witness looked away");
        }
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

impl Drop for Witness {
    fn drop(&mut self) {
        for child in &mut self.watching {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
