//! What is known of a migration. It lies in both clusters, and every step of a cutover is written here before it has
//! effect, so that whoever comes next goes on from there.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::migration::{Migration, Mode};
use crate::object::{ObjectRef, Side};

mod errand;
mod past;

pub use errand::Errand;
pub use past::{COMMITS_MAX, Commit, Dropped, HISTORY_MAX, STAGES_MAX};

/// Version of the stored form.
pub const VERSION: u32 = 1;

/// What is known of a migration; the same on both sides but for [`Authority`], which each cluster has of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// Identity of the migration: 32 hexadecimal digits.
    pub id: String,
    /// Grows with each write, so that the newer of two copies can be told.
    pub revision: u64,
    /// Given to each command that changes something: the higher one wins.
    pub epoch: u64,
    /// Who has the epoch, for people: user, host and process.
    pub coordinator: String,
    /// The last coordinator that was made in the source's cluster, as it calls itself in `coordinator`.
    #[serde(default)]
    pub resident: Option<String>,
    /// What was left to it, if that is a cutover.
    #[serde(default)]
    pub errand: Option<Errand>,
    /// What is wanted, with every choice made.
    pub migration: Migration,
    /// UIDs of the two clusters' `kube-system` namespaces: source, destination.
    pub clusters: [String; 2],
    /// What is carried.
    pub mode: Mode,
    /// The volumes, in the order of their names.
    pub volumes: Vec<VolumeRecord>,
    /// Who has the application, or had it when the cutover that runs began.
    pub owner: Side,
    /// How far the cutover away from `owner` is.
    pub step: Step,
    /// When the steps of the cutover that runs, or ran last, were reached: the timeline of its downtime.
    #[serde(default)]
    pub timeline: Timeline,
    /// What was changed to stop the application on the side that it was on, in order.
    #[serde(default)]
    pub changes: Vec<Change>,
    /// Changes by which the application was stopped on the other side, from the cutover before: what a start undoes.
    #[serde(default)]
    pub changes_there: Vec<Change>,
    /// Whether the destination's namespace was made for it.
    #[serde(default)]
    pub made_namespace: bool,
    /// Objects that were brought to the destination.
    #[serde(default)]
    pub brought: Vec<Brought>,
    /// Reclaim policies of volumes as they were before they were set to Retain.
    #[serde(default)]
    pub retained: Vec<Retained>,
    /// The path on which the agents met last.
    #[serde(default)]
    pub path: Option<Path>,
    /// The last passes, oldest first.
    #[serde(default)]
    pub stages: Vec<StageRecord>,
    /// The proof of the last cutover, or of the one that is about to be committed.
    #[serde(default)]
    pub proof: Option<Proof>,
    /// Cutovers and rollbacks that were committed, each with its proof, oldest first.
    #[serde(default)]
    pub commits: Vec<Commit>,
    /// What happened, oldest first.
    #[serde(default)]
    pub history: Vec<Happening>,
    /// What is not remembered any more.
    #[serde(default)]
    pub dropped: Dropped,
}

/// A volume of the migration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeRecord {
    /// The claims: source, destination.
    pub claims: [ClaimRecord; 2],
    /// Whether it is a raw device.
    pub is_block: bool,
    /// Seconds of a final pass, as predicted by the last pass.
    #[serde(default)]
    pub predicted_seconds: Option<f64>,
    /// Bytes per second by which it changes, as the last pass has it.
    #[serde(default)]
    pub change_bytes_per_second: Option<f64>,
}

/// A claim on one side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRecord {
    /// Its name.
    pub name: String,
    /// Its UID; empty while it is not there.
    #[serde(default)]
    pub uid: String,
    /// Its storage class.
    #[serde(default)]
    pub storage_class: Option<String>,
    /// Its access modes.
    #[serde(default)]
    pub access_modes: Vec<String>,
    /// What is requested.
    #[serde(default)]
    pub size: String,
}

/// Steps of a cutover. Each is recorded before it has effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Step {
    /// No cutover runs: passes are stages.
    Staging,
    /// New users of the claims are being refused.
    Fencing,
    /// The application is being stopped, and its volumes let go.
    Quiescing,
    /// Nobody has the volumes: the last pass runs.
    FinalPass,
    /// Both sides are proven equal, which both clusters know: the owner is about to give up.
    Proven,
    /// The owner has given up, in its own cluster; the other may take over, and nobody may start.
    Relinquished,
    /// The new owner is authoritative: the application is being started there.
    Starting,
    /// Everything is undone up to here, and the owner's application is being started again.
    Restoring,
}

