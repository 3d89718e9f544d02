//! `cutover --in-cluster`: a cutover that is left to a coordinator in the cluster, and how its pods make it.
//!
//! Each pod decides by the record: the one that is killed may have begun anything. It ends for good once there is nothing to
//! do any more, well or badly, and else badly, so that another one is made.

use jiff::Timestamp;
use tranship_api::Side;
use tranship_api::record::{Errand, Step};
use tranship_coordinator::cutover::{self, under_way};
use tranship_coordinator::resident::{self as residents, Duty, GRACE, Outcome};
use tranship_coordinator::watch::Watch;
use tranship_coordinator::{Error, Ledger};

use super::args::{CourseArgs, CutoverArgs};
use super::cutover::{move_to, options, refuse_if_it_is_there};
use super::resident::{self, Task};
use super::{Context, find, rest, status, time, until};
use crate::error::RunError;
use crate::exit::Exit;

/// How often its pods may be killed, or fail: an application may stand still, and each failure is waited for longer than the one
/// before. Each leaves a pod that has ended.
const TRIES: i32 = 100;

/// Leaves it to the cluster, and returns once a pod has taken over.
pub(super) async fn leave(args: &CutoverArgs, context: &Context) -> Result<Exit, RunError> {
    let course = &args.course;
    if course.override_lost_owner {
        return Err(RunError::usage(
            "--override-lost-owner is for who can tell that a cluster is lost, and --in-cluster asks nobody",
            "type it without --in-cluster",
        ));
    }
    let now = Timestamp::now();
    let at = course.at.as_deref().map(time).transpose()?.unwrap_or(now);
    if residents::is_too_late(at, now) {
        return Err(RunError::usage(
            format!("--at {at} has passed"),
            "give a time that is to come, or leave --at out to begin now",
        ));
    }
    let ledger = find::ledger(&course.named).await?;
    refuse_if_it_is_there(Side::Destination, &ledger.record)?;
    if ledger.record.step != Step::Staging {
        return Err(under_way(&ledger.record).into());
    }
    // What the pods could not understand is refused here.
    options(course, &ledger.record)?;
    let errand = Some(Errand { at, has_begun: false });
    let rights =
        residents::for_a_cutover(ledger.cluster(Side::Source), &ledger.record, course.accept_weak_fence).await?;
    let task = Task { verb: "cutover", flags: flags(course), tries: TRIES, errand, rights };
    resident::start(&args.resident, task, ledger, context).await
}

/// In its pod: the coordinator of this name.
pub(super) async fn run(name: &str, args: &CourseArgs, context: &Context) -> Result<Exit, RunError> {
    if resident::is_over() {
        context.printer.line("the work is over");
        return Ok(Exit::Done);
    }
    let mut ledger = find::ledger(&args.named).await?;
    let result = attempt(name, args, &mut ledger, context).await;
    // A pod that is deleted counts as failed already, so that its own end cannot fail the Job: the next pod sees to it.
    if context.stop.is_set() && !matches!(result, Ok(Exit::Done)) {
        return result;
    }
    let error = match result {
        Ok(exit) => return close(&ledger, Ok(exit)).await,
        Err(error) => error,
    };
    // What is written decides, not what is remembered: a write may have failed.
    match find::ledger(&args.named).await {
        Ok(found) if found.lead().is_ok() => after(name, found, ledger.record.epoch, error).await,
        _ => Err(error),
    }
}

/// What was typed, for its pods. The time is in the record.
fn flags(args: &CourseArgs) -> Vec<String> {
    let given = [
        ("max-downtime", args.max_downtime.as_ref()),
        ("patience", Some(&args.patience)),
        ("start-patience", Some(&args.start_patience)),
    ];
    let mut flags: Vec<String> =
        given.iter().filter_map(|(flag, value)| Some(format!("--{flag}={}", value.as_ref()?))).collect();
    flags.extend(args.accept_gap.iter().map(|kind| format!("--accept-gap={kind}")));
    flags.extend(args.accept_weak_fence.then(|| "--accept-weak-fence".to_owned()));
    flags
}

