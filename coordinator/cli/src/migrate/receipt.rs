//! `receipt`: the history with every proof, as JSON and as a page of Markdown.

use std::fs;

use serde_json::Value;
use tranship_api::Side;
use tranship_api::record::{Commit, Record, StageRecord, VolumeRecord};

use super::args::NamedArgs;
use super::status::timeline;
use super::{Context, find};
use crate::error::RunError;
use crate::exit::Exit;
use crate::human;
use crate::options::Environment;
use crate::print::Printer;

/// `receipt`.
pub(crate) async fn receipt(named: NamedArgs, context: Context) -> Result<Exit, RunError> {
    let ledger = find::ledger(&named).await?;
    context.printer.line(page(&ledger.record).trim_end());
    context.printer.json(&ledger.record);
    Ok(Exit::Done)
}

/// Keeps the receipt on this machine, since the record goes. Where that fails the user is told, and nothing else.
pub(super) fn keep(record: &Record, printer: Printer) {
    let Some(folder) = Environment::of_process().state_folder().map(|state| state.join("receipts")) else { return };
    let base = folder.join(format!("{}-{}", record.migration.metadata.name, &record.id[..8]));
    let json = serde_json::to_vec_pretty(record).expect("a record holds nothing that JSON cannot say");
    let kept = fs::create_dir_all(&folder)
        .and_then(|()| fs::write(base.with_extension("json"), json))
        .and_then(|()| fs::write(base.with_extension("md"), page(record)));
    match kept {
        Ok(()) => printer.aside(&format!("the receipt is kept as {}.md and .json", base.display())),
        Err(error) => printer.aside(&format!("the receipt cannot be kept: {error}")),
    }
}

fn page(record: &Record) -> String {
    let migration = &record.migration;
    let mut lines = vec![format!("# Migration {}", migration.metadata.name), String::new()];
    lines.push(format!("Identity `{}`. The application is with the {}.", record.id, record.owner));
    lines.extend([String::new(), "| | cluster | namespace |".to_owned(), "|---|---|---|".to_owned()]);
    for side in Side::ALL {
        let context = migration.context(side).unwrap_or("current context");
        let uid = &record.clusters[side as usize];
        lines.push(format!("| {side} | {context}, `{uid}` | {} |", record.namespace(side)));
    }
    lines.extend(commits(record).iter().flat_map(|commit| proof(record, commit)));
    lines.extend(older(record.dropped.commits, "cutovers and rollbacks"));
    lines.extend([String::new(), "## Passes".to_owned(), String::new()]);
    lines.extend(older(record.dropped.stages, "passes"));
    lines.extend(["| at | volume | pass | seconds | sent | result |", "|---|---|---|---|---|---|"].map(str::to_owned));
    lines.extend(record.stages.iter().map(|stage| pass(record, stage)));
    lines.extend([String::new(), "## History".to_owned(), String::new()]);
    lines.extend(older(record.dropped.history, "lines"));
    lines.extend(
        record
            .history
            .iter()
            .map(|happened| format!("- {:.0} (epoch {}): {}", happened.at, happened.epoch, happened.what)),
    );
    lines.join("\n") + "\n"
}

/// What was committed, oldest first; of a record that does not remember that, the proof that it has.
fn commits(record: &Record) -> Vec<Commit> {
    let only = record.proof.as_ref().map(|proof| Commit {
        epoch: proof.epoch,
        from: record.owner.other(),
        proof: Some(proof.clone()),
        timeline: record.timeline,
    });
    if record.commits.is_empty() { only.into_iter().collect() } else { record.commits.clone() }
}

