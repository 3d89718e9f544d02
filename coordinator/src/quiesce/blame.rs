//! Who changed a value last, as far as the object itself tells.

use serde_json::Value;

use crate::cluster::FIELD_MANAGER;

/// Name of the field manager, other than us, that set the value there last; else of whoever changed the object last.
pub(super) fn manager(live: &Value, pointer: &str) -> String {
    let entries = live["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    let others = || entries.iter().filter(|entry| entry["manager"] != FIELD_MANAGER);
    // Times are in UTC and of one form, so that they can be compared as text.
    let time = |entry: &&Value| entry["time"].as_str().unwrap_or_default().to_owned();
    let owner = others().filter(|entry| owns(&entry["fieldsV1"], pointer)).max_by_key(time);
    match owner.or_else(|| others().max_by_key(time)) {
        Some(entry) => entry["manager"].as_str().unwrap_or("somebody").to_owned(),
        None => "somebody".to_owned(),
    }
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
            entry("tranship", "2026-01-03T00:00:00Z", replicas),
            entry("kubelet", "2026-01-04T00:00:00Z", json!({ "f:status": {} })),
        ]);
        assert_eq!(manager(&live(entries), "/spec/replicas"), "scaler");
        let late = json!([entry("kubelet", "2026-01-04T00:00:00Z", json!({ "f:status": {} }))]);
        assert_eq!(manager(&live(late), "/spec/replicas"), "kubelet");
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
