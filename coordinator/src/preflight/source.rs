//! The claims of the side that has the application as they are, and pods that use them.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, PodSpec};
use kube::Api;
use tranship_api::migration::Resources;
use tranship_api::{Finding, LABEL_AGENT, Migration, Severity, Side};

use super::{claim_ref, namespace_ref, or_unseen};
use crate::claims::{self, Selection};
use crate::{Cluster, workload};

/// What was seen of a side that has, or had, the application.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) namespace: Option<Namespace>,
    pub(super) claims: Selection,
    pub(super) pods: Vec<Pod>,
    sets: Vec<StatefulSet>,
    /// Whether the claims and the namespace could be read.
    is_read: bool,
    pub(super) findings: Vec<Finding>,
}

/// Reads the namespace, its claims and its pods.
pub(super) async fn look(cluster: &Cluster, migration: &Migration) -> Seen {
    let name = migration.namespace(cluster.side);
    let spaces: Api<Namespace> = Api::all(cluster.client.clone());
    let (namespace, claims, pods, sets) = tokio::join!(
        cluster.call(format!("get Namespace {name}"), spaces.get_opt(name)),
        claims::select(cluster, migration),
        cluster.list::<Pod>(name, ""),
        cluster.list::<StatefulSet>(name, ""),
    );
    let is_read = namespace.is_ok() && claims.is_ok();
    let mut findings = Vec::new();
    let side = cluster.side;
    Seen {
        namespace: or_unseen(side, "the namespace", namespace, &mut findings),
        claims: or_unseen(side, "the claims", claims, &mut findings),
        pods: or_unseen(side, "the pods", pods, &mut findings),
        sets: or_unseen(side, "the StatefulSets", sets, &mut findings),
        is_read,
        findings,
    }
}

/// What there is to say of what was seen of this side.
pub(super) fn judge(seen: &Seen, side: Side, migration: &Migration) -> Vec<Finding> {
    let namespace = migration.namespace(side);
    let mut findings = Vec::new();
    if seen.is_read && seen.namespace.is_none() {
        let why = format!("there is no namespace {namespace}");
        let todo = "see `kubectl get namespaces`, or give another with --namespace";
        let finding = Finding::new("TS-K105", Severity::Blocking, why, todo);
        return vec![finding.at(side).on(namespace_ref(namespace))];
    }
    for name in &seen.claims.missing {
        let finding = Finding::new("TS-K110", Severity::Blocking, "this claim is not there", "see `kubectl get pvc`");
        findings.push(finding.on(claim_ref(namespace, name)));
    }
    if seen.is_read && seen.claims.claims.is_empty() && seen.claims.missing.is_empty() {
        let why = "no claim of the namespace is meant by this migration";
        let todo = "name claims with --pvc, or see that the selector selects some";
        findings.push(Finding::new("TS-K110", Severity::Blocking, why, todo).on(namespace_ref(namespace)));
    }
    for claim in &seen.claims.claims {
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        let users: Vec<&Pod> = seen.pods.iter().filter(|pod| uses(pod, name)).collect();
        let of_state = state(claim).into_iter().chain(access(claim, &users)).chain(context(&users));
        findings.extend(of_state.map(|finding| finding.on(claim_ref(namespace, name))));
    }
    findings.extend(sets(seen));
    findings.into_iter().map(|finding| finding.at(side)).collect()
}

/// What a claim is in itself.
fn state(claim: &PersistentVolumeClaim) -> Vec<Finding> {
    let mut findings = Vec::new();
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("of no phase");
    if phase != "Bound" {
        let why = format!("the claim is {phase}, not Bound, and so it has no volume to read");
        findings.push(Finding::new("TS-K111", Severity::Blocking, why, "leave it out, or see its events"));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        let why = "the claim is being deleted: its data goes as soon as its last pod ends";
        let todo = "do not stop its pods; set its volume to Retain and make a new claim for it first";
        findings.push(Finding::new("TS-K112", Severity::Blocking, why, todo));
    }
    if claim.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "Pod") {
        let why =
            "the claim belongs to its pod (an ephemeral volume): it is deleted, with its data, when the pod is stopped";
        let todo = "stage only; give the workload a claim of its own before a cutover";
        findings.push(Finding::new("TS-K115", Severity::Cutover, why, todo));
    }
    findings
}

/// Who may use it at the same time.
fn access(claim: &PersistentVolumeClaim, users: &[&Pod]) -> Vec<Finding> {
    let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.clone()).unwrap_or_default();
    let nodes: BTreeSet<&str> = users.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref()).collect();
    let mut findings = Vec::new();
    if let (true, Some(user)) = (modes.iter().any(|mode| mode == "ReadWriteOncePod"), users.first()) {
        let pod = user.metadata.name.as_deref().unwrap_or_default();
        let why =
            format!("the claim is ReadWriteOncePod and pod {pod} has it: no stage can run while the application does");
        let todo = "cut over without stages (the downtime is that of a full copy), stop the application for a stage, or set \
                    the volume's access mode to ReadWriteOnce first";
        findings.push(Finding::new("TS-K113", Severity::Warning, why, todo));
    }
    if nodes.len() > 1 {
        let nodes = nodes.into_iter().collect::<Vec<_>>().join(", ");
        let why =
            format!("several nodes write to the volume ({nodes}), so that a proof of level tracked is not offered");
        findings.push(Finding::new("TS-K114", Severity::Info, why, "nothing: a proof of level full reads all of it"));
    }
    findings
}

