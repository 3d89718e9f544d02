//! `stage`: once, again and again, or left to the agents.

use std::time::{Duration, Instant};

use tranship_api::record::Step;
use tranship_coordinator::cutover::downtime_seconds;
use tranship_coordinator::pair::Wanted;
use tranship_coordinator::stage as stages;

use super::args::StageArgs;
use super::wanted::duration;
use super::{Context, find, me, status};
use crate::error::RunError;
use crate::exit::Exit;

/// `stage`.
pub(crate) async fn stage(args: StageArgs, context: Context) -> Result<Exit, RunError> {
    let every = args.every.as_deref().map(|text| duration("--every", text)).transpose()?;
    let until = args.until.as_deref().map(condition).transpose()?;
    let mut ledger = find::ledger(&args.named).await?;
    if ledger.record.step != Step::Staging {
        return Err(RunError::refused("TS-K950", format!("a cutover of {} is under way", args.named.name))
            .hint("`tranship cutover` goes on with it, `tranship rollback` takes it back"));
    }
    ledger.take_over(&me()).await?;
    loop {
        let began = Instant::now();
        let record = ledger.record.clone();
        let wanted = Wanted { bits_per_second: record.migration.spec.link.bits_per_second, ..Wanted::default() };
        if args.detach {
            let passes =
                context.watched(&record, async |watch| stages::detach(&mut ledger, &wanted, watch).await).await?;
            context
                .printer
                .line(&format!("{passes} passes go on by themselves; `tranship stage` follows what still runs"));
            return Ok(Exit::Done);
        }
        let result = context.watched(&record, async |watch| stages::stage(&mut ledger, &wanted, watch).await).await;
        let outcomes = match (result, every) {
            (Ok(outcomes), _) => outcomes,
            // A node that is drained or a link that is cut is no reason to give up what is repeated.
            (Err(error), Some(_)) if !context.stop.is_set() && !error.is_superseded() => {
                context.printer.error(&error);
                Vec::new()
            }
            (Err(error), _) => return Err(error),
        };
        outcomes.iter().for_each(|outcome| status::print_pass(&ledger.record, outcome, context.printer));
        let projected = downtime_seconds(&ledger.record);
        if let Some(failed) = outcomes.iter().find(|outcome| !outcome.is_committed())
            && every.is_none()
        {
            return Err(status::pass_error(&ledger.record, failed));
        }
        if let Some(seconds) = projected {
            context.printer.line(&format!("projected downtime of a cutover now: {}", crate::human::seconds(seconds)));
        }
        let is_reached = until.is_some_and(|limit| projected.is_some_and(|seconds| seconds < limit.as_secs_f64()));
        if is_reached || (every.is_none() && until.is_none()) {
            return Ok(Exit::Done);
        }
        let next = every.unwrap_or(Duration::ZERO).saturating_sub(began.elapsed());
        tokio::select! {
            () = tokio::time::sleep(next) => {}
            () = context.stop.wait() => return Err(RunError::stopped("stopped between two stages")),
        }
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
    use super::*;

    #[test]
    fn the_one_condition_is_understood_with_and_without_spaces() {
        for text in ["projected<30s", "projected < 30s"] {
            assert_eq!(condition(text).expect(text), Duration::from_secs(30));
        }
        assert!(condition("downtime<30s").is_err());
    }
}
