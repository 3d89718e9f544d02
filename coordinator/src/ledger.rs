//! The record of a migration, as it lies in both clusters: one ConfigMap in each, changed by compare-and-swap.
//!
//! The copy of the side that is authoritative leads: it is written first, and a command does not go on unless that
//! has succeeded. The other copy follows as well as it can, so that status and overrides work when one cluster is lost.
//! What is not mirrored is each side's [`Authority`], which stands beside the record in the same object, so that a step
//! of the cutover and what it means for a cluster are one write.
//!
//! `judge` is what is decided, `commit` the two writes of a commit, `shelf` where copies lie; `sim` tries both against everything that can go wrong.

mod commit;
mod judge;
mod living;
mod shelf;
#[cfg(test)]
mod sim;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::de::DeserializeOwned;
use tranship_api::record::{Authority, Step, VERSION};
use tranship_api::{LABEL_ID, LABEL_MIGRATION, ObjectRef, Record, Side};

use self::judge::{Verdict, Version, judge, judge_mirror};
pub use self::living::living;
pub use self::shelf::Shelf;
use crate::{Cluster, Error};

/// Keys of the ConfigMap.
const RECORD: &str = "record";
const AUTHORITY: &str = "authority";

/// How often a write is tried that is not answered, or that meets somebody who changes what does not matter to it.
const TRIES_MAX: u32 = 5;

/// The record and its two copies.
#[derive(Clone)]
pub struct Ledger<S = Cluster> {
    /// What is known. Changes count once [`Ledger::save`] has returned.
    pub record: Record,
    clusters: [S; 2],
    copies: [Copy; 2],
}

/// What was found of one copy.
#[derive(Clone)]
enum Copy {
    /// It is there.
    There(Box<There>),
    /// The cluster answers, and has none.
    Absent,
    /// The cluster does not answer, or forbids it.
    Unknown { why: String },
}

#[derive(Clone)]
struct There {
    record: Record,
    authority: Authority,
    uid: Option<String>,
    /// The object's, for the next write over it.
    version: Option<String>,
}

impl There {
    fn seen(&self) -> Version<'_> {
        Version { record: &self.record, authority: &self.authority }
    }
}

/// The name of the ConfigMap.
pub fn map_name(migration: &str) -> String {
    format!("tranship-{migration}")
}

impl<S: Shelf> Ledger<S> {
    /// Writes the record of a new migration into both clusters; refused if one of that name is there.
    pub async fn create(clusters: [S; 2], record: Record) -> Result<Self, Error> {
        let mut ledger = Self { record, clusters, copies: [Copy::Absent, Copy::Absent] };
        let (name, record) = (map_name(&ledger.record.migration.metadata.name), &ledger.record);
        if record.clusters[0] == record.clusters[1]
            && record.namespace(Side::Source) == record.namespace(Side::Destination)
        {
            return Err(Error::refused(
                "TS-K916",
                format!("source and destination would be the same namespace, {}", record.namespace(Side::Source)),
                "give the destination another one with -n NAMESPACE:NEW",
            ));
        }
        for side in Side::ALL {
            let namespace = ledger.record.namespace(side);
            if ledger.cluster(side).look(namespace, &name).await?.is_some() {
                return Err(Error::refused(
                    "TS-K910",
                    format!(
                        "there is a migration of this name already: ConfigMap {namespace}/{name} in the {side} cluster"
                    ),
                    "choose another name, or end that one with `tranship finish`",
                ));
            }
        }
        let first = Authority::Authoritative { epoch: 0, relinquished: None };
        ledger.write(Side::Source, first).await?;
        ledger.write(Side::Destination, Authority::None).await?;
        Ok(ledger)
    }

