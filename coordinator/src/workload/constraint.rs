//! What an application's pod asks of nodes and of the kernel: what another pod on the same volume has to share.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, Container, PodSpec, SELinuxOptions, SecurityContext, Toleration, Volume, WeightedPodAffinityTerm,
};

use super::claims;

/// Weight of a wish that was a demand.
const WEIGHT_MAX: i32 = 100;

/// Where a pod may run, and as whom it uses a volume.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Constraints {
    /// Labels that a node has to have.
    pub node_selector: BTreeMap<String, String>,
    /// Further wishes.
    pub affinity: Option<Affinity>,
    /// Taints that it tolerates.
    pub tolerations: Vec<Toleration>,
    /// SELinux label of the container that uses the volume, else of the pod.
    pub se_linux_options: Option<SELinuxOptions>,
    /// How volumes get that label.
    pub se_linux_change_policy: Option<String>,
    /// User of that container, else of the pod; nothing for the image's.
    pub run_as_user: Option<i64>,
    /// Its group.
    pub run_as_group: Option<i64>,
    /// Group that volumes are given.
    pub fs_group: Option<i64>,
    /// Further groups.
    pub supplemental_groups: Vec<i64>,
}

impl Constraints {
    /// Those of a pod on one of its claims. With several containers on it, the first that may write counts.
    pub(super) fn new(pod: &str, spec: &PodSpec, claim: &str) -> Self {
        let wanted = [claim.to_owned()];
        let is_it = |volume: &Volume| {
            let alone = PodSpec { volumes: Some(vec![volume.clone()]), ..PodSpec::default() };
            !claims::of_pod(pod, &alone, &wanted).is_empty()
        };
        let volume = spec.volumes.iter().flatten().find(|volume| is_it(volume)).map(|volume| volume.name.as_str());
        let container = user_of(spec, volume).and_then(|container| container.security_context.clone());
        let SecurityContext { run_as_user, run_as_group, se_linux_options, .. } = container.unwrap_or_default();
        let pod = spec.security_context.clone().unwrap_or_default();
        Self {
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            affinity: spec.affinity.clone(),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            se_linux_options: se_linux_options.or(pod.se_linux_options),
            se_linux_change_policy: pod.se_linux_change_policy,
            run_as_user: run_as_user.or(pod.run_as_user),
            run_as_group: run_as_group.or(pod.run_as_group),
            fs_group: pod.fs_group,
            supplemental_groups: pod.supplemental_groups.unwrap_or_default(),
        }
    }

    /// The affinity of a pod that comes before the application. Which pods the application demands beside it is a wish then:
    /// they may be its own, or come with it.
    pub fn affinity_before(&self) -> Option<Affinity> {
        let mut affinity = self.affinity.clone()?;
        if let Some(beside) = &mut affinity.pod_affinity {
            let demands = beside.required_during_scheduling_ignored_during_execution.take().unwrap_or_default();
            let wish = |pod_affinity_term| WeightedPodAffinityTerm { pod_affinity_term, weight: WEIGHT_MAX };
            let wishes = beside.preferred_during_scheduling_ignored_during_execution.get_or_insert_default();
            wishes.extend(demands.into_iter().map(wish));
        }
        Some(affinity)
    }
}

/// The container that uses the volume; where that cannot be told, as with claims of a StatefulSet's templates, the first
/// with any volume.
fn user_of<'a>(spec: &'a PodSpec, volume: Option<&str>) -> Option<&'a Container> {
    let is_it = |name: &str| volume.is_none_or(|volume| volume == name);
    let writes = |container: &&Container| {
        let mounts = container.volume_mounts.iter().flatten();
        let mut mounts = mounts.filter(|mount| is_it(&mount.name) && mount.read_only != Some(true));
        mounts.next().is_some() || container.volume_devices.iter().flatten().any(|device| is_it(&device.name))
    };
    let reads = |container: &&Container| container.volume_mounts.iter().flatten().any(|mount| is_it(&mount.name));
    spec.containers.iter().find(writes).or_else(|| spec.containers.iter().find(reads))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_comes_before_the_application_waits_for_no_pod_that_comes_with_it() {
        let term = json!({ "topologyKey": "host", "labelSelector": { "matchLabels": { "app": "shop" } } });
        let zone = json!({ "preferredDuringSchedulingIgnoredDuringExecution": [
            { "weight": 1, "preference": { "matchFields": [] } }] });
        let spread = json!({ "requiredDuringSchedulingIgnoredDuringExecution": [term] });
        let affinity = json!({ "podAffinity": spread, "podAntiAffinity": spread, "nodeAffinity": zone });
        let affinity: Affinity = serde_json::from_value(affinity).unwrap();
        let before =
            Constraints { affinity: Some(affinity.clone()), ..Constraints::default() }.affinity_before().unwrap();
        let wish = json!({ "preferredDuringSchedulingIgnoredDuringExecution": [
            { "weight": 100, "podAffinityTerm": term }] });
        assert_eq!(serde_json::to_value(&before.pod_affinity).unwrap(), wish);
        assert_eq!(before.pod_anti_affinity, affinity.pod_anti_affinity);
        assert_eq!(before.node_affinity, affinity.node_affinity);
    }

    #[test]
    fn the_container_on_the_claim_decides_before_the_pod() {
        let spec: PodSpec = serde_json::from_value(json!({
            "securityContext": { "runAsUser": 1, "fsGroup": 7, "seLinuxOptions": { "level": "s0:c1,c2" } },
            "nodeSelector": { "disk": "fast" },
            "volumes": [
                { "name": "a", "persistentVolumeClaim": { "claimName": "data" } },
                { "name": "b", "persistentVolumeClaim": { "claimName": "other" } },
            ],
            "containers": [
                { "name": "reader", "volumeMounts": [{ "name": "a", "mountPath": "/a", "readOnly": true }],
                  "securityContext": { "runAsUser": 2 } },
                { "name": "writer", "volumeMounts": [{ "name": "a", "mountPath": "/a" }],
                  "securityContext": { "runAsUser": 3 } },
                { "name": "aside", "volumeMounts": [{ "name": "b", "mountPath": "/b" }] },
            ],
        }))
        .unwrap();
        let data = Constraints::new("pod", &spec, "data");
        assert_eq!((data.run_as_user, data.fs_group), (Some(3), Some(7)));
        assert_eq!(data.se_linux_options.and_then(|options| options.level).as_deref(), Some("s0:c1,c2"));
        assert_eq!(data.node_selector.get("disk").map(String::as_str), Some("fast"));
        assert_eq!(Constraints::new("pod", &spec, "other").run_as_user, Some(1));
    }
}
