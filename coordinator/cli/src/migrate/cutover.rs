//! `cutover` and `rollback`: the same, with the sides exchanged. A cutover that is left to the cluster is `errand`.

use tranship_api::record::Step;
use tranship_api::{Record, Side};
use tranship_coordinator::Ledger;
use tranship_coordinator::cutover::{self, Verdict};

use super::args::{CourseArgs, CutoverArgs, RollbackArgs};
use super::show::Screen;
use super::wanted::duration;
use super::{Context, confirm_name, errand, find, me, status, time, until};
use crate::error::RunError;
use crate::exit::Exit;
use crate::progress::Show;

/// `cutover`.
pub(crate) async fn cut_over(args: CutoverArgs, context: Context) -> Result<Exit, RunError> {
    match &args.resident.as_coordinator {
        Some(name) => errand::run(name, &args.course, &context).await,
        None if args.resident.in_cluster => errand::leave(&args, &context).await,
        None => bring_to(Side::Destination, &args.course, false, context).await,
    }
}

/// `rollback`.
pub(crate) async fn roll_back(args: RollbackArgs, context: Context) -> Result<Exit, RunError> {
    bring_to(Side::Source, &args.course, args.discard_destination_writes, context).await
}

/// Brings the application to a side, wherever it is. What is under way towards that side is gone on with; what is under way
/// towards the other is taken back before its commit, and after it brought to its end first.
async fn bring_to(side: Side, args: &CourseArgs, discards_writes: bool, context: Context) -> Result<Exit, RunError> {
    let mut ledger = find::ledger(&args.named).await?;
    refuse_if_it_is_there(side, &ledger.record)?;
    if args.override_lost_owner {
        confirm(args, "--override-lost-owner starts the application although the old cluster may run it, too")?;
    }
    if discards_writes {
        confirm(args, "--discard-destination-writes loses what the application wrote at the destination")?;
    }
    let options = options(args, &ledger.record)?;
    if let Some(at) = &args.at {
        wait_until(at, &context).await?;
        ledger = find::ledger(&args.named).await?;
        refuse_if_it_is_there(side, &ledger.record)?;
    }
    ledger.record.accept_gaps(&args.accept_gap);
    let owner = ledger.record.owner;
    if args.override_lost_owner && owner != side && ledger.authority(owner).is_none() {
        ledger.assume_without_owner(&me(), jiff::Timestamp::now()).await?;
    } else {
        context.take_over(&mut ledger).await?;
    }
    if owner == side {
        if !ledger.record.step.is_committed() {
            return take_back(ledger, context).await;
        }
        let record = ledger.record.clone();
        let to_its_end = async |watch: &_| cutover::run(&mut ledger, &options, watch, std::future::pending()).await;
        context.watched(&record, to_its_end).await?;
    }
    say_what_a_kill_leaves(&ledger.record, &context);
    move_to(side, &mut ledger, cutover::Options { discards_writes, ..options }, &context).await
}

pub(super) fn refuse_if_it_is_there(side: Side, record: &Record) -> Result<(), RunError> {
    if record.step != Step::Staging || record.owner != side {
        return Ok(());
    }
    let name = &record.migration.metadata.name;
    Err(match side {
        Side::Source => {
            RunError::refused("TS-K952", format!("{name} runs at home already")).hint("there is nothing to roll back")
        }
        Side::Destination => RunError::refused("TS-K951", format!("{name} is cut over already"))
            .hint("`tranship rollback` brings it home, `tranship finish` ends the migration"),
    })
}

/// Takes back what was under way, and has the application run where it was.
async fn take_back(mut ledger: Ledger, context: Context) -> Result<Exit, RunError> {
    let record = ledger.record.clone();
    context.watched(&record, async |watch| cutover::restore(&mut ledger, watch).await).await?;
    context.printer.line(&format!("taken back: the application runs on the {}", record.owner));
    status::print(&ledger, context.printer);
    Ok(Exit::Done)
}

/// Moves the application to the other side, or goes on with that.
pub(super) async fn move_to(
    heir: Side,
    ledger: &mut Ledger,
    options: cutover::Options,
    context: &Context,
) -> Result<Exit, RunError> {
    let record = ledger.record.clone();
    // Between the fence and the commit a stop takes everything back, like any failure.
    let (watch, screen) = Screen::start(Show::of(&context.global), record.claims(Side::Source));
    let stop = context.stop.clone();
    let result = cutover::run(ledger, &options, &watch, stop.wait()).await;
    drop(watch);
    screen.finish().await;
    let is_committed = ledger.record.step.is_committed() || ledger.record.owner == heir;
    let authoritative = if is_committed { heir } else { heir.other() };
    match result {
        Ok(verdict) => {
            status::print_cutover(ledger, &verdict, context.printer);
            Ok(match verdict {
                Verdict::Done | Verdict::NothingToStart => Exit::Done,
                Verdict::NotReady(_) => Exit::failed_with(authoritative),
            })
        }
        Err(error) => {
            // Every write of the record has a revision: what came before the refusal was done.
            let has_begun = is_committed || ledger.record.revision > record.revision;
            Err(ended(RunError::from(error), has_begun, authoritative))
        }
    }
}

/// A cutover that failed or was refused: no refusal is one any more where something was done before it.
fn ended(error: RunError, has_begun: bool, authoritative: Side) -> RunError {
    let error = if has_begun { error.after_the_start() } else { error };
    error.with(authoritative)
}

/// Without a coordinator that lives in the cluster nobody goes on if this process is killed.
fn say_what_a_kill_leaves(record: &Record, context: &Context) {
    context.printer.aside(&format!(
        "if this process is killed between the fence and the commit, the application stays stopped until `{}` or `{}` is \
         run, from any machine; Ctrl-C takes it back",
        record.command("cutover"),
        record.command("rollback"),
    ));
}

/// What was typed of how it goes.
pub(super) fn options(args: &CourseArgs, record: &Record) -> Result<cutover::Options, RunError> {
    let max = args.max_downtime.as_ref().or(record.migration.spec.cutover.max_downtime.as_ref());
    Ok(cutover::Options {
        max_downtime: max.map(|text| duration("--max-downtime", text)).transpose()?,
        bits_per_second: record.migration.spec.link.bits_per_second,
        patience: Some(duration("--patience", &args.patience)?),
        start_patience: Some(duration("--start-patience", &args.start_patience)?),
        accepts_weak_fence: args.accept_weak_fence,
        ..cutover::Options::default()
    })
}

fn confirm(args: &CourseArgs, what: &str) -> Result<(), RunError> {
    confirm_name(&args.named, args.confirm.as_deref(), what)
}

async fn wait_until(at: &str, context: &Context) -> Result<(), RunError> {
    let time = time(at)?;
    let left = until(time);
    context.printer.aside(&format!("waiting until {time}"));
    tokio::select! {
        () = tokio::time::sleep(left) => Ok(()),
        () = context.stop.wait() => Err(RunError::stopped("stopped before it began")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cutover_that_is_refused_after_stages_has_failed_and_the_owner_keeps_the_application() {
        let refused = || RunError::refused("TS-K943", "the predicted downtime does not fall below 30 s");
        for (has_begun, owner, exit) in [
            (false, Side::Source, Exit::Refused),
            (false, Side::Destination, Exit::Refused),
            (true, Side::Source, Exit::Failed),
            (true, Side::Destination, Exit::FailedAfterCommit),
        ] {
            assert_eq!(ended(refused(), has_begun, owner).exit(), exit, "{has_begun} {owner}");
        }
    }
}
