//! Somebody who sees every pod: an application must never run on both sides, nor share what is its own.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::place::Place;
use super::space::Space;
use super::watch::Watch;

/// Watches until it is asked.
pub struct Witness {
    seen: Arc<Mutex<Seen>>,
    watching: Vec<Watch>,
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
        let watch = |(side, place): (usize, &Place)| {
            let seen = Arc::clone(&seen);
            Watch::start(place, labels, move |event| {
                seen.lock().unwrap_or_else(PoisonError::into_inner).take(side, event);
            })
        };
        let watching = space.places().into_iter().enumerate().map(watch).collect();
        Self { seen, watching }
    }

    /// Ends, and says what it saw.
    ///
    /// # Panics
    /// When the application ever ran on both sides at once, or did not run on one of them at all.
    pub fn swears(mut self) {
        self.watching.iter_mut().for_each(Watch::is_listening);
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

/// Somebody who sees which pods name a claim that no two of them may have.
pub struct Guest {
    users: Arc<Mutex<Users>>,
    watching: Watch,
}

#[derive(Default)]
struct Users {
    /// Pods that name it and are not over.
    now: BTreeSet<String>,
    /// All that ever did.
    ever: BTreeSet<String>,
    /// Moments at which there were two.
    crowds: Vec<String>,
}

impl Guest {
    /// Watches a claim.
    pub fn start(place: &Place, claim: &str) -> Self {
        let users = Arc::new(Mutex::new(Users::default()));
        let (noted, claim) = (Arc::clone(&users), claim.to_owned());
        let watching = Watch::start(place, "", move |event| {
            noted.lock().unwrap_or_else(PoisonError::into_inner).take(event, &claim);
        });
        Self { users, watching }
    }

    /// Pods that named it until now.
    ///
    /// # Panics
    /// When two of them ever did so at once.
    pub fn users(&mut self) -> Vec<String> {
        self.watching.is_listening();
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(users.crowds.is_empty(), "two pods had the claim: {:#?}", users.crowds);
        users.ever.iter().cloned().collect()
    }
}

impl Users {
    fn take(&mut self, event: &Value, claim: &str) {
        let pod = &event["object"];
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let mut volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        if !volumes.any(|volume| volume["persistentVolumeClaim"]["claimName"] == claim) {
            return;
        }
        let is_over = pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed";
        if is_over || event["type"] == "DELETED" {
            self.now.remove(&name);
        } else {
            self.ever.insert(name.clone());
            self.now.insert(name);
        }
        if self.now.len() > 1 {
            self.crowds.push(format!("{:?}", self.now));
        }
    }
}
