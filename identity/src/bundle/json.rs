//! The JSON forms of a bundle.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Bundle, BundleError, JwtAuthority, X509Authority};
use crate::jwk::Jwk;
use crate::spki::RawKey;
use crate::svid::x509;
use crate::text::excerpt;
use crate::{KeyId, TrustDomain};

/// The largest document in bytes.
pub(super) const MAX_DOCUMENT: usize = 1 << 20;
/// The most keys in a document.
pub(super) const MAX_KEYS: usize = 1000;

const X509_USE: &str = "x509-svid";
const JWT_USE: &str = "jwt-svid";
const WIT_USE: &str = "wit-svid";

#[derive(Deserialize)]
pub(super) struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
    spiffe_sequence: Option<u64>,
    spiffe_refresh_hint: Option<u32>,
}

#[derive(Serialize)]
pub(super) struct Written {
    keys: Vec<Jwk>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_refresh_hint: Option<u32>,
}

/// What decides whether an entry is looked at; of an unknown one nothing else is read.
#[derive(Deserialize)]
struct Label {
    kty: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
}

impl Bundle {
    /// Reads a SPIFFE bundle document of at most 1 MiB and 1,000 keys.
    ///
    /// Entries of unknown `kty` or `use` and those with an empty `x5c` are ignored; what is left must be
    /// sound, and a `kid` must be there once (SPIFFE_Trust_Domain_and_Bundle §4, X509-SVID §6.2).
    pub fn from_json(trust_domain: &TrustDomain, json: &[u8]) -> Result<Self, BundleError> {
        if json.len() > MAX_DOCUMENT {
            return Err(BundleError::TooLong { length: json.len() });
        }
        read(trust_domain, serde_json::from_slice(json)?)
    }

    /// Writes the SPIFFE bundle document.
    pub fn to_json(&self) -> Result<String, BundleError> {
        Ok(serde_json::to_string(&write(self)?)?)
    }

    /// The JWT-SVID keys alone as a plain JWK set, as the Workload API gives them (§7.2.2 there).
    pub fn jwt_jwks(&self) -> Result<String, BundleError> {
        key_set(&self.jwt, |jwk, _| jwk)
    }

    /// The WIT-SVID keys alone as a JWK set, as the Workload API gives them. Each says its use, since a WIT-SVID is verified with no other key (WIT-SVID §6.1).
    pub fn wit_jwks(&self) -> Result<String, BundleError> {
        key_set(&self.wit, |jwk, _| jwk.with_use(WIT_USE))
    }

    /// The JWT-SVID keys for OIDC consumers: each with `kid`, `use: sig` and its `alg` (ES256, ES384 or
    /// ES512 by curve, RS256 for RSA), which the SPIFFE form must not have.
    pub fn oidc_jwks(&self) -> Result<String, BundleError> {
        key_set(&self.jwt, |jwk, key| match key.default_alg() {
            Some(algorithm) => jwk.with_use("sig").with_algorithm(algorithm),
            None => jwk,
        })
    }
}

pub(super) fn read(trust_domain: &TrustDomain, document: Document<'_>) -> Result<Bundle, BundleError> {
    if document.keys.len() > MAX_KEYS {
        return Err(BundleError::TooManyKeys {
            count: document.keys.len(),
        });
    }
    let mut bundle = Bundle::new(trust_domain.clone());
    bundle.sequence = document.spiffe_sequence.unwrap_or(0);
    bundle.refresh_hint = document.spiffe_refresh_hint;
    for (index, entry) in document.keys.iter().enumerate() {
        let label: Label = serde_json::from_str(entry.get())?;
        let (Some(kty), Some(usage)) = (label.kty.as_deref(), label.usage.as_deref()) else {
            continue;
        };
        match (usage, kty) {
            (X509_USE, "EC" | "RSA" | "OKP") => read_certificate(&mut bundle.x509, index, entry)?,
            (JWT_USE, "EC" | "RSA") => read_key(&mut bundle.jwt, &bundle.wit, index, entry)?,
            (WIT_USE, "EC" | "RSA") => read_key(&mut bundle.wit, &bundle.jwt, index, entry)?,
            _ => {}
        }
    }
    Ok(bundle)
}

