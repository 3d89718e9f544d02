//! What stands in the way of a migration, found out without changing anything.
//!
//! Each part looks (calls, side by side) and then judges (pure, over what was seen). What cannot be looked at is a finding
//! too, never a silent "all is well".

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;
use tranship_api::migration::{Mode, Resources};
use tranship_api::record::VolumeRecord;
use tranship_api::{Finding, Findings, Migration, ObjectRef, Severity, Side};

pub use before::{Waived, before_cutover};
pub use handshake::{Estimate, Handshake, handshake, postponed};
pub use subject::Subject;

use crate::rights::{self, Lack, Need, Right, Scope};
use crate::{Cluster, Error};

mod before;
mod clusters;
mod conflicts;
mod course;
mod destination;
mod fences;
mod handshake;
mod limits;
mod measure;
pub mod mode;
mod source;
mod subject;
mod topology;
mod workloads;

/// What a preflight found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What was found, worst first.
    pub findings: Findings,
    /// UIDs of the clusters: source, destination; empty where one could not be read.
    pub clusters: [String; 2],
    /// What can be carried.
    pub mode: Mode,
    /// The volumes, with every choice made that can be made.
    pub volumes: Vec<VolumeRecord>,
    /// Bytes that each of them holds, where that is known.
    pub held_bytes: Vec<Option<u64>>,
    /// Whether the destination's namespace has to be made.
    pub makes_namespace: bool,
}

/// Makes the pod of an agent as it would be created, for a dry run. [`mode::stand_in`] is one that asks for the same
/// privileges.
pub type AgentPod<'a> = dyn Fn(Side, Mode) -> Pod + Sync + 'a;

/// Looks at both clusters. Where the application is at the destination already, it is the course home that is looked at.
///
/// An error means that what was asked for makes no sense; all else is a finding.
pub async fn run(clusters: &[Cluster; 2], subject: Subject<'_>, agent_pod: &AgentPod<'_>) -> Result<Report, Error> {
    let migration = subject.migration();
    if let Some(complaint) = migration.complaint() {
        return Err(Error::refused("TS-K135", complaint, "correct what was written and run the same command again"));
    }
    let [from, to] = clusters;
    let (greeted_from, greeted_to) = tokio::join!(clusters::greet(from), clusters::greet(to));
    let mut report = Report {
        findings: Findings::default(),
        clusters: [greeted_from.uid.clone(), greeted_to.uid.clone()],
        mode: migration.spec.mode.unwrap_or(Mode::Plain),
        volumes: Vec::new(),
        held_bytes: Vec::new(),
        makes_namespace: false,
    };
    let found = &mut report.findings.0;
    let is_reached = greeted_from.is_reached && greeted_to.is_reached;
    found.extend(greeted_from.findings);
    found.extend(greeted_to.findings);
    let same = clusters::same(&report.clusters, [&from.context, &to.context], &migration);
    // Nothing that is found at a destination that is the source itself may be told to be deleted.
    let are_two = same.as_ref().is_none_or(|finding| finding.severity < Severity::Blocking);
    found.extend(same);
    if is_reached && are_two {
        let pods = match subject.owner() {
            Side::Source => outward(clusters, subject, &migration, agent_pod, &mut report).await,
            Side::Destination => homeward(clusters, subject, &migration, &mut report).await,
        };
        look_beside(clusters, subject, &migration, &pods, &mut report).await;
    }
    report.findings = once(report.findings);
    Ok(report)
}

/// An API server that goes away in between says so once, not once for each call.
fn once(mut findings: Findings) -> Findings {
    let mut said = BTreeSet::new();
    findings.0.retain(|finding| {
        said.insert((finding.code.clone(), finding.side, finding.object.clone(), finding.why.clone()))
    });
    findings.sort();
    findings
}

/// The course to the destination. Returns the pods of the source's namespace.
async fn outward(
    clusters: &[Cluster; 2],
    subject: Subject<'_>,
    migration: &Migration,
    agent_pod: &AgentPod<'_>,
    report: &mut Report,
) -> Vec<Pod> {
    let [from, to] = clusters;
    let (seen, admits_from, admits_to) = tokio::join!(
        course::outward(clusters, subject, migration, Waived::default()),
        mode::look(from, migration, agent_pod),
        mode::look(to, migration, agent_pod),
    );
    let found = &mut report.findings.0;
    found.extend(seen.findings);
    found.extend(destination::node_ports(&seen.to, migration));
    report.volumes = seen.volumes;
    report.makes_namespace = seen.to.is_read && seen.to.namespace.is_none();

    // A namespace that is made takes over the source's labels, and with them what it admits.
    let labels = [&seen.from.namespace, if report.makes_namespace { &seen.from.namespace } else { &seen.to.namespace }];
    let labels = labels.map(|namespace| namespace.as_ref().and_then(|namespace| namespace.metadata.labels.as_ref()));
    let is_any_block = report.volumes.iter().any(|volume| volume.is_block);
    let (mode, findings) = mode::choose(migration, [admits_from, admits_to], labels, is_any_block);
    report.mode = mode;
    found.extend(findings);
    seen.from.pods
}

