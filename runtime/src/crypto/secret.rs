//! Secrets in memory: not printable, not cloneable, wiped when dropped.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// Secret bytes: a private key, a token. Wiped when dropped; what it was made from is the caller's to wipe.
#[derive(Default)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

/// Secret text: a token or passphrase of the configuration. Wiped when dropped.
#[derive(Default)]
pub struct SecretString(Zeroizing<String>);

impl SecretBytes {
    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for the one that uses them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl From<Zeroizing<Vec<u8>>> for SecretBytes {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(redacted)")
    }
}

impl SecretString {
    /// Takes the text over.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for the one that uses it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is empty, which in a configuration means not set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for SecretString {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl fmt::Debug for SecretString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretString(redacted)")
    }
}

impl<'de> Deserialize<'de> for SecretString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Serde's own message would quote what it found.
        let refused = |_| D::Error::custom("a secret must be text in quotes");
        String::deserialize(deserializer).map(Self::new).map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(
            format!("{:?}", SecretBytes::new(b"abc".to_vec())),
            "SecretBytes(redacted)"
        );
        assert_eq!(
            format!("{:?}", SecretString::new("abc".into())),
            "SecretString(redacted)"
        );
    }
}
