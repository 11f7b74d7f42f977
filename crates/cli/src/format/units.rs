//! Durations and sizes in docker's words: "2 minutes ago", "Up About an hour", "4.2MB", "64MiB".

/// A span of time as people say it; `seconds` below zero reads as none.
pub(crate) fn duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match seconds {
        ..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        _ => match (minutes, hours) {
            (1, _) => "About a minute".into(),
            (..60, _) => format!("{minutes} minutes"),
            (_, 1) => "About an hour".into(),
            (_, ..48) => format!("{hours} hours"),
            (_, ..336) => format!("{} days", hours / 24),
            (_, ..1440) => format!("{} weeks", hours / 24 / 7),
            (_, ..17520) => format!("{} months", hours / 24 / 30),
            _ => format!("{} years", seconds / 3600 / 24 / 365),
        },
    }
}

/// Bytes in powers of 1000, four significant digits: how docker shows image sizes.
pub(crate) fn decimal(bytes: u64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// Bytes in powers of 1024, four significant digits: how docker shows memory.
pub(crate) fn binary(bytes: u64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
fn scaled(bytes: u64, base: f64, names: &[&str]) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= base && unit + 1 < names.len() {
        value /= base;
        unit += 1;
    }
    format!("{}{}", significant(value, 4), names[unit])
}

/// `digits` significant digits, trailing zeros dropped, as C's `%.4g` for numbers in this range.
fn significant(value: f64, digits: usize) -> String {
    let whole = format!("{value:.0}").len();
    let text = format!("{value:.*}", digits.saturating_sub(whole));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_dockers() {
        let hour = 3600;
        let day = 24 * hour;
        for (seconds, words) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (45, "45 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (hour, "About an hour"),
            (2 * hour, "2 hours"),
            (47 * hour, "47 hours"),
            (2 * day, "2 days"),
            (13 * day, "13 days"),
            (14 * day, "2 weeks"),
            (59 * day, "8 weeks"),
            (60 * day, "2 months"),
            (729 * day, "24 months"),
            (730 * day, "2 years"),
        ] {
            assert_eq!(duration(seconds), words, "{seconds}");
        }
    }

    #[test]
    fn sizes_read_as_dockers() {
        for (bytes, decimal_text, binary_text) in [
            (0, "0B", "0B"),
            (999, "999B", "999B"),
            (1000, "1kB", "1000B"),
            (1024, "1.024kB", "1KiB"),
            (4_261_502, "4.262MB", "4.064MiB"),
            (67_108_864, "67.11MB", "64MiB"),
            (123_456_789_012, "123.5GB", "115GiB"),
            (u64::MAX, "18.45EB", "16EiB"),
        ] {
            assert_eq!(decimal(bytes), decimal_text, "{bytes}");
            assert_eq!(binary(bytes), binary_text, "{bytes}");
        }
    }
}
