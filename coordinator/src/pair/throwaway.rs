//! Two agents that mount no claim of the application, remember nothing, and go again: what they need in a cluster.
//!
//! They are what agents of a pass are, at the same places, so that they meet what those would meet: the same image, the same
//! policies, the same kind of service.

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use tranship_api::migration::Mode;
use tranship_api::{LABEL_AGENT, Record};

use super::made::apply;
use super::meeting::service_kind;
use crate::agents::{AgentPlan, secret_hash};
use crate::control::PodRef;
use crate::workload::Constraints;
use crate::{Cluster, Error, pod};

/// Seconds after which the kubelet ends a pod that nobody has taken away.
const LIFE_SECONDS_MAX: i64 = 180;

/// Bytes of the folder that such a pod has in place of each volume, as Kubernetes writes them.
const FOLDER: &str = "16Mi";

/// What is made of one agent.
#[derive(Debug, Clone)]
pub(super) struct Throwaway {
    pod: Pod,
    secret: Secret,
    policy: NetworkPolicy,
    service: Option<Service>,
}

impl Throwaway {
    /// An agent at the place of `plan`; `mark` tells it from all others that there were, `secret` is its control secret.
    pub(super) fn new(record: &Record, plan: &AgentPlan, mark: &str, secret: &str) -> Self {
        let mut record = record.clone();
        // As few privileges as there are: it opens no volume.
        record.mode = Mode::Plain;
        record.volumes.truncate(1);
        record.volumes.iter_mut().for_each(|volume| volume.is_block = false);
        let traits = Constraints {
            run_as_user: None,
            run_as_group: None,
            fs_group: None,
            supplemental_groups: Vec::new(),
            ..plan.traits.clone()
        };
        let plan = AgentPlan { volumes: vec![0], traits, ..plan.clone() };
        // Without the migration's: with it there would be no room for the mark in the name of a service.
        let name = format!("tranship-probe-{}-{mark}", plan.side);
        let label = format!("{}-probe-{mark}", plan.side);
        let rename = |meta: &mut ObjectMeta| {
            meta.name = Some(name.clone());
            meta.labels.get_or_insert_default().insert(LABEL_AGENT.to_owned(), label.clone());
            // There may be no record yet.
            meta.owner_references = None;
        };
        let owner = OwnerReference::default();
        let mut made = Self {
            pod: plan.pod(&record, &owner, &secret_hash(secret)),
            secret: plan.secret(&record, &owner, secret),
            policy: plan.network_policy(&record, &owner),
            service: service_kind(&record).map(|kind| plan.service(&record, &owner, kind)),
        };
        rename(&mut made.pod.metadata);
        rename(&mut made.secret.metadata);
        rename(&mut made.policy.metadata);
        if let Some(selector) = made.policy.spec.as_mut().and_then(|spec| spec.pod_selector.as_mut()) {
            selector.match_labels.get_or_insert_default().insert(LABEL_AGENT.to_owned(), label.clone());
        }
        if let Some(service) = &mut made.service {
            rename(&mut service.metadata);
            let spec = service.spec.get_or_insert_default();
            spec.selector.get_or_insert_default().insert(LABEL_AGENT.to_owned(), label.clone());
        }
        let spec = made.pod.spec.get_or_insert_default();
        spec.active_deadline_seconds = Some(LIFE_SECONDS_MAX);
        for volume in spec.volumes.iter_mut().flatten() {
            if let Some(secret) = &mut volume.secret {
                secret.secret_name = Some(name.clone());
            } else {
                volume.persistent_volume_claim = None;
                let size_limit = Some(Quantity(FOLDER.to_owned()));
                volume.empty_dir = Some(EmptyDirVolumeSource { size_limit, ..EmptyDirVolumeSource::default() });
            }
        }
        made
    }

    /// Where its pod is.
    pub(super) fn pod(&self) -> PodRef {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        PodRef { namespace: text(&self.pod.metadata.namespace), name: text(&self.pod.metadata.name) }
    }

    /// Makes all of it.
    pub(super) async fn make(&self, cluster: &Cluster) -> Result<(), Error> {
        let namespace = &self.pod().namespace;
        apply(cluster, namespace, &self.policy).await?;
        if let Some(service) = &self.service {
            apply(cluster, namespace, service).await?;
        }
        cluster.create(namespace, &self.secret).await?;
        cluster.create(namespace, &self.pod).await?;
        Ok(())
    }