impl Step {
    /// Whether the owner has lost the right to start.
    pub fn is_committed(self) -> bool {
        matches!(self, Self::Relinquished | Self::Starting)
    }

    /// As people read it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Staging => "staging",
            Self::Fencing => "fencing",
            Self::Quiescing => "quiescing",
            Self::FinalPass => "final pass",
            Self::Proven => "proven",
            Self::Relinquished => "relinquished",
            Self::Starting => "starting",
            Self::Restoring => "restoring",
        }
    }
}

/// When the steps of a cutover were reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeline {
    /// The application was told to stop.
    #[serde(default)]
    pub stopping: Option<Timestamp>,
    /// Nobody has the volumes any more.
    #[serde(default)]
    pub released: Option<Timestamp>,
    /// The final pass is over, with its proof.
    #[serde(default)]
    pub proven: Option<Timestamp>,
    /// The new owner is authoritative.
    #[serde(default)]
    pub committed: Option<Timestamp>,
    /// The application is ready.
    #[serde(default)]
    pub ready: Option<Timestamp>,
}

/// What one cluster says of the right to run the application. It is the only thing that is not mirrored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Authority {
    /// The other side has it, or nobody has said anything else.
    None,
    /// This side may start the application.
    Authoritative {
        /// Since which cutover; 0 from the beginning.
        epoch: u64,
        /// What the former owner wrote when it gave up; nothing at the beginning, or where a user overrode.
        #[serde(default)]
        relinquished: Option<Box<Authority>>,
    },
    /// This side has given up, and starts nothing.
    Relinquished {
        /// In which cutover.
        epoch: u64,
        /// Canonical digests of the volumes, in the order of the record.
        digests: Vec<String>,
    },
}

/// A proof, as it was printed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// In which cutover.
    pub epoch: u64,
    /// `full` or `tracked`.
    pub level: String,
    /// For each volume of the record: the agents' own proof.
    pub volumes: Vec<Value>,
}

/// Something that was changed so that an application stops, with the exact former value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// On what; its UID is known.
    pub object: ObjectRef,
    /// What kind of change.
    pub act: Act,
    /// How far it is.
    pub state: ChangeState,
}

/// What was done to an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "act")]
pub enum Act {
    /// Replicas, through the scale subresource.
    Scale {
        /// As it was.
        before: i32,
        /// As we set it.
        after: i32,
    },
    /// A field, by its JSON pointer.
    Set {
        /// Where.
        pointer: String,
        /// As it was; null for absent.
        before: Value,
        /// As we set it.
        after: Value,
    },
    /// A pod without an owner was deleted.
    Delete {
        /// The object, fit to be created again.
        manifest: Value,
    },
}

/// How far a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ChangeState {
    /// It may or may not have had effect.
    Planned,
    /// It has.
    Made,
    /// It was taken back, or somebody else has changed it since.
    Undone,
}

/// An object that was made at the destination from one of the source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Brought {
    /// The object at the destination.
    pub object: ObjectRef,
    /// Replicas that it is to have once it may start; nothing for what does not start.
    #[serde(default)]
    pub replicas: Option<i32>,
    /// Whether it was there before, with our mark or as the user's own.
    #[serde(default)]
    pub was_there: bool,
}

/// A volume whose reclaim policy we changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retained {
    /// In which cluster.
    pub side: Side,
    /// Name of the PersistentVolume.
    pub volume: String,
    /// The policy as it was.
    pub before: String,
}

/// How the agents met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Path {
    /// Which side listened.
    pub listen: Side,
    /// Whether through both API servers.
    pub is_relayed: bool,
    /// `quic` or `tcp`, as measured.
    #[serde(default)]
    pub transport: String,
    /// Where the listener was reached.
    #[serde(default)]
    pub address: String,
}

/// One pass over one volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageRecord {
    /// Index of the volume in the record.
    pub volume: usize,
    /// The pass, as the agents know it.
    pub pass: String,
    /// When it began.
    pub at: Timestamp,
    /// Whether it went from the destination to the source.
    #[serde(default)]
    pub is_back: bool,
    /// Whether it was a final one.
    #[serde(default)]
    pub is_final: bool,
    /// How it ended: the agent's exit code, or 255 where it ended without a word.
    pub exit: u8,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Number of the pass over this pair of volumes.
    #[serde(default)]
    pub stage: u64,
    /// Seconds that it took.
    #[serde(default)]
    pub seconds: f64,
    /// Entries that were looked at.
    #[serde(default)]
    pub entries: u64,
    /// Logical bytes that were looked at.
    #[serde(default)]
    pub bytes: u64,
    /// Bytes that were sent.
    #[serde(default)]
    pub sent: u64,
    /// Kinds of gaps, each with its number.
    #[serde(default)]
    pub gaps: Vec<(String, u64)>,
    /// How the agents met, if they did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Path>,
}

