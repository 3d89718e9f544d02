//! Numbers with units, as people type them.

use std::time::Duration;

/// `25ms`, `1.5s`, `300us`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let seconds = number(text, &[("us", 1e-6), ("ms", 1e-3), ("s", 1.0)])?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// `0.5%`, as a part of 1.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let share = number(text, &[("%", 0.01)])?;
    if share <= 1.0 { Ok(share) } else { Err("more than 100%".to_owned()) }
}

/// `50Mbit`, in bits per second.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    let bits = number(text, &[("kbit", 1e3), ("Mbit", 1e6), ("Gbit", 1e9), ("bit", 1.0)])?;
    if bits >= 1.0 { Ok(bits as u64) } else { Err("less than one bit".to_owned()) }
}

fn number(text: &str, units: &[(&str, f64)]) -> Result<f64, String> {
    let found = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let parsed = found.and_then(|(number, factor)| Some(number.parse::<f64>().ok()? * factor));
    parsed.filter(|number| number.is_finite() && *number >= 0.0).ok_or_else(|| {
        let units: Vec<&str> = units.iter().map(|(unit, _)| *unit).collect();
        format!("not a number with one of the units {}", units.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_understood_and_numbers_without_one_are_not() {
        assert_eq!(duration("25ms"), Ok(Duration::from_millis(25)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(share("0.5%"), Ok(0.005));
        assert_eq!(rate("50Mbit"), Ok(50_000_000));
        assert_eq!(rate("800bit"), Ok(800));
        for wrong in ["", "25", "ms", "-1ms", "infms", "1e400s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(share("101%").is_err() && rate("0bit").is_err());
    }
}
