//! A limit in bits per second that several links share and that may change while they run.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};

/// The longest burst after a pause, as time at the limit's rate.
const BURST: Duration = Duration::from_millis(10);

/// The time that one write may take at the limit's rate: what is left of the burst forgives timers that are late.
const CHUNK: Duration = Duration::from_micros(2_500);

/// Bytes of one limited write at most, and at least.
const CHUNK_BYTES_MAX: usize = 64 << 10;
const CHUNK_BYTES_MIN: usize = 1 << 10;

/// A handle on one budget: clones share it, and so do all links that were given one of them.
///
/// What counts is the bytes of frames. Packet headers, acknowledgements and repeats come on top: about 4 % at an MTU of
/// 1500 bytes.
#[derive(Debug, Clone)]
pub struct Bandwidth(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: watch::Sender<Option<NonZeroU64>>,
    /// Held by whoever waits for tokens; the others queue behind in order, so that no stream starves.
    bucket: Mutex<TokenBucket>,
}

impl Bandwidth {
    /// A budget of `limit` bits per second, or none.
    pub fn new(limit: Option<NonZeroU64>) -> Self {
        Self(Arc::new(Shared {
            limit: watch::Sender::new(limit),
            bucket: Mutex::new(TokenBucket::new(Instant::now())),
        }))
    }

    /// Bits per second, if they are limited.
    pub fn limit(&self) -> Option<NonZeroU64> {
        *self.0.limit.borrow()
    }

    /// Changes the limit, at once and for everyone, also for those who wait under the old one.
    pub fn set(&self, limit: Option<NonZeroU64>) {
        self.0.limit.send_replace(limit);
    }

    /// Waits until some of `bytes` may be sent and says how many.
    pub(super) async fn admit(&self, bytes: usize) -> usize {
        if self.limit().is_none() {
            return bytes;
        }
        let mut bucket = self.0.bucket.lock().await;
        let mut changes = self.0.limit.subscribe();
        loop {
            let Some(limit) = *changes.borrow_and_update() else { return bytes };
            let chunk = bytes.min(TokenBucket::chunk_bytes(limit));
            let Some(wait) = bucket.take(Instant::now(), chunk, limit) else { return chunk };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = changes.changed() => {}
            }
        }
    }
}

/// The arithmetic of a limit: tokens are bytes that may be sent now. Knows no clock.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    bytes: f64,
    filled: Instant,
}

impl TokenBucket {
    /// An empty bucket.
    pub fn new(now: Instant) -> Self {
        Self { bytes: 0.0, filled: now }
    }

    /// Takes `bytes`, or says how long to wait before asking again. At most [`TokenBucket::chunk_bytes`] can be had at
    /// one time. The `limit` is in bits per second and may differ from call to call.
    pub fn take(&mut self, now: Instant, bytes: usize, limit: NonZeroU64) -> Option<Duration> {
        let bytes_per_second = limit.get() as f64 / 8.0;
        // Two writes, where the rate is so low that one lasts longer than a burst: a late timer must not cost any.
        let most = (bytes_per_second * BURST.as_secs_f64()).max(2.0 * Self::chunk_bytes(limit) as f64);
        let elapsed = now.saturating_duration_since(self.filled);
        self.bytes = (self.bytes + elapsed.as_secs_f64() * bytes_per_second).min(most);
        self.filled = self.filled.max(now);

        let missing = bytes as f64 - self.bytes;
        if missing > 0.0 {
            return Some(Duration::from_secs_f64((missing / bytes_per_second).clamp(1e-6, 3600.0)));
        }
        self.bytes -= bytes as f64;
        None
    }

    /// Bytes to write at a time under `limit`, so that the flow is even.
    pub fn chunk_bytes(limit: NonZeroU64) -> usize {
        let bytes = limit.get() as f64 / 8.0 * CHUNK.as_secs_f64();
        (bytes as usize).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(bits: u64) -> NonZeroU64 {
        NonZeroU64::new(bits).unwrap()
    }

    /// Sends as fast as the bucket allows for `span`, with every wait made longer by `late`; returns the bytes.
    fn send(bucket: &mut TokenBucket, start: Instant, span: Duration, late: Duration, limit: NonZeroU64) -> usize {
        let (mut now, mut sent) = (start, 0);
        let chunk = TokenBucket::chunk_bytes(limit);
        while now < start + span {
            match bucket.take(now, chunk, limit) {
                Some(wait) => now += wait + late,
                None => sent += chunk,
            }
        }
        sent
    }

    #[test]
    fn the_rate_is_kept_over_ten_seconds_and_over_any_200_ms() {
        for bits in [200_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000, 40_000_000_000] {
            let start = Instant::now();
            let mut bucket = TokenBucket::new(start);
            for slice in 0..50 {
                let from = start + Duration::from_millis(200) * slice;
                let sent = send(&mut bucket, from, Duration::from_millis(200), Duration::from_millis(1), limit(bits));
                let want = bits as f64 / 8.0 * 0.2;
                // One chunk may fall on either side of an edge.
                let slack = TokenBucket::chunk_bytes(limit(bits)) as f64 + want * 0.05;
                assert!((sent as f64 - want).abs() <= slack, "{bits} bit/s: {sent} instead of {want} in 200 ms");
            }
            let mut bucket = TokenBucket::new(start);
            let sent = send(&mut bucket, start, Duration::from_secs(10), Duration::from_millis(2), limit(bits));
            let want = bits as f64 / 8.0 * 10.0;
            assert!((sent as f64 / want - 1.0).abs() < 0.02, "{bits} bit/s: {sent} instead of {want} in 10 s");
        }
    }

    #[test]
    fn a_pause_is_not_made_up_for_beyond_the_burst() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start);
        let limit = limit(1_000_000_000);
        let (mut sent, now) = (0, start + Duration::from_secs(60));
        while bucket.take(now, 1_000, limit).is_none() {
            sent += 1_000;
        }
        assert_eq!(sent, 1_250_000);
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start + Duration::from_secs(1));
        assert!(bucket.take(start, 1_000, limit(8_000)).is_some());
        assert!(bucket.take(start + Duration::from_secs(1), 1_000, limit(8_000)).is_some());
        assert!(bucket.take(start + Duration::from_secs(2), 1_000, limit(8_000)).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_under_a_low_limit_feels_a_new_one_at_once() {
        let bandwidth = Bandwidth::new(NonZeroU64::new(1));
        let waiting = tokio::spawn({
            let bandwidth = bandwidth.clone();
            async move { bandwidth.admit(1 << 20).await }
        });
        tokio::task::yield_now().await;
        bandwidth.set(None);
        assert_eq!(waiting.await.unwrap(), 1 << 20);
    }
}
