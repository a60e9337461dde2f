//! Lifetimes in whole seconds, as people write them: `30s`, `5m`, `1h`, `30d`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::text::excerpt;

/// A lifetime: whole seconds, at least one and at most 36,500 days.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttl(u32);

const UNITS: [(char, u32); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl Ttl {
    /// The longest lifetime in seconds, 36,500 days.
    pub const MAX_SECS: u32 = 36_500 * 86_400;

    /// A lifetime of so many seconds.
    pub fn from_secs(secs: u64) -> Result<Self, TtlError> {
        match u32::try_from(secs) {
            Ok(secs @ 1..=Self::MAX_SECS) => Ok(Self(secs)),
            _ => Err(TtlError::Bounds {
                value: format!("{secs}s"),
            }),
        }
    }

    /// A lifetime that is written in the program.
    ///
    /// # Panics
    /// When it is out of bounds; in a constant that is an error of the compiler.
    pub const fn constant(secs: u32) -> Self {
        assert!(secs >= 1 && secs <= Self::MAX_SECS);
        Self(secs)
    }

    /// Parses a number with a unit (`s`, `m`, `h`, `d`), or several from large to small (`1h30m`).
    pub fn parse(text: &str) -> Result<Self, TtlError> {
        let syntax = || TtlError::Syntax { value: excerpt(text) };
        let bounds = || TtlError::Bounds { value: excerpt(text) };
        let mut rest = text;
        let mut units = &UNITS[..];
        let mut secs = 0_u64;
        if text.is_empty() || text.len() > 64 {
            return Err(syntax());
        }
        while !rest.is_empty() {
            let end = rest
                .find(|c: char| !c.is_ascii_digit())
                .filter(|end| *end > 0)
                .ok_or_else(syntax)?;
            let unit = rest[end..].chars().next().ok_or_else(syntax)?;
            let at = units.iter().position(|(name, _)| *name == unit).ok_or_else(syntax)?;
            let count: u64 = rest[..end].parse().map_err(|_| bounds())?;
            secs = count
                .checked_mul(u64::from(units[at].1))
                .and_then(|more| secs.checked_add(more))
                .ok_or_else(bounds)?;
            units = &units[at + 1..];
            rest = &rest[end + 1..];
        }
        Self::from_secs(secs).map_err(|_| bounds())
    }

    /// The lifetime in seconds.
    pub fn as_secs(self) -> u64 {
        u64::from(self.0)
    }

    /// The lifetime in seconds, to be added to a time.
    pub fn as_secs_i64(self) -> i64 {
        i64::from(self.0)
    }

    /// The lifetime in seconds, as the wire has it.
    pub fn as_secs_i32(self) -> i32 {
        i32::try_from(self.0).unwrap_or(i32::MAX)
    }

    /// The lifetime as a duration.
    pub fn as_duration(self) -> Duration {
        Duration::from_secs(self.as_secs())
    }
}

/// Why something is not a lifetime.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TtlError {
    /// Not a number with a unit.
    #[error("lifetime {value} is not a number with a unit: write 30s, 5m, 1h or 30d")]
    Syntax {
        /// What was given.
        value: String,
    },
    /// Less than a second or more than 36,500 days.
    #[error("lifetime {value} is out of bounds: it is at least 1s and at most 36500d")]
    Bounds {
        /// What was given.
        value: String,
    },
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, size) = UNITS
            .iter()
            .find(|(_, size)| self.0.is_multiple_of(*size))
            .expect("every number of seconds is a multiple of one");
        f.pad(&format!("{}{name}", self.0 / size))
    }
}

impl fmt::Debug for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Ttl {
    type Err = TtlError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl serde::Serialize for Ttl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Ttl {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_printed_in_its_largest_whole_unit() {
        for (text, secs, printed) in [
            ("30s", 30, "30s"),
            ("5m", 300, "5m"),
            ("60m", 3600, "1h"),
            ("1h30m", 5400, "90m"),
            ("24h", 86_400, "1d"),
            ("30d", 2_592_000, "30d"),
        ] {
            let ttl = Ttl::parse(text).unwrap();
            assert_eq!((ttl.as_secs(), &*ttl.to_string()), (secs, printed));
        }
    }

    #[test]
    fn what_is_not_a_lifetime_is_refused() {
        for text in ["", "5", "s", "5 m", "-5m", "1.5h", "5min", "30m1h", "1h1h", "5µ", "1h5"] {
            assert!(matches!(Ttl::parse(text), Err(TtlError::Syntax { .. })), "{text}");
        }
        for text in ["0s", "36501d", "99999999999999999999s", "9999999999999999999d"] {
            assert!(matches!(Ttl::parse(text), Err(TtlError::Bounds { .. })), "{text}");
        }
        assert!(Ttl::parse("36500d").is_ok());
        assert!(Ttl::from_secs(0).is_err());
    }
}
