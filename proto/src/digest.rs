//! How the two ends of the node link name what they hold: see `mintmark/attestor/v1/attestor.proto`.

use prost::Message;

/// The first 8 bytes, big-endian, of SHA-256 over the message as it is encoded.
pub fn of(message: &impl Message) -> u64 {
    let digest = ring::digest::digest(&ring::digest::SHA256, &message.encode_to_vec());
    digest
        .as_ref()
        .iter()
        .take(8)
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spire::types::{Entry, Spiffeid};

    #[test]
    fn a_digest_is_the_beginning_of_sha_256_over_the_message() {
        // printf '' | sha256sum: e3b0c44298fc1c14…
        assert_eq!(of(&Entry::default()), 0xe3b0_c442_98fc_1c14);
    }

    #[test]
    fn any_field_changes_the_digest() {
        let entry = Entry {
            id: "e".into(),
            revision_number: 1,
            ..Entry::default()
        };
        let later = Entry {
            created_at: 1,
            ..entry.clone()
        };
        let renamed = Entry {
            spiffe_id: Some(Spiffeid::default()),
            ..entry.clone()
        };
        assert_ne!(of(&entry), of(&later));
        assert_ne!(of(&entry), of(&renamed));
    }
}
