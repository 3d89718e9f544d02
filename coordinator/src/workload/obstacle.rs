//! What of a namespace stands in the way of a cutover, or should be known before one.

use std::collections::BTreeSet;

use tranship_api::{Finding, ObjectRef, Severity};

use super::controller::{Kind, Lever, reference};
use super::inventory::{Inventory, Live};
use super::owner::Family;
use super::{Survey, Workload};

/// API groups of kinds that are listed: an owner of one of them that was not found is gone.
const LISTED: &[(&str, &str)] = &[
    ("apps/", "Deployment"),
    ("apps/", "StatefulSet"),
    ("apps/", "DaemonSet"),
    ("apps/", "ReplicaSet"),
    ("batch/", "Job"),
    ("batch/", "CronJob"),
    ("v1", "ReplicationController"),
];

/// Looks for what stands in the way of stopping what was found.
pub(super) fn find(inventory: &Inventory, family: &Family<'_>, live: &[Live<'_>], survey: &Survey) -> Vec<Finding> {
    let mut findings: Vec<Finding> = live.iter().filter_map(of_pod).collect();
    for workload in &survey.workloads {
        let controller = inventory.controllers.iter().find(|controller| controller.object == workload.object);
        let beyond = controller.and_then(|controller| family.of(&controller.meta).beyond);
        findings.extend(beyond.map(|owner| of_owner(&workload.object, &owner, "TS-K306")));
        findings.extend(of_workload(workload));
    }
    findings.extend(of_autoscalers(inventory, survey));
    findings.extend(of_claims(inventory, survey));
    findings
}

fn of_pod(live: &Live<'_>) -> Option<Finding> {
    let pod = &live.object;
    if live.is_static() {
        let why = "it is run by its node from a file, so that nothing in the API can stop it";
        let finding = Finding::new("TS-K307", Severity::Cutover, why, "take its file off the node");
        return Some(finding.on(pod.clone()));
    }
    let owner = live.ancestry.beyond.as_ref().filter(|_| live.ancestry.known.is_empty())?;
    Some(of_owner(pod, owner, "TS-K305"))
}

/// Of an object with an owner that is none of the controllers here.
fn of_owner(object: &ObjectRef, owner: &ObjectRef, code: &'static str) -> Finding {
    let is_listed = |(group, kind): &(&str, &str)| owner.kind == *kind && owner.api_version.starts_with(group);
    if LISTED.iter().any(is_listed) {
        let why = format!("it belongs to {owner}, which is gone: it is being deleted, or should be");
        let todo = format!("wait until it is gone, or see with `kubectl get` why {owner} was deleted without it");
        return Finding::new("TS-K312", Severity::Cutover, why, todo).on(object.clone());
    }
    let why = format!("it belongs to {owner} ({}), which would start it again", owner.api_version);
    let todo = format!(
        "stop {owner} the way that its operator provides (a field such as `paused`, or replicas of 0) for the time of \
         the cutover, so that {object} is gone"
    );
    Finding::new(code, Severity::Cutover, why, todo).on(object.clone())
}

fn of_workload(workload: &Workload) -> Vec<Finding> {
    let object = &workload.object;
    let mut findings = Vec::new();
    let mut add = |code, severity, why: &str, todo: &str| {
        findings.push(Finding::new(code, severity, why, todo).on(object.clone()));
    };
    if workload.deletes_claims {
        let why = "it deletes its claims as it is scaled down (whenScaled: Delete)";
        add("TS-K308", Severity::Info, why, "nothing: the cutover sets it to Retain first, and back when it is undone");
    }
    match workload.kind {
        Kind::Job if workload.lever != Lever::Suspend(Some(true)) => {
            let why = "it is not done: a cutover suspends it, and its pods begin again afterwards";
            add("TS-K311", Severity::Warning, why, "wait until it is done, where beginning again does harm");
        }
        Kind::Pod => {
            let why = "nobody makes it again: a cutover deletes it, and makes it again if it is undone";
            add("TS-K313", Severity::Warning, why, "keep what made it, or let a Deployment run it");
        }
        _ => {}
    }
    findings
}

fn of_autoscalers(inventory: &Inventory, survey: &Survey) -> Vec<Finding> {
    let mut findings = Vec::new();
    for autoscaler in &inventory.autoscalers {
        let target = autoscaler.spec.as_ref().map(|spec| &spec.scale_target_ref);
        let is_target = |workload: &&Workload| {
            target.is_some_and(|target| target.kind == workload.object.kind && target.name == workload.object.name)
        };
        let Some(workload) = survey.workloads.iter().find(is_target) else { continue };
        let of_keda = autoscaler.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "ScaledObject");
        let object = reference(autoscaler);
        let finding = if of_keda && inventory.scaled.is_hidden {
            let why = format!("it scales {} for KEDA, whose ScaledObjects may not be read", workload.object);
            let todo = "grant get, list and patch on scaledobjects.keda.sh: one that is not paused starts pods again";
            Finding::new("TS-K302", Severity::Cutover, why, todo)
        } else {
            let why = format!("it scales {}, and rests while that has no replicas", workload.object);
            Finding::new("TS-K300", Severity::Info, why, "nothing: it goes on once there are replicas again")
        };
        findings.push(finding.on(object));
    }
    for scaler in &survey.scalers {
        let why = format!("it scales {} up from nothing", scaler.target);
        let todo = "nothing: the cutover pauses it, and lets it go on when it is undone";
        findings.push(Finding::new("TS-K301", Severity::Info, why, todo).on(scaler.object.clone()));
    }
    findings
}

fn of_claims(inventory: &Inventory, survey: &Survey) -> Vec<Finding> {
    let mut findings = Vec::new();
    let wanted: BTreeSet<&str> = survey.claims.iter().map(String::as_str).collect();
    for claim in &inventory.claims {
        if !claim.metadata.name.as_deref().is_some_and(|name| wanted.contains(name)) {
            continue;
        }
        let object = reference(claim);
        let owners = claim.metadata.owner_references.iter().flatten();
        if let Some(pod) = owners.into_iter().find(|owner| owner.kind == "Pod") {
            let sets_retain = survey
                .workloads
                .iter()
                .any(|workload| workload.deletes_claims && pod.name.starts_with(&format!("{}-", workload.object.name)));
            if !sets_retain {
                let why = format!("it is deleted with Pod {}, so that stopping that pod loses it", pod.name);
                let todo = "a claim that shares the life of a pod cannot be moved: give the application one of its own";
                findings.push(Finding::new("TS-K310", Severity::Cutover, why, todo).on(object));
            }
        }
    }
    findings
}
