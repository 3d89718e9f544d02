//! One stage: a pass over each volume while the application runs.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tranship_api::record::StageRecord;
use tranship_api::{Record, Side};

use crate::agents::{agents_selector, pod_name, state_claim_name};
use crate::cutover::steps::holders;
use crate::ledger::Ledger;
use crate::pair::{Outcome, Pair, PairPlan, Wanted};
use crate::placement::{Usage, pairs, usage};
use crate::quiesce::Hold;
use crate::watch::Watch;
use crate::{Error, claims, workload};

/// Between two looks at the limit.
const BANDWIDTH_LOOK: Duration = Duration::from_secs(2);

/// Agents that are up, and how their volumes are used.
pub struct Pairs {
    pairs: Vec<Pair>,
    /// Volumes that no agent can be beside, since one pod has them for itself.
    pub exclusive: Vec<usize>,
}

impl Pairs {
    /// Makes what is missing at the destination, looks where the volumes are used, and brings up a pair for each node.
    pub async fn bring_up(ledger: &mut Ledger, watch: &Watch) -> Result<Self, Error> {
        let from = ledger.record.owner;
        // Whoever repeats stages may have been overtaken long ago: by then the other side's volumes can be in use.
        ledger.confirm().await?;
        ensure_claims(ledger).await?;
        let mut usages = usages(ledger, from).await?;
        let agents = agents(ledger).await?;
        stay(&mut usages, &ledger.record, &agents[from as usize]);
        let exclusive = (0..usages.len()).filter(|&volume| usages[volume].is_exclusive).collect();
        let plans = pairs(from, &usages);
        dismiss_others(ledger, &plans, &agents).await?;
        let pairs = plans.into_iter().map(|plan: PairPlan| Pair::bring_up(&*ledger, plan, watch));
        let pairs: Vec<Pair> = join_all(pairs).await.into_iter().collect::<Result<_, _>>()?;
        pairs.iter().try_for_each(|pair| pair.check_room(&ledger.record))?;
        let missed: Vec<Outcome> = pairs.iter().flat_map(|pair| pair.missed(&ledger.record)).collect();
        if !missed.is_empty() {
            missed.iter().for_each(|outcome| note(&mut ledger.record, outcome));
            ledger.save().await?;
        }
        Ok(Self { pairs, exclusive })
    }

    /// Runs a pass over each volume, and records how each went. Passes that failed are in the outcomes.
    pub async fn run(&self, ledger: &mut Ledger, wanted: &Wanted, watch: &Watch) -> Result<Vec<Outcome>, Error> {
        let mut outcomes = BTreeMap::new();
        let mut error = None;
        for (volume, result) in self.each(ledger, wanted, watch).await? {
            match result {
                Ok(outcome) => outcomes.extend(outcome.map(|outcome| (volume, outcome))),
                Err(failed @ Error::Superseded { .. }) => return Err(failed),
                Err(failed) => {
                    let interrupted = interrupted(volume, &failed, wanted, ledger.record.owner);
                    ledger.record.passed(interrupted);
                    error = Some(failed);
                }
            }
        }
        outcomes.values().for_each(|outcome| note(&mut ledger.record, outcome));
        ledger.save().await?;
        match error {
            Some(error) => Err(error),
            None => Ok(outcomes.into_values().collect()),
        }
    }

    /// Runs a pass over each volume, of which nothing is remembered.
    pub(crate) async fn each(
        &self,
        ledger: &mut Ledger,
        wanted: &Wanted,
        watch: &Watch,
    ) -> Result<Vec<(usize, Result<Option<Outcome>, Error>)>, Error> {
        // Agents that were made anew know of no epoch.
        ledger.confirm().await?;
        let record = ledger.record.clone();
        let turns = Semaphore::new(record.migration.spec.limits.passes as usize);
        let busy: Vec<Cell<bool>> = self.pairs.iter().map(|_| Cell::new(true)).collect();
        self.share(wanted.bits_per_second, &busy);
        let runs = self.pairs.iter().zip(&busy).map(async |(pair, is_busy)| {
            let results = pair.run(&record, wanted, &turns, watch).await;
            is_busy.set(false);
            results
        });
        let all = tokio::select! {
            all = join_all(runs) => all,
            never = self.follow_bandwidth(ledger, &busy) => match never {},
        };
        let of_pair =
            |(pair, results): (&Pair, Vec<_>)| pair.volumes().iter().copied().zip(results).collect::<Vec<_>>();
        Ok(self.pairs.iter().zip(all).flat_map(of_pair).collect())
    }

    /// Gives each pair that is still busy an equal share of what all may send.
    fn share(&self, bits_per_second: Option<u64>, busy: &[Cell<bool>]) {
        let pairs = busy.iter().filter(|is_busy| is_busy.get()).count().max(1) as u64;
        let share = bits_per_second.map(|bits| bits / pairs);
        let busy_ones = self.pairs.iter().zip(busy).filter(|(_, is_busy)| is_busy.get());
        busy_ones.for_each(|(pair, _)| pair.limit(share));
    }

