//! What each step of a cutover does. All of it may be done again.

use std::time::Duration;

use futures_util::future::{join, join_all};
use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use tranship_api::hook::Point;
use tranship_api::migration::Resources;
use tranship_api::record::{Act, Brought, Change, ChangeState, Proof, Step};
use tranship_api::{Finding, ObjectRef, Record, Side};
use tranship_proto::control::Purpose;

use super::{Options, PATIENCE, Proven, START_PATIENCE, Verdict, obstacle, way};
use crate::agents::pod_name;
use crate::fence::{self, Fence};
use crate::ledger::Ledger;
use crate::pair::{Outcome, Wanted};
use crate::stage::Pairs;
use crate::watch::{Update, Watch};
use crate::{Cluster, Error, bring as brought, hook, quiesce as stop, reclaim, workload};

/// Agents of one side that a fence admits, whatever the grouping of the volumes becomes.
const AGENTS_MAX: usize = 32;

/// How long a fence may take until it is seen to hold.
const FENCE_PATIENCE: Duration = Duration::from_secs(60);

/// What a fence says where policies may not be made.
const NO_RIGHT_TO_FENCE: &str = "TS-K330";

/// How long an application that was started again where it was is waited for.
const RESTORED_PATIENCE: Duration = Duration::from_secs(60);

/// How long a kubelet may take to let go of a volume that no pod has any more.
const KUBELET_PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a fence that goes, a kubelet that lets go, or an application that starts.
const LOOK: Duration = Duration::from_millis(100);

/// Brings what the application needs to the other side, at rest, or finds what somebody else has made there. Nothing to do
/// on the way home.
pub(super) async fn bring(ledger: &mut Ledger, survey: &workload::Survey, watch: &Watch) -> Result<(), Error> {
    let record = &ledger.record;
    if record.owner != Side::Source {
        return Ok(());
    }
    let workloads: Vec<ObjectRef> = survey.workloads.iter().map(|workload| workload.object.clone()).collect();
    if record.migration.spec.cutover.resources == Resources::None {
        let clusters = Side::ALL.map(|side| ledger.cluster(side));
        let made = brought::made_there(clusters, record, &workloads).await?;
        for workload in workloads.iter().filter(|one| !made.iter().any(|made| is_alike(&made.object, one))) {
            watch.note(format!("{workload} is not at the destination: nothing is started there in its place"));
        }
        ledger.record.brought = made;
        return ledger.save().await;
    }
    watch.step("bringing the application's objects to the destination, at rest");
    let manifests = brought::plan(ledger.cluster(Side::Source), record, &workloads).await?;
    let (brought, kept) = brought::apply(ledger.cluster(Side::Destination), record, &manifests).await?;
    kept.iter().for_each(|finding| watch.note(finding.to_string()));
    ledger.record.brought = brought;
    ledger.save().await
}

fn is_alike(a: &ObjectRef, b: &ObjectRef) -> bool {
    a.kind == b.kind && a.name == b.name
}

/// Keeps the volumes whatever happens to their claims, and refuses new users of them on both sides.
pub(super) async fn fence(ledger: &mut Ledger, options: &Options) -> Result<(), Error> {
    for side in Side::ALL {
        reclaim::retain(ledger, side).await?;
    }
    let raised = join_all(Side::ALL.map(|side| raise(ledger, side, options))).await;
    raised.into_iter().collect()
}

async fn raise(ledger: &Ledger, side: Side, options: &Options) -> Result<(), Error> {
    let (record, cluster) = (&ledger.record, ledger.cluster(side));
    for claim in record.claims(side) {
        let name = &record.migration.metadata.name;
        fence::hold(cluster, record.namespace(side), &claim, name, &record.id, record.epoch).await?;
    }
    let fence = fence_of(ledger, side, fence::user(cluster).await?);
    match fence.raise(cluster).await {
        Ok(()) => fence.await_live(cluster, FENCE_PATIENCE).await,
        Err(error) if error.code() == NO_RIGHT_TO_FENCE && options.accepts_weak_fence => Ok(()),
        Err(error) => Err(error),
    }
}

/// The fence around this side's claims, which lets in the agents that `user` makes.
fn fence_of(ledger: &Ledger, side: Side, user: String) -> Fence {
    let record = &ledger.record;
    Fence {
        migration: record.migration.metadata.name.clone(),
        id: record.id.clone(),
        side,
        namespace: record.namespace(side).to_owned(),
        claims: record.claims(side),
        agents: agents_of(ledger, side),
        user,
        epoch: record.epoch,
        lifted_by: lifted_by(record),
    }
}

