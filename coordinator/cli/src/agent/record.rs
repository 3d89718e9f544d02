//! What outlives an agent: the highest epoch, how the last pass of each volume ended, and its last word.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tranship_proto::control::Ended;
use tranship_proto::limit;

/// Files in a volume's folder.
const EPOCH_FILE: &str = ".epoch";
const LAST_PASS_FILE: &str = "last-pass.json";

/// Bytes of a container's last word that Kubernetes takes.
const SUMMARY_BYTES_MAX: usize = 4_096;

/// Lists in a report, which may be as long as the volume has surprises.
const LISTS: [&str; 3] = ["gaps", "left_out", "notes"];

/// Characters of an error's message that are kept where the whole is too long.
const MESSAGE_CHARS_MAX: usize = 1_000;

/// The highest epoch of a migration that was seen here: kept beside each volume, since which volumes share an agent may
/// change from one to the next.
#[derive(Debug)]
pub(super) struct EpochRecord {
    folders: Vec<PathBuf>,
    seen: Seen,
}

#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    migration: String,
    epoch: u64,
}

impl EpochRecord {
    /// Reads it. Of another migration than this, nothing counts.
    pub(super) fn open(folders: Vec<PathBuf>, migration: &str) -> io::Result<Self> {
        let mut seen = Seen { migration: migration.to_owned(), epoch: 0 };
        for folder in &folders {
            match fs::read(folder.join(EPOCH_FILE)) {
                // A damaged record may hide an epoch that must not be forgotten.
                Ok(bytes) => {
                    let found: Seen = serde_json::from_slice(&bytes)?;
                    if found.migration == migration {
                        seen.epoch = seen.epoch.max(found.epoch);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { folders, seen })
    }

    /// The highest so far.
    pub(super) fn highest(&self) -> u64 {
        self.seen.epoch
    }

    /// Makes it durable that this one was seen, if it is the highest.
    pub(super) fn raise(&mut self, epoch: u64) -> io::Result<()> {
        if epoch > self.seen.epoch {
            let seen = Seen { migration: self.seen.migration.clone(), epoch };
            let bytes = serde_json::to_vec(&seen)?;
            self.folders.iter().try_for_each(|folder| replace(&folder.join(EPOCH_FILE), &bytes))?;
            self.seen = seen;
        }
        Ok(())
    }
}

/// Keeps how a pass ended, in the folder of its volume.
pub(super) fn keep(folder: &Path, ended: &Ended) -> io::Result<()> {
    replace(&folder.join(LAST_PASS_FILE), &serde_json::to_vec(ended)?)
}

/// How the last pass ended there, if that is known.
pub(super) fn kept(folder: &Path) -> io::Result<Option<Ended>> {
    match fs::read(folder.join(LAST_PASS_FILE)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The file is as it was, or has these bytes; after success also if the machine loses power.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// A report that a line has room for: its lists lose their ends if they must.
pub(super) fn shorten_report(mut report: Value) -> Value {
    if length(&report) <= limit::CONTROL_REPORT_BYTES_MAX {
        return report;
    }
    // Of each kind the first says whether it was accepted; all are counted elsewhere in the report.
    if let Some(gaps) = report["gaps"].as_array_mut() {
        let mut kinds: Vec<Value> = Vec::new();
        gaps.sort_by_cached_key(|gap| {
            let is_known = kinds.contains(&gap["kind"]);
            if !is_known {
                kinds.push(gap["kind"].clone());
            }
            is_known
        });
    }
    report["shortened"] = true.into();
    let longest = |report: &Value| LISTS.iter().filter_map(|&list| Some(report[list].as_array()?.len())).max();
    while length(&report) > limit::CONTROL_REPORT_BYTES_MAX {
        let Some(keep) = longest(&report).filter(|&longest| longest > 0).map(|longest| longest / 2) else {
            // Nothing that an agent prints is like that.
            return json!({ "shortened": true });
        };
        LISTS.iter().filter_map(|&list| report[list].as_array_mut().map(|list| list.truncate(keep))).for_each(drop);
    }
    report
}

/// An error that a line has room for.
pub(super) fn shorten_error(error: Value) -> Value {
    if length(&error) <= limit::CONTROL_REPORT_BYTES_MAX {
        return error;
    }
    let text = |key: &str| error[key].as_str().unwrap_or_default().chars().take(MESSAGE_CHARS_MAX).collect::<String>();
    json!({ "code": text("code"), "message": text("message"), "causes": [], "hint": text("hint"), "shortened": true })
}

fn length(value: &Value) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |bytes| bytes.len())
}

/// An agent's last word: how passes ended, those that failed first; what there is no room for is counted.
pub(super) fn summary<'a>(migration: &str, passes: impl Iterator<Item = &'a Ended>) -> String {
    let mut passes: Vec<&Ended> = passes.collect();
    passes.sort_by_key(|ended| ended.exit == 0);
    let migration: String = migration.chars().take(limit::CONTROL_NAME_BYTES_MAX).collect();
    let all = passes.len();
    loop {
        let lines: Vec<Value> = passes.iter().map(|ended| line(ended)).collect();
        let text = json!({ "migration": migration, "passes": lines, "more": all - passes.len() }).to_string();
        if text.len() <= SUMMARY_BYTES_MAX || passes.pop().is_none() {
            return text;
        }
    }
}

fn line(ended: &Ended) -> Value {
    let null = Value::Null;
    let (report, error) = (ended.report.as_ref().unwrap_or(&null), ended.error.as_ref().unwrap_or(&null));
    json!({
        "pass": ended.pass,
        "volume": ended.volume,
        "role": ended.role,
        "exit": ended.exit,
        "stage": report["stage"],
        "digest_source": report["digest_source"],
        "digest_destination": report["digest_destination"],
        "proof": report["proof"]["canonical"],
        "error": error["code"],
    })
}

#[cfg(test)]
mod tests {
    use tranship_proto::control::Role;

    use super::*;

    fn ended(pass: &str, exit: u8) -> Ended {
        let (report, error) = (Some(json!({ "stage": 3, "proof": { "canonical": "ab".repeat(32) } })), None);
        Ended { pass: pass.into(), volume: "data".into(), role: Role::Source, exit, report, error }
    }

    #[test]
    fn an_epoch_is_never_forgotten_and_belongs_to_its_migration() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let open = |migration| EpochRecord::open(vec![folder.path().to_owned()], migration);
        let mut record = open("shop").expect("new");
        record.raise(7).expect("durable");
        record.raise(3).expect("nothing to do");
        assert_eq!((record.highest(), open("shop").expect("there").highest()), (7, 7));
        assert_eq!(open("bank").expect("there").highest(), 0);
        fs::write(folder.path().join(EPOCH_FILE), "{").expect("written");
        assert!(open("shop").is_err());
    }

    #[test]
    fn the_last_pass_of_a_volume_is_found_again() {
        let folder = tempfile::tempdir().expect("temporary folder");
        assert_eq!(kept(folder.path()).expect("nothing"), None);
        for pass in ["1", "2"] {
            keep(folder.path(), &ended(pass, 0)).expect("kept");
        }
        assert_eq!(kept(folder.path()).expect("there"), Some(ended("2", 0)));
        fs::write(folder.path().join(LAST_PASS_FILE), "nonsense").expect("written");
        assert!(kept(folder.path()).is_err());
    }

    #[test]
    fn a_long_report_keeps_its_numbers_and_one_gap_of_each_kind() {
        let short = json!({ "version": 1, "gaps": [] });
        assert_eq!(shorten_report(short.clone()), short);
        let mut gaps = vec![json!({ "kind": "owner", "path": "x".repeat(50) }); 5_000];
        gaps.push(json!({ "kind": "acl", "path": "y" }));
        let long = shorten_report(json!({ "version": 1, "gaps": gaps, "notes": ["n"], "gap_counts": [5_001] }));
        assert!(length(&long) <= limit::CONTROL_REPORT_BYTES_MAX);
        assert_eq!(
            (&long["version"], &long["gap_counts"][0], &long["shortened"]),
            (&json!(1), &json!(5_001), &json!(true))
        );
        assert_eq!((&long["gaps"][0]["kind"], &long["gaps"][1]["kind"]), (&json!("owner"), &json!("acl")));
        assert!(long["gaps"].as_array().is_some_and(|gaps| gaps.len() > 50), "{long}");
    }

    #[test]
    fn what_no_list_makes_long_is_dropped_and_an_error_keeps_its_code() {
        assert_eq!(shorten_report(json!({ "x": "x".repeat(30_000), "gaps": [1] }))["x"], Value::Null);
        let error = shorten_error(json!({ "code": "TS-E250", "message": "m".repeat(30_000) }));
        assert!(length(&error) < 2_000 && error["code"] == "TS-E250", "{error}");
    }

    #[test]
    fn the_last_word_fits_and_begins_with_what_failed() {
        let mut passes: Vec<Ended> = (0..100).map(|number| ended(&format!("{number}{}", "n".repeat(60)), 0)).collect();
        passes.push(ended("failed", 4));
        let text = summary("shop", passes.iter());
        assert!(text.len() <= SUMMARY_BYTES_MAX, "{}", text.len());
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&value["passes"][0]["pass"], &value["passes"][1]["stage"]), (&json!("failed"), &json!(3)));
        let told = value["passes"].as_array().expect("a list").len() as u64;
        assert!(told > 5 && value["more"] == json!(101 - told), "{told}");
    }
}
