//! Where a copy of a record lies: as little of a cluster as a ledger needs, so that clusters can be simulated.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;

use crate::{Cluster, Error};

/// How long a server that did not answer is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// A place for ConfigMaps that are changed by compare-and-swap.
///
/// An error that says that there was no answer does not say that nothing was done.
pub trait Shelf {
    /// The object, or nothing if there is none.
    fn look(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Option<ConfigMap>, Error>> + Send;

    /// Writes it: anew where it has no version, else only over the version that it has. Anything else is a conflict, or not
    /// found. What is stored comes back.
    fn put(&self, namespace: &str, map: &ConfigMap) -> impl Future<Output = Result<ConfigMap, Error>> + Send;

    /// Waits before something is asked again that was not answered.
    fn pause(&self) -> impl Future<Output = ()> + Send;
}

impl Shelf for Cluster {
    async fn look(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, Error> {
        self.find(namespace, name).await
    }

    async fn put(&self, namespace: &str, map: &ConfigMap) -> Result<ConfigMap, Error> {
        match map.metadata.resource_version {
            Some(_) => self.replace(namespace, map).await,
            None => self.create(namespace, map).await,
        }
    }

    async fn pause(&self) {
        tokio::time::sleep(PAUSE).await;
    }
}
