//! Keeping new users from the claims: an admission policy of the cluster that refuses every pod that names one, but our
//! agents.
//!
//! It stops new pods only. Those that are there are for [`crate::quiesce`].

mod cel;
mod lease;
mod policy;
mod probe;
mod standing;

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource};
use tranship_api::{LABEL_ID, ObjectRef, Side};

pub use lease::{hold, release};
pub use standing::{Need, Standing, lift_kept, standing};

use crate::cluster::FIELD_MANAGER;
use crate::{Cluster, Error};

/// Annotation with the epoch of a fence.
const EPOCH: &str = "tranship.io/epoch";

/// How long a fence has to refuse without exception before it counts as live: API servers learn of it one by one.
pub const LIVE: Duration = Duration::from_secs(5);

/// How often a write is tried again when somebody else was faster.
const ATTEMPTS_MAX: u32 = 10;

/// A fence around claims of one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// Name of the migration, for people.
    pub migration: String,
    /// Identity of the migration: 32 hexadecimal digits.
    pub id: String,
    /// In which cluster.
    pub side: Side,
    /// The namespace.
    pub namespace: String,
    /// The claims.
    pub claims: Vec<String>,
    /// Exact names of our agents' pods.
    pub agents: Vec<String>,
    /// Who makes these pods, as the API server names them; see [`user`].
    pub user: String,
    /// The epoch that raises it.
    pub epoch: u64,
    /// The command that lifts it, for whoever is refused.
    pub lifted_by: String,
}

/// As whom the API server knows us.
pub async fn user(cluster: &Cluster) -> Result<String, Error> {
    let api: Api<SelfSubjectReview> = Api::all(cluster.client.clone());
    let (params, question) = (PostParams::default(), SelfSubjectReview::default());
    let review = cluster.call("create SelfSubjectReview", api.create(&params, &question)).await?;
    let name = review.status.and_then(|status| status.user_info?.username).filter(|name| !name.is_empty());
    name.ok_or_else(|| {
        let what = format!("the {} cluster does not tell as whom it knows us", cluster.side);
        Error::refused("TS-K334", what, "use credentials with a user name: the fence lets only that user's agents in")
    })
}

/// Takes away a policy or a binding that was found; nothing happens if it is not there, or another one of its name.
pub(crate) async fn remove(cluster: &Cluster, object: &ObjectRef) -> Result<(), Error> {
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(object.uid.clone()), resource_version: None }),
        ..DeleteParams::default()
    };
    let (what, name) = (format!("delete {object}"), &object.name);
    let answer = if object.kind == ValidatingAdmissionPolicyBinding::kind(&()) {
        let api: Api<ValidatingAdmissionPolicyBinding> = Api::all(cluster.client.clone());
        cluster.call(what, api.delete(name, &params)).await.map(drop)
    } else {
        let api: Api<ValidatingAdmissionPolicy> = Api::all(cluster.client.clone());
        cluster.call(what, api.delete(name, &params)).await.map(drop)
    };
    match answer {
        Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
        _ => Ok(()),
    }
}

impl Fence {
    /// Name of the policy and of its binding.
    pub fn name(&self) -> String {
        format!("tranship-{}-{}", self.id.get(..8).unwrap_or(&self.id), self.side)
    }

    /// Raises the fence, or replaces the one of an earlier epoch; nothing happens if it stands already. It takes effect a
    /// little later: see [`Fence::await_live`].
    ///
    /// A user without the rights for it gets TS-K330. Then nothing keeps new pods out, and only watching
    /// [`crate::quiesce::holders`] until the end of the final pass would notice them.
    pub async fn raise(&self, cluster: &Cluster) -> Result<(), Error> {
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(cluster.client.clone());
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(cluster.client.clone());
        for _ in 0..ATTEMPTS_MAX {
            match self.apply(cluster, &policies, policy::policy(self)).await {
                Err(error) if error.is_conflict() => continue,
                other => other?,
            }
            match self.apply(cluster, &bindings, policy::binding(self)).await {
                Err(error) if error.is_conflict() => {}
                other => return other,
            }
        }
        let what = format!("{} is changed by others without a pause", self.name());
        Err(Error::refused("TS-K324", what, "see that no second tranship works on this migration"))
    }

    /// Whether a pod that names the claim is refused by this fence, and by it in this epoch: tried without making one.
    pub async fn is_live(&self, cluster: &Cluster, claim: &str) -> Result<bool, Error> {
        Ok(probe::probe(cluster, self, claim).await? == probe::Answer::Refused)
    }

    /// Whether it is this fence that refuses such a pod, in whatever epoch.
    pub async fn refuses(&self, cluster: &Cluster, claim: &str) -> Result<bool, Error> {
        let answer = probe::probe(cluster, self, claim).await?;
        Ok(match answer {
            probe::Answer::Refused => true,
            probe::Answer::Admitted => false,
            probe::Answer::Otherwise(said) => probe::is_by(self, &said),
        })
    }