/// The command that lifts the fence around what was left, also once the record is gone.
pub(crate) fn lifted_by(record: &Record) -> String {
    record.command("finish") + " --lift-fence"
}

/// Names of all pods that agents of this side can have.
pub(crate) fn agents_of(ledger: &Ledger, side: Side) -> Vec<String> {
    (0..AGENTS_MAX).map(|group| pod_name(&ledger.record, side, group)).collect()
}

/// Takes the fence around this side's claims away, and lets go of them.
pub(crate) async fn lift(ledger: &Ledger, side: Side) -> Result<(), Error> {
    let (record, cluster) = (&ledger.record, ledger.cluster(side));
    match fence_of(ledger, side, String::new()).lift(cluster).await {
        // Who may not make a policy has made none.
        Err(error) if error.is_forbidden() || error.code() == NO_RIGHT_TO_FENCE => {}
        result => result?,
    }
    for claim in record.claims(side) {
        fence::release(cluster, record.namespace(side), &claim, &record.id, record.epoch).await?;
    }
    Ok(())
}

/// Waits until the fence that was lifted refuses nobody any more. A controller that is refused waits longer before its
/// second attempt than the API server takes to forget a policy.
async fn until_open(ledger: &Ledger, side: Side) -> Result<(), Error> {
    let (cluster, fence) = (ledger.cluster(side), fence_of(ledger, side, String::new()));
    let deadline = Instant::now() + FENCE_PATIENCE;
    for claim in &fence.claims {
        while fence.refuses(cluster, claim).await? && Instant::now() < deadline {
            sleep(LOOK).await;
        }
    }
    Ok(())
}

/// Records what will be changed to stop the application, and the moment from which on it stands still. `told` are the
/// obstacles that were told before the cutover began.
pub(super) async fn plan_quiesce(ledger: &mut Ledger, told: &[Finding], watch: &Watch) -> Result<(), Error> {
    let survey = obstacle::survey(ledger, ledger.record.owner).await?;
    obstacle::look_again(&survey, told, watch)?;
    ledger.record.changes = stop::plan(&survey);
    ledger.record.step = Step::Quiescing;
    let now = Timestamp::now();
    ledger.record.timeline.stopping = Some(now);
    ledger.record.happened(now, "the application is being stopped");
    ledger.save().await
}

/// Stops the application and waits until nobody has its volumes any more. Nothing is ever deleted by force.
pub(super) async fn quiesce(ledger: &mut Ledger, options: &Options, watch: &Watch) -> Result<(), Error> {
    let owner = ledger.record.owner;
    let cluster = ledger.cluster(owner).clone();
    for change in &mut ledger.record.changes {
        stop::make(&cluster, change).await?;
        change.state = ChangeState::Made;
    }
    let stopped = stop::stopped(&ledger.record.changes);
    let told = tell(ledger, owner, stop::News::Stopped, stopped);
    let ((), released) = join(told, released(ledger, options.patience.unwrap_or(PATIENCE), watch)).await;
    released?;
    let now = Timestamp::now();
    ledger.record.timeline.released = Some(now);
    ledger.record.step = Step::FinalPass;
    ledger.record.happened(now, "nobody has the volumes any more");
    ledger.save().await
}

/// Waits until nobody has the volumes any more, on either side.
async fn released(ledger: &Ledger, patience: Duration, watch: &Watch) -> Result<(), Error> {
    let record = &ledger.record;
    for side in [record.owner, record.owner.other()] {
        let release = stop::Release {
            namespace: record.namespace(side),
            claims: &record.claims(side),
            our_pods: &agents_of(ledger, side),
            changes: if side == record.owner { &record.changes } else { &[] },
        };
        let mut show = |holders: &[stop::Holder]| {
            holders.iter().for_each(|holder| watch.note(format!("{side}: {holder}")));
        };
        stop::wait_released(ledger.cluster(side), release, patience, &mut show).await?;
    }
    Ok(())
}

/// Says on workloads of this side what became of them.
async fn tell(ledger: &Ledger, side: Side, news: stop::News, objects: impl Iterator<Item = &ObjectRef>) {
    join_all(objects.map(|object| stop::tell(ledger.cluster(side), object, news, &ledger.record))).await;
}

