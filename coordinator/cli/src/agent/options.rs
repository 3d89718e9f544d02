//! What an agent is started with, as types that cannot be wrong.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tranship_proto::control::{code, is_name};
use tranship_proto::limit;

use crate::args::AgentArgs;
use crate::error::RunError;

/// Where Kubernetes takes a container's last word from.
const TERMINATION_FILE: &str = "/dev/termination-log";

/// Hexadecimal digits in a secret, and the most that its file may hold with white space around them.
const SECRET_DIGITS: usize = 64;
const SECRET_FILE_BYTES_MAX: u64 = 1_024;

/// An agent beside some volumes.
#[derive(Debug, Clone)]
pub(crate) struct AgentOptions {
    /// Where it listens for coordinators; a loopback address.
    pub(super) control: SocketAddr,
    /// The migration that it serves.
    pub(super) migration: String,
    /// Digest of the secret that a coordinator has to show.
    pub(super) secret: blake3::Hash,
    /// What it is beside.
    pub(super) volumes: Vec<Place>,
    /// How long it stays without a pass and without a word from a coordinator.
    pub(super) idle: Duration,
    /// Where it leaves its last word.
    pub(super) termination: Option<PathBuf>,
}

/// A volume and what is remembered of it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) state: PathBuf,
}

impl AgentArgs {
    /// What it means. Reads the secret.
    pub(crate) fn validate(self) -> Result<AgentOptions, RunError> {
        let Self { control, migration, secret_file, secret_hash, volume, state, idle, termination_file, .. } = self;
        // clap insists on these, unless it is the self-test.
        let (Some(migration), Some(secret_file), Some(state)) = (migration, secret_file, state) else {
            return Err(RunError::usage("--migration, --secret-file or --state is missing", "give all three"));
        };
        if !control.ip().is_loopback() {
            return Err(RunError::usage(
                "--control is not a loopback address: whoever reaches it could try secrets",
                "write 127.0.0.1:7400 or [::1]:7400, and reach it through a port-forward",
            ));
        }
        if volume.is_empty() || volume.len() > limit::CONTROL_VOLUMES_MAX {
            return Err(RunError::usage("--volume is needed 1 to 32 times", "write --volume NAME=PATH for each"));
        }
        let mut volumes: Vec<Place> = Vec::with_capacity(volume.len());
        for text in &volume {
            let place = parse_place(text, &state)?;
            if volumes.iter().any(|other| other.name == place.name) {
                return Err(RunError::usage("two volumes have the same name", "give each a name of its own"));
            }
            volumes.push(place);
        }
        Ok(AgentOptions {
            control,
            migration,
            secret: read_secret(&secret_file, secret_hash.as_deref())?,
            volumes,
            idle: parse_duration(&idle).ok_or_else(|| {
                RunError::usage("--idle is not a time", "write a whole number of seconds or minutes, as 60s or 5m")
            })?,
            termination: termination_file
                .or_else(|| Some(TERMINATION_FILE.into()).filter(|path: &PathBuf| path.exists())),
        })
    }
}

fn parse_place(text: &OsString, state: &Path) -> Result<Place, RunError> {
    let hint = "write --volume NAME=PATH; a name has 1 to 128 letters, digits, `-`, `_` and `.`";
    let bytes = text.as_bytes();
    let split = bytes.iter().position(|&byte| byte == b'=').unwrap_or(bytes.len());
    let name = String::from_utf8_lossy(&bytes[..split]).into_owned();
    let path = PathBuf::from(OsStr::from_bytes(bytes.get(split + 1..).unwrap_or_default()));
    if !is_name(&name) {
        return Err(RunError::usage("--volume has no name that can be used", hint));
    }
    match fs::metadata(&path) {
        Ok(_) => Ok(Place { state: state.join(&name), name, path }),
        Err(error) => Err(RunError::usage(format!("volume {name} is not there"), hint).because(error)),
    }
}

/// The digest of the secret in a file. If a digest of the whole file is given, the file must be the one that is meant.
fn read_secret(path: &Path, hash: Option<&str>) -> Result<blake3::Hash, RunError> {
    let refuse = |why: &str| RunError::refused(code::SECRET, format!("the secret in {} {why}", path.display()));
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SECRET_FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error: io::Error| refuse("cannot be read").because(error))?;
    if let Some(hash) = hash {
        let expected = blake3::Hash::from_hex(hash).map_err(|error| refuse("has no digest").because(error))?;
        if expected != blake3::hash(&bytes) {
            return Err(refuse("is not the one that this agent was made for"));
        }
    }
    let secret = bytes.trim_ascii();
    if secret.len() != SECRET_DIGITS || !secret.iter().all(u8::is_ascii_hexdigit) {
        return Err(refuse("does not have 64 hexadecimal digits"));
    }
    Ok(digest_of_secret(secret))
}

/// What is compared in place of secrets: equality of digests takes the same time whatever they are.
pub(super) fn digest_of_secret(secret: &[u8]) -> blake3::Hash {
    blake3::hash(secret)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (number, seconds) = match (text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(number), _) => (number, 1),
        (_, Some(number)) => (number, 60),
        _ => return None,
    };
    let number: u32 = number.parse().ok().filter(|&number| number > 0)?;
    Some(Duration::from_secs(u64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_that_is_meant_lets_an_agent_start() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("secret");
        let write = |content: &str| fs::write(&path, content).expect("written");
        let secret = "0f".repeat(32);
        write(&secret);
        let hash = blake3::hash(secret.as_bytes()).to_hex();
        assert_eq!(read_secret(&path, Some(&hash)).expect("it is"), digest_of_secret(secret.as_bytes()));
        assert_eq!(read_secret(&path, None).expect("it is"), digest_of_secret(secret.as_bytes()));
        assert!(read_secret(&path, Some(&blake3::hash(b"another").to_hex())).is_err());
        assert!(read_secret(&path, Some("nonsense")).is_err());
        write(&format!("{secret}\n"));
        assert_eq!(read_secret(&path, None).expect("it is"), digest_of_secret(secret.as_bytes()));
        for broken in ["", "0f", &"0g".repeat(32), &"0f".repeat(33)] {
            write(broken);
            assert!(read_secret(&path, None).is_err(), "{broken}");
        }
        assert!(read_secret(&folder.path().join("none"), None).is_err());
    }

    #[test]
    fn a_volume_has_a_name_that_can_be_a_folder_and_is_there() {
        let place = |text: &str| parse_place(&text.into(), Path::new("/state"));
        let found = place("data-0=/proc").expect("it is there");
        assert_eq!((&*found.name, &*found.path, &*found.state), ("data-0", "/proc".as_ref(), "/state/data-0".as_ref()));
        for text in ["", "/proc", "=/proc", "../x=/proc", ".x=/proc", "a/b=/proc", "a=/nowhere/at/all", "a="] {
            assert!(place(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(parse_duration("60s"), Some(Duration::from_secs(60)));
        assert_eq!(parse_duration("5m"), Some(Duration::from_secs(300)));
        for text in ["", "60", "s", "0s", "-1s", "1h", "99999999999s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
