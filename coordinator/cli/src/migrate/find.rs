//! From a migration's name to its record in two clusters.
//!
//! A machine remembers the contexts of what was made on it; on any other they are typed, or found in the record, if that
//! lies in the current context's namespace.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tranship_api::{Record, Side};
use tranship_coordinator::{Cluster, Ledger};

use super::args::NamedArgs;
use super::wanted::renamed;
use crate::error::RunError;
use crate::options::Environment;

/// Where a migration lies.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Memo {
    from: Option<String>,
    to: Option<String>,
    namespace: String,
    renamed: Option<String>,
}

/// The record, and connections to both clusters. One of them may be lost; one that is another cluster than the record's is
/// refused.
pub(crate) async fn ledger(named: &NamedArgs) -> Result<Ledger, RunError> {
    let memo = memo(named).await?;
    let clusters = [
        Cluster::connect(Side::Source, memo.from.as_deref()).await?,
        Cluster::connect(Side::Destination, memo.to.as_deref()).await?,
    ];
    let destination = memo.renamed.as_deref().unwrap_or(&memo.namespace);
    let ledger = Ledger::load(clusters, [&memo.namespace, destination], &named.name).await?;
    check_clusters(&ledger).await?;
    Ok(ledger)
}

/// Remembers where a migration lies. What cannot be remembered has to be typed again.
pub(crate) fn remember(record: &Record) {
    let migration = &record.migration;
    let memo = Memo {
        from: migration.spec.source.context.clone(),
        to: migration.spec.destination.context.clone(),
        namespace: migration.metadata.namespace.clone(),
        renamed: migration.spec.destination.namespace.clone(),
    };
    let written = memo_path(&migration.metadata.name).ok_or(std::io::ErrorKind::NotFound.into()).and_then(|path| {
        fs::create_dir_all(path.parent().expect("it was joined"))?;
        fs::write(path, serde_json::to_vec(&memo).map_err(std::io::Error::other)?)
    });
    if let Err(error) = written {
        tracing::info!(%error, "this machine does not remember where the migration lies");
    }
}

/// Forgets it.
pub(crate) fn forget(name: &str) {
    if let Some(path) = memo_path(name) {
        // What is not there is forgotten.
        let _ = fs::remove_file(path);
    }
}

fn memo_path(name: &str) -> Option<PathBuf> {
    Some(Environment::of_process().state_folder()?.join("migrations").join(format!("{name}.json")))
}

async fn memo(named: &NamedArgs) -> Result<Memo, RunError> {
    let remembered = memo_path(&named.name)
        .and_then(|path| fs::read(path).ok())
        .and_then(|bytes| serde_json::from_slice::<Memo>(&bytes).ok());
    let mut memo = match remembered {
        Some(memo) => memo,
        None if named.place.from.is_some() && named.place.namespace.is_some() => Memo::default(),
        None => recorded(named).await?,
    };
    if let Some((namespace, new)) = named.place.namespace.as_deref().map(renamed) {
        (memo.namespace, memo.renamed) = (namespace, new);
    }
    memo.from = named.place.from.clone().or(memo.from);
    memo.to = named.place.to.clone().or(memo.to);
    Ok(memo)
}

/// Finds the record in the context that was typed, or in the current one, whichever side that is.
async fn recorded(named: &NamedArgs) -> Result<Memo, RunError> {
    let context = named.place.from.as_deref().or(named.place.to.as_deref());
    let cluster = Cluster::connect(Side::Source, context).await?;
    let namespace =
        named.place.namespace.as_deref().map_or(cluster.client.default_namespace().to_owned(), |text| renamed(text).0);
    let record = Ledger::peek(&cluster, &namespace, &named.name).await?.ok_or_else(|| {
        RunError::refused(
            "TS-K903",
            format!("there is no migration {:?} in namespace {namespace} of context {:?}", named.name, cluster.context),
        )
        .hint("give --from, --to and -n as they were given to `create`")
    })?;
    Ok(Memo {
        from: record.migration.spec.source.context.clone(),
        to: record.migration.spec.destination.context.clone(),
        namespace: record.namespace(Side::Source).to_owned(),
        renamed: Some(record.namespace(Side::Destination).to_owned()),
    })
}

/// A context by the right name may lead to another cluster, on another machine or after one was made again.
async fn check_clusters(ledger: &Ledger) -> Result<(), RunError> {
    for side in Side::ALL.into_iter().filter(|&side| ledger.authority(side).is_some()) {
        let (cluster, wanted) = (ledger.cluster(side), &ledger.record.clusters[side as usize]);
        let found = cluster.uid().await?;
        if found != *wanted {
            return Err(RunError::refused(
                "TS-K915",
                format!("context {:?} leads to another cluster than the {side} of this migration", cluster.context),
            )
            .hint("give the right contexts with --from and --to"));
        }
    }
    Ok(())
}
