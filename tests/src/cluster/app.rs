//! Applications, put together from what pods are made of.

use serde_json::{Value, json};

/// A claim of 512 MiB.
pub fn claim(name: &str, class: &str, access_mode: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {
        "accessModes": [access_mode], "storageClassName": class, "resources": {"requests": {"storage": "512Mi"}}}})
}

/// A container that writes files into the volume of its name.
pub fn writer(volume: &str) -> Value {
    json!({"name": volume, "image": tranship_lab::WRITER, "imagePullPolicy": "IfNotPresent",
        "args": ["files", "write", "/data", "--rate", "50"],
        "volumeMounts": [{"name": volume, "mountPath": "/data"}]})
}

/// A container with a shell, which runs `script` and has the volume in `/data`.
pub fn shell(volume: &str, script: &str) -> Value {
    json!({"name": "shell", "image": tranship_lab::BUSYBOX, "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script], "volumeMounts": [{"name": volume, "mountPath": "/data"}]})
}

/// What a pod is made of that runs as user 1000 and has these claims, each as the volume of its name.
pub fn pod(containers: &[Value], claims: &[&str]) -> Value {
    let volume = |claim: &&str| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}});
    json!({
        "terminationGracePeriodSeconds": 20,
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000},
        "containers": containers,
        "volumes": claims.iter().map(volume).collect::<Vec<_>>(),
    })
}

/// One pod of the label `app=NAME`, which is made again with its old one gone.
pub fn deployment(name: &str, pod: &Value) -> Value {
    let labels = json!({"app": name});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "replicas": 1, "strategy": {"type": "Recreate"}, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod}}})
}

/// A pod that nobody makes again.
pub fn bare_pod(name: &str, pod: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod})
}
