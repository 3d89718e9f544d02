//! Whether what was started is ready, and if not, why.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::api::ListParams;
use serde_json::{Map, Value};
use tranship_api::ObjectRef;
use tranship_api::record::Brought;

use super::kind::{self, Kind};
use crate::{Cluster, Error};

/// How a workload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Which.
    pub object: ObjectRef,
    /// Whether it is as it should be.
    pub is_ready: bool,
    /// What it lacks, for people: first the workload, then its pods. Empty if it is ready.
    pub reasons: Vec<String>,
}

/// How the workloads among `brought` are that should run; others are left out.
pub async fn ready(destination: &Cluster, brought: &[Brought]) -> Result<Vec<Readiness>, Error> {
    let mut all = Vec::new();
    for one in brought {
        let kind = kind::of(&one.object)?;
        if let Some(replicas) = one.replicas.filter(|_| kind.is_workload()) {
            all.push(of(destination, kind, &one.object, replicas).await?);
        }
    }
    Ok(all)
}

async fn of(destination: &Cluster, kind: &Kind, object: &ObjectRef, replicas: i32) -> Result<Readiness, Error> {
    let namespace = object.namespace.as_deref().unwrap_or_default();
    let Some(value) = kind.find(destination, namespace, &object.name).await? else {
        let reasons = vec!["it is not there any more".to_owned()];
        return Ok(Readiness { object: object.clone(), is_ready: false, reasons });
    };
    let lack = lack(kind.kind, &value, replicas);
    let mut reasons: Vec<String> = lack.into_iter().collect();
    let is_ready = reasons.is_empty();
    if !is_ready && let Some(selector) = selector(kind.kind, &value) {
        let pods = destination.list::<Pod>(namespace, &selector).await?;
        reasons.extend(pods.iter().flat_map(complaints));
    } else if !is_ready && kind.kind == "Pod" {
        let pod = serde_json::from_value::<Pod>(value).unwrap_or_default();
        reasons.extend(complaints(&pod));
    }
    Ok(Readiness { object: object.clone(), is_ready, reasons })
}

/// Why pods of the workload are not even made, if they are not: the last word of whoever makes them. Where that cannot be
/// read, there is none.
pub async fn refusal(destination: &Cluster, object: &ObjectRef) -> Option<String> {
    let namespace = object.namespace.as_deref().unwrap_or_default();
    // A Deployment has its pods made by one of its ReplicaSets.
    let sets = match object.kind.as_str() {
        "Deployment" => destination.list::<ReplicaSet>(namespace, "").await.unwrap_or_default(),
        _ => Vec::new(),
    };
    let api = destination.api::<Event>(namespace);
    let params = ListParams::default().fields("reason=FailedCreate");
    let events = destination.call(format!("list Event in {namespace}"), api.list(&params)).await;
    match events {
        Ok(events) => last_refusal(&events.items, object, &sets),
        Err(error) => {
            tracing::debug!(%object, %error, "events cannot be read");
            None
        }
    }
}

fn last_refusal(events: &[Event], object: &ObjectRef, sets: &[ReplicaSet]) -> Option<String> {
    let is_owned = |set: &&ReplicaSet| {
        set.metadata
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.kind == object.kind && owner.name == object.name)
    };
    let sets: Vec<&str> = sets.iter().filter(is_owned).filter_map(|set| set.metadata.name.as_deref()).collect();
    let is_about = |event: &&Event| {
        let (kind, name) = (event.involved_object.kind.as_deref(), event.involved_object.name.as_deref());
        let is_itself = kind == Some(&object.kind) && name == Some(&object.name);
        is_itself || (kind == Some("ReplicaSet") && name.is_some_and(|name| sets.contains(&name)))
    };
    let at = |event: &&Event| {
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        last.or(event.event_time.as_ref().map(|time| time.0)).or(event
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0))
    };
    events.iter().filter(is_about).max_by_key(at)?.message.clone()
}

/// What the workload says that it lacks. Numbers of an older generation say nothing about this one.
fn lack(kind: &str, value: &Value, replicas: i32) -> Option<String> {
    let status = &value["status"];
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    let wanted = i64::from(replicas);
    let is_current = match kind {
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" => {
            number("observedGeneration") >= value["metadata"]["generation"].as_i64().unwrap_or(0)
        }
        _ => true,
    };
    if !is_current {
        return Some("its controller has not seen it yet".to_owned());
    }
    let of = |ready: i64, wanted: i64| (ready < wanted).then(|| format!("{ready} of {wanted} replicas are ready"));
    match kind {
        "Deployment" => of(number("readyReplicas").min(number("updatedReplicas")), wanted),
        "StatefulSet" | "ReplicaSet" | "ReplicationController" => of(number("readyReplicas"), wanted),
        // Before its controller has counted nodes there are none to be ready on.
        "DaemonSet" => of(number("numberReady"), number("desiredNumberScheduled").max(1)),
        "Job" => of(number("ready") + number("succeeded"), 1),
        "CronJob" => (value["spec"]["suspend"] == true).then(|| "it is suspended".to_owned()),
        "Pod" => {
            let conditions = status["conditions"].as_array().into_iter().flatten();
            let is_ready = conditions.filter(|one| one["type"] == "Ready").any(|one| one["status"] == "True");
            (!is_ready && status["phase"] != "Succeeded").then(|| "it is not ready".to_owned())
        }
        _ => None,
    }
}

