//! What a cutover will stop, who uses the claims and where, and what would start the application again.

use tranship_api::migration::Quiesce;
use tranship_api::{Finding, Migration, Severity, Side};

use super::{claim_ref, unseen};
use crate::Cluster;
use crate::workload::{self, Kind, Lever, Survey, User, Workload};

/// Pods that are named before the others are counted.
const NAMED_MAX: usize = 5;

/// What other findings say as well: `TS-K115`, of the same claims.
const SAID_OF_CLAIMS: &str = "TS-K310";

/// Looks at who uses the claims of this side; nothing, with a finding, where that cannot be seen.
pub(super) async fn look(
    cluster: &Cluster,
    migration: &Migration,
    claims: &[String],
) -> (Option<Survey>, Option<Finding>) {
    let all = migration.spec.cutover.quiesce == Quiesce::All;
    match workload::survey(cluster, migration.namespace(cluster.side), claims, all).await {
        Ok(survey) => (Some(survey), None),
        // That the right is lacking is said already.
        Err(error) if error.is_forbidden() => (None, None),
        Err(error) => (None, Some(unseen(cluster.side, "the workloads", &error))),
    }
}

/// What there is to say of what was seen of this side.
pub(super) fn judge(survey: &Survey, side: Side) -> Vec<Finding> {
    let what = if side == Side::Source { "a cutover" } else { "a rollback" };
    let stopped = survey.workloads.iter().map(|workload| {
        let pods = survey.users.iter().filter(|user| user.owner == workload.object);
        let why = format!("{}{}", act(workload, what), places(workload, pods.collect()));
        Finding::new("TS-K147", Severity::Info, why, "").on(workload.object.clone())
    });
    let used = survey.claims.iter().map(|claim| {
        let users: Vec<&User> = survey.users_of(claim).collect();
        let why = match users[..] {
            [] => "no pod uses it now".to_owned(),
            _ => format!("used by {}", named(&users)),
        };
        Finding::new("TS-K148", Severity::Info, why, "").on(claim_ref(&survey.namespace, claim))
    });
    let others = survey.obstacles.iter().filter(|obstacle| obstacle.code != SAID_OF_CLAIMS).cloned();
    others.chain(stopped).chain(used).map(|finding| finding.at(side)).collect()
}

/// What is done to stop the workload, and what it is now. `what` is what does it.
fn act(workload: &Workload, what: &str) -> String {
    match &workload.lever {
        Lever::Replicas(0) => format!("it has no replicas, and will have none after {what}"),
        Lever::Replicas(count) => format!("{what} scales it from {count} to 0"),
        Lever::Suspend(Some(true)) => format!("it is suspended, and will be so after {what}"),
        Lever::Suspend(_) => format!("{what} suspends it, which it is not now"),
        Lever::NodeLabel(Some(_)) => "it is kept from all nodes already".to_owned(),
        Lever::NodeLabel(None) => format!("{what} keeps it from all nodes"),
        Lever::Pod(_) => format!("{what} deletes it"),
    }
}

fn places(workload: &Workload, pods: Vec<&User>) -> String {
    match pods[..] {
        [] => String::new(),
        [pod] if workload.kind == Kind::Pod => format!("; it is {}", place(pod)),
        _ => format!("; it has {}", named(&pods)),
    }
}

/// Pods and where they are, the first ones by name.
fn named(pods: &[&User]) -> String {
    let names: Vec<String> =
        pods.iter().take(NAMED_MAX).map(|user| format!("{} {}", user.pod.name, place(user))).collect();
    let word = if pods.len() == 1 { "pod" } else { "pods" };
    let more = match pods.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{word} {}{more}", names.join(", "))
}

fn place(user: &User) -> String {
    let node = user.node.as_ref().map_or("on no node yet".to_owned(), |node| format!("on node {node}"));
    if user.is_terminating { format!("{node} (terminating)") } else { node }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tranship_api::ObjectRef;

    use super::*;

    fn object(kind: &str, name: &str) -> ObjectRef {
        ObjectRef::named("v", kind, Some("shop"), name)
    }

    fn user(name: &str, owner: &ObjectRef, node: Option<&str>) -> User {
        User {
            pod: object("Pod", name),
            claims: vec!["data".to_owned()],
            node: node.map(str::to_owned),
            phase: "Running".to_owned(),
            is_terminating: false,
            owner: owner.clone(),
        }
    }

    fn survey(workloads: Vec<(Kind, Lever)>) -> Survey {
        let workload = |(kind, lever)| {
            let object = object(&format!("{kind:?}"), "db");
            Workload { object, kind, lever, claims: vec!["data".to_owned()], deletes_claims: false }
        };
        let workloads: Vec<Workload> = workloads.into_iter().map(workload).collect();
        Survey {
            namespace: "shop".to_owned(),
            claims: vec!["data".to_owned(), "idle".to_owned()],
            workloads,
            ..Survey::default()
        }
    }

    fn said(survey: &Survey, code: &str) -> Vec<String> {
        judge(survey, Side::Source)
            .into_iter()
            .filter(|finding| finding.code == code)
            .map(|finding| finding.why)
            .collect()
    }

    #[test]
    fn each_workload_is_told_with_what_it_is_now_and_where_its_pods_are() {
        let mut survey = survey(vec![
            (Kind::StatefulSet, Lever::Replicas(2)),
            (Kind::Deployment, Lever::Replicas(0)),
            (Kind::CronJob, Lever::Suspend(None)),
            (Kind::CronJob, Lever::Suspend(Some(true))),
            (Kind::Pod, Lever::Pod(json!({}))),
        ]);
        let (set, pod) = (survey.workloads[0].object.clone(), survey.workloads[4].object.clone());
        survey.users = vec![user("db-0", &set, Some("a1")), user("db-1", &set, None), user("db", &pod, Some("a2"))];
        let expected = [
            "a cutover scales it from 2 to 0; it has pods db-0 on node a1, db-1 on no node yet",
            "it has no replicas, and will have none after a cutover",
            "a cutover suspends it, which it is not now",
            "it is suspended, and will be so after a cutover",
            "a cutover deletes it; it is on node a2",
        ];
        assert_eq!(said(&survey, "TS-K147"), expected);
        let expected = ["used by pods db-0 on node a1, db-1 on no node yet, db on node a2", "no pod uses it now"];
        assert_eq!(said(&survey, "TS-K148"), expected);
    }

    #[test]
    fn of_many_pods_a_few_are_named() {
        let mut survey = survey(vec![]);
        let owner = object("StatefulSet", "db");
        survey.users = (0..7).map(|at| user(&format!("db-{at}"), &owner, Some("a1"))).collect();
        let used = &said(&survey, "TS-K148")[0];
        assert!(used.ends_with("db-4 on node a1 and 2 more"), "{used}");
    }

    #[test]
    fn what_would_start_it_again_is_told_and_nothing_of_a_claim_twice() {
        let mut survey = survey(vec![]);
        survey.obstacles = ["TS-K303", "TS-K310"].map(|code| Finding::new(code, Severity::Cutover, "", "")).to_vec();
        let codes: Vec<String> = judge(&survey, Side::Source).into_iter().map(|finding| finding.code).collect();
        assert_eq!(codes, ["TS-K303", "TS-K148", "TS-K148"]);
    }
}
