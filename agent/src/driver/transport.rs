//! Whether contents take QUIC, or TCP beside it.
//!
//! On a fast network with a short round trip, what a link carries is what two hosts' processors can do; there TCP may be
//! well ahead, because the kernel and the network card do for it what a process does for QUIC. Elsewhere QUIC is as fast
//! as the network, and fairer to have. So QUIC begins; once it has been the bottleneck of a fast transfer for a while and
//! enough is left, TCP gets the same chance, and keeps the contents if it was clearly faster.

use std::time::{Duration, Instant};

/// Bytes at the beginning of a turn that do not count: buffers fill, and the last turn's drain.
const SETTLING_BYTES: u64 = 64 << 20;
/// Bytes of a turn that count.
const TURN_BYTES: u64 = 192 << 20;
/// Bytes that must be left, for both to be worth the trouble.
const LEFT_BYTES_MIN: u64 = 3 * (SETTLING_BYTES + TURN_BYTES);
/// Bytes per second below which the network or a disk is what limits a transfer, and the longest round trip of a network
/// on which it may be the processors.
const RATE_MIN: f64 = 100e6;
const RTT_MAX: Duration = Duration::from_millis(5);
/// What TCP must carry in the time in which QUIC carries 1: less could be chance.
const GAIN_MIN: f64 = 1.1;
/// How many times as long as QUIC's TCP's turn may last, in case it does not get on at all.
const PATIENCE: f64 = 2.0;

/// What the transfer has come to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    pub(super) now: Instant,
    /// Bytes that were handed to either transport.
    pub(super) sent_bytes: u64,
    /// Bytes that may still have to be.
    pub(super) left_bytes: u64,
    /// Whether the link is what was waited for most of the time since the last call.
    pub(super) is_limit: bool,
    pub(super) rtt: Option<Duration>,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Advice {
    /// Go on.
    None,
    /// Open streams over TCP, then say so by [`Choice::begin_turn`].
    TryTcp,
    /// TCP was not worth it: back to QUIC, for good.
    ReturnToQuic,
    /// TCP it is.
    StayWithTcp,
}

/// The choice of one pass.
#[derive(Debug)]
pub(super) enum Choice {
    /// QUIC's turn.
    Quic(Turn),
    /// Streams over TCP are being opened.
    Opening { quic_rate: f64 },
    /// TCP's turn.
    Tcp { turn: Turn, quic_rate: f64 },
    /// It is made, or there is none.
    Made,
}

impl Choice {
    /// QUIC begins, if there is a choice.
    pub(super) fn new(has_choice: bool) -> Self {
        if has_choice { Self::Quic(Turn::default()) } else { Self::Made }
    }

    /// Whether there is nothing to be asked any more.
    pub(super) fn is_made(&self) -> bool {
        matches!(self, Self::Made)
    }

    /// TCP's streams are there and carry everything from now on.
    pub(super) fn begin_turn(&mut self, now: Instant, sent_bytes: u64) {
        if let Self::Opening { quic_rate } = *self {
            *self = Self::Tcp { turn: Turn::begin(now, sent_bytes), quic_rate };
        }
    }

    /// TCP does not get through: QUIC, for good.
    pub(super) fn give_up(&mut self) {
        *self = Self::Made;
    }

    /// To be asked several times a second.
    pub(super) fn advise(&mut self, progress: Progress) -> Advice {
        match self {
            Self::Opening { .. } | Self::Made => Advice::None,
            Self::Quic(turn) => {
                // A link that keeps up is not what could be made faster.
                if !progress.is_limit {
                    turn.restart();
                }
                let Some(rate) = turn.advance(progress.now, progress.sent_bytes) else { return Advice::None };
                let is_worth_it = rate >= RATE_MIN
                    && progress.rtt.is_some_and(|rtt| rtt <= RTT_MAX)
                    && progress.left_bytes >= LEFT_BYTES_MIN;
                if !is_worth_it {
                    turn.restart();
                    return Advice::None;
                }
                *self = Self::Opening { quic_rate: rate };
                Advice::TryTcp
            }
            Self::Tcp { turn, quic_rate } => {
                let rate = match turn.advance(progress.now, progress.sent_bytes) {
                    Some(rate) => rate,
                    None if turn
                        .has_lasted(progress.now, PATIENCE * (SETTLING_BYTES + TURN_BYTES) as f64 / *quic_rate) =>
                    {
                        0.0
                    }
                    None => return Advice::None,
                };
                tracing::info!(quic = *quic_rate as u64, tcp = rate as u64, "bytes per second by either transport");
                let is_faster = rate >= GAIN_MIN * *quic_rate;
                *self = Self::Made;
                if is_faster { Advice::StayWithTcp } else { Advice::ReturnToQuic }
            }
        }
    }
}

/// One transport's chance to show what it can do.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// When it began, and what had been sent.
    began: Option<(Instant, u64)>,
    /// The same for what counts.
    settled: Option<(Instant, u64)>,
}

impl Turn {
    fn begin(now: Instant, sent_bytes: u64) -> Self {
        Self { began: Some((now, sent_bytes)), settled: None }
    }

