//! What a pod has to do that was made for a cutover: decided from the record alone, by each pod that begins and after each
//! attempt.

use jiff::{SignedDuration, Timestamp};
use tranship_api::record::Step;
use tranship_api::{Record, Side};

/// How long after its time a cutover may still begin. Long enough for a node that is drained just then, an image that is
/// pulled or an API server that is updated; short enough that whoever chose the hour still means it.
pub const GRACE: SignedDuration = SignedDuration::from_mins(10);

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// To begin a cutover at this time, which may be past.
    Begin(Timestamp),
    /// To go on with the one that was begun, whatever the hour: the application may stand still.
    GoOn,
    /// To go on with taking it back.
    TakeBack,
    /// Nothing any more, since somebody else has taken over.
    Leave,
    /// Nothing any more.
    Over(Outcome),
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The application runs at the destination, or its volumes are there and nothing was to be started.
    Done,
    /// The application belongs to the destination, and was not ready there in time.
    NotReady,
    /// The cutover was taken back.
    TakenBack,
    /// It was to begin at this time, and has not.
    TooLate(Timestamp),
}

/// What the coordinator of this name has to do, by the record of the side that leads.
pub fn duty(record: &Record, name: &str, now: Timestamp) -> Duty {
    if record.coordinator != name {
        return Duty::Leave;
    }
    match (record.step, record.errand) {
        (Step::Restoring, _) => Duty::TakeBack,
        (Step::Staging, Some(errand)) if !errand.has_begun => {
            if is_too_late(errand.at, now) {
                Duty::Over(Outcome::TooLate(errand.at))
            } else {
                Duty::Begin(errand.at)
            }
        }
        (Step::Staging, _) => Duty::Over(outcome(record)),
        _ => Duty::GoOn,
    }
}

/// Whether a cutover that was to begin at this time may not begin any more.
pub fn is_too_late(at: Timestamp, now: Timestamp) -> bool {
    now.duration_since(at) > GRACE
}

/// What became of a cutover that has begun, and under way is none.
fn outcome(record: &Record) -> Outcome {
    let is_started = record.brought.iter().any(|brought| brought.replicas.is_some());
    match record.owner {
        Side::Source => Outcome::TakenBack,
        Side::Destination if is_started && record.timeline.ready.is_none() => Outcome::NotReady,
        Side::Destination => Outcome::Done,
    }
}

#[cfg(test)]
mod tests {
    use tranship_api::migration::Mode;
    use tranship_api::record::{Brought, Errand};
    use tranship_api::{Migration, ObjectRef};

    use super::*;

    const POD: &str = "Job shop/x, made by me";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    /// A record of which a cutover at second 10,000 was left to [`POD`].
    fn record(step: Step, has_begun: bool) -> Record {
        let migration = Migration::new("move", "shop");
        let record = Record::new(String::new(), POD.to_owned(), migration, Default::default(), Mode::Plain, vec![]);
        Record { resident: Some(POD.to_owned()), errand: Some(Errand { at: at(10_000), has_begun }), step, ..record }
    }

    fn duty_at(record: &Record, second: i64) -> Duty {
        duty(record, POD, at(second))
    }

    #[test]
    fn a_cutover_begins_at_its_hour_and_not_after_its_grace() {
        let record = record(Step::Staging, false);
        for second in [0, 10_000, 10_600] {
            assert_eq!(duty_at(&record, second), Duty::Begin(at(10_000)), "{second}");
        }
        for second in [10_601, 50_000] {
            assert_eq!(duty_at(&record, second), Duty::Over(Outcome::TooLate(at(10_000))), "{second}");
        }
    }

    #[test]
    fn what_is_under_way_is_gone_on_with_whatever_the_hour() {
        use Step::{Fencing, FinalPass, Proven, Quiescing, Relinquished, Starting};
        for step in [Fencing, Quiescing, FinalPass, Proven, Relinquished, Starting] {
            assert_eq!(duty_at(&record(step, true), 50_000), Duty::GoOn, "{step:?}");
        }
        assert_eq!(duty_at(&record(Step::Restoring, true), 50_000), Duty::TakeBack);
    }

    #[test]
    fn what_was_taken_back_is_not_begun_again_even_within_its_hour() {
        assert_eq!(duty_at(&record(Step::Staging, true), 10_000), Duty::Over(Outcome::TakenBack));
        // A record that says nothing of it: what is not asked for is not begun.
        let nothing = Record { errand: None, ..record(Step::Staging, false) };
        assert_eq!(duty_at(&nothing, 10_000), Duty::Over(Outcome::TakenBack));
    }

    #[test]
    fn what_is_done_is_well_only_if_the_application_is_ready() {
        let mut done = Record { owner: Side::Destination, ..record(Step::Staging, true) };
        assert_eq!(duty_at(&done, 50_000), Duty::Over(Outcome::Done), "nothing was to be started");
        let object = ObjectRef::named("apps/v1", "Deployment", Some("shop"), "web");
        done.brought = vec![Brought { object, replicas: Some(1), was_there: false }];
        assert_eq!(duty_at(&done, 50_000), Duty::Over(Outcome::NotReady));
        done.timeline.ready = Some(at(10_060));
        assert_eq!(duty_at(&done, 50_000), Duty::Over(Outcome::Done));
    }

    #[test]
    fn whoever_was_taken_over_from_leaves_whatever_is_under_way() {
        for (step, has_begun) in [(Step::Staging, false), (Step::FinalPass, true), (Step::Restoring, true)] {
            let record = Record { coordinator: "somebody@host".to_owned(), ..record(step, has_begun) };
            assert_eq!(duty_at(&record, 10_000), Duty::Leave);
        }
    }
}