/// Labels of its pods.
fn selector(kind: &str, value: &Value) -> Option<String> {
    let join = |labels: &Map<String, Value>| {
        let pairs = labels.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
        pairs.collect::<Vec<_>>().join(",")
    };
    let labels = match kind {
        "ReplicationController" => &value["spec"]["selector"],
        "Pod" | "CronJob" => return None,
        _ => &value["spec"]["selector"]["matchLabels"],
    };
    labels.as_object().filter(|labels| !labels.is_empty()).map(join)
}

/// Why a pod is not ready.
fn complaints(pod: &Pod) -> Vec<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let Some(status) = &pod.status else { return Vec::new() };
    let said = |reason: Option<&str>, message: Option<&str>| {
        let text = [reason, message].into_iter().flatten().filter(|text| !text.is_empty());
        format!("pod {name}: {}", text.collect::<Vec<_>>().join(": "))
    };
    let mut all = Vec::new();
    let unplaced =
        |one: &&k8s_openapi::api::core::v1::PodCondition| one.type_ == "PodScheduled" && one.status == "False";
    let conditions = status.conditions.iter().flatten().filter(unplaced);
    all.extend(conditions.map(|one| said(one.reason.as_deref(), one.message.as_deref())));
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    all.extend(containers.filter_map(container).map(|(reason, message)| said(reason, message)));
    all
}

/// What holds a container back: why it waits, or how it ended last.
fn container(status: &ContainerStatus) -> Option<(Option<&str>, Option<&str>)> {
    let state = status.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        return Some((waiting.reason.as_deref(), waiting.message.as_deref()));
    }
    if let Some(ended) = state.terminated.as_ref().filter(|ended| ended.exit_code != 0) {
        return Some((ended.reason.as_deref(), ended.message.as_deref()));
    }
    let is_unready = state.running.is_some() && !status.ready && status.started == Some(true);
    is_unready.then_some((Some("runs and is not ready"), None))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_of_an_older_generation_do_not_count() {
        let set = |observed: i32, ready: i32| json!({"metadata": {"generation": 2}, "status": {"observedGeneration": observed, "readyReplicas": ready}});
        assert!(lack("StatefulSet", &set(1, 3), 3).is_some());
        assert!(lack("StatefulSet", &set(2, 2), 3).is_some_and(|text| text.contains("2 of 3")));
        assert_eq!(lack("StatefulSet", &set(2, 3), 3), None);
        assert_eq!(lack("StatefulSet", &set(2, 0), 0), None);
    }

    #[test]
    fn pods_of_an_older_template_do_not_make_a_deployment_ready() {
        let status = json!({"status": {"readyReplicas": 2, "updatedReplicas": 1}});
        assert!(lack("Deployment", &status, 2).is_some());
    }

    #[test]
    fn pods_say_why_they_do_not_start() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "db-0"}, "status": {
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}],
            "containerStatuses": [
                {"name": "a", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}},
                {"name": "b", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}}]}}))
        .expect("a pod");
        assert_eq!(complaints(&pod), ["pod db-0: Unschedulable: no node", "pod db-0: ImagePullBackOff: not found"]);
    }

    #[test]
    fn the_last_refusal_of_a_workload_or_of_its_replica_set_is_told() {
        let event = |kind: &str, name: &str, at: &str, message: &str| -> Event {
            serde_json::from_value(json!({"metadata": {}, "involvedObject": {"kind": kind, "name": name},
                "lastTimestamp": at, "reason": "FailedCreate", "message": message}))
            .expect("an event")
        };
        let events = [
            event("StatefulSet", "db", "2026-01-01T00:00:02Z", "is fenced"),
            event("StatefulSet", "db", "2026-01-01T00:00:01Z", "an older one"),
            event("StatefulSet", "other", "2026-01-01T00:00:03Z", "another's"),
            event("ReplicaSet", "web-1", "2026-01-01T00:00:03Z", "over quota"),
            event("ReplicaSet", "cache-1", "2026-01-01T00:00:04Z", "another's"),
        ];
        let set = json!({"metadata": {"name": "web-1", "ownerReferences":
            [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "u"}]}});
        let sets = [serde_json::from_value(set).expect("a ReplicaSet")];
        for (kind, name, expected) in [
            ("StatefulSet", "db", Some("is fenced")),
            ("Deployment", "web", Some("over quota")),
            ("Deployment", "db", None),
        ] {
            let object = ObjectRef::named("apps/v1", kind, Some("n"), name);
            assert_eq!(last_refusal(&events, &object, &sets).as_deref(), expected, "{kind} {name}");
        }
    }
}
