//! What this machine can do today, so that a slow day is visible.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::time::Instant;

/// One line: copying memory, hashing leaves, and writing to the disk that temporary files are on.
pub(crate) fn line() -> String {
    const BYTES: usize = 256 << 20;
    const LEAF_BYTES: usize = 16 << 10;
    let (from, mut to) = (vec![1u8; BYTES], vec![2u8; BYTES]);
    let best = |run: &mut dyn FnMut()| {
        let seconds = (0..3).map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        });
        BYTES as f64 / 1e9 / seconds.fold(f64::INFINITY, f64::min)
    };
    let copy = best(&mut || black_box(&mut to).copy_from_slice(black_box(&from)));
    let hash = best(&mut || {
        for leaf in from.chunks(LEAF_BYTES) {
            black_box(blake3::keyed_hash(&[7; 32], leaf));
        }
    });
    let disk = tempfile::tempfile().map(|mut file: File| {
        best(&mut || {
            // A disk that fails shows as one that is slow; the workloads then say why.
            let _ = file.write_all(&from).and_then(|()| file.sync_all());
        })
    });
    let disk = disk.map_or_else(|error| error.to_string(), |rate| format!("{rate:.2} GB/s"));
    format!("calibration: memcpy {copy:.1} GB/s, BLAKE3 16 KiB leaves {hash:.1} GB/s, disk write {disk}")
}
