//! Go's durations, as `metav1.Duration` is written: `1h30m`, `4h0m0s`, `1.5h`, `100ms`.

use mintmark_identity::Ttl;

use super::super::entry::MAX_TTL;

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// The lifetime that a duration asks for, in whole seconds; none for zero, which asks for the default.
pub(super) fn ttl(text: &str) -> Result<Option<Ttl>, String> {
    let nanoseconds = parse(text).ok_or_else(|| format!("{text:?} is no duration, such as 1h30m"))?;
    let seconds = nanoseconds / 1_000_000_000;
    if nanoseconds == 0 {
        return Ok(None);
    }
    if nanoseconds < 0 {
        return Err(format!("{text:?} is negative"));
    }
    let fits = u64::try_from(seconds)
        .ok()
        .filter(|seconds| (1..=MAX_TTL.unsigned_abs().into()).contains(seconds));
    match fits.and_then(|seconds| Ttl::from_secs(seconds).ok()) {
        Some(ttl) => Ok(Some(ttl)),
        None => Err(format!("{text:?} is not between 1 s and {MAX_TTL} s")),
    }
}

/// Go's `time.ParseDuration`.
fn parse(text: &str) -> Option<i64> {
    let (is_negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() || rest.len() > 64 {
        return None;
    }
    let mut sum: u128 = 0;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, behind) = rest.split_at(end);
        let unit_end = behind
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_end);
        let scale = UNITS.iter().find(|(name, _)| *name == unit)?.1;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        let digits = |digits: &str| {
            if digits.is_empty() {
                Some(0)
            } else {
                digits.parse::<u128>().ok()
            }
        };
        let divisor = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let part = digits(fraction)?.checked_mul(scale.into())? / divisor;
        sum = sum
            .checked_add(digits(whole)?.checked_mul(scale.into())?)?
            .checked_add(part)?;
        rest = behind;
    }
    let sum = i64::try_from(sum).ok()?;
    Some(if is_negative { -sum } else { sum })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanoseconds) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("5s", Some(5_000_000_000)),
            ("-1m", Some(-60_000_000_000)),
            ("+1m", Some(60_000_000_000)),
            ("1h30m0s", Some(5_400_000_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            (".5s", Some(500_000_000)),
            ("5.s", Some(5_000_000_000)),
            ("39h9m14.425s", Some(140_954_425_000_000)),
            ("1us", Some(1_000)),
            ("1\u{b5}s", Some(1_000)),
            ("", None),
            ("3", None),
            ("-", None),
            ("s", None),
            (".", None),
            (".s", None),
            ("+.s", None),
            ("1d", None),
            ("1h1", None),
            ("9223372036s", Some(9_223_372_036_000_000_000)),
            ("9223372037s", None),
            ("99999999999999999999999999999999999999999h", None),
        ] {
            assert_eq!(parse(text), nanoseconds, "{text:?}");
        }
    }

    #[test]
    fn a_lifetime_has_whole_seconds_within_its_bounds() {
        assert_eq!(ttl("0s"), Ok(None));
        assert_eq!(ttl("1h0m0.9s").unwrap().map(Ttl::as_secs), Some(3_600));
        for wrong in ["-1s", "10ms", "9000h", "soon", "1d"] {
            assert!(ttl(wrong).is_err(), "{wrong}");
        }
    }
}
