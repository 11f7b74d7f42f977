//! Spans of time as Go writes them (`time.ParseDuration`): what docker's flags and containerd's files have.

use std::time::Duration;

/// Most digits of a fraction that count; further ones are below a nanosecond whatever the unit.
const DIGITS: usize = 18;

/// Reads `1h30m`, `1.5s`, `500ms`: decimals with the units `h`, `m`, `s`, `ms`, `us` (`µs`) and `ns`, or `0` alone; exact,
/// and cut to nanoseconds. None for anything else, for a negative span, and for one above Go's 292 years.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        total = total.checked_add(nanoseconds(number, unit)?)?;
        rest = after;
    }
    let fits = !text.is_empty() && i64::try_from(total).is_ok();
    fits.then(|| Duration::from_nanos(total))
}

fn nanoseconds(number: &str, unit: &str) -> Option<u64> {
    let unit: u64 = match unit {
        "h" => 3_600_000_000_000,
        "m" => 60_000_000_000,
        "s" => 1_000_000_000,
        "ms" => 1_000_000,
        // The sign for micro, and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ns" => 1,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    let fraction = &fraction[..fraction.len().min(DIGITS)];
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
    let part = u64::try_from(part * u128::from(unit) / scale).ok()?;
    whole.checked_mul(unit)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_gos() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("3s", 3_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1h0.5m", 3_630_000_000_000),
            ("500ms", 500_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("1.5\u{b5}s1.5\u{3bc}s1us", 4_000),
            ("39.999999999s", 39_999_999_999),
            ("0.3333333333333333333h", 1_199_999_999_999),
            ("2540400h10m10.000000001s", 9_145_440_610_000_000_001),
            ("9223372036854775807ns", 9_223_372_036_854_775_807),
        ] {
            assert_eq!(parse(text), Some(Duration::from_nanos(nanoseconds)), "{text}");
        }
        for bad in [
            "",
            "3",
            "s",
            ".s",
            "3 s",
            "3x",
            "-1s",
            "1e9h",
            "1.2.3s",
            "1s ",
            "9223372036854775808ns",
            "9999999999999999999999h",
            "2562047h48m",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
