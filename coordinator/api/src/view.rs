//! What is shown of a migration: the one form that the command line prints, scripts read, and a page would draw.

use jiff::Timestamp;
use serde::Serialize;

use crate::object::Side;
use crate::record::{Authority, Commit, Dropped, Path, Proof, Record, StageRecord, Step, Timeline};

/// Version of this form. Fields are added, never renamed or reused.
pub const VERSION: u32 = 1;

/// A migration as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct View {
    /// [`VERSION`].
    pub version: u32,
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// What it is doing, in one or two words.
    pub phase: &'static str,
    /// Who has the application.
    pub owner: Side,
    /// Each cluster, with what it says of the right to run the application.
    pub sides: [SideView; 2],
    /// The volumes.
    pub volumes: Vec<VolumeView>,
    /// Seconds of downtime that a cutover would cost now.
    pub projected_downtime_seconds: Option<f64>,
    /// Level of proof that a cutover asks for.
    pub verify: &'static str,
    /// How the agents beside any of them met last.
    pub path: Option<Path>,
    /// The proof of the last cutover.
    pub proof: Option<Proof>,
    /// Cutovers and rollbacks that were committed, oldest first.
    pub commits: Vec<Commit>,
    /// The timeline of the cutover that runs, or ran last.
    pub timeline: Timeline,
    /// The epoch, and who has it.
    pub epoch: u64,
    /// Who has the epoch.
    pub coordinator: String,
    /// The coordinator in the source's cluster, where one was made.
    pub resident: Option<Resident>,
    /// Since when a cutover that did not end has had the application stopped.
    pub stopped_since: Option<Timestamp>,
    /// What to do next, as a command; nothing where there is nothing to do.
    pub next: Option<String>,
    /// The last passes, oldest first.
    pub stages: Vec<StageRecord>,
    /// What happened, oldest first.
    pub history: Vec<crate::record::Happening>,
    /// What is not remembered any more.
    pub dropped: Dropped,
}

/// A cluster as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SideView {
    /// The context by which it was reached.
    pub context: String,
    /// The application's namespace.
    pub namespace: String,
    /// What it says; nothing if it does not answer.
    pub authority: Option<Authority>,
    /// Why it does not answer.
    pub unknown: Option<String>,
}

/// A coordinator that lives in the source's cluster, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resident {
    /// Its pod; nothing if there is none.
    pub pod: Option<String>,
    /// The pod's phase, as the cluster has it.
    pub phase: Option<String>,
    /// Why it does not run, or did not the last time.
    pub says: Option<String>,
    /// Whether it has the epoch: nobody has taken over from it.
    pub leads: bool,
    /// When it begins a cutover, where that is still to come.
    pub cuts_over_at: Option<Timestamp>,
}

/// A volume as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VolumeView {
    /// Names of the claims: source, destination.
    pub claims: [String; 2],
    /// `tree` or `block`.
    pub kind: &'static str,
    /// The pass that runs over it, if one does and can be heard.
    pub running: Option<Running>,
    /// Its last pass.
    pub last: Option<StageRecord>,
    /// How the agents beside it met last.
    pub path: Option<Path>,
    /// When a pass was last committed.
    pub staged_at: Option<Timestamp>,
    /// Bytes per second by which it changes.
    pub change_bytes_per_second: Option<f64>,
    /// Seconds of a final pass, as predicted.
    pub predicted_seconds: Option<f64>,
}

/// How far a pass is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Running {
    /// What it does, in a word.
    pub phase: String,
    /// Entries that are done in this phase.
    pub entries_done: u64,
    /// Entries of this phase; 0 while it is not known.
    pub entries_total: u64,
    /// Bytes that are done in this phase.
    pub bytes_done: u64,
    /// Bytes of this phase; 0 while it is not known.
    pub bytes_total: u64,
    /// Bytes that were given to the link.
    pub bytes_sent: u64,
    /// Pace of this phase, smoothed.
    pub bytes_per_second: f64,
    /// Until the end of this phase at this pace, if that can be said.
    pub seconds_left: Option<f64>,
}