    fn restart(&mut self) {
        *self = Self::default();
    }

    fn has_lasted(&self, now: Instant, seconds: f64) -> bool {
        self.began.is_some_and(|(began, _)| now.duration_since(began).as_secs_f64() > seconds)
    }

    /// Bytes per second, once enough was sent to tell.
    fn advance(&mut self, now: Instant, sent_bytes: u64) -> Option<f64> {
        let (_, before) = *self.began.get_or_insert((now, sent_bytes));
        if sent_bytes - before >= SETTLING_BYTES {
            self.settled.get_or_insert((now, sent_bytes));
        }
        let (since, from) = self.settled?;
        let (seconds, bytes) = (now.duration_since(since).as_secs_f64(), sent_bytes - from);
        (bytes >= TURN_BYTES && seconds > 0.0).then(|| bytes as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(50);
    const FAST: f64 = 500e6;

    /// A transfer that QUIC carries at one rate and TCP at another, in bytes per second.
    struct Transfer {
        quic: f64,
        tcp: f64,
        total_bytes: u64,
        rtt: Duration,
        is_limit: bool,
    }

    impl Transfer {
        fn new(quic: f64, tcp: f64) -> Self {
            Self { quic, tcp, total_bytes: 4 << 30, rtt: Duration::from_micros(200), is_limit: true }
        }

        /// What was advised, and how many bytes had been sent by then.
        fn advices(&self) -> Vec<(Advice, u64)> {
            let (mut choice, mut now, mut sent_bytes) = (Choice::new(true), Instant::now(), 0);
            let (mut advices, mut rate) = (Vec::new(), self.quic);
            while sent_bytes < self.total_bytes && advices.len() < 2 {
                now += TICK;
                sent_bytes += (rate * TICK.as_secs_f64()) as u64;
                let left_bytes = self.total_bytes.saturating_sub(sent_bytes);
                let (is_limit, rtt) = (self.is_limit, Some(self.rtt));
                let advice = choice.advise(Progress { now, sent_bytes, left_bytes, is_limit, rtt });
                if advice == Advice::TryTcp {
                    choice.begin_turn(now, sent_bytes);
                    rate = self.tcp;
                }
                if advice != Advice::None {
                    advices.push((advice, sent_bytes));
                }
            }
            advices
        }

        fn is_left_alone(&self) -> bool {
            self.advices().is_empty()
        }
    }

    #[test]
    fn tcp_keeps_contents_if_it_is_clearly_faster() {
        let advices = Transfer::new(FAST, 1.4 * FAST).advices();
        assert!(matches!(advices[..], [(Advice::TryTcp, _), (Advice::StayWithTcp, _)]), "{advices:?}");
        assert!(advices[1].1 < 768 << 20, "the choice took {} bytes", advices[1].1);
    }

    #[test]
    fn quic_gets_contents_back_if_tcp_is_no_faster() {
        for tcp in [0.5, 1.0, 1.05] {
            let advices = Transfer::new(FAST, tcp * FAST).advices();
            assert!(matches!(advices[..], [(Advice::TryTcp, _), (Advice::ReturnToQuic, _)]), "{tcp}: {advices:?}");
        }
    }

    #[test]
    fn tcp_that_gets_stuck_is_left_after_twice_the_time_of_quic() {
        let advices = Transfer::new(FAST, 1e6).advices();
        let [(Advice::TryTcp, from), (Advice::ReturnToQuic, to)] = advices[..] else { panic!("{advices:?}") };
        assert!(to - from < 4 << 20, "{} bytes went over a network that is stuck", to - from);
    }

    #[test]
    fn nothing_is_tried_where_the_processors_are_not_the_limit() {
        assert!(Transfer::new(50e6, FAST).is_left_alone());
        assert!(Transfer { rtt: Duration::from_millis(20), ..Transfer::new(FAST, FAST) }.is_left_alone());
        assert!(Transfer { is_limit: false, ..Transfer::new(FAST, FAST) }.is_left_alone());
    }

    #[test]
    fn nothing_is_tried_for_what_is_left_of_a_small_transfer() {
        assert!(Transfer { total_bytes: 1 << 30, ..Transfer::new(FAST, 2.0 * FAST) }.is_left_alone());
    }

    #[test]
    fn nothing_is_tried_twice_and_nothing_without_a_choice() {
        let now = Instant::now();
        let progress = |sent_bytes| Progress {
            now: now + Duration::from_nanos(sent_bytes),
            sent_bytes,
            left_bytes: 1 << 40,
            is_limit: true,
            rtt: Some(Duration::ZERO),
        };
        let mut choice = Choice::new(true);
        let tried = (0..32).map(|at| choice.advise(progress(at << 26))).filter(|advice| *advice == Advice::TryTcp);
        assert_eq!(tried.count(), 1);
        choice.give_up();
        assert!((32..64).all(|at| choice.advise(progress(at << 26)) == Advice::None));
        let mut none = Choice::new(false);
        assert!((0..32).all(|at| none.advise(progress(at << 26)) == Advice::None));
    }
}
