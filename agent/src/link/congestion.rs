//! How much may be in flight: CUBIC on short paths, and on long ones a controller that follows the measured delivery
//! rate instead of taking every lost packet for congestion.
//!
//! CUBIC reaches 4 of 50 Mbit/s where half a percent of the packets is lost at a round trip of 50 ms. [`Wan`] keeps
//! `gain × delivery rate × shortest round trip` in flight, so that random loss does not slow it, and gives way when a
//! round loses clearly more than the path always does or when a queue builds up.

mod wan;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, Cubic, CubicConfig};
use quinn_proto::RttEstimator;

use self::wan::Wan;
use super::bandwidth::Bandwidth;

/// Which congestion control a link uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Congestion {
    /// CUBIC while the shortest round trip is at most 5 ms, else [`Congestion::Wan`].
    #[default]
    Auto,
    /// RFC 9438.
    Cubic,
    /// By delivery rate.
    Wan,
}

/// The shortest round trip of a path that is treated as a long one.
const LONG_RTT: Duration = Duration::from_millis(5);

/// Packets of the first flight. Fewer would make jumbo datagrams and the first round of a long path crawl.
const INITIAL_PACKETS: u64 = 64;

/// Makes a controller for each connection.
#[derive(Debug, Clone)]
pub(super) struct Factory {
    pub(super) kind: Congestion,
    /// The largest datagram that discovery may find, in bytes: at least one must fit into the window at all times.
    pub(super) mtu_max: u16,
    pub(super) bandwidth: Option<Bandwidth>,
}

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let initial = INITIAL_PACKETS * u64::from(self.mtu_max.max(current_mtu));
        let wan = Wan::new(now, initial, current_mtu);
        let law = if self.kind == Congestion::Wan { Law::Wan } else { Law::Cubic };
        let cubic = cubic(now, initial, current_mtu);
        Box::new(Adaptive {
            kind: self.kind,
            law,
            cubic,
            wan,
            mtu: current_mtu,
            rtt: None,
            bandwidth: self.bandwidth.clone(),
        })
    }
}

fn cubic(now: Instant, window: u64, mtu: u16) -> Cubic {
    let mut config = CubicConfig::default();
    config.initial_window(window);
    Cubic::new(Arc::new(config), now, mtu)
}

/// Which of the two decides now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Law {
    Cubic,
    Wan,
}

/// Both controllers over one path: nobody knows its length before the first round.
#[derive(Clone)]
pub(super) struct Adaptive {
    kind: Congestion,
    law: Law,
    cubic: Cubic,
    wan: Wan,
    mtu: u16,
    /// Smoothed and shortest round trip.
    rtt: Option<(Duration, Duration)>,
    bandwidth: Option<Bandwidth>,
}

impl Adaptive {
    /// For people.
    pub(super) fn name(&self) -> &'static str {
        match self.law {
            Law::Cubic => "cubic",
            Law::Wan => "wan",
        }
    }

    fn choose(&mut self, now: Instant) {
        let Some((_, shortest)) = self.rtt else { return };
        let law = match self.kind {
            Congestion::Cubic => Law::Cubic,
            Congestion::Wan => Law::Wan,
            Congestion::Auto if shortest > LONG_RTT => Law::Wan,
            Congestion::Auto => Law::Cubic,
        };
        if law != self.law {
            // The shortest round trip only falls: a first sample may have been slow, after which this goes back once.
            if law == Law::Cubic {
                self.cubic = cubic(now, self.wan.window(), self.mtu);
            } else {
                self.wan.start_from(self.cubic.window());
            }
            self.law = law;
        }
    }
}

impl Controller for Adaptive {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
        self.wan.on_sent(last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.rtt = Some((rtt.get(), rtt.min()));
        if self.law == Law::Cubic {
            self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
        }
        self.wan.on_ack(now, now.saturating_duration_since(sent), bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
        let smoothed = self.rtt.map_or(Duration::ZERO, |(smoothed, _)| smoothed);
        if self.wan.on_end_acks(now, app_limited, largest, smoothed) {
            self.choose(now);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        if self.law == Law::Cubic {
            self.cubic.on_congestion_event(now, sent, is_persistent, lost_bytes);
        }
        self.wan.on_loss(is_persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.cubic.on_mtu_update(new_mtu);
        self.wan.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        let window = match self.law {
            Law::Cubic => self.cubic.window(),
            Law::Wan => self.wan.window(),
        };
        // What waited behind a stalled path must not leave it in one burst far above the limit. Acknowledgements may be
        // 25 ms late (RFC 9000, 18.2), which the smoothed round trip does not contain.
        match (self.bandwidth.as_ref().and_then(Bandwidth::limit), self.rtt) {
            (Some(limit), Some((smoothed, _))) => {
                let span = smoothed.mul_f64(1.5) + Duration::from_millis(50);
                window.min((limit.get() as f64 / 8.0 * span.as_secs_f64()) as u64 + 64 * u64::from(self.mtu))
            }
            _ => window,
        }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.wan.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn adaptive(kind: Congestion) -> Adaptive {
        let now = Instant::now();
        let built = Arc::new(Factory { kind, mtu_max: 1_452, bandwidth: None }).build(now, 1_200);
        *built.into_any().downcast().unwrap()
    }

    #[test]
    fn the_law_follows_the_length_of_the_path() {
        let now = Instant::now();
        for (kind, shortest, name) in [
            (Congestion::Auto, ms(50), "wan"),
            (Congestion::Auto, ms(1), "cubic"),
            (Congestion::Cubic, ms(50), "cubic"),
            (Congestion::Wan, ms(1), "wan"),
        ] {
            let mut controller = adaptive(kind);
            assert!(controller.window() >= 64 * 1_452);
            controller.rtt = Some((shortest, shortest));
            controller.choose(now);
            assert_eq!(controller.name(), name, "{kind:?} at {shortest:?}");
        }
        let mut controller = adaptive(Congestion::Auto);
        for (shortest, name) in [(ms(20), "wan"), (ms(2), "cubic")] {
            controller.rtt = Some((shortest, shortest));
            controller.choose(now);
            assert_eq!(controller.name(), name);
        }
    }

    #[test]
    fn a_limit_bounds_the_window() {
        let mut controller = adaptive(Congestion::Auto);
        controller.wan.start_from(100 << 20);
        controller.law = Law::Wan;
        controller.rtt = Some((ms(20), ms(20)));
        assert_eq!(controller.window(), 100 << 20);
        controller.bandwidth = Some(Bandwidth::new(std::num::NonZeroU64::new(8_000_000)));
        assert!(controller.window() < 200_000, "{}", controller.window());
    }
}
