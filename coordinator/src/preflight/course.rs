//! What matters on the course that the application takes: outward, to the destination, or homeward.
//!
//! It is what a stage does not show by itself, so that it is looked at again before a cutover.

use k8s_openapi::api::core::v1::Pod;
use tranship_api::record::VolumeRecord;
use tranship_api::{Finding, Migration, Side};

use super::{Subject, Waived, destination, fences, review, source};
use crate::{Cluster, claims};

/// What was seen for the course outward.
pub(super) struct Outward {
    pub(super) from: source::Seen,
    pub(super) to: destination::Seen,
    /// The volumes, with every choice made that can be made.
    pub(super) volumes: Vec<VolumeRecord>,
    pub(super) findings: Vec<Finding>,
}

/// Looks at the claims of the source, and at whether the destination can have them.
pub(super) async fn outward(
    clusters: &[Cluster; 2],
    subject: Subject<'_>,
    migration: &Migration,
    waived: Waived,
) -> Outward {
    let [source, destination] = clusters;
    let (lacks_from, lacks_to, from, to, fences_from, fences_to) = tokio::join!(
        review(source, migration, true, waived),
        review(destination, migration, true, waived),
        source::look(source, migration),
        destination::look(destination, migration),
        fences::look(source, migration.namespace(Side::Source)),
        fences::look(destination, migration.namespace(Side::Destination)),
    );
    let volumes = match subject.volumes() {
        Some(volumes) => volumes.to_vec(),
        None => {
            let mut volumes: Vec<VolumeRecord> =
                from.claims.claims.iter().map(|claim| claims::volume_of(claim, migration)).collect();
            claims::choose_classes(&mut volumes, &to.classes);
            volumes
        }
    };
    let mut findings = [lacks_from, lacks_to].concat();
    findings.extend(from.findings.iter().chain(&to.findings).cloned());
    findings.extend(source::judge(&from, Side::Source, migration));
    findings.extend(source::companions(&from, migration, &to.claims));
    findings.extend(destination::judge(&to, &from, migration, subject.id(), &volumes));
    findings.extend(fenced(clusters, subject, migration, &volumes, [fences_from, fences_to]));
    Outward { from, to, volumes, findings }
}

/// What was seen for the course homeward.
pub(super) struct Homeward {
    /// Pods beside the application's.
    pub(super) pods: Vec<Pod>,
    pub(super) findings: Vec<Finding>,
}

/// Looks at the claims of both sides: they are there, and ours. Nothing is made and nothing is brought.
pub(super) async fn homeward(
    clusters: &[Cluster; 2],
    subject: Subject<'_>,
    migration: &Migration,
    waived: Waived,
) -> Homeward {
    let [source, destination] = clusters;
    let (lacks_from, lacks_to, home, away, fences_from, fences_to) = tokio::join!(
        review(source, migration, false, waived),
        review(destination, migration, false, waived),
        source::look(source, migration),
        source::look(destination, migration),
        fences::look(source, migration.namespace(Side::Source)),
        fences::look(destination, migration.namespace(Side::Destination)),
    );
    let mut findings = [lacks_from, lacks_to].concat();
    for (side, seen) in Side::ALL.into_iter().zip([&home, &away]) {
        findings.extend(seen.findings.iter().cloned());
        findings.extend(source::judge(seen, side, migration));
    }
    let volumes = subject.volumes().unwrap_or_default();
    findings.extend(fenced(clusters, subject, migration, volumes, [fences_from, fences_to]));
    Homeward { pods: away.pods, findings }
}

/// What fences of others mean for the claims of both sides.
fn fenced(
    clusters: &[Cluster; 2],
    subject: Subject<'_>,
    migration: &Migration,
    volumes: &[VolumeRecord],
    fences: [fences::Seen; 2],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (side, (standing, unread)) in Side::ALL.into_iter().zip(fences) {
        let claims: Vec<&str> = volumes.iter().map(|volume| volume.claim(side).name.as_str()).collect();
        let (context, namespace) = (&clusters[side as usize].context, migration.namespace(side));
        findings.extend(unread);
        findings.extend(fences::judge(&standing, subject.id(), side, context, namespace, &claims));
    }
    findings
}
