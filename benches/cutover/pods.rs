//! When pods stop and start, as the clusters tell it to somebody who watches. Times are those of this machine, since
//! Kubernetes itself tells whole seconds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tranship_tests::cluster::{Place, Side, Space, Watch};

use crate::application::Application;
use crate::commits::now_ms;

/// What was seen of one application's pods, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moments {
    /// The pod at the source was told to stop.
    pub(crate) told_ms: Option<u64>,
    /// None of its containers ran any more.
    pub(crate) ended_ms: Option<u64>,
    /// The pod at the destination had a node.
    pub(crate) scheduled_ms: Option<u64>,
    /// All of its containers ran.
    pub(crate) running_ms: Option<u64>,
}

/// Watches the pods of applications on both sides.
pub(crate) struct Pods {
    watching: Vec<Watch>,
    seen: Arc<Mutex<BTreeMap<String, Moments>>>,
}

impl Pods {
    pub(crate) fn watch(space: &Space, applications: &[Application]) -> Self {
        let sets: Vec<&str> = applications.iter().map(|application| application.set()).collect();
        let seen = Arc::new(Mutex::new(BTreeMap::<String, Moments>::new()));
        let watch = |(side, place): (Side, &Place)| {
            let noted = Arc::clone(&seen);
            Watch::start(place, &format!("app in ({})", sets.join(",")), move |event| {
                let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                noted.entry(name).or_default().take(side, event, now_ms());
            })
        };
        let watching = [Side::Source, Side::Destination].into_iter().zip(space.places()).map(watch).collect();
        Self { watching, seen }
    }

    /// What was seen of an application.
    ///
    /// # Panics
    /// When a watch has ended by itself.
    pub(crate) fn moments(&mut self, application: Application) -> Moments {
        self.watching.iter_mut().for_each(Watch::is_listening);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&application.pod()).copied().unwrap_or_default()
    }
}

impl Moments {
    fn take(&mut self, side: Side, event: &Value, now_ms: u64) {
        let pod = &event["object"];
        let is_gone = event["type"] == "DELETED";
        match side {
            Side::Source => {
                if is_gone || pod["metadata"]["deletionTimestamp"].is_string() {
                    self.told_ms.get_or_insert(now_ms);
                    if is_gone || has_all(pod, "terminated") {
                        self.ended_ms.get_or_insert(now_ms);
                    }
                }
            }
            Side::Destination => {
                if !is_gone && pod["spec"]["nodeName"].is_string() {
                    self.scheduled_ms.get_or_insert(now_ms);
                    if has_all(pod, "running") {
                        self.running_ms.get_or_insert(now_ms);
                    }
                }
            }
        }
    }
}

/// Whether all of its containers are in this state.
fn has_all(pod: &Value, state: &str) -> bool {
    let containers = pod["status"]["containerStatuses"].as_array();
    containers.is_some_and(|all| all.iter().all(|one| one["state"].get(state).is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_that_goes_and_one_that_comes_are_seen_once() {
        let event = |kind: &str, deleted: Value, state: Value, node: Value| {
            json!({"type": kind, "object": {"metadata": {"deletionTimestamp": deleted}, "spec": {"nodeName": node},
                "status": {"containerStatuses": [{"state": state}]}}})
        };
        let (runs, ended) = (json!({"running": {}}), json!({"terminated": {}}));
        let mut moments = Moments::default();
        for (at, side, event) in [
            (1, Side::Source, event("MODIFIED", Value::Null, runs.clone(), json!("a1"))),
            (2, Side::Source, event("MODIFIED", json!("now"), runs.clone(), json!("a1"))),
            (3, Side::Source, event("MODIFIED", json!("now"), ended.clone(), json!("a1"))),
            (4, Side::Source, event("DELETED", json!("now"), ended, json!("a1"))),
            (5, Side::Destination, event("ADDED", Value::Null, json!({}), Value::Null)),
            (6, Side::Destination, event("MODIFIED", Value::Null, json!({}), json!("b1"))),
            (7, Side::Destination, event("MODIFIED", Value::Null, runs, json!("b1"))),
        ] {
            moments.take(side, &event, at);
        }
        let wanted = Moments { told_ms: Some(2), ended_ms: Some(3), scheduled_ms: Some(6), running_ms: Some(7) };
        assert_eq!(moments, wanted);
    }
}
