//! The way between the clusters, on which there may be weather.
//!
//! The machine routes between the two networks of nodes. While there is weather, rules lead what comes from one of them
//! to the other through the [relay](crate::relay); in clear weather the kernel forwards alone.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::cluster::Cluster;
use crate::command::{command, sh};
use crate::network::bridge;
use crate::processes::{kill, log, start_outside, wait_for};
use crate::relay::Sockets;
use crate::{LabError, Layout, READY_MAX, Weather};

/// The TUN device, and what the processes of the link are known by.
const DEVICE: &str = "lab-link";
const MARK: &str = "link";
/// The table of routes that leads into the device, and the rule that leads to it from the first cluster; that from the
/// second has the number after it.
const TABLE: u32 = 201;

/// The way between the clusters.
#[derive(Debug, Clone)]
pub struct Link {
    layout: Layout,
}

impl Link {
    /// That of the lab, which is up.
    pub fn new(root: &Path) -> Self {
        Self { layout: Layout::new(root) }
    }

    /// Makes this the weather, at once and in both directions; it stays until it is set again. Packets that are on their
    /// way come as they would have.
    pub fn set(&self, weather: Weather) -> Result<(), LabError> {
        if weather.is_clear() {
            self.leave_relay();
        }
        self.talk(&weather.to_string())?;
        if weather.is_clear() {
            return Ok(());
        }
        let [a, b] = crate::clusters([crate::Version::NEWER; 2]);
        for (n, from, to) in [(0, &a, &b), (1, &b, &a)] {
            let rule = TABLE + n;
            if sh(&format!("ip rule show pref {rule}"))?.trim().is_empty() {
                let (from, to) = (bridge(from.name), to.addresses().nodes());
                sh(&format!("ip rule add pref {rule} iif {from} to {to} lookup {TABLE}"))?;
            }
        }
        Ok(())
    }

    /// Nothing happens to packets any more.
    pub fn clear(&self) -> Result<(), LabError> {
        self.set(Weather::default())
    }

    /// What was set.
    pub fn weather(&self) -> Result<Weather, LabError> {
        self.talk("")
    }

    fn talk(&self, line: &str) -> Result<Weather, LabError> {
        let path = Sockets::new(&self.layout)?.control();
        let mut stream = UnixStream::connect(&path).map_err(LabError::io(&path))?;
        let mut answer = String::new();
        writeln!(stream, "{line}")
            .and_then(|()| BufReader::new(stream).read_line(&mut answer))
            .map_err(LabError::io(&path))?;
        match answer.trim() {
            "" => Err(LabError::Machine("the relay of the link gave no answer".to_owned())),
            answer => answer.parse().map_err(|what: &str| LabError::Machine(what.to_owned())),
        }
    }

    fn leave_relay(&self) {
        for rule in [TABLE, TABLE + 1] {
            let _ = sh(&format!("ip rule del pref {rule}"));
        }
    }

    /// Starts the relay unless it is there. `program` is that of the lab.
    pub(crate) fn up(&self, program: &Path) -> Result<(), LabError> {
        let sockets = Sockets::new(&self.layout)?;
        if self.weather().is_ok() {
            return Ok(());
        }
        self.down();
        let (relay, device) = (sockets.relay(), sockets.device());
        // Packets wait for nothing but the weather, however busy the machine is; without the right to that they may.
        let at_once: &[&str] = if sh("chrt --fifo 10 true").is_ok() { &["chrt", "--fifo", "10"] } else { &["env"] };
        // One that was killed leaves it, and another cannot take it then.
        let _ = fs::remove_file(&device);
        let start = |name: &str, program: &str, arguments: &[&str]| {
            start_outside(&self.layout, MARK, name, command(at_once[0], &at_once[1..]).arg(program).args(arguments))
        };
        start("relay", &program.to_string_lossy(), &["relay"])?;
        let relay_log = log(&self.layout, MARK, "relay")?;
        wait_for("the relay of the link", &relay_log, READY_MAX, || self.weather().ok())?;
        let tun = format!("TUN,tun-name={DEVICE},iff-up,iff-no-pi");
        let packets = format!("UNIX-SENDTO:{},bind={}", relay.display(), device.display());
        start("socat", "socat", &["-b", "65536", &tun, &packets])?;
        let route = format!("ip route replace default dev {DEVICE} table {TABLE}");
        wait_for("the device of the link", &log(&self.layout, MARK, "socat")?, READY_MAX, || sh(&route).ok())?;
        // What comes out of the device has an address that leads elsewhere.
        sh(&format!("sysctl -qw net.ipv4.conf.{DEVICE}.rp_filter=0")).map(drop)
    }

    /// Ends it, whatever is there of it.
    pub(crate) fn down(&self) {
        self.leave_relay();
        kill(MARK, "");
    }
}

/// Pods and services of a cluster are known in it alone: what asks for one of the other must not leave the machine.
pub(crate) fn keep_inside(cluster: &Cluster) -> Result<(), LabError> {
    for network in [cluster.addresses().all_pods(), cluster.addresses().services()] {
        sh(&format!("ip route replace blackhole {network}"))?;
    }
    Ok(())
}

/// Takes back what [`keep_inside`] did.
pub(crate) fn forget_inside(cluster: &Cluster) {
    for network in [cluster.addresses().all_pods(), cluster.addresses().services()] {
        let _ = sh(&format!("ip route del blackhole {network}"));
    }
}
