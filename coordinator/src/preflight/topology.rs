//! Where a storage class can make volumes, and whether there is room.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, TopologySelectorTerm};
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use tranship_api::record::VolumeRecord;
use tranship_api::{Finding, Severity, quantity};

use super::limits;

/// Label of a node that says in which zone it is.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What the class's way to bind means on these nodes; none of them if they could not be read.
pub(super) fn judge(class: &StorageClass, nodes: &[Node]) -> Vec<Finding> {
    let name = class.metadata.name.as_deref().unwrap_or_default();
    let mut findings = Vec::new();
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    if !terms.is_empty() && !nodes.is_empty() && !nodes.iter().any(|node| terms.iter().any(|term| matches(node, term)))
    {
        let why = format!("no node is where storage class {name} may make volumes (allowedTopologies)");
        findings.push(Finding::new(
            "TS-K131",
            Severity::Blocking,
            why,
            "choose another class, or correct its topologies",
        ));
    }
    let zones: BTreeSet<&String> = nodes.iter().filter_map(|node| node.metadata.labels.as_ref()?.get(ZONE)).collect();
    let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    if !waits && zones.len() > 1 && terms.is_empty() {
        let why = format!(
            "storage class {name} binds at once, in any of {} zones, whether or not the application may run there",
            zones.len()
        );
        let todo = "choose a class with volumeBindingMode: WaitForFirstConsumer if the application is bound to a zone";
        findings.push(Finding::new("TS-K123", Severity::Warning, why, todo));
    }
    if class.provisioner == "kubernetes.io/no-provisioner" {
        let why = format!("storage class {name} makes no volumes: a PersistentVolume that fits has to be there");
        findings.push(Finding::new("TS-K132", Severity::Warning, why, "see `kubectl get pv`, or choose another class"));
    }
    findings
}

/// Whether there is room as far as the driver says. One that says nothing, or says it of another class, proves nothing.
pub(super) fn room(class: &StorageClass, capacities: &[CSIStorageCapacity], volume: &VolumeRecord) -> Option<Finding> {
    let of_class = capacities.iter().filter(|one| Some(&one.storage_class_name) == class.metadata.name.as_ref());
    let most = |one: &CSIStorageCapacity| {
        let said = one.maximum_volume_size.as_ref().or(one.capacity.as_ref());
        said.and_then(|amount| quantity::bytes(&amount.0).ok())
    };
    let most = of_class.filter_map(most).max()?;
    let needed = limits::bytes(volume);
    let name = &class.metadata.name.as_deref().unwrap_or_default();
    let why = format!("storage class {name} says that it can make {most} bytes at most, and {needed} are needed");
    (most < needed).then(|| {
        Finding::new("TS-K130", Severity::Warning, why, "make room, or choose another class with --storage-class")
    })
}

fn matches(node: &Node, term: &TopologySelectorTerm) -> bool {
    let labels = node.metadata.labels.as_ref();
    let has = |key: &str, values: &[String]| labels.and_then(|all| all.get(key)).is_some_and(|is| values.contains(is));
    term.match_label_expressions.iter().flatten().all(|wanted| has(&wanted.key, &wanted.values))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn codes(class: Value, zones: &[&str]) -> Vec<String> {
        let class: StorageClass = serde_json::from_value(class).expect("a class");
        let node = |zone: &&str| serde_json::from_value(json!({"metadata": {"labels": {ZONE: zone}}})).expect("a node");
        let nodes: Vec<Node> = zones.iter().map(node).collect();
        judge(&class, &nodes).into_iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn binding_at_once_matters_only_where_there_are_several_zones() {
        let class = |mode: &str| json!({"metadata": {"name": "c"}, "provisioner": "p", "volumeBindingMode": mode});
        assert_eq!(codes(class("Immediate"), &["a", "b"]), ["TS-K123"]);
        assert_eq!(codes(class("Immediate"), &["a", "a"]), [""; 0]);
        assert_eq!(codes(class("WaitForFirstConsumer"), &["a", "b"]), [""; 0]);
    }

    #[test]
    fn a_topology_without_a_node_cannot_have_a_volume() {
        let class = json!({"metadata": {"name": "c"}, "provisioner": "p", "volumeBindingMode": "Immediate",
            "allowedTopologies": [{"matchLabelExpressions": [{"key": ZONE, "values": ["c", "d"]}]}]});
        assert_eq!(codes(class.clone(), &["a", "b"]), ["TS-K131"]);
        assert_eq!(codes(class.clone(), &["a", "d"]), [""; 0]);
        assert_eq!(codes(class, &[]), [""; 0]);
    }
}
