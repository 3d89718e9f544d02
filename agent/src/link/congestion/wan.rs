//! A controller that keeps `gain × delivery rate × shortest round trip` in flight. Knows no QUIC: it is told what was
//! sent, acknowledged and lost, and when.

use std::time::{Duration, Instant};

/// Window gains of the rounds of one cycle: look for more, drain what that queued, then stay a little above for the
/// rest. How much more to look for is learned: a shallow queue drops all of it.
const PROBE_MAX: f64 = 1.4;
const DRAIN: f64 = 0.9;
const CRUISE: f64 = 1.15;
const CYCLE_ROUNDS: usize = 8;

/// Rounds whose best delivery rate counts.
const RATE_ROUNDS: usize = 10;

/// How long a shortest round trip is believed; the draining round of each cycle shows it anew.
const RTT_MEMORY: Duration = Duration::from_secs(10);

/// Loss in one round above what the path loses without a queue, as a share, that means congestion.
const LOSS_MAX: f64 = 0.02;

/// Round trips, as multiples of the shortest one, that show a queue, and one that must not grow.
const QUEUE_SOME: f64 = 1.25;
const QUEUE_MUCH: f64 = 1.5;

/// Packets of one round that must be lost to tell anything.
const LOSSES_MIN: u64 = 8;

/// Loss that a path may have as its habit.
const HABIT_MAX: f64 = 0.08;

/// The delivery-rate controller.
#[derive(Debug, Clone)]
pub(super) struct Wan {
    initial: u64,
    window: u64,
    mtu: u64,
    phase: Phase,
    /// Bytes per second of the last rounds, the oldest overwritten first.
    rates: [f64; RATE_ROUNDS],
    rounds: usize,
    shortest: Shortest,
    round: Round,
    /// The gain of the next probe.
    probe: f64,
    /// Taken off the gain after rounds of heavy loss.
    restraint: f64,
    /// Share of the bytes that is lost although no queue stands.
    habit: f64,
}

#[derive(Debug, Clone)]
enum Phase {
    /// Doubling until three rounds in a row bring no quarter more.
    Startup { best: f64, flat_rounds: u32 },
    /// Around the measured rate.
    Steady { cycle: usize },
}

/// One round trip's worth of acknowledgements.
#[derive(Debug, Clone)]
struct Round {
    started: Instant,
    /// The round ends when a packet from this number on is acknowledged.
    end: u64,
    last_sent: u64,
    acked: u64,
    lost: u64,
}

/// The shortest round trip of a sliding while, in two halves.
#[derive(Debug, Clone, Default)]
struct Shortest {
    former: Option<Duration>,
    current: Option<Duration>,
    since: Option<Instant>,
}

impl Shortest {
    fn add(&mut self, now: Instant, rtt: Duration) {
        let since = *self.since.get_or_insert(now);
        // Long paths need several cycles to show their length.
        if now.saturating_duration_since(since) > RTT_MEMORY.max(rtt * 32) / 2 {
            (self.former, self.current, self.since) = (self.current, None, Some(now));
        }
        self.current = Some(self.current.map_or(rtt, |current| current.min(rtt)));
    }

    fn get(&self) -> Option<Duration> {
        self.former.into_iter().chain(self.current).min()
    }
}

impl Wan {
    pub(super) fn new(now: Instant, initial: u64, mtu: u16) -> Self {
        Self {
            initial,
            window: initial,
            mtu: mtu.into(),
            phase: Phase::Startup { best: 0.0, flat_rounds: 0 },
            rates: [0.0; RATE_ROUNDS],
            rounds: 0,
            shortest: Shortest::default(),
            round: Round { started: now, end: 0, last_sent: 0, acked: 0, lost: 0 },
            probe: PROBE_MAX,
            restraint: 1.0,
            habit: 0.0,
        }
    }

    pub(super) fn initial_window(&self) -> u64 {
        self.initial
    }

    pub(super) fn window(&self) -> u64 {
        self.window.max(4 * self.mtu)
    }

    pub(super) fn start_from(&mut self, window: u64) {
        self.window = self.window.max(window);
    }

    pub(super) fn on_sent(&mut self, packet: u64) {
        self.round.last_sent = packet;
    }

    pub(super) fn on_ack(&mut self, now: Instant, rtt: Duration, bytes: u64) {
        self.shortest.add(now, rtt);
        self.round.acked += bytes;
        if matches!(self.phase, Phase::Startup { .. }) {
            self.window += bytes;
            if let Some(bound) = self.flight(2.89) {
                self.window = self.window.min((bound as u64 + 64 * self.mtu).max(self.initial));
            }
        }
    }

