//! Every right that a coordinator uses, what for, and whether it has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tranship_api::{Migration, Side};

use crate::{Cluster, Error};

/// Questions to one API server at the same time.
const REVIEWS_MAX: usize = 16;

/// What cannot be done without a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Something that not every cluster has, or not every user may see; used where it is there, and never demanded.
    IfThere,
    /// Something of ours that was left over is not found.
    Tidiness,
    /// Something is not checked, or not shown.
    Useful,
    /// A cutover.
    Cutover,
    /// Anything.
    Stage,
}

/// Where a right has to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// In the application's namespace.
    Namespace,
    /// In the whole cluster.
    Cluster,
}

/// Verbs on a kind of object.
#[derive(Debug)]
pub struct Right {
    /// On which side; nothing for both.
    pub side: Option<Side>,
    /// Where.
    pub scope: Scope,
    /// Group of the API; empty for the first one.
    pub group: &'static str,
    /// Plural, with the subresource behind a slash.
    pub resource: &'static str,
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// What cannot be done without.
    pub need: Need,
    /// What for: the end of a sentence.
    pub why: &'static str,
}

const fn both(
    scope: Scope,
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    need: Need,
    why: &'static str,
) -> Right {
    Right { side: None, scope, group, resource, verbs, need, why }
}

/// In the application's namespace on both sides.
const fn here(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    need: Need,
    why: &'static str,
) -> Right {
    both(Scope::Namespace, group, resource, verbs, need, why)
}

/// On one side only.
const fn only(side: Side, right: Right) -> Right {
    Right { side: Some(side), ..right }
}

use Need::{Cutover, IfThere, Stage, Tidiness, Useful};
use Scope::Namespace;
use Side::{Destination, Source};

/// API group of what a fence is made of.
pub const ADMISSION: &str = "admissionregistration.k8s.io";