/// Copies the last changes and proves that both sides are equal, which both clusters know when this returns.
pub(super) async fn final_pass(ledger: &mut Ledger, options: &Options, watch: &Watch) -> Result<Proven, Error> {
    let level = ledger.record.migration.spec.cutover.verify.word().to_owned();
    let purpose = Purpose::Final { level: level.clone() };
    let wanted = Wanted { purpose, bits_per_second: options.bits_per_second, detaches: false };
    nobody_came_back(ledger, KUBELET_PATIENCE).await?;
    let pairs = Pairs::bring_up(ledger, watch).await?;
    let outcomes = pairs.run(ledger, &wanted, watch).await?;
    let mut proofs = vec![serde_json::Value::Null; ledger.record.volumes.len()];
    for outcome in &outcomes {
        proofs[outcome.stage.volume] = outcome.proof().cloned().ok_or_else(|| not_proven(ledger, outcome))?;
    }
    let digest = |proof: &serde_json::Value| proof["canonical"].as_str().map(str::to_owned);
    let digests: Option<Vec<String>> = proofs.iter().map(digest).collect();
    let Some(digests) = digests else {
        return Err(Error::refused("TS-K945", "not every volume has a proof", "run the same command again"));
    };
    // What was true before the pass has to be true after it. Whoever lets go only now had the volume during the pass.
    nobody_came_back(ledger, Duration::ZERO).await?;
    tell_who_started_again(ledger, watch).await;
    pairs.dismiss_readers();
    let proof = Proof { epoch: ledger.record.epoch, level, volumes: proofs };
    ledger.record.timeline.proven = Some(Timestamp::now());
    // The heir has to have it, too, where the old owner's cluster is lost before it can give up.
    ledger.record.proof = Some(proof.clone());
    ledger.record.step = Step::Proven;
    // An heir that cannot be told cannot take over either: then it is better to stay.
    ledger.save_both().await?;
    Ok(Proven { proof, digests })
}

/// Says who has started the application again since it stopped. The fence keeps its pods away: it is no
/// failure, and neither is it if that cannot be seen.
async fn tell_who_started_again(ledger: &Ledger, watch: &Watch) {
    let owner = ledger.record.owner;
    for change in &ledger.record.changes {
        if let Ok(Some(by)) = stop::taken_back_by(ledger.cluster(owner), change).await {
            let object = &change.object;
            watch.note(format!("{owner}: {by} has started {object} again; the fence keeps its pods away"));
        }
    }
}

/// What is given up without a proof: the user has said that what was written here is not wanted.
pub(super) async fn give_up_unproven(ledger: &mut Ledger) -> Result<Proven, Error> {
    nobody_came_back(ledger, KUBELET_PATIENCE).await?;
    let proof = Proof { epoch: ledger.record.epoch, level: "none".to_owned(), volumes: Vec::new() };
    ledger.record.happened(Timestamp::now(), "what was written there is given up, as the user said");
    Ok(Proven { proof, digests: Vec::new() })
}

/// An error if somebody has the volumes, on either side.
async fn nobody_came_back(ledger: &Ledger, patience: Duration) -> Result<(), Error> {
    nobody_has(ledger, &Side::ALL, patience).await
}

/// An error if somebody has the volumes on the side to which the application is to move: it would stand still until that one
/// lets go.
pub(super) async fn nobody_waits_there(ledger: &Ledger) -> Result<(), Error> {
    nobody_has(ledger, &[ledger.record.owner.other()], KUBELET_PATIENCE).await
}

/// Who has the volumes of a side, our agents apart.
pub(crate) async fn holders(ledger: &Ledger, side: Side) -> Result<Vec<stop::Holder>, Error> {
    let (record, ours) = (&ledger.record, agents_of(ledger, side));
    stop::holders(ledger.cluster(side), record.namespace(side), &record.claims(side), &ours).await
}

/// An error if somebody has the volumes. `patience` is for kubelets alone: one whose last pod has gone, be it an agent of an
/// earlier command, takes a moment to let go.
async fn nobody_has(ledger: &Ledger, sides: &[Side], patience: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + patience;
    for &side in sides {
        loop {
            let holders = holders(ledger, side).await?;
            let Some(holder) = holders.first() else { break };
            if holders.iter().any(stop::Holder::is_pod) || Instant::now() >= deadline {
                return Err(Error::refused(
                    "TS-K946",
                    format!("somebody has a volume of the {side} while it has to be at rest: {holder}"),
                    "stop it, and run the same command again",
                ));
            }
            sleep(LOOK).await;
        }
    }
    Ok(())
}

