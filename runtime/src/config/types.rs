//! Types of configuration values that are written as text. Durations are `mintmark_identity::Ttl`: `30s`, `5m`, `1h`.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::{self, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer};

/// A number of bytes: `50GiB`, `512 MiB`, `10MB`, `4096`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// The text is not a number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a number of bytes; write for instance 4096, 512MiB or 50GiB")]
pub struct ByteSizeError(String);

const UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let trimmed = text.trim();
        let (number, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| Some((trimmed.strip_suffix(unit)?, *factor)))
            .unwrap_or((trimmed, 1));
        let number = number.trim_end();
        // `u64::from_str` alone would take a sign.
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| number.parse::<u64>().ok()).flatten();
        let bytes = number.and_then(|number| number.checked_mul(factor));
        bytes
            .map(Self)
            .ok_or_else(|| ByteSizeError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, factor): &&(&str, u64)| self.0 > 0 && self.0.is_multiple_of(*factor);
        match UNITS[..4].iter().find(whole) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrNumber;
        impl Visitor<'_> for TextOrNumber {
            type Value = ByteSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes such as \"50GiB\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                let negative = || E::invalid_value(de::Unexpected::Signed(bytes), &self);
                u64::try_from(bytes).map(ByteSize).map_err(|_| negative())
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }
        }
        // As text, as which an environment variable gives it; TOML's deserializer also hands over a number here.
        deserializer.deserialize_str(TextOrNumber)
    }
}

impl serde::Serialize for ByteSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a TCP listener listens; an empty string switches it off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listen(Option<SocketAddr>);

/// The text is not an address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not an IP address and port to listen on; write for instance 0.0.0.0:8081, [::]:8081, or nothing to switch the listener off"
)]
pub struct ListenError(String);

impl Listen {
    /// Listens on `addr`.
    pub fn new(addr: impl Into<SocketAddr>) -> Self {
        Self(Some(addr.into()))
    }

    /// Does not listen.
    pub fn off() -> Self {
        Self(None)
    }

    /// The address, if it is not switched off.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.0
    }
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        if text.is_empty() {
            return Ok(Self::off());
        }
        text.parse()
            .map(|addr: SocketAddr| Self::new(addr))
            .map_err(|_| ListenError(text.chars().take(128).collect()))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |addr| write!(f, "{addr}"))
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl serde::Serialize for Listen {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a Unix socket listens; an empty string switches it off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(transparent)]
pub struct ListenPath(PathBuf);

impl ListenPath {
    /// Listens at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Does not listen.
    pub fn off() -> Self {
        Self::default()
    }

    /// The path, if it is not switched off.
    pub fn path(&self) -> Option<&Path> {
        Some(self.0.as_path()).filter(|path| !path.as_os_str().is_empty())
    }
}

/// One value or a list of them, where an empty string is none: `workload = "/a"`, `workload = ["/a", "/b"]`, `workload = ""`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOrMany<T>(Vec<T>);

impl<T> OneOrMany<T> {
    /// The values.
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> From<Vec<T>> for OneOrMany<T> {
    fn from(values: Vec<T>) -> Self {
        Self(values)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = Vec<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a list")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
                if text.is_empty() {
                    return Ok(Vec::new());
                }
                T::deserialize(de::value::StrDeserializer::new(text)).map(|one| vec![one])
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<T>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list))
            }
        }
        // As a list, as which an environment variable gives it; TOML's deserializer also hands over text here.
        deserializer.deserialize_seq(Either(PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_bytes_is_read_and_printed() {
        for (text, bytes, printed) in [
            ("0", 0, "0"),
            ("4096", 4096, "4KiB"),
            ("1000", 1000, "1000"),
            ("50GiB", 50 << 30, "50GiB"),
            ("512 MiB", 512 << 20, "512MiB"),
            ("10MB", 10_000_000, "10000000"),
            ("2TiB", 2 << 40, "2TiB"),
            ("7B", 7, "7"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, printed), "{text}");
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        for text in [
            "",
            "GiB",
            "-1",
            "+1",
            "1.5GiB",
            "1gib",
            "99999999999TiB",
            "18446744073709551616",
            "１",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn one_value_is_a_list_of_one_and_an_empty_one_a_list_of_none() {
        #[derive(Deserialize)]
        struct Paths {
            paths: OneOrMany<PathBuf>,
        }
        for (text, expected) in [
            ("''", &[][..]),
            ("'/a'", &["/a"]),
            ("['/a', '/b']", &["/a", "/b"]),
            ("[]", &[]),
        ] {
            let parsed: Paths = toml::from_str(&format!("paths = {text}")).unwrap();
            let found: Vec<_> = parsed
                .paths
                .as_slice()
                .iter()
                .map(|path| path.to_str().unwrap())
                .collect();
            assert_eq!(found, expected, "{text}");
        }
        assert_eq!(ListenPath::default().path(), None);
        assert_eq!(ListenPath::new("/a").path(), Some(Path::new("/a")));
    }

    #[test]
    fn an_empty_address_switches_a_listener_off() {
        assert_eq!("".parse::<Listen>().unwrap().addr(), None);
        for text in ["0.0.0.0:8081", "[::1]:1", "127.0.0.1:0"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        for text in ["localhost:80", "8081", ":8081", "0.0.0.0", "0.0.0.0:65536"] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }
}
