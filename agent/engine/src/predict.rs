//! How long a last pass would take now.
//!
//! While a stage copies, the application goes on changing; what it changes in that time is what a last pass finds.
//! Its duration is what no pass can avoid (scanning, round trips, committing), plus that change at the rate at which
//! changes are copied, plus reading everything once more for the proof.

use std::time::Duration;

/// What was seen of a stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observed {
    /// The whole stage.
    pub duration: Duration,
    /// The part of it that went with the amount of change.
    pub copying: Duration,
    /// Bytes that it found changed.
    pub changed_bytes: u64,
    /// Since the stage before it began; its changes came in this time.
    pub interval: Duration,
    /// Bytes of the volume.
    pub volume_bytes: u64,
    /// Bytes per second that the fastest stage so far read.
    pub read_bytes_per_second: u64,
}

impl Observed {
    /// Bytes per second that the application changed.
    pub fn change_bytes_per_second(&self) -> f64 {
        self.changed_bytes as f64 / self.interval.as_secs_f64().max(0.001)
    }

    /// Seconds of a last pass that starts when this stage ends, with a proof that reads everything if `is_full`.
    pub fn final_seconds(&self, is_full: bool) -> f64 {
        let stage = self.duration.as_secs_f64();
        let changed = (self.change_bytes_per_second() * stage).min(self.volume_bytes as f64);
        let unavoidable = stage - self.copying.as_secs_f64();
        let copying = if self.changed_bytes == 0 {
            0.0
        } else {
            changed * self.copying.as_secs_f64() / self.changed_bytes as f64
        };
        let proof = if is_full { self.volume_bytes as f64 / self.read_bytes_per_second.max(1) as f64 } else { 0.0 };
        unavoidable.max(0.0) + copying + proof
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed() -> Observed {
        Observed {
            duration: Duration::from_secs(10),
            copying: Duration::from_secs(8),
            changed_bytes: 8_000,
            interval: Duration::from_secs(100),
            volume_bytes: 1_000_000,
            read_bytes_per_second: 500_000,
        }
    }

    #[test]
    fn what_changes_during_the_stage_is_copied_at_the_stages_own_rate() {
        // 80 bytes a second change for 10 seconds, and 1,000 bytes a second are copied.
        let seconds = observed().final_seconds(false);
        assert!((seconds - (2.0 + 0.8)).abs() < 1e-9, "{seconds}");
        let with_proof = observed().final_seconds(true);
        assert!((with_proof - seconds - 2.0).abs() < 1e-9, "{with_proof}");
    }

    #[test]
    fn a_volume_that_does_not_change_costs_what_no_pass_can_avoid() {
        let still = Observed { changed_bytes: 0, copying: Duration::ZERO, ..observed() };
        assert_eq!(still.final_seconds(false), 10.0);
    }
}
