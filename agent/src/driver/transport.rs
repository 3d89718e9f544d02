//! Whether contents take QUIC, or TCP beside it.
//!
//! On a fast network with a short round trip, what a link carries is what two hosts' processors can do; there TCP may be
//! well ahead, because the kernel and the network card do for it what a process does for QUIC. Elsewhere QUIC is as fast
//! as the network, and fairer to have. So QUIC begins; once it has been the bottleneck of a fast transfer for a while and
//! enough is left, TCP gets the same chance, and keeps the contents if it was clearly faster. If not, a disk may just have
//! been busy: it gets another chance later, and the next one after twice as much.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What TCP must carry in the time in which QUIC carries 1: less could be chance.
const GAIN_MIN: f64 = 1.1;
/// How many times as long as QUIC's TCP's turn may last, in case it does not get on at all.
const PATIENCE: f64 = 2.0;

/// When TCP gets its chance, and how long each takes. Clones are of the same pass.
#[derive(Debug, Clone)]
pub struct Trial {
    /// Bytes at the beginning of a turn that do not count: buffers fill, and the last turn's drain.
    pub settling_bytes: u64,
    /// Bytes of a turn that count.
    pub turn_bytes: u64,
    /// Bytes that must be left, for both turns to be worth the trouble.
    pub left_bytes_min: u64,
    /// Bytes per second below which it is the network or a disk that limits a transfer.
    pub rate_min: f64,
    /// The longest round trip of a network on which it may be the processors.
    pub rtt_max: Duration,
    /// Whether TCP has got on so badly that the links of this pass do without it. It stands while TCP is on trial: of a
    /// link that breaks meanwhile nobody can say more.
    pub is_tcp_bad: Arc<AtomicBool>,
}

impl Default for Trial {
    fn default() -> Self {
        Self {
            settling_bytes: 64 << 20,
            turn_bytes: 192 << 20,
            left_bytes_min: 768 << 20,
            rate_min: 100e6,
            rtt_max: Duration::from_millis(5),
            is_tcp_bad: Arc::default(),
        }
    }
}

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
    /// TCP was not worth it: back to QUIC.
    ReturnToQuic,
    /// TCP it is.
    StayWithTcp,
}

/// The choice of one pass.
#[derive(Debug)]
pub(super) struct Choice {
    trial: Trial,
    stage: Stage,
    /// Bytes that QUIC carries after a trial before there is another.
    pause_bytes: u64,
}

#[derive(Debug)]
enum Stage {
    /// QUIC's turn, and how many bytes must have been sent before it is over.
    Quic { turn: Turn, until_bytes: u64 },
    /// Streams over TCP are being opened.
    Opening { quic_rate: f64 },
    /// TCP's turn.
    Tcp { turn: Turn, quic_rate: f64 },
    /// It is made, or there is none.
    Made,
}

impl Choice {
    /// QUIC begins, if there is a choice.
    pub(super) fn new(trial: Trial, has_choice: bool) -> Self {
        let has_choice = has_choice && !trial.is_tcp_bad.load(Ordering::Relaxed);
        let stage = if has_choice { Stage::Quic { turn: Turn::default(), until_bytes: 0 } } else { Stage::Made };
        Self { stage, pause_bytes: 8 * (trial.settling_bytes + trial.turn_bytes), trial }
    }

    /// Whether there is nothing to be asked any more.
    pub(super) fn is_made(&self) -> bool {
        matches!(self.stage, Stage::Made)
    }

    /// TCP's streams are there and carry everything from now on.
    pub(super) fn begin_turn(&mut self, now: Instant, sent_bytes: u64) {
        if let Stage::Opening { quic_rate } = self.stage {
            self.trial.is_tcp_bad.store(true, Ordering::Relaxed);
            self.stage = Stage::Tcp { turn: Turn { began: Some((now, sent_bytes)), settled: None }, quic_rate };
        }
    }

    /// TCP does not get through: QUIC, for good.
    pub(super) fn give_up(&mut self) {
        self.stage = Stage::Made;
    }

    /// To be asked several times a second.
    pub(super) fn advise(&mut self, progress: Progress) -> Advice {
        let trial = &self.trial;
        match &mut self.stage {
            Stage::Opening { .. } | Stage::Made => Advice::None,
            Stage::Quic { turn, until_bytes } => {
                // A link that keeps up is not what could be made faster.
                if !progress.is_limit || progress.sent_bytes < *until_bytes {
                    *turn = Turn::default();
                }
                let Some(rate) = turn.advance(progress, trial) else { return Advice::None };
                let is_worth_it = rate >= trial.rate_min
                    && progress.rtt.is_some_and(|rtt| rtt <= trial.rtt_max)
                    && progress.left_bytes >= trial.left_bytes_min;
                if !is_worth_it {
                    *turn = Turn::default();
                    return Advice::None;
                }
                self.stage = Stage::Opening { quic_rate: rate };
                Advice::TryTcp
            }
            Stage::Tcp { turn, quic_rate } => {
                let quic_rate = *quic_rate;
                let quic_seconds = (trial.settling_bytes + trial.turn_bytes) as f64 / quic_rate;
                let Some(rate) = turn.advance(progress, trial) else {
                    let is_stuck = turn.has_lasted(progress.now, PATIENCE * quic_seconds);
                    if is_stuck {
                        tracing::info!("TCP does not get on beside QUIC");
                        self.stage = Stage::Made;
                    }
                    return if is_stuck { Advice::ReturnToQuic } else { Advice::None };
                };
                tracing::info!(quic = quic_rate as u64, tcp = rate as u64, "bytes per second by either transport");
                trial.is_tcp_bad.store(false, Ordering::Relaxed);
                if rate >= GAIN_MIN * quic_rate {
                    self.stage = Stage::Made;
                    return Advice::StayWithTcp;
                }
                let until_bytes = progress.sent_bytes + self.pause_bytes;
                self.stage = Stage::Quic { turn: Turn::default(), until_bytes };
                self.pause_bytes *= 2;
                Advice::ReturnToQuic
            }
        }
    }
}

