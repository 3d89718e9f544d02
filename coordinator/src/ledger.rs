//! The record of a migration, as it lies in both clusters: one ConfigMap in each, changed by compare-and-swap.
//!
//! The copy of the side that owns the application leads: it is written first, and a command does not go on unless that
//! has succeeded. The other copy follows as well as it can, so that status and overrides work when one cluster is lost.
//! What is not mirrored is each side's [`Authority`], which stands beside the record in the same object, so that a step
//! of the cutover and what it means for a cluster are one write.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use tranship_api::record::{Authority, Proof, Step, VERSION};
use tranship_api::{LABEL_ID, LABEL_MIGRATION, ObjectRef, Record, Side};

use crate::{Cluster, Error};

/// Keys of the ConfigMap.
const RECORD: &str = "record";
const AUTHORITY: &str = "authority";

/// How often a write is tried again when somebody touched the object without taking over.
const TRIES_MAX: u32 = 5;

/// The record and its two copies.
#[derive(Clone)]
pub struct Ledger {
    /// What is known. Changes count once [`Ledger::save`] has returned.
    pub record: Record,
    clusters: [Cluster; 2],
    copies: [Copy; 2],
}

/// What was found of one copy.
#[derive(Clone)]
enum Copy {
    /// It is there.
    There { map: Box<ConfigMap>, authority: Authority },
    /// The cluster answers, and has none.
    Absent,
    /// The cluster does not answer, or forbids it.
    Unknown { why: String },
}

/// The name of the ConfigMap.
pub fn map_name(migration: &str) -> String {
    format!("tranship-{migration}")
}

