//! What migrations have left behind in a namespace, found by our marks, also where no record tells of it any more.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use tranship_api::{LABEL_AGENT, LABEL_ID, LABEL_MIGRATION, ObjectRef};

use crate::agents::is_state_claim;
use crate::bring::{self, Found};
use crate::cluster::Object;
use crate::fence::{self, Need, Standing};
use crate::ledger::living;
use crate::reclaim::{self, Kept};
use crate::{Cluster, Error, quiesce, resident};

/// What is of ours in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// What.
    pub object: ObjectRef,
    /// The migration that made it.
    pub migration: String,
    /// Who needs it. With the record of the migration there `finish` removes it, and lifts a fence that was kept.
    pub need: Need,
    /// What is done about it where nobody needs it.
    pub remedy: Remedy,
}

/// How a leftover ceases to be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// It is deleted.
    Deletion,
    /// It stays, without our mark: the application has it, or may have. Why that is so.
    Unmarking(String),
    /// It is a volume, and gets back the reclaim policy that it had.
    Policy(String),
}

/// Finds everything of ours in a namespace of a cluster, and of `fences` around its claims what they are made of, in the order in
/// which it may be removed.
pub async fn leftovers(cluster: &Cluster, namespace: &str, fences: &[Standing]) -> Result<Vec<Leftover>, Error> {
    let marked = bring::find_all(cluster, namespace, LABEL_ID, &[]).await?;
    let policies = cluster.list::<NetworkPolicy>(namespace, LABEL_ID).await?;
    let leases = cluster.list::<Lease>(namespace, LABEL_ID).await?;
    let claims = cluster.list::<PersistentVolumeClaim>(namespace, LABEL_ID).await?;
    let kept = match reclaim::kept(cluster, namespace).await {
        Err(error) if error.is_forbidden() => {
            tracing::warn!("{error}: whether a cutover came this far is not known, and it is taken for one that did");
            None
        }
        kept => Some(kept?),
    };
    let users = users(cluster, namespace, &claims).await?;
    // Last, since it is written first: a migration that has just been made is none that is over.
    let scene =
        Scene { living: living(cluster, namespace).await?, taken: taken(&marked, &claims, &users, kept.as_deref()) };

    // What a coordinator in the cluster has is found with the rest of it.
    let is_its_own =
        |one: &Found| one.is_of_coordinator() && matches!(one.object.kind.as_str(), "Job" | "ServiceAccount");
    let mut found: Vec<Leftover> = marked.iter().filter(|one| !is_its_own(one)).map(|one| scene.marked(one)).collect();
    found.extend(policies.iter().map(|policy| scene.helper(policy)));
    found.extend(leases.iter().map(|lease| {
        let leftover = scene.helper(lease);
        let is_fenced = fences.iter().any(|fence| label(lease, LABEL_ID) == fence.id);
        let is_kept = leftover.need == Need::Nobody && is_fenced;
        if is_kept { Leftover { need: Need::Kept, ..leftover } } else { leftover }
    }));
    found.extend(claims.iter().map(|claim| scene.claim(claim)));
    found.extend(fences.iter().flat_map(|fence| {
        let part = |object: &ObjectRef| Leftover {
            object: object.clone(),
            migration: fence.migration.clone(),
            need: fence.need,
            remedy: Remedy::Deletion,
        };
        fence.objects.iter().map(part)
    }));
    // After the claims: it is by them that the claims are known to have been in a cutover.
    found.extend(kept.into_iter().flatten().map(|kept| scene.volume(kept)));
    Ok(found)
}

/// Finds what is left of coordinators in a namespace, the one that would make another pod first.
pub async fn left_residents(cluster: &Cluster, namespace: &str) -> Result<Vec<Leftover>, Error> {
    let standing = resident::standing(cluster, namespace).await?;
    let scene = Scene { living: living(cluster, namespace).await?, taken: BTreeMap::new() };
    let leftover = |(object, [id, migration]): (ObjectRef, [String; 2])| {
        let need = scene.need(&id);
        Leftover { object, migration, need, remedy: Remedy::Deletion }
    };
    Ok(standing.into_iter().map(leftover).collect())
}