    pub(super) fn on_loss(&mut self, is_persistent: bool, bytes: u64) {
        self.round.lost += bytes;
        if is_persistent {
            // The path went away: nothing that was measured on it counts.
            self.rates = [0.0; RATE_ROUNDS];
            self.phase = Phase::Startup { best: 0.0, flat_rounds: 0 };
            self.window = self.initial;
        }
    }

    pub(super) fn on_mtu_update(&mut self, mtu: u16) {
        self.mtu = mtu.into();
    }

    /// Bytes in flight at `gain`, once something was measured.
    fn flight(&self, gain: f64) -> Option<f64> {
        let rate = self.rate();
        let shortest = self.shortest.get()?;
        (rate > 0.0).then_some(gain * rate * shortest.as_secs_f64())
    }

    fn rate(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    /// Ends the round if it is over, and says whether it was.
    pub(super) fn on_end_acks(
        &mut self,
        now: Instant,
        app_limited: bool,
        largest: Option<u64>,
        smoothed: Duration,
    ) -> bool {
        let Some(shortest) = self.shortest.get() else { return false };
        let elapsed = now.saturating_duration_since(self.round.started);
        if largest.is_none_or(|largest| largest < self.round.end)
            || elapsed < shortest.mul_f64(0.8)
            || elapsed.is_zero()
        {
            return false;
        }
        let (acked, lost) = (self.round.acked as f64, self.round.lost as f64);
        let rate = acked / elapsed.as_secs_f64();
        // A sender that had nothing to say has not measured the path, unless it was faster than ever.
        if !app_limited || rate > self.rate() {
            self.rates[self.rounds % RATE_ROUNDS] = rate;
            self.rounds += 1;
        }
        let loss = if acked + lost > 0.0 { lost / (acked + lost) } else { 0.0 };
        let queue = smoothed.as_secs_f64() / shortest.as_secs_f64().max(1e-6);
        if queue < QUEUE_SOME {
            self.habit = (0.9 * self.habit + 0.1 * loss).min(HABIT_MAX);
        }
        // A few packets are no sample: of a small round, one or two are lost by chance.
        let excess = if lost >= (LOSSES_MIN * self.mtu) as f64 { loss - self.habit } else { 0.0 };
        self.advance(app_limited, excess, queue);
        self.round = Round { started: now, end: self.round.last_sent + 1, acked: 0, lost: 0, ..self.round };
        true
    }

    fn advance(&mut self, app_limited: bool, excess_loss: f64, queue: f64) {
        let rate = self.rate();
        match &mut self.phase {
            Phase::Startup { best, flat_rounds } => {
                if rate > *best * 1.25 {
                    (*best, *flat_rounds) = (rate, 0);
                } else if !app_limited {
                    *flat_rounds += 1;
                }
                let patience = if queue > QUEUE_SOME { 1 } else { 3 };
                if *flat_rounds < patience && excess_loss <= 0.05 {
                    return;
                }
                // First drain what the doubling has queued.
                self.phase = Phase::Steady { cycle: 1 };
            }
            Phase::Steady { cycle } => *cycle += 1,
        }
        let Phase::Steady { cycle } = self.phase else { return };
        self.restraint =
            if excess_loss > LOSS_MAX { (self.restraint * 0.9).max(0.5) } else { (self.restraint + 0.02).min(1.0) };
        let gain = match cycle % CYCLE_ROUNDS {
            0 => self.probe,
            1 => DRAIN,
            _ => CRUISE,
        };
        // The probe's losses are seen while it is drained, or in the round after.
        match cycle % CYCLE_ROUNDS {
            1 | 2 if excess_loss > LOSS_MAX => self.probe = CRUISE + (self.probe - CRUISE) / 2.0,
            3 if self.restraint == 1.0 => self.probe = (self.probe + 0.02).min(PROBE_MAX),
            _ => {}
        }
        let gain = gain.min(if queue > QUEUE_MUCH { 1.0 } else { f64::MAX });
        if let Some(flight) = self.flight(gain * self.restraint) {
            self.window = flight as u64 + 4 * self.mtu;
        }
    }
}

#[cfg(test)]
#[expect(clippy::print_stdout, reason = "a failed simulation tells how each seed did")]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// A path with one bottleneck: rate, one-way delays, a queue that drops at its end, and random loss.
    struct Path {
        bits_per_second: f64,
        rtt: Duration,
        loss: f64,
        queue: Duration,
    }

    struct Outcome {
        goodput: f64,
        lost: f64,
        shortest: Duration,
        longest: Duration,
    }

    const MTU: u64 = 1_452;

