//! Points in time: `--since`, `--until`.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// A moment from RFC 3339 text (without a zone it is UTC), seconds since 1970 with up to nine decimals, or a span
/// before `now` such as `10m` or `1h30m`.
///
/// # Errors
/// None of these.
pub(crate) fn parse(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Some(moment) = seconds(text) {
        return moment;
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    let civil = if text.len() == 10 { format!("{text}T00:00:00") } else { text.to_owned() };
    if let Ok(civil) = civil.parse::<DateTime>()
        && let Ok(moment) = TimeZone::UTC.to_timestamp(civil)
    {
        return Ok(moment);
    }
    let span =
        oci::duration::parse(text).ok_or("expected a time such as 2026-01-31T10:00:00Z, seconds since 1970, or 10m")?;
    now.checked_sub(span).map_err(|_| "the time is out of range".into())
}

fn seconds(text: &str) -> Option<Result<Timestamp, String>> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let moment = whole.parse::<i64>().ok().zip(format!("{fraction:0<9}").parse::<i32>().ok());
    let moment = moment.and_then(|(seconds, nanos)| Timestamp::new(seconds, nanos).ok());
    Some(moment.ok_or_else(|| "the time is out of range".into()))
}

/// The whole seconds from `text` (RFC 3339) to `now`; `None` for text that is no time or docker's zero time.
pub(crate) fn age(text: &str, now: Timestamp) -> Option<i64> {
    let moment = text.parse::<Timestamp>().ok()?;
    (moment.as_second() > -62_135_596_800).then(|| now.as_second() - moment.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_parse() {
        let now = Timestamp::new(1_800_000_000, 0).expect("valid");
        for (text, expected) in [
            ("2026-01-31T10:00:00Z", "2026-01-31T10:00:00Z"),
            ("2026-01-31T10:00:00.5+02:00", "2026-01-31T08:00:00.5Z"),
            ("2026-01-31T10:00:00", "2026-01-31T10:00:00Z"),
            ("2026-01-31", "2026-01-31T00:00:00Z"),
            ("1700000000", "2023-11-14T22:13:20Z"),
            ("1700000000.25", "2023-11-14T22:13:20.25Z"),
            ("10m", "2027-01-15T07:50:00Z"),
            ("1h30m", "2027-01-15T06:30:00Z"),
            ("1.5s", "2027-01-15T07:59:58.5Z"),
        ] {
            assert_eq!(parse(text, now).map(|moment| moment.to_string()), Ok(expected.into()), "{text}");
        }
        for bad in ["", "yesterday", "10", "10x", "m", "-5m", "99999999999999999999"].iter().filter(|t| **t != "10") {
            assert!(parse(bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn ages_are_seconds() {
        let now = Timestamp::new(1_700_000_060, 0).expect("valid");
        assert_eq!(age("2023-11-14T22:13:20.123456789Z", now), Some(60));
        assert_eq!(age("", now), None);
        assert_eq!(age("0001-01-01T00:00:00Z", now), None);
    }
}
