//! Bandwidths as people write them.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use thiserror::Error;

/// Bytes per second, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rate(NonZeroU64);

/// Why a text is not a bandwidth.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{text}` is not a bandwidth: {why}; write it as 50Mbit/s, 10MB/s or 1.5MiB/s")]
pub(crate) struct RateError {
    text: String,
    why: &'static str,
}

/// Units, with the bits in each. Case matters only in that `b` alone is refused: it may mean both.
const UNITS: &[(&str, u64)] = &[
    ("bit", 1),
    ("kbit", 1_000),
    ("mbit", 1_000_000),
    ("gbit", 1_000_000_000),
    ("kibit", 1 << 10),
    ("mibit", 1 << 20),
    ("gibit", 1 << 30),
    ("kb", 8_000),
    ("mb", 8_000_000),
    ("gb", 8_000_000_000),
    ("kib", 8 << 10),
    ("mib", 8 << 20),
    ("gib", 8 << 30),
];

impl Rate {
    /// Bytes per second.
    pub(crate) fn bytes_per_second(self) -> NonZeroU64 {
        self.0
    }
}

impl FromStr for Rate {
    type Err = RateError;

    /// A decimal number and a unit, `/s` at the end or not. `Mb` and `MB` would differ by eight: small letters for
    /// bytes are refused, `bit` is written out.
    fn from_str(text: &str) -> Result<Self, RateError> {
        let fail = |why| RateError { text: text.escape_default().to_string(), why };
        let trimmed = text.trim();
        let amount = trimmed.strip_suffix("/s").unwrap_or(trimmed);
        let split = amount.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(amount.len());
        let (number, unit) = (&amount[..split], amount[split..].trim_start());
        if unit.is_empty() {
            return Err(fail("the unit is missing"));
        }
        if unit.ends_with('b') {
            return Err(fail("`b` may mean bits or bytes, `bit` and `B` are clear"));
        }
        let unit = unit.to_ascii_lowercase();
        let &(_, bits) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| fail("the unit is unknown"))?;
        // Thousandths are exact enough for a limit, and no rounding of floats decides anything.
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.len() > 3 || fraction.contains('.') {
            return Err(fail("the number has at most three digits after the point"));
        }
        let whole: u64 = whole.parse().map_err(|_| fail("the number is too large"))?;
        let thousandths: u64 = format!("{fraction:0<3}").parse().map_err(|_| fail("the number is not one"))?;
        let bits = u128::from(bits) * (u128::from(whole) * 1_000 + u128::from(thousandths)) / 1_000;
        let bytes = u64::try_from(bits / 8).map_err(|_| fail("the number is too large"))?;
        NonZeroU64::new(bytes).map(Self).ok_or_else(|| fail("it is less than one byte per second"))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::human::rate(self.0.get() as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bandwidth_is_read_as_it_is_meant() {
        for (text, bytes) in [
            ("50Mbit/s", 6_250_000),
            ("10MB/s", 10_000_000),
            ("1Gbit/s", 125_000_000),
            ("1.5MiB/s", 1_572_864),
            ("512 KiB", 524_288),
            ("0.008kbit/s", 1),
            (" 100mbit/s\n", 12_500_000),
            ("8bit/s", 1),
        ] {
            assert_eq!(text.parse::<Rate>().map(|rate| rate.0.get()), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_may_mean_two_things_is_refused() {
        for text in [
            "",
            "10",
            "10/s",
            "10Mb/s",
            "MB/s",
            "-1MB/s",
            "1.2345MB",
            "1.MB",
            ".5MB",
            "1..5MB",
            "0MB/s",
            "7bit/s",
            "99999999999999999999GB/s",
            "99999999999GB/s",
            "1MB/h",
            "1e3kB",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