    /// Runs a sender that always has data, paced as quinn paces (1.25 windows in a round trip), for `span`.
    fn run(path: &Path, span: Duration, seed: u64) -> Outcome {
        let start = Instant::now();
        let mut wan = Wan::new(start, 64 * MTU, MTU as u16);
        let mut random = seed | 1;
        let mut chance = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 11) as f64 / (1u64 << 53) as f64
        };
        let step = Duration::from_secs_f64(MTU as f64 * 8.0 / path.bits_per_second);
        let (mut now, mut link_free, mut pace) = (start, start, start);
        // Packets in flight in order of sending: number, sent, when the answer arrives (none: lost).
        let mut flight: VecDeque<(u64, Instant, Option<Instant>)> = VecDeque::new();
        let mut holes = Vec::new();
        let (mut packet, mut sent, mut lost, mut delivered) = (0u64, 0u64, 0u64, 0u64);
        let (mut smoothed, mut shortest, mut longest) = (path.rtt, Duration::MAX, Duration::ZERO);
        let settled = start + span / 5;
        while now < start + span {
            // What has been answered; a hole three packets behind an answer is a loss.
            let mut largest = None;
            while let Some(&(number, at, answer)) = flight.front() {
                match answer {
                    None => holes.push((number, at)),
                    Some(answer) if answer <= now => {
                        let rtt = answer - at;
                        smoothed = (smoothed * 7 + rtt) / 8;
                        wan.on_ack(now, rtt, MTU);
                        largest = Some(number);
                        if now > settled {
                            delivered += MTU;
                            (shortest, longest) = (shortest.min(rtt), longest.max(rtt));
                        }
                    }
                    Some(_) => break,
                }
                flight.pop_front();
            }
            holes.retain(|&(number, at)| {
                let is_lost = largest.is_some_and(|largest| number + 3 <= largest) || now > at + path.rtt * 3;
                if is_lost {
                    wan.on_loss(false, MTU);
                }
                !is_lost
            });
            if largest.is_some() {
                wan.on_end_acks(now, false, largest, smoothed);
            }
            while (flight.len() + holes.len()) as u64 * MTU < wan.window() && pace <= now {
                sent += 1;
                let queue = link_free.saturating_duration_since(now);
                let answer = if queue > path.queue || chance() < path.loss {
                    lost += 1;
                    None
                } else {
                    link_free = link_free.max(now) + step;
                    Some(link_free + path.rtt)
                };
                wan.on_sent(packet);
                flight.push_back((packet, now, answer));
                packet += 1;
                pace = pace.max(now - Duration::from_millis(2))
                    + smoothed.mul_f64(MTU as f64 / (1.25 * wan.window() as f64));
            }
            now += Duration::from_micros(100);
        }
        let seconds = (start + span - settled).as_secs_f64();
        Outcome { goodput: delivered as f64 * 8.0 / seconds, lost: lost as f64 / sent as f64, shortest, longest }
    }

    fn check(path: Path, goodput_min: f64, lost_max: f64) -> Outcome {
        for seed in [1, 77, 4_711] {
            let outcome = run(&path, Duration::from_secs(20), seed);
            let (share, lost) = (outcome.goodput / path.bits_per_second, outcome.lost);
            println!(
                "seed {seed}: {share:.3} of the rate, {lost:.4} lost, {:?}..{:?}",
                outcome.shortest, outcome.longest
            );
            assert!(share >= goodput_min, "seed {seed}: only {share:.3} of the rate");
            assert!(lost <= lost_max, "seed {seed}: {lost:.4} of the packets lost");
        }
        run(&path, Duration::from_secs(20), 1)
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn random_loss_does_not_slow_a_long_path() {
        check(Path { bits_per_second: 50e6, rtt: ms(50), loss: 0.005, queue: ms(50) }, 0.9, 0.02);
        check(Path { bits_per_second: 500e6, rtt: ms(50), loss: 0.001, queue: ms(25) }, 0.88, 0.016);
        check(Path { bits_per_second: 50e6, rtt: ms(200), loss: 0.01, queue: ms(100) }, 0.85, 0.025);
    }

    #[test]
    fn a_clean_path_is_filled_without_a_standing_queue() {
        let outcome = check(Path { bits_per_second: 50e6, rtt: ms(50), loss: 0.0, queue: ms(200) }, 0.95, 0.002);
        assert!(outcome.shortest < ms(56), "the queue is never empty: {:?}", outcome.shortest);
        assert!(outcome.longest < ms(85), "the queue grows to {:?}", outcome.longest);
    }

    #[test]
    fn a_shallow_queue_is_not_flooded() {
        check(Path { bits_per_second: 50e6, rtt: ms(50), loss: 0.0, queue: ms(10) }, 0.85, 0.03);
    }
}