/// All of them. The coordinator makes no call that is not listed here, but those that every user may make (to ask who it
/// is, what it may do and what the API server serves), [`MAKE_NAMESPACE`], and those by which a user makes a coordinator in
/// the cluster and takes it away: what these need, the API server judges better than a list could.
pub const RIGHTS: &[Right] = &[
    // What a stage needs.
    here(
        "",
        "pods",
        &["get", "list", "watch", "create", "delete"],
        Stage,
        "to run agents and to see who uses the claims",
    ),
    here("", "pods/portforward", &["get", "create"], Stage, "to speak with the agents"),
    here(
        "",
        "secrets",
        &["get", "create", "patch", "delete"],
        Stage,
        "to give agents the secret they are addressed with",
    ),
    here("", "secrets", &["list"], Tidiness, "to find the secrets of agents that are gone"),
    here("", "configmaps", &["get", "list", "create", "update", "patch", "delete"], Stage, "to keep the record"),
    here(
        "",
        "persistentvolumeclaims",
        &["get", "list", "create", "patch", "delete"],
        Stage,
        "to make claims for the agents' state and at the destination",
    ),
    here(
        "coordination.k8s.io",
        "leases",
        &["get", "list", "create", "update", "delete"],
        Stage,
        "to be the only one at work",
    ),
    here(
        "",
        "services",
        &["get", "list", "create", "patch", "delete"],
        Stage,
        "to reach agents, and to bring those of workloads",
    ),
    here(
        "networking.k8s.io",
        "networkpolicies",
        &["get", "list", "create", "patch", "delete"],
        Stage,
        "to let agents be reached where the namespace is closed",
    ),
    both(Scope::Cluster, "", "persistentvolumes", &["get"], Stage, "to see on which nodes a volume can be used"),
    both(Scope::Cluster, "", "nodes", &["get", "list"], Stage, "to place agents and to find addresses of nodes"),
    both(
        Scope::Cluster,
        "",
        "namespaces",
        &["get"],
        Stage,
        "to tell clusters apart and to see what a namespace admits",
    ),
    only(
        Destination,
        both(Scope::Cluster, "storage.k8s.io", "storageclasses", &["get", "list"], Stage, "to choose classes"),
    ),
    both(Scope::Cluster, "storage.k8s.io", "volumeattachments", &["list"], Stage, "to see which nodes have a volume"),
    here("apps", "deployments", &["list"], Stage, USERS),
    here("apps", "statefulsets", &["list"], Stage, USERS),
    here("apps", "daemonsets", &["list"], Stage, USERS),
    here("apps", "replicasets", &["list"], Stage, USERS),
    here("", "replicationcontrollers", &["list"], Stage, USERS),
    here("batch", "cronjobs", &["list"], Stage, USERS),
    here("batch", "jobs", &["list"], Stage, USERS),
    here("autoscaling", "horizontalpodautoscalers", &["list"], Stage, "to see what else scales the application"),
    // What a cutover needs as well.
    both(Scope::Cluster, "", "persistentvolumes", &["patch"], Cutover, "to keep volumes by setting them to Retain"),
    both(
        Scope::Cluster,
        ADMISSION,
        "validatingadmissionpolicies",
        &["get", "list", "create", "patch", "delete"],
        Cutover,
        "to fence the claims",
    ),
    both(
        Scope::Cluster,
        ADMISSION,
        "validatingadmissionpolicybindings",
        &["get", "list", "create", "patch", "delete"],
        Cutover,
        "to fence the claims",
    ),
    here("apps", "deployments", &["get", "patch"], Cutover, "to stop and start the application"),
    here("apps", "statefulsets", &["get", "patch"], Cutover, "to stop and start the application"),
    here("apps", "daemonsets", &["get", "patch"], Cutover, "to stop and start the application"),
    here("apps", "replicasets", &["get", "patch"], Cutover, "to stop and start the application"),
    here("", "replicationcontrollers", &["get", "patch"], Cutover, "to stop and start the application"),
    here("apps", "deployments/scale", &["get", "patch", "update"], Cutover, "to stop and start the application"),
    here("apps", "statefulsets/scale", &["get", "patch", "update"], Cutover, "to stop and start the application"),
    here("apps", "replicasets/scale", &["get", "patch", "update"], Cutover, "to stop and start the application"),
    here("", "replicationcontrollers/scale", &["get", "patch", "update"], Cutover, "to stop and start the application"),
    here("batch", "cronjobs", &["get", "patch"], Cutover, "to stop and start the application"),
    here("batch", "jobs", &["get", "patch"], Cutover, "to stop and start the application"),
    // What is brought along. A rollback finds it in its place.
    only(Source, here("", "serviceaccounts", &["get"], Cutover, BRING)),
    only(Destination, here("", "serviceaccounts", &["list"], Tidiness, "to find what was brought and is in no record")),
    only(Destination, here("", "pods", &["patch"], Cutover, BRING)),
    only(Destination, here("", "serviceaccounts", &["get", "create", "patch", "delete"], Cutover, BRING)),
    only(Destination, here("apps", "deployments", &["create", "delete"], Cutover, BRING)),
    only(Destination, here("apps", "statefulsets", &["create", "delete"], Cutover, BRING)),
    only(Destination, here("apps", "daemonsets", &["create", "delete"], Cutover, BRING)),
    only(Destination, here("apps", "replicasets", &["create", "delete"], Cutover, BRING)),
    only(Destination, here("", "replicationcontrollers", &["create", "delete"], Cutover, BRING)),
    only(Destination, here("batch", "cronjobs", &["create", "delete"], Cutover, BRING)),
    only(Destination, here("batch", "jobs", &["create", "delete"], Cutover, BRING)),
    only(
        Destination,
        here("autoscaling", "horizontalpodautoscalers", &["get", "create", "patch", "delete"], Cutover, BRING),
    ),
    // What makes a preflight and a status say more.
    here("", "events", &["list", "create"], Useful, "to tell why pods do not start, and what was done"),
    only(Destination, here("", "resourcequotas", &["list"], Useful, "to see whether the claims fit")),
    only(Destination, here("", "limitranges", &["list"], Useful, "to see whether the claims fit")),
    only(
        Destination,
        both(
            Scope::Cluster,
            "storage.k8s.io",
            "csistoragecapacities",
            &["list"],
            Useful,
            "to see whether there is room",
        ),
    ),
    // It can do far more than count, so that it is used only by who has it: else the first stage counts.
    both(Scope::Cluster, "", POWERFUL, &["get"], IfThere, "to see how much the volumes hold before a stage does"),
    here("apps", "deployments", &["watch"], IfThere, WHO),
    here("apps", "statefulsets", &["watch"], IfThere, WHO),
    here("apps", "daemonsets", &["watch"], IfThere, WHO),
    here("apps", "replicasets", &["watch"], IfThere, WHO),
    here("", "replicationcontrollers", &["watch"], IfThere, WHO),
    here("batch", "cronjobs", &["watch"], IfThere, WHO),
    here("batch", "jobs", &["watch"], IfThere, WHO),
    here(
        "keda.sh",
        "scaledobjects",
        &["get", "list", "watch", "patch"],
        IfThere,
        "to pause what else scales the application",
    ),
    both(
        Scope::Cluster,
        "argoproj.io",
        "applications",
        &["list"],
        IfThere,
        "to see who would start the application again",
    ),
    here(
        "kustomize.toolkit.fluxcd.io",
        "kustomizations",
        &["get"],
        IfThere,
        "to see who would start the application again",
    ),
    here("helm.toolkit.fluxcd.io", "helmreleases", &["get"], IfThere, "to see who would start the application again"),
];

/// The one resource by which programs could be run in any pod.
pub(crate) const POWERFUL: &str = "nodes/proxy";

/// Why a right of those by which a stage finds the workloads beside whose volumes it works.
const USERS: &str = "to see whose the pods are that use the claims";

/// Why a right of those by which it is found who takes a change back.
const WHO: &str = "to tell who starts the application again while it is to stand still";

/// Why a right of those that only [`Resources::Users`](tranship_api::migration::Resources) needs.
pub const BRING: &str = "to bring the workloads along";