    /// Takes away whatever there is of it. What cannot be is named by the first error; all is tried.
    pub(super) async fn remove(&self, cluster: &Cluster) -> Result<(), Error> {
        let pod = self.pod();
        let PodRef { namespace, name } = &pod;
        let (pod, secret, policy, service) = tokio::join!(
            pod::remove(cluster, &pod),
            cluster.delete::<Secret>(namespace, name, None),
            cluster.delete::<NetworkPolicy>(namespace, name, None),
            cluster.delete::<Service>(namespace, name, None),
        );
        pod.and(secret).and(policy).and(service)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tranship_api::migration::Endpoint;
    use tranship_api::{LABEL_ID, Migration, Side};
    use tranship_proto::control::Role;

    use super::*;

    fn throwaway(side: Side, endpoint: Endpoint) -> Throwaway {
        let claim = json!({ "name": "data" });
        let mut migration = Migration::new("shop", "shop");
        migration.spec.link.endpoint = endpoint;
        let record: Record = serde_json::from_value(json!({
            "version": 1, "id": "00", "revision": 1, "epoch": 1, "coordinator": "test", "migration": migration,
            "clusters": ["a", "b"], "mode": "owner", "volumes": [{ "claims": [claim, claim], "isBlock": true }],
            "owner": "source", "step": "staging",
        }))
        .expect("it is whole");
        let role = if side == Side::Source { Role::Source } else { Role::Destination };
        let traits = Constraints { run_as_user: Some(0), fs_group: Some(7), ..Constraints::default() };
        let plan = AgentPlan { side, role, group: 0, volumes: vec![0], node: Some("n1".to_owned()), traits };
        Throwaway::new(&record, &plan, "1a2b", &"ab".repeat(32))
    }

    #[test]
    fn it_mounts_no_claim_and_asks_for_no_privilege() {
        for side in Side::ALL {
            let spec = throwaway(side, Endpoint::Auto).pod.spec.expect("a spec");
            let volumes = spec.volumes.as_deref().unwrap_or_default();
            assert!(volumes.iter().all(|volume| volume.persistent_volume_claim.is_none()), "{volumes:?}");
            let container = &spec.containers[0];
            assert_eq!(container.volume_devices.as_ref().map_or(0, Vec::len), 0);
            let named: Vec<&str> = volumes.iter().map(|volume| volume.name.as_str()).collect();
            assert!(container.volume_mounts.iter().flatten().all(|mount| named.contains(&mount.name.as_str())));
            let security = spec.security_context.expect("one");
            assert_eq!((security.run_as_non_root, security.run_as_user), (Some(true), Some(65_532)));
            let capabilities = container.security_context.as_ref().and_then(|context| context.capabilities.clone());
            assert_eq!(capabilities.and_then(|capabilities| capabilities.add), None);
            assert!(spec.affinity.is_some() && spec.active_deadline_seconds.is_some());
        }
    }

    #[test]
    fn all_of_it_has_one_name_of_its_own_and_is_found_by_cleanup() {
        let made = throwaway(Side::Destination, Endpoint::Auto);
        let service = made.service.expect("a port of the nodes");
        let all = [&made.pod.metadata, &made.secret.metadata, &made.policy.metadata, &service.metadata];
        for meta in all {
            assert_eq!(meta.name.as_deref(), Some("tranship-probe-destination-1a2b"));
            assert!(meta.labels.as_ref().is_some_and(|labels| labels.contains_key(LABEL_ID)));
            assert!(meta.owner_references.is_none());
        }
        let wanted = made.pod.metadata.labels.expect("labels");
        let selected = [
            service.spec.and_then(|spec| spec.selector),
            made.policy.spec.and_then(|spec| spec.pod_selector).and_then(|selector| selector.match_labels),
        ];
        assert!(selected.iter().flatten().all(|labels| *labels == wanted), "{selected:?}");
        let volumes = made.pod.spec.and_then(|spec| spec.volumes).unwrap_or_default();
        let secrets: Vec<_> = volumes.iter().filter_map(|volume| volume.secret.as_ref()?.secret_name.clone()).collect();
        assert_eq!(secrets, ["tranship-probe-destination-1a2b"]);
        assert!(throwaway(Side::Source, Endpoint::Pod).service.is_none());
    }
}
