//! Migrations between clusters: what was typed meets the coordinator here.
//!
//! `args` is what was typed, `wanted` what it means, `find` how a name leads to a record, `show` what is seen meanwhile and
//! `status` what is seen of a record.

pub(crate) mod args;
mod create;
mod cutover;
mod errand;
mod find;
mod receipt;
mod resident;
mod show;
mod stage;
mod status;
mod verify;
mod wanted;

use std::time::{Duration, Instant};

use tranship_api::{Record, Side};
use tranship_coordinator::fence::{self, Need};
use tranship_coordinator::leftover::{self, Leftover, Remedy};
use tranship_coordinator::watch::Watch;
use tranship_coordinator::{Cluster, Error, Ledger, finish};

use self::args::{CleanupArgs, FinishArgs, NamedArgs, SetArgs};
use self::show::Screen;
use self::wanted::bits_of;
use crate::args::Global;
use crate::error::RunError;
use crate::exit::Exit;
use crate::print::Printer;
use crate::progress::Show;
use crate::run::Stop;

pub(crate) use create::{create, preflight};
pub(crate) use cutover::{cut_over, roll_back};
pub(crate) use receipt::receipt;
pub(crate) use stage::stage;
pub(crate) use status::status;
pub(crate) use verify::verify;

/// Between two looks whether somebody has taken over, while nothing is to be done.
const REST_LOOK: Duration = Duration::from_secs(15);

/// What every command here is given.
#[derive(Clone)]
pub(crate) struct Context {
    /// Flags of every command.
    pub(crate) global: Global,
    /// Where results go.
    pub(crate) printer: Printer,
    /// Whether it has to end.
    pub(crate) stop: Stop,
}

impl Context {
    /// Takes a migration over from whoever works on it.
    pub(crate) async fn take_over(&self, ledger: &mut Ledger) -> Result<(), RunError> {
        let from = ledger.record.is_led_by_resident().then(|| ledger.record.coordinator.clone());
        let awaited = ledger.record.awaited();
        ledger.take_over(&me()).await?;
        if let Some(coordinator) = from {
            let cutover = awaited.map_or(String::new(), |errand| format!(", and will not cut over at {}", errand.at));
            self.printer.aside(&format!("this command takes over from {coordinator}, which ends{cutover}"));
        }
        Ok(())
    }

    /// Runs work that is watched, until it is done or stopped. What was stopped can be gone on with: every step is recorded
    /// before it has effect.
    pub(crate) async fn watched<T>(
        &self,
        record: &Record,
        work: impl AsyncFnOnce(&Watch) -> Result<T, tranship_coordinator::Error>,
    ) -> Result<T, RunError> {
        let (watch, screen) = Screen::start(Show::of(&self.global), record.claims(Side::Source));
        let result = tokio::select! {
            result = work(&watch) => result.map_err(RunError::from),
            () = self.stop.wait() => Err(RunError::stopped("stopped: the same command goes on from here")),
        };
        drop(watch);
        screen.finish().await;
        result
    }
}

/// `finish`.
pub(crate) async fn end(args: FinishArgs, context: Context) -> Result<Exit, RunError> {
    let mut ledger = match find::ledger(&args.named).await {
        Err(error) if args.lift_fence && error.leaves_the_record_open() => {
            return lift_kept(&args, context, error).await;
        }
        ledger => ledger?,
    };
    if args.delete_source {
        let left = ledger.record.owner.other();
        let (context, namespace) = (&ledger.cluster(left).context, ledger.record.namespace(left));
        let claims = ledger.record.claims(left).join(", ");
        let what = format!(
            "--delete-source deletes the claims of the side that was left: {claims} in namespace {namespace} of \
             {context}, the {left}"
        );
        confirm_name(&args.named, args.confirm.as_deref(), &what)?;
    }
    context.take_over(&mut ledger).await?;
    let record = ledger.record.clone();
    receipt::keep(&record, context.printer);
    let options = finish::Options { lifts_fence: args.lift_fence, deletes_left: args.delete_source };
    context.watched(&record, async |watch| finish::finish(ledger, options, watch).await).await?;
    find::forget(&args.named.name);
    context.printer.line(&format!("{} is finished", args.named.name));
    Ok(Exit::Done)
}

/// `finish --lift-fence` of a migration that is finished: its record is gone, its fence stands. One cluster is enough.
async fn lift_kept(args: &FinishArgs, context: Context, why: RunError) -> Result<Exit, RunError> {
    let mut has_lifted = false;
    for (cluster, namespace) in find::places(&args.named).await? {
        match fence::lift_kept(&cluster, &namespace, &args.named.name).await {
            Ok(gone) => {
                has_lifted |= !gone.is_empty();
                for object in &gone {
                    context.printer.line(&format!("{}: {object} is gone", cluster.context));
                    context.printer.json(&serde_json::json!({ "object": object, "fate": "removed" }));
                }
            }
            // The fence may be in the other one.
            Err(error) => context.printer.error(&RunError::from(error)),
        }
    }
    if has_lifted { Ok(Exit::Done) } else { Err(why) }
}

