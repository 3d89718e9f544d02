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

pub use handshake::{Estimate, Handshake, handshake, postponed};

use crate::rights::{self, Lack, Need, Scope};
use crate::{Cluster, Error, claims};

mod clusters;
mod destination;
mod fences;
mod handshake;
mod limits;
mod measure;
pub mod mode;
mod source;
mod topology;

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

/// Looks at both clusters. `id` is the migration's identity, if it has one already: claims at the destination that carry it
/// are its own.
///
/// An error means that what was asked for makes no sense; all else is a finding.
pub async fn run(
    clusters: &[Cluster; 2],
    migration: &Migration,
    id: Option<&str>,
    agent_pod: &AgentPod<'_>,
) -> Result<Report, Error> {
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
    if is_reached {
        look(clusters, migration, id, agent_pod, &mut report).await;
    }
    // An API server that goes away in between says so once, not once for each call.
    let mut said = BTreeSet::new();
    report.findings.0.retain(|finding| {
        said.insert((finding.code.clone(), finding.side, finding.object.clone(), finding.why.clone()))
    });
    report.findings.sort();
    Ok(report)
}

/// All that needs both API servers.
async fn look(
    clusters: &[Cluster; 2],
    migration: &Migration,
    id: Option<&str>,
    agent_pod: &AgentPod<'_>,
    report: &mut Report,
) {
    let [from, to] = clusters;
    let [namespace_from, namespace_to] = Side::ALL.map(|side| migration.namespace(side));
    let (lacks_from, lacks_to, seen_from, seen_to, admits_from, admits_to, fences_from, fences_to) = tokio::join!(
        review(from, migration),
        review(to, migration),
        source::look(from, migration),
        destination::look(to, migration),
        mode::look(from, migration, agent_pod),
        mode::look(to, migration, agent_pod),
        fences::look(from, namespace_from),
        fences::look(to, namespace_to),
    );
    let found = &mut report.findings.0;
    found.extend(lacks_from);
    found.extend(lacks_to);
    found.extend(seen_from.findings.iter().chain(&seen_to.findings).cloned());

    report.volumes = seen_from.claims.claims.iter().map(|claim| claims::volume_of(claim, migration)).collect();
    claims::choose_classes(&mut report.volumes, &seen_to.classes);
    found.extend(clusters::same(&report.clusters, clusters, migration, &report.volumes));
    found.extend(source::judge(&seen_from, migration, &seen_to.claims));
    found.extend(destination::judge(&seen_to, &seen_from, migration, id, &report.volumes));
    let measured = measure::look(from, migration.namespace(Side::Source), &seen_from.pods).await;
    found.extend(measure::judge(&measured, &report.volumes, migration));
    let held = |volume: &VolumeRecord| Some(measured.as_ref().ok()?.get(&volume.claim(Side::Source).name)?.bytes);
    report.held_bytes = report.volumes.iter().map(held).collect();
    for (side, (standing, unread)) in Side::ALL.into_iter().zip([fences_from, fences_to]) {
        let claims: Vec<&str> = report.volumes.iter().map(|volume| volume.claim(side).name.as_str()).collect();
        let (context, namespace) = (&clusters[side as usize].context, migration.namespace(side));
        found.extend(unread);
        found.extend(fences::judge(&standing, id, side, context, namespace, &claims));
    }
    report.makes_namespace = seen_to.is_read && seen_to.namespace.is_none();

    // A namespace that is made takes over the source's labels, and with them what it admits.
    let labels = [&seen_from.namespace, if report.makes_namespace { &seen_from.namespace } else { &seen_to.namespace }];
    let labels = labels.map(|namespace| namespace.as_ref().and_then(|namespace| namespace.metadata.labels.as_ref()));
    let is_any_block = report.volumes.iter().any(|volume| volume.is_block);
    let (mode, findings) = mode::choose(migration, [admits_from, admits_to], labels, is_any_block);
    report.mode = mode;
    found.extend(findings);
}

/// Rights that are lacking on this side, as findings.
async fn review(cluster: &Cluster, migration: &Migration) -> Vec<Finding> {
    let brings = migration.spec.cutover.resources == Resources::Users;
    let rights = rights::RIGHTS.iter().filter(move |right| brings || right.why != rights::BRING);
    match rights::lacks(cluster, migration, rights).await {
        Ok(lacks) => lacks.iter().map(|lack| lacking(cluster, migration, lack)).collect(),
        Err(error) => vec![unseen(cluster.side, "your rights", &error)],
    }
}

fn lacking(cluster: &Cluster, migration: &Migration, lack: &Lack) -> Finding {
    let severity = match lack.right.need {
        Need::IfThere | Need::Tidiness | Need::Useful => Severity::Warning,
        Need::Cutover => Severity::Cutover,
        Need::Stage => Severity::Blocking,
    };
    let place = match lack.right.scope {
        Scope::Namespace => format!("in namespace {}", migration.namespace(cluster.side)),
        Scope::Cluster => "in the whole cluster".to_owned(),
    };
    let group = if lack.right.group.is_empty() { String::new() } else { format!(".{}", lack.right.group) };
    let what = format!("{} {}{group} {place}", lack.verbs.join(", "), lack.right.resource);
    let why = format!("you may not {what}, which is needed {}", lack.right.why);
    Finding::new("TS-K104", severity, why, format!("have an administrator allow you to {what}")).at(cluster.side)
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