    /// Has the agents follow a limit that somebody changes in the record while passes run, and share what is left by those
    /// that are done. It is said again and again: an agent whose volumes wait for their turn would take itself for unneeded.
    async fn follow_bandwidth(&self, ledger: &Ledger, busy: &[Cell<bool>]) -> Infallible {
        let record = &ledger.record;
        let lead = ledger.lead().unwrap_or(record.owner);
        let (cluster, name) = (ledger.cluster(lead), &record.migration.metadata.name);
        loop {
            sleep(BANDWIDTH_LOOK).await;
            // What cannot be read stays as it is.
            let Ok(Some(found)) = Ledger::peek(cluster, record.namespace(cluster.side), name).await else { continue };
            self.share(found.migration.spec.link.bits_per_second, busy);
        }
    }

    /// Says which volumes no agent can be beside now, and what that means for them.
    pub(crate) fn tell_of_exclusive(&self, record: &Record, fate: &str, watch: &Watch) {
        for &volume in &self.exclusive {
            let claim = &record.volumes[volume].claim(record.owner).name;
            watch.note(format!("{claim}: one pod has it for itself (ReadWriteOncePod), so that it is {fate}"));
        }
    }

    /// Tells the agents that have read that there is nothing more to do. Those beside the volumes that were written stay, so
    /// that these are attached where the application comes to.
    pub fn dismiss_readers(&self) {
        self.pairs.iter().for_each(Pair::dismiss_reader);
    }
}

/// Runs one stage over all volumes that an agent can be beside.
pub async fn stage(ledger: &mut Ledger, wanted: &Wanted, watch: &Watch) -> Result<Vec<Outcome>, Error> {
    watch.step("bringing up agents");
    let pairs = Pairs::bring_up(ledger, watch).await?;
    pairs.tell_of_exclusive(&ledger.record, "copied in the cutover only", watch);
    tell_of_others(ledger, watch).await?;
    watch.step("stage");
    pairs.run(ledger, wanted, watch).await
}

/// Begins one pass over each volume and leaves it to the agents. Returns how many there are.
///
/// It returns once the agents of each pass have met: from then on they need nobody. Refused where they can only meet through
/// the API servers, since that needs a coordinator.
pub async fn detach(ledger: &mut Ledger, wanted: &Wanted, watch: &Watch) -> Result<usize, Error> {
    let wanted = Wanted { detaches: true, ..wanted.clone() };
    watch.step("bringing up agents");
    let pairs = Pairs::bring_up(ledger, watch).await?;
    let begun: usize = pairs.pairs.iter().map(|pair| pair.volumes().len()).sum();
    let ended = pairs.run(ledger, &wanted, watch).await?;
    Ok(begun - ended.len())
}

/// Ends the passes that run, on both sides. What they have carried is kept. Returns how many agents were told.
pub async fn cancel(ledger: &Ledger, watch: &Watch) -> Result<usize, Error> {
    let mut told = 0;
    for side in Side::ALL {
        let (cluster, namespace) = (ledger.cluster(side), ledger.record.namespace(side));
        for pod in cluster.list::<Pod>(namespace, &agents_selector(&ledger.record)).await? {
            let is_running = is_running(&pod);
            let Some(name) = pod.metadata.name.filter(|_| is_running) else { continue };
            watch.note(format!("{side}: pod {namespace}/{name} ends its passes"));
            // An agent that is told to end stops its passes in a state from which the next ones go on.
            cluster.delete::<Pod>(namespace, &name, pod.metadata.uid.as_deref()).await?;
            told += usize::from(side == ledger.record.owner);
        }
    }
    Ok(told)
}

/// How each volume is used on this side, now.
pub async fn usages(ledger: &Ledger, side: Side) -> Result<Vec<Usage>, Error> {
    let record = &ledger.record;
    let survey = workload::survey(ledger.cluster(side), record.namespace(side), &record.claims(side), false).await?;
    Ok(record.volumes.iter().map(|volume| usage(&survey, volume.claim(side))).collect())
}

/// Pods of this migration on both sides.
async fn agents(ledger: &Ledger) -> Result<[Vec<Pod>; 2], Error> {
    let selector = agents_selector(&ledger.record);
    let of = |side: Side| ledger.cluster(side).list::<Pod>(ledger.record.namespace(side), &selector);
    let (source, destination) = tokio::try_join!(of(Side::Source), of(Side::Destination))?;
    Ok([source, destination])
}

