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

impl Memo {
    fn context(&self, side: Side) -> Option<&str> {
        match side {
            Side::Source => self.from.as_deref(),
            Side::Destination => self.to.as_deref(),
        }
    }

    fn namespace_on(&self, side: Side) -> &str {
        match side {
            Side::Source => &self.namespace,
            Side::Destination => self.renamed.as_deref().unwrap_or(&self.namespace),
        }
    }
}

/// The record, and connections to both clusters. One of them may be lost; one that is another cluster than the record's is
/// refused.
pub(crate) async fn ledger(named: &NamedArgs) -> Result<Ledger, RunError> {
    let memo = memo(named).await?;
    let clusters = [
        Cluster::connect(Side::Source, memo.context(Side::Source)).await?,
        Cluster::connect(Side::Destination, memo.context(Side::Destination)).await?,
    ];
    let namespaces = Side::ALL.map(|side| memo.namespace_on(side));
    let contexts = Side::ALL.map(|side| clusters[side as usize].context.clone());
    let ledger = match Ledger::load(clusters, namespaces, &named.name).await {
        Err(tranship_coordinator::Error::Missing { .. }) => {
            let looked: Vec<_> = contexts.into_iter().zip(namespaces.map(str::to_owned)).collect();
            return Err(nowhere(&named.name, &looked));
        }
        ledger => ledger?,
    };
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
    let is_typed = named.place.from.is_some() && named.place.to.is_some() && named.place.namespace.is_some();
    match remembered(named) {
        Some(memo) => Ok(typed(memo, named)),
        None if is_typed => Ok(typed(Memo::default(), named)),
        None => recorded(named).await,
    }
}

fn remembered(named: &NamedArgs) -> Option<Memo> {
    let bytes = fs::read(memo_path(&named.name)?).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// What was typed goes before what is known otherwise.
fn typed(mut memo: Memo, named: &NamedArgs) -> Memo {
    if let Some((namespace, new)) = named.place.namespace.as_deref().map(renamed) {
        (memo.namespace, memo.renamed) = (namespace, new);
    }
    memo.from = named.place.from.clone().or(memo.from);
    memo.to = named.place.to.clone().or(memo.to);
    memo
}

/// Where a migration can have left something, whether or not its record is there.
pub(crate) async fn places(named: &NamedArgs) -> Result<Vec<(Cluster, String)>, RunError> {
    let memo = match (&named.place.from, &named.place.to) {
        (None, None) => typed(remembered(named).unwrap_or_default(), named),
        // Whoever names a cluster means that one.
        _ => typed(Memo { namespace: remembered(named).unwrap_or_default().namespace, ..Memo::default() }, named),
    };
    let mut places = Vec::new();
    for side in Side::ALL {
        let (context, is_any) = (memo.context(side), memo.from.is_some() || memo.to.is_some());
        if context.is_none() && (is_any || side == Side::Destination) {
            continue;
        }
        let cluster = Cluster::connect(side, context).await?;
        let namespace = match memo.namespace_on(side) {
            "" => cluster.client.default_namespace().to_owned(),
            namespace => namespace.to_owned(),
        };
        places.push((cluster, namespace));
    }
    Ok(places)
}

/// Finds the record in the context that was typed, or in the current one, whichever side that is.
async fn recorded(named: &NamedArgs) -> Result<Memo, RunError> {
    let Some((cluster, namespace)) = places(named).await?.into_iter().next() else {
        return Err(nowhere(&named.name, &[]));
    };
    let Some(record) = Ledger::peek(&cluster, &namespace, &named.name).await? else {
        return Err(nowhere(&named.name, &[(cluster.context, namespace)]));
    };
    let context = |side: Side, typed: &Option<String>| {
        typed.clone().or_else(|| record.migration.context(side).map(str::to_owned))
    };
    Ok(Memo {
        from: context(Side::Source, &named.place.from),
        to: context(Side::Destination, &named.place.to),
        namespace: record.namespace(Side::Source).to_owned(),
        renamed: Some(record.namespace(Side::Destination).to_owned()),
    })
}

/// That there is no record, with the contexts and namespaces in which it was looked for.
fn nowhere(name: &str, looked: &[(String, String)]) -> RunError {
    let map = tranship_coordinator::ledger::map_name(name);
    let places: Vec<String> = looked
        .iter()
        .map(|(context, namespace)| format!("ConfigMap {namespace}/{map} in context {context:?}"))
        .collect();
    let contexts = looked.first().map_or("CONTEXT", |(context, _)| context);
    RunError::refused("TS-K903", format!("there is no migration {name:?}: there is no {}", places.join(", nor ")))
        .hint(format!(
            "give --from, --to and --namespace as they were given to `create`; `kubectl --context {contexts} get \
             configmaps --all-namespaces --selector tranship.io/migration` lists the migrations of a cluster, NAME being \
             what follows `tranship-`"
        ))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::args::PlaceArgs;

    #[test]
    fn who_finds_no_migration_reads_where_it_was_looked_for() {
        let looked = [("old".to_owned(), "shop".to_owned()), ("new".to_owned(), "store".to_owned())];
        let text = nowhere("move", &looked).to_text();
        for part in [
            "ConfigMap shop/tranship-move in context \"old\"",
            "ConfigMap store/tranship-move in context \"new\"",
            "--from",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn what_is_typed_goes_before_what_is_remembered() {
        let memo =
            Memo { from: Some("a".to_owned()), to: Some("b".to_owned()), namespace: "n".to_owned(), renamed: None };
        let named = NamedArgs {
            name: "move".to_owned(),
            place: PlaceArgs { from: None, to: Some("c".to_owned()), namespace: Some("shop:store".to_owned()) },
        };
        let typed = typed(memo, &named);
        assert_eq!(Side::ALL.map(|side| typed.context(side)), [Some("a"), Some("c")]);
        assert_eq!(Side::ALL.map(|side| typed.namespace_on(side)), ["shop", "store"]);
    }
}
