//! One cluster, as the coordinator reaches it: every call has a deadline and says what it was about.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Config, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tranship_api::{ObjectRef, Side};

use crate::Error;

/// Who changes fields, in the eyes of server-side apply.
pub const FIELD_MANAGER: &str = "tranship";

/// The context by which a pod means the cluster that it runs in, as its own account.
pub const HERE: &str = "in-cluster";

/// How long an API server may take to answer.
pub const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A cluster of a migration.
#[derive(Clone)]
pub struct Cluster {
    /// By its role.
    pub side: Side,
    /// Its context, for people.
    pub context: String,
    /// The client. Code that calls it directly has to bring a deadline of its own; [`Cluster::call`] is one.
    pub client: Client,
    /// Addresses and names that reach its API server.
    pub server: String,
}

/// What a namespaced object has to be for the helpers here.
pub trait Object:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Object for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

impl Cluster {
    /// Reads the kubeconfig (`KUBECONFIG`, else the usual file; in a pod, the pod's own account) and makes a client. No
    /// call is made yet.
    pub async fn connect(side: Side, context: Option<&str>) -> Result<Self, Error> {
        let fail = |source: Box<dyn std::error::Error + Send + Sync>| Error::Kubeconfig {
            context: context.map(str::to_owned),
            source,
        };
        let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
        let is_here =
            |file: &Kubeconfig| context == Some(HERE) && file.contexts.iter().all(|context| context.name != HERE);
        let (mut config, name) = match Kubeconfig::read() {
            Ok(file) if is_here(&file) => (Config::incluster().map_err(|error| fail(error.into()))?, HERE.to_owned()),
            Ok(file) => {
                let name = context.map(str::to_owned).or_else(|| file.current_context.clone()).unwrap_or_default();
                (Config::from_custom_kubeconfig(file, &options).await.map_err(|error| fail(error.into()))?, name)
            }
            Err(error) if context.is_some() => return Err(fail(error.into())),
            Err(error) => (Config::incluster().map_err(|_| fail(error.into()))?, HERE.to_owned()),
        };
        config.connect_timeout = Some(Duration::from_secs(10));
        // A step that is repeated is repeated by whoever knows whether it may be.
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|error| fail(error.into()))?;
        Ok(Self { side, context: name, client, server })
    }

    /// The identity of the cluster: the UID of its namespace `kube-system`.
    pub async fn uid(&self) -> Result<String, Error> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let namespace = self.call("get namespace kube-system", api.get("kube-system")).await?;
        Ok(namespace.metadata.uid.unwrap_or_default())
    }

    /// Namespaced objects.
    pub fn api<K: Object>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Makes a call within [`ANSWER_MAX`]. `what` is `VERB OBJECT`, for people.
    pub async fn call<T>(
        &self,
        what: impl Into<String>,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Error> {
        let (side, what) = (self.side, what.into());
        match tokio::time::timeout(ANSWER_MAX, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source @ kube::Error::Api(_))) => Err(Error::Api { side, what, source: Box::new(source) }),
            Ok(Err(source)) => Err(Error::Unreachable { side, what, source: Some(Box::new(source)) }),
            Err(_) => Err(Error::Unreachable { side, what, source: None }),
        }
    }

    /// The object, or nothing if it is not there.
    pub async fn find<K: Object>(&self, namespace: &str, name: &str) -> Result<Option<K>, Error> {
        let api = self.api::<K>(namespace);
        self.call(format!("get {} {namespace}/{name}", kind::<K>()), api.get_opt(name)).await
    }

    /// The object.
    pub async fn get<K: Object>(&self, namespace: &str, name: &str) -> Result<K, Error> {
        let missing = || Error::Missing {
            side: self.side,
            object: ObjectRef::named(&K::api_version(&()), &kind::<K>(), Some(namespace), name),
        };
        self.find(namespace, name).await?.ok_or_else(missing)
    }

    /// All objects of the namespace that these labels select; all of it with an empty selector.
    pub async fn list<K: Object>(&self, namespace: &str, selector: &str) -> Result<Vec<K>, Error> {
        let api = self.api::<K>(namespace);
        let params = if selector.is_empty() { ListParams::default() } else { ListParams::default().labels(selector) };
        Ok(self.call(format!("list {} in {namespace}", kind::<K>()), api.list(&params)).await?.items)
    }

    /// Creates it; an error if it is there.
    pub async fn create<K: Object>(&self, namespace: &str, object: &K) -> Result<K, Error> {
        let api = self.api::<K>(namespace);
        let name = object.meta().name.clone().unwrap_or_default();
        self.call(format!("create {} {namespace}/{name}", kind::<K>()), api.create(&PostParams::default(), object))
            .await
    }

    /// Replaces it if it is still of the version that `object` has; else a conflict.
    pub async fn replace<K: Object>(&self, namespace: &str, object: &K) -> Result<K, Error> {
        let api = self.api::<K>(namespace);
        let name = object.meta().name.clone().unwrap_or_default();
        let what = format!("update {} {namespace}/{name}", kind::<K>());
        self.call(what, api.replace(&name, &PostParams::default(), object)).await
    }

    /// Merges `patch` into it.
    pub async fn merge<K: Object>(&self, namespace: &str, name: &str, patch: &Value) -> Result<K, Error> {
        let api = self.api::<K>(namespace);
        let what = format!("patch {} {namespace}/{name}", kind::<K>());
        self.call(what, api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await
    }

    /// Deletes it; nothing happens if it is not there. With a `uid` only the object that has it.
    pub async fn delete<K: Object>(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<(), Error> {
        let api = self.api::<K>(namespace);
        let preconditions =
            uid.map(|uid| kube::api::Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        match self.call(format!("delete {} {namespace}/{name}", kind::<K>()), api.delete(name, &params)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Objects of a kind that is only known by name. `plural` is how the API's paths spell it.
    pub fn dynamic(&self, api_version: &str, kind: &str, plural: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let gvk = kube::core::GroupVersionKind::gvk(group, version, kind);
        let resource = kube::core::ApiResource::from_gvk_with_plural(&gvk, plural);
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }
}

fn kind<K: Object>() -> String {
    K::kind(&()).into_owned()
}
