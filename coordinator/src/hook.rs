//! Programs of the user at named points of a cutover, each in a pod of its own.
//!
//! Such a pod runs in the application's namespace, in the form that the strictest level of Pod Security admits, and has no
//! volume of the application and no token but one that was asked for. Its name is that of its place in the migration, so
//! that whoever goes on with a cutover finds what has run already.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, EnvVar, Pod, PodSecurityContext, PodSpec, ResourceRequirements, SeccompProfile,
    SecurityContext,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use tranship_api::hook::{Hook, Point, TIMEOUT_SECONDS};
use tranship_api::{Record, Side};

use crate::agents::{NOBODY, labels};
use crate::control::PodRef;
use crate::ledger::Ledger;
use crate::watch::Watch;
use crate::{Error, pod};

/// How long a pod may take beside its program: images are pulled meanwhile.
const BESIDE: Duration = Duration::from_secs(120);

/// Runs all hooks of a point, one after the other, but those that have succeeded in this cutover already.
pub(crate) async fn run(ledger: &Ledger, point: Point, watch: &Watch) -> Result<(), Error> {
    let record = &ledger.record;
    let side = point.side(record.owner);
    let cluster = ledger.cluster(side);
    for (place, hook) in hooks(record, point) {
        watch.step(format!("hook {}: {}", point.word(), hook.image));
        let at = PodRef { namespace: record.namespace(side).to_owned(), name: name(record, place) };
        let found = cluster.find::<Pod>(&at.namespace, &at.name).await?;
        let phase = found.as_ref().and_then(|pod| pod.status.as_ref()?.phase.as_deref());
        if phase == Some("Failed") {
            pod::remove(cluster, &at).await?;
        }
        if matches!(phase, None | Some("Failed")) {
            let owner = ledger.owner_reference(side)?;
            cluster.create(&at.namespace, &pod_of(record, place, hook, &owner)).await?;
        }
        let timeout = Duration::from_secs(hook.timeout_seconds.unwrap_or(TIMEOUT_SECONDS).into());
        pod::until_phase(cluster, &at, "Succeeded", timeout + BESIDE, watch)
            .await
            .map_err(|error| failed(&at, error))?;
    }
    Ok(())
}

/// Forgets what has run, since another cutover begins.
pub(crate) async fn forget(ledger: &Ledger) -> Result<(), Error> {
    let record = &ledger.record;
    for point in Point::ALL {
        let side = point.side(record.owner);
        for (place, _) in hooks(record, point) {
            // A hook that ran on the way back has run on the other side.
            for side in [side, side.other()] {
                let at = PodRef { namespace: record.namespace(side).to_owned(), name: name(record, place) };
                pod::remove(ledger.cluster(side), &at).await?;
            }
        }
    }
    Ok(())
}

fn hooks(record: &Record, point: Point) -> impl Iterator<Item = (usize, &Hook)> {
    record.migration.spec.cutover.hooks.iter().enumerate().filter(move |(_, hook)| hook.at == point)
}

fn name(record: &Record, place: usize) -> String {
    format!("tranship-{}-hook-{place}", record.migration.metadata.name)
}

fn failed(at: &PodRef, error: Error) -> Error {
    match error {
        Error::Agent { what, .. } => Error::refused(
            "TS-K960",
            format!("a hook failed: {what}"),
            format!("see `kubectl -n {} logs {}`, and run the same command again", at.namespace, at.name),
        ),
        other => other,
    }
}

fn pod_of(record: &Record, place: usize, hook: &Hook, owner: &OwnerReference) -> Pod {
    let (from, to) = (record.owner, record.owner.other());
    let variable =
        |name: &str, value: &str| EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() };
    let word = |side: Side| side.to_string();
    let amounts = [("cpu", "50m"), ("memory", "64Mi")].map(|(name, amount)| (name.to_owned(), Quantity(amount.into())));
    let container = Container {
        name: "hook".to_owned(),
        image: Some(hook.image.clone()),
        command: (!hook.command.is_empty()).then(|| hook.command.clone()),
        env: Some(vec![
            variable("TRANSHIP_MIGRATION", &record.migration.metadata.name),
            variable("TRANSHIP_POINT", hook.at.word()),
            variable("TRANSHIP_FROM", &word(from)),
            variable("TRANSHIP_TO", &word(to)),
        ]),
        resources: Some(ResourceRequirements { requests: Some(amounts.into()), ..ResourceRequirements::default() }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
            ..SecurityContext::default()
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    };
    let annotations = [("sidecar.istio.io/inject", "false"), ("linkerd.io/inject", "disabled")];
    Pod {
        metadata: ObjectMeta {
            name: Some(name(record, place)),
            namespace: Some(record.namespace(hook.at.side(record.owner)).to_owned()),
            labels: Some(labels(record)),
            // A proxy beside it would never end.
            annotations: Some(BTreeMap::from(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())))),
            owner_references: Some(vec![owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            restart_policy: Some("Never".to_owned()),
            active_deadline_seconds: Some(hook.timeout_seconds.unwrap_or(TIMEOUT_SECONDS).into()),
            service_account_name: hook.service_account.clone(),
            automount_service_account_token: Some(hook.service_account.is_some()),
            enable_service_links: Some(false),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(hook.run_as_user.unwrap_or(NOBODY)),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
                ..PodSecurityContext::default()
            }),
            containers: vec![container],
            ..PodSpec::default()
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use tranship_api::Migration;
    use tranship_api::migration::Mode;

    use super::*;

    #[test]
    fn a_hook_runs_on_the_side_of_its_point_and_is_told_which_way_it_goes() {
        let mut migration = Migration::new("move", "shop");
        migration.spec.destination.namespace = Some("shop-new".to_owned());
        let hook = |at| Hook {
            at,
            image: "image".to_owned(),
            command: vec!["program".to_owned()],
            service_account: None,
            run_as_user: None,
            timeout_seconds: None,
        };
        migration.spec.cutover.hooks = Point::ALL.map(hook).into();
        let clusters = ["a", "b"].map(str::to_owned);
        let mut record = Record::new("id".to_owned(), "me".to_owned(), migration, clusters, Mode::Plain, Vec::new());
        let seen = |record: &Record, place: usize| {
            let hook = &record.migration.spec.cutover.hooks[place];
            let pod = pod_of(record, place, hook, &OwnerReference::default());
            let env = pod.spec.expect("a spec").containers.remove(0).env.expect("an environment");
            let to =
                env.into_iter().find(|variable| variable.name == "TRANSHIP_TO").and_then(|variable| variable.value);
            (pod.metadata.namespace.expect("a namespace"), to.expect("a side"))
        };
        let there = ["shop", "shop", "shop-new", "shop-new"];
        for (place, namespace) in there.into_iter().enumerate() {
            assert_eq!(seen(&record, place), (namespace.to_owned(), "destination".to_owned()));
        }
        record.owner = Side::Destination;
        for (place, namespace) in there.into_iter().rev().enumerate() {
            assert_eq!(seen(&record, place), (namespace.to_owned(), "source".to_owned()));
        }
    }
}