fn not_proven(ledger: &Ledger, outcome: &Outcome) -> Error {
    let claim = &ledger.record.volumes[outcome.stage.volume].claim(ledger.record.owner).name;
    let unaccepted = outcome.stage.exit == 6;
    let (code, why) = match &outcome.stage.error {
        Some(error) => ("TS-K947", error.clone()),
        None if unaccepted => ("TS-K948", "there are gaps that nobody accepted".to_owned()),
        None => ("TS-K947", "both volumes were read, and they are not equal".to_owned()),
    };
    let todo = if unaccepted {
        "`tranship status` names the kinds; run the same command again with --accept-gap KIND for each that may stay behind"
    } else {
        "run the same command again: what differs is in doubt now, is read and sent"
    };
    Error::refused(code, format!("{claim} is not proven equal: {why}"), todo)
}

/// Starts the application on the side that has become authoritative, and waits until it is ready.
pub(super) async fn start(ledger: &mut Ledger, options: &Options, watch: &Watch) -> Result<Verdict, Error> {
    let heir = ledger.record.owner.other();
    if !ledger.may_start(heir) {
        return Err(Error::refused(
            "TS-K949",
            format!("the {heir} cluster does not say that it is authoritative, and nothing starts without that"),
            "see that the cluster answers, then run the same command again",
        ));
    }
    ledger.confirm().await?;
    ledger.record.timeline.committed.get_or_insert(Timestamp::now());
    watch.step(format!("start: the application begins on the {heir}"));
    if !way::can_be_shared(&ledger.record, heir) {
        way::clear(ledger, heir).await;
    }
    lift(ledger, heir).await?;
    until_open(ledger, heir).await?;
    hook::run(ledger, Point::BeforeStart, watch).await?;
    let started =
        if heir == Side::Destination { begin_there(ledger).await? } else { begin_again(ledger, watch).await? };
    let mut waiting = until_ready(ledger, heir, &started, options.start_patience.unwrap_or(START_PATIENCE)).await?;
    way::clear(ledger, heir).await;
    if waiting.is_empty()
        && let Err(error) = hook::run(ledger, Point::AfterReady, watch).await
    {
        waiting.push(error.to_string());
    }
    let is_started = started.iter().any(|one| one.replicas.is_some());
    let verdict = match waiting.is_empty() {
        true if is_started => Verdict::Done,
        true => Verdict::NothingToStart,
        false => Verdict::NotReady(waiting),
    };
    conclude(ledger, &verdict).await?;
    watch.show(Update::Runs);
    Ok(verdict)
}

/// Starts what was brought.
async fn begin_there(ledger: &Ledger) -> Result<Vec<Brought>, Error> {
    let cluster = ledger.cluster(Side::Destination);
    for one in &ledger.record.brought {
        if let Some(replicas) = one.replicas {
            brought::start(cluster, one, replicas).await?;
        }
    }
    let started = ledger.record.brought.iter().filter(|one| one.replicas.is_some() && !one.was_there);
    tell(ledger, Side::Destination, stop::News::Started, started.map(|one| &one.object)).await;
    Ok(ledger.record.brought.clone())
}

/// Starts what was stopped when the application left, as it was then.
async fn begin_again(ledger: &mut Ledger, watch: &Watch) -> Result<Vec<Brought>, Error> {
    undo(ledger, watch, true).await?;
    Ok(started_by_undoing(&ledger.record.changes_there))
}

/// What runs again once these changes are undone.
fn started_by_undoing(changes: &[Change]) -> Vec<Brought> {
    let started = changes.iter().filter_map(|change| {
        let replicas = match change.act {
            Act::Scale { before, .. } => before,
            Act::Delete { .. } => 1,
            Act::Set { .. } => return None,
        };
        Some(Brought { object: change.object.clone(), replicas: Some(replicas), was_there: true })
    });
    started.collect()
}

