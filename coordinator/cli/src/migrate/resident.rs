//! `--in-cluster`: a coordinator that goes on in the source's cluster, and what the command line is to it: first whoever makes
//! it, then, in its pod, itself.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use tranship_api::record::Errand;
use tranship_api::{Record, Side};
use tranship_coordinator::cluster::HERE;
use tranship_coordinator::resident::{self, CONTEXT, KUBECONFIG, Work};
use tranship_coordinator::rights::{Right, Scope};
use tranship_coordinator::{Error, Ledger};

use super::args::ResidentArgs;
use super::{Context, me};
use crate::error::RunError;
use crate::exit::Exit;

/// What is left to it.
pub(super) struct Task {
    /// The command that it runs.
    pub(super) verb: &'static str,
    /// What was typed of how it goes.
    pub(super) flags: Vec<String>,
    /// How often it may be killed, or fail.
    pub(super) tries: i32,
    /// The cutover that it makes; nothing if it stages.
    pub(super) errand: Option<Errand>,
    /// What it may do.
    pub(super) rights: Vec<&'static Right>,
}

/// Makes the coordinator, and returns once it has taken over.
pub(super) async fn start(
    args: &ResidentArgs,
    task: Task,
    mut ledger: Ledger,
    context: &Context,
) -> Result<Exit, RunError> {
    let destination = &ledger.cluster(Side::Destination).context;
    let kubeconfig = resident::destination(args.destination_kubeconfig.as_deref(), destination).await?;
    if ledger.record.owner != Side::Source {
        return Err(RunError::refused(
            "TS-K964",
            "the application is at the destination, and a coordinator in the source's cluster works on its own side",
        )
        .hint("type the command without --in-cluster"));
    }
    let record = ledger.record.clone();
    let (namespace, name) = (record.namespace(Side::Source), resident::name(&record));
    for line in announcement(&record, &ledger.cluster(Side::Source).context, &task) {
        context.printer.line(&line);
    }
    confirm(args, context)?;
    let coordinator = format!("Job {namespace}/{name}, made by {}", me());
    let arguments = arguments(&task, &record, &coordinator);
    let Task { tries, errand, rights, .. } = task;
    let work = Work { arguments, coordinator, tries, errand, rights };
    let migration = &record.migration.metadata.name;
    let made =
        context.watched(&record, async |watch| resident::start(&mut ledger, kubeconfig, &work, watch).await).await;
    made.map_err(|error| match context.stop.is_set() {
        true => error.hint(format!("what there is of it may go on: `tranship cancel {migration}` takes it away")),
        false => error,
    })?;
    let what = errand.map_or("goes on".to_owned(), |errand| format!("cuts over at {:.0}", errand.at));
    context.printer.line(&format!(
        "it has taken over, and {what} without this machine: see `tranship status {migration}`; `tranship cancel {migration}` \
         ends it, and so does any command that works on the volumes",
    ));
    context.printer.json(&serde_json::json!({ "coordinator": work.coordinator, "namespace": namespace, "job": name }));
    Ok(Exit::Done)
}

/// In its pod: takes over as the coordinator of this name, unless its work is over already.
pub(super) async fn take_over(ledger: &mut Ledger, name: &str) -> Result<(), RunError> {
    let record = &ledger.record;
    if record.coordinator != name {
        let (coordinator, epoch) = (record.coordinator.clone(), record.epoch);
        return Err(Error::Superseded { coordinator, epoch }.into());
    }
    // Whoever made it waits for it, and is to hear at once that it cannot reach the other side.
    if let Some(why) = ledger.why_unknown(Side::Destination) {
        return Err(RunError::failed("TS-K914", format!("the destination's cluster does not answer: {why}"))
            .hint("see that its API server can be reached from pods of the source's cluster"));
    }
    Ok(ledger.take_over(name).await?)
}

/// In its pod: whether a pod that begins has nothing more to do, since the credential is gone.
pub(super) fn is_over() -> bool {
    !Path::new(KUBECONFIG).exists()
}

/// In its pod, where it stages: ends with its work, or because others have taken over. Anything else is for the next pod to go
/// on from.
pub(super) async fn end(
    ledger: &Ledger,
    name: &str,
    result: Result<Exit, RunError>,
    context: &Context,
) -> Result<Exit, RunError> {
    let (cluster, record) = (ledger.cluster(Side::Source), &ledger.record);
    let exit = match result {
        Ok(exit) => exit,
        Err(error) if error.is_superseded() => {
            let found = Ledger::peek(cluster, record.namespace(Side::Source), &record.migration.metadata.name).await?;
            // Another pod of it: this one was taken for dead. Or another one was made in its place, and what has its name is that
            // one's.
            if found.is_some_and(|found| found.coordinator == name || found.resident.as_deref() != Some(name)) {
                return Err(error);
            }
            context.printer.error(&error);
            Exit::Done
        }
        Err(error) => return Err(error),
    };
    resident::retire(cluster, record).await?;
    Ok(exit)
}

