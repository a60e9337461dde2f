//! SVIDs that are held, and the checks that they pass before they are.

use std::sync::Arc;

use bytes::Bytes;
use mintmark_identity::svid::{wit, x509};
use mintmark_identity::{KeyId, SpiffeId};
use mintmark_proto::attestor::SignResult;
use mintmark_proto::spire::types;
use tonic::Code;

use super::keys::{NewKey, SecretText};
use super::upstream::UpstreamError;

/// An SVID's life has so many steps; what falls due in one is renewed together.
const STEPS: i64 = 32;
/// More certificates than this are no chain.
const MAX_CHAIN: usize = 8;

/// An X.509-SVID with its key.
pub struct X509Svid {
    /// Certificates in DER without the root, the SVID itself first, joined without separator.
    pub chain: Bytes,
    /// The private key, PKCS #8 in DER.
    pub key: Bytes,
    /// The last second at which it is valid, Unix seconds.
    pub not_after: i64,
    /// Differs from that of every other SVID held in this run.
    pub generation: u64,
    pub(super) life: Life,
    /// The key identifier of the authority at the end of the chain, if it is said.
    pub(super) authority: Option<Vec<u8>>,
}

/// A WIT-SVID with its key.
pub struct WitSvid {
    /// The token.
    pub token: SecretText,
    /// The private key as JWK.
    pub key: SecretText,
    /// From which second on it is not valid, Unix seconds.
    pub expires_at: i64,
    /// Differs from that of every other SVID held in this run.
    pub generation: u64,
    pub(super) life: Life,
    pub(super) key_id: KeyId,
}

/// When an SVID is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// When it came, Unix milliseconds.
    pub(super) from: i64,
    /// When it ends, Unix milliseconds.
    pub(super) until: i64,
    /// By how many steps it is renewed after half of its life.
    pub(super) phase: i64,
}

impl Life {
    /// A 32nd of it, in milliseconds.
    pub(super) fn step(self) -> i64 {
        ((self.until - self.from) / STEPS).max(1)
    }

    /// When it is to be renewed, Unix milliseconds.
    pub(super) fn renewal(self) -> i64 {
        self.from + (self.until - self.from).max(0) / 2 + self.phase * self.step()
    }
}

impl X509Svid {
    /// Takes the server's answer for `key`, if it is an SVID of `spiffe_id` for it that is valid at `now` (Unix milliseconds).
    pub(super) fn accept(
        answer: SignResult,
        spiffe_id: &SpiffeId,
        key: &NewKey,
        now: i64,
        phase: i64,
    ) -> Result<Self, UpstreamError> {
        if answer.code != 0 {
            let code = Code::from(i32::try_from(answer.code).unwrap_or_default());
            return Err(UpstreamError::Refused {
                code,
                message: answer.message,
            });
        }
        let nonsense = |why: String| UpstreamError::Nonsense(why);
        let chain = answer.cert_chain;
        if chain.len() > MAX_CHAIN {
            return Err(nonsense(format!("a chain of {} certificates", chain.len())));
        }
        let first = chain.first().ok_or_else(|| nonsense("no certificate".into()))?;
        let leaf = x509::Leaf::parse(first).map_err(|error| nonsense(error.to_string()))?;
        if leaf.spiffe_id != *spiffe_id {
            return Err(nonsense(format!("an SVID of {}, not of {spiffe_id}", leaf.spiffe_id)));
        }
        if leaf.certificate.spki_der != &key.spki[..] {
            return Err(nonsense("an SVID for another key".into()));
        }
        let not_after = leaf.certificate.not_after;
        let until = not_after.saturating_mul(1000);
        if until <= now {
            return Err(nonsense(format!("an SVID that ended at {not_after}")));
        }
        let authority = signer(&leaf, &chain);
        Ok(Self {
            // Copied out of the message that it came in.
            chain: chain.concat().into(),
            key: key.pkcs8.clone(),
            not_after,
            generation: 0,
            life: Life {
                from: now,
                until,
                phase,
            },
            authority,
        })
    }
}

/// The key identifier of the authority that the chain of `leaf` ends at, if it is said.
pub(crate) fn signer(leaf: &x509::Leaf<'_>, chain: &[impl AsRef<[u8]>]) -> Option<Vec<u8>> {
    match chain {
        [] | [_] => leaf.certificate.authority_key_id.map(<[u8]>::to_vec),
        [.., last] => x509::Authority::parse(last.as_ref())
            .ok()
            .and_then(|last| Some(last.certificate.authority_key_id?.to_vec())),
    }
}

impl WitSvid {
    /// Takes the server's answer for `key`, if it is a WIT-SVID of `spiffe_id` for it that is valid at `now` (Unix milliseconds).
    pub(super) fn accept(
        answer: Result<types::Witsvid, UpstreamError>,
        spiffe_id: &SpiffeId,
        key: &NewKey,
        now: i64,
        phase: i64,
    ) -> Result<Self, UpstreamError> {
        let token = answer?.token;
        let nonsense = |why: String| UpstreamError::Nonsense(why);
        let parsed = wit::Token::parse(&token).map_err(|error| nonsense(error.to_string()))?;
        if parsed.subject() != spiffe_id {
            return Err(nonsense(format!(
                "a WIT-SVID of {}, not of {spiffe_id}",
                parsed.subject()
            )));
        }
        let (key_id, expires_at) = (parsed.key_id().clone(), parsed.expires_at());
        if parsed.into_unverified_claims().confirmation.spki_der != key.spki {
            return Err(nonsense("a WIT-SVID for another key".into()));
        }
        let until = expires_at.saturating_mul(1000);
        if until <= now {
            return Err(nonsense(format!("a WIT-SVID that ended at {expires_at}")));
        }
        let key = key
            .private_jwk()
            .ok_or_else(|| nonsense("our own key cannot be read".into()))?;
        Ok(Self {
            token: token.into(),
            key,
            expires_at,
            generation: 0,
            life: Life {
                from: now,
                until,
                phase,
            },
            key_id,
        })
    }
}

/// Something that ends.
pub(super) trait Ends {
    fn life(&self) -> Life;
    fn with_generation(self, generation: u64) -> Arc<Self>;
}

impl Ends for X509Svid {
    fn life(&self) -> Life {
        self.life
    }

    fn with_generation(mut self, generation: u64) -> Arc<Self> {
        self.generation = generation;
        Arc::new(self)
    }
}

impl Ends for WitSvid {
    fn life(&self) -> Life {
        self.life
    }

    fn with_generation(mut self, generation: u64) -> Arc<Self> {
        self.generation = generation;
        Arc::new(self)
    }
}

impl std::fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("X509Svid")
            .field("not_after", &self.not_after)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for WitSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WitSvid")
            .field("expires_at", &self.expires_at)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_svid_is_renewed_between_half_and_five_eighths_of_its_life(from in 0..1i64 << 40, length in 32..1i64 << 32, phase in 0..4i64) {
            let life = Life { from, until: from + length, phase };
            let renewal = life.renewal();
            prop_assert!(renewal >= from + length / 2);
            prop_assert!(renewal <= from + length / 2 + length / 8);
            prop_assert!(renewal + life.step() < life.until);
        }
    }
}
