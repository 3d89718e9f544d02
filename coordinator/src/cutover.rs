//! The cutover: the application leaves its owner's side and starts on the other, with a proof that both volumes held the
//! same. A rollback after a commit is the same with the sides exchanged.
//!
//! ```text
//!   Staging ─▶ Fencing ─▶ Quiescing ─▶ FinalPass ─▶ Proven ─▶ Relinquished ─▶ Starting ─▶ Staging, with another owner
//!                 └──────────┴────────────┴───────────┴─▶ Restoring ─▶ Staging, as before
//! ```
//!
//! Each step is in the record before it has effect, and safe to be done again: whoever runs the command next goes on where
//! the last one stopped. Until `Relinquished` only the owner may start the application, and a failure takes everything
//! back; from there on only the other side may, and nothing is ever taken back.

mod downtime;
mod obstacle;
pub(crate) mod steps;
mod way;

use std::time::Duration;

pub(crate) use downtime::BESIDE_SECONDS;
pub use downtime::downtime_seconds;
use jiff::Timestamp;
use tranship_api::hook::Point;
use tranship_api::record::{Proof, Step};
use tranship_api::{Finding, Record};

use crate::ledger::Ledger;
use crate::pair::Wanted;
use crate::watch::{Update, Watch};
use crate::{Error, hook};

/// What a user wants of a cutover.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Longest downtime that the prediction may come to; stages are run until it fits.
    pub max_downtime: Option<Duration>,
    /// Bits per second that all agents together may send.
    pub bits_per_second: Option<u64>,
    /// How long the application may take to let go of its volumes.
    pub patience: Option<Duration>,
    /// How long it may take to become ready on the other side.
    pub start_patience: Option<Duration>,
    /// Whether a fence that only watches is enough where policies may not be made.
    pub accepts_weak_fence: bool,
    /// For a rollback: what was written on the destination is given up, and no byte moves.
    pub discards_writes: bool,
    /// Whether a stop is heeded only until the first step is recorded: for whoever is followed by another one, if need be.
    pub goes_on_when_stopped: bool,
}

/// How long an application may take to let go.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// How long an application may take to become ready.
pub const START_PATIENCE: Duration = Duration::from_secs(300);

/// How a cutover ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The other side has the application, and it is ready there.
    Done,
    /// The other side has the volumes, and there is nothing that was to be started with them.
    NothingToStart,
    /// The other side has it, and it is not ready yet: what it waits for.
    NotReady(Vec<String>),
}

/// Runs a cutover from the record's owner to the other side, or goes on with the one that was begun. `stop` is heeded until
/// the commit, or only until the first step ([`Options::goes_on_when_stopped`]).
///
/// An error before the commit has been followed by a restoration, if that was possible: the record's step tells. An error
/// after it leaves the other side authoritative.
pub async fn run(
    ledger: &mut Ledger,
    options: &Options,
    watch: &Watch,
    stop: impl Future<Output = ()>,
) -> Result<Verdict, Error> {
    if let Some(since) = ledger.record.stopped_since() {
        watch.show(Update::Stopped(since));
    }
    if ledger.record.step == Step::Restoring {
        restore(ledger, watch).await?;
    }
    if !ledger.record.step.is_committed() {
        match until_commit(ledger, options, watch, stop).await {
            Ok(Proven { proof, digests }) => relinquish(ledger, proof, digests, watch).await?,
            Err(error) => return Err(take_back(ledger, error, watch).await),
        }
    }
    if ledger.record.step == Step::Relinquished {
        watch.step(format!("commit: the {} takes over", ledger.record.owner.other()));
        ledger.assume(Timestamp::now()).await?;
    }
    steps::start(ledger, options, watch).await
}

/// The refusal of what has to wait until a cutover, or a rollback, is over.
pub fn under_way(record: &Record) -> Error {
    Error::refused(
        "TS-K950",
        format!(
            "a cutover of {} from the {} is under way ({})",
            record.migration.metadata.name,
            record.owner,
            record.step.word()
        ),
        format!(
            "`{}` goes on with it, `{}` takes it back before its commit",
            record.command_on(),
            record.command_back()
        ),
    )
}

/// Takes back what a cutover did before its commit, and starts the application again where it was.
pub async fn restore(ledger: &mut Ledger, watch: &Watch) -> Result<(), Error> {
    if ledger.record.step.is_committed() {
        return Err(Error::refused(
            "TS-K940",
            "the cutover is committed, and cannot be taken back",
            "`tranship rollback` brings the application home with what it wrote",
        ));
    }
    let owner = ledger.record.owner;
    if !ledger.may_start(owner) {
        return Err(Error::refused(
            "TS-K949",
            format!("the {owner} cluster does not say that it is authoritative, and nothing starts without that"),
            "see that both clusters answer, then run the same command again",
        ));
    }
    watch.step(format!("the application is started again on the {owner}"));
    if ledger.record.step == Step::Proven {
        // What was proven is not committed: the last one that was counts.
        ledger.record.proof = ledger.record.commits.last().and_then(|last| last.proof.clone());
    }
    ledger.record.step = Step::Restoring;
    ledger.save().await?;
    let started = steps::take_back(ledger, watch).await?;
    ledger.record.step = Step::Staging;
    let (now, owner) = (Timestamp::now(), ledger.record.owner);
    ledger.record.happened(now, format!("everything was taken back, and the application runs on the {owner}"));
    ledger.save().await?;
    steps::await_ready_again(ledger, &started, watch).await;
    watch.show(Update::Runs);
    Ok(())
}

