//! What comes along with the claims, and what stands in its place at the destination.

use tranship_api::{Finding, ObjectRef, Record, Severity, Side};

use super::unseen;
use crate::workload::Survey;
use crate::{Cluster, Error, bring};

/// Plans what would be brought now, as a cutover does, and says what keeps it from being made.
pub(super) async fn look(clusters: &[Cluster; 2], record: &Record, survey: &Survey) -> Vec<Finding> {
    let [source, destination] = clusters;
    let workloads: Vec<ObjectRef> = survey.workloads.iter().map(|workload| workload.object.clone()).collect();
    let manifests = match bring::plan(source, record, &workloads).await {
        Ok(manifests) => manifests,
        Err(error) => return judge(Side::Source, "what comes along", error).into_iter().collect(),
    };
    match bring::conflicts(destination, record, &manifests).await {
        Ok(findings) => findings,
        Err(error) => judge(Side::Destination, "what is there already", error).into_iter().collect(),
    }
}

/// What a refusal means: that of a plan refuses the cutover; that a right is lacking is said already.
fn judge(side: Side, what: &str, error: Error) -> Option<Finding> {
    match error {
        error if error.is_forbidden() => None,
        Error::Refused { code, what, todo } => Some(Finding::new(code, Severity::Cutover, what, todo).at(side)),
        error => Some(unseen(side, what, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_that_is_refused_refuses_the_cutover() {
        let error = Error::refused("TS-K253", "it would start with an empty claim", "move it too");
        let finding = judge(Side::Source, "what comes along", error).expect("a finding");
        assert_eq!((finding.code.as_str(), finding.severity), ("TS-K253", Severity::Cutover));
        let lost = Error::Unreachable { side: Side::Destination, what: "get".to_owned(), source: None };
        let finding = judge(Side::Destination, "what is there already", lost).expect("a finding");
        assert_eq!(finding.code, "TS-K100");
    }
}
