//! The namespace that the application moves into.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tranship_api::{ObjectRef, Record, Side};

use crate::{Cluster, Error};

/// Annotations and labels that the API server writes, or that are about one cluster only.
const STRIPPED: &[&str] = &["kubectl.kubernetes.io/last-applied-configuration", "kubernetes.io/metadata.name"];

/// Makes the destination's namespace if it is not there; whether it did. It takes over the source's labels and annotations:
/// what pods it admits, and on some platforms the range of users that its files belong to, stand there. It stays when the
/// migration ends, since the application, or what others have put there, is in it.
pub async fn ensure_namespace(clusters: &[Cluster; 2], record: &Record) -> Result<bool, Error> {
    let [source, destination] = clusters;
    let (from, to) = (record.namespace(Side::Source), record.namespace(Side::Destination));
    let spaces = |cluster: &Cluster| Api::<Namespace>::all(cluster.client.clone());
    let there = destination.call(format!("get Namespace {to}"), spaces(destination).get_opt(to)).await?;
    if there.is_some() {
        return Ok(false);
    }
    let model = source.call(format!("get Namespace {from}"), spaces(source).get_opt(from)).await?;
    let missing = || Error::Missing { side: source.side, object: ObjectRef::named("v1", "Namespace", None, from) };
    let wanted = like(&model.ok_or_else(missing)?, to);
    let api = spaces(destination);
    match destination.call(format!("create Namespace {to}"), api.create(&PostParams::default(), &wanted)).await {
        // Somebody else was faster, and it is theirs.
        Err(error) if error.is_conflict() => Ok(false),
        made => made.map(|_| true),
    }
}

fn like(model: &Namespace, name: &str) -> Namespace {
    let kept = |map: &Option<BTreeMap<String, String>>| {
        let mut map = map.clone().unwrap_or_default();
        map.retain(|key, _| !STRIPPED.contains(&key.as_str()) && !key.starts_with("tranship.io/"));
        Some(map)
    };
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        labels: kept(&model.metadata.labels),
        annotations: kept(&model.metadata.annotations),
        ..ObjectMeta::default()
    };
    Namespace { metadata, ..Namespace::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_namespace_takes_over_what_it_admits_and_its_ranges() {
        let model: Namespace = serde_json::from_value(json!({"metadata": {"name": "shop", "uid": "u",
            "labels": {"kubernetes.io/metadata.name": "shop", "pod-security.kubernetes.io/enforce": "baseline"},
            "annotations": {"openshift.io/sa.scc.uid-range": "1000/10"}}, "spec": {"finalizers": ["kubernetes"]}}))
        .expect("a namespace");
        assert_eq!(
            serde_json::to_value(like(&model, "new")).expect("JSON"),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "new",
                "labels": {"pod-security.kubernetes.io/enforce": "baseline"},
                "annotations": {"openshift.io/sa.scc.uid-range": "1000/10"}}})
        );
    }
}