/// Waits until everything is ready. What is not after `patience` is said in words, and is no error: the application is
/// where it belongs.
async fn until_ready(
    ledger: &Ledger,
    side: Side,
    started: &[Brought],
    patience: Duration,
) -> Result<Vec<String>, Error> {
    let deadline = Instant::now() + patience;
    loop {
        way::make(ledger, side).await?;
        let mut waiting = brought::ready(ledger.cluster(side), started).await?;
        waiting.retain(|one| !one.is_ready);
        if waiting.is_empty() || Instant::now() > deadline {
            return Ok(join_all(waiting.into_iter().map(|one| lack(ledger.cluster(side), one))).await);
        }
        sleep(LOOK).await;
    }
}

/// What a workload lacks, in words.
async fn lack(cluster: &Cluster, mut one: brought::Readiness) -> String {
    // Where its pods are there they have said why; what was refused before is over.
    if one.reasons.len() <= 1 {
        one.reasons.extend(brought::refusal(cluster, &one.object).await);
    }
    format!("{}: {}", one.object, one.reasons.join("; "))
}

/// The new owner has the application: what was changed to stop it elsewhere is kept for the way back.
async fn conclude(ledger: &mut Ledger, verdict: &Verdict) -> Result<(), Error> {
    let (now, heir) = (Timestamp::now(), ledger.record.owner.other());
    let record = &mut ledger.record;
    let what = match verdict {
        Verdict::Done => {
            record.timeline.ready = Some(now);
            format!("the application is ready on the {heir}")
        }
        Verdict::NothingToStart => format!("the volumes are the {heir}'s, where nothing was to be started"),
        Verdict::NotReady(waiting) => {
            format!("the application is not ready on the {heir} yet: {}", waiting.join("; "))
        }
    };
    record.timed();
    record.happened(now, what);
    record.changes_there = std::mem::take(&mut record.changes);
    record.owner = heir;
    record.step = Step::Staging;
    ledger.save().await
}

/// Undoes a cutover before its commit: what was stopped is started, and the fences are lifted. Returns what was started.
pub(super) async fn take_back(ledger: &mut Ledger, watch: &Watch) -> Result<Vec<Brought>, Error> {
    let owner = ledger.record.owner;
    way::clear(ledger, owner).await;
    lift(ledger, owner).await?;
    until_open(ledger, owner).await?;
    undo(ledger, watch, false).await?;
    let other = ledger.record.owner.other();
    // A side that was left by an earlier cutover stays fenced.
    if !ledger.was_left(other)
        && let Err(error) = lift(ledger, other).await
    {
        // It holds nobody back: the next cutover takes it over, and `finish` takes it away.
        watch.note(format!("the fence of the {other} stays for now: {error}"));
    }
    Ok(started_by_undoing(&std::mem::take(&mut ledger.record.changes)))
}

/// Waits until what was started again is ready, and says so if that takes too long: the application is where it belongs.
pub(super) async fn await_ready_again(ledger: &Ledger, started: &[Brought], watch: &Watch) {
    let owner = ledger.record.owner;
    match until_ready(ledger, owner, started, RESTORED_PATIENCE).await {
        Ok(waiting) => waiting.iter().for_each(|what| watch.note(format!("not ready on the {owner} yet: {what}"))),
        Err(error) => watch.note(format!("whether the application is ready on the {owner} is not known: {error}")),
    }
}

/// Undoes changes, the last one first: those of the side that is left, or those by which the other side was left before.
async fn undo(ledger: &mut Ledger, watch: &Watch, there: bool) -> Result<(), Error> {
    let side = if there { ledger.record.owner.other() } else { ledger.record.owner };
    let cluster = ledger.cluster(side).clone();
    let changes = if there { &mut ledger.record.changes_there } else { &mut ledger.record.changes };
    let (mut back, mut failed) = (Vec::new(), None);
    for change in changes.iter_mut().rev() {
        match stop::undo(&cluster, change).await {
            Ok(undone) => {
                match undone {
                    stop::Undone::Back => back.push(change.clone()),
                    stop::Undone::Gone => {}
                    stop::Undone::Kept { by, value } => {
                        watch.note(format!(
                            "{} was changed by {by} meanwhile, and stays as it is: {value}",
                            change.object
                        ));
                    }
                }
                change.state = ChangeState::Undone;
            }
            // One that cannot be taken back keeps none of the others.
            Err(error) => {
                watch.note(format!("{}: {error}", change.object));
                failed.get_or_insert(error);
            }
        }
    }
    tell(ledger, side, stop::News::Started, stop::stopped(&back)).await;
    failed.map_or(Ok(()), Err)
}
