//! What users see with `kubectl describe`.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use tokio::time::timeout;
use tranship_api::ObjectRef;
use tranship_api::record::{Act, Change, Record};

use super::live;
use crate::Cluster;

/// Bytes of a message that the API server takes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// How long it may take to be taken: an application stands still meanwhile.
const TAKEN_MAX: Duration = Duration::from_secs(2);

/// Characters of the object's name that the event's name begins with.
const NAME_CHARS_MAX: usize = 200;

/// What there is to say of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// A cutover has stopped it.
    Stopped,
    /// It was started again, or on the other side.
    Started,
}

/// Says it on an object, as an event. Nothing depends on it: where it cannot be said, that is logged.
pub async fn tell(cluster: &Cluster, object: &ObjectRef, news: News, record: &Record) {
    let namespace = object.namespace.as_deref().unwrap_or("default");
    let event = event(object, namespace, news, record);
    match timeout(TAKEN_MAX, cluster.create(namespace, &event)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(%object, %error, "an event was not taken"),
        Err(_) => tracing::debug!(%object, "an event was not taken in time"),
    }
}

/// What these changes stop. Others only prepare that: they keep claims, or somebody else from scaling.
pub fn stopped(changes: &[Change]) -> impl Iterator<Item = &ObjectRef> {
    let stops = |change: &&Change| match &change.act {
        Act::Scale { .. } | Act::Delete { .. } => true,
        Act::Set { pointer, .. } => pointer != live::RETENTION && !pointer.starts_with("/metadata/"),
    };
    changes.iter().filter(stops).map(|change| &change.object)
}

fn event(object: &ObjectRef, namespace: &str, news: News, record: &Record) -> Event {
    let migration = &record.migration.metadata.name;
    let (kind, reason, mut message) = match news {
        News::Stopped => (
            "Warning",
            "Stopped",
            format!(
                "stopped by tranship for migration {migration}; if nobody goes on, `{}` does, and `{}` takes it back, \
                 from any machine",
                record.command_on(),
                record.command_back(),
            ),
        ),
        News::Started => ("Normal", "Started", format!("started by tranship for migration {migration}")),
    };
    while message.len() > MESSAGE_BYTES_MAX {
        message.pop();
    }
    let name = object.name.get(..NAME_CHARS_MAX).unwrap_or(&object.name).trim_end_matches(['.', '-']);
    let now = Some(Time(Timestamp::now()));
    Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(object.api_version.clone()),
            kind: Some(object.kind.clone()),
            namespace: object.namespace.clone(),
            name: Some(object.name.clone()),
            uid: Some(object.uid.clone()).filter(|uid| !uid.is_empty()),
            ..ObjectReference::default()
        },
        type_: Some(kind.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        first_timestamp: now.clone(),
        last_timestamp: now,
        count: Some(1),
        source: Some(EventSource { component: Some("tranship".to_owned()), host: None }),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tranship_api::Migration;
    use tranship_api::migration::Mode;
    use tranship_api::record::ChangeState;

    use super::*;

    #[test]
    fn whoever_describes_a_stopped_workload_reads_which_command_goes_on_and_which_goes_back() {
        let mut migration = Migration::new("move", "shop");
        migration.spec.source.context = Some("old".to_owned());
        migration.spec.destination.context = Some("new".to_owned());
        let record = Record::new(String::new(), String::new(), migration, Default::default(), Mode::Plain, vec![]);
        let object = ObjectRef::named("apps/v1", "StatefulSet", Some("shop"), "db");
        let stopped = event(&object, "shop", News::Stopped, &record);
        assert_eq!(stopped.type_.as_deref(), Some("Warning"));
        let message = stopped.message.expect("a message");
        for part in [
            "migration move;",
            "`tranship cutover move --from old --to new --namespace shop`",
            "`tranship rollback move --from",
        ] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(event(&object, "shop", News::Started, &record).type_.as_deref(), Some("Normal"));
    }

    #[test]
    fn a_change_that_only_prepares_stops_nothing() {
        let change = |name: &str, act| {
            let object = ObjectRef::named("v", "k", Some("n"), name);
            Change { object, act, state: ChangeState::Made }
        };
        let set = |pointer: &str| Act::Set { pointer: pointer.to_owned(), before: Value::Null, after: json!(true) };
        let changes = [
            change("kept", set(live::RETENTION)),
            change("paused", set("/metadata/annotations/x")),
            change("suspended", set("/spec/suspend")),
            change("scaled", Act::Scale { before: 1, after: 0 }),
        ];
        let names: Vec<&str> = stopped(&changes).map(|object| object.name.as_str()).collect();
        assert_eq!(names, ["suspended", "scaled"]);
    }
}
