//! Which migrations are not over, as far as a namespace tells.

use k8s_openapi::api::core::v1::ConfigMap;
use tranship_api::{LABEL_ID, LABEL_MIGRATION};

use super::map_name;
use crate::{Cluster, Error};

/// Identities of the migrations whose records lie in the namespace.
pub async fn living(cluster: &Cluster, namespace: &str) -> Result<Vec<String>, Error> {
    let maps = cluster.list::<ConfigMap>(namespace, LABEL_ID).await?;
    Ok(maps.iter().filter_map(id_of_record).collect())
}

/// The identity of the migration whose record this is; nothing for what was brought with our mark. Its name decides: one that
/// was damaged counts, too.
fn id_of_record(map: &ConfigMap) -> Option<String> {
    let label = |key: &str| map.metadata.labels.as_ref()?.get(key).cloned();
    let is_record = label(LABEL_MIGRATION).is_some_and(|name| map.metadata.name == Some(map_name(&name)));
    label(LABEL_ID).filter(|_| is_record)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_map_that_was_brought_is_no_record() {
        let id = |name: &str, data: Value| {
            let labels = json!({LABEL_ID: "id1", LABEL_MIGRATION: "shop"});
            let map = json!({"metadata": {"name": name, "labels": labels}, "data": data});
            id_of_record(&serde_json::from_value(map).expect("a map"))
        };
        assert_eq!(id("tranship-shop", json!({"record": "{}"})).as_deref(), Some("id1"));
        assert_eq!(id("tranship-shop", json!({})).as_deref(), Some("id1"));
        assert_eq!(id("shop-config", json!({"record": "of something else"})), None);
        assert_eq!(id("tranship-shop2", json!({})), None);
    }
}
