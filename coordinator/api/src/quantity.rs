//! Amounts as Kubernetes writes them: `10Gi`, `1e3`, `100m`.

use thiserror::Error;

/// A text that is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not an amount such as 10Gi")]
pub struct NotAnAmount(pub String);

/// Bytes in such an amount, rounded up, as Kubernetes does it.
pub fn bytes(text: &str) -> Result<u64, NotAnAmount> {
    let wrong = || NotAnAmount(text.to_owned());
    let split = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return Err(wrong());
    }
    // Thousandths of the number, so that `1.5Gi` stays exact; further digits cannot matter for bytes that people write.
    let digits = |text: &str| if text.is_empty() { Ok(0) } else { text.parse::<u128>().map_err(|_| wrong()) };
    let padded: String = fraction.chars().chain("000".chars()).take(3).collect();
    let thousandths = digits(whole)?.checked_mul(1000).and_then(|all| Some(all + digits(&padded).ok()?));
    let (times, by) = scale(unit).ok_or_else(wrong)?;
    let product = thousandths.and_then(|all| all.checked_mul(times)).ok_or_else(wrong)?;
    u64::try_from(product.div_ceil(by * 1000)).map_err(|_| wrong())
}

/// By what a unit multiplies and divides.
fn scale(unit: &str) -> Option<(u128, u128)> {
    let binary = |power: u32| Some((1u128 << (10 * power), 1));
    let decimal = |power: u32| Some((1000u128.pow(power), 1));
    match unit {
        "" => Some((1, 1)),
        "m" => Some((1, 1000)),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        "k" => decimal(1),
        "M" => decimal(2),
        "G" => decimal(3),
        "T" => decimal(4),
        "P" => decimal(5),
        "E" => decimal(6),
        exponent => {
            let power: u32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            Some((10u128.checked_pow(power)?, 1))
        }
    }
}

/// An amount of bytes as people read it, to three digits: `1.46Gi`.
pub fn text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];
    let (mut amount, mut unit) = (bytes as f64, 0);
    while amount >= 1_024.0 && unit + 1 < UNITS.len() {
        amount /= 1_024.0;
        unit += 1;
    }
    let digits = if unit == 0 || amount >= 100.0 { 0 } else { 2 - usize::from(amount >= 10.0) };
    format!("{amount:.digits$}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("0", 0),
            ("128974848", 128_974_848),
            ("129e6", 129_000_000),
            ("129M", 129_000_000),
            ("123Mi", 128_974_848),
            ("1.5Gi", 1_610_612_736),
            ("128974848000m", 128_974_848),
            ("1m", 1),
            (".5k", 500),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in ["", "Gi", "1 Gi", "-1", "1GiB", "1e", "x", ".", "99999999999Ei"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn amounts_are_told_to_three_digits() {
        for (bytes, told) in
            [(0, "0"), (1_023, "1023"), (1 << 20, "1.00Mi"), (15 << 30, "15.0Gi"), (377_569_280, "360Mi")]
        {
            assert_eq!(text(bytes), told);
        }
    }
}
