//! Migrations between clusters: what was typed meets the coordinator here.
//!
//! `args` is what was typed, `wanted` what it means, `find` how a name leads to a record, `show` what is seen meanwhile and
//! `status` what is seen of a record.

pub(crate) mod args;
mod create;
mod find;
mod receipt;
mod resident;
mod show;
mod stage;
mod status;
mod verify;
mod wanted;

use std::time::Duration;

use tranship_api::record::Step;
use tranship_api::{Record, Side};
use tranship_coordinator::cutover::{self, Verdict};
use tranship_coordinator::fence::{self, Need};
use tranship_coordinator::leftover::{self, Leftover, Remedy};
use tranship_coordinator::watch::Watch;
use tranship_coordinator::{Cluster, Ledger, finish};

use self::args::{CleanupArgs, CutoverArgs, FinishArgs, NamedArgs, RollbackArgs, SetArgs};
use self::show::Screen;
use self::wanted::{bits_of, duration};
use crate::args::Global;
use crate::error::RunError;
use crate::exit::Exit;
use crate::print::Printer;
use crate::progress::Show;
use crate::run::Stop;

pub(crate) use create::{create, preflight};
pub(crate) use receipt::receipt;
pub(crate) use stage::stage;
pub(crate) use status::status;
pub(crate) use verify::verify;

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
        ledger.take_over(&me()).await?;
        if let Some(coordinator) = from {
            self.printer.aside(&format!("this command takes over from {coordinator}, which ends"));
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

/// `cutover`.
pub(crate) async fn cut_over(args: CutoverArgs, context: Context) -> Result<Exit, RunError> {
    let mut ledger = find::ledger(&args.named).await?;
    let heir = ledger.record.owner.other();
    if ledger.record.step == Step::Staging && ledger.record.owner == Side::Destination {
        return Err(RunError::refused("TS-K951", format!("{} is cut over already", args.named.name))
            .hint("`tranship rollback` brings it home, `tranship finish` ends the migration"));
    }
    if args.override_lost_owner {
        confirm(&args, "--override-lost-owner starts the application although the old cluster may run it, too")?;
    }
    let options = options(&args, &ledger.record)?;
    if let Some(at) = &args.at {
        wait_until(at, &context).await?;
        ledger = find::ledger(&args.named).await?;
    }
    ledger.record.accept_gaps(&args.accept_gap);
    if args.override_lost_owner && ledger.authority(ledger.record.owner).is_none() {
        ledger.assume_without_owner(&me(), jiff::Timestamp::now()).await?;
    } else {
        context.take_over(&mut ledger).await?;
    }
    move_to(heir, ledger, options, context).await
}

/// `rollback`.
pub(crate) async fn roll_back(args: RollbackArgs, context: Context) -> Result<Exit, RunError> {
    let mut ledger = find::ledger(&args.cutover.named).await?;
    let mut options = options(&args.cutover, &ledger.record)?;
    let (step, owner) = (ledger.record.step, ledger.record.owner);
    let is_under_way = step != Step::Staging;
    if !is_under_way && owner == Side::Source {
        return Err(RunError::refused("TS-K952", format!("{} runs at home already", args.cutover.named.name))
            .hint("there is nothing to roll back"));
    }
    if args.discard_destination_writes {
        confirm(&args.cutover, "--discard-destination-writes loses what the application wrote at the destination")?;
        options.discards_writes = true;
    }
    ledger.record.accept_gaps(&args.cutover.accept_gap);
    context.take_over(&mut ledger).await?;
    if is_under_way && !step.is_committed() {
        let record = ledger.record.clone();
        context.watched(&record, async |watch| cutover::restore(&mut ledger, watch).await).await?;
        context.printer.line(&format!("taken back: the application runs on the {owner}"));
        status::print(&ledger, context.printer);
        return Ok(Exit::Done);
    }
    if step.is_committed() && owner == Side::Source {
        // What was committed is brought to its end before the way back begins.
        let record = ledger.record.clone();
        let forward = cutover::Options { discards_writes: false, ..options.clone() };
        context
            .watched(&record, async |watch| cutover::run(&mut ledger, &forward, watch, std::future::pending()).await)
            .await?;
    }
    move_to(Side::Source, ledger, options, context).await
}

async fn move_to(
    heir: Side,
    mut ledger: Ledger,
    options: cutover::Options,
    context: Context,
) -> Result<Exit, RunError> {
    let record = ledger.record.clone();
    say_what_a_kill_leaves(&record, &context);
    // Between the fence and the commit a stop takes everything back, like any failure.
    let (watch, screen) = Screen::start(Show::of(&context.global), record.claims(Side::Source));
    let stop = context.stop.clone();
    let result = cutover::run(&mut ledger, &options, &watch, stop.wait()).await;
    drop(watch);
    screen.finish().await;
    let is_committed = ledger.record.step.is_committed() || ledger.record.owner == heir;
    let authoritative = if is_committed { heir } else { heir.other() };
    match result {
        Ok(verdict) => {
            status::print_cutover(&ledger, &verdict, context.printer);
            Ok(if verdict == Verdict::Done { Exit::Done } else { Exit::failed_with(authoritative) })
        }
        Err(error) => {
            // Every write of the record has a revision: what came before the refusal was done.
            let has_begun = is_committed || ledger.record.revision > record.revision;
            Err(ended(RunError::from(error), has_begun, authoritative))
        }
    }
}

/// A cutover that failed or was refused: no refusal is one any more where something was done before it.
fn ended(error: RunError, has_begun: bool, authoritative: Side) -> RunError {
    let error = if has_begun { error.after_the_start() } else { error };
    error.with(authoritative)
}

/// Without a coordinator that lives in the cluster nobody starts the application again if this process is killed.
fn say_what_a_kill_leaves(record: &Record, context: &Context) {
    context.printer.aside(&format!(
        "if this process is killed between the fence and the commit, the application stays stopped until `{}` or `{}` is \
         run, from any machine; Ctrl-C takes it back",
        record.command("cutover"),
        record.command("rollback"),
    ));
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

fn options(args: &CutoverArgs, record: &Record) -> Result<cutover::Options, RunError> {
    let max = args.max_downtime.as_ref().or(record.migration.spec.cutover.max_downtime.as_ref());
    Ok(cutover::Options {
        max_downtime: max.map(|text| duration("--max-downtime", text)).transpose()?,
        bits_per_second: record.migration.spec.link.bits_per_second,
        patience: Some(duration("--patience", &args.patience)?),
        start_patience: Some(duration("--start-patience", &args.start_patience)?),
        accepts_weak_fence: args.accept_weak_fence,
        discards_writes: false,
    })
}

fn confirm(args: &CutoverArgs, what: &str) -> Result<(), RunError> {
    confirm_name(&args.named, args.confirm.as_deref(), what)
}

/// What cannot be taken back is only done if its name was typed twice.
fn confirm_name(named: &NamedArgs, confirmed: Option<&str>, what: &str) -> Result<(), RunError> {
    if confirmed == Some(&named.name) {
        return Ok(());
    }
    Err(RunError::usage(format!("{what}, and that was not confirmed"), format!("add --confirm {}", named.name)))
}

fn time(at: &str) -> Result<jiff::Timestamp, RunError> {
    at.parse().map_err(|error: jiff::Error| {
        RunError::usage(format!("--at {at:?} is not a time"), "write it as 2026-12-24T03:00:00Z").because(error)
    })
}

fn until(time: jiff::Timestamp) -> Duration {
    Duration::try_from(time.duration_since(jiff::Timestamp::now())).unwrap_or_default()
}

async fn wait_until(at: &str, context: &Context) -> Result<(), RunError> {
    let time = time(at)?;
    let left = until(time);
    context.printer.aside(&format!("waiting until {time}"));
    tokio::select! {
        () = tokio::time::sleep(left) => Ok(()),
        () = context.stop.wait() => Err(RunError::stopped("stopped before it began")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cutover_that_is_refused_after_stages_has_failed_and_the_owner_keeps_the_application() {
        let refused = || RunError::refused("TS-K943", "the predicted downtime does not fall below 30 s");
        for (has_begun, owner, exit) in [
            (false, Side::Source, Exit::Refused),
            (false, Side::Destination, Exit::Refused),
            (true, Side::Source, Exit::Failed),
            (true, Side::Destination, Exit::FailedAfterCommit),
        ] {
            assert_eq!(ended(refused(), has_begun, owner).exit(), exit, "{has_begun} {owner}");
        }
    }
}
