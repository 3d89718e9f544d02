//! Who changed a value last, as far as the cluster tells.

use kube::api::WatchParams;
use kube::core::Request;
use serde_json::Value;
use tranship_api::ObjectRef;

use super::live;
use crate::cluster::FIELD_MANAGER;
use crate::{Cluster, Error};

/// Seconds for which the past of an object is listened to: all of it comes at once.
const REPLAY_SECONDS: u32 = 1;

/// Name of the field manager, other than us, that set the value there last; `somebody` where the object does not tell.
pub(super) fn manager(live: &Value, pointer: &str) -> String {
    changed_by(live, pointer).unwrap_or_else(|| "somebody".to_owned())
}

/// Who set the value there to anything but `after`, at any time since `version`, as far as that can be told.
///
/// Who scales through the scale subresource stands in the object only until its controller writes its status, a moment
/// later. So where the object as it is does not tell, all its versions since then are gone through.
pub(super) async fn since(
    cluster: &Cluster,
    object: &ObjectRef,
    now: &Value,
    (pointer, after): (&str, &Value),
    version: Option<&str>,
) -> Result<Option<String>, Error> {
    let known = changed_by(now, pointer);
    let (None, Some(version)) = (&known, version) else { return Ok(known) };
    let api = live::api(cluster, object)?;
    let params = WatchParams::default()
        .fields(&format!("metadata.name={}", object.name))
        .timeout(REPLAY_SECONDS)
        .disable_bookmarks();
    let events = async {
        let request = Request::new(api.resource_url()).watch(&params, version).map_err(kube::Error::BuildRequest)?;
        cluster.client.request_text(request).await
    };
    let events = match cluster.call(format!("watch {object}"), events).await {
        // It is made again all the same, and nobody is named.
        Err(error) if error.is_forbidden() => return Ok(None),
        events => events?,
    };
    let versions = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut owners = versions.filter_map(|event| {
        let then = &event["object"];
        let is_other = !live::is_same(pointer, live::value(then, pointer), after);
        is_other.then(|| changed_by(then, pointer)).flatten()
    });
    Ok(owners.next())
}

/// Name of the field manager, other than us, that set the value there last, or something in it; nothing where none did.
pub(crate) fn changed_by(live: &Value, pointer: &str) -> Option<String> {
    let entries = live["metadata"]["managedFields"].as_array()?.iter();
    let owners = entries.filter(|entry| entry["manager"] != FIELD_MANAGER && owns(&entry["fieldsV1"], pointer));
    // Times are in UTC and of one form, so that they can be compared as text; what has none is of just now.
    let last = owners.max_by_key(|entry| (entry["time"].is_null(), entry["time"].as_str().map(str::to_owned)))?;
    last["manager"].as_str().map(str::to_owned)
}

/// Whether a set of fields holds the one at the pointer. A map that is changed as a whole ends before it.
fn owns(fields: &Value, pointer: &str) -> bool {
    let mut at = fields;
    for key in pointer.split('/').skip(1) {
        let key = key.replace("~1", "/").replace("~0", "~");
        match at.get(format!("f:{key}")) {
            Some(next) => at = next,
            None => return at != fields && at.as_object().is_some_and(serde_json::Map::is_empty),
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_one_who_set_the_value_last_is_named_and_never_ourselves() {
        let entry =
            |manager: &str, time: &str, fields: Value| json!({ "manager": manager, "time": time, "fieldsV1": fields });
        let replicas = json!({ "f:spec": { "f:replicas": {} } });
        let live = |entries: Value| json!({ "metadata": { "managedFields": entries } });
        let entries = json!([
            entry("kubectl", "2026-01-01T00:00:00Z", replicas.clone()),
            entry("scaler", "2026-01-02T00:00:00Z", replicas.clone()),
            entry("tranship", "2026-01-03T00:00:00Z", replicas.clone()),
            entry("kubelet", "2026-01-04T00:00:00Z", json!({ "f:status": {} })),
        ]);
        assert_eq!(manager(&live(entries), "/spec/replicas"), "scaler");
        // Who has just scaled has no time yet.
        let just_now = json!({ "manager": "autoscaler", "fieldsV1": { "f:spec": { "f:replicas": {} } } });
        let entries = json!([just_now, entry("scaler", "2026-01-02T00:00:00Z", replicas)]);
        assert_eq!(manager(&live(entries), "/spec/replicas"), "autoscaler");
        let aside = json!([entry("kubelet", "2026-01-04T00:00:00Z", json!({ "f:status": {} }))]);
        assert_eq!(manager(&live(aside), "/spec/replicas"), "somebody");
        assert_eq!(manager(&json!({}), "/spec/replicas"), "somebody");
    }

    #[test]
    fn a_map_that_is_changed_as_a_whole_counts_for_its_keys() {
        let fields = json!({ "f:spec": { "f:template": { "f:spec": { "f:nodeSelector": {} } } } });
        assert!(owns(&fields, "/spec/template/spec/nodeSelector/a~1b"));
        assert!(!owns(&fields, "/spec/replicas"));
        assert!(!owns(&json!({}), "/spec/replicas"));
    }
}
