//! The lab's writers as applications, and somebody outside the cluster who notes what they acknowledge.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde::Deserialize;
use serde_json::{Value, json};

use super::place::Place;
use super::wait::until;

/// A StatefulSet whose pods each write to a claim of their own: `data-NAME-0` and so on. A pod that begins checks all
/// that it finds, and ends if anything is not as it must be.
pub struct Writer {
    /// Its name.
    pub name: &'static str,
    /// How many pods.
    pub replicas: usize,
    /// The storage class of its claims.
    pub class: &'static str,
    /// How large they are.
    pub size: &'static str,
    /// Whether it writes to devices instead of folders.
    pub is_block: bool,
    /// Their access mode.
    pub access_mode: &'static str,
    /// Whether a claim is deleted as its pod is scaled away.
    pub deletes_claims: bool,
    /// Whether no pod of it may be on a node with one of the label `drains=yes`.
    pub flees: bool,
    /// Whether its pods take all the time that they are given to end.
    pub lingers: bool,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            name: "writer",
            replicas: 1,
            class: "xfs",
            size: "512Mi",
            is_block: false,
            access_mode: "ReadWriteOnce",
            deletes_claims: false,
            flees: false,
            lingers: false,
        }
    }
}

impl Writer {
    /// Labels of its pods.
    pub fn labels(&self) -> String {
        format!("app={}", self.name)
    }

    /// Makes it, and waits until it writes.
    pub fn start(&self, place: &Place) {
        place.make(&[self.object(self.replicas)]);
        place.await_ready(&self.labels(), self.replicas);
    }

    /// What is made of it; with no replicas it is there and does not run.
    pub fn object(&self, replicas: usize) -> Value {
        let (kind, mode) = if self.is_block { ("blocks", "Block") } else { ("files", "Filesystem") };
        let volume = if self.is_block { "/dev/data" } else { "/data" };
        let mut container = json!({
            "name": "writer", "image": tranship_lab::WRITER, "imagePullPolicy": "IfNotPresent",
            "args": [kind, "write", volume, "--rate", "50"],
        });
        if self.is_block {
            // A device is root's.
            container["securityContext"] = json!({"runAsUser": 0});
            container["volumeDevices"] = json!([{"name": "data", "devicePath": volume}]);
        } else {
            container["volumeMounts"] = json!([{"name": "data", "mountPath": volume}]);
        }
        let mut containers = vec![container];
        if self.lingers {
            // A first process that does not ask for a signal does not get it.
            containers
                .push(json!({"name": "lingers", "image": tranship_lab::BUSYBOX, "imagePullPolicy": "IfNotPresent"}));
        }
        let labels = json!({"app": self.name});
        let policy = if self.deletes_claims { "Delete" } else { "Retain" };
        let mut affinity = json!({});
        if self.flees {
            affinity["podAntiAffinity"] = json!({"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"drains": "yes"}}}]});
        }
        // Where there are several nodes, several have some.
        let spread = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": labels}}]);
        let spread = if self.replicas > 1 { spread } else { json!([]) };
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": self.name}, "spec": {
            "replicas": replicas, "serviceName": self.name, "podManagementPolicy": "Parallel",
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": policy, "whenDeleted": policy},
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "terminationGracePeriodSeconds": 20, "affinity": affinity, "topologySpreadConstraints": spread,
                "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000},
                "containers": containers}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": [self.access_mode], "storageClassName": self.class, "volumeMode": mode,
                "resources": {"requests": {"storage": self.size}}}}]}})
    }
}

/// An act that a writer has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Act {
    /// Its number.
    #[serde(rename = "acknowledged")]
    pub number: u64,
    /// When, in milliseconds since 1970, by the writer's clock.
    pub unix_ms: u64,
}

/// Notes what one pod acknowledges, until that pod ends.
pub struct Follower {
    pod: String,
    child: Child,
    acts: Arc<Mutex<Vec<Act>>>,
}

impl Follower {
    /// Follows a pod from its beginning.
    pub fn start(place: &Place, pod: &str) -> Self {
        Self::read(place, pod, &["logs", "--follow", pod])
    }

    /// The same for one container of a Deployment's pod.
    pub fn of_container(place: &Place, deployment: &str, container: &str) -> Self {
        let object = format!("deployment/{deployment}");
        Self::read(place, &object, &["logs", "--follow", &object, "--container", container])
    }

    fn read(place: &Place, pod: &str, words: &[&str]) -> Self {
        let mut command = place.command(words);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("kubectl runs");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let acts = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&acts);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                noted.lock().unwrap_or_else(PoisonError::into_inner).extend(serde_json::from_str::<Act>(&line));
            }
        });
        Self { pod: pod.to_owned(), child, acts }
    }

    /// Number of the last act that was acknowledged.
    pub fn last(&self) -> u64 {
        self.last_act().map_or(0, |act| act.number)
    }

    /// The last act that was acknowledged.
    pub fn last_act(&self) -> Option<Act> {
        self.acts.lock().unwrap_or_else(PoisonError::into_inner).last().copied()
    }

    /// Waits for the first act of the pod.
    pub fn first_act(&self) -> Act {
        let first = || self.acts.lock().unwrap_or_else(PoisonError::into_inner).first().copied();
        until(&format!("the first act of {}", self.pod), first)
    }

    /// Waits until so many more acts are acknowledged.
    pub fn await_more(&self, acts: u64) {
        let wanted = self.last() + acts;
        until(&format!("act {wanted} of {}", self.pod), || (self.last() >= wanted).then_some(()));
    }

    /// Waits for the first act, which has to go on from what was acknowledged elsewhere.
    pub fn goes_on_after(&self, acknowledged: u64) {
        let first = self.first_act().number;
        assert!(first > acknowledged, "{}: act {acknowledged} was acknowledged, and {first} came next", self.pod);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It ended with the pod, if that has.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
