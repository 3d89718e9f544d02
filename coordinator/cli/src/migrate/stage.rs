//! `stage`: once, again and again, or left to the agents.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tranship_api::record::Step;
use tranship_coordinator::cutover::{downtime_seconds, under_way};
use tranship_coordinator::pair::{Outcome, Wanted};
use tranship_coordinator::{Ledger, stage as stages};

use super::args::StageArgs;
use super::resident::Task;
use super::wanted::duration;
use super::{Context, find, resident, rest, status, time, until};
use crate::error::RunError;
use crate::exit::Exit;

/// How often a coordinator in the cluster may be killed, or fail, that repeats something for weeks, and one that does it once.
const TRIES_REPEATED: i32 = 1_000;
const TRIES_ONCE: i32 = 6;

/// `stage`.
pub(crate) async fn stage(args: StageArgs, context: Context) -> Result<Exit, RunError> {
    let plan = Plan::of(&args)?;
    if let Some(name) = &args.resident.as_coordinator {
        return as_resident(name, &args, &plan, &context).await;
    }
    let mut ledger = find::ledger(&args.named).await?;
    if ledger.record.step != Step::Staging {
        return Err(under_way(&ledger.record).into());
    }
    if args.resident.in_cluster {
        return resident::start(&args.resident, task(&args), ledger, &context).await;
    }
    context.take_over(&mut ledger).await?;
    plan.run(&mut ledger, &context).await
}

/// In its pod.
async fn as_resident(name: &str, args: &StageArgs, plan: &Plan, context: &Context) -> Result<Exit, RunError> {
    if resident::is_over() {
        context.printer.line("the work is over");
        return Ok(Exit::Done);
    }
    let mut ledger = find::ledger(&args.named).await?;
    let result = match resident::take_over(&mut ledger, name).await {
        Ok(()) => plan.run(&mut ledger, context).await,
        Err(error) => Err(error),
    };
    resident::end(&ledger, name, result, context).await
}

/// What is left to a coordinator in the cluster.
fn task(args: &StageArgs) -> Task {
    let is_repeated = args.every.is_some() || args.until.is_some();
    let typed = [("every", &args.every), ("until", &args.until), ("at", &args.at)];
    Task {
        verb: "stage",
        flags: typed.iter().filter_map(|(flag, value)| Some(format!("--{flag}={}", value.as_ref()?))).collect(),
        tries: if is_repeated { TRIES_REPEATED } else { TRIES_ONCE },
        errand: None,
        rights: tranship_coordinator::resident::for_stages(),
    }
}

/// What was typed, understood.
struct Plan {
    at: Option<Timestamp>,
    every: Option<Duration>,
    until: Option<Duration>,
    detaches: bool,
}

impl Plan {
    fn of(args: &StageArgs) -> Result<Self, RunError> {
        Ok(Self {
            at: args.at.as_deref().map(time).transpose()?,
            every: args.every.as_deref().map(|text| duration("--every", text)).transpose()?,
            until: args.until.as_deref().map(condition).transpose()?,
            detaches: args.detach,
        })
    }

    /// Runs stage after stage.
    async fn run(&self, ledger: &mut Ledger, context: &Context) -> Result<Exit, RunError> {
        if let Some(at) = self.at {
            context.printer.aside(&format!("waiting until {at}"));
            rest(until(at), ledger, context).await?;
        }
        loop {
            let began = Instant::now();
            let record = ledger.record.clone();
            let wanted = Wanted { bits_per_second: record.migration.spec.link.bits_per_second, ..Wanted::default() };
            if self.detaches {
                let passes =
                    context.watched(&record, async |watch| stages::detach(ledger, &wanted, watch).await).await?;
                context
                    .printer
                    .line(&format!("{passes} passes go on by themselves; `tranship stage` follows what still runs"));
                return Ok(Exit::Done);
            }
            let result = context.watched(&record, async |watch| stages::stage(ledger, &wanted, watch).await).await;
            if self.is_done(result, ledger, context)? {
                return Ok(Exit::Done);
            }
            rest(self.every.unwrap_or(Duration::ZERO).saturating_sub(began.elapsed()), ledger, context).await?;
        }
    }

    /// Prints how a stage went, and tells whether it was the last one.
    fn is_done(
        &self,
        result: Result<Vec<Outcome>, RunError>,
        ledger: &Ledger,
        context: &Context,
    ) -> Result<bool, RunError> {
        let outcomes = match result {
            Ok(outcomes) => outcomes,
            // A node that is drained or a link that is cut is no reason to give up what is repeated.
            Err(error) if self.every.is_some() && !context.stop.is_set() && !error.is_superseded() => {
                context.printer.error(&error);
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        outcomes.iter().for_each(|outcome| status::print_pass(&ledger.record, outcome, context.printer));
        let projected = downtime_seconds(&ledger.record);
        if let Some(failed) = outcomes.iter().find(|outcome| !outcome.is_committed())
            && self.every.is_none()
        {
            return Err(status::pass_error(&ledger.record, failed));
        }
        if let Some(seconds) = projected {
            context.printer.line(&format!("projected downtime of a cutover now: {}", crate::human::seconds(seconds)));
        }
        let is_reached = self.until.is_some_and(|limit| projected.is_some_and(|seconds| seconds < limit.as_secs_f64()));
        Ok(is_reached || (self.every.is_none() && self.until.is_none()))
    }
}

/// `projected<30s`.
fn condition(text: &str) -> Result<Duration, RunError> {
    let compact: String = text.chars().filter(|char| !char.is_whitespace()).collect();
    match compact.strip_prefix("projected<") {
        Some(limit) => duration("--until", limit),
        None => Err(RunError::usage(format!("--until {text:?} is not a condition"), "write it as projected<30s")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Command, Typed};

    #[test]
    fn a_coordinator_in_the_cluster_is_told_what_was_typed() {
        let words =
            ["tranship", "stage", "move", "--every", "10m", "--until", "projected < 30s", "--in-cluster", "--yes"];
        let Command::Stage(args) = Typed::try_parse_from(words).expect("it is understood").command else {
            unreachable!("stage was typed")
        };
        let task = task(&args);
        assert_eq!((task.verb, task.tries, task.errand), ("stage", TRIES_REPEATED, None));
        assert_eq!(task.flags, ["--every=10m", "--until=projected < 30s"]);
    }

    #[test]
    fn the_one_condition_is_understood_with_and_without_spaces() {
        for text in ["projected<30s", "projected < 30s"] {
            assert_eq!(condition(text).expect(text), Duration::from_secs(30));
        }
        assert!(condition("downtime<30s").is_err());
    }
}
