//! What users see with `kubectl describe`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use tranship_api::ObjectRef;

use crate::Cluster;

/// Bytes of a note that the API server takes.
const NOTE_BYTES_MAX: usize = 1024;

/// Characters of the object's name that the event's name begins with.
const NAME_CHARS_MAX: usize = 200;

/// Says something on an object, as a warning event. `reason` is one word in upper camel case. Nothing depends on it: where
/// it cannot be said, that is logged.
pub async fn tell(cluster: &Cluster, object: &ObjectRef, reason: &str, message: &str) {
    let namespace = object.namespace.as_deref().unwrap_or("default");
    let event = event(object, namespace, reason, message);
    if let Err(error) = cluster.create(namespace, &event).await {
        tracing::debug!(%object, %error, "an event was not taken");
    }
}

fn event(object: &ObjectRef, namespace: &str, reason: &str, message: &str) -> Event {
    let name = object.name.get(..NAME_CHARS_MAX).unwrap_or(&object.name).trim_end_matches(['.', '-']);
    let mut note = message.to_owned();
    while note.len() > NOTE_BYTES_MAX {
        note.pop();
    }
    Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        regarding: Some(ObjectReference {
            api_version: Some(object.api_version.clone()),
            kind: Some(object.kind.clone()),
            namespace: object.namespace.clone(),
            name: Some(object.name.clone()),
            uid: Some(object.uid.clone()).filter(|uid| !uid.is_empty()),
            ..ObjectReference::default()
        }),
        event_time: Some(MicroTime(Timestamp::now())),
        action: Some("Cutover".to_owned()),
        reason: Some(reason.to_owned()),
        type_: Some("Warning".to_owned()),
        note: Some(note),
        reporting_controller: Some("tranship.io/coordinator".to_owned()),
        reporting_instance: Some("tranship".to_owned()),
        ..Event::default()
    }
}