impl Ledger {
    /// Writes the record of a new migration into both clusters; refused if one of that name is there.
    pub async fn create(clusters: [Cluster; 2], record: Record) -> Result<Self, Error> {
        let mut ledger = Self { record, clusters, copies: [Copy::Absent, Copy::Absent] };
        for side in Side::ALL {
            let (namespace, name) = (ledger.record.namespace(side), map_name(&ledger.record.migration.metadata.name));
            if ledger.cluster(side).find::<ConfigMap>(namespace, &name).await?.is_some() {
                return Err(Error::refused(
                    "TS-K910",
                    format!(
                        "there is a migration {:?} already: ConfigMap {namespace}/{name} in the {side} cluster",
                        ledger.record.migration.metadata.name
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
    pub async fn load(clusters: [Cluster; 2], namespaces: [&str; 2], migration: &str) -> Result<Self, Error> {
        let name = map_name(migration);
        let (source, destination) =
            tokio::join!(look(&clusters[0], namespaces[0], &name), look(&clusters[1], namespaces[1], &name));
        let (source, destination) = (source?, destination?);
        let records = [&source, &destination].map(|(_, record)| record.clone());
        // Ties go to the source's, from which the other was copied.
        let record = records.into_iter().rev().flatten().max_by_key(|record| record.revision);
        let Some(record) = record else {
            return match (source.0, destination.0) {
                (Copy::Unknown { why }, _) => Err(unknown(Side::Source, &why)),
                (_, Copy::Unknown { why }) => Err(unknown(Side::Destination, &why)),
                _ => Err(Error::Missing {
                    side: Side::Source,
                    object: ObjectRef::named("v1", "ConfigMap", Some(namespaces[0]), &name),
                }),
            };
        };
        if record.version != VERSION {
            return Err(Error::refused(
                "TS-K911",
                format!("the record of {migration:?} is of version {}, and this build knows {VERSION}", record.version),
                "use the version of tranship that made it",
            ));
        }
        Ok(Self { record, clusters, copies: [source.0, destination.0] })
    }

    /// The record as it lies in one cluster; nothing if there is none.
    pub async fn peek(cluster: &Cluster, namespace: &str, migration: &str) -> Result<Option<Record>, Error> {
        let map = cluster.find::<ConfigMap>(namespace, &map_name(migration)).await?;
        map.map(|map| read(&map, RECORD)).transpose()
    }

    /// The cluster of this side.
    pub fn cluster(&self, side: Side) -> &Cluster {
        &self.clusters[side as usize]
    }

    /// What this side's cluster says of the right to run the application; nothing if it does not answer.
    pub fn authority(&self, side: Side) -> Option<&Authority> {
        match &self.copies[side as usize] {
            Copy::There { authority, .. } => Some(authority),
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

    /// The side whose copy leads.
    pub fn lead(&self) -> Side {
        lead(&self.record)
    }

    /// Takes over: a higher epoch, by which every other coordinator loses the right to change anything.
    pub async fn take_over(&mut self, coordinator: &str) -> Result<(), Error> {
        self.record.epoch += 1;
        self.record.coordinator = coordinator.to_owned();
        self.save().await
    }

    /// Makes what was changed in the record durable: in the leading copy for certain, in the other if it can be reached.
    ///
    /// An error means that it is not known whether the leading copy was written, or that somebody has taken over.
    pub async fn save(&mut self) -> Result<(), Error> {
        let lead = self.lead();
        self.record.revision += 1;
        let authority = self.known_authority(lead)?;
        self.write(lead, authority).await?;
        let follower = lead.other();
        match self.known_authority(follower) {
            Ok(authority) => {
                if let Err(error) = self.write(follower, authority).await {
                    if matches!(error, Error::Superseded { .. }) {
                        return Err(error);
                    }
                    tracing::warn!(side = %follower, %error, "the copy of the record is behind");
                }
            }
            Err(error) => tracing::warn!(side = %follower, %error, "the copy of the record is behind"),
        }
        end_here_if_asked(self.record.step);
        Ok(())
    }

    /// Changes the limit of what is sent, without taking over: whoever works on the migration follows it.
    pub async fn set_bandwidth(&mut self, bits_per_second: Option<u64>) -> Result<(), Error> {
        let lead = self.lead();
        let (cluster, name) = (self.cluster(lead).clone(), map_name(&self.record.migration.metadata.name));
        let namespace = self.record.namespace(lead).to_owned();
        for _ in 0..TRIES_MAX {
            let (copy, record) = look(&cluster, &namespace, &name).await?;
            self.copies[lead as usize] = copy;
            self.record = record.unwrap_or_else(|| self.record.clone());
            self.record.migration.spec.link.bits_per_second = bits_per_second;
            let map = self.map(lead, &self.known_authority(lead)?);
            match cluster.replace(&namespace, &map).await {
                Err(error) if error.is_conflict() => {}
                written => return written.map(drop),
            }
        }
        Err(Error::Late { what: format!("writing the record in the {lead} cluster against others"), seconds: 0 })
    }

    /// The first write of a commit: the owner gives up, in its own cluster. From here on it starts nothing.
    pub async fn relinquish(&mut self, proof: Proof, digests: Vec<String>, at: Timestamp) -> Result<(), Error> {
        let (owner, epoch) = (self.record.owner, self.record.epoch);
        self.record.proof = Some(proof);
        self.record.step = Step::Relinquished;
        self.record.happened(at, format!("the {owner} gave up in epoch {epoch}"));
        self.record.revision += 1;
        self.write(owner, Authority::Relinquished { epoch, digests }).await?;
        end_here_if_asked(self.record.step);
        Ok(())
    }

    /// The second write of a commit: the other side becomes authoritative, with a copy of what the first one wrote.
    pub async fn assume(&mut self, at: Timestamp) -> Result<(), Error> {
        let (owner, heir) = (self.record.owner, self.record.owner.other());
        let relinquished = match self.authority(owner) {
            Some(given @ Authority::Relinquished { .. }) => given.clone(),
            _ => {
                return Err(Error::refused(
                    "TS-K912",
                    format!(
                        "the {owner} cluster does not say that it gave up, and the {heir} may not start without that"
                    ),
                    "see that the cluster answers and run the same command again; if it is lost for good, `tranship \
                     cutover --override-lost-owner`",
                ));
            }
        };
        let epoch = self.record.epoch;
        self.record.step = Step::Starting;
        self.record.happened(at, format!("the {heir} is authoritative in epoch {epoch}"));
        self.record.revision += 1;
        let authority = Authority::Authoritative { epoch, relinquished: Some(Box::new(relinquished)) };
        self.write(heir, authority).await?;
        end_here_if_asked(self.record.step);
        // The old owner's copy follows; what it says of itself stays.
        if let Ok(authority) = self.known_authority(owner)
            && let Err(error) = self.write(owner, authority).await
        {
            tracing::warn!(side = %owner, %error, "the copy of the record is behind");
        }
        Ok(())
    }

    /// The second write of a commit where the first cannot be seen, since the old owner's cluster is lost for good. Only for
    /// a user who has typed that.
    pub async fn assume_without_owner(&mut self, at: Timestamp) -> Result<(), Error> {
        let (owner, heir, epoch) = (self.record.owner, self.record.owner.other(), self.record.epoch);
        self.record.step = Step::Starting;
        self.record
            .happened(at, format!("a user had the {heir} take over in epoch {epoch} without the word of the {owner}"));
        self.record.revision += 1;
        self.write(heir, Authority::Authoritative { epoch, relinquished: None }).await
    }

    /// Whether this side may start the application: only by its own word.
    pub fn may_start(&self, side: Side) -> bool {
        matches!(self.authority(side), Some(Authority::Authoritative { .. }))
    }

    /// Removes both copies; the last write of a migration.
    pub async fn remove(self) -> Result<(), Error> {
        let name = map_name(&self.record.migration.metadata.name);
        // The leading one last: as long as it is there, somebody can go on.
        for side in [self.lead().other(), self.lead()] {
            self.cluster(side).delete::<ConfigMap>(self.record.namespace(side), &name, None).await?;
        }
        Ok(())
    }

    fn known_authority(&self, side: Side) -> Result<Authority, Error> {
        match &self.copies[side as usize] {
            Copy::There { authority, .. } => Ok(authority.clone()),
            Copy::Absent => Ok(Authority::None),
            Copy::Unknown { why } => Err(unknown(side, why)),
        }
    }

    /// Writes one copy, unless somebody with a higher epoch was there first.
    async fn write(&mut self, side: Side, authority: Authority) -> Result<(), Error> {
        let cluster = self.cluster(side).clone();
        let namespace = self.record.namespace(side).to_owned();
        for _ in 0..TRIES_MAX {
            let map = self.map(side, &authority);
            let written = match &self.copies[side as usize] {
                Copy::There { .. } => cluster.replace(&namespace, &map).await,
                _ => cluster.create(&namespace, &map).await,
            };
            match written {
                Ok(map) => {
                    self.copies[side as usize] = Copy::There { map: Box::new(map), authority };
                    return Ok(());
                }
                Err(error) if error.is_conflict() || error.is_not_found() => {
                    let (copy, record) =
                        look(&cluster, &namespace, &map_name(&self.record.migration.metadata.name)).await?;
                    if let Some(record) = record {
                        if is_ahead(&record, &self.record) {
                            return Err(Error::Superseded { coordinator: record.coordinator, epoch: record.epoch });
                        }
                        // The one thing that others may change meanwhile.
                        self.record.migration.spec.link.bits_per_second = record.migration.spec.link.bits_per_second;
                    }
                    self.copies[side as usize] = copy;
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Late { what: format!("writing the record in the {side} cluster against others"), seconds: 0 })
    }

    fn map(&self, side: Side, authority: &Authority) -> ConfigMap {
        let name = &self.record.migration.metadata.name;
        let text = |value: serde_json::Result<String>| value.expect("a record holds nothing that JSON cannot say");
        let labels = [(LABEL_MIGRATION, name.clone()), (LABEL_ID, self.record.id.clone())];
        let resource_version = match &self.copies[side as usize] {
            Copy::There { map, .. } => map.metadata.resource_version.clone(),
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

    /// The object in `side`'s cluster, as the owner of what lies beside it.
    pub fn map_uid(&self, side: Side) -> Option<&str> {
        match &self.copies[side as usize] {
            Copy::There { map, .. } => map.metadata.uid.as_deref(),
            _ => None,
        }
    }
}

/// The side whose copy leads: the owner, until the other has become authoritative.
fn lead(record: &Record) -> Side {
    if record.step == Step::Starting { record.owner.other() } else { record.owner }
}

/// Whether a record was written by somebody who has taken over from whoever holds `ours`.
fn is_ahead(theirs: &Record, ours: &Record) -> bool {
    theirs.epoch > ours.epoch || (theirs.epoch == ours.epoch && theirs.coordinator != ours.coordinator)
}

/// For tests of what a kill leaves: the process ends at once after the step that `TRANSHIP_STOP_AT` names was recorded,
/// and before it has effect.
fn end_here_if_asked(step: Step) {
    if std::env::var("TRANSHIP_STOP_AT").is_ok_and(|wanted| wanted == step.word()) {
        std::process::abort();
    }
}

async fn look(cluster: &Cluster, namespace: &str, name: &str) -> Result<(Copy, Option<Record>), Error> {
    match cluster.find::<ConfigMap>(namespace, name).await {
        Ok(None) => Ok((Copy::Absent, None)),
        Ok(Some(map)) => {
            let (record, authority) = (read::<Record>(&map, RECORD)?, read::<Authority>(&map, AUTHORITY)?);
            Ok((Copy::There { map: Box::new(map), authority }, Some(record)))
        }
        Err(error @ (Error::Unreachable { .. } | Error::Api { .. })) => {
            Ok((Copy::Unknown { why: with_cause(&error) }, None))
        }
        Err(error) => Err(error),
    }
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
        "see that its API server answers and that you may read ConfigMaps there, then run the same command again",
    )
}

fn with_cause(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