/// Removes a leftover, or does what else is to be done about it; one that somebody needs is not touched.
pub async fn remove_leftover(cluster: &Cluster, leftover: &Leftover) -> Result<(), Error> {
    if leftover.need != Need::Nobody {
        return Ok(());
    }
    let (object, namespace) = (&leftover.object, leftover.object.namespace.as_deref().unwrap_or_default());
    let (name, uid) = (&object.name, Some(object.uid.as_str()));
    match (&leftover.remedy, object.kind.as_str()) {
        (Remedy::Policy(_), _) => reclaim::let_go(cluster, object).await,
        (Remedy::Unmarking(_), "PersistentVolumeClaim") => {
            let patch = bring::unmarking(&object.uid);
            match cluster.merge::<PersistentVolumeClaim>(namespace, name, &patch).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
                _ => Ok(()),
            }
        }
        (Remedy::Unmarking(_), _) => bring::unmark(cluster, object).await,
        (Remedy::Deletion, "NetworkPolicy") => cluster.delete::<NetworkPolicy>(namespace, name, uid).await,
        (Remedy::Deletion, "Lease") => cluster.delete::<Lease>(namespace, name, uid).await,
        (Remedy::Deletion, "PersistentVolumeClaim") => {
            cluster.delete::<PersistentVolumeClaim>(namespace, name, uid).await
        }
        (Remedy::Deletion, "ValidatingAdmissionPolicyBinding" | "ValidatingAdmissionPolicy") => {
            fence::remove(cluster, object).await
        }
        (Remedy::Deletion, "Role" | "RoleBinding" | "ClusterRole" | "ClusterRoleBinding") => {
            resident::remove_part(cluster, object).await
        }
        (Remedy::Deletion, _) => bring::remove(cluster, object).await,
    }
}

/// What decides about everything that is found.
struct Scene {
    /// Migrations whose records are there.
    living: Vec<String>,
    /// Migrations whose application is there, or may be, and why.
    taken: BTreeMap<String, String>,
}

impl Scene {
    fn need(&self, id: &str) -> Need {
        if self.living.iter().any(|living| living == id) { Need::Migration } else { Need::Nobody }
    }

    /// What an application has that came with this migration.
    fn property(&self, id: &str) -> Remedy {
        self.taken.get(id).cloned().map_or(Remedy::Deletion, Remedy::Unmarking)
    }

    fn marked(&self, found: &Found) -> Leftover {
        let id = found.label(LABEL_ID);
        Leftover {
            object: found.object.clone(),
            migration: found.label(LABEL_MIGRATION).to_owned(),
            need: self.need(id),
            remedy: if found.is_brought() { self.property(id) } else { Remedy::Deletion },
        }
    }

    fn helper<K: Object>(&self, object: &K) -> Leftover {
        Leftover {
            object: reference(object),
            migration: label(object, LABEL_MIGRATION).to_owned(),
            need: self.need(label(object, LABEL_ID)),
            remedy: Remedy::Deletion,
        }
    }

    fn claim(&self, claim: &PersistentVolumeClaim) -> Leftover {
        match is_data(claim) {
            true => Leftover { remedy: self.property(label(claim, LABEL_ID)), ..self.helper(claim) },
            false => self.helper(claim),
        }
    }

    fn volume(&self, kept: Kept) -> Leftover {
        let need = self.need(&kept.id);
        Leftover { object: kept.volume, migration: kept.migration, need, remedy: Remedy::Policy(kept.before) }
    }
}

/// Migrations whose application has what they brought, or may have it. Without a record nobody can tell who is
/// authoritative, so a cutover that came this far counts, too, or that may have: what it brought may be all that there is.
/// `kept` is nothing where volumes may not be looked at.
fn taken(
    marked: &[Found],
    claims: &[PersistentVolumeClaim],
    users: &[quiesce::Holder],
    kept: Option<&[Kept]>,
) -> BTreeMap<String, String> {
    let mut taken = BTreeMap::new();
    for claim in claims.iter().filter(|claim| is_data(claim)) {
        let (id, name) = (label(claim, LABEL_ID), claim.metadata.name.as_deref().unwrap_or_default());
        if kept.is_none_or(|kept| kept.iter().any(|kept| kept.claim == name && kept.id == id)) {
            taken.insert(id.to_owned(), "a cutover came this far, and the application may be here".to_owned());
        }
    }
    for one in marked.iter().filter(|one| one.is_brought() && !one.is_at_rest()) {
        taken.insert(one.label(LABEL_ID).to_owned(), format!("{} {} runs", one.object.kind, one.object.name));
    }
    for claim in claims {
        if let Some(user) = users.iter().find(|user| claim.metadata.name.as_ref() == Some(&user.claim)) {
            taken.insert(label(claim, LABEL_ID).to_owned(), user.to_string());
        }
    }
    taken
}

/// Pods that have claims of ours, our agents apart.
async fn users(
    cluster: &Cluster,
    namespace: &str,
    claims: &[PersistentVolumeClaim],
) -> Result<Vec<quiesce::Holder>, Error> {
    let name = |pod: Pod| pod.metadata.name.unwrap_or_default();
    let agents: Vec<String> = cluster.list::<Pod>(namespace, LABEL_AGENT).await?.into_iter().map(name).collect();
    let claims: Vec<String> = claims.iter().filter_map(|claim| claim.metadata.name.clone()).collect();
    quiesce::pods(cluster, namespace, &claims, &agents).await
}

