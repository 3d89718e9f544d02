//! What stands in the way of a cutover: asked for before it begins, and once more before anything is stopped.

use tranship_api::migration::Quiesce;
use tranship_api::{Finding, Severity, Side};

use super::Options;
use crate::Error;
use crate::ledger::Ledger;
use crate::preflight::{Waived, before_cutover};
use crate::watch::Watch;
use crate::workload::{self, Survey};

/// Who uses the volumes of this side, and what would start it again.
pub(super) async fn survey(ledger: &Ledger, side: Side) -> Result<Survey, Error> {
    let record = &ledger.record;
    let all = record.migration.spec.cutover.quiesce == Quiesce::All;
    workload::survey(ledger.cluster(side), record.namespace(side), &record.claims(side), all).await
}

/// Looks at both sides before anything is done: refused (TS-K958) if something stands in the way, told if it should be
/// known. Returns who uses the volumes now.
pub(super) async fn look(ledger: &Ledger, options: &Options, watch: &Watch) -> Result<Survey, Error> {
    let record = &ledger.record;
    let clusters = Side::ALL.map(|side| ledger.cluster(side).clone());
    let waived = Waived { fence: options.accepts_weak_fence, passes: options.discards_writes };
    let (found, survey) = tokio::join!(before_cutover(&clusters, record, waived), survey(ledger, record.owner));
    let obstacles = survey.as_ref().map(|survey| survey.obstacles.clone()).unwrap_or_default();
    let severe: Vec<&Finding> = found.0.iter().chain(&obstacles).filter(|finding| is_severe(finding)).collect();
    if let Some(refusal) = refusal(&severe, &record.command("preflight")) {
        return Err(refusal);
    }
    let survey = survey?;
    found.0.iter().filter(|finding| finding.severity == Severity::Warning).for_each(|finding| note(finding, watch));
    obstacles.iter().for_each(|finding| note(finding, watch));
    Ok(survey)
}

/// Looks at what was surveyed right before it is stopped: refused (TS-K944) if something stands in the way. What was told
/// before the cutover began is not told again.
pub(super) fn look_again(survey: &Survey, told: &[Finding], watch: &Watch) -> Result<(), Error> {
    if let Some(obstacle) = survey.obstacles.iter().find(|finding| is_severe(finding)) {
        return Err(Error::refused("TS-K944", obstacle.to_string(), obstacle.todo.clone()));
    }
    survey.obstacles.iter().filter(|finding| !told.contains(finding)).for_each(|finding| note(finding, watch));
    Ok(())
}

fn is_severe(finding: &Finding) -> bool {
    finding.severity >= Severity::Cutover
}

fn note(finding: &Finding, watch: &Watch) {
    let is_nothing = finding.todo.is_empty() || finding.todo == "nothing";
    let todo = if is_nothing { String::new() } else { format!(" ({})", finding.todo) };
    watch.note(format!("{finding}{todo}"));
}

/// Names all that stands in the way; nothing if nothing does.
fn refusal(severe: &[&Finding], command: &str) -> Option<Error> {
    let (what, todo) = match severe {
        [] => return None,
        [one] => (format!("something stands in the way of a cutover: {one}"), one.todo.clone()),
        all => {
            let names: Vec<String> = all.iter().map(ToString::to_string).collect();
            let what = format!("{} things stand in the way of a cutover: {}", all.len(), names.join("; "));
            (what, format!("`{command}` says for each of them what to do"))
        }
    };
    Some(Error::refused("TS-K958", what, todo))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::watch::Update;

    fn finding(code: &'static str, severity: Severity) -> Finding {
        Finding::new(code, severity, format!("{code} is so"), format!("do something about {code}"))
    }

    fn survey(obstacles: &[Finding]) -> Survey {
        Survey { obstacles: obstacles.to_vec(), ..Survey::default() }
    }

    fn notes(mut updates: UnboundedReceiver<Update>) -> Vec<String> {
        let next = || updates.try_recv().ok();
        let notes = std::iter::from_fn(next).map(|update| match update {
            Update::Note(what) => what,
            other => format!("{other:?}"),
        });
        notes.collect()
    }

    #[test]
    fn everything_in_the_way_is_named_at_once() {
        let (one, other) = (finding("TS-K303", Severity::Cutover), finding("TS-K112", Severity::Blocking));
        assert!(refusal(&[], "tranship preflight shop").is_none());
        let error = refusal(&[&one], "tranship preflight shop").expect("a refusal");
        assert_eq!((error.code(), error.todo()), ("TS-K958", Some("do something about TS-K303")));
        let error = refusal(&[&one, &other], "tranship preflight shop").expect("a refusal");
        let said = error.to_string();
        assert!(said.contains("TS-K303 is so; ") && said.contains("TS-K112 is so"), "{said}");
        assert!(error.todo().is_some_and(|todo| todo.contains("`tranship preflight shop`")));
    }

    #[test]
    fn what_came_in_between_refuses_and_what_was_told_is_not_told_again() {
        let (old, new) = (finding("TS-K300", Severity::Info), finding("TS-K311", Severity::Warning));
        let (sender, updates) = unbounded_channel();
        let told = look_again(&survey(&[old.clone(), new]), &[old], &Watch::new(sender));
        assert!(told.is_ok());
        assert_eq!(notes(updates), ["TS-K311 TS-K311 is so (do something about TS-K311)"]);
        let severe = [finding("TS-K306", Severity::Cutover)];
        let refused = look_again(&survey(&severe), &severe, &Watch::nobody()).expect_err("it stands in the way");
        assert!(refused.code() == "TS-K944" && refused.to_string().contains("TS-K306"), "{refused}");
    }
}
