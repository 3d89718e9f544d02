//! What is in a namespace, and who of it uses claims.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodSpec, ReplicationController};
use tranship_api::{LABEL_AGENT, LABEL_COORDINATOR, ObjectRef};

use super::autoscaler::{self, Scaled};
use super::controller::{Controller, Kind, Lever, reference};
use super::owner::{Ancestry, Family};
use super::{Constraints, Survey, User, Workload, claims, manifest, obstacle};
use crate::{Cluster, Error};

/// What is in a namespace.
pub(super) struct Inventory {
    pub(super) namespace: String,
    pub(super) controllers: Vec<Controller>,
    pub(super) pods: Vec<Pod>,
    pub(super) claims: Vec<PersistentVolumeClaim>,
    pub(super) autoscalers: Vec<HorizontalPodAutoscaler>,
    pub(super) scaled: Scaled,
    /// API groups of the cluster.
    pub(super) groups: BTreeSet<String>,
}

/// A pod that may run, with who owns it.
pub(super) struct Live<'a> {
    pub(super) pod: &'a Pod,
    pub(super) object: ObjectRef,
    pub(super) claims: BTreeSet<String>,
    pub(super) ancestry: Ancestry,
}

impl Inventory {
    pub(super) async fn read(cluster: &Cluster, namespace: &str) -> Result<Self, Error> {
        let groups = cluster.call("list API groups", cluster.client.list_api_groups()).await?;
        let groups: BTreeSet<String> = groups.groups.into_iter().map(|group| group.name).collect();
        // A coordinator that lives here is no part of the application.
        let others = format!("!{LABEL_COORDINATOR}");
        // Owners before what they own: what is made in between has an owner that is in the list.
        let (cronjobs, deployments, sets, daemons, counted) = tokio::try_join!(
            cluster.list::<CronJob>(namespace, ""),
            cluster.list::<Deployment>(namespace, ""),
            cluster.list::<StatefulSet>(namespace, ""),
            cluster.list::<DaemonSet>(namespace, ""),
            cluster.list::<ReplicationController>(namespace, ""),
        )?;
        let (jobs, replica_sets, claims, autoscalers, scaled) = tokio::try_join!(
            cluster.list::<Job>(namespace, &others),
            cluster.list::<ReplicaSet>(namespace, ""),
            cluster.list::<PersistentVolumeClaim>(namespace, ""),
            cluster.list::<HorizontalPodAutoscaler>(namespace, ""),
            autoscaler::scaled(cluster, namespace, &groups),
        )?;
        let pods = cluster.list::<Pod>(namespace, &others).await?;
        let mut controllers: Vec<Controller> = cronjobs.iter().map(Controller::from).collect();
        controllers.extend(jobs.iter().map(Controller::from));
        controllers.extend(deployments.iter().map(Controller::from));
        controllers.extend(sets.iter().map(Controller::from));
        controllers.extend(replica_sets.iter().map(Controller::from));
        controllers.extend(counted.iter().map(Controller::from));
        controllers.extend(daemons.iter().map(Controller::from));
        let namespace = namespace.to_owned();
        Ok(Self { namespace, controllers, pods, claims, autoscalers, scaled, groups })
    }

    /// Who uses the claims, and what stands in the way but for what runs outside of the namespace.
    pub(super) fn survey(&self, wanted: &[String], all: bool) -> Survey {
        let family = Family::new(&self.controllers);
        let live = self.live(&family, wanted, all);
        let workloads = self.workloads(&family, &live, wanted, all);
        let scalers = autoscaler::scalers(&self.scaled, &workloads);
        let mut survey = Survey {
            namespace: self.namespace.clone(),
            claims: wanted.to_vec(),
            users: live.iter().map(|live| self.user(live)).collect(),
            constraints: self.constraints(&live, &workloads, wanted),
            obstacles: Vec::new(),
            workloads,
            scalers,
        };
        survey.obstacles = obstacle::find(self, &family, &live, &survey);
        survey
    }

    fn live<'a>(&'a self, family: &Family<'_>, wanted: &[String], all: bool) -> Vec<Live<'a>> {
        let pods = self.pods.iter().filter(|pod| may_run(pod)).map(|pod| {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let claims = pod.spec.as_ref().map(|spec| claims::of_pod(name, spec, wanted)).unwrap_or_default();
            Live { pod, object: reference(pod), claims, ancestry: family.of(&pod.metadata) }
        });
        pods.filter(|live| !live.is_agent() && (all || !live.claims.is_empty())).collect()
    }