/// Makes the namespace at the destination, where it is not there yet.
pub const MAKE_NAMESPACE: &Right = &only(
    Destination,
    both(Scope::Cluster, "", "namespaces", &["create"], Stage, "to make the destination's namespace"),
);

/// A right that is lacking, with the verbs that are.
#[derive(Debug)]
pub struct Lack {
    /// The right.
    pub right: &'static Right,
    /// Verbs of it that the user does not have, as the API server says.
    pub verbs: Vec<&'static str>,
}

/// Asks the API server for each verb of `rights` on this side whether the user has it. Nothing is changed by asking.
///
/// Of what is never demanded nothing is ever lacking: it is not asked for. [`held`] does.
pub async fn lacks<'a>(
    cluster: &Cluster,
    migration: &Migration,
    rights: impl IntoIterator<Item = &'static Right> + 'a,
) -> Result<Vec<Lack>, Error> {
    let is_demanded = |right: &&'static Right| right.need > IfThere;
    let demanded = rights.into_iter().filter(is_demanded).collect();
    ask(cluster, migration, demanded).await
}

/// Those of `rights` of which the user has each verb on this side.
pub async fn held(
    cluster: &Cluster,
    migration: &Migration,
    mut rights: Vec<&'static Right>,
) -> Result<Vec<&'static Right>, Error> {
    rights.retain(|right| right.side.is_none_or(|side| side == cluster.side));
    let lacks = ask(cluster, migration, rights.clone()).await?;
    rights.retain(|right| lacks.iter().all(|lack| !std::ptr::eq(lack.right, *right)));
    Ok(rights)
}

async fn ask(cluster: &Cluster, migration: &Migration, mut rights: Vec<&'static Right>) -> Result<Vec<Lack>, Error> {
    // One question instead of two hundred for whoever may do everything.
    if is_allowed(cluster, "", "*", "*", "*").await? {
        return Ok(Vec::new());
    }
    let namespace = migration.namespace(cluster.side);
    let gate = Arc::new(Semaphore::new(REVIEWS_MAX));
    let mut reviews = JoinSet::new();
    rights.retain(|right| right.side.is_none_or(|side| side == cluster.side));
    for (at, right) in rights.into_iter().enumerate() {
        for &verb in right.verbs {
            let (cluster, gate) = (cluster.clone(), Arc::clone(&gate));
            let namespace = if right.scope == Namespace { namespace.to_owned() } else { String::new() };
            reviews.spawn(async move {
                let _turn = gate.acquire().await;
                let answer = is_allowed(&cluster, &namespace, right.group, right.resource, verb).await;
                answer.map(|is_allowed| (!is_allowed).then_some((at, right, verb)))
            });
        }
    }
    let mut lacks: BTreeMap<usize, Lack> = BTreeMap::new();
    while let Some(review) = reviews.join_next().await {
        // A review neither panics nor is it aborted.
        if let Ok(answer) = review
            && let Some((at, right, verb)) = answer?
        {
            lacks.entry(at).or_insert_with(|| Lack { right, verbs: Vec::new() }).verbs.push(verb);
        }
    }
    let mut lacks: Vec<Lack> = lacks.into_values().collect();
    for lack in &mut lacks {
        lack.verbs.sort_by_key(|verb| lack.right.verbs.iter().position(|one| one == verb));
    }
    Ok(lacks)
}

async fn is_allowed(
    cluster: &Cluster,
    namespace: &str,
    group: &str,
    resource: &str,
    verb: &str,
) -> Result<bool, Error> {
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, sub)) => (resource, Some(sub.to_owned())),
        None => (resource, None),
    };
    let attributes = ResourceAttributes {
        group: Some(group.to_owned()),
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        resource: Some(resource.to_owned()),
        subresource,
        verb: Some(verb.to_owned()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let answer = cluster.call("create SelfSubjectAccessReview", api.create(&PostParams::default(), &review)).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_right_is_a_wildcard_and_none_stands_twice() {
        let mut seen = BTreeSet::new();
        for right in RIGHTS {
            assert!(
                !right.verbs.is_empty() && !right.resource.contains('*') && !right.group.contains('*'),
                "{right:?}"
            );
            for verb in right.verbs {
                assert!(*verb != "*" && !matches!(*verb, "impersonate" | "bind" | "escalate" | "deletecollection"));
                for side in Side::ALL.into_iter().filter(|side| right.side.is_none_or(|one| one == *side)) {
                    assert!(seen.insert((side, right.scope, right.group, right.resource, verb)), "{verb} {right:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_held_in_the_whole_cluster_reads_no_secrets_and_touches_no_workload() {
        let allowed = [
            "persistentvolumes",
            "nodes",
            "namespaces",
            "storageclasses",
            "volumeattachments",
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "csistoragecapacities",
            "applications",
            // Never demanded, nor given to a coordinator in the cluster.
            POWERFUL,
        ];
        for right in RIGHTS.iter().filter(|right| right.scope == Scope::Cluster) {
            assert!(allowed.contains(&right.resource), "{right:?}");
        }
    }
}
