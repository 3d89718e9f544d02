//! Ending pods in ways that they do not choose.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::lab::say;
use super::place::Place;
use super::space::Space;

/// Agents of a migration that are there, on one side.
pub fn agents(space: &Space, place: &Place) -> Vec<Value> {
    place.list("pods", &format!("tranship.io/agent,tranship.io/migration={}", space.name))
}

/// Kills all processes of a pod's containers at once, as a kernel does that is out of memory.
///
/// # Panics
/// When it has none.
pub fn kill(pod: &Value) {
    let (name, uid) = (&pod["metadata"]["name"], pod["metadata"]["uid"].as_str().expect("a pod of a cluster"));
    // Every container has a file of its pod's own at this place, and nobody else has.
    let hosts = format!("/pods/{uid}/etc-hosts /etc/hosts ");
    let is_its =
        |id: &i32| fs::read_to_string(format!("/proc/{id}/mountinfo")).is_ok_and(|mounts| mounts.contains(&hosts));
    let all = fs::read_dir("/proc").expect("a system of processes").flatten();
    let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let killed: Vec<i32> = ids.filter(is_its).collect();
    assert!(!killed.is_empty(), "no process of pod {name} is on this machine");
    for &id in &killed {
        // The first one takes the others along.
        let _ = kill_process(Pid::from_raw(id).expect("a process"), Signal::KILL);
    }
    say(&format!("  killed {} processes of pod {name}", killed.len()));
}

/// Evicts a pod, as a drain of its node does.
pub fn evict(place: &Place, pod: &Value) {
    let name = pod["metadata"]["name"].as_str().expect("a pod of a cluster");
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": name, "namespace": place.namespace}});
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), eviction.to_string()).expect("written");
    let raw = format!("/api/v1/namespaces/{}/pods/{name}/eviction", place.namespace);
    place.kubectl(&["create", "--raw", &raw, "--filename", &file.path().to_string_lossy()]);
    say(&format!("  evicted pod {name}"));
}
