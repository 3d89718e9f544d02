//! What is seen of a record: `status`, and what other commands say at their end.

use std::time::Duration;

use serde_json::Value;
use tranship_api::Side;
use tranship_api::record::{Authority, Path, Record, StageRecord, Timeline};
use tranship_api::view::{Resident, Running, SideView, View};
use tranship_coordinator::cutover::{Verdict, downtime_seconds};
use tranship_coordinator::pair::Outcome;
use tranship_coordinator::{Ledger, observe, resident};

use super::args::StatusArgs;
use super::{Context, find};
use crate::error::RunError;
use crate::exit::Exit;
use crate::human;
use crate::print::Printer;
use crate::so_far::SoFar;

/// Between two looks of `status --watch`.
const LOOK: Duration = Duration::from_secs(2);

/// Lines of history that people are shown.
const HISTORY_LINES: usize = 10;

/// Passes that people are shown.
const PASS_LINES: usize = 10;

/// `status`.
pub(crate) async fn status(args: StatusArgs, context: Context) -> Result<Exit, RunError> {
    let (mut last, mut complaint) = (None, None);
    loop {
        match look(&args).await {
            Ok(view) => {
                if last.as_ref() != Some(&view) {
                    context.printer.line(&text(&view));
                    context.printer.json(&view);
                }
                (last, complaint) = (Some(view), None);
            }
            // Whoever watches for days sees an API server come and go.
            Err(error) if args.watch && last.is_some() && error.may_pass() => {
                let says = error.to_string();
                if complaint.as_ref() != Some(&says) {
                    context.printer.aside(&format!("it cannot be seen now, and is looked at again: {says}"));
                }
                complaint = Some(says);
            }
            Err(error) => return Err(error),
        }
        if !args.watch {
            return Ok(Exit::Done);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = context.stop.wait() => return Ok(Exit::Done),
        }
    }
}

/// Everything that is to be seen now.
async fn look(args: &StatusArgs) -> Result<View, RunError> {
    let ledger = find::ledger(&args.named).await?;
    let (running, resident) =
        tokio::join!(observe::running(&ledger), resident::seen(ledger.cluster(Side::Source), &ledger.record));
    Ok(View { resident, ..view(&ledger, running) })
}

/// What is shown of a record.
fn view(ledger: &Ledger, running: Vec<Option<Running>>) -> View {
    let sides = Side::ALL.map(|side| SideView {
        context: ledger.cluster(side).context.clone(),
        namespace: ledger.record.namespace(side).to_owned(),
        authority: ledger.authority(side).cloned(),
        unknown: ledger.why_unknown(side).map(str::to_owned),
    });
    View::new(&ledger.record, sides, running, downtime_seconds(&ledger.record))
}

/// Prints where a migration stands.
pub(super) fn print(ledger: &Ledger, printer: Printer) {
    let view = view(ledger, Vec::new());
    printer.line(&text(&view));
    printer.json(&view);
}

/// Prints how a cutover went.
pub(super) fn print_cutover(ledger: &Ledger, verdict: &Verdict, printer: Printer) {
    let record = &ledger.record;
    if let Some(proof) = &record.proof {
        for (volume, proof) in record.volumes.iter().zip(&proof.volumes) {
            let digest = proof["canonical"].as_str().unwrap_or_default();
            printer.line(&format!("PROVEN  {}  {digest}", volume.claim(Side::Source).name));
        }
    }
    printer.line(&timeline(&record.timeline));
    match verdict {
        Verdict::Done => printer.line(&format!("the application runs on the {}", record.owner)),
        Verdict::NothingToStart => {
            printer.line(&format!("the volumes are the {}'s; nothing was to be started there", record.owner));
        }
        Verdict::NotReady(waiting) => {
            printer.line(&format!("the application belongs to the {} now, and is not ready there yet:", record.owner));
            waiting.iter().for_each(|what| printer.line(&format!("  {what}")));
            let name = &record.migration.metadata.name;
            printer.line(&format!("everything is kept; `tranship rollback {name}` brings it back"));
        }
    }
    printer.json(&view(ledger, Vec::new()));
}