/// What users' security contexts mean for agents and for the first start.
fn context(users: &[&Pod]) -> Vec<Finding> {
    let specs: Vec<&PodSpec> = users.iter().filter_map(|pod| pod.spec.as_ref()).collect();
    let contexts: Vec<_> = specs.iter().filter_map(|spec| spec.security_context.as_ref()).collect();
    let of_pods = contexts.iter().filter_map(|context| context.se_linux_options.clone());
    let of_containers = specs.iter().flat_map(|spec| &spec.containers);
    let of_containers = of_containers.filter_map(|one| one.security_context.as_ref()?.se_linux_options.clone());
    let labels: BTreeSet<_> = of_pods.chain(of_containers).map(|options| format!("{options:?}")).collect();
    let mut findings = Vec::new();
    if labels.len() > 1 {
        let why = "pods with different SELinux options use the claim; an agent can copy only one set";
        let todo = "give the pods the same seLinuxOptions where nodes enforce SELinux";
        findings.push(Finding::new("TS-K116", Severity::Warning, why, todo));
    }
    let groups: BTreeSet<i64> = contexts.iter().filter_map(|context| context.fs_group).collect();
    if groups.len() > 1 {
        let why = format!("pods with different fsGroups use the claim ({groups:?}); whichever starts last has it");
        findings.push(Finding::new("TS-K117", Severity::Warning, why, "give the pods one fsGroup"));
    }
    let walks = contexts.iter().any(|context| {
        context.fs_group.is_some() && context.fs_group_change_policy.as_deref() != Some("OnRootMismatch")
    });
    if walks {
        let why = "with fsGroup the first start on the other side walks all files, inside the downtime";
        let todo = "set fsGroupChangePolicy: OnRootMismatch in the pod's security context";
        findings.push(Finding::new("TS-K118", Severity::Info, why, todo));
    }
    findings
}

/// StatefulSets that delete claims of the migration when they are deleted themselves. What they do when they are scaled
/// down, the survey of the workloads tells.
fn sets(seen: &Seen) -> Vec<Finding> {
    let deletes = |set: &&StatefulSet| {
        let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
        policy.is_some_and(|policy| policy.when_deleted.as_deref() == Some("Delete"))
    };
    let has_claim = |set: &&StatefulSet| {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let templates = set.spec.iter().flat_map(|spec| spec.volume_claim_templates.iter().flatten());
        let mut templates = templates.filter_map(|template| template.metadata.name.as_deref());
        let claims = || seen.claims.claims.iter().filter_map(|claim| claim.metadata.name.as_deref());
        templates.any(|template| claims().any(|claim| claims::is_of_template(claim, template, name)))
    };
    let owning = seen.sets.iter().filter(deletes).filter(has_claim);
    owning
        .map(|set| {
            let why =
                "it deletes its claims when it is deleted itself (whenDeleted: Delete), and a cutover leaves that so";
            let todo =
                "after the cutover, do not delete it while you may want to roll back; at the destination it is Retain";
            Finding::new("TS-K119", Severity::Warning, why, todo).on(workload::reference(set))
        })
        .collect()
}

/// Claims that users of the moved claims need as well, and would not find among those of the destination's namespace.
pub(super) fn companions(seen: &Seen, migration: &Migration, there: &[PersistentVolumeClaim]) -> Vec<Finding> {
    if migration.spec.cutover.resources == Resources::None {
        return Vec::new();
    }
    let namespace = migration.namespace(Side::Source);
    let names = |claims: &[PersistentVolumeClaim]| -> BTreeSet<String> {
        claims.iter().filter_map(|claim| claim.metadata.name.clone()).collect()
    };
    let (moved, there) = (names(&seen.claims.claims), names(there));
    let mut findings = Vec::new();
    let mut said = BTreeSet::new();
    for pod in seen.pods.iter().filter(|pod| moved.iter().any(|name| uses(pod, name))) {
        let needed = named_claims(pod).into_iter().filter(|name| !moved.contains(name) && !there.contains(name));
        for name in needed.filter(|name| said.insert(name.clone())) {
            let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
            let why = format!("pod {pod_name} uses a moved claim and this one, which the destination would not have");
            let todo = "let the migration move it too, or make it at the destination";
            let finding = Finding::new("TS-K120", Severity::Cutover, why, todo);
            findings.push(finding.on(claim_ref(namespace, &name)).at(Side::Source));
        }
    }
    findings
}

/// Whether a pod that has not ended uses the claim. Pods of ours do not count.
fn uses(pod: &Pod, claim: &str) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let is_ours = pod.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(LABEL_AGENT));
    !is_ours
        && !matches!(phase, Some("Succeeded" | "Failed"))
        && (named_claims(pod).iter().any(|name| name == claim)
            || ephemeral_claims(pod).iter().any(|name| name == claim))
}

