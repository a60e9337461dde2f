//! Times as people read them.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A time in UTC: `2027-01-15T08:00:00Z`.
pub fn stamp(unix: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{unix} s after 1970"))
}

/// How far a time is away: `in 42m`, `3h ago`, `now`.
pub fn ago_or_in(now: i64, then: i64) -> String {
    match then.saturating_sub(now) {
        0 => "now".to_owned(),
        ahead @ 1.. => format!("in {}", span(ahead.unsigned_abs())),
        behind => format!("{} ago", span(behind.unsigned_abs())),
    }
}

/// Both: `2027-01-15T08:00:00Z (in 42m)`.
pub fn stamp_and_distance(now: i64, then: i64) -> String {
    format!("{} ({})", stamp(then), ago_or_in(now, then))
}

/// A span in its largest unit of which it has two, rounded down: `90s`, `42m`, `30h`, `12d`.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_by_their_distance() {
        for (seconds, text) in [
            (0, "now"),
            (1, "in 1s"),
            (119, "in 119s"),
            (2_520, "in 42m"),
            (-10_800, "3h ago"),
            (86_400 * 3, "in 3d"),
        ] {
            assert_eq!(ago_or_in(1_000_000, 1_000_000 + seconds), text);
        }
        assert_eq!(
            stamp_and_distance(1_799_999_940, 1_800_000_000),
            "2027-01-15T08:00:00Z (in 60s)"
        );
        assert_eq!(stamp(i64::MAX), format!("{} s after 1970", i64::MAX));
    }
}
