//! Comparison of both sides of a migration, by the agents beside the volumes. Neither side is changed, and nothing is
//! remembered.

use serde_json::Value;
use tranship_api::Side;
use tranship_api::record::Step;
use tranship_proto::control::Purpose;

use crate::Error;
use crate::cutover::steps::holders;
use crate::cutover::under_way;
use crate::ledger::Ledger;
use crate::pair::Wanted;
use crate::quiesce::Hold;
use crate::stage::Pairs;
use crate::watch::Watch;

/// What a comparison found.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// For each volume that was compared, its place in the record and the agents' verdict, as in `docs/report.md`.
    pub verdicts: Vec<(usize, Value)>,
    /// Volumes that no agent can be beside now, since one pod has them for itself.
    pub exclusive: Vec<usize>,
    /// Sides on which somebody had the volumes before or after they were read: what was written there meanwhile, or since
    /// the last stage, differs, and rightly so.
    pub in_use: Vec<Side>,
}

/// Reads both sides in full and compares them. Where nobody has the volumes, equal means that they hold the same; where they
/// are in use, what the last stage carried can be told apart from what was written since by its place only.
pub async fn verify(ledger: &mut Ledger, bits_per_second: Option<u64>, watch: &Watch) -> Result<Comparison, Error> {
    let name = ledger.record.migration.metadata.name.clone();
    if ledger.record.step != Step::Staging {
        return Err(under_way(&ledger.record));
    }
    if ledger.record.volumes.iter().any(|volume| volume.claim(Side::Destination).uid.is_empty()) {
        return Err(Error::refused(
            "TS-K954",
            "there is nothing at the destination yet",
            format!("`tranship stage {name}` copies what is to be compared"),
        ));
    }
    let mut in_use = used_sides(ledger).await?;
    watch.step("bringing up agents");
    let pairs = Pairs::bring_up(ledger, watch).await?;
    pairs.tell_of_exclusive(&ledger.record, "not compared while that pod runs", watch);
    watch.step("comparing");
    let wanted = Wanted { purpose: Purpose::Comparison, bits_per_second, detaches: false };
    let mut verdicts = Vec::new();
    for (volume, result) in pairs.each(ledger, &wanted, watch).await? {
        let Some(outcome) = result? else { continue };
        let verdict = outcome.verdict().cloned().ok_or_else(|| {
            let claim = &ledger.record.volumes[volume].claim(Side::Source).name;
            let why = outcome.stage.error.as_deref().unwrap_or("the agent says nothing of it");
            Error::refused("TS-K955", format!("{claim} was not compared: {why}"), "run the same command again")
        })?;
        verdicts.push((volume, verdict));
    }
    in_use.extend(used_sides(ledger).await?);
    in_use.sort();
    in_use.dedup();
    Ok(Comparison { verdicts, exclusive: pairs.exclusive, in_use })
}

/// Sides on which a pod, not one of ours, has a volume.
async fn used_sides(ledger: &Ledger) -> Result<Vec<Side>, Error> {
    let mut used = Vec::new();
    for side in Side::ALL {
        if holders(ledger, side).await?.iter().any(|holder| matches!(holder.hold, Hold::Pod { .. })) {
            used.push(side);
        }
    }
    Ok(used)
}
