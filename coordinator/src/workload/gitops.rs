//! What brings objects back to what a repository says: while it does, nothing that we stop stays stopped.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use serde_json::Value;
use tranship_api::{Finding, Severity};

use super::inventory::Inventory;
use super::{Survey, Workload};
use crate::{Cluster, Error};

/// Annotation by which a user says that nothing reconciles the workload for now, where we cannot see it.
const STATEMENT: &str = "tranship.io/reconciling";

/// What the annotation has to say.
const STATEMENT_PAUSED: &str = "paused";

/// What reconciles an object.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reconciler {
    /// An Application of Argo CD; its namespace is not always known.
    Argo { namespace: Option<String>, name: String },
    /// A Kustomization or HelmRelease of Flux.
    Flux { kind: &'static str, namespace: String, name: String },
}

/// Whether it is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    Active,
    Paused,
    /// It is not in this cluster, or may not be read.
    Unknown,
}

/// Applications of Argo CD, or nothing where they may not be seen.
type Applications = Option<Vec<Value>>;

/// Looks for what reconciles the workloads.
pub(super) async fn obstacles(
    cluster: &Cluster,
    inventory: &Inventory,
    survey: &Survey,
) -> Result<Vec<Finding>, Error> {
    let applications = applications(cluster, inventory).await?;
    let mut findings = Vec::new();
    for workload in &survey.workloads {
        let Some(meta) = meta(inventory, workload) else { continue };
        let Some(reconciler) = reconciler(meta, &survey.namespace, applications.as_deref()) else { continue };
        let annotation = |key: &str| meta.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str);
        let is_off = matches!(&reconciler, Reconciler::Flux { kind: KUSTOMIZATION, .. })
            && annotation("kustomize.toolkit.fluxcd.io/reconcile") == Some("disabled");
        let activity = match &reconciler {
            _ if is_off => Activity::Paused,
            Reconciler::Argo { namespace, name } => argo(applications.as_deref(), namespace.as_deref(), name),
            Reconciler::Flux { kind, namespace, name } => flux(cluster, kind, namespace, name).await?,
        };
        let is_stated = annotation(STATEMENT) == Some(STATEMENT_PAUSED);
        findings.push(finding(workload, &reconciler, activity, is_stated));
    }
    Ok(findings)
}

fn meta<'a>(inventory: &'a Inventory, workload: &Workload) -> Option<&'a ObjectMeta> {
    let controllers = inventory.controllers.iter();
    let mut controllers = controllers.filter(|controller| controller.object == workload.object);
    let mut pods = inventory.pods.iter().filter(|pod| pod.metadata.uid.as_ref() == Some(&workload.object.uid));
    controllers.next().map(|controller| &controller.meta).or_else(|| pods.next().map(|pod| &pod.metadata))
}

const KUSTOMIZATION: &str = "Kustomization";
const HELM_RELEASE: &str = "HelmRelease";

fn reconciler(meta: &ObjectMeta, namespace: &str, applications: Option<&[Value]>) -> Option<Reconciler> {
    let label = |key: &str| meta.labels.as_ref().and_then(|all| all.get(key)).cloned();
    let tracking = meta.annotations.as_ref().and_then(|all| all.get("argocd.argoproj.io/tracking-id"));
    // `APPLICATION:GROUP/KIND:NAMESPACE/NAME`, where an application outside of Argo's own namespace has that in front.
    if let Some(application) = tracking.and_then(|id| id.split(':').next()) {
        let (namespace, name) = match application.split_once('_') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, application),
        };
        return Some(Reconciler::Argo { namespace, name: name.to_owned() });
    }
    if let Some(name) = label("argocd.argoproj.io/instance") {
        return Some(Reconciler::Argo { namespace: None, name });
    }
    for (kind, group) in [(KUSTOMIZATION, "kustomize"), (HELM_RELEASE, "helm")] {
        if let Some(name) = label(&format!("{group}.toolkit.fluxcd.io/name")) {
            let namespace = label(&format!("{group}.toolkit.fluxcd.io/namespace")).unwrap_or(namespace.to_owned());
            return Some(Reconciler::Flux { kind, namespace, name });
        }
    }
    // Argo's older mark, which charts use as well: it counts where there is such an application.
    let name = label("app.kubernetes.io/instance")?;
    let is_it = |application: &&Value| {
        application["metadata"]["name"] == name.as_str() && application["spec"]["destination"]["namespace"] == namespace
    };
    let found = applications?.iter().find(is_it)?;
    Some(Reconciler::Argo { namespace: found["metadata"]["namespace"].as_str().map(str::to_owned), name })
}

