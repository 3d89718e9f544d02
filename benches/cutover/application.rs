//! What is moved: made, kept busy, and watched by somebody outside of the clusters.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tranship_tests::cluster::{Database, Follower, Load, Place, Side, Space, Writer, until};

use crate::Scale;
use crate::commits::Commits;

/// pgbench's scale for 1 GiB of tables; as much again are the logs that PostgreSQL keeps by its own choice.
const POSTGRES_SCALE: u32 = 70;

/// An application with one pod and one volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Application {
    /// PostgreSQL with 2 GiB on its volume, under pgbench, and a client outside that commits.
    Postgres,
    /// The block writer on a device of 2 GiB that was full of random bytes before.
    Blocks,
}

impl Application {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::Blocks => "block volume",
        }
    }

    /// Its StatefulSet, and the label `app` of its pod.
    pub(crate) fn set(self) -> &'static str {
        match self {
            Self::Postgres => "db",
            Self::Blocks => "blocks",
        }
    }

    pub(crate) fn pod(self) -> String {
        format!("{}-0", self.set())
    }

    pub(crate) fn claim(self) -> String {
        format!("data-{}-0", self.set())
    }

    /// Volume mode, storage class and size of its claim.
    pub(crate) fn volume(self, scale: Scale) -> [&'static str; 3] {
        match (self, scale) {
            (Self::Postgres, Scale::Full) => ["Filesystem", "xfs", "6Gi"],
            (Self::Postgres, Scale::Small) => ["Filesystem", "xfs", "3Gi"],
            (Self::Blocks, Scale::Full) => ["Block", "ext4", "2Gi"],
            (Self::Blocks, Scale::Small) => ["Block", "ext4", "256Mi"],
        }
    }

    /// What is made of it; with no replicas it is there and does not run.
    pub(crate) fn objects(self, scale: Scale, replicas: u32) -> Vec<Value> {
        let [_, _, size] = self.volume(scale);
        match self {
            Self::Postgres => Database::objects(size, replicas).to_vec(),
            Self::Blocks => vec![writer(size).object(replicas as usize)],
        }
    }

    /// Makes it at the source and keeps it busy.
    pub(crate) fn start(self, space: &Space, scale: Scale) -> Watched {
        let (place, [_, _, size]) = (&space.source, self.volume(scale));
        match self {
            Self::Postgres => {
                let divisor = if scale == Scale::Full { 1 } else { 8 };
                Database::start_with(place, POSTGRES_SCALE / divisor, size);
                admit_everybody(place);
                let addresses = [&space.source, &space.destination].map(|place| (place.side, observe(place)));
                let load = Database::load(place);
                Watched::Postgres { commits: Commits::start(addresses), load }
            }
            Self::Blocks => {
                fill(place, &self.claim(), size);
                writer(size).start(place);
                Watched::Blocks { here: Follower::start(place, &self.pod()) }
            }
        }
    }
}

fn writer(size: &'static str) -> Writer {
    Writer { name: "blocks", replicas: 1, class: "ext4", size, is_block: true, ..Writer::default() }
}

/// Makes a device full of bytes that do not compress: what is empty is moved in no time.
fn fill(place: &Place, claim: &str, size: &str) {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "fill"}, "spec": {
        "restartPolicy": "Never",
        "containers": [{"name": "fill", "image": tranship_lab::BUSYBOX, "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "dd if=/dev/urandom of=/dev/data bs=1M; sync"],
            "volumeDevices": [{"name": "data", "devicePath": "/dev/data"}]}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]}});
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": claim}, "spec": {
        "accessModes": ["ReadWriteOnce"], "volumeMode": "Block", "storageClassName": "ext4",
        "resources": {"requests": {"storage": size}}}});
    place.make(&[claim, pod]);
    until("a device that is full", || (place.get("pod", "fill")["status"]["phase"] == "Succeeded").then_some(()));
    place.kubectl(&["delete", "pod", "fill"]);
}

/// Lets a client in that comes over the network.
fn admit_everybody(place: &Place) {
    let admit = "echo 'host all all all trust' >> $PGDATA/pg_hba.conf";
    place.kubectl(&["exec", "db-0", "--", "sh", "-c", admit]);
    Database::ask(place, "select pg_reload_conf()");
}

/// Where somebody outside reaches the database on one side: a port of a node, open as soon as there is a pod, so that the
/// first answer is seen and not the cluster's opinion of it.
fn observe(place: &Place) -> SocketAddr {
    let name = match place.side {
        Side::Source => "seen-at-source",
        Side::Destination => "seen-at-destination",
    };
    place.make(&[json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {
        "type": "NodePort", "publishNotReadyAddresses": true, "selector": {"app": "db"}, "ports": [{"port": 5432}]}})]);
    let port = place.get("service", name)["spec"]["ports"][0]["nodePort"].clone();
    format!("{}:{port}", node_address(place)).parse().expect("an address and a port")
}

/// The address of a node.
pub(crate) fn node_address(place: &Place) -> String {
    let path = "jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}";
    place.kubectl(&["get", "nodes", "--output", path])
}

/// An application that is watched from outside.
pub(crate) enum Watched {
    Postgres { commits: Commits, load: Load },
    Blocks { here: Follower },
}

impl Watched {
    /// Waits until it has done some more.
    pub(crate) fn await_more(&self) {
        match self {
            Self::Postgres { commits, .. } => commits.await_more(100),
            Self::Blocks { here } => here.await_more(50),
        }
    }

    /// When the last operation was acknowledged at the source, and the first one at the destination; and how many of those
    /// that were acknowledged are lost.
    ///
    /// # Panics
    /// When it does not go on at the destination, or what it has there cannot be read.
    pub(crate) fn judge(self, space: &Space) -> ([u64; 2], usize) {
        match self {
            Self::Postgres { commits, load } => {
                let outage = commits.outage_ms();
                drop(load);
                let acknowledged = commits.end();
                Database::check(&space.destination);
                (outage, acknowledged.difference(&Database::commits(&space.destination)).count())
            }
            Self::Blocks { here } => {
                let there = Follower::start(&space.destination, &Application::Blocks.pod());
                // The writer checks its chain before it goes on, and ends if anything of it is missing.
                there.goes_on_after(here.last());
                let last = here.last_act().expect("it was busy");
                ([last.unix_ms, there.first_act().unix_ms], 0)
            }
        }
    }
}

/// Makes the namespace at the destination, where a client waits before anything is moved.
pub(crate) fn make_destination(space: &Space) {
    let name = &space.destination.namespace;
    space.destination.make(&[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})]);
}
