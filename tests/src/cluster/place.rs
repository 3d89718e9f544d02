//! One namespace of one cluster.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::lab::{Side, lab};
use super::wait::until;

/// One namespace of one cluster.
#[derive(Debug, Clone)]
pub struct Place {
    /// In which cluster.
    pub side: Side,
    /// Its name.
    pub namespace: String,
}

impl Place {
    /// kubectl for this namespace, with these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let layout = &lab().layout;
        let folder = layout.home().join(lab().cluster(self.side).name);
        let mut command = Command::new(folder.join("kubectl"));
        command.arg("kubectl").arg("--kubeconfig").arg(folder.join("admin.kubeconfig"));
        command.args(["--namespace", &self.namespace]).args(arguments);
        // Who watches does not give up an API server that says nothing for a while.
        command.env("HTTP2_READ_IDLE_TIMEOUT_SECONDS", "0");
        command
    }

    /// What kubectl prints; an error is what it says.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.command(arguments).stdin(Stdio::null()).output().expect("kubectl runs");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// The same, which has to succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let told = self.try_kubectl(arguments);
        told.unwrap_or_else(|error| panic!("{:?} kubectl {arguments:?}: {error}", self.side))
    }

    /// Makes objects.
    pub fn make(&self, objects: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let mut apply = self.command(&["apply", "--filename", "-"]);
        let mut child = apply.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("kubectl runs");
        child.stdin.take().expect("it is piped").write_all(list.as_bytes()).expect("kubectl reads");
        assert!(child.wait().expect("it is our child").success(), "not made: {list}");
    }

    /// An object, if it is there.
    pub fn find(&self, kind: &str, name: &str) -> Option<Value> {
        let told = self.kubectl(&["get", kind, name, "--ignore-not-found", "--output", "json"]);
        (!told.trim().is_empty()).then(|| serde_json::from_str(&told).expect("kubectl prints JSON"))
    }

    /// An object that is there.
    pub fn get(&self, kind: &str, name: &str) -> Value {
        self.find(kind, name).unwrap_or_else(|| panic!("no {kind} {name} in {self:?}"))
    }

    /// All objects of some kinds with these labels; all of them if that is empty.
    pub fn list(&self, kinds: &str, labels: &str) -> Vec<Value> {
        let told = self.kubectl(&["get", kinds, "--selector", labels, "--output", "json"]);
        let mut list: Value = serde_json::from_str(&told).expect("kubectl prints JSON");
        serde_json::from_value(list["items"].take()).expect("a list")
    }

    /// Waits until an event of this reason about an object says something.
    pub fn await_event(&self, reason: &str, object: &str, says: &str) {
        until(&format!("{reason} of {object} that says {says:?}"), || {
            let events = self.list("events", "");
            let is_it = |event: &Value| {
                event["reason"] == reason
                    && event["involvedObject"]["name"] == object
                    && event["message"].as_str().is_some_and(|message| message.contains(says))
            };
            events.iter().any(is_it).then_some(())
        });
    }

    /// Waits until no pod of these labels is there.
    pub fn await_gone(&self, labels: &str) {
        until(&format!("no pod {labels}"), || self.list("pods", labels).is_empty().then_some(()));
    }

    /// Waits until all pods of a workload are ready.
    pub fn await_ready(&self, labels: &str, pods: usize) {
        until(&format!("{pods} ready pods {labels} in {self:?}"), || {
            let ready = |pod: &&Value| {
                let conditions = pod["status"]["conditions"].as_array();
                conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
            };
            (self.list("pods", labels).iter().filter(ready).count() == pods).then_some(())
        });
    }
}

/// The identity of an object.
pub fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().expect("an object of a cluster").to_owned()
}

/// `Kind/name` of an object.
pub(super) fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]))
}