/// The course home: all that could be chosen was chosen before. Returns the pods of the destination's namespace.
async fn homeward(
    clusters: &[Cluster; 2],
    subject: Subject<'_>,
    migration: &Migration,
    report: &mut Report,
) -> Vec<Pod> {
    let seen = course::homeward(clusters, subject, migration, Waived::default()).await;
    report.findings.0.extend(seen.findings);
    let record = subject.record(report).into_owned();
    (report.volumes, report.mode) = (record.volumes, record.mode);
    seen.pods
}

/// Who uses the volumes and how much they hold, on the side that has the application.
async fn look_beside(
    clusters: &[Cluster; 2],
    subject: Subject<'_>,
    migration: &Migration,
    pods: &[Pod],
    report: &mut Report,
) {
    let owner = subject.owner();
    let cluster = &clusters[owner as usize];
    let claims: Vec<String> = report.volumes.iter().map(|volume| volume.claim(owner).name.clone()).collect();
    let (measured, (survey, unseen)) = tokio::join!(
        measure::look(cluster, migration.namespace(owner), pods),
        workloads::look(cluster, migration, &claims),
    );
    let mut found: Vec<Finding> = unseen.into_iter().collect();
    if let Some(survey) = &survey {
        found.extend(workloads::judge(survey, owner));
        if owner == Side::Source && migration.spec.cutover.resources == Resources::Users {
            found.extend(conflicts::look(clusters, &subject.record(report), survey).await);
        }
    }
    if owner == Side::Source {
        found.extend(measure::judge(&measured, &report.volumes, migration));
    }
    let held = |name: &String| Some(measured.as_ref().ok()?.get(name)?.bytes);
    report.held_bytes = claims.iter().map(held).collect();
    report.findings.0.extend(found);
}

/// Rights that are lacking on this side, as findings; without those for what is brought, where nothing is.
async fn review(cluster: &Cluster, migration: &Migration, brings: bool, waived: Waived) -> Vec<Finding> {
    let brings = brings && migration.spec.cutover.resources == Resources::Users;
    let rights = rights::RIGHTS.iter().filter(move |right| brings || right.why != rights::BRING);
    match rights::lacks(cluster, migration, rights).await {
        Ok(lacks) => lacks.iter().map(|lack| lacking(cluster, migration, lack, waived)).collect(),
        Err(error) => vec![unseen(cluster.side, "your rights", &error)],
    }
}

fn lacking(cluster: &Cluster, migration: &Migration, lack: &Lack, waived: Waived) -> Finding {
    let severity = severity(lack.right, waived);
    let place = match lack.right.scope {
        Scope::Namespace => format!("in namespace {}", migration.namespace(cluster.side)),
        Scope::Cluster => "in the whole cluster".to_owned(),
    };
    let group = if lack.right.group.is_empty() { String::new() } else { format!(".{}", lack.right.group) };
    let what = format!("{} {}{group} {place}", lack.verbs.join(", "), lack.right.resource);
    let why = format!("you may not {what}, which is needed {}", lack.right.why);
    Finding::new("TS-K104", severity, why, format!("have an administrator allow you to {what}")).at(cluster.side)
}

/// How bad it is that this right is lacking.
fn severity(right: &Right, waived: Waived) -> Severity {
    match right.need {
        Need::IfThere | Need::Tidiness | Need::Useful => Severity::Warning,
        Need::Cutover if waived.fence && right.group == rights::ADMISSION => Severity::Warning,
        Need::Stage if waived.passes => Severity::Warning,
        Need::Cutover => Severity::Cutover,
        Need::Stage => Severity::Blocking,
    }
}

/// That something could not be looked at.
fn unseen(side: Side, what: &str, error: &Error) -> Finding {
    if matches!(error, Error::Unreachable { .. }) {
        return clusters::unreachable(side, error);
    }
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let todo = "see the cause; what depends on it is not checked until then";
    Finding::new("TS-K109", Severity::Warning, format!("{what} could not be read: {error}{cause}"), todo).at(side)
}

/// What was read, or what it is without, and a finding.
fn or_unseen<T: Default>(side: Side, what: &str, answer: Result<T, Error>, findings: &mut Vec<Finding>) -> T {
    answer.unwrap_or_else(|error| {
        findings.push(unseen(side, what, &error));
        T::default()
    })
}

fn claim_ref(namespace: &str, name: &str) -> ObjectRef {
    ObjectRef::named("v1", "PersistentVolumeClaim", Some(namespace), name)
}

fn namespace_ref(name: &str) -> ObjectRef {
    ObjectRef::named("v1", "Namespace", None, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_without_refuses_nothing() {
        let of = |resource: &str, need: Need, waived: Waived| {
            let mut rights = rights::RIGHTS.iter().filter(|right| right.resource == resource && right.need == need);
            severity(rights.next().expect("it is listed"), waived)
        };
        let (none, both) = (Waived::default(), Waived { fence: true, passes: true });
        assert_eq!(of("validatingadmissionpolicies", Need::Cutover, none), Severity::Cutover);
        assert_eq!(of("validatingadmissionpolicies", Need::Cutover, both), Severity::Warning);
        assert_eq!(of("pods/portforward", Need::Stage, none), Severity::Blocking);
        assert_eq!(of("pods/portforward", Need::Stage, both), Severity::Warning);
        assert_eq!(of("statefulsets", Need::Cutover, both), Severity::Cutover);
    }
}