    fn workloads(&self, family: &Family<'_>, live: &[Live<'_>], wanted: &[String], all: bool) -> Vec<Workload> {
        let mut used: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for (at, controller) in self.controllers.iter().enumerate() {
            let claims = controller.claims(wanted);
            if !controller.is_finished && self.has_lever(family, at) && (all || !claims.is_empty()) {
                used.entry(at).or_default().extend(claims);
            }
        }
        for live in live {
            for &at in &live.ancestry.known {
                if !self.controllers[at].is_finished && self.has_lever(family, at) {
                    used.entry(at).or_default().extend(live.claims.iter().cloned());
                }
            }
        }
        let mut workloads: Vec<Workload> = used
            .into_iter()
            .map(|(at, claims)| {
                let Controller { object, kind, lever, deletes_claims, .. } = &self.controllers[at];
                let (object, lever) = (object.clone(), lever.clone());
                Workload { object, kind: *kind, lever, claims: into_list(claims), deletes_claims: *deletes_claims }
            })
            .collect();
        workloads.extend(live.iter().filter(|live| live.is_bare()).map(Live::workload));
        workloads.sort_by(|one, other| (one.kind, &one.object).cmp(&(other.kind, &other.object)));
        workloads
    }

    /// Whether a controller is stopped itself: it is at the top, or a Job, which goes on when its CronJob is suspended.
    fn has_lever(&self, family: &Family<'_>, at: usize) -> bool {
        let controller = &self.controllers[at];
        controller.kind == Kind::Job || family.of(&controller.meta).known.is_empty()
    }

    fn user(&self, live: &Live<'_>) -> User {
        let top = live.ancestry.known.last().map(|&at| &self.controllers[at].object);
        let status = live.pod.status.as_ref();
        User {
            pod: live.object.clone(),
            claims: into_list(live.claims.clone()),
            node: live.pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            phase: status.and_then(|status| status.phase.clone()).unwrap_or_default(),
            is_terminating: live.pod.metadata.deletion_timestamp.is_some(),
            owner: live.ancestry.beyond.as_ref().or(top).unwrap_or(&live.object).clone(),
        }
    }

    /// Of the pod that uses a claim, preferably one that has a node and stays; else of a template.
    fn constraints(
        &self,
        live: &[Live<'_>],
        workloads: &[Workload],
        wanted: &[String],
    ) -> BTreeMap<String, Constraints> {
        let of_pod = |claim: &String| {
            let users = live.iter().filter(|live| live.claims.contains(claim));
            let best = users.max_by_key(|live| {
                let node = live.pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
                (node.is_some(), live.pod.metadata.deletion_timestamp.is_none())
            })?;
            Some(Constraints::new(&best.object.name, best.pod.spec.as_ref()?, claim))
        };
        let of_template = |claim: &String| {
            let user = workloads.iter().find(|workload| workload.claims.contains(claim))?;
            let controller = self.controllers.iter().find(|controller| controller.object == user.object)?;
            let template: &PodSpec = controller.template.as_ref()?;
            Some(Constraints::new("", template, claim))
        };
        let all =
            wanted.iter().filter_map(|claim| Some((claim.clone(), of_pod(claim).or_else(|| of_template(claim))?)));
        all.collect()
    }
}

impl Live<'_> {
    /// Whether nobody makes it again.
    pub(super) fn is_bare(&self) -> bool {
        self.ancestry == Ancestry::default() && !self.is_static()
    }

    /// Whether a node runs it from a file, so that no API can stop it.
    pub(super) fn is_static(&self) -> bool {
        let is_mirror = |key: &String| key == "kubernetes.io/config.mirror";
        let mirrors = self.pod.metadata.annotations.as_ref().is_some_and(|all| all.keys().any(is_mirror));
        mirrors || self.ancestry.beyond.as_ref().is_some_and(|owner| owner.kind == "Node")
    }

    /// Whether it says that it is an agent of ours. What it says is believed only as far as not to stop it: who holds a
    /// volume is asked again, with the exact names.
    fn is_agent(&self) -> bool {
        let owners = self.pod.metadata.owner_references.iter().flatten();
        // A record makes nothing by itself; a workload with our label on its template is none of our agents.
        let is_of_record = owners.clone().all(|owner| owner.kind == "ConfigMap" && owner.name.starts_with("tranship-"));
        is_of_record && self.pod.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(LABEL_AGENT))
    }

    fn workload(&self) -> Workload {
        Workload {
            object: self.object.clone(),
            kind: Kind::Pod,
            lever: Lever::Pod(manifest::of(self.pod)),
            claims: into_list(self.claims.clone()),
            deletes_claims: false,
        }
    }
}

/// Whether a pod has, or may still get, processes.
pub(crate) fn may_run(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

fn into_list(set: BTreeSet<String>) -> Vec<String> {
    set.into_iter().collect()
}

#[cfg(test)]
mod tests;
