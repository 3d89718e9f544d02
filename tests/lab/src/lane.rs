//! One direction between the clusters: when each packet comes out of it, if it does.

use std::time::{Duration, Instant};

use crate::Weather;

/// How long a packet may wait for those before it, where the rate is limited.
const BACKLOG_MAX: Duration = Duration::from_millis(100);
/// The protocol of an IPv4 packet that is UDP.
const UDP: u8 = 17;
/// The shortest header of an IPv4 packet.
const HEADER_BYTES: usize = 20;

/// A direction.
#[derive(Debug)]
pub(crate) struct Lane {
    /// When the last packet has been sent.
    is_free: Instant,
    /// When the last packet comes out: none overtakes another.
    last: Instant,
    random: u64,
}

impl Lane {
    /// One in which nothing is. What is lost follows from `seed`.
    pub(crate) fn new(now: Instant, seed: u64) -> Self {
        Self { is_free: now, last: now, random: seed }
    }

    /// When `packet` comes out; none if it is lost.
    pub(crate) fn pass(&mut self, weather: &Weather, packet: &[u8], now: Instant) -> Option<Instant> {
        let is_lost = weather.is_cut
            || weather.blocks_udp && packet.get(9) == Some(&UDP)
            || weather.loss > 0.0 && self.random() < weather.loss;
        if is_lost {
            return None;
        }
        let starts = self.is_free.max(now);
        match weather.bits_per_second {
            Some(_) if starts - now > BACKLOG_MAX => return None,
            Some(rate) => self.is_free = starts + Duration::from_secs_f64(packet.len() as f64 * 8.0 / rate as f64),
            None => self.is_free = now,
        }
        self.last = (self.is_free + weather.delay).max(self.last);
        Some(self.last)
    }

    /// From 0 to 1, without 1.
    fn random(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) as f64 / 2f64.powi(64)
    }
}

/// The cluster that a packet of IPv4 goes to, by the third number of its address.
pub(crate) fn destination(packet: &[u8]) -> Option<u8> {
    (packet.len() >= HEADER_BYTES && packet[0] >> 4 == 4).then(|| packet[18])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn packet(protocol: u8) -> [u8; 1250] {
        let mut packet = [0; 1250];
        (packet[0], packet[9], packet[18]) = (0x45, protocol, 2);
        packet
    }

    #[test]
    fn packets_wait_for_the_rate_and_the_delay_and_are_lost_when_too_many_wait() {
        let now = Instant::now();
        let mut lane = Lane::new(now, 1);
        // One packet takes a millisecond.
        let weather = Weather { delay: 25 * MS, bits_per_second: Some(10_000_000), ..Weather::default() };
        let passed: Vec<_> = (0..200).map(|_| lane.pass(&weather, &packet(UDP), now)).collect();
        assert_eq!(passed[0], Some(now + 26 * MS));
        assert_eq!(passed[9], Some(now + 35 * MS));
        assert_eq!(passed.iter().flatten().count(), 101);
        assert_eq!(lane.pass(&weather, &packet(UDP), now + 500 * MS), Some(now + 526 * MS));
    }

    #[test]
    fn none_overtakes_another_when_the_weather_gets_better() {
        let now = Instant::now();
        let mut lane = Lane::new(now, 1);
        let late = lane.pass(&Weather { delay: 50 * MS, ..Weather::default() }, &packet(6), now);
        assert_eq!(lane.pass(&Weather::default(), &packet(6), now + MS), late);
    }

    #[test]
    fn loss_a_cut_and_a_ban_on_udp_take_what_they_say() {
        let now = Instant::now();
        let mut lane = Lane::new(now, 1);
        let weather = Weather { loss: 0.01, ..Weather::default() };
        let lost = (0..100_000).filter(|_| lane.pass(&weather, &packet(6), now).is_none()).count();
        assert!((900..1100).contains(&lost), "{lost} of 100,000 packets");
        let passes = |lane: &mut Lane, weather, protocol| lane.pass(&weather, &packet(protocol), now).is_some();
        assert!(!passes(&mut lane, Weather { is_cut: true, ..Weather::default() }, 6));
        let weather = Weather { blocks_udp: true, ..Weather::default() };
        assert!(passes(&mut lane, weather, 6) && !passes(&mut lane, weather, UDP));
    }

    #[test]
    fn only_whole_headers_have_a_destination() {
        assert_eq!(destination(&packet(6)), Some(2));
        assert_eq!(destination(&packet(6)[..19]), None);
        assert_eq!(destination(&[0x60; 40]), None);
    }
}
