//! The preflight right before a cutover or a rollback: without what the stage that follows shows by itself.

use tranship_api::{Findings, Record, Severity, Side};

use super::{Subject, clusters, course, once};
use crate::Cluster;

/// What a user does without in a cutover: what is lacking for it is worth a warning, and refuses nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Waived {
    /// A fence that keeps pods away.
    pub fence: bool,
    /// Passes.
    pub passes: bool,
}

/// Looks again at what matters to a cutover from the record's owner. Workloads are not looked at: a cutover does that
/// itself.
pub async fn before_cutover(clusters: &[Cluster; 2], record: &Record, waived: Waived) -> Findings {
    let [from, to] = clusters;
    let subject = Subject::Recorded(record);
    let migration = subject.migration();
    let look = async {
        match record.owner {
            Side::Source => course::outward(clusters, subject, &migration, waived).await.findings,
            Side::Destination => course::homeward(clusters, subject, &migration, waived).await.findings,
        }
    };
    let (greeted_from, greeted_to, seen) = tokio::join!(clusters::greet(from), clusters::greet(to), look);
    // One that does not answer says so once, not once for each call.
    let is_reached = greeted_from.is_reached && greeted_to.is_reached;
    let mut findings = [greeted_from.findings, greeted_to.findings].concat();
    findings.extend(seen.into_iter().filter(|_| is_reached));
    for finding in findings.iter_mut().filter(|finding| waived.fence && finding.code == clusters::NO_FENCE) {
        finding.severity = Severity::Warning;
    }
    once(Findings(findings))
}
