//! What happens to packets between the clusters.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What happens to packets between nodes of different clusters. The default is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Weather {
    /// What each packet comes later; a round trip takes twice of it.
    pub delay: Duration,
    /// The share of packets that are lost, from 0 to 1.
    pub loss: f64,
    /// What passes in each direction, if that is limited; about 100 ms of it can wait.
    pub bits_per_second: Option<u64>,
    /// Whether nothing passes.
    pub is_cut: bool,
    /// Whether no UDP passes.
    pub blocks_udp: bool,
}

impl Weather {
    /// Whether everything passes at once.
    pub fn is_clear(&self) -> bool {
        *self == Self::default()
    }
}

/// One line, as [`FromStr`] reads it.
impl fmt::Display for Weather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (delay, rate) = (self.delay.as_micros(), self.bits_per_second.unwrap_or(0));
        write!(f, "delay_us={delay} loss={} bits_per_second={rate} ", self.loss)?;
        write!(f, "cut={} no_udp={}", self.is_cut, self.blocks_udp)
    }
}

impl FromStr for Weather {
    type Err = &'static str;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        const NOT_WEATHER: &str = "this is no weather";
        let mut weather = Self::default();
        for word in line.split_whitespace() {
            let (name, value) = word.split_once('=').ok_or(NOT_WEATHER)?;
            let number = || value.parse::<u64>().map_err(|_| NOT_WEATHER);
            let is = || value.parse::<bool>().map_err(|_| NOT_WEATHER);
            match name {
                "delay_us" => weather.delay = Duration::from_micros(number()?),
                "loss" => weather.loss = value.parse().map_err(|_| NOT_WEATHER)?,
                "bits_per_second" => weather.bits_per_second = Some(number()?).filter(|rate| *rate > 0),
                "cut" => weather.is_cut = is()?,
                "no_udp" => weather.blocks_udp = is()?,
                _ => return Err(NOT_WEATHER),
            }
        }
        Ok(weather)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weather_is_read_as_it_was_written() {
        let bad = Weather {
            delay: Duration::from_millis(25),
            loss: 0.005,
            bits_per_second: Some(50_000_000),
            is_cut: true,
            blocks_udp: true,
        };
        for weather in [Weather::default(), bad] {
            assert_eq!(weather.to_string().parse(), Ok(weather));
        }
        assert!("delay_us=x".parse::<Weather>().is_err());
        assert!(Weather::default().is_clear() && !bad.is_clear());
    }
}
