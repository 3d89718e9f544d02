//! How a move went: what the mover says of itself, and what others saw.

use serde_json::{Value, json};

use crate::application::Application;
use crate::cases::Contestant;
use crate::downtime::Downtime;
use crate::idle::Idle;

/// When the mover's own steps were over, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) stopping_ms: u64,
    pub(crate) released_ms: u64,
    /// The last copy is over, and proven by who proves.
    pub(crate) copied_ms: u64,
    /// The other side may start; nothing for who needs no such word.
    pub(crate) committed_ms: Option<u64>,
    pub(crate) ready_ms: u64,
}

/// What a mover tells.
pub(crate) struct Told {
    pub(crate) marks: Marks,
    /// The final pass and its proof as the agents have it, without what their pods take to be there.
    pub(crate) pass_seconds: Option<f64>,
    /// The downtime as it was projected before the cutover.
    pub(crate) projected_seconds: Option<f64>,
    /// Bytes of the volumes, as proven.
    pub(crate) bytes: Option<u64>,
    pub(crate) idle: Option<Idle>,
}

/// How a move went.
pub(crate) struct Outcome {
    pub(crate) who: Contestant,
    pub(crate) told: Told,
    /// When the last of the applications did not run any more.
    pub(crate) ended_ms: Option<u64>,
    pub(crate) downtimes: Vec<(Application, Option<Downtime>)>,
    /// Operations that were acknowledged and are not there.
    pub(crate) lost: usize,
    /// How fast the disk gives the volumes of both sides afterwards, if their last copy reads them from it.
    pub(crate) disk_bytes_per_second: Option<f64>,
}

impl Outcome {
    /// The timeline of the mover's downtime: each step with its seconds.
    pub(crate) fn steps(&self) -> Vec<(&'static str, f64)> {
        let Marks { stopping_ms, released_ms, copied_ms, committed_ms, ready_ms } = self.told.marks;
        let ended_ms = self.ended_ms.unwrap_or(released_ms).clamp(stopping_ms, released_ms);
        let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e3;
        let mut steps = vec![
            ("stop", seconds(stopping_ms, ended_ms)),
            ("release", seconds(ended_ms, released_ms)),
            (LAST_COPY, seconds(released_ms, copied_ms)),
        ];
        steps.extend(committed_ms.map(|committed_ms| ("commit", seconds(copied_ms, committed_ms))));
        steps.push(("start until ready", seconds(committed_ms.unwrap_or(copied_ms), ready_ms)));
        steps
    }

    /// Seconds of the final pass and its proof; of a script, of its last copy.
    pub(crate) fn last_copy(&self) -> f64 {
        let Marks { released_ms, copied_ms, .. } = self.told.marks;
        copied_ms.saturating_sub(released_ms) as f64 / 1e3
    }

    /// Seconds for which reading what was proven, once on either side, keeps the disk busy.
    pub(crate) fn reading(&self) -> Option<f64> {
        Some(2.0 * self.told.bytes? as f64 / self.disk_bytes_per_second?)
    }

    /// Seconds from the word to stop until ready.
    pub(crate) fn own_downtime(&self) -> f64 {
        let Marks { stopping_ms, ready_ms, .. } = self.told.marks;
        ready_ms.saturating_sub(stopping_ms) as f64 / 1e3
    }

    /// The most that was added to the downtime of any application; nothing where that was not seen.
    pub(crate) fn added(&self) -> Option<f64> {
        self.downtimes.iter().map(|(_, downtime)| downtime.map(|one| one.added())).try_fold(0.0, |most, one| {
            let one = one?;
            Some(f64::max(most, one))
        })
    }

    pub(crate) fn json(&self, case: &str) -> Value {
        let downtimes = self.downtimes.iter().map(|(application, downtime)| {
            let seconds = downtime
                .map(|one| json!({"whole": one.whole, "stop": one.stop, "start": one.start, "volumes": one.volumes, "added": one.added()}));
            json!({"application": application.name(), "seconds": seconds})
        });
        let idle = self.told.idle.as_ref();
        json!({
            "case": case,
            "contestant": self.who.name(),
            "steps": self.steps().into_iter().map(|(step, seconds)| json!([step, seconds])).collect::<Vec<_>>(),
            "own_downtime_seconds": self.own_downtime(),
            "pass_seconds": self.told.pass_seconds,
            "projected_seconds": self.told.projected_seconds,
            "proven_bytes": self.told.bytes,
            "downtimes": downtimes.collect::<Vec<_>>(),
            "lost": self.lost,
            "disk_bytes_per_second": self.disk_bytes_per_second,
            "idle": idle.map(|idle| json!({"rss_bytes": idle.rss_bytes, "cpu_share": idle.load()})),
        })
    }
}

/// What the step is called that a script has, too, without the proof.
pub(crate) const LAST_COPY: &str = "final pass and proof";
