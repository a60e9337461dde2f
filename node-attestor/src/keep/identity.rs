//! An identity that applies to this node: an entry of the server, reduced to what is needed here.

use std::sync::Arc;

use bytes::Bytes;
use mintmark_identity::{Selector, Selectors, SpiffeId, TrustDomain};
use mintmark_proto::digest;
use mintmark_proto::spire::types;
use prost::Message as _;

/// The kinds of selectors that callers of this node can have. An identity that asks for another kind is nobody's here.
const KINDS: [&str; 2] = [crate::peer::KIND, crate::peer::POD_KIND];

/// An identity and who may have it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The entry's ID.
    pub id: Arc<str>,
    /// The identity.
    pub spiffe_id: SpiffeId,
    /// What a caller must have: all of them.
    pub selectors: Selectors,
    /// Trust domains whose bundles the caller gets, too.
    pub federates_with: Vec<TrustDomain>,
    /// What the identity is for, where a caller has several; empty for nothing said.
    pub hint: Arc<str>,
    /// When it was registered, Unix seconds: the oldest one comes first.
    pub created_at: i64,
    /// When it ends, Unix seconds, if it does.
    pub expires_at: Option<i64>,
    /// Whether the X.509-SVID is made before anybody asks.
    pub prefetch: bool,
    /// Whether it is for callers of the Workload API at all.
    pub is_served: bool,
    /// As the link names it.
    pub(super) digest: u64,
    /// Changes with everything that stands in an SVID.
    pub(super) shape: u64,
    /// The entry as it came, for the cache.
    pub(super) encoded: Bytes,
}

impl Identity {
    /// Differs when anything of it does.
    pub fn print(&self) -> u64 {
        self.digest
    }

    /// Takes an entry as the server sends it, in the trust domain `own`.
    ///
    /// # Errors
    /// What is wrong with it; the server checks what it registers, so that this is a newer server's or an error.
    pub(super) fn from_message(entry: &types::Entry, own: &TrustDomain) -> Result<Self, String> {
        let id = entry.spiffe_id.as_ref().ok_or("it has no SPIFFE ID")?;
        let trust_domain = TrustDomain::parse(&id.trust_domain).map_err(|error| error.to_string())?;
        if trust_domain != *own {
            return Err(format!("its SPIFFE ID is of trust domain {trust_domain}, not of {own}"));
        }
        let selectors = entry.selectors.iter().map(|one| Selector::new(&one.r#type, &one.value));
        let selectors = selectors
            .collect::<Result<Selectors, _>>()
            .map_err(|error| error.to_string())?;
        let federates_with = entry
            .federates_with
            .iter()
            .map(|name| TrustDomain::parse_name_or_id(name));
        let additional = entry.additional_attributes.unwrap_or_default();
        let possible = !selectors.is_empty() && selectors.iter().all(|one| KINDS.contains(&one.kind()));
        let is_served = possible && !entry.store_svid;
        Ok(Self {
            id: entry.id.as_str().into(),
            spiffe_id: SpiffeId::new(&trust_domain, &id.path).map_err(|error| error.to_string())?,
            federates_with: federates_with
                .collect::<Result<_, _>>()
                .map_err(|error| error.to_string())?,
            hint: entry.hint.as_str().into(),
            created_at: entry.created_at,
            expires_at: Some(entry.expires_at).filter(|at| *at > 0),
            prefetch: is_served && !additional.disable_x509_svid_prefetch,
            is_served,
            digest: digest::of(entry),
            shape: digest::of(&shape(entry)),
            encoded: entry.encode_to_vec().into(),
            selectors,
        })
    }
}

/// The entry with only what stands in an SVID.
fn shape(entry: &types::Entry) -> types::Entry {
    types::Entry {
        spiffe_id: entry.spiffe_id.clone(),
        x509_svid_ttl: entry.x509_svid_ttl,
        jwt_svid_ttl: entry.jwt_svid_ttl,
        dns_names: entry.dns_names.clone(),
        ..types::Entry::default()
    }
}
