//! What the destination has, and whether what is brought fits.

use k8s_openapi::api::core::v1::{LimitRange, Namespace, Node, PersistentVolumeClaim, ResourceQuota};
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use kube::Api;
use kube::api::ListParams;
use tranship_api::migration::{Endpoint, Listen};
use tranship_api::record::VolumeRecord;
use tranship_api::{Finding, Migration, Severity, Side};

use super::{claim_ref, limits, namespace_ref, or_unseen, source, topology};
use crate::rights::{self, MAKE_NAMESPACE};
use crate::{Cluster, claims};

/// What was seen of the destination.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) namespace: Option<Namespace>,
    pub(super) classes: Vec<StorageClass>,
    pub(super) claims: Vec<PersistentVolumeClaim>,
    quotas: Vec<ResourceQuota>,
    ranges: Vec<LimitRange>,
    nodes: Vec<Node>,
    capacities: Vec<CSIStorageCapacity>,
    /// Whether the namespace could be read: absent is not unknown.
    pub(super) is_read: bool,
    has_classes: bool,
    may_make_namespace: bool,
    pub(super) findings: Vec<Finding>,
}

/// Reads all of it side by side.
pub(super) async fn look(cluster: &Cluster, migration: &Migration) -> Seen {
    let name = migration.namespace(Side::Destination);
    let client = &cluster.client;
    let spaces: Api<Namespace> = Api::all(client.clone());
    let (classes, nodes): (Api<StorageClass>, Api<Node>) = (Api::all(client.clone()), Api::all(client.clone()));
    let capacities: Api<CSIStorageCapacity> = Api::all(client.clone());
    let all = ListParams::default();
    let (namespace, classes, claims, quotas, ranges, nodes, capacities, lacks) = tokio::join!(
        cluster.call(format!("get Namespace {name}"), spaces.get_opt(name)),
        cluster.call("list StorageClasses", classes.list(&all)),
        cluster.list::<PersistentVolumeClaim>(name, ""),
        cluster.list::<ResourceQuota>(name, ""),
        cluster.list::<LimitRange>(name, ""),
        cluster.call("list Nodes", nodes.list(&all)),
        cluster.call("list CSIStorageCapacities", capacities.list(&all)),
        rights::lacks(cluster, migration, [MAKE_NAMESPACE]),
    );
    let (is_read, has_classes) = (namespace.is_ok(), classes.is_ok());
    let mut findings = Vec::new();
    let (side, found) = (cluster.side, &mut findings);
    Seen {
        namespace: or_unseen(side, "the namespace", namespace, found),
        classes: or_unseen(side, "the storage classes", classes.map(|list| list.items), found),
        claims: or_unseen(side, "the claims", claims, found),
        quotas: or_unseen(side, "the quotas", quotas, found),
        ranges: or_unseen(side, "the limit ranges", ranges, found),
        nodes: or_unseen(side, "the nodes", nodes.map(|list| list.items), found),
        // A cluster whose drivers say nothing has none, and one that does not let it be read is taken for such.
        capacities: capacities.map(|list| list.items).unwrap_or_default(),
        may_make_namespace: lacks.is_ok_and(|lacks| lacks.is_empty()),
        is_read,
        has_classes,
        findings,
    }
}

/// What there is to say.
pub(super) fn judge(
    seen: &Seen,
    from: &source::Seen,
    migration: &Migration,
    id: Option<&str>,
    volumes: &[VolumeRecord],
) -> Vec<Finding> {
    let mut findings: Vec<Finding> = namespace(seen, migration).into_iter().collect();
    let mut made = Vec::new();
    for volume in volumes {
        let name = &volume.claim(Side::Source).name;
        // One that is not there has a finding of its own.
        let Some(claim) = from.claims.claims.iter().find(|claim| claim.metadata.name.as_ref() == Some(name)) else {
            continue;
        };
        let (exists, is_there) = there(seen, migration, id, volume, claim);
        findings.extend(exists);
        if !is_there {
            findings.extend(limits::raised(volume, migration));
            findings.extend(class(seen, migration, volume));
            made.push(volume);
        }
    }
    findings.extend(limits::quotas(&seen.quotas, &made));
    findings.extend(limits::ranges(&seen.ranges, &made, migration.namespace(Side::Destination)));
    findings.into_iter().map(|finding| finding.at(Side::Destination)).collect()
}

fn namespace(seen: &Seen, migration: &Migration) -> Option<Finding> {
    let name = migration.namespace(Side::Destination);
    let finding = match &seen.namespace {
        None if !seen.is_read => return None,
        None if seen.may_make_namespace => {
            let why = format!(
                "there is no namespace {name}; `create` makes it, with the labels and annotations of the source's"
            );
            Finding::new("TS-K106", Severity::Info, why, "nothing, or make it yourself first")
        }
        None => {
            let why = format!("there is no namespace {name}, and you may not make one");
            Finding::new("TS-K106", Severity::Blocking, why, "have an administrator make it")
        }
        Some(there) if there.metadata.deletion_timestamp.is_some() => {
            let why = format!("namespace {name} is being deleted, and nothing can be made in it");
            Finding::new(
                "TS-K107",
                Severity::Blocking,
                why,
                "wait until it is gone, or give another with --namespace NS:NEW",
            )
        }
        Some(_) => return None,
    };
    Some(finding.on(namespace_ref(name)))
}

