//! Networks: a namespace for each node, and a bridge for the nodes of a cluster, to which the machine is the router.

use std::net::Ipv4Addr;

use crate::LabError;
use crate::command::sh;

/// Addresses of a cluster, by its number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses(pub(crate) u8);

impl Addresses {
    /// The machine, as the nodes see it.
    fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 201, self.0, 1)
    }

    pub(crate) fn node(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 201, self.0, 10 + number)
    }

    /// All nodes of the cluster.
    pub(crate) fn nodes(self) -> String {
        format!("10.201.{}.0/24", self.0)
    }

    pub(crate) fn pods(self, number: u8) -> String {
        format!("10.211.{}.0/24", self.0 * 10 + number)
    }

    /// All pods of the cluster, and some more.
    pub(crate) fn all_pods(self) -> String {
        "10.211.0.0/16".to_owned()
    }

    pub(crate) fn services(self) -> String {
        format!("10.221.{}.0/24", self.0)
    }

    /// The API server, as pods see it.
    pub(crate) fn api_service(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 221, self.0, 1)
    }
}

/// The name of a cluster's bridge.
pub(crate) fn bridge(cluster: &str) -> String {
    format!("lab-{cluster}")
}

/// The bridge of a cluster; nothing happens if it is there.
pub(crate) fn make_bridge(cluster: &str, addresses: Addresses) -> Result<(), LabError> {
    let bridge = bridge(cluster);
    if sh(&format!("ip link show {bridge}")).is_ok() {
        return Ok(());
    }
    sh(&format!("ip link add {bridge} type bridge"))?;
    sh(&format!("ip addr add {}/24 dev {bridge}", addresses.gateway()))?;
    sh(&format!("ip link set {bridge} up"))?;
    sh("sysctl -qw net.ipv4.ip_forward=1").map(drop)
}

/// The namespace of one node, connected to the bridge, with routes to the pods of `others`.
pub(crate) fn make_namespace(
    cluster: &str,
    addresses: Addresses,
    number: u8,
    others: impl Iterator<Item = u8>,
) -> Result<(), LabError> {
    let node = format!("{cluster}{number}");
    let (name, outer, bridge) = (namespace(&node), format!("lab-{node}"), bridge(cluster));
    sh(&format!("ip netns add {name}"))?;
    sh(&format!("ip link add {outer} type veth peer name eth0 netns {name}"))?;
    sh(&format!("ip link set {outer} master {bridge} up"))?;
    let inside = |line: &str| sh(&format!("ip -n {name} {line}"));
    inside("link set lo up")?;
    inside(&format!("addr add {}/24 dev eth0", addresses.node(number)))?;
    inside("link set eth0 up")?;
    inside(&format!("route add default via {}", addresses.gateway()))?;
    for other in others {
        inside(&format!("route add {} via {}", addresses.pods(other), addresses.node(other)))?;
    }
    sh(&format!("nsenter --net=/run/netns/{name} sysctl -qw net.ipv4.ip_forward=1")).map(drop)
}

/// The name of a node's namespace.
pub(crate) fn namespace(node: &str) -> String {
    format!("lab-{node}")
}

/// Removes the namespace of a node, with all that is connected to it.
pub(crate) fn remove_namespace(node: &str) {
    let _ = sh(&format!("ip netns del {}", namespace(node)));
    let _ = sh(&format!("ip link del lab-{node}"));
}

pub(crate) fn remove_bridge(cluster: &str) {
    let _ = sh(&format!("ip link del {}", bridge(cluster)));
}
