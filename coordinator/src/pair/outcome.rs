//! How a pass went, from what the agent beside the source volume says.

use jiff::Timestamp;
use serde_json::Value;
use tranship_api::Record;
use tranship_api::migration::Verify;
use tranship_api::record::{Path, StageRecord};
use tranship_proto::control::Ended;

use super::Wanted;

/// The exit code of a process that never was.
const NO_EXIT: u8 = 255;

/// The exit code of a comparison that found a difference.
const DIFFERENT: u8 = 7;

/// How a pass went.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What is remembered of it.
    pub stage: StageRecord,
    /// The agent's report, if the pass was committed.
    pub report: Option<Value>,
    /// The agent's error, if it was not.
    pub error: Option<Value>,
}

impl Outcome {
    pub(super) fn of(
        record: &Record,
        volume: usize,
        at: Timestamp,
        ended: &Ended,
        path: Option<Path>,
        wanted: &Wanted,
    ) -> Self {
        let report = ended.report.as_ref();
        let number = |field: &str| report.and_then(|report| report.get(field)).and_then(Value::as_u64).unwrap_or(0);
        let float = |field: &str| report.and_then(|report| report.get(field)).and_then(Value::as_f64);
        let gaps = report.and_then(|report| report.get("gap_counts")).and_then(Value::as_array);
        let path = path.map(|path| Path {
            transport: report
                .and_then(|report| report.pointer("/transport/name"))
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            ..path
        });
        let stage = StageRecord {
            volume,
            pass: ended.pass.clone(),
            at,
            is_back: record.owner == tranship_api::Side::Destination,
            is_final: wanted.purpose.level().is_some(),
            exit: if ended.report.is_none() && ended.error.is_none() { NO_EXIT } else { ended.exit },
            error: ended.error.as_ref().map(sentence),
            stage: number("stage"),
            seconds: float("duration_seconds").unwrap_or(0.0),
            entries: number("entries_scanned"),
            bytes: number("bytes_scanned"),
            sent: number("bytes_sent"),
            gaps: gaps.into_iter().flatten().filter_map(gap_count).collect(),
            path,
        };
        Self { stage, report: ended.report.clone(), error: ended.error.clone() }
    }

    /// Whether the pass was committed at the destination.
    pub fn is_committed(&self) -> bool {
        self.report.is_some() && (self.stage.exit == 0 || self.stage.is_final)
    }

    /// What a comparison of both sides found, equal or not; nothing if it did not come to its end.
    pub fn verdict(&self) -> Option<&Value> {
        self.report.as_ref().filter(|_| matches!(self.stage.exit, 0 | DIFFERENT))
    }

    /// The proof, if this was a final pass and there is one: nothing else makes a cutover succeed.
    pub fn proof(&self) -> Option<&Value> {
        let report = self.report.as_ref()?;
        (self.stage.is_final && self.stage.exit == 0 && is_proof(report)).then(|| &report["proof"])
    }

    /// Seconds that a final pass with this proof would take now, as the agent predicts it.
    pub fn predicted_seconds(&self, level: Verify) -> Option<f64> {
        let field = match level {
            Verify::Full => "predicted_final_seconds",
            Verify::Tracked => "predicted_final_seconds_tracked",
        };
        self.report.as_ref()?.get(field)?.as_f64()
    }

    /// Bytes per second by which the volume changes.
    pub fn change_bytes_per_second(&self) -> Option<f64> {
        self.report.as_ref()?.get("change_bytes_per_second")?.as_f64()
    }
}

/// Whether a report says that both volumes hold the same: its proof's digest is that of both sides, and no gap is left that
/// nobody accepted. Looked at again here, since nothing else stands between this and the commit.
pub fn is_proof(report: &Value) -> bool {
    let text = |pointer: &str| report.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let canonical = text("/proof/canonical");
    let gaps = report.get("gaps").and_then(Value::as_array);
    canonical.is_some()
        && text("/digest_source") == canonical
        && text("/digest_destination") == canonical
        && report.get("final").and_then(Value::as_bool) == Some(true)
        && gaps.is_some_and(|gaps| gaps.iter().all(|gap| gap.get("accepted").and_then(Value::as_bool) == Some(true)))
}

fn gap_count(count: &Value) -> Option<(String, u64)> {
    Some((count.get("kind")?.as_str()?.to_owned(), count.get("count")?.as_u64()?))
}

/// An agent's error as one sentence.
fn sentence(error: &Value) -> String {
    let text = |field: &str| error.get(field).and_then(Value::as_str).unwrap_or_default();
    let causes = error.get("causes").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let parts: Vec<&str> = [text("message")].into_iter().chain(causes).collect();
    format!("{}: {}", text("code"), parts.join(": "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn proven() -> Value {
        json!({ "final": true, "digest_source": "ab", "digest_destination": "ab", "proof": { "canonical": "ab" },
            "gaps": [{ "accepted": true }] })
    }

    #[test]
    fn only_a_report_that_is_whole_is_a_proof() {
        assert!(is_proof(&proven()));
        for (pointer, value) in [
            ("/final", json!(false)),
            ("/digest_source", json!("cd")),
            ("/digest_destination", json!(null)),
            ("/proof", json!(null)),
            ("/proof/canonical", json!("")),
            ("/gaps/0/accepted", json!(false)),
            ("/gaps", json!(null)),
        ] {
            let mut report = proven();
            *report.pointer_mut(pointer).expect("it is there") = value;
            assert!(!is_proof(&report), "{pointer}");
        }
    }
}
