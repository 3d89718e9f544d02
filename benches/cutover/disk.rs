//! How fast the disk behind the volumes is, for whoever reads them.

use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tranship_tests::cluster::{Space, Volume};

use crate::application::Application;

/// Bytes per second at which the volumes of these applications are read from the disk, all of both sides at once, as a
/// proof reads them.
///
/// # Panics
/// When an image cannot be read.
pub(crate) fn bytes_per_second(space: &Space, applications: &[Application]) -> f64 {
    let claims =
        applications.iter().flat_map(|one| [&space.source, &space.destination].map(|place| (place, one.claim())));
    let volumes: Vec<Volume> = claims.map(|(place, claim)| Volume::of(place, &claim)).collect();
    let bytes: u64 = volumes.iter().map(|one| one.image().metadata().expect("an image").blocks() * 512).sum();
    let began = Instant::now();
    let readers: Vec<Child> = volumes.iter().map(read).collect();
    for mut reader in readers {
        assert!(reader.wait().expect("it is our child").success(), "an image was not read");
    }
    bytes as f64 / began.elapsed().as_secs_f64()
}

fn read(volume: &Volume) -> Child {
    let mut dd = Command::new("dd");
    dd.arg("if=".to_owned() + &volume.image().to_string_lossy());
    dd.args(["of=/dev/null", "bs=4M", "iflag=direct", "status=none"]);
    dd.stdin(Stdio::null()).spawn().expect("dd runs")
}
