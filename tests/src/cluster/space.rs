//! What a test has for itself: a namespace in both clusters.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use serde_json::json;

use super::lab::{Side, say};
use super::place::{Place, name};
use super::wait::until;

/// Everything that tranship can make, but for what belongs to no namespace.
const KINDS: &str = "pods,persistentvolumeclaims,configmaps,secrets,services,leases,networkpolicies,serviceaccounts,\
                     deployments,statefulsets,cronjobs,jobs,roles,rolebindings";

/// The same, of what belongs to no namespace and has labels of ours.
const GLOBAL_KINDS: &str =
    "validatingadmissionpolicies,validatingadmissionpolicybindings,clusterroles,clusterrolebindings";

/// A namespace in each cluster, by the same name unless it was made otherwise; the migration has that name too.
pub struct Space {
    /// The name of the migration.
    pub name: String,
    /// Where the application begins.
    pub source: Place,
    /// Where it goes.
    pub destination: Place,
    began: Instant,
    _turn: Turn,
}

/// The lab is shared, unless somebody disturbs all that goes on in it.
static LAB: RwLock<()> = RwLock::new(());

/// Held until the space is gone.
enum Turn {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

/// Runs a test in a namespace of its own, `t-NAME`. When it succeeds, the namespaces go, and with them their volumes; when
/// it fails, they stay to tell why, until it runs again.
pub fn in_space(name: &str, test: impl FnOnce(&Space)) {
    in_spaces(&format!("t-{name}"), &format!("t-{name}"), Side::Destination, test);
}

/// The same while no other test runs, of those that share this process.
pub fn in_space_alone(name: &str, test: impl FnOnce(&Space)) {
    let turn = Turn::Alone { _guard: LAB.write().unwrap_or_else(PoisonError::into_inner) };
    run(turn, &format!("t-{name}"), &format!("t-{name}"), Side::Destination, test);
}

/// The same as [`in_space`] where the destination's namespace, or its cluster, is another one.
pub fn in_spaces(name: &str, renamed: &str, to: Side, test: impl FnOnce(&Space)) {
    let turn = Turn::Shared { _guard: LAB.read().unwrap_or_else(PoisonError::into_inner) };
    run(turn, name, renamed, to, test);
}

fn run(turn: Turn, name: &str, renamed: &str, to: Side, test: impl FnOnce(&Space)) {
    let space = Space {
        _turn: turn,
        name: name.to_owned(),
        source: Place { side: Side::Source, namespace: name.to_owned() },
        destination: Place { side: to, namespace: renamed.to_owned() },
        began: Instant::now(),
    };
    // What a test that was killed has left.
    space.remove();
    space.source.make(&[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})]);
    test(&space);
}

impl Space {
    /// Both places.
    pub fn places(&self) -> [&Place; 2] {
        [&self.source, &self.destination]
    }

    /// What there is of this migration by its label, on one side.
    pub fn marked(&self, place: &Place) -> Vec<String> {
        let labels = format!("tranship.io/migration={}", self.name);
        let kinds = format!("{KINDS},{GLOBAL_KINDS}");
        place.list(&kinds, &labels).iter().map(name).collect()
    }

    /// What there is in the namespace, without what the cluster itself makes there and what comes and goes with pods.
    pub fn objects(&self, place: &Place) -> Vec<String> {
        let all = place.list(KINDS, "");
        let mut names: Vec<String> = all.iter().map(name).filter(|name| !name.starts_with("Pod/")).collect();
        names.retain(|name| name != "ConfigMap/kube-root-ca.crt" && name != "ServiceAccount/default");
        names.sort();
        names
    }

    /// Nothing of this migration is left on either side.
    pub fn holds_nothing_of_ours(&self) {
        for place in self.places() {
            until(&format!("nothing of ours in {place:?}, where there is {:?}", self.marked(place)), || {
                self.marked(place).is_empty().then_some(())
            });
        }
    }

    fn remove(&self) {
        for place in self.places() {
            // Volumes that were to be kept would stay behind a test that failed.
            for volume in volumes_of(place) {
                let patch = r#"{"spec": {"persistentVolumeReclaimPolicy": "Delete"}}"#;
                let _ = place.try_kubectl(&["patch", "persistentvolume", &volume, "--patch", patch]);
            }
            let labels = format!("tranship.io/migration={}", self.name);
            let _ = place.try_kubectl(&["delete", GLOBAL_KINDS, "--selector", &labels]);
            let gone = ["delete", "namespace", &place.namespace, "--ignore-not-found", "--wait=false"];
            let _ = place.try_kubectl(&gone);
        }
        for place in self.places() {
            until("the namespace is gone", || place.find("namespace", &place.namespace).is_none().then_some(()));
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let (name, seconds) = (&self.name, self.began.elapsed().as_secs_f64());
        if std::thread::panicking() {
            // What a test that failed leaves is what tells why.
            say(&format!("{name}: FAILED after {seconds:.0} s; its namespaces stay"));
            return;
        }
        say(&format!("{name}: {seconds:.0} s"));
        self.remove();
        for place in self.places() {
            until("the volumes are gone", || volumes_of(place).is_empty().then_some(()));
        }
    }
}

/// Names of the volumes that are bound to claims of a namespace.
fn volumes_of(place: &Place) -> Vec<String> {
    let volumes = place.list("persistentvolumes", "");
    let ours = volumes.iter().filter(|volume| volume["spec"]["claimRef"]["namespace"] == *place.namespace);
    ours.filter_map(|volume| volume["metadata"]["name"].as_str().map(str::to_owned)).collect()
}
