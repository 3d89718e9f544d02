//! Fences that stand around claims of a namespace, whoever raised them: found by their labels, also where whoever raised
//! them is long gone.

use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::ListParams;
use tranship_api::{LABEL_ID, LABEL_MIGRATION, ObjectRef};

use super::{Global, cel, policy, remove};
use crate::cluster::Object;
use crate::ledger::living;
use crate::{Cluster, Error};

/// Who needs a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The migration, whose record is in the namespace.
    Migration,
    /// Whoever finished the migration and did not lift it: its Leases are there.
    Kept,
    /// Nobody: neither record nor Lease is there, as after the namespace was deleted.
    Nobody,
}

/// A fence that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Name of the migration that raised it.
    pub migration: String,
    /// Identity of that migration.
    pub id: String,
    /// Its binding and its policy, in the order in which they are taken away.
    pub objects: Vec<ObjectRef>,
    /// Who needs it.
    pub need: Need,
    /// The claims, as the policy lists them.
    claims: String,
}

impl Standing {
    /// Whether it refuses pods that name this claim.
    pub fn holds(&self, claim: &str) -> bool {
        self.claims.contains(&cel::literal(claim))
    }
}

#[cfg(test)]
impl Standing {
    pub(crate) fn example(migration: &str, id: &str, claim: &str, need: Need) -> Self {
        let (migration, id) = (migration.to_owned(), id.to_owned());
        Self { migration, id, objects: Vec::new(), need, claims: cel::list(&[claim.to_owned()]) }
    }
}

/// The fences around claims of a namespace.
pub async fn standing(cluster: &Cluster, namespace: &str) -> Result<Vec<Standing>, Error> {
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(cluster.client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(cluster.client.clone());
    let params = ListParams::default().labels(LABEL_ID);
    let policies = cluster.call("list ValidatingAdmissionPolicies", policies.list(&params)).await?.items;
    let policies: Vec<_> = policies.into_iter().filter(|one| policy::namespace(one) == Some(namespace)).collect();
    if policies.is_empty() {
        return Ok(Vec::new());
    }
    let bindings = cluster.call("list ValidatingAdmissionPolicyBindings", bindings.list(&params)).await?.items;
    let records = living(cluster, namespace).await?;
    let leases = ids(&cluster.list::<Lease>(namespace, LABEL_ID).await?);
    Ok(policies.iter().map(|policy| judge(policy, &bindings, &records, &leases)).collect())
}

/// Lifts the fence of a migration whose record is not in this cluster any more, and lets go of its claims. Returns what was
/// taken away.
pub async fn lift_kept(cluster: &Cluster, namespace: &str, migration: &str) -> Result<Vec<ObjectRef>, Error> {
    let records = living(cluster, namespace).await?;
    let mut gone = Vec::new();
    for fence in standing(cluster, namespace).await? {
        if fence.migration == migration && fence.need != Need::Migration {
            for object in fence.objects {
                remove(cluster, &object).await?;
                gone.push(object);
            }
        }
    }
    for lease in cluster.list::<Lease>(namespace, &format!("{LABEL_MIGRATION}={migration}")).await? {
        if !records.contains(&label(&lease, LABEL_ID)) {
            let (name, uid) = (lease.metadata.name.unwrap_or_default(), lease.metadata.uid);
            cluster.delete::<Lease>(namespace, &name, uid.as_deref()).await?;
            gone.push(ObjectRef::named("coordination.k8s.io/v1", "Lease", Some(namespace), &name));
        }
    }
    Ok(gone)
}

fn judge(
    policy: &ValidatingAdmissionPolicy,
    bindings: &[ValidatingAdmissionPolicyBinding],
    records: &[String],
    leases: &[String],
) -> Standing {
    let id = label(policy, LABEL_ID);
    let binding = bindings.iter().find(|binding| binding.metadata.name == policy.metadata.name);
    let need = match (records.contains(&id), leases.contains(&id)) {
        (true, _) => Need::Migration,
        (false, true) => Need::Kept,
        (false, false) => Need::Nobody,
    };
    Standing {
        migration: label(policy, LABEL_MIGRATION),
        id,
        objects: binding.map(reference).into_iter().chain([reference(policy)]).collect(),
        need,
        claims: policy::claims(policy).unwrap_or_default().to_owned(),
    }
}

fn ids<K: Object>(objects: &[K]) -> Vec<String> {
    objects.iter().map(|object| label(object, LABEL_ID)).collect()
}

fn label<K: kube::Resource>(object: &K, key: &str) -> String {
    object.meta().labels.as_ref().and_then(|labels| labels.get(key)).cloned().unwrap_or_default()
}

fn reference<K: Global>(object: &K) -> ObjectRef {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    let named = ObjectRef::named(&K::api_version(&()), &K::kind(&()), None, name);
    ObjectRef { uid: meta.uid.clone().unwrap_or_default(), ..named }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fence::tests::fence;

    #[test]
    fn a_fence_is_needed_by_its_record_or_else_by_its_lease_or_else_by_nobody() {
        let fence = fence(3);
        let (policy, binding) = (policy::policy(&fence), policy::binding(&fence));
        let (ours, other) = (vec![fence.id.clone()], vec!["another".to_owned()]);
        for (records, leases, need) in [
            (&ours, &ours, Need::Migration),
            (&ours, &other, Need::Migration),
            (&other, &ours, Need::Kept),
            (&other, &other, Need::Nobody),
        ] {
            let standing = judge(&policy, std::slice::from_ref(&binding), records, leases);
            assert_eq!((standing.need, standing.migration.as_str()), (need, "shop"));
            let kinds: Vec<&str> = standing.objects.iter().map(|object| object.kind.as_str()).collect();
            // Without its binding a policy refuses nobody: it goes first.
            assert_eq!(kinds, ["ValidatingAdmissionPolicyBinding", "ValidatingAdmissionPolicy"]);
        }
    }

    #[test]
    fn a_fence_that_stands_tells_its_namespace_and_its_claims() {
        let policy = policy::policy(&fence(3));
        assert_eq!(policy::namespace(&policy), Some("shop"));
        let standing = judge(&policy, &[], &[], &[]);
        assert!(standing.holds("data") && !standing.holds("dat") && !standing.holds("data-2"));
    }
}
