//! Sizes and shares.

/// Bytes with docker's binary units: `64m`, `1.5g`, `512k`, `10KiB`, `100b`, a bare number is bytes.
///
/// # Errors
/// No number, an unknown unit, more than an `i64` holds.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    const UNITS: [char; 5] = ['k', 'm', 'g', 't', 'p'];
    let wrong = || "expected a size such as 512k, 64m or 1.5g".to_owned();
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let unit = unit.trim_start().to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if unit.len() < 2 => 0,
        letter => {
            let mut letters = letter.chars();
            let power = letters.next().and_then(|c| UNITS.iter().position(|unit| *unit == c)).ok_or_else(wrong)?;
            if letters.next().is_some() {
                return Err(wrong());
            }
            i32::try_from(power).map_err(|_| wrong())? + 1
        }
    };
    if let Ok(whole) = number.parse::<i64>() {
        let factor = 1024_i64.checked_pow(power.unsigned_abs()).ok_or_else(wrong)?;
        return whole.checked_mul(factor).ok_or_else(|| "the size is too large".to_owned());
    }
    let value = number.parse::<f64>().map_err(|_| wrong())? * 1024_f64.powi(power);
    #[expect(clippy::cast_precision_loss, reason = "a bound, far above any memory")]
    if value >= i64::MAX as f64 {
        return Err("the size is too large".into());
    }
    #[expect(clippy::cast_possible_truncation, reason = "bounded above; docker cuts the fraction too")]
    Ok(value as i64)
}

/// As [`bytes`], or −1 for no limit.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn bytes_or_unlimited(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

/// As [`bytes`], for sizes that cannot be negative.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn unsigned(text: &str) -> Result<u64, String> {
    bytes(text).and_then(|value| u64::try_from(value).map_err(|_| "the size is negative".into()))
}

/// CPUs in decimals to billionths, exactly.
///
/// # Errors
/// No decimal number, or more than nine decimals.
pub(crate) fn nano_cpus(text: &str) -> Result<i64, String> {
    let wrong = || "expected a number of CPUs such as 0.5 or 2".to_owned();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Err(wrong());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err("more than nine decimals".into());
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<i64>().map_err(|_| wrong())? };
    let nanos = format!("{fraction:0<9}").parse::<i64>().map_err(|_| wrong())?;
    whole.checked_mul(1_000_000_000).and_then(|whole| whole.checked_add(nanos)).ok_or_else(wrong)
}

/// A whole number in docker's flags.
///
/// # Errors
/// No number of the type's range.
pub(crate) fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| "expected a whole number in range".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary() {
        for (text, value) in [
            ("0", 0),
            ("100", 100),
            ("100b", 100),
            ("1k", 1024),
            ("1kb", 1024),
            ("1KiB", 1024),
            ("64m", 64 << 20),
            ("64 MB", 64 << 20),
            ("1.5g", 3 << 29),
            ("2T", 2 << 40),
            (".5k", 512),
        ] {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
        for bad in ["", "m", "-1", "1q", "1mm", "1ibb", "1ib", "k1", "1.2.3", "99999999999g", "1e3", "0x10", "1b b"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(bytes_or_unlimited("-1"), Ok(-1));
        assert_eq!(unsigned("1m"), Ok(1 << 20));
    }

    #[test]
    fn cpus_are_exact() {
        for (text, value) in [
            ("1", 1_000_000_000),
            ("0.5", 500_000_000),
            (".25", 250_000_000),
            ("1.000000001", 1_000_000_001),
            ("2.", 2_000_000_000),
        ] {
            assert_eq!(nano_cpus(text), Ok(value), "{text}");
        }
        for bad in ["", ".", "-1", "1.0000000001", "a", "1,5", "9999999999999"] {
            assert!(nano_cpus(bad).is_err(), "{bad}");
        }
    }
}
