//! Stages until a final pass will be short enough.

use std::time::Duration;

use jiff::Timestamp;
use tranship_api::Record;
use tranship_api::record::Timeline;

use crate::Error;
use crate::ledger::Ledger;
use crate::pair::Wanted;
use crate::stage::stage;
use crate::watch::Watch;

/// Stages that may pass without the prediction falling to less than nine tenths of the best one so far.
const VAIN_STAGES_MAX: u32 = 3;

/// Seconds that stopping, releasing and starting take beside the final pass, while no cutover has shown it.
pub(crate) const BESIDE_SECONDS: f64 = 5.0;

/// Runs at least one stage, and with a limit as many as it takes until the predicted downtime is within it.
///
/// Refused when the prediction does not fall any more, since the application changes its volumes as fast as they are
/// carried.
pub(super) async fn stage_until_it_fits(
    ledger: &mut Ledger,
    wanted: &Wanted,
    limit: Option<Duration>,
    watch: &Watch,
) -> Result<(), Error> {
    let (mut best, mut vain) = (f64::INFINITY, 0);
    loop {
        let outcomes = stage(ledger, wanted, watch).await?;
        if let Some(failed) = outcomes.iter().find(|outcome| !outcome.is_committed()) {
            return Err(Error::refused(
                "TS-K942",
                format!(
                    "the last stage of {} failed: {}",
                    ledger.record.volumes[failed.stage.volume].claim(ledger.record.owner).name,
                    failed.stage.error.as_deref().unwrap_or("without a word")
                ),
                "see what the stage says; a cutover begins after a stage that was committed",
            ));
        }
        let Some(limit) = limit.map(|limit| limit.as_secs_f64()) else { return Ok(()) };
        let Some(seconds) = downtime_seconds(&ledger.record) else {
            watch.note("the downtime cannot be predicted yet: another stage");
            vain += 1;
            if vain > VAIN_STAGES_MAX {
                return Err(too_long(limit, None));
            }
            continue;
        };
        if seconds <= limit {
            watch.note(format!("predicted downtime {seconds:.1} s, within {limit:.0} s"));
            return Ok(());
        }
        watch.note(format!("predicted downtime {seconds:.1} s, more than {limit:.0} s: another stage"));
        vain = if seconds < best * 0.9 { 0 } else { vain + 1 };
        best = best.min(seconds);
        if vain >= VAIN_STAGES_MAX {
            return Err(too_long(limit, Some(best)));
        }
    }
}

/// Seconds for which the application would stand still if it were moved now, as far as the last passes can tell.
pub fn downtime_seconds(record: &Record) -> Option<f64> {
    Some(record.predicted_seconds()? + beside_seconds(&record.timeline).unwrap_or(BESIDE_SECONDS))
}

/// Seconds that the last cutover took beside its final pass.
fn beside_seconds(last: &Timeline) -> Option<f64> {
    let seconds = |from: Option<Timestamp>, to: Option<Timestamp>| Some(to?.duration_since(from?).as_secs_f64());
    Some(seconds(last.stopping, last.released)? + seconds(last.proven, last.ready)?)
}

fn too_long(limit: f64, best: Option<f64>) -> Error {
    let found = best.map_or("cannot be predicted".to_owned(), |best| format!("does not fall below {best:.1} s"));
    Error::refused(
        "TS-K943",
        format!("the predicted downtime {found}, and {limit:.0} s are allowed"),
        "allow more with --max-downtime, choose an hour with fewer writes, or give it more bandwidth",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cutover_took_beside_its_pass_is_what_the_next_one_will_take() {
        let at = |second| Some(Timestamp::from_second(second).expect("a time"));
        let whole = Timeline { stopping: at(10), released: at(12), proven: at(20), committed: at(21), ready: at(25) };
        assert_eq!(beside_seconds(&whole), Some(7.0));
        assert_eq!(beside_seconds(&Timeline { ready: None, ..whole }), None);
    }
}