fn read_certificate(into: &mut Vec<X509Authority>, index: usize, entry: &RawValue) -> Result<(), BundleError> {
    let jwk: Jwk = serde_json::from_str(entry.get())?;
    let Some(der) = jwk.certificate().map_err(|source| BundleError::Jwk { index, source })? else {
        return Ok(());
    };
    x509::certificate(&der).map_err(|source| BundleError::Certificate { index, source })?;
    if !into.iter().any(|known| *known.der == *der) {
        into.push(X509Authority {
            der: der.into(),
            tainted: false,
        });
    }
    Ok(())
}

fn read_key(
    into: &mut Vec<JwtAuthority>,
    others: &[JwtAuthority],
    index: usize,
    entry: &RawValue,
) -> Result<(), BundleError> {
    let jwk: Jwk = serde_json::from_str(entry.get())?;
    let key_id = jwk.key_id().ok_or(BundleError::NoKeyId { index })?;
    let key_id = KeyId::parse(key_id).map_err(|source| BundleError::KeyId { index, source })?;
    let spki_der = jwk.spki_der().map_err(|source| BundleError::Jwk { index, source })?;
    if let Some(known) = into.iter().chain(others).find(|known| known.key_id == key_id) {
        if *known.spki_der == *spki_der && into.iter().any(|known| known.key_id == key_id) {
            return Ok(());
        }
        return Err(BundleError::DuplicateKeyId { key_id });
    }
    into.push(JwtAuthority {
        key_id,
        spki_der: spki_der.into(),
        expires_at: 0,
        tainted: false,
    });
    Ok(())
}

pub(super) fn write(bundle: &Bundle) -> Result<Written, BundleError> {
    let mut keys = Vec::with_capacity(bundle.x509.len() + bundle.jwt.len() + bundle.wit.len());
    for authority in &bundle.x509 {
        let index = keys.len();
        let certificate =
            x509::certificate(&authority.der).map_err(|source| BundleError::Certificate { index, source })?;
        let jwk = Jwk::from_spki(certificate.public_key().raw).map_err(|source| BundleError::Jwk {
            index,
            source: source.into(),
        })?;
        keys.push(jwk.with_use(X509_USE).with_certificate(&authority.der));
    }
    for (usage, authorities) in [(JWT_USE, &bundle.jwt), (WIT_USE, &bundle.wit)] {
        for authority in authorities {
            let index = keys.len();
            let jwk = Jwk::from_spki(&authority.spki_der).map_err(|source| BundleError::Jwk {
                index,
                source: source.into(),
            })?;
            keys.push(jwk.with_use(usage).with_key_id(&authority.key_id));
        }
    }
    Ok(Written {
        keys,
        spiffe_sequence: Some(bundle.sequence),
        spiffe_refresh_hint: bundle.refresh_hint,
    })
}

impl Written {
    /// Without the refresh hint, as a bundle map has its bundles.
    pub(super) fn without_hint(mut self) -> Self {
        self.spiffe_refresh_hint = None;
        self
    }
}

fn key_set(authorities: &[JwtAuthority], finish: impl Fn(Jwk, &RawKey<'_>) -> Jwk) -> Result<String, BundleError> {
    let mut keys = Vec::with_capacity(authorities.len());
    for (index, authority) in authorities.iter().enumerate() {
        let problem = |source: crate::KeyError| BundleError::Jwk {
            index,
            source: source.into(),
        };
        let raw = RawKey::parse(&authority.spki_der).map_err(problem)?;
        let jwk = Jwk::from_spki(&authority.spki_der).map_err(problem)?;
        keys.push(finish(jwk.with_key_id(&authority.key_id), &raw));
    }
    Ok(serde_json::to_string(&Written {
        keys,
        spiffe_sequence: None,
        spiffe_refresh_hint: None,
    })?)
}

/// A serde error cut to a bounded length.
pub(super) fn json_error(error: &serde_json::Error) -> String {
    excerpt(&error.to_string())
}