impl View {
    /// What is shown of a record. `sides` is what is known of the clusters beside it, `running` what runs over each volume.
    pub fn new(
        record: &Record,
        sides: [SideView; 2],
        running: Vec<Option<Running>>,
        projected_downtime_seconds: Option<f64>,
    ) -> Self {
        let volume = |(at, volume): (usize, &crate::record::VolumeRecord)| {
            let of_volume = || record.stages.iter().filter(move |stage| stage.volume == at);
            VolumeView {
                claims: volume.claims.each_ref().map(|claim| claim.name.clone()),
                running: running.get(at).cloned().flatten(),
                kind: if volume.is_block { "block" } else { "tree" },
                last: of_volume().next_back().cloned(),
                path: record.path_of(at).cloned(),
                staged_at: of_volume().rfind(|stage| stage.exit == 0).map(|stage| stage.at),
                change_bytes_per_second: volume.change_bytes_per_second,
                predicted_seconds: volume.predicted_seconds,
            }
        };
        Self {
            version: VERSION,
            name: record.migration.metadata.name.clone(),
            id: record.id.clone(),
            phase: phase(record),
            owner: record.owner,
            volumes: record.volumes.iter().enumerate().map(volume).collect(),
            projected_downtime_seconds,
            verify: record.migration.spec.cutover.verify.word(),
            path: record.path.clone(),
            proof: record.proof.clone(),
            commits: record.commits.clone(),
            timeline: record.timeline,
            epoch: record.epoch,
            coordinator: record.coordinator.clone(),
            resident: None,
            stopped_since: record.stopped_since(),
            next: next(record, &sides),
            sides,
            stages: record.stages.clone(),
            history: record.history.clone(),
            dropped: record.dropped,
        }
    }
}

fn phase(record: &Record) -> &'static str {
    match (record.step, record.owner) {
        (Step::Staging, Side::Destination) => "cut over",
        (Step::Staging, Side::Source) if record.stages.is_empty() => "created",
        (step, _) => step.word(),
    }
}

/// The command that goes on from where a record stands. While the application may be stopped it is one that any machine
/// understands.
fn next(record: &Record, sides: &[SideView; 2]) -> Option<String> {
    let name = &record.migration.metadata.name;
    let (on, back) = (record.command_on(), record.command_back());
    let lost = sides[record.owner as usize].authority.is_none();
    match (record.step, record.owner) {
        (Step::Staging, Side::Source) if record.stages.is_empty() => Some(format!("tranship stage {name}")),
        (Step::Staging, Side::Source) => Some(format!("tranship cutover {name}")),
        (Step::Staging, Side::Destination) => Some(format!("tranship finish {name}, or tranship rollback {name}")),
        (Step::Proven | Step::Relinquished, _) if lost => {
            Some(format!("{on}, or with --override-lost-owner if the old cluster is lost for good"))
        }
        (Step::Relinquished | Step::Starting, _) => Some(on),
        (Step::Fencing | Step::Quiescing | Step::FinalPass | Step::Proven | Step::Restoring, _) => {
            Some(format!("`{on}` goes on, `{back}` takes it back"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::{Migration, Mode};

    fn at(step: Step) -> View {
        of(step, Side::Source)
    }

    fn of(step: Step, owner: Side) -> View {
        let mut migration = Migration::new("move", "shop");
        migration.spec.source.context = Some("old".to_owned());
        migration.spec.destination.context = Some("new".to_owned());
        migration.spec.destination.namespace = Some("store".to_owned());
        let mut record = Record::new(String::new(), String::new(), migration, Default::default(), Mode::Plain, vec![]);
        record.step = step;
        record.owner = owner;
        record.timeline.stopping = Some(Timestamp::UNIX_EPOCH);
        let first = Authority::Authoritative { epoch: 0, relinquished: None };
        let side = SideView { context: String::new(), namespace: String::new(), authority: Some(first), unknown: None };
        View::new(&record, [side.clone(), side], Vec::new(), None)
    }

    #[test]
    fn a_rollback_is_gone_on_with_by_rollback_and_taken_back_by_cutover() {
        for (owner, on, back) in [(Side::Source, "cutover", "rollback"), (Side::Destination, "rollback", "cutover")] {
            let next = |step| of(step, owner).next.expect("a command");
            let on_and_back = next(Step::FinalPass);
            assert!(on_and_back.starts_with(&format!("`tranship {on} move ")), "{on_and_back}");
            assert!(on_and_back.contains(&format!("goes on, `tranship {back} move ")), "{on_and_back}");
            assert!(next(Step::Starting).starts_with(&format!("tranship {on} move ")), "{}", next(Step::Starting));
        }
    }

    #[test]
    fn an_application_that_stands_still_is_said_to_with_commands_for_any_machine() {
        use Step::{FinalPass, Proven, Quiescing, Relinquished, Restoring, Starting};
        for step in [Quiescing, FinalPass, Proven, Restoring, Relinquished, Starting] {
            let view = at(step);
            let next = view.next.expect("a command");
            assert_eq!(view.stopped_since, Some(Timestamp::UNIX_EPOCH), "{step:?}");
            assert!(next.contains("tranship cutover move --from old --to new --namespace shop:store"), "{next}");
            let is_back = next.contains("tranship rollback move --from old --to new --namespace shop:store");
            assert_eq!(is_back, !step.is_committed(), "{next}");
        }
        for step in [Step::Staging, Step::Fencing] {
            assert_eq!(at(step).stopped_since, None);
        }
    }
}