impl StageRecord {
    /// Its kind and number, as people read them.
    pub fn title(&self) -> String {
        let kind = match (self.is_final, self.is_back) {
            (false, false) => "stage",
            (false, true) => "stage back",
            (true, false) => "final",
            (true, true) => "final back",
        };
        format!("{kind} {}", self.stage)
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Happening {
    /// When.
    pub at: Timestamp,
    /// In which epoch.
    pub epoch: u64,
    /// What, in one sentence.
    pub what: String,
}

impl Record {
    /// The record of a migration that has just been made: the source owns the application, and nothing has happened.
    pub fn new(
        id: String,
        coordinator: String,
        migration: Migration,
        clusters: [String; 2],
        mode: Mode,
        volumes: Vec<VolumeRecord>,
    ) -> Self {
        Self {
            version: VERSION,
            id,
            revision: 1,
            epoch: 0,
            coordinator,
            resident: None,
            errand: None,
            migration,
            clusters,
            mode,
            volumes,
            owner: Side::Source,
            step: Step::Staging,
            timeline: Timeline::default(),
            changes: Vec::new(),
            changes_there: Vec::new(),
            made_namespace: false,
            brought: Vec::new(),
            retained: Vec::new(),
            path: None,
            stages: Vec::new(),
            proof: None,
            commits: Vec::new(),
            history: Vec::new(),
            dropped: Dropped::default(),
        }
    }

    /// Whether a coordinator in the source's cluster has the epoch.
    pub fn is_led_by_resident(&self) -> bool {
        self.resident.as_ref() == Some(&self.coordinator)
    }

    /// The application's namespace on this side.
    pub fn namespace(&self, side: Side) -> &str {
        self.migration.namespace(side)
    }

    /// A command about this migration as whoever has both contexts can type it, on any machine.
    pub fn command(&self, verb: &str) -> String {
        let migration = &self.migration;
        let mut command = format!("tranship {verb} {}", migration.metadata.name);
        for (flag, side) in [("--from", Side::Source), ("--to", Side::Destination)] {
            if let Some(context) = migration.context(side) {
                command.push_str(&format!(" {flag} {context}"));
            }
        }
        let [namespace, new] = Side::ALL.map(|side| self.namespace(side));
        let renamed = if namespace == new { String::new() } else { format!(":{new}") };
        command + &format!(" --namespace {namespace}{renamed}")
    }

    /// The command that goes on with what is under way, from any machine: a rollback is a cutover that the destination's
    /// owner makes.
    pub fn command_on(&self) -> String {
        self.command(if self.owner == Side::Source { "cutover" } else { "rollback" })
    }

    /// The command that takes back what is under way, as long as it is not committed.
    pub fn command_back(&self) -> String {
        self.command(if self.owner == Side::Source { "rollback" } else { "cutover" })
    }

    /// Since when the application stands still, if a cutover has stopped it and has not started it yet.
    pub fn stopped_since(&self) -> Option<Timestamp> {
        self.timeline.stopping.filter(|_| !matches!(self.step, Step::Staging | Step::Fencing))
    }

    /// Names of the claims on this side.
    pub fn claims(&self, side: Side) -> Vec<String> {
        self.volumes.iter().map(|volume| volume.claim(side).name.clone()).collect()
    }

    /// Kinds of gaps that may stay behind, beside those that may already.
    pub fn accept_gaps(&mut self, kinds: &[String]) {
        let accepted = &mut self.migration.spec.accept_gaps;
        accepted.extend_from_slice(kinds);
        accepted.sort();
        accepted.dedup();
    }

    /// Seconds of a final pass over all volumes side by side, as the last passes predict it; nothing while one of them
    /// cannot be told.
    pub fn predicted_seconds(&self) -> Option<f64> {
        self.volumes.iter().map(|volume| volume.predicted_seconds).try_fold(0.0, |most, one| Some(f64::max(most, one?)))
    }
}

impl VolumeRecord {
    /// The claim on this side.
    pub fn claim(&self, side: Side) -> &ClaimRecord {
        &self.claims[side as usize]
    }
}
