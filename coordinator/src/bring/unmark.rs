//! What was brought stays when a migration ends, and is nobody's but its users' then.

use kube::api::{Patch, PatchParams};
use serde_json::json;
use tranship_api::record::Brought;
use tranship_api::{LABEL_ID, LABEL_MIGRATION};

use super::kind;
use crate::{Cluster, Error};

/// Takes our labels away. What is not there any more is passed over.
pub async fn unmark(destination: &Cluster, brought: &[Brought]) -> Result<(), Error> {
    let labels = json!({ LABEL_ID: null, LABEL_MIGRATION: null });
    let patch = Patch::Merge(json!({ "metadata": { "labels": labels } }));
    for one in brought.iter().filter(|one| !one.was_there) {
        let namespace = one.object.namespace.as_deref().unwrap_or_default();
        let api = kind::of(&one.object)?.api(destination, namespace);
        let params = PatchParams::default();
        let patched = api.patch(&one.object.name, &params, &patch);
        match destination.call(format!("patch {}", one.object), patched).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