/// The command that its pod runs.
fn arguments(task: &Task, record: &Record, coordinator: &str) -> Vec<String> {
    let [namespace, new] = Side::ALL.map(|side| record.namespace(side));
    let mut words = vec![task.verb.to_owned(), record.migration.metadata.name.clone()];
    let namespaces = format!("{namespace}:{new}");
    let flags = [("from", HERE), ("to", CONTEXT), ("namespace", &namespaces), ("as-coordinator", coordinator)];
    words.extend(flags.map(|(flag, value)| format!("--{flag}={value}")));
    words.extend(task.flags.iter().cloned());
    words.extend(["--output=json", "--quiet"].map(str::to_owned));
    words
}

/// What is made and given, for people.
fn announcement(record: &Record, context: &str, task: &Task) -> Vec<String> {
    let (namespace, name) = (record.namespace(Side::Source), resident::name(record));
    let what = match task.errand {
        None => "stages from there".to_owned(),
        Some(errand) => format!(
            "cuts over from there at {:.0}: it stops the application, and starts it on the destination",
            errand.at
        ),
    };
    let mut lines = vec![
        format!("--in-cluster makes Job {name} in namespace {namespace} of context {context:?}, which {what}."),
        format!(
            "Secret {name} holds the credential by which this machine reaches the destination: who may read Secrets"
        ),
        format!(
            "in {namespace}, or make pods there, can use it. It is deleted as soon as the work is done or cancelled."
        ),
        format!("ServiceAccount {name} may, until then,"),
    ];
    for (scope, place) in
        [(Scope::Namespace, format!("in namespace {namespace}")), (Scope::Cluster, "in the whole cluster".to_owned())]
    {
        lines.push(format!("  {place}:"));
        for right in task.rights.iter().filter(|right| right.scope == scope) {
            let group = if right.group.is_empty() { String::new() } else { format!(".{}", right.group) };
            let verbs = right.verbs.join(", ");
            lines.push(format!("    {verbs} {}{group}, {}", right.resource, right.why));
        }
    }
    lines.push("  and delete the two bindings that give it all this, as its last act".to_owned());
    lines
}

fn confirm(args: &ResidentArgs, context: &Context) -> Result<(), RunError> {
    if args.yes {
        return Ok(());
    }
    let unconfirmed =
        || RunError::usage("--in-cluster gives a pod rights and a credential, and that was not confirmed", "add --yes");
    if context.printer.is_json() || !io::stdin().is_terminal() {
        return Err(unconfirmed());
    }
    // There is nowhere to complain about a standard error that is gone.
    let _ = write!(io::stderr(), "Go on? [y/N] ").and_then(|()| io::stderr().flush());
    let mut answer = String::new();
    let is_read = io::stdin().read_line(&mut answer).is_ok();
    let is_yes = is_read && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes");
    if is_yes { Ok(()) } else { Err(unconfirmed()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use jiff::Timestamp;
    use tranship_api::Migration;
    use tranship_api::migration::Mode;

    use super::*;
    use crate::args::{Command, Typed};

    fn record() -> Record {
        let mut migration = Migration::new("move", "shop");
        migration.spec.destination.namespace = Some("store".to_owned());
        Record::new("0123456789".to_owned(), String::new(), migration, Default::default(), Mode::Plain, Vec::new())
    }

    fn task(errand: Option<Errand>) -> Task {
        Task { verb: "stage", flags: vec!["--every=10m".to_owned()], tries: 1, errand, rights: resident::for_stages() }
    }

    #[test]
    fn the_pod_runs_what_was_typed_and_understands_it() {
        let words = arguments(&task(None), &record(), "Job shop/x, made by me");
        let words = ["tranship".to_owned()].into_iter().chain(words);
        let Command::Stage(pods) = Typed::try_parse_from(words).expect("it is understood").command else {
            unreachable!("stage was typed")
        };
        assert_eq!(pods.every.as_deref(), Some("10m"));
        assert_eq!(pods.resident.as_coordinator.as_deref(), Some("Job shop/x, made by me"));
        assert_eq!(pods.named.place.namespace.as_deref(), Some("shop:store"));
        assert_eq!((pods.named.place.from.as_deref(), pods.named.place.to.as_deref()), (Some(HERE), Some(CONTEXT)));
        assert!(!pods.resident.in_cluster);
    }

    #[test]
    fn who_is_asked_reads_every_right_and_where_the_credential_lies_and_when_the_application_stops() {
        let task_of = |errand| announcement(&record(), "old", &task(errand)).join("\n");
        let text = task_of(None);
        for right in resident::for_stages() {
            assert!(text.contains(&format!("{} {}", right.verbs.join(", "), right.resource)), "{right:?}");
        }
        assert!(text.contains("Secret tranship-move-coordinator") && !text.contains("stops the application"), "{text}");
        let errand = Errand { at: Timestamp::UNIX_EPOCH, has_begun: false };
        let text = task_of(Some(errand));
        assert!(text.contains("at 1970-01-01T00:00:00Z: it stops the application"), "{text}");
    }
}