/// What happens while the application still runs: a preflight, what it needs on the other side, and stages until the last
/// pass will be short enough. Returns what was told of what uses the volumes.
async fn prepare(ledger: &mut Ledger, options: &Options, watch: &Watch) -> Result<Vec<Finding>, Error> {
    watch.step("preflight: what would stand in the way");
    let survey = obstacle::look(ledger, options, watch).await?;
    steps::bring(ledger, &survey, watch).await?;
    if !options.discards_writes {
        let wanted = Wanted { bits_per_second: options.bits_per_second, ..Wanted::default() };
        downtime::stage_until_it_fits(ledger, &wanted, options.max_downtime, watch).await?;
    }
    steps::nobody_waits_there(ledger).await?;
    hook::forget(ledger).await?;
    ledger.record.begins(Timestamp::now());
    ledger.save().await?;
    Ok(survey.obstacles)
}

/// What a commit needs.
struct Proven {
    proof: Proof,
    digests: Vec<String>,
}

async fn until_commit(
    ledger: &mut Ledger,
    options: &Options,
    watch: &Watch,
    stop: impl Future<Output = ()>,
) -> Result<Proven, Error> {
    let mut stop = std::pin::pin!(stop);
    let mut told = Vec::new();
    if ledger.record.step == Step::Staging {
        told = tokio::select! {
            told = prepare(ledger, options, watch) => told?,
            () = &mut stop => return Err(Error::Stopped),
        };
    }
    tokio::select! {
        proven = from_the_fence(ledger, options, &told, watch) => proven,
        () = stop, if !options.goes_on_when_stopped => Err(Error::Stopped),
    }
}

/// From the first step to what a commit needs. `told` is what was told of what uses the volumes.
async fn from_the_fence(
    ledger: &mut Ledger,
    options: &Options,
    told: &[Finding],
    watch: &Watch,
) -> Result<Proven, Error> {
    // Whoever goes on has another epoch, and may be another user: the fence that stands would refuse its agents.
    watch.step("fence: new users of the volumes are refused on both sides");
    steps::fence(ledger, options).await?;
    if ledger.record.step == Step::Fencing {
        hook::run(ledger, Point::BeforeStop, watch).await?;
        steps::plan_quiesce(ledger, told, watch).await?;
    }
    if ledger.record.step == Step::Quiescing {
        watch.show(Update::Stopped(ledger.record.timeline.stopping.unwrap_or_else(Timestamp::now)));
        watch.step("quiesce: the application stops");
        steps::quiesce(ledger, options, watch).await?;
    }
    hook::run(ledger, Point::AfterStop, watch).await?;
    if options.discards_writes {
        return steps::give_up_unproven(ledger).await;
    }
    watch.step("final pass, with its proof");
    steps::final_pass(ledger, options, watch).await
}

/// The owner gives up. Nothing stops this half-way: where the answer is lost, it is not known who may start, and nobody does.
async fn relinquish(ledger: &mut Ledger, proof: Proof, digests: Vec<String>, watch: &Watch) -> Result<(), Error> {
    let given = ledger.relinquish(proof, digests, Timestamp::now()).await;
    if given.is_err() {
        let owner = ledger.record.owner;
        watch
            .note(format!("whether the {owner} has given up is not known, and nothing is started: run the same again"));
    }
    given
}

/// After a failure before the commit. Returns that failure, and says what has become of the application.
async fn take_back(ledger: &mut Ledger, error: Error, watch: &Watch) -> Error {
    // Whoever has taken over decides what happens now; and a commit of which it is not known whether it was written must be
    // looked at again before anything is started.
    if matches!(error, Error::Superseded { .. }) || ledger.record.step.is_committed() {
        return error;
    }
    // Nothing has been stopped or fenced yet.
    if ledger.record.step == Step::Staging {
        return error;
    }
    watch.note(format!("{error}; everything is taken back"));
    // Whoever asks later has no terminal to look at, nor perhaps a pod.
    ledger.record.happened(Timestamp::now(), format!("the cutover failed before its commit: {error}"));
    match restore(ledger, watch).await {
        Ok(()) => Error::Restored { owner: ledger.record.owner, source: Box::new(error) },
        Err(second) => {
            Error::Stranded { owner: ledger.record.owner, source: Box::new(error), second: Box::new(second) }
        }
    }
}