/// Claims that a pod names.
fn named_claims(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone())).collect()
}

/// Claims that are made for a pod and go with it.
fn ephemeral_claims(pod: &Pod) -> Vec<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter(|volume| volume.ephemeral.is_some()).map(|volume| format!("{name}-{}", volume.name)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: &str, claims: &[&str], security: Value) -> Pod {
        let volume = |claim: &&str| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}});
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"containers": [], "nodeName": node, "securityContext": security,
                "volumes": claims.iter().map(volume).collect::<Vec<_>>()},
            "status": {"phase": "Running"},
        }))
        .expect("a pod")
    }

    fn claim(name: &str, mode: &str, phase: &str) -> PersistentVolumeClaim {
        serde_json::from_value(
            json!({"metadata": {"name": name}, "spec": {"accessModes": [mode]}, "status": {"phase": phase}}),
        )
        .expect("a claim")
    }

    fn codes(claims: Vec<PersistentVolumeClaim>, pods: Vec<Pod>, sets: Vec<StatefulSet>) -> Vec<String> {
        let selection = Selection { claims, missing: Vec::new() };
        let namespace = Some(Namespace::default());
        let seen = Seen { namespace, claims: selection, pods, sets, is_read: true, findings: Vec::new() };
        let migration = Migration::new("move", "shop");
        let findings = judge(&seen, Side::Source, &migration).into_iter().chain(companions(&seen, &migration, &[]));
        findings.map(|finding| finding.code).collect()
    }

    #[test]
    fn a_claim_that_is_bound_and_used_as_it_should_be_is_no_finding() {
        let users = vec![pod("a", "n1", &["data"], json!({"fsGroup": 7, "fsGroupChangePolicy": "OnRootMismatch"}))];
        assert_eq!(codes(vec![claim("data", "ReadWriteOnce", "Bound")], users, vec![]), [""; 0]);
    }

    #[test]
    fn each_obstacle_of_a_claim_has_its_code() {
        let one = |mode, phase| vec![claim("data", mode, phase)];
        let user = |node, security| pod("a", node, &["data"], security);
        assert_eq!(codes(one("ReadWriteOnce", "Pending"), vec![], vec![]), ["TS-K111"]);
        let rwop = one("ReadWriteOncePod", "Bound");
        assert_eq!(codes(rwop.clone(), vec![user("n1", json!({}))], vec![]), ["TS-K113"]);
        assert_eq!(codes(rwop, vec![], vec![]), [""; 0]);
        let two = vec![user("n1", json!({"fsGroup": 1})), user("n2", json!({"fsGroup": 2}))];
        assert_eq!(codes(one("ReadWriteMany", "Bound"), two, vec![]), ["TS-K114", "TS-K117", "TS-K118"]);
        let level = |level: &str| user("n1", json!({"seLinuxOptions": {"level": level}}));
        assert_eq!(codes(one("ReadWriteMany", "Bound"), vec![level("s0:c1"), level("s0:c2")], vec![]), ["TS-K116"]);
        assert_eq!(codes(vec![], vec![], vec![]), ["TS-K110"]);
        let mut ephemeral = claim("a-scratch", "ReadWriteOnce", "Bound");
        ephemeral.metadata.owner_references =
            serde_json::from_value(json!([{"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "u"}]))
                .expect("owners");
        assert_eq!(codes(vec![ephemeral], vec![], vec![]), ["TS-K115"]);
    }

    #[test]
    fn a_set_that_deletes_its_claims_with_itself_is_found_by_their_names_once() {
        let of = |policy: &str, names: &[&str]| {
            let set: StatefulSet = serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": {
                "serviceName": "db", "selector": {}, "template": {}, "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
                "persistentVolumeClaimRetentionPolicy": {policy: "Delete"}}}))
            .expect("a set");
            let claims = names.iter().map(|name| claim(name, "ReadWriteOnce", "Bound")).collect();
            codes(claims, vec![], vec![set])
        };
        assert_eq!(of("whenDeleted", &["data-db-0", "data-db-1"]), ["TS-K119"]);
        assert_eq!(of("whenScaled", &["data-db-0"]), [""; 0]);
        assert_eq!(of("whenDeleted", &["data-db-x", "data-db2-0"]), [""; 0]);
    }

    #[test]
    fn a_claim_that_would_be_left_behind_is_found() {
        let users = vec![pod("a", "n1", &["data", "cache"], json!({}))];
        assert_eq!(codes(vec![claim("data", "ReadWriteOnce", "Bound")], users, vec![]), ["TS-K120"]);
    }

    #[test]
    fn pods_that_have_ended_and_agents_use_nothing() {
        let mut ended = pod("a", "n1", &["data"], json!({}));
        assert!(uses(&ended, "data"));
        ended.status.as_mut().expect("a status").phase = Some("Failed".to_owned());
        assert!(!uses(&ended, "data"));
        let mut ours = pod("a", "n1", &["data"], json!({}));
        ours.metadata.labels = Some([(LABEL_AGENT.to_owned(), "source".to_owned())].into());
        assert!(!uses(&ours, "data"));
    }
}