/// Prints how a pass went.
pub(super) fn print_pass(record: &Record, outcome: &Outcome, printer: Printer) {
    let stage = &outcome.stage;
    let name = &record.volumes[stage.volume].claim(record.owner).name;
    let way = stage.path.as_ref().map_or(String::new(), |path| {
        let relayed = if path.is_relayed { " through the API servers" } else { "" };
        format!(" over {}{relayed}", path.transport)
    });
    let gaps = gaps(stage);
    match &stage.error {
        None => printer.line(&format!(
            "{name}: stage {} took {}, {} of {} sent{way}{gaps}",
            stage.stage,
            human::seconds(stage.seconds),
            human::bytes(stage.sent),
            human::bytes(stage.bytes),
        )),
        Some(error) => printer.line(&format!("{name}: FAILED: {error}")),
    }
    printer.json(&serde_json::json!({ "volume": name, "stage": stage, "report": outcome.report }));
}

/// What a pass could not carry, in words.
fn gaps(stage: &StageRecord) -> String {
    let kinds: Vec<String> =
        stage.gaps.iter().map(|(kind, count)| format!("{kind} ({})", human::count(*count))).collect();
    if kinds.is_empty() { String::new() } else { format!(", gaps: {}", kinds.join(", ")) }
}

/// A pass that failed, as the error of a command.
pub(super) fn pass_error(record: &Record, outcome: &Outcome) -> RunError {
    let name = &record.volumes[outcome.stage.volume].claim(record.owner).name;
    let text = |field: &str| outcome.error.as_ref().and_then(|error| error.get(field)).and_then(Value::as_str);
    let message = format!("{name}: {}", text("message").unwrap_or("the pass ended without a word"));
    let error = RunError::failed(text("code").unwrap_or("TS-K930").to_owned(), message);
    match text("hint") {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn text(view: &View) -> String {
    let mut lines = vec![format!("{}: {}, the application is with the {}", view.name, view.phase, view.owner)];
    for (side, seen) in Side::ALL.into_iter().zip(&view.sides) {
        let says = match (&seen.authority, &seen.unknown) {
            (Some(Authority::Authoritative { epoch, .. }), _) => format!("authoritative since epoch {epoch}"),
            (Some(Authority::Relinquished { epoch, .. }), _) => format!("gave up in epoch {epoch}"),
            (Some(Authority::None), _) => "waiting".to_owned(),
            (None, why) => format!("NOT KNOWN: {}", why.as_deref().unwrap_or("it does not answer")),
        };
        lines.push(format!("  {:<12} {} namespace {}: {says}", side.word(), seen.context, seen.namespace));
    }
    for volume in &view.volumes {
        let [source, destination] = &volume.claims;
        let name = if source == destination { source.clone() } else { format!("{source} → {destination}") };
        let last = match &volume.last {
            None => "no pass yet".to_owned(),
            Some(stage) => match &stage.error {
                Some(error) => format!("last pass FAILED: {error}{}", gaps(stage)),
                None => format!(
                    "stage {} at {:.0}, {} of {} sent in {}{}",
                    stage.stage,
                    stage.at,
                    human::bytes(stage.sent),
                    human::bytes(stage.bytes),
                    human::seconds(stage.seconds),
                    gaps(stage)
                ),
            },
        };
        let running = volume
            .running
            .as_ref()
            .map_or(String::new(), |one| format!("\n{:15}running: {}", "", SoFar::from(one).sentence()));
        let change =
            volume.change_bytes_per_second.map_or(String::new(), |rate| format!(", changes {}", human::rate(rate)));
        lines.push(format!("  {:<12} {name}: {last}{change}{running}", volume.kind));
        lines.extend(volume.path.as_ref().map(|path| format!("{:15}{}", "", way(path, volume.last.as_ref()))));
    }
    if let Some(seconds) = view.projected_downtime_seconds {
        lines.push(format!("  projected downtime {}, proof level {}", human::seconds(seconds), view.verify));
    }
    lines.extend(view.resident.iter().map(|resident| format!("  coordinator  {}", resident_text(resident))));
    lines.extend(view.stages.iter().rev().take(PASS_LINES).rev().map(|stage| pass(view, stage)));
    let history = view.history.iter().rev().take(HISTORY_LINES).rev();
    lines.extend(history.map(|happened| format!("  {:.0}  {}", happened.at, happened.what)));
    let stopped = view.stopped_since.iter();
    lines.extend(
        stopped.map(|since| {
            format!("  the application was stopped at {since:.0}, and stands still until somebody goes on")
        }),
    );
    lines.extend(view.next.iter().map(|next| format!("  next: {next}")));
    lines.join("\n")
}

/// How agents met, and the rate at which their last pass sent.
fn way(path: &Path, last: Option<&StageRecord>) -> String {
    let met = match path.is_relayed {
        true => "through both API servers and this machine".to_owned(),
        false => format!("the {} listens at {}", path.listen, path.address),
    };
    let rate = last.filter(|stage| stage.seconds > 0.0 && stage.path.as_ref() == Some(path));
    let rate = rate.map_or(String::new(), |stage| format!(", {}", human::rate(stage.sent as f64 / stage.seconds)));
    format!("path: {met}, {}{rate}", path.transport)
}

/// A pass that is over, as one line.
fn pass(view: &View, stage: &StageRecord) -> String {
    let name = view.volumes.get(stage.volume).map_or("", |volume| &volume.claims[0]);
    let result = match &stage.error {
        Some(error) => format!("FAILED: {error}"),
        None => format!("{} sent in {}", human::bytes(stage.sent), human::seconds(stage.seconds)),
    };
    format!("  {:.0}  {name}: {}, {result}{}", stage.at, stage.title(), gaps(stage))
}

/// The coordinator in the cluster.
fn resident_text(resident: &Resident) -> String {
    let mut text = match (&resident.pod, &resident.phase) {
        (Some(pod), phase) => format!("pod {pod} in the cluster: {}", phase.as_deref().unwrap_or("it has no phase")),
        (None, _) => "in the cluster: there is no pod of it".to_owned(),
    };
    let is_again = resident.phase.as_deref() == Some("Running");
    text.extend(resident.says.iter().map(|says| format!("{}{says}", if is_again { " again, after: " } else { ", " })));
    text.extend(resident.cuts_over_at.map(|at| format!("; it cuts over at {at:.0}")));
    if !resident.leads {
        text.push_str("; somebody has taken over from it");
    }
    text
}

/// The downtime of a cutover, step by step.
pub(super) fn timeline(timeline: &Timeline) -> String {
    let Some(began) = timeline.stopping else { return String::new() };
    let mut last = began;
    let mut parts = Vec::new();
    for (name, at) in [
        ("stop and release", timeline.released),
        ("final pass and proof", timeline.proven),
        ("commit", timeline.committed),
        ("start until ready", timeline.ready),
    ] {
        let Some(at) = at else { continue };
        parts.push(format!("{name} {}", human::seconds(at.duration_since(last).as_secs_f64())));
        last = at;
    }
    let all = human::seconds(last.duration_since(began).as_secs_f64());
    format!("downtime {all}: {}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tranship_api::migration::{Migration, Mode};
    use tranship_api::record::VolumeRecord;

    use super::*;

    fn volume(name: &str) -> VolumeRecord {
        serde_json::from_value(json!({"claims": [{"name": name}, {"name": name}], "isBlock": false})).expect("a volume")
    }

    fn stage(volume: usize, stage: u64, error: Option<&str>, path: Option<(&str, &str)>) -> StageRecord {
        let path = path.map(|(transport, address)| {
            json!({"listen": "destination", "isRelayed": false, "transport": transport, "address": address})
        });
        let pass = json!({"volume": volume, "pass": "1", "at": "2026-01-02T03:04:05Z", "exit": 0, "error": error,
            "stage": stage, "seconds": 2.0, "bytes": 4 << 20, "sent": 2 << 20, "path": path});
        serde_json::from_value(pass).expect("a pass")
    }

    #[test]
    fn status_tells_of_each_volume_its_own_path_and_rate_and_of_all_their_last_passes() {
        let volumes = vec![volume("data"), volume("logs")];
        let mut record = Record::new(
            String::new(),
            String::new(),
            Migration::new("move", "shop"),
            Default::default(),
            Mode::Plain,
            volumes,
        );
        record.passed(stage(0, 1, None, Some(("quic", "10.0.0.1:1"))));
        record.passed(stage(1, 1, None, Some(("tcp", "10.0.0.2:2"))));
        record.passed(stage(1, 2, Some("TS-E230: it is full"), None));
        let side = SideView { context: String::new(), namespace: String::new(), authority: None, unknown: None };
        let text = text(&View::new(&record, [side.clone(), side], Vec::new(), None));
        for line in [
            "path: the destination listens at 10.0.0.1:1, quic, 1.00 MiB/s",
            // The pass that failed before its agents met says nothing of a rate.
            "path: the destination listens at 10.0.0.2:2, tcp",
            "2026-01-02T03:04:05Z  data: stage 1, 2.00 MiB sent in 2.00 s",
            "2026-01-02T03:04:05Z  logs: stage 2, FAILED: TS-E230: it is full",
        ] {
            assert!(text.lines().any(|shown| shown.trim() == line), "{line} is not in\n{text}");
        }
    }
}
