//! How long an application stood still, and whose time that was.

use crate::pods::Moments;

/// The downtime of one application, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Downtime {
    /// From its last acknowledged operation to the first one after.
    pub(crate) whole: f64,
    /// What of that it took to stop: from the moment that it was told to until nothing of it ran.
    pub(crate) stop: f64,
    /// What of that it took to start: from the moment that its pod had a node.
    pub(crate) start: f64,
    /// What of the start went by before its containers ran: volumes that are attached and mounted, above all.
    pub(crate) volumes: f64,
}

impl Downtime {
    /// From what its client and the clusters saw; nothing if the clusters were not seen to stop and start it.
    pub(crate) fn new([last_ms, first_ms]: [u64; 2], moments: Moments) -> Option<Self> {
        // Requests may fail before it is told to stop, and be answered before the cluster has noticed anything.
        let within = |at: u64| at.clamp(last_ms, first_ms);
        let seconds = |from: u64, to: u64| within(to).saturating_sub(within(from)) as f64 / 1e3;
        Some(Self {
            whole: seconds(last_ms, first_ms),
            stop: seconds(moments.told_ms?, moments.ended_ms?),
            start: seconds(moments.scheduled_ms?, first_ms),
            // Who answers runs, whatever the watch has told by then.
            volumes: seconds(moments.scheduled_ms?, moments.running_ms.unwrap_or(first_ms)),
        })
    }

    /// What was added by whoever moved it.
    pub(crate) fn added(&self) -> f64 {
        self.whole - self.stop - self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_applications_own_was_added() {
        let moments = |told, ended, scheduled| Moments {
            told_ms: Some(told),
            ended_ms: Some(ended),
            scheduled_ms: Some(scheduled),
            running_ms: Some(scheduled + 2_000),
        };
        for (outage, seen, [whole, stop, start, volumes, added]) in [
            // It answers for a while after it was told to stop.
            ([2_000, 12_000], moments(1_500, 3_000, 9_000), [10.0, 1.0, 3.0, 2.0, 6.0]),
            // It does not answer long before.
            ([2_000, 12_000], moments(4_000, 5_000, 9_000), [10.0, 1.0, 3.0, 2.0, 6.0]),
            // It answers before the watch has told of its pod.
            ([2_000, 12_000], moments(2_000, 3_000, 12_500), [10.0, 1.0, 0.0, 0.0, 9.0]),
        ] {
            let downtime = Downtime::new(outage, seen).expect("all was seen");
            let Downtime { whole: all, stop: stopped, start: started, volumes: mounted } = downtime;
            let found = [all, stopped, started, mounted, downtime.added()];
            assert_eq!(found, [whole, stop, start, volumes, added]);
        }
        assert_eq!(Downtime::new([1, 2], Moments::default()), None);
    }
}
