//! `receipt`: the whole history with its proof, as JSON and as a page of Markdown.

use std::fs;

use tranship_api::Side;
use tranship_api::record::{Record, StageRecord};

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
    if let Some(proof) = &record.proof {
        lines.extend([
            String::new(),
            format!("## Proof of epoch {}, level {}", proof.epoch, proof.level),
            String::new(),
        ]);
        lines.extend(
            ["| volume | canonical digest of both sides | entries | bytes |", "|---|---|---|---|"].map(str::to_owned),
        );
        for (volume, proof) in record.volumes.iter().zip(&proof.volumes) {
            let number = |field: &str| proof[field].as_u64().unwrap_or(0);
            lines.push(format!(
                "| {} | `{}` | {} | {} |",
                volume.claim(Side::Source).name,
                proof["canonical"].as_str().unwrap_or("none"),
                human::count(number("entries")),
                human::count(number("bytes")),
            ));
        }
        lines.extend([String::new(), timeline(&record.timeline)]);
    }
    lines.extend([String::new(), "## Passes".to_owned(), String::new()]);
    lines.extend(["| at | volume | pass | seconds | sent | result |", "|---|---|---|---|---|---|"].map(str::to_owned));
    lines.extend(record.stages.iter().map(|stage| pass(record, stage)));
    lines.extend([String::new(), "## History".to_owned(), String::new()]);
    lines.extend(
        record
            .history
            .iter()
            .map(|happened| format!("- {:.0} (epoch {}): {}", happened.at, happened.epoch, happened.what)),
    );
    lines.join("\n") + "\n"
}

fn pass(record: &Record, stage: &StageRecord) -> String {
    let kind = match (stage.is_final, stage.is_back) {
        (false, false) => "stage",
        (false, true) => "stage back",
        (true, false) => "final",
        (true, true) => "final back",
    };
    let result = stage.error.clone().unwrap_or_else(|| format!("exit code {}", stage.exit));
    format!(
        "| {:.0} | {} | {kind} {} | {:.1} | {} | {} |",
        stage.at,
        record.volumes[stage.volume].claim(Side::Source).name,
        stage.stage,
        stage.seconds,
        human::bytes(stage.sent),
        result.replace('|', "\\|"),
    )
}
