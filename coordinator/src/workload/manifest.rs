//! A pod without an owner, as it is written down so that it can be made again.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value};

/// Annotation on a pod that was made again: UID of the one that it stands for.
pub(crate) const RECREATED: &str = "tranship.io/recreated-from";

/// Fields of a pod's spec that others fill in, and that must not or need not be given.
const FILLED_IN: &[&str] =
    &["nodeName", "priority", "preemptionPolicy", "serviceAccount", "ephemeralContainers", "schedulingGates"];

/// Beginnings of annotations that tell of the pod that was.
const TOLD_ANNOTATIONS: &[&str] = &["cni.projectcalico.org/", "k8s.ovn.org/", "k8s.v1.cni.cncf.io/network-status"];

/// What the API server adds for a service account's token, as a volume.
const TOKEN_VOLUME: &str = "kube-api-access-";

/// The pod, fit to be created again: without identity, node, status and what others filled in.
pub(super) fn of(pod: &Pod) -> Value {
    let mut spec = serde_json::to_value(&pod.spec).unwrap_or_default();
    if let Some(spec) = spec.as_object_mut() {
        FILLED_IN.iter().for_each(|field| drop(spec.remove(*field)));
        // A runtime class brings its own, and refuses any other.
        if spec.contains_key("runtimeClassName") {
            spec.remove("overhead");
        }
        remove_named(spec, "volumes", TOKEN_VOLUME);
        for containers in ["containers", "initContainers"] {
            let all = spec.get_mut(containers).and_then(Value::as_array_mut);
            all.into_iter().flatten().filter_map(Value::as_object_mut).for_each(|container| {
                remove_named(container, "volumeMounts", TOKEN_VOLUME);
            });
        }
    }
    let meta = &pod.metadata;
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !TOLD_ANNOTATIONS.iter().any(|beginning| key.starts_with(beginning)));
    annotations.insert(RECREATED.to_owned(), meta.uid.clone().unwrap_or_default());
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": meta.name,
            "namespace": meta.namespace,
            "labels": meta.labels.clone().unwrap_or_default(),
            "annotations": annotations,
        },
        "spec": spec,
    })
}

/// Removes what has a name that begins like this from a list, and the list when nothing is left.
fn remove_named(object: &mut Map<String, Value>, list: &str, beginning: &str) {
    let is_it = |item: &Value| item["name"].as_str().is_some_and(|name| name.starts_with(beginning));
    if let Some(items) = object.get_mut(list).and_then(Value::as_array_mut) {
        items.retain(|item| !is_it(item));
        if items.is_empty() {
            object.remove(list);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_written_down_without_what_others_filled_in() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "p", "namespace": "n", "uid": "u", "resourceVersion": "7", "labels": { "app": "p" },
                "annotations": { "mine": "1", "cni.projectcalico.org/podIP": "10.0.0.1" },
            },
            "spec": {
                "nodeName": "node", "priority": 0, "serviceAccount": "default", "serviceAccountName": "default",
                "volumes": [
                    { "name": "data", "persistentVolumeClaim": { "claimName": "a" } },
                    { "name": "kube-api-access-x", "projected": {} },
                ],
                "containers": [{ "name": "c", "volumeMounts": [{ "name": "kube-api-access-x", "mountPath": "/t" }] }],
            },
            "status": { "phase": "Running" },
        }))
        .unwrap();
        let expected = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "p", "namespace": "n", "labels": { "app": "p" },
                "annotations": { "mine": "1", RECREATED: "u" },
            },
            "spec": {
                "serviceAccountName": "default",
                "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "a" } }],
                "containers": [{ "name": "c" }],
            },
        });
        assert_eq!(of(&pod), expected);
    }
}
