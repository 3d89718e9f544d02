//! What a record remembers of what is over. It lies in an object of limited size, so that what is oldest goes in the end;
//! how much has gone is counted.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Happening, Path, Proof, Record, StageRecord, Timeline};
use crate::object::Side;

/// Passes that are remembered.
pub const STAGES_MAX: usize = 50;

/// Lines of history that are remembered.
pub const HISTORY_MAX: usize = 200;

/// Cutovers and rollbacks of which the proof is remembered, and what all of them may take as JSON. The last one always is.
pub const COMMITS_MAX: usize = 16;
const COMMITS_BYTES_MAX: usize = 256 << 10;

/// A cutover, or a rollback, that was committed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Commit {
    /// In which epoch.
    pub epoch: u64,
    /// Who gave up.
    pub from: Side,
    /// Its proof; nothing if it came about without one that is known.
    #[serde(default)]
    pub proof: Option<Proof>,
    /// Its downtime, step by step.
    #[serde(default)]
    pub timeline: Timeline,
}

/// How much a record does not remember any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dropped {
    /// Passes.
    #[serde(default)]
    pub stages: u64,
    /// Lines of history.
    #[serde(default)]
    pub history: u64,
    /// Cutovers and rollbacks.
    #[serde(default)]
    pub commits: u64,
}

impl Record {
    /// Adds a line to the history.
    pub fn happened(&mut self, at: Timestamp, what: impl Into<String>) {
        self.history.push(Happening { at, epoch: self.epoch, what: what.into() });
        self.dropped.history += drop_oldest(&mut self.history, HISTORY_MAX);
    }

    /// Adds a pass.
    pub fn passed(&mut self, stage: StageRecord) {
        self.stages.push(stage);
        self.dropped.stages += drop_oldest(&mut self.stages, STAGES_MAX);
    }

    /// How the agents beside this volume met last, or, where it has had no pass, those beside any other.
    pub fn path_of(&self, volume: usize) -> Option<&Path> {
        let of_volume = self.stages.iter().rev().filter(|stage| stage.volume == volume);
        of_volume.filter_map(|stage| stage.path.as_ref()).next().or(self.path.as_ref())
    }

    /// Adds the commit that is being made, with the proof that the record has.
    pub fn committed(&mut self) {
        let (epoch, from, timeline) = (self.epoch, self.owner, self.timeline);
        self.commits.push(Commit { epoch, from, proof: self.proof.clone(), timeline });
        self.dropped.commits += drop_oldest(&mut self.commits, COMMITS_MAX);
        let bytes = |commits: &[Commit]| serde_json::to_vec(commits).map_or(0, |text| text.len());
        while self.commits.len() > 1 && bytes(&self.commits) > COMMITS_BYTES_MAX {
            let max = self.commits.len() - 1;
            self.dropped.commits += drop_oldest(&mut self.commits, max);
        }
    }

    /// Gives the last commit the timeline that the record has by now.
    pub fn timed(&mut self) {
        if let Some(last) = self.commits.last_mut() {
            last.timeline = self.timeline;
        }
    }
}

/// Keeps the last `max`, and says how many went.
fn drop_oldest<T>(all: &mut Vec<T>, max: usize) -> u64 {
    let surplus = all.len().saturating_sub(max);
    all.drain(..surplus);
    surplus as u64
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::migration::{Migration, Mode};

    fn record() -> Record {
        let migration = Migration::new("move", "shop");
        Record::new(String::new(), String::new(), migration, Default::default(), Mode::Plain, vec![])
    }

    /// A cutover to the other side, with so many bytes in its proof.
    fn cut_over(record: &mut Record, bytes: usize) {
        record.epoch += 1;
        let volumes = vec![Value::from("x".repeat(bytes))];
        record.proof = Some(Proof { epoch: record.epoch, level: "full".to_owned(), volumes });
        record.committed();
        record.owner = record.owner.other();
    }

    #[test]
    fn each_cutover_keeps_its_proof_and_its_downtime() {
        let mut record = record();
        for second in [1, 2] {
            record.timeline = Timeline::default();
            cut_over(&mut record, 10);
            record.timeline.ready = Timestamp::from_second(second).ok();
            record.timed();
        }
        let kept = record.commits.iter().map(|one| {
            let proof = one.proof.as_ref().map(|proof| proof.epoch);
            (one.epoch, one.from, proof, one.timeline.ready.map(Timestamp::as_second))
        });
        let (there, back) = (Side::Source, Side::Destination);
        assert_eq!(kept.collect::<Vec<_>>(), [(1, there, Some(1), Some(1)), (2, back, Some(2), Some(2))]);
    }

    #[test]
    fn what_goes_is_counted_and_a_record_stays_small() {
        let mut record = record();
        for line in 0..HISTORY_MAX + 3 {
            record.happened(Timestamp::UNIX_EPOCH, line.to_string());
        }
        assert_eq!((record.history.len(), record.dropped.history), (HISTORY_MAX, 3));
        assert_eq!(record.history[0].what, "3");
        for _ in 0..COMMITS_MAX + 2 {
            cut_over(&mut record, 10);
        }
        assert_eq!((record.commits.len(), record.dropped.commits), (COMMITS_MAX, 2));
        for bytes in [COMMITS_BYTES_MAX / 2, COMMITS_BYTES_MAX / 2, 2 * COMMITS_BYTES_MAX] {
            cut_over(&mut record, bytes);
        }
        let last = record.commits.last().map(|last| last.epoch);
        assert_eq!((record.commits.len(), last), (1, Some(record.epoch)));
        assert_eq!(record.dropped.commits + 1, record.epoch);
    }

    #[test]
    fn a_record_from_before_this_was_remembered_can_be_read() {
        let mut old = serde_json::to_value(record()).expect("JSON");
        for field in ["commits", "dropped", "madeNamespace"] {
            old.as_object_mut().expect("an object").remove(field).unwrap_or_else(|| panic!("no {field}"));
        }
        old["proof"] = json!({"epoch": 1, "level": "full", "volumes": []});
        let read: Record = serde_json::from_value(old).expect("a record");
        assert!(read.proof.is_some() && read.commits.is_empty() && !read.made_namespace);
    }
}