    /// Reads both copies; one of the clusters may be lost.
    pub async fn load(clusters: [S; 2], namespaces: [&str; 2], migration: &str) -> Result<Self, Error> {
        let name = map_name(migration);
        let (source, destination) =
            tokio::join!(look(&clusters[0], namespaces[0], &name), look(&clusters[1], namespaces[1], &name));
        let copies = [source?, destination?];
        let record = match &copies {
            [Copy::There(source), Copy::There(destination)] => {
                let says = [Some(&source.authority), Some(&destination.authority)];
                if source.record.id != destination.record.id {
                    return Err(Error::refused(
                        "TS-K913",
                        format!("the clusters have records of different migrations of the name {migration:?}"),
                        "remove the one that is left over, and run `tranship cleanup` there",
                    ));
                }
                if judge::lead(says) == Some(Side::Destination) { &destination.record } else { &source.record }
            }
            // It may be behind. What leads is asked for before anything is changed.
            [Copy::There(only), _] | [_, Copy::There(only)] => &only.record,
            [Copy::Unknown { why }, _] => return Err(unknown(Side::Source, why)),
            [_, Copy::Unknown { why }] => return Err(unknown(Side::Destination, why)),
            [Copy::Absent, Copy::Absent] => return Err(missing(Side::Source, namespaces[0], &name)),
        };
        if record.version != VERSION {
            return Err(Error::refused(
                "TS-K911",
                format!("the record of {migration:?} is of version {}, and this build knows {VERSION}", record.version),
                "use the version of tranship that made it",
            ));
        }
        Ok(Self { record: record.clone(), clusters, copies })
    }

    /// The record as it lies in one cluster; nothing if there is none.
    pub async fn peek(cluster: &S, namespace: &str, migration: &str) -> Result<Option<Record>, Error> {
        let map = cluster.look(namespace, &map_name(migration)).await?;
        map.map(|map| read(&map, RECORD)).transpose()
    }

    /// The cluster of this side.
    pub fn cluster(&self, side: Side) -> &S {
        &self.clusters[side as usize]
    }

    /// What this side's cluster says of the right to run the application; nothing if it does not answer.
    pub fn authority(&self, side: Side) -> Option<&Authority> {
        match &self.copies[side as usize] {
            Copy::There(there) => Some(&there.authority),
            Copy::Absent => Some(&Authority::None),
            Copy::Unknown { .. } => None,
        }
    }

    /// Why a cluster's copy is not known, if it is not.
    pub fn why_unknown(&self, side: Side) -> Option<&str> {
        match &self.copies[side as usize] {
            Copy::Unknown { why } => Some(why),
            _ => None,
        }
    }

    /// The side whose copy leads; an error where that cannot be told, and nothing may be changed.
    pub fn lead(&self) -> Result<Side, Error> {
        judge::lead(self.says()).ok_or_else(|| {
            let lost = Side::ALL.into_iter().find_map(|side| Some(unknown(side, self.why_unknown(side)?)));
            lost.unwrap_or_else(|| not_entitled("neither cluster says that the application is there".to_owned()))
        })
    }

    /// Whether this side may start the application: by its own word, and never where the other's is a later one.
    pub fn may_start(&self, side: Side) -> bool {
        judge::may_start(self.says(), side)
    }

    /// Whether this side was left by a commit, as far as its cluster tells.
    pub fn was_left(&self, side: Side) -> bool {
        let is_since = |authority: &Authority| matches!(authority, Authority::Authoritative { epoch: 1.., .. });
        self.authority(side.other()).is_some_and(is_since)
            || matches!(self.authority(side), Some(Authority::Relinquished { .. }))
    }