/// One transport's chance to show what it can do.
#[derive(Debug, Default)]
struct Turn {
    /// When it began, and what had been sent.
    began: Option<(Instant, u64)>,
    /// The same for what counts.
    settled: Option<(Instant, u64)>,
}

impl Turn {
    fn has_lasted(&self, now: Instant, seconds: f64) -> bool {
        self.began.is_some_and(|(began, _)| now.duration_since(began).as_secs_f64() > seconds)
    }

    /// Bytes per second, once enough was sent to tell.
    fn advance(&mut self, Progress { now, sent_bytes, .. }: Progress, trial: &Trial) -> Option<f64> {
        let (_, before) = *self.began.get_or_insert((now, sent_bytes));
        if sent_bytes - before >= trial.settling_bytes {
            self.settled.get_or_insert((now, sent_bytes));
        }
        let (since, from) = self.settled?;
        let (seconds, bytes) = (now.duration_since(since).as_secs_f64(), sent_bytes - from);
        (bytes >= trial.turn_bytes && seconds > 0.0).then(|| bytes as f64 / seconds)
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
            let (mut choice, mut now, mut sent_bytes) = (Choice::new(Trial::default(), true), Instant::now(), 0);
            let (mut advices, mut rate) = (Vec::new(), self.quic);
            while sent_bytes < self.total_bytes {
                now += TICK;
                sent_bytes += (rate * TICK.as_secs_f64()) as u64;
                let left_bytes = self.total_bytes.saturating_sub(sent_bytes);
                let (is_limit, rtt) = (self.is_limit, Some(self.rtt));
                let advice = choice.advise(Progress { now, sent_bytes, left_bytes, is_limit, rtt });
                match advice {
                    Advice::TryTcp => {
                        choice.begin_turn(now, sent_bytes);
                        rate = self.tcp;
                    }
                    Advice::ReturnToQuic => rate = self.quic,
                    Advice::StayWithTcp | Advice::None => {}
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
            let advices = Transfer { total_bytes: 2 << 30, ..Transfer::new(FAST, tcp * FAST) }.advices();
            assert!(matches!(advices[..], [(Advice::TryTcp, _), (Advice::ReturnToQuic, _)]), "{tcp}: {advices:?}");
        }
    }

    #[test]
    fn tcp_gets_further_chances_after_ever_more_bytes() {
        let advices = Transfer { total_bytes: 64 << 30, ..Transfer::new(FAST, FAST) }.advices();
        let tried: Vec<u64> =
            advices.iter().filter(|(advice, _)| *advice == Advice::TryTcp).map(|(_, bytes)| *bytes).collect();
        assert!((4..=6).contains(&tried.len()), "{advices:?}");
        assert!(tried.windows(3).all(|at| at[2] - at[1] > (at[1] - at[0]) * 3 / 2), "{tried:?}");
    }

    #[test]
    fn tcp_that_gets_stuck_is_left_after_twice_the_time_of_quic_and_for_good() {
        let advices = Transfer { total_bytes: 64 << 30, ..Transfer::new(FAST, 1e6) }.advices();
        let [(Advice::TryTcp, from), (Advice::ReturnToQuic, to)] = advices[..] else { panic!("{advices:?}") };
        assert!(to - from < 4 << 20, "{} bytes went over a network that is stuck", to - from);
    }

    #[test]
    fn a_link_that_comes_after_one_that_broke_on_trial_does_without_tcp() {
        let trial = Trial::default();
        let progress = |sent_bytes| Progress {
            now: Instant::now(),
            sent_bytes,
            left_bytes: 1 << 40,
            is_limit: true,
            rtt: Some(Duration::ZERO),
        };
        let mut choice = Choice::new(trial.clone(), true);
        assert!((0..32).any(|at| choice.advise(progress(at << 26)) == Advice::TryTcp));
        assert!(!Choice::new(trial.clone(), true).is_made(), "no trial has begun");
        choice.begin_turn(Instant::now(), 32 << 26);
        assert!(Choice::new(trial, true).is_made());
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
    fn nothing_is_tried_again_once_tcp_does_not_get_through_and_nothing_without_a_choice() {
        let now = Instant::now();
        let progress = |sent_bytes| Progress {
            now: now + Duration::from_nanos(sent_bytes),
            sent_bytes,
            left_bytes: 1 << 40,
            is_limit: true,
            rtt: Some(Duration::ZERO),
        };
        let mut choice = Choice::new(Trial::default(), true);
        let tried = (0..32).map(|at| choice.advise(progress(at << 26))).filter(|advice| *advice == Advice::TryTcp);
        assert_eq!(tried.count(), 1);
        choice.give_up();
        let mut none = Choice::new(Trial::default(), false);
        for choice in [&mut choice, &mut none] {
            assert!((32..1_024).all(|at| choice.advise(progress(at << 26)) == Advice::None));
        }
    }
}