async fn applications(cluster: &Cluster, inventory: &Inventory) -> Result<Applications, Error> {
    if !inventory.groups.contains("argoproj.io") {
        return Ok(None);
    }
    let api = cluster.dynamic("argoproj.io/v1alpha1", "Application", "applications", None);
    match cluster.call("list Applications of all namespaces", api.list(&ListParams::default())).await {
        Ok(list) => Ok(Some(list.items.iter().filter_map(|object| serde_json::to_value(object).ok()).collect())),
        Err(error) if error.is_forbidden() || error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn argo(applications: Option<&[Value]>, namespace: Option<&str>, name: &str) -> Activity {
    let is_it = |application: &&Value| {
        let meta = &application["metadata"];
        meta["name"] == name && namespace.is_none_or(|namespace| meta["namespace"] == namespace)
    };
    let mut found = applications.unwrap_or_default().iter().filter(is_it).peekable();
    if found.peek().is_none() {
        return Activity::Unknown;
    }
    let is_active = |application: &Value| {
        let automated = &application["spec"]["syncPolicy"]["automated"];
        let skips = application["metadata"]["annotations"]["argocd.argoproj.io/skip-reconcile"] == "true";
        !skips && !automated.is_null() && automated["enabled"] != false
    };
    // Several of the same name: any of them may be the one.
    if found.any(is_active) { Activity::Active } else { Activity::Paused }
}

async fn flux(cluster: &Cluster, kind: &str, namespace: &str, name: &str) -> Result<Activity, Error> {
    let (version, plural) = match kind {
        KUSTOMIZATION => ("kustomize.toolkit.fluxcd.io/v1", "kustomizations"),
        _ => ("helm.toolkit.fluxcd.io/v2", "helmreleases"),
    };
    let api = cluster.dynamic(version, kind, plural, Some(namespace));
    match cluster.call(format!("get {kind} {namespace}/{name}"), api.get(name)).await {
        Ok(object) if object.data["spec"]["suspend"] == true => Ok(Activity::Paused),
        Ok(_) => Ok(Activity::Active),
        Err(error) if error.is_forbidden() || error.is_not_found() => Ok(Activity::Unknown),
        Err(error) => Err(error),
    }
}

fn finding(workload: &Workload, reconciler: &Reconciler, activity: Activity, is_stated: bool) -> Finding {
    let object = &workload.object;
    let (what, way_out) = match reconciler {
        Reconciler::Argo { name, .. } => {
            let way = format!(
                "for the time of the cutover: `argocd app set {name} --sync-policy none`, and the same for what makes \
                 the application"
            );
            (format!("Application {name} of Argo CD"), way)
        }
        Reconciler::Flux { kind, namespace, name } => {
            let way = format!("`flux suspend {} {name} --namespace {namespace}`", kind.to_lowercase());
            (format!("{kind} {namespace}/{name} of Flux"), way)
        }
    };
    let found = match activity {
        Activity::Paused => {
            let why = format!("it is kept by {what}, which is paused");
            let todo = "keep it paused until the migration is finished; change its repository before it goes on";
            Finding::new("TS-K304", Severity::Info, why, todo)
        }
        _ if is_stated => {
            let why = format!("it is kept by {what}, which is paused, says {STATEMENT}: {STATEMENT_PAUSED}");
            Finding::new("TS-K304", Severity::Warning, why, "keep it paused until the migration is finished")
        }
        Activity::Active => {
            let why = format!("it is kept by {what}, which would start it again");
            Finding::new("TS-K303", Severity::Cutover, why, way_out)
        }
        Activity::Unknown => {
            let why = format!("it is kept by {what}, of which nothing can be seen here");
            let todo = format!("{way_out}; then annotate {object} with {STATEMENT}={STATEMENT_PAUSED}");
            Finding::new("TS-K303", Severity::Cutover, why, todo)
        }
    };
    found.on(object.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn meta(value: Value) -> ObjectMeta {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_reconciler_is_known_by_its_marks() {
        let argo = |namespace: Option<&str>, name: &str| {
            Some(Reconciler::Argo { namespace: namespace.map(str::to_owned), name: name.to_owned() })
        };
        let tracked = |id: &str| meta(json!({ "annotations": { "argocd.argoproj.io/tracking-id": id } }));
        assert_eq!(reconciler(&tracked("shop:apps/Deployment:n/web"), "n", None), argo(None, "shop"));
        assert_eq!(reconciler(&tracked("team_shop:apps/Deployment:n/web"), "n", None), argo(Some("team"), "shop"));
        let flux = meta(json!({ "labels": { "helm.toolkit.fluxcd.io/name": "r" } }));
        let expected = Reconciler::Flux { kind: HELM_RELEASE, namespace: "n".to_owned(), name: "r".to_owned() };
        assert_eq!(reconciler(&flux, "n", None), Some(expected));
    }

    #[test]
    fn the_label_of_charts_counts_only_where_an_application_has_that_name_and_namespace() {
        let labelled = meta(json!({ "labels": { "app.kubernetes.io/instance": "shop" } }));
        let application = |namespace: &str| {
            json!({ "metadata": { "name": "shop", "namespace": "argocd" },
                    "spec": { "destination": { "namespace": namespace } } })
        };
        assert_eq!(reconciler(&labelled, "n", None), None);
        assert_eq!(reconciler(&labelled, "n", Some(&[application("other")])), None);
        assert!(reconciler(&labelled, "n", Some(&[application("n")])).is_some());
    }

    #[test]
    fn an_application_is_paused_without_automation_and_unknown_when_it_is_not_here() {
        let application =
            |spec: Value| [json!({ "metadata": { "name": "shop", "namespace": "argocd" }, "spec": spec })];
        let automated = application(json!({ "syncPolicy": { "automated": {} } }));
        assert_eq!(argo(Some(&automated), None, "shop"), Activity::Active);
        assert_eq!(argo(Some(&automated), Some("elsewhere"), "shop"), Activity::Unknown);
        assert_eq!(argo(Some(&application(json!({}))), None, "shop"), Activity::Paused);
        assert_eq!(argo(None, None, "shop"), Activity::Unknown);
    }
}
