//! What a leaf must say: where it stands, and what was issued.
//!
//! Pure. The log stores and hashes a leaf's bytes as they came; this decodes them for those who check.

use mintmark_identity::Serial;
use mintmark_proto::ledger::{Kind, Leaf};
use prost::Message as _;

/// Why a leaf is not the record of what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// The bytes are no `mintmark.ledger.v1.Leaf`.
    #[error("it is not a mintmark.ledger.v1.Leaf: {0}")]
    Malformed(String),
    /// The leaf says that it stands elsewhere.
    #[error("it says that it is leaf {index} of log {log}")]
    Place {
        /// The log it names.
        log: u32,
        /// The index it names.
        index: u64,
    },
    /// The leaf has another serial.
    #[error("it records serial {logged}, not {asked}")]
    Serial {
        /// What the leaf has, in hex.
        logged: String,
        /// What was asked for, in hex.
        asked: String,
    },
    /// The credential is not the one that was logged: it was signed by somebody else who has the key, or altered.
    #[error("what was signed is not what was logged: its SHA-256 is {got}, the leaf has {logged}")]
    Content {
        /// What the leaf has, in hex.
        logged: String,
        /// That of the credential, in hex.
        got: String,
    },
    /// The leaf says that nothing was signed under its index.
    #[error("it records that nothing was issued under this index")]
    Void,
}

/// Decodes a leaf.
///
/// # Errors
/// [`LeafError::Malformed`].
pub fn decode_leaf(leaf: &[u8]) -> Result<Leaf, LeafError> {
    Leaf::decode(leaf).map_err(|error| LeafError::Malformed(error.to_string()))
}

/// Checks that a leaf says where it stands: its log and index, and its serial's.
pub(super) fn check_place(log: u16, index: u64, leaf: &[u8]) -> Result<(), LeafError> {
    let leaf = decode_leaf(leaf)?;
    if (leaf.log, leaf.index) != (u32::from(log), index) {
        return Err(LeafError::Place {
            log: leaf.log,
            index: leaf.index,
        });
    }
    match Serial::from_bytes(&leaf.serial) {
        Ok(serial) if (serial.log(), serial.index()) != (log, index) => Err(LeafError::Place {
            log: serial.log().into(),
            index: serial.index(),
        }),
        Ok(_) => Ok(()),
        Err(_) if leaf.serial.is_empty() && leaf.kind() == Kind::Void => Ok(()),
        Err(error) => Err(LeafError::Malformed(error.to_string())),
    }
}

/// Checks that `leaf` records the credential with this serial, of which `content_sha256` was signed: the SHA-256 of a certificate's
/// TBSCertificate, or of a token's signing input.
///
/// # Errors
/// [`LeafError`] says what differs.
pub fn verify_issued(leaf: &Leaf, serial: &Serial, content_sha256: &[u8; 32]) -> Result<(), LeafError> {
    if leaf.serial != serial.as_bytes().as_slice()
        || leaf.log != u32::from(serial.log())
        || leaf.index != serial.index()
    {
        return Err(LeafError::Serial {
            logged: hex::encode_upper(&leaf.serial),
            asked: serial.hex(),
        });
    }
    if leaf.kind() == Kind::Void {
        return Err(LeafError::Void);
    }
    if leaf.content_sha256 != content_sha256.as_slice() {
        return Err(LeafError::Content {
            logged: hex::encode(&leaf.content_sha256),
            got: hex::encode(content_sha256),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(serial: &Serial) -> Leaf {
        Leaf {
            log: serial.log().into(),
            index: serial.index(),
            kind: Kind::X509Svid.into(),
            serial: serial.as_bytes().to_vec().into(),
            content_sha256: vec![5; 32].into(),
            ..Leaf::default()
        }
    }

    #[test]
    fn a_leaf_records_one_credential_and_no_other() {
        let serial = Serial::new(3, 77, [9; 11]).unwrap();
        let leaf = leaf(&serial);
        assert_eq!(verify_issued(&leaf, &serial, &[5; 32]), Ok(()));
        assert!(matches!(
            verify_issued(&leaf, &serial, &[6; 32]),
            Err(LeafError::Content { .. })
        ));
        let other = Serial::new(3, 77, [8; 11]).unwrap();
        assert!(matches!(
            verify_issued(&leaf, &other, &[5; 32]),
            Err(LeafError::Serial { .. })
        ));
        let void = Leaf {
            kind: Kind::Void.into(),
            ..leaf.clone()
        };
        assert_eq!(verify_issued(&void, &serial, &[5; 32]), Err(LeafError::Void));
    }

    #[test]
    fn a_leaf_at_another_place_than_it_says_is_told() {
        let leaf = leaf(&Serial::new(3, 77, [9; 11]).unwrap());
        let bytes = leaf.encode_to_vec();
        assert_eq!(check_place(3, 77, &bytes), Ok(()));
        assert_eq!(check_place(3, 78, &bytes), Err(LeafError::Place { log: 3, index: 77 }));
        assert_eq!(check_place(4, 77, &bytes), Err(LeafError::Place { log: 3, index: 77 }));
        let moved = Leaf { index: 78, ..leaf };
        assert_eq!(
            check_place(3, 78, &moved.encode_to_vec()),
            Err(LeafError::Place { log: 3, index: 77 })
        );
        assert!(matches!(check_place(3, 77, b"\xff"), Err(LeafError::Malformed(_))));
        assert!(matches!(check_place(0, 0, b""), Err(LeafError::Malformed(_))));
    }
}
