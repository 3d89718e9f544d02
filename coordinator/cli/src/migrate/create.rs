//! `create` and `preflight`: what would stand in the way, before anything is made.

use tranship_api::{Finding, Findings, Migration, Record, Severity, Side};
use tranship_coordinator::preflight::mode::stand_in;
use tranship_coordinator::preflight::{self, Report, Subject};
use tranship_coordinator::{Cluster, Error, Ledger, bring};

use super::args::{CreateArgs, PreflightArgs};
use super::show::Screen;
use super::{Context, find, me, status};
use crate::error::RunError;
use crate::exit::Exit;
use crate::print::Printer;
use crate::progress::Show;

/// `create`: runs the preflight and writes the record.
pub(crate) async fn create(args: CreateArgs, context: Context) -> Result<Exit, RunError> {
    let mut migration = args.migration()?;
    if args.dry_run {
        context.printer.document(&migration);
        return Ok(Exit::Done);
    }
    let clusters = connect(&migration).await?;
    // Whoever goes on from another machine has to know which contexts were meant.
    migration.spec.source.context = Some(clusters[0].context.clone());
    migration.spec.destination.context = Some(clusters[1].context.clone());
    let agent = |side, mode| stand_in(&migration, side, mode);
    let mut report = preflight::run(&clusters, Subject::Wanted(&migration), &agent).await?;
    let mut record = record(migration, &report)?;
    // Where the namespace has to be made first, the ways are tried once it is there.
    let tries = !args.handshake.no_handshake;
    if tries && !(report.makes_namespace && report.findings.allow_stages()) {
        try_ways(&clusters, &record, &mut report, &context).await?;
    }
    print(&report.findings, context.printer);
    if !report.findings.allow_stages() {
        return Err(refused(&report.findings));
    }
    record.made_namespace = bring::ensure_namespace(&clusters, &record).await?;
    let ledger = Ledger::create(clusters.clone(), record).await?;
    find::remember(&ledger.record);
    if tries && report.makes_namespace {
        report.findings.0.clear();
        try_ways(&clusters, &ledger.record, &mut report, &context).await?;
        print(&report.findings, context.printer);
    }
    status::print(&ledger, context.printer);
    Ok(Exit::Done)
}

/// `preflight`: looks at everything again, and changes nothing.
pub(crate) async fn preflight(args: PreflightArgs, context: Context) -> Result<Exit, RunError> {
    let ledger = find::ledger(&args.named).await?;
    let clusters = Side::ALL.map(|side| ledger.cluster(side).clone());
    let agent = |side, mode| stand_in(&ledger.record.migration, side, mode);
    let mut report = preflight::run(&clusters, Subject::Recorded(&ledger.record), &agent).await?;
    if !args.handshake.no_handshake {
        try_ways(&clusters, &ledger.record, &mut report, &context).await?;
    }
    print(&report.findings, context.printer);
    match report.findings.allow_cutover() {
        true => Ok(Exit::Done),
        false => Err(refused(&report.findings)),
    }
}

/// Tries the ways between the clusters, adds what was found to the report, and prints the figures for scripts.
async fn try_ways(
    clusters: &[Cluster; 2],
    record: &Record,
    report: &mut Report,
    context: &Context,
) -> Result<(), RunError> {
    let found = if report.findings.allow_stages() {
        let (watch, screen) = Screen::start(Show::of(&context.global), record.claims(Side::Source));
        watch.step("trying the ways between the clusters");
        let found = preflight::handshake(clusters, record, &report.held_bytes, context.stop.wait(), &watch).await;
        drop(watch);
        screen.finish().await;
        match found {
            Err(Error::Stopped) => return Err(RunError::stopped("stopped: what was made for the handshake is gone")),
            found => found?,
        }
    } else {
        preflight::postponed(
            "what blocks comes first",
            "do what the other findings say, then run the same command again",
        )
    };
    context.printer.json(&serde_json::json!({ "handshake": found }));
    report.findings.0.extend(found.findings);
    report.findings.sort();
    Ok(())
}

async fn connect(migration: &Migration) -> Result<[Cluster; 2], RunError> {
    let [source, destination] = Side::ALL.map(|side| Cluster::connect(side, migration.context(side)));
    Ok([source.await?, destination.await?])
}

fn record(migration: Migration, report: &Report) -> Result<Record, RunError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|error| RunError::refused("TS-U002", format!("the kernel gives no random bytes: {error}")))?;
    let mut record = Record::new(
        id.iter().map(|byte| format!("{byte:02x}")).collect(),
        me(),
        migration,
        report.clusters.clone(),
        report.mode,
        report.volumes.clone(),
    );
    record.happened(jiff::Timestamp::now(), "created");
    Ok(record)
}

fn refused(findings: &Findings) -> RunError {
    let blocking = findings.0.iter().filter(|finding| finding.severity >= Severity::Cutover).count();
    let what = if blocking == 1 { "a finding stands".to_owned() } else { format!("{blocking} findings stand") };
    RunError::refused("TS-K958", format!("{what} in the way"))
        .hint("do what each finding says, then run the same command again")
}

fn print(findings: &Findings, printer: Printer) {
    for finding in &findings.0 {
        printer.line(&line(finding));
        printer.json(&serde_json::json!({ "finding": finding }));
    }
}

fn line(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Info => "info    ",
        Severity::Warning => "warning ",
        Severity::Cutover => "cutover ",
        Severity::Blocking => "BLOCKING",
    };
    let is_fact = finding.todo.is_empty() || finding.todo == "nothing";
    let todo = if is_fact { String::new() } else { format!("\n           → {}", finding.todo) };
    format!("{severity} {finding}{todo}")
}