/// `cleanup`.
pub(crate) async fn clean_up(args: CleanupArgs, context: Context) -> Result<Exit, RunError> {
    let contexts = if args.context.is_empty() { vec![None] } else { args.context.into_iter().map(Some).collect() };
    for name in contexts {
        let cluster = Cluster::connect(Side::Source, name.as_deref()).await?;
        let fences = match fence::standing(&cluster, &args.namespace).await {
            Err(error) if error.is_forbidden() => {
                context.printer.aside(&format!("{error}: fences cannot be looked for"));
                Vec::new()
            }
            fences => fences?,
        };
        let mut found = match leftover::left_residents(&cluster, &args.namespace).await {
            Err(error) if error.is_forbidden() => {
                context.printer.aside(&format!("{error}: what coordinators had in the cluster cannot be looked for"));
                Vec::new()
            }
            found => found?,
        };
        found.extend(leftover::leftovers(&cluster, &args.namespace, &fences).await?);
        context.printer.line(&format!("{}: {} of ours in namespace {}", cluster.context, found.len(), args.namespace));
        for leftover in &found {
            let fate = fate(leftover, &cluster.context, &args.namespace, args.remove);
            context.printer.line(&format!("  {} of {}: {fate}", leftover.object, leftover.migration));
            context
                .printer
                .json(&serde_json::json!({ "object": leftover.object, "migration": leftover.migration, "fate": fate }));
            if args.remove {
                leftover::remove_leftover(&cluster, leftover).await?;
            }
        }
    }
    Ok(Exit::Done)
}

/// What becomes of a leftover, in words.
fn fate(leftover: &Leftover, context: &str, namespace: &str, removes: bool) -> String {
    let migration = &leftover.migration;
    match (leftover.need, &leftover.remedy, removes) {
        (Need::Migration, ..) => "in use; `tranship finish` removes it".to_owned(),
        (Need::Kept, ..) => format!(
            "in use, around what was left; `tranship finish {migration} --lift-fence --from {context} --namespace {namespace}` \
             lifts it"
        ),
        (Need::Nobody, Remedy::Deletion, true) => "removed".to_owned(),
        (Need::Nobody, Remedy::Deletion, false) => "left over; --remove removes it".to_owned(),
        (Need::Nobody, Remedy::Unmarking(why), true) => format!("stays, without our mark: {why}"),
        (Need::Nobody, Remedy::Unmarking(why), false) => format!("stays: {why}; --remove takes our mark from it"),
        (Need::Nobody, Remedy::Policy(before), true) => format!("its reclaim policy is {before} again"),
        (Need::Nobody, Remedy::Policy(before), false) => format!("set to Retain; --remove sets it back to {before}"),
    }
}

/// `set`.
pub(crate) async fn set(args: SetArgs, context: Context) -> Result<Exit, RunError> {
    let mut ledger = find::ledger(&args.named).await?;
    let rate = match args.bandwidth.as_str() {
        "none" => None,
        text => {
            let rate: crate::rate::Rate = text
                .parse()
                .map_err(|error| RunError::usage("--bandwidth is not one", "write 50Mbit/s or none").because(error))?;
            Some(bits_of(rate))
        }
    };
    ledger.set_bandwidth(rate).await?;
    context.printer.line("set; what runs takes it over within seconds");
    Ok(Exit::Done)
}

/// `cancel`.
pub(crate) async fn cancel(named: NamedArgs, context: Context) -> Result<Exit, RunError> {
    let mut ledger = find::ledger(&named).await?;
    context.take_over(&mut ledger).await?;
    let record = ledger.record.clone();
    if record.resident.is_some() {
        tranship_coordinator::resident::remove(ledger.cluster(Side::Source), &record).await?;
        context.printer.line("the coordinator in the cluster is taken away, with all that it had");
    }
    let stopped =
        context.watched(&record, async |watch| tranship_coordinator::stage::cancel(&ledger, watch).await).await?;
    context.printer.line(&format!("{stopped} passes were stopped; the next ones go on from there"));
    Ok(Exit::Done)
}

/// Who this is, for people: user, host and process.
pub(crate) fn me() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "somebody".to_owned());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{user}@{} (process {})", host.trim(), std::process::id())
}

/// What cannot be taken back is only done if its name was typed twice.
fn confirm_name(named: &NamedArgs, confirmed: Option<&str>, what: &str) -> Result<(), RunError> {
    if confirmed == Some(&named.name) {
        return Ok(());
    }
    Err(RunError::usage(format!("{what}, and that was not confirmed"), format!("add --confirm {}", named.name)))
}

/// Waits so long, and ends early once somebody has taken over.
pub(crate) async fn rest(time: Duration, ledger: &Ledger, context: &Context) -> Result<(), RunError> {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(left.min(REST_LOOK)) => {}
            () = context.stop.wait() => return Err(RunError::stopped("stopped while there was nothing to do")),
        }
        // What is not known now is asked again before anything is done.
        if let Err(error @ Error::Superseded { .. }) = ledger.confirm().await {
            return Err(error.into());
        }
    }
}

fn time(at: &str) -> Result<jiff::Timestamp, RunError> {
    at.parse().map_err(|error: jiff::Error| {
        RunError::usage(format!("--at {at:?} is not a time"), "write it as 2026-12-24T03:00:00Z").because(error)
    })
}

fn until(time: jiff::Timestamp) -> Duration {
    Duration::try_from(time.duration_since(jiff::Timestamp::now())).unwrap_or_default()
}
