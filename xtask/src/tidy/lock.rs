//! What is locked: enough of `deny.toml` to hold without a network and without a further tool.

use super::Finding;

const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Packages that must not be locked at all.
const BANNED: &[(&str, &str)] = &[
    ("openssl-sys", "there is one crypto provider"),
    ("native-tls", "there is one crypto provider"),
    ("bincode", "it is abandoned"),
    ("chrono", "time is the standard library's"),
    ("serde_yaml", "it is abandoned"),
    ("atty", "it is abandoned"),
    ("backoff", "it is abandoned"),
    ("instant", "it is abandoned"),
    ("proc-macro-error", "it is abandoned"),
];

/// Packages that may be locked, for other targets, but must not be built.
const NOT_BUILT: &[(&str, &str)] = &[("ring", "there is one crypto provider")];

/// Lowest versions without a known hole.
const FLOORS: &[(&str, Version)] = &[
    ("aws-lc-sys", Version(0, 39, 0)),
    ("bytes", Version(1, 11, 1)),
    ("crossbeam-epoch", Version(0, 9, 20)),
    ("h2", Version(0, 4, 16)),
    ("lz4_flex", Version(0, 12, 1)),
    ("memmap2", Version(0, 9, 11)),
    ("quinn-proto", Version(0, 11, 19)),
    ("rustls", Version(0, 23, 46)),
    ("rustls-webpki", Version(0, 103, 16)),
    ("time", Version(0, 3, 47)),
    ("tracing-subscriber", Version(0, 3, 20)),
];

/// The only version allowed: a later one was malicious.
const PINS: &[(&str, Version)] = &[("arrayref", Version(0, 3, 9))];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u64, u64, u64);

#[derive(Debug, Default)]
struct Package<'a> {
    line: usize,
    name: &'a str,
    version: &'a str,
    source: Option<&'a str>,
    has_checksum: bool,
}

/// Finds packages in a `Cargo.lock` that must not be there.
pub(super) fn check(lock: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages(lock) {
        let Package { line, name, version, source, has_checksum } = package;
        let mut broken = |what| findings.push(Finding { path: "Cargo.lock".into(), line, what });
        if let Some((_, why)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            broken(format!("{name} is banned: {why}"));
        }
        match source {
            Some(source) if source != SOURCE => broken(format!("{name} comes from {source}")),
            Some(_) if !has_checksum => broken(format!("{name} has no checksum")),
            _ => {}
        }
        let limits = FLOORS.iter().map(|limit| (limit, false)).chain(PINS.iter().map(|limit| (limit, true)));
        for ((_, wanted), is_exact) in limits.filter(|((limited, _), _)| *limited == name) {
            let is_fine =
                Version::parse(version).is_some_and(|is| if is_exact { is == *wanted } else { is >= *wanted });
            if !is_fine {
                let Version(major, minor, patch) = wanted;
                let relation = if is_exact { "exactly" } else { "at least" };
                broken(format!("{name} {version} is locked, wanted is {relation} {major}.{minor}.{patch}"));
            }
        }
    }
    findings
}

/// Finds packages in the output of `cargo tree`, one a line, that must not be built.
pub(super) fn check_built(tree: &str) -> Vec<Finding> {
    let name = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let mut findings = Vec::new();
    for (banned, why) in NOT_BUILT {
        if tree.lines().any(|line| name(line) == *banned) {
            let what = format!("{banned} is built: {why}; `cargo tree --invert {banned}` says for whom");
            findings.push(Finding { path: "Cargo.lock".into(), line: 0, what });
        }
    }
    findings
}

fn packages(lock: &str) -> Vec<Package<'_>> {
    let mut packages: Vec<Package<'_>> = Vec::new();
    for (at, line) in lock.lines().enumerate() {
        if line == "[[package]]" {
            packages.push(Package { line: at + 1, ..Package::default() });
        }
        if let (Some(package), Some((key, value))) = (packages.last_mut(), line.split_once(" = ")) {
            let value = value.trim_matches('"');
            match key {
                "name" => package.name = value,
                "version" => package.version = value,
                "source" => package.source = Some(value),
                "checksum" => package.has_checksum = true,
                _ => {}
            }
        }
    }
    packages
}

impl Version {
    /// The three numbers; a release candidate is not the release and has none.
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('+').next()?.split('.').map(str::parse::<u64>);
        let version = Self(numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        numbers.next().is_none().then_some(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked(name: &str, version: &str, source: &str) -> String {
        format!(
            "version = 4\n\n[[package]]\nname = {name:?}\nversion = {version:?}\nsource = {source:?}\nchecksum = \"00\"\n"
        )
    }

    #[test]
    fn only_what_is_allowed_may_be_locked() {
        for (name, version, is_fine) in [
            ("blake3", "1.8.7", true),
            ("openssl-sys", "0.9.1", false),
            ("bincode", "1.3.3", false),
            ("arrayref", "0.3.9", true),
            ("arrayref", "0.3.10", false),
            ("quinn-proto", "0.11.19", true),
            ("quinn-proto", "0.11.18", false),
            ("quinn-proto", "0.12.0", true),
            ("rustls", "0.23.45", false),
            ("rustls", "0.24.0-dev.1", false),
            ("rustls-webpki", "0.103.9", false),
        ] {
            assert_eq!(check(&locked(name, version, SOURCE)).is_empty(), is_fine, "{name} {version}");
        }
        assert_eq!(check(&locked("blake3", "1.8.7", "git+https://example.org/blake3")).len(), 1);
        assert_eq!(check(&locked("blake3", "1.8.7", SOURCE).replace("checksum", "sum")).len(), 1);
        assert_eq!(check("[[package]]\nname = \"tranship\"\nversion = \"0.1.0\"\n"), []);
    }

    #[test]
    fn a_second_crypto_provider_must_not_be_built() {
        assert_eq!(check_built("a v1.0.0\nring v0.17.14 (*)\n").len(), 1);
        assert_eq!(check_built("a v1.0.0\nring-buffer v0.1.0\n"), []);
    }
}
