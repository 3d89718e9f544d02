//! `--in-cluster`: a coordinator that goes on in the source's cluster, and what the command line is to it: first whoever makes
//! it, then, in its pod, itself.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use tranship_api::{Record, Side};
use tranship_coordinator::cluster::HERE;
use tranship_coordinator::resident::{self, CONTEXT, KUBECONFIG, Work};
use tranship_coordinator::rights::Scope;
use tranship_coordinator::{Error, Ledger};

use super::args::StageArgs;
use super::{Context, me};
use crate::error::RunError;
use crate::exit::Exit;

/// How often a coordinator may be killed, or fail, that repeats something for weeks, and one that does it once.
const TRIES_REPEATED: i32 = 1_000;
const TRIES_ONCE: i32 = 6;

/// Makes the coordinator, and returns once it has taken over.
pub(super) async fn start(args: &StageArgs, mut ledger: Ledger, context: &Context) -> Result<Exit, RunError> {
    let destination = &ledger.cluster(Side::Destination).context;
    let kubeconfig = resident::destination(args.destination_kubeconfig.as_deref(), destination).await?;
    if ledger.record.owner != Side::Source {
        return Err(RunError::refused(
            "TS-K964",
            "the application is at the destination, and a coordinator in the source's cluster works on its own side",
        )
        .hint("stage without --in-cluster"));
    }
    let record = ledger.record.clone();
    let (namespace, name) = (record.namespace(Side::Source), resident::name(&record));
    for line in announcement(&record, &ledger.cluster(Side::Source).context) {
        context.printer.line(&line);
    }
    confirm(args, context)?;
    let coordinator = format!("Job {namespace}/{name}, made by {}", me());
    let tries = if args.every.is_some() || args.until.is_some() { TRIES_REPEATED } else { TRIES_ONCE };
    let work = Work { arguments: arguments(args, &record, &coordinator), coordinator, tries };
    context.watched(&record, async |watch| resident::start(&mut ledger, kubeconfig, &work, watch).await).await?;
    context.printer.line(&format!(
        "it has taken over, and goes on without this machine: see `tranship status {0}`; `tranship cancel {0}` ends it, and so \
         does any command that works on the volumes",
        record.migration.metadata.name
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

/// In its pod: ends with its work, or because others have taken over. Anything else is for the next pod to go on from.
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
            if found.is_some_and(|found| found.coordinator == name) {
                // Another pod of it: this one was taken for dead.
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
fn arguments(args: &StageArgs, record: &Record, coordinator: &str) -> Vec<String> {
    let [namespace, new] = Side::ALL.map(|side| record.namespace(side));
    let mut words = vec!["stage".to_owned(), record.migration.metadata.name.clone()];
    let namespaces = format!("{namespace}:{new}");
    let flags = [("from", HERE), ("to", CONTEXT), ("namespace", &namespaces), ("as-coordinator", coordinator)];
    words.extend(flags.map(|(flag, value)| format!("--{flag}={value}")));
    let typed = [("every", &args.every), ("until", &args.until), ("at", &args.at)];
    words.extend(typed.iter().filter_map(|(flag, value)| Some(format!("--{flag}={}", value.as_ref()?))));
    words.extend(["--output=json", "--quiet"].map(str::to_owned));
    words
}

/// What is made and given, for people.
fn announcement(record: &Record, context: &str) -> Vec<String> {
    let (namespace, name) = (record.namespace(Side::Source), resident::name(record));
    let mut lines = vec![
        format!(
            "--in-cluster makes Job {name} in namespace {namespace} of context {context:?}, which stages from there."
        ),
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
        for right in resident::granted().filter(|right| right.scope == scope) {
            let group = if right.group.is_empty() { String::new() } else { format!(".{}", right.group) };
            let verbs = right.verbs.join(", ");
            lines.push(format!("    {verbs} {}{group}, {}", right.resource, right.why));
        }
    }
    lines.push("  and delete the two bindings that give it all this, as its last act".to_owned());
    lines
}

fn confirm(args: &StageArgs, context: &Context) -> Result<(), RunError> {
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
    use tranship_api::Migration;
    use tranship_api::migration::Mode;

    use super::*;
    use crate::args::{Command, Typed};

    fn stage(words: &[&str]) -> StageArgs {
        let words = ["tranship", "stage", "move"].into_iter().chain(words.iter().copied());
        match Typed::try_parse_from(words).expect("it is understood").command {
            Command::Stage(args) => args,
            _ => unreachable!("stage was typed"),
        }
    }

    fn record() -> Record {
        let mut migration = Migration::new("move", "shop");
        migration.spec.destination.namespace = Some("store".to_owned());
        Record::new("0123456789".to_owned(), String::new(), migration, Default::default(), Mode::Plain, Vec::new())
    }

    #[test]
    fn the_pod_runs_what_was_typed_and_understands_it() {
        let typed = stage(&["--every", "10m", "--until", "projected < 30s", "--in-cluster", "--yes"]);
        let words = arguments(&typed, &record(), "Job shop/x, made by me");
        let pods = stage(&words[2..].iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((&pods.every, &pods.until, &pods.at), (&typed.every, &typed.until, &None));
        assert_eq!(pods.as_coordinator.as_deref(), Some("Job shop/x, made by me"));
        assert_eq!(pods.named.place.namespace.as_deref(), Some("shop:store"));
        assert_eq!((pods.named.place.from.as_deref(), pods.named.place.to.as_deref()), (Some(HERE), Some(CONTEXT)));
        assert!(!pods.in_cluster);
    }

    #[test]
    fn who_is_asked_reads_every_right_and_where_the_credential_lies() {
        let text = announcement(&record(), "old").join("\n");
        for right in resident::granted() {
            assert!(text.contains(&format!("{} {}", right.verbs.join(", "), right.resource)), "{right:?}");
        }
        assert!(text.contains("Secret tranship-move-coordinator"), "{text}");
    }
}
