//! Bytes that look random and can be made again.

/// Bytes for one use of one act of a run: the same for the same arguments.
pub(crate) fn fill(run: &str, act: u64, usage: &str, bytes: &mut [u8]) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(run.as_bytes()).update(&act.to_le_bytes()).update(usage.as_bytes());
    hasher.finalize_xof().fill(bytes);
}

/// A number, as [`fill`] makes it.
pub(crate) fn number(run: &str, act: u64, usage: &str) -> u64 {
    let mut bytes = [0; 8];
    fill(run, act, usage, &mut bytes);
    u64::from_le_bytes(bytes)
}

/// The name of a new run, which no other has had: 32 digits.
pub(crate) fn new_run() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let unique = format!("{} {}", since.as_nanos(), std::process::id());
    blake3::hash(unique.as_bytes()).to_hex()[..32].to_owned()
}
