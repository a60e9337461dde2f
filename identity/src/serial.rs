//! The 20-byte number of an issuance: an X.509 serial and a JWT `jti` that lead to the ledger.
//!
//! Layout: byte `01`, log number (2 bytes), index in that log (6), random (11), all big-endian. The leading
//! one keeps it positive and always 20 bytes long in DER (RFC 5280 §4.1.2.2); 88 random bits keep it
//! unpredictable.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::text::excerpt;

/// The number of one issuance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial([u8; 20]);

impl Serial {
    /// The largest index that fits, 2^48 - 1.
    pub const MAX_INDEX: u64 = (1 << 48) - 1;
    /// The length of the `jti` form in characters.
    pub const JTI_LENGTH: usize = 27;
    const MARK: u8 = 1;

    /// The serial of `index` in log number `log`, made unpredictable by `random`.
    pub fn new(log: u16, index: u64, random: [u8; 11]) -> Result<Self, SerialError> {
        if index > Self::MAX_INDEX {
            return Err(SerialError::Index { index });
        }
        let mut bytes = [0; 20];
        // The index takes the six low bytes of eight; the log number then overwrites the two above.
        bytes[1..9].copy_from_slice(&index.to_be_bytes());
        bytes[1..3].copy_from_slice(&log.to_be_bytes());
        bytes[0] = Self::MARK;
        bytes[9..].copy_from_slice(&random);
        Ok(Self(bytes))
    }

    /// The number of the log that holds this issuance.
    pub fn log(&self) -> u16 {
        u16::from_be_bytes([self.0[1], self.0[2]])
    }

    /// The index of the leaf in that log.
    pub fn index(&self) -> u64 {
        self.0[3..9].iter().fold(0, |index, byte| index << 8 | u64::from(*byte))
    }

    /// The 20 bytes, which are also the content of the DER integer.
    pub fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// Takes 20 bytes that start with `01`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SerialError> {
        let bytes: [u8; 20] = bytes
            .try_into()
            .map_err(|_| SerialError::Length { length: bytes.len() })?;
        if bytes[0] == Self::MARK {
            Ok(Self(bytes))
        } else {
            Err(SerialError::Mark { mark: bytes[0] })
        }
    }

    /// Upper-case hex, as openssl prints it.
    pub fn hex(&self) -> String {
        hex::encode_upper(self.0)
    }

    /// Reads hex of either case, with or without colons between the bytes, as openssl prints it.
    pub fn from_hex(text: &str) -> Result<Self, SerialError> {
        let not_hex = || SerialError::Hex { value: excerpt(text) };
        let mut bytes = [0; 20];
        match text.len() {
            40 => hex::decode_to_slice(text, &mut bytes).map_err(|_| not_hex())?,
            59 => {
                let mut pairs = text.split(':');
                for byte in &mut bytes {
                    let pair = pairs.next().ok_or_else(not_hex)?;
                    hex::decode_to_slice(pair, std::slice::from_mut(byte)).map_err(|_| not_hex())?;
                }
            }
            _ => return Err(not_hex()),
        }
        Self::from_bytes(&bytes)
    }

    /// The form a JWT's `jti` has: base64url without padding, 27 characters.
    pub fn jti(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Reads the `jti` form.
    pub fn from_jti(text: &str) -> Result<Self, SerialError> {
        let not_jti = || SerialError::Jti { value: excerpt(text) };
        let mut bytes = [0; 21];
        if text.len() != Self::JTI_LENGTH {
            return Err(not_jti());
        }
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).map_err(|_| not_jti())?;
        Self::from_bytes(bytes.get(..length).ok_or_else(not_jti)?)
    }

    /// Reads either form; a `jti` is told from hex by its length.
    pub fn parse(text: &str) -> Result<Self, SerialError> {
        if text.len() == Self::JTI_LENGTH {
            Self::from_jti(text)
        } else {
            Self::from_hex(text)
        }
    }
}

/// Why something is not a serial of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SerialError {
    /// The index does not fit into 6 bytes.
    #[error("log index {index} does not fit into a serial, the largest is {}", Serial::MAX_INDEX)]
    Index {
        /// The index that was given.
        index: u64,
    },
    /// Not 20 bytes.
    #[error("a serial of Mintmark has 20 bytes, this one has {length}")]
    Length {
        /// How many were given.
        length: usize,
    },
    /// The first byte is not `01`.
    #[error("a serial of Mintmark starts with 01, this one with {mark:02X}")]
    Mark {
        /// The first byte that was given.
        mark: u8,
    },
    /// Not hex.
    #[error("serial {value} is not 40 hex digits")]
    Hex {
        /// What was given.
        value: String,
    },
    /// Not the base64url form.
    #[error("jti {value} is not {} characters of base64url", Serial::JTI_LENGTH)]
    Jti {
        /// What was given.
        value: String,
    },
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 40];
        hex::encode_to_slice(self.0, &mut text).expect("20 bytes are 40 hex digits");
        text.make_ascii_uppercase();
        f.pad(str::from_utf8(&text).expect("hex is ASCII"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

impl FromStr for Serial {
    type Err = SerialError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl serde::Serialize for Serial {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Serial {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_mark_log_index_random() {
        let serial = Serial::new(0x0203, 0x0405_0607_0809, [0xaa; 11]).unwrap();
        assert_eq!(serial.hex(), "010203040506070809AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(serial.log(), 0x0203);
        assert_eq!(serial.index(), 0x0405_0607_0809);
        assert_eq!(serial.to_string(), serial.hex());
    }

    #[test]
    fn an_index_beyond_48_bits_is_refused() {
        assert!(Serial::new(0, Serial::MAX_INDEX, [0; 11]).is_ok());
        let error = Serial::new(0, Serial::MAX_INDEX + 1, [0; 11]).unwrap_err();
        assert!(error.to_string().contains("281474976710656"), "{error}");
    }

    #[test]
    fn hex_of_either_case_and_with_colons_and_jti_are_read_back() {
        let serial = Serial::new(7, 42, *b"random bits").unwrap();
        let colons: Vec<_> = serial.as_bytes().iter().map(|b| format!("{b:02x}")).collect();
        for text in [
            serial.hex(),
            serial.hex().to_lowercase(),
            colons.join(":"),
            serial.jti(),
        ] {
            assert_eq!(Serial::parse(&text).unwrap(), serial, "{text}");
        }
    }

    #[test]
    fn serials_of_others_are_refused() {
        assert!(matches!(
            Serial::from_bytes(&[1; 19]),
            Err(SerialError::Length { length: 19 })
        ));
        assert!(matches!(
            Serial::from_bytes(&[2; 20]),
            Err(SerialError::Mark { mark: 2 })
        ));
        assert!(Serial::from_hex("01").is_err());
        assert!(Serial::from_hex(&":".repeat(59)).is_err());
        // The last character of 27 has two spare bits, which must be zero.
        let jti = Serial::new(7, 42, [0; 11]).unwrap().jti();
        assert!(jti.ends_with('A'));
        assert!(Serial::from_jti(&format!("{}B", &jti[..26])).is_err());
    }
}