/// Has agents stay where they are beside volumes that nobody uses any more: after the application has stopped, nothing has
/// to be started and attached anew.
fn stay(usages: &mut [Usage], record: &Record, agents: &[Pod]) {
    for (volume, usage) in usages.iter_mut().enumerate().filter(|(_, usage)| usage.node.is_none()) {
        let state = state_claim_name(record, volume);
        let is_beside = |pod: &&Pod| {
            let volumes = pod.spec.iter().filter_map(|spec| spec.volumes.as_ref()).flatten();
            let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
            is_running(pod) && claims.any(|claim| claim.claim_name == state)
        };
        usage.node = agents.iter().find(is_beside).and_then(|pod| pod.spec.as_ref()?.node_name.clone());
    }
}

/// Ends agents that have no part in the plans: one that is left over holds volumes that another one needs.
async fn dismiss_others(ledger: &Ledger, plans: &[PairPlan], agents: &[Vec<Pod>; 2]) -> Result<(), Error> {
    for side in Side::ALL {
        let wanted = |name: &str| (0..plans.len()).any(|group| name == pod_name(&ledger.record, side, group));
        for pod in &agents[side as usize] {
            let (name, uid) = (pod.metadata.name.as_deref().unwrap_or_default(), pod.metadata.uid.as_deref());
            if !wanted(name) {
                ledger.cluster(side).delete::<Pod>(ledger.record.namespace(side), name, uid).await?;
            }
        }
    }
    Ok(())
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
}

/// Says who uses the volumes that are written: whatever they write there is taken back by a pass.
async fn tell_of_others(ledger: &Ledger, watch: &Watch) -> Result<(), Error> {
    let side = ledger.record.owner.other();
    for holder in holders(ledger, side).await?.iter().filter(|holder| matches!(holder.hold, Hold::Pod { .. })) {
        watch.note(format!(
            "{side}: {holder}; what it writes there will not last, and no cutover begins while it is there"
        ));
    }
    Ok(())
}

/// Makes the claims at the destination that are not there yet, and records which they are.
async fn ensure_claims(ledger: &mut Ledger) -> Result<(), Error> {
    if ledger.record.owner != Side::Source {
        return Ok(());
    }
    let [source, destination] = Side::ALL.map(|side| ledger.cluster(side).clone());
    let record = &mut ledger.record;
    let namespaces = Side::ALL.map(|side| record.namespace(side).to_owned());
    let mut is_new = false;
    for volume in &mut record.volumes {
        let model: PersistentVolumeClaim = source.get(&namespaces[0], &volume.claim(Side::Source).name).await?;
        if model.metadata.uid.as_deref() != Some(&volume.claim(Side::Source).uid) {
            return Err(Error::refused(
                "TS-K953",
                format!("claim {}/{} was deleted and made again", namespaces[0], volume.claim(Side::Source).name),
                "what was staged is of the old one: `tranship finish` this migration and create it anew",
            ));
        }
        if model.metadata.deletion_timestamp.is_some() {
            return Err(Error::refused(
                "TS-K112",
                format!(
                    "claim {}/{} is being deleted: its data goes as soon as its last pod ends",
                    namespaces[0],
                    volume.claim(Side::Source).name
                ),
                "do not stop its pods; set its volume to Retain and make a new claim for it first",
            ));
        }
        let name = &record.migration.metadata.name;
        let wanted = claims::destination_claim(&model, volume, &record.id, name, &namespaces[1]);
        let there = claims::ensure(&destination, &wanted).await?;
        let uid = there.metadata.uid.unwrap_or_default();
        let recorded = &mut volume.claims[Side::Destination as usize].uid;
        if !recorded.is_empty() && *recorded != uid {
            return Err(Error::refused(
                "TS-K953",
                format!(
                    "claim {}/{} was deleted and made again",
                    namespaces[1],
                    wanted.metadata.name.unwrap_or_default()
                ),
                "`tranship finish` this migration and create it anew",
            ));
        }
        is_new |= recorded.is_empty();
        *recorded = uid;
    }
    if is_new { ledger.save().await } else { Ok(()) }
}

/// Takes what a pass has found out into the record.
fn note(record: &mut Record, outcome: &Outcome) {
    let level = record.migration.spec.cutover.verify;
    let volume = &mut record.volumes[outcome.stage.volume];
    if outcome.is_committed() {
        volume.predicted_seconds = outcome.predicted_seconds(level).or(volume.predicted_seconds);
        volume.change_bytes_per_second = outcome.change_bytes_per_second().or(volume.change_bytes_per_second);
    }
    if let Some(path) = &outcome.stage.path {
        record.path = Some(path.clone());
    }
    record.passed(outcome.stage.clone());
}

fn interrupted(volume: usize, error: &Error, wanted: &Wanted, owner: Side) -> StageRecord {
    StageRecord {
        volume,
        pass: String::new(),
        at: Timestamp::now(),
        is_back: owner == Side::Destination,
        is_final: wanted.purpose.level().is_some(),
        exit: u8::MAX,
        error: Some(format!("interrupted: {error}")),
        stage: 0,
        seconds: 0.0,
        entries: 0,
        bytes: 0,
        sent: 0,
        gaps: Vec::new(),
        path: None,
    }
}
