//! What the lab needs of Debian.

use std::path::Path;

use crate::LabError;
use crate::command::{command, run};

/// Packages, and a file by which each is known to be there.
const PACKAGES: &[(&str, &str)] = &[
    ("busybox-static", "/bin/busybox"),
    ("conntrack", "/usr/sbin/conntrack"),
    ("containerd", "/usr/bin/containerd"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("e2fsprogs", "/sbin/mkfs.ext4"),
    ("ethtool", "/usr/sbin/ethtool"),
    ("iproute2", "/sbin/ip"),
    ("iptables", "/usr/sbin/iptables"),
    ("runc", "/usr/sbin/runc"),
    ("socat", "/usr/bin/socat"),
    ("util-linux", "/usr/bin/nsenter"),
    ("xfsprogs", "/sbin/mkfs.xfs"),
];

/// Installs what is missing.
pub(crate) fn install(say: &dyn Fn(&str)) -> Result<(), LabError> {
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("installing {}", missing.join(" ")));
    run(command("apt-get", ["update", "-qq"]).env("DEBIAN_FRONTEND", "noninteractive"))?;
    let arguments = ["install", "--yes", "--no-install-recommends", "-qq"].into_iter().chain(missing);
    run(command("apt-get", arguments).env("DEBIAN_FRONTEND", "noninteractive")).map(drop)
}