/// The part of the page about a cutover or a rollback.
fn proof(record: &Record, commit: &Commit) -> Vec<String> {
    let kind = if commit.from == Side::Source { "Cutover" } else { "Rollback" };
    let level = commit.proof.as_ref().map_or("none is known", |proof| proof.level.as_str());
    let title = format!("## {kind} of epoch {}, proof level {level}", commit.epoch);
    let mut lines = vec![String::new(), title, String::new()];
    let volumes = commit.proof.iter().flat_map(|proof| &proof.volumes);
    let rows: Vec<String> = record.volumes.iter().zip(volumes).map(|(volume, proof)| row(volume, proof)).collect();
    if !rows.is_empty() {
        let head = ["| volume | canonical digest of both sides | entries | bytes |", "|---|---|---|---|"];
        lines.extend(head.map(str::to_owned));
        lines.extend(rows);
        lines.push(String::new());
    }
    lines.push(timeline(&commit.timeline));
    lines
}

fn row(volume: &VolumeRecord, proof: &Value) -> String {
    let number = |field: &str| human::count(proof[field].as_u64().unwrap_or(0));
    let digest = proof["canonical"].as_str().unwrap_or("none");
    let claim = &volume.claim(Side::Source).name;
    format!("| {claim} | `{digest}` | {} | {} |", number("entries"), number("bytes"))
}

/// That older ones are not remembered, where that is so.
fn older(dropped: u64, what: &str) -> Vec<String> {
    if dropped == 0 {
        return Vec::new();
    }
    vec![String::new(), format!("{} older {what} are not remembered.", human::count(dropped)), String::new()]
}

fn pass(record: &Record, stage: &StageRecord) -> String {
    let result = stage.error.clone().unwrap_or_else(|| format!("exit code {}", stage.exit));
    format!(
        "| {:.0} | {} | {} | {:.1} | {} | {} |",
        stage.at,
        record.volumes[stage.volume].claim(Side::Source).name,
        stage.title(),
        stage.seconds,
        human::bytes(stage.sent),
        result.replace('|', "\\|"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tranship_api::migration::{Migration, Mode};
    use tranship_api::record::{ClaimRecord, Dropped, HISTORY_MAX, Proof};

    use super::*;

    /// A record with a cutover and a rollback.
    fn record() -> Record {
        let claim: ClaimRecord = serde_json::from_value(json!({"name": "data"})).expect("a claim");
        let claims = [claim.clone(), claim];
        let volume = VolumeRecord { claims, is_block: false, predicted_seconds: None, change_bytes_per_second: None };
        let migration = Migration::new("move", "shop");
        let mut record =
            Record::new("0".repeat(32), String::new(), migration, Default::default(), Mode::Plain, vec![volume]);
        for (epoch, digest) in [(3, "d3"), (5, "d5")] {
            record.epoch = epoch;
            let volumes = vec![json!({"canonical": digest, "entries": 1_234, "bytes": 5})];
            record.proof = Some(Proof { epoch, level: "full".to_owned(), volumes });
            record.committed();
            record.owner = record.owner.other();
        }
        record
    }

    #[test]
    fn each_cutover_is_on_the_page_with_its_proof() {
        let page = page(&record());
        let (there, back) = ("## Cutover of epoch 3, proof level full", "## Rollback of epoch 5, proof level full");
        assert!(page.find(there).expect(there) < page.find(back).expect(back), "{page}");
        for digest in ["| data | `d3` | 1,234 | 5 |", "| data | `d5` | 1,234 | 5 |"] {
            assert!(page.contains(digest), "{page}");
        }
        assert!(!page.contains("not remembered"), "{page}");
    }

    #[test]
    fn what_is_not_remembered_is_counted() {
        let mut record = record();
        record.dropped = Dropped { stages: 1_200, commits: 2, ..record.dropped };
        for line in 0..HISTORY_MAX + 7 {
            record.happened(jiff::Timestamp::UNIX_EPOCH, line.to_string());
        }
        let page = page(&record);
        for line in ["1,200 older passes", "2 older cutovers and rollbacks", "7 older lines"] {
            assert!(page.contains(&format!("{line} are not remembered.")), "{page}");
        }
    }

    #[test]
    fn the_only_proof_of_an_old_record_is_on_the_page() {
        let mut record = record();
        record.commits.clear();
        let page = page(&record);
        assert!(page.contains("## Rollback of epoch 5, proof level full") && page.contains("`d5`"), "{page}");
    }
}
