//! `verify NAME`: both sides of a migration, compared.

use serde_json::{Value, json};
use tranship_api::{Record, Side};
use tranship_coordinator::verify::{Comparison, verify as compare};

use super::args::NamedArgs;
use super::{Context, find};
use crate::error::RunError;
use crate::exit::Exit;
use crate::human;

/// Differences of a volume that people are shown.
const DIFFERENCES_SHOWN: usize = 10;

/// `verify` of a migration.
pub(crate) async fn verify(named: NamedArgs, context: Context) -> Result<Exit, RunError> {
    let mut ledger = find::ledger(&named).await?;
    context.take_over(&mut ledger).await?;
    let record = ledger.record.clone();
    let rate = record.migration.spec.link.bits_per_second;
    let found = context.watched(&record, async |watch| compare(&mut ledger, rate, watch).await).await?;
    context.printer.line(&text(&record, &found));
    context.printer.json(&value(&record, &found));
    let is_whole = found.exclusive.is_empty();
    let is_equal = found.verdicts.iter().all(|(_, verdict)| is_equal(verdict));
    match (is_equal, is_whole) {
        (true, true) => Ok(Exit::Done),
        (false, _) => Ok(Exit::Different),
        (true, false) => Err(RunError::refused("TS-K956", "not every volume could be compared")
            .hint("stop the pods that have volumes for themselves (ReadWriteOncePod), and run it again")),
    }
}

fn is_equal(verdict: &Value) -> bool {
    let digest = |field: &str| verdict[field].as_str().filter(|digest| !digest.is_empty());
    digest("digest_a").is_some()
        && digest("digest_a") == digest("digest_b")
        && verdict["differences_total"].as_u64() == Some(0)
}

fn claim(record: &Record, volume: usize) -> &str {
    &record.volumes[volume].claim(Side::Source).name
}

fn text(record: &Record, found: &Comparison) -> String {
    let mut lines = Vec::new();
    for (volume, verdict) in &found.verdicts {
        let (number, claim) = (|field: &str| verdict[field].as_u64().unwrap_or(0), claim(record, *volume));
        let size = format!("{}, {}", human::entries(number("entries")), human::bytes(number("bytes")));
        if is_equal(verdict) {
            lines.push(format!("EQUAL      {claim}  {}  {size}", verdict["digest_a"].as_str().unwrap_or_default()));
            continue;
        }
        let total = number("differences_total");
        lines.push(format!("DIFFERENT  {claim}  in {}; {size}", human::entries(total)));
        let all = verdict["differences"].as_array().map_or(&[][..], Vec::as_slice);
        lines.extend(all.iter().take(DIFFERENCES_SHOWN).map(|one| {
            format!("  {}: {}", one["path"].as_str().unwrap_or_default(), one["what"].as_str().unwrap_or_default())
        }));
        let hidden = total.saturating_sub(DIFFERENCES_SHOWN as u64);
        if hidden > 0 {
            lines.push(format!("  … and {} more", human::count(hidden)));
        }
    }
    let owner = record.owner;
    for side in &found.in_use {
        lines.push(match *side == owner {
            true => {
                format!("the {owner} is in use: what was written there since the last stage differs, and rightly so")
            }
            false => format!("the {side} is in use: what is written there does not last"),
        });
    }
    lines.join("\n")
}

fn value(record: &Record, found: &Comparison) -> Value {
    let volumes = found.verdicts.iter().map(
        |(volume, verdict)| json!({ "claim": claim(record, *volume), "equal": is_equal(verdict), "verdict": verdict }),
    );
    let not_compared = found.exclusive.iter().map(|&volume| claim(record, volume));
    json!({
        "version": 1,
        "name": record.migration.metadata.name,
        "volumes": volumes.collect::<Vec<_>>(),
        "not_compared": not_compared.collect::<Vec<_>>(),
        "in_use": found.in_use,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_is_only_what_has_two_like_digests_and_no_difference() {
        let equal = json!({ "digest_a": "ab", "digest_b": "ab", "differences_total": 0 });
        assert!(is_equal(&equal));
        for (field, value) in [("digest_a", json!("cd")), ("digest_b", Value::Null), ("differences_total", json!(1))] {
            let mut verdict = equal.clone();
            verdict[field] = value;
            assert!(!is_equal(&verdict), "{field}");
        }
        assert!(!is_equal(&json!({ "digest_a": "", "digest_b": "", "differences_total": 0 })));
    }
}