    fn says(&self) -> judge::Says<'_> {
        Side::ALL.map(|side| self.authority(side))
    }

    /// Takes over: a higher epoch, by which every other coordinator loses the right to change anything.
    pub async fn take_over(&mut self, coordinator: &str) -> Result<(), Error> {
        self.begin_epoch(coordinator);
        self.save().await
    }

    /// An epoch that neither copy has had.
    fn begin_epoch(&mut self, coordinator: &str) {
        let seen = self.copies.iter().filter_map(|copy| match copy {
            Copy::There(there) => Some(there.record.epoch),
            _ => None,
        });
        self.record.epoch = seen.fold(self.record.epoch, u64::max) + 1;
        self.record.coordinator = coordinator.to_owned();
    }

    /// An error if the migration is not this coordinator's any more: somebody has taken over, or has ended it. To be asked
    /// right before something that must not happen then.
    pub async fn confirm(&self) -> Result<(), Error> {
        let lead = self.lead()?;
        let (namespace, name) = (self.record.namespace(lead), map_name(&self.record.migration.metadata.name));
        match (look(self.cluster(lead), namespace, &name).await?, &self.copies[lead as usize]) {
            (Copy::Unknown { why }, _) => Err(unknown(lead, &why)),
            (Copy::There(found), Copy::There(known)) => {
                let ours = (self.record.epoch, &self.record.coordinator, &known.authority);
                if (found.record.epoch, &found.record.coordinator, &found.authority) != ours {
                    return Err(superseded(&found.record));
                }
                Ok(())
            }
            _ => Err(missing(lead, namespace, &name)),
        }
    }

    /// Makes what was changed in the record durable: in the leading copy for certain, in the other if it can be reached.
    ///
    /// An error means that it is not known whether the leading copy was written, or that somebody has taken over.
    pub async fn save(&mut self) -> Result<(), Error> {
        let lead = self.lead()?;
        self.record.revision += 1;
        let authority = self.known_authority(lead)?;
        self.write(lead, authority).await?;
        self.mirror(lead.other()).await
    }

    /// Lets the other copy follow, if it can be reached; an error only if somebody has taken over.
    async fn mirror(&mut self, side: Side) -> Result<(), Error> {
        let written = match self.known_authority(side) {
            Ok(authority) => self.write_copy(side, authority, true).await,
            Err(error) => Err(error),
        };
        match written {
            Err(error @ Error::Superseded { .. }) => Err(error),
            Err(error) => {
                tracing::warn!(%side, %error, "the copy of the record is behind");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Makes it durable in both copies.
    pub async fn save_both(&mut self) -> Result<(), Error> {
        self.save().await?;
        let follower = self.lead()?.other();
        if matches!(&self.copies[follower as usize], Copy::There(there) if there.record == self.record) {
            return Ok(());
        }
        let authority = self.known_authority(follower)?;
        self.write(follower, authority).await
    }

    /// Changes the limit of what is sent, without taking over and without a new revision, by which a coordinator at work would
    /// be overtaken: whoever works on the migration follows it.
    pub async fn set_bandwidth(&mut self, bits_per_second: Option<u64>) -> Result<(), Error> {
        let lead = self.lead()?;
        let (namespace, name) =
            (self.record.namespace(lead).to_owned(), map_name(&self.record.migration.metadata.name));
        for _ in 0..TRIES_MAX {
            self.copies[lead as usize] = look(self.cluster(lead), &namespace, &name).await?;
            let Copy::There(there) = &self.copies[lead as usize] else { return Err(missing(lead, &namespace, &name)) };
            self.record = there.record.clone();
            self.record.migration.spec.link.bits_per_second = bits_per_second;
            let map = self.map(lead, &there.authority);
            match self.cluster(lead).put(&namespace, &map).await {
                Err(error) if error.is_conflict() => {}
                written => return written.map(drop),
            }
        }
        Err(never_rests(lead))
    }

    fn known_authority(&self, side: Side) -> Result<Authority, Error> {
        match &self.copies[side as usize] {
            Copy::There(there) => Ok(there.authority.clone()),
            Copy::Absent => Ok(Authority::None),
            Copy::Unknown { why } => Err(unknown(side, why)),
        }
    }

    /// Writes the copy that counts.
    async fn write(&mut self, side: Side, authority: Authority) -> Result<(), Error> {
        self.write_copy(side, authority, false).await?;
        end_here_if_asked(self.record.step);
        Ok(())
    }

    /// Writes one copy, over the version of which it is known and over no other. What is not answered is tried again, since
    /// the same write twice is one; a copy that only follows is not waited for.
    async fn write_copy(&mut self, side: Side, authority: Authority, is_mirror: bool) -> Result<(), Error> {
        if let Copy::Unknown { why } = &self.copies[side as usize] {
            return Err(unknown(side, why));
        }
        let namespace = self.record.namespace(side).to_owned();
        let mut unanswered = None;
        for _ in 0..TRIES_MAX {
            let map = self.map(side, &authority);
            match self.cluster(side).put(&namespace, &map).await {
                Ok(map) => {
                    let (uid, version) = (map.metadata.uid, map.metadata.resource_version);
                    self.copies[side as usize] =
                        Copy::There(Box::new(There { record: self.record.clone(), authority, uid, version }));
                    return Ok(());
                }
                Err(error) if error.is_conflict() || error.is_not_found() => {
                    match self.found(side, &namespace, &authority, is_mirror).await {
                        Ok(Verdict::Written) => return Ok(()),
                        Ok(_) => {}
                        Err(error) if error.is_unanswered() && !is_mirror => unanswered = Some(error),
                        Err(error) => return Err(error),
                    }
                }
                Err(error) if error.is_unanswered() && !is_mirror => {
                    unanswered = Some(error);
                    self.cluster(side).pause().await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(unanswered.unwrap_or_else(|| never_rests(side)))
    }

    /// Looks at what is there instead of what was to be written over.
    async fn found(
        &mut self,
        side: Side,
        namespace: &str,
        authority: &Authority,
        is_mirror: bool,
    ) -> Result<Verdict, Error> {
        let name = map_name(&self.record.migration.metadata.name);
        let Some(map) = self.cluster(side).look(namespace, &name).await? else {
            return Err(missing(side, namespace, &name));
        };
        let found = there(&map)?;
        let basis = match &self.copies[side as usize] {
            Copy::There(basis) => Some(basis.seen()),
            _ => None,
        };
        let ours = Version { record: &self.record, authority };
        let judges = if is_mirror { judge_mirror } else { judge };
        let verdict = judges(found.seen(), basis, ours);
        match verdict {
            Verdict::Theirs => return Err(superseded(&found.record)),
            Verdict::Over => {
                // The one thing that others may change meanwhile.
                let limit = |record: &Record| record.migration.spec.link.bits_per_second;
                if !is_mirror && basis.is_some_and(|basis| limit(basis.record) != limit(&found.record)) {
                    self.record.migration.spec.link.bits_per_second = limit(&found.record);
                }
            }
            Verdict::Written => {}
        }
        self.copies[side as usize] = Copy::There(Box::new(found));
        Ok(verdict)
    }

    fn map(&self, side: Side, authority: &Authority) -> ConfigMap {
        let name = &self.record.migration.metadata.name;
        let text = |value: serde_json::Result<String>| value.expect("a record holds nothing that JSON cannot say");
        let labels = [(LABEL_MIGRATION, name.clone()), (LABEL_ID, self.record.id.clone())];
        let resource_version = match &self.copies[side as usize] {
            Copy::There(there) => there.version.clone(),
            _ => None,
        };
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(map_name(name)),
                namespace: Some(self.record.namespace(side).to_owned()),
                labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
                resource_version,
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([
                (RECORD.to_owned(), text(serde_json::to_string(&self.record))),
                (AUTHORITY.to_owned(), text(serde_json::to_string(authority))),
            ])),
            ..ConfigMap::default()
        }
    }

    /// The object in `side`'s cluster as the owner of what lies beside it: what is of ours goes with it, and a node that is
    /// drained sees a pod that somebody looks after.
    pub fn owner_reference(&self, side: Side) -> Result<OwnerReference, Error> {
        let name = map_name(&self.record.migration.metadata.name);
        let uid = match &self.copies[side as usize] {
            Copy::There(there) => there.uid.clone(),
            _ => None,
        };
        let Some(uid) = uid else {
            let object = ObjectRef::named("v1", "ConfigMap", Some(self.record.namespace(side)), &name);
            return Err(Error::Missing { side, object });
        };
        Ok(OwnerReference {
            api_version: "v1".to_owned(),
            kind: "ConfigMap".to_owned(),
            name,
            uid,
            controller: Some(true),
            block_owner_deletion: Some(false),
        })
    }
}

impl Ledger {
    /// Removes both copies; the last write of a migration.
    pub async fn remove(self) -> Result<(), Error> {
        let name = map_name(&self.record.migration.metadata.name);
        let lead = self.lead()?;
        // The leading one last: as long as it is there, somebody can go on.
        for side in [lead.other(), lead] {
            self.cluster(side).delete::<ConfigMap>(self.record.namespace(side), &name, None).await?;
        }
        Ok(())
    }
}

/// For tests of what a kill leaves: a build for them ends at once after the step that `TRANSHIP_STOP_AT` names was recorded,
/// and before it has effect or the other copy follows.
fn end_here_if_asked(step: Step) {
    if cfg!(debug_assertions) && std::env::var("TRANSHIP_STOP_AT").is_ok_and(|wanted| wanted == step.word()) {
        std::process::abort();
    }
}

async fn look<S: Shelf>(cluster: &S, namespace: &str, name: &str) -> Result<Copy, Error> {
    match cluster.look(namespace, name).await {
        Ok(None) => Ok(Copy::Absent),
        Ok(Some(map)) => Ok(Copy::There(Box::new(there(&map)?))),
        Err(error @ (Error::Unreachable { .. } | Error::Api { .. })) => Ok(Copy::Unknown { why: with_cause(&error) }),
        Err(error) => Err(error),
    }
}

fn there(map: &ConfigMap) -> Result<There, Error> {
    let (uid, version) = (map.metadata.uid.clone(), map.metadata.resource_version.clone());
    Ok(There { record: read(map, RECORD)?, authority: read(map, AUTHORITY)?, uid, version })
}

fn superseded(record: &Record) -> Error {
    Error::Superseded { coordinator: record.coordinator.clone(), epoch: record.epoch }
}

fn missing(side: Side, namespace: &str, name: &str) -> Error {
    Error::Missing { side, object: ObjectRef::named("v1", "ConfigMap", Some(namespace), name) }
}

fn never_rests(side: Side) -> Error {
    Error::Late { what: format!("writing the record in the {side} cluster against others"), seconds: 0 }
}

fn not_entitled(what: String) -> Error {
    Error::refused("TS-K912", what, "see that both clusters answer, then run the same command again")
}

fn read<T: DeserializeOwned>(map: &ConfigMap, key: &str) -> Result<T, Error> {
    let name = map.metadata.name.as_deref().unwrap_or_default();
    let damaged = |why: String| {
        Error::refused(
            "TS-K913",
            format!("ConfigMap {name} is damaged: {why}"),
            "restore it from the other cluster's copy, or remove both and `tranship cleanup`",
        )
    };
    let text = map.data.as_ref().and_then(|data| data.get(key)).ok_or_else(|| damaged(format!("{key} is missing")))?;
    serde_json::from_str(text).map_err(|error| damaged(format!("{key}: {error}")))
}

fn unknown(side: Side, why: &str) -> Error {
    Error::refused(
        "TS-K914",
        format!("what the {side} cluster says of this migration is not known: {why}"),
        "see that its API server answers and that you may read ConfigMaps there, then run the same command again; if it is \
         lost for good after the proof, with --override-lost-owner",
    )
}

fn with_cause(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
