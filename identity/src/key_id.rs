//! The name of an authority's key: an X.509 authority's key identifier or a JWT key's `kid`.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::text::excerpt;

/// A key's name: 1 to 64 characters of `[A-Za-z0-9_-]`, safe in a URL and as a file name. A clone is a
/// reference count.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// The longest key ID in characters.
    pub const MAX_LENGTH: usize = 64;

    /// Parses a key ID; it is case-sensitive.
    pub fn parse(text: &str) -> Result<Self, KeyIdError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if text.is_empty() || text.len() > Self::MAX_LENGTH || !text.bytes().all(allowed) {
            return Err(KeyIdError { value: excerpt(text) });
        }
        Ok(Self(text.into()))
    }

    /// The lower-case hex of a key identifier, as authorities are named by.
    pub fn from_hash(hash: &[u8; 20]) -> Self {
        let mut text = [0; 40];
        hex::encode_to_slice(hash, &mut text).expect("20 bytes are 40 hex digits");
        Self(str::from_utf8(&text).expect("hex is ASCII").into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a key ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "key ID {value} is not 1 to {} characters of a-z, A-Z, 0-9, '_' and '-'",
    KeyId::MAX_LENGTH
)]
pub struct KeyIdError {
    value: String,
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for KeyId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for KeyId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl serde::Serialize for KeyId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> serde::Deserialize<'de> for KeyId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_id_is_safe_in_a_url_and_as_a_file_name() {
        for good in ["a", "C6vs25welZOx6WksNYfbMfiw9l96pMnD", "-_9", &"x".repeat(64)] {
            assert_eq!(KeyId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a/b", "..", "ä", "a b", &"x".repeat(65)] {
            assert!(KeyId::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(KeyId::from_hash(&[0xab; 20]).as_str(), "ab".repeat(20));
    }
}