/// Does what there is to do, until there is nothing more.
async fn attempt(name: &str, args: &CourseArgs, ledger: &mut Ledger, context: &Context) -> Result<Exit, RunError> {
    loop {
        // The copy that follows may be behind, and nothing is decided by it.
        ledger.lead()?;
        let duty = residents::duty(&ledger.record, name, Timestamp::now());
        match duty {
            Duty::Begin(at) if !until(at).is_zero() => {
                resident::take_over(ledger, name).await?;
                rest(until(at), ledger, context).await?;
                *ledger = find::ledger(&args.named).await?;
            }
            Duty::Begin(_) | Duty::GoOn => {
                let options = options(args, &ledger.record)?;
                ledger.record.accept_gaps(&args.accept_gap);
                match duty {
                    Duty::Begin(_) => resident::take_over(ledger, name).await?,
                    // Where the destination does not answer, the application is started again where it was.
                    _ => ledger.take_over(name).await?,
                }
                let options = cutover::Options { goes_on_when_stopped: true, ..options };
                return move_to(Side::Destination, ledger, options, context).await;
            }
            Duty::TakeBack => {
                ledger.take_over(name).await?;
                cutover::restore(ledger, &Watch::nobody()).await?;
            }
            Duty::Leave => {
                let (coordinator, epoch) = (ledger.record.coordinator.clone(), ledger.record.epoch);
                return Err(Error::Superseded { coordinator, epoch }.into());
            }
            Duty::Over(outcome) => return became(outcome, name, ledger, context).await,
        }
    }
}

/// How a pod ends that finds nothing to do any more.
async fn became(outcome: Outcome, name: &str, ledger: &mut Ledger, context: &Context) -> Result<Exit, RunError> {
    match outcome {
        Outcome::Done | Outcome::NotReady => {
            status::print(ledger, context.printer);
            Ok(if outcome == Outcome::Done { Exit::Done } else { Exit::FailedAfterCommit })
        }
        Outcome::TakenBack => Err(RunError::failed("TS-K966", "the cutover was taken back, and is not tried again")
            .hint("`tranship status` says why; leave it to the cluster again, or type it without --in-cluster")),
        Outcome::TooLate(at) => {
            let what = format!("the cutover was to begin at {at:.0} and could not within {GRACE:#}: it does not begin");
            ledger.record.happened(Timestamp::now(), &what);
            ledger.take_over(name).await?;
            Err(RunError::failed("TS-K965", what).hint("`tranship status` says why; choose another hour"))
        }
    }
}

/// After an attempt that failed: ends for good if there is nothing to do any more, and else leaves it to the next pod. `epoch` is
/// this pod's.
async fn after(name: &str, mut found: Ledger, epoch: u64, error: RunError) -> Result<Exit, RunError> {
    match residents::duty(&found.record, name, Timestamp::now()) {
        Duty::Over(_) => close(&found, Err(error)).await,
        // Where another one was made in its place, what has its name is that one's.
        Duty::Leave if found.record.resident.as_deref() == Some(name) => close(&found, Err(error)).await,
        Duty::Begin(at) if found.record.epoch == epoch && until(at).is_zero() => {
            found.record.happened(Timestamp::now(), format!("the cutover did not begin: {error}"));
            found.save().await?;
            Err(error)
        }
        Duty::Begin(_) | Duty::GoOn | Duty::TakeBack | Duty::Leave => Err(error),
    }
}

/// Ends for good: no pod comes after this one, and what it had goes.
async fn close(ledger: &Ledger, result: Result<Exit, RunError>) -> Result<Exit, RunError> {
    let (cluster, record) = (ledger.cluster(Side::Source), &ledger.record);
    if !matches!(result, Ok(Exit::Done)) {
        residents::give_up(cluster, record).await?;
    }
    residents::retire(cluster, record).await?;
    result
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Command, Typed};

    fn cutover(words: &[&str]) -> CutoverArgs {
        let words = ["tranship", "cutover", "move"].into_iter().chain(words.iter().copied());
        match Typed::try_parse_from(words).expect("it is understood").command {
            Command::Cutover(args) => args,
            _ => unreachable!("cutover was typed"),
        }
    }

    #[test]
    fn a_pod_cuts_over_as_was_typed_and_takes_the_time_from_the_record() {
        let typed = cutover(&[
            "--at=2026-12-24T03:00:00Z",
            "--max-downtime=30s",
            "--patience=1m",
            "--accept-gap=acl,flags",
            "--accept-weak-fence",
            "--in-cluster",
            "--yes",
        ]);
        let words = flags(&typed.course);
        let pods = cutover(&words.iter().map(String::as_str).collect::<Vec<_>>()).course;
        let of = |args: &CourseArgs| {
            let times = (args.max_downtime.clone(), args.patience.clone(), args.start_patience.clone());
            (times, args.accept_gap.clone(), args.accept_weak_fence)
        };
        assert_eq!(of(&pods), of(&typed.course));
        assert_eq!(pods.at, None);
    }
}
