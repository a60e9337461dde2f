//! Bundles in the forms in which they are served, made once for each change.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use mintmark_identity::svid::x509::Authority;
use mintmark_identity::{Bundle, JwtAuthority, KeyId, TrustDomain, X509Authority};
use mintmark_proto::digest;
use mintmark_proto::spire::types;
use prost::Message as _;

/// More authorities of one kind than this are not taken.
const MAX_AUTHORITIES: usize = 1000;

/// A bundle that is held.
#[derive(Debug)]
pub struct HeldBundle {
    /// The bundle.
    pub bundle: Bundle,
    /// The X.509 authorities, DER certificates joined without separator.
    pub x509: Bytes,
    /// The JWT authorities as a JWK set.
    pub jwt: Bytes,
    /// The WIT authorities as a JWK set.
    pub wit: Arc<str>,
    /// As the link names it.
    pub(super) digest: u64,
    /// The bundle as it came, for the cache.
    pub(super) encoded: Bytes,
    /// Key identifiers of the X.509 authorities whose SVIDs need not be replaced.
    sound: HashSet<Vec<u8>>,
}

impl HeldBundle {
    /// Differs when anything of it does.
    pub fn print(&self) -> u64 {
        self.digest
    }

    /// Takes a bundle as the server sends it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn from_message(message: &types::Bundle) -> Result<Self, String> {
        let bundle = bundle(message)?;
        let x509: Vec<u8> = bundle
            .x509
            .iter()
            .flat_map(|authority| authority.der.iter().copied())
            .collect();
        let sound = bundle.x509.iter().filter(|authority| !authority.tainted);
        Ok(Self {
            x509: x509.into(),
            jwt: bundle.jwt_jwks().map_err(|error| error.to_string())?.into(),
            wit: bundle.wit_jwks().map_err(|error| error.to_string())?.into(),
            digest: digest::of(message),
            encoded: message.encode_to_vec().into(),
            sound: sound.filter_map(|authority| key_identifier(&authority.der)).collect(),
            bundle,
        })
    }

    /// Whether an SVID that this authority signed may stay: the authority is in the bundle and not tainted.
    pub(super) fn is_sound(&self, authority: &[u8]) -> bool {
        self.sound.contains(authority)
    }

    /// Whether a JWT-SVID that this key signed may stay.
    pub(super) fn is_sound_jwt(&self, key_id: &KeyId) -> bool {
        is_sound(&self.bundle.jwt, key_id)
    }

    /// Whether a WIT-SVID that this key signed may stay.
    pub(super) fn is_sound_wit(&self, key_id: &KeyId) -> bool {
        is_sound(&self.bundle.wit, key_id)
    }
}

fn is_sound(keys: &[JwtAuthority], key_id: &KeyId) -> bool {
    keys.iter().any(|key| key.key_id == *key_id && !key.tainted)
}

fn key_identifier(der: &[u8]) -> Option<Vec<u8>> {
    Authority::parse(der)
        .ok()?
        .certificate
        .subject_key_id
        .map(<[u8]>::to_vec)
}

/// The bundle of the API's message.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn bundle(message: &types::Bundle) -> Result<Bundle, String> {
    let trust_domain = TrustDomain::parse_name_or_id(&message.trust_domain).map_err(|error| error.to_string())?;
    let most = [
        message.x509_authorities.len(),
        message.jwt_authorities.len(),
        message.wit_authorities.len(),
    ];
    if let Some(count) = most.into_iter().find(|count| *count > MAX_AUTHORITIES) {
        return Err(format!(
            "it has {count} authorities of one kind, and at most {MAX_AUTHORITIES} are taken"
        ));
    }
    let x509 = message.x509_authorities.iter().map(|authority| {
        Authority::parse(&authority.asn1).map_err(|error| format!("an X.509 authority: {error}"))?;
        Ok(X509Authority {
            der: authority.asn1.as_ref().into(),
            tainted: authority.tainted,
        })
    });
    let key = |key_id: &str, spki: &Bytes, expires_at, tainted| {
        let key_id = KeyId::parse(key_id).map_err(|error| error.to_string())?;
        Ok::<_, String>(JwtAuthority {
            key_id,
            spki_der: spki.as_ref().into(),
            expires_at,
            tainted,
        })
    };
    let jwt = message
        .jwt_authorities
        .iter()
        .map(|one| key(&one.key_id, &one.public_key, one.expires_at, one.tainted));
    let wit = message
        .wit_authorities
        .iter()
        .map(|one| key(&one.key_id, &one.public_key, one.expires_at, one.tainted));
    Ok(Bundle {
        trust_domain,
        sequence: message.sequence_number,
        refresh_hint: u32::try_from(message.refresh_hint).ok().filter(|hint| *hint > 0),
        x509: x509.collect::<Result<_, String>>()?,
        jwt: jwt.collect::<Result<_, _>>()?,
        wit: wit.collect::<Result<_, _>>()?,
    })
}
