//! Fences of other migrations around the claims: no pod that names one would start, an agent's or the application's.

use tranship_api::{Finding, Severity, Side};

use super::{claim_ref, unseen};
use crate::Cluster;
use crate::fence::{self, Need, Standing};

/// Fences around claims of a namespace, and what could not be read.
pub(super) type Seen = (Vec<Standing>, Vec<Finding>);

/// Looks for fences in this cluster.
pub(super) async fn look(cluster: &Cluster, namespace: &str) -> Seen {
    match fence::standing(cluster, namespace).await {
        Ok(standing) => (standing, Vec::new()),
        // That the right is lacking is said already.
        Err(error) if error.is_forbidden() => (Vec::new(), Vec::new()),
        Err(error) => (Vec::new(), vec![unseen(cluster.side, "the fences", &error)]),
    }
}

/// What there is to say of those that `id` has not raised, if one of `claims` is within them.
pub(super) fn judge(
    standing: &[Standing],
    id: Option<&str>,
    side: Side,
    context: &str,
    namespace: &str,
    claims: &[&str],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for fence in standing.iter().filter(|fence| Some(fence.id.as_str()) != id) {
        let name = &fence.migration;
        let (whose, todo) = match fence.need {
            Need::Migration => {
                (format!("migration {name}"), format!("end that one first, with `tranship finish {name} --lift-fence`"))
            }
            Need::Kept => (
                format!("migration {name}, which is finished,"),
                format!("`tranship finish {name} --lift-fence --from {context} --namespace {namespace}` lifts it"),
            ),
            Need::Nobody => (
                format!("migration {name}, of which nothing else is left,"),
                format!("`tranship cleanup --context {context} --namespace {namespace} --remove` takes it away"),
            ),
        };
        for claim in claims.iter().filter(|claim| fence.holds(claim)) {
            let why = format!("a fence of {whose} refuses every pod that names this claim");
            let finding = Finding::new("TS-K140", Severity::Blocking, why, todo.clone());
            findings.push(finding.at(side).on(claim_ref(namespace, claim)));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_of_another_migration_is_named_with_the_command_that_takes_it_away() {
        for (need, id, claim, expected) in [
            (Need::Nobody, "other", "data", Some("`tranship cleanup --context old --namespace shop --remove`")),
            (Need::Kept, "other", "data", Some("`tranship finish move --lift-fence --from old --namespace shop`")),
            (Need::Migration, "other", "data", Some("`tranship finish move --lift-fence`")),
            (Need::Nobody, "other", "elsewhere", None),
            (Need::Migration, "ours", "data", None),
        ] {
            let standing = [Standing::example("move", id, "data", need)];
            let found = judge(&standing, Some("ours"), Side::Source, "old", "shop", &[claim]);
            let todo = found.first().map(|finding| finding.todo.as_str());
            assert_eq!(todo.is_some(), expected.is_some(), "{found:?}");
            assert!(todo.unwrap_or_default().contains(expected.unwrap_or_default()), "{found:?}");
            assert!(found.iter().all(|finding| finding.severity == Severity::Blocking));
        }
    }
}