/// Whether a claim holds an application's data; else an agent remembers in it.
fn is_data(claim: &PersistentVolumeClaim) -> bool {
    !is_state_claim(label(claim, LABEL_MIGRATION), claim.metadata.name.as_deref().unwrap_or_default())
}

fn label<'a, K: Object>(object: &'a K, key: &str) -> &'a str {
    let labels = object.meta().labels.as_ref();
    labels.and_then(|labels| labels.get(key)).map(String::as_str).unwrap_or_default()
}

fn reference<K: Object>(object: &K) -> ObjectRef {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    ObjectRef {
        uid: meta.uid.clone().unwrap_or_default(),
        ..ObjectRef::named(&K::api_version(&()), &K::kind(&()), meta.namespace.as_deref(), name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tranship_api::LABEL_BROUGHT;

    use super::*;

    const SHOP: &str = "id1";

    fn labels(brought: bool) -> Value {
        let mut labels = json!({LABEL_ID: SHOP, LABEL_MIGRATION: "shop"});
        if brought {
            labels[LABEL_BROUGHT] = json!("true");
        }
        labels
    }

    fn set(replicas: u32) -> Found {
        let metadata = json!({"name": "db", "labels": labels(true)});
        Found::example("StatefulSet", json!({"metadata": metadata, "spec": {"replicas": replicas}}))
    }

    fn claim(name: &str) -> PersistentVolumeClaim {
        let metadata = json!({"name": name, "labels": labels(false)});
        serde_json::from_value(json!({"metadata": metadata})).expect("a claim")
    }

    fn kept(claim: &str, id: &str) -> Kept {
        let volume = ObjectRef::named("v1", "PersistentVolume", None, "pv-1");
        let [id, migration, before] = [id, "shop", "Delete"].map(str::to_owned);
        Kept { volume, claim: claim.to_owned(), id, migration, before }
    }

    fn user(claim: &str) -> quiesce::Holder {
        let hold = quiesce::Hold::Pod {
            name: "db-0".to_owned(),
            node: None,
            phase: "Running".to_owned(),
            terminating_since: None,
            grace_seconds: None,
        };
        quiesce::Holder { claim: claim.to_owned(), hold }
    }

    #[test]
    fn nothing_that_an_application_has_or_may_have_is_deleted_without_a_record() {
        let claims = [claim("data"), claim("tranship-shop-v0")];
        for (replicas, users, kept, is_deleted) in [
            (0, vec![], Some(vec![]), true),
            (1, vec![], Some(vec![]), false),
            (0, vec![user("data")], Some(vec![]), false),
            (0, vec![], Some(vec![kept("data", SHOP)]), false),
            (0, vec![], None, false),
            // Another migration's cutover, away from here, says nothing of this one.
            (0, vec![], Some(vec![kept("data", "id2")]), true),
            (0, vec![], Some(vec![kept("other", SHOP)]), true),
        ] {
            let marked = [set(replicas)];
            let scene = Scene { living: Vec::new(), taken: taken(&marked, &claims, &users, kept.as_deref()) };
            let found = [scene.marked(&marked[0]), scene.claim(&claims[0])];
            for leftover in &found {
                assert_eq!(leftover.need, Need::Nobody);
                assert_eq!(leftover.remedy == Remedy::Deletion, is_deleted, "{leftover:?} {users:?} {kept:?}");
            }
            // What an agent remembers is never the application's.
            assert_eq!(scene.claim(&claims[1]).remedy, Remedy::Deletion);
        }
    }

    #[test]
    fn a_helper_goes_whatever_runs_and_what_a_record_tells_of_stays() {
        let secret = Found::example("Secret", json!({"metadata": {"name": "s", "labels": labels(false)}}));
        let taken: BTreeMap<String, String> = [(SHOP.to_owned(), "it runs".to_owned())].into();
        let scene = |living: &[&str]| Scene {
            living: living.iter().map(|id| (*id).to_owned()).collect(),
            taken: taken.clone(),
        };
        assert_eq!(scene(&[]).marked(&secret).remedy, Remedy::Deletion);
        assert_eq!(scene(&["id2"]).marked(&secret).need, Need::Nobody);
        assert_eq!(scene(&[SHOP]).marked(&secret).need, Need::Migration);
        assert_eq!(scene(&[SHOP]).volume(kept("data", SHOP)).need, Need::Migration);
    }
}
