//! What is looked at: a migration that is to be made, or one that has a record.

use std::borrow::Cow;

use tranship_api::migration::Volume;
use tranship_api::record::VolumeRecord;
use tranship_api::{Migration, Record, Side};

/// What is looked at.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// A migration that is to be made.
    Wanted(&'a Migration),
    /// One that has a record: it is known which claims it means, and the application may be on either side.
    Recorded(&'a Record),
}

impl<'a> Subject<'a> {
    /// What is wanted. With a record it names the claims that are moved: others may have been made since.
    pub(super) fn migration(self) -> Cow<'a, Migration> {
        match self {
            Self::Wanted(migration) => Cow::Borrowed(migration),
            Self::Recorded(record) => Cow::Owned(of_record(record)),
        }
    }

    /// The identity by which what is there is known as the migration's own.
    pub(super) fn id(self) -> Option<&'a str> {
        match self {
            Self::Wanted(_) => None,
            Self::Recorded(record) => Some(&record.id),
        }
    }

    /// The side that has the application.
    pub(super) fn owner(self) -> Side {
        match self {
            Self::Wanted(_) => Side::Source,
            Self::Recorded(record) => record.owner,
        }
    }

    /// Its volumes, if they were chosen.
    pub(super) fn volumes(self) -> Option<&'a [VolumeRecord]> {
        match self {
            Self::Wanted(_) => None,
            Self::Recorded(record) => Some(&record.volumes),
        }
    }

    /// The record, or the one that would be made of this report.
    pub(super) fn record(self, report: &super::Report) -> Cow<'a, Record> {
        match self {
            Self::Recorded(record) => Cow::Borrowed(record),
            Self::Wanted(migration) => Cow::Owned(Record::new(
                String::new(),
                String::new(),
                migration.clone(),
                report.clusters.clone(),
                report.mode,
                report.volumes.clone(),
            )),
        }
    }
}

fn of_record(record: &Record) -> Migration {
    let mut migration = record.migration.clone();
    let wishes = std::mem::take(&mut migration.spec.volumes);
    migration.spec.selector = None;
    migration.spec.volumes = record
        .volumes
        .iter()
        .map(|volume| {
            let [claim, to] = Side::ALL.map(|side| volume.claim(side).name.clone());
            let wish = wishes.iter().find(|wish| wish.claim == claim).cloned();
            let none = Volume { claim: claim.clone(), to: None, storage_class: None, access_mode: None, size: None };
            Volume { to: (to != claim).then_some(to), ..wish.unwrap_or(none) }
        })
        .collect();
    migration
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::json;
    use tranship_api::migration::Mode;

    use super::*;

    #[test]
    fn with_a_record_its_claims_are_meant_and_what_was_asked_for_them_stands() {
        let mut migration = Migration::new("move", "shop");
        migration.spec.volumes =
            serde_json::from_value(json!([{"claim": "a", "to": "b", "size": "1Gi"}])).expect("a volume");
        let claim: PersistentVolumeClaim =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {}})).expect("a claim");
        let volumes = vec![crate::claims::volume_of(&claim, &migration)];
        let make = |migration: Migration| {
            Record::new("id1".to_owned(), String::new(), migration, Default::default(), Mode::Plain, volumes.clone())
        };
        let record = make(migration.clone());
        assert_eq!(*Subject::Recorded(&record).migration(), migration);
        // All claims were meant, and this one was there.
        migration.spec.volumes.clear();
        migration.spec.selector = Some("app=db".to_owned());
        let named = Subject::Recorded(&make(migration)).migration().into_owned().spec;
        assert_eq!((named.selector, named.volumes[0].claim.as_str()), (None, "a"));
        assert_eq!((named.volumes[0].to.as_deref(), named.volumes[0].size.as_deref()), (Some("b"), None));
    }
}