/// Whether the claim is there, and what that means.
fn there(
    seen: &Seen,
    migration: &Migration,
    id: Option<&str>,
    volume: &VolumeRecord,
    source: &PersistentVolumeClaim,
) -> (Option<Finding>, bool) {
    let namespace = migration.namespace(Side::Destination);
    let name = &volume.claim(Side::Destination).name;
    let Some(there) = seen.claims.iter().find(|claim| claim.metadata.name.as_ref() == Some(name)) else {
        return (None, false);
    };
    let wanted = claims::destination_claim(source, volume, id.unwrap_or_default(), &migration.metadata.name, namespace);
    let finding = match claims::obstacle(there, &wanted) {
        Some((code, why, todo)) => Finding::new(code, Severity::Blocking, why, todo),
        None => {
            let why = "this migration made the claim before, and goes on with it";
            Finding::new("TS-K134", Severity::Info, why, "nothing")
        }
    };
    (Some(finding.on(claim_ref(namespace, name))), true)
}

/// Whether the class can make the volume, and where.
fn class(seen: &Seen, migration: &Migration, volume: &VolumeRecord) -> Vec<Finding> {
    let wanted = volume.claim(Side::Destination);
    let claim = claim_ref(migration.namespace(Side::Destination), &wanted.name);
    let known = || {
        let names = seen.classes.iter().filter_map(|class| class.metadata.name.as_deref());
        format!("choose one of: {}", names.collect::<Vec<_>>().join(", "))
    };
    let finding = match &wanted.storage_class {
        _ if !seen.has_classes => return Vec::new(),
        None => {
            let from = volume.claim(Side::Source).storage_class.as_deref().unwrap_or("none");
            let why = format!("no storage class takes the place of {from}, and the destination has no default");
            Finding::new("TS-K122", Severity::Blocking, why, format!("{}, with --storage-class {from}:NEW", known()))
        }
        Some(name) => match seen.classes.iter().find(|class| class.metadata.name.as_ref() == Some(name)) {
            Some(class) => {
                let of_place = topology::judge(class, &seen.nodes);
                let of_room = topology::room(class, &seen.capacities, volume);
                return of_place.into_iter().chain(of_room).map(|finding| finding.on(claim.clone())).collect();
            }
            None => {
                let why = format!("the destination has no storage class {name}");
                Finding::new("TS-K121", Severity::Blocking, why, known())
            }
        },
    };
    vec![finding.on(claim)]
}

/// Whether a node's port may be had for a listener here. While agents are there they have theirs.
pub(super) fn node_ports(seen: &Seen, migration: &Migration) -> Option<Finding> {
    let is_wanted = migration.spec.link.endpoint == Endpoint::NodePort;
    let is_tried = is_wanted || migration.spec.link.endpoint == Endpoint::Auto;
    if !is_tried || migration.spec.link.listen == Listen::Source || !limits::forbids(&seen.quotas, "services.nodeports")
    {
        return None;
    }
    let severity = if is_wanted { Severity::Blocking } else { Severity::Info };
    let why = "a quota of the namespace allows no further service with a port of the nodes";
    let todo = "nothing if pods of the two clusters reach each other; else allow one, or let the source listen";
    Some(Finding::new("TS-K133", severity, why, todo).at(Side::Destination))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tranship_api::LABEL_ID;

    use super::*;

    fn seen() -> Seen {
        let class =
            json!({"metadata": {"name": "fast"}, "provisioner": "p", "volumeBindingMode": "WaitForFirstConsumer"});
        Seen {
            namespace: Some(Namespace::default()),
            classes: vec![serde_json::from_value(class).expect("a class")],
            is_read: true,
            has_classes: true,
            may_make_namespace: true,
            ..Seen::default()
        }
    }

    fn codes(seen: &Seen, class: &str, id: Option<&str>) -> Vec<(String, Severity)> {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({"metadata": {"name": "data"},
            "spec": {"storageClassName": class, "resources": {"requests": {"storage": "1Gi"}}}}))
        .expect("a claim");
        let migration = Migration::new("move", "shop");
        let mut volumes = [claims::volume_of(&claim, &migration)];
        claims::choose_classes(&mut volumes, &seen.classes);
        let mut from = source::Seen::default();
        from.claims.claims.push(claim);
        let findings = judge(seen, &from, &migration, id, &volumes);
        findings.into_iter().map(|finding| (finding.code, finding.severity)).collect()
    }

    #[test]
    fn a_destination_that_has_what_is_needed_is_no_finding() {
        assert_eq!(codes(&seen(), "fast", None), []);
    }

    #[test]
    fn what_the_destination_lacks_has_its_code() {
        let code = |code: &str, severity| vec![(code.to_owned(), severity)];
        assert_eq!(codes(&seen(), "other", None), code("TS-K122", Severity::Blocking));
        let none = |may: bool| Seen { namespace: None, may_make_namespace: may, ..seen() };
        assert_eq!(codes(&none(true), "fast", None), code("TS-K106", Severity::Info));
        assert_eq!(codes(&none(false), "fast", None), code("TS-K106", Severity::Blocking));
        // What could not be read is not taken for absent.
        assert_eq!(codes(&Seen { is_read: false, ..none(false) }, "fast", None), []);
    }

    #[test]
    fn a_claim_that_is_there_is_taken_or_refused_by_its_mark() {
        let mut seen = seen();
        let mut there = json!({"metadata": {"name": "data", "labels": {LABEL_ID: "id1"}},
            "spec": {"resources": {"requests": {"storage": "1Gi"}}}});
        seen.claims = vec![serde_json::from_value(there.clone()).expect("a claim")];
        assert_eq!(codes(&seen, "fast", Some("id1")), [("TS-K134".to_owned(), Severity::Info)]);
        assert_eq!(codes(&seen, "fast", None), [("TS-K201".to_owned(), Severity::Blocking)]);
        there["metadata"]["labels"] = json!({LABEL_ID: ""});
        seen.claims = vec![serde_json::from_value(there).expect("a claim")];
        assert_eq!(codes(&seen, "fast", Some("id1")), [("TS-K201".to_owned(), Severity::Blocking)]);
    }
}