    /// Waits until the fence has refused for [`LIVE`] without exception; an error (TS-K332) tells what was admitted, or
    /// who else refused.
    pub async fn await_live(&self, cluster: &Cluster, patience: Duration) -> Result<(), Error> {
        probe::await_live(cluster, self, patience).await
    }

    /// Lifts the fence; nothing happens if it is not there. One of a later epoch stays, and is an error.
    pub async fn lift(&self, cluster: &Cluster) -> Result<(), Error> {
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(cluster.client.clone());
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(cluster.client.clone());
        self.delete(cluster, &bindings).await?;
        self.delete(cluster, &policies).await
    }

    async fn apply<K: Global>(&self, cluster: &Cluster, api: &Api<K>, mut object: K) -> Result<(), Error> {
        let name = self.name();
        let what = format!("{} {name}", K::kind(&()));
        let live = cluster.call(format!("get {what}"), api.get_opt(&name)).await.map_err(|error| self.weaker(error))?;
        if let Some(live) = &live {
            self.check_ours(live.meta())?;
            // Whoever was faster is looked at again.
            object.meta_mut().resource_version = live.meta().resource_version.clone();
        }
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let answer = cluster.call(format!("apply {what}"), api.patch(&name, &params, &Patch::Apply(&object))).await;
        answer.map(drop).map_err(|error| self.weaker(error))
    }

    async fn delete<K: Global>(&self, cluster: &Cluster, api: &Api<K>) -> Result<(), Error> {
        let name = self.name();
        let what = format!("{} {name}", K::kind(&()));
        let Some(live) = cluster.call(format!("get {what}"), api.get_opt(&name)).await? else { return Ok(()) };
        self.check_ours(live.meta())?;
        let meta = live.meta();
        let preconditions = Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match cluster.call(format!("delete {what}"), api.delete(&name, &params)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Refuses what belongs to another migration, or to a later epoch of this one.
    fn check_ours(&self, meta: &ObjectMeta) -> Result<(), Error> {
        let id = meta.labels.as_ref().and_then(|labels| labels.get(LABEL_ID));
        if id != Some(&self.id) {
            let what = format!("the fence {} exists and is not of migration {}", self.name(), self.migration);
            return Err(Error::refused("TS-K331", what, "see whose it is; delete it if it is left over"));
        }
        let epoch = meta.annotations.as_ref().and_then(|all| all.get(EPOCH)?.parse().ok()).unwrap_or(0);
        if epoch > self.epoch {
            return Err(Error::Superseded { coordinator: "another tranship".to_owned(), epoch });
        }
        Ok(())
    }

    /// Says what a missing right means.
    fn weaker(&self, error: Error) -> Error {
        if !error.is_forbidden() && !error.is_not_found() {
            return error;
        }
        let what = format!(
            "no fence can be raised in the {} cluster: {}",
            self.side,
            std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default()
        );
        let todo = "grant get, create, patch and delete on validatingadmissionpolicies and their bindings; or accept that \
                    new pods are only watched for, and that one of them ends the cutover";
        Error::refused("TS-K330", what, todo)
    }
}

/// Objects of the cluster as a whole.
trait Global:
    kube::Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
    + Clone
    + std::fmt::Debug
    + serde::Serialize
    + serde::de::DeserializeOwned
{
}

impl Global for ValidatingAdmissionPolicy {}
impl Global for ValidatingAdmissionPolicyBinding {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub(super) fn fence(epoch: u64) -> Fence {
        Fence {
            migration: "shop".to_owned(),
            id: "0123456789abcdef0123456789abcdef".to_owned(),
            side: Side::Source,
            namespace: "shop".to_owned(),
            claims: vec!["data".to_owned()],
            agents: vec!["agent".to_owned()],
            user: "me".to_owned(),
            epoch,
            lifted_by: "tranship finish shop --lift-fence".to_owned(),
        }
    }

    #[test]
    fn what_belongs_to_others_or_to_a_later_epoch_stays_as_it_is() {
        let meta = |id: &str, epoch: &str| -> ObjectMeta {
            serde_json::from_value(json!({ "labels": { LABEL_ID: id }, "annotations": { EPOCH: epoch } })).unwrap()
        };
        let fence = fence(5);
        assert!(fence.check_ours(&meta(&fence.id, "5")).is_ok());
        assert!(fence.check_ours(&meta(&fence.id, "4")).is_ok());
        assert_eq!(fence.check_ours(&meta(&fence.id, "6")).unwrap_err().code(), "TS-P107");
        assert_eq!(fence.check_ours(&meta("another", "1")).unwrap_err().code(), "TS-K331");
        assert_eq!(fence.check_ours(&ObjectMeta::default()).unwrap_err().code(), "TS-K331");
    }

    #[test]
    fn the_name_tells_migration_and_side() {
        assert_eq!(fence(1).name(), "tranship-01234567-source");
    }
}
