//! The two kinds of objects that are not about pods: entries as they are, and trust domains to federate with.

use std::sync::Arc;

use mintmark_identity::{Bundle, Selector, SpiffeId, TrustDomain};
use mintmark_proto::spire::types;

use super::super::computed::ComputedEntry;
use super::super::entry::{self, Entry};
use super::Settings;
use super::duration;
use super::objects::{ClusterFederatedTrustDomainSpec, ClusterStaticEntrySpec, Metadata, unix};

/// The entry that a `ClusterStaticEntry` says; `None` when the object is for another server.
///
/// # Errors
/// The field that is not as it must be, and why.
pub fn static_entry(
    settings: &Settings,
    meta: &Metadata,
    spec: &ClusterStaticEntrySpec,
) -> Result<Option<ComputedEntry>, String> {
    if settings.is_other_class(&spec.class_name) {
        return Ok(None);
    }
    let id = |field: &str, text: &str| {
        let id = SpiffeId::parse(text).map_err(|error| format!("{field}: {error}"))?;
        Ok::<_, String>(Some(entry::id_message(&id)))
    };
    let selectors = spec.selectors.iter().map(|text| {
        let selector = Selector::parse(text).map_err(|error| format!("selectors: {error}"))?;
        Ok::<_, String>(entry::selector_message(&selector))
    });
    let ttl = |field: &str, text: &Option<String>| match text {
        Some(text) => duration::ttl(text).map_err(|why| format!("{field}: {why}")),
        None => Ok(None),
    };
    let message = types::Entry {
        spiffe_id: id("spiffeID", &spec.spiffe_id)?,
        parent_id: id("parentID", &spec.parent_id)?,
        selectors: selectors.collect::<Result<_, _>>()?,
        federates_with: spec.federates_with.clone(),
        dns_names: spec.dns_names.clone(),
        hint: spec.hint.clone(),
        admin: spec.admin,
        downstream: spec.downstream,
        store_svid: spec.store_svid,
        created_at: meta.creation_timestamp.as_deref().map(unix).unwrap_or_default(),
        ..types::Entry::default()
    };
    let mut entry = Entry::from_message(message, &settings.trust_domain).map_err(|error| error.to_string())?;
    entry.x509_ttl = ttl("x509SVIDTTL", &spec.x509_svid_ttl)?;
    entry.jwt_ttl = ttl("jwtSVIDTTL", &spec.jwt_svid_ttl)?;
    Ok(Some(ComputedEntry::new(
        entry,
        &format!("{}/static", settings.cluster),
        &meta.uid,
    )))
}

/// A trust domain to federate with.
#[derive(Debug, Clone)]
pub struct FederatedTrustDomain {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Where its bundle is: `https`, without user information.
    pub bundle_endpoint_url: String,
    /// How its endpoint is authenticated.
    pub profile: EndpointProfile,
    /// The bundle to begin with.
    pub bundle: Option<Arc<Bundle>>,
}

/// How a bundle endpoint is authenticated (SPIFFE Federation §5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointProfile {
    /// By the authorities of the web.
    HttpsWeb,
    /// By this SPIFFE ID.
    HttpsSpiffe(SpiffeId),
}

/// The trust domain that a `ClusterFederatedTrustDomain` says; `None` when the object is for another server.
///
/// # Errors
/// The field that is not as it must be, and why.
pub fn federated_trust_domain(
    settings: &Settings,
    spec: &ClusterFederatedTrustDomainSpec,
) -> Result<Option<FederatedTrustDomain>, String> {
    if settings.is_other_class(&spec.class_name) {
        return Ok(None);
    }
    let trust_domain =
        TrustDomain::parse_name_or_id(&spec.trust_domain).map_err(|error| format!("trustDomain: {error}"))?;
    if trust_domain == settings.trust_domain {
        return Err(format!("trustDomain: {trust_domain} is this server's own"));
    }
    if let Some(why) = why_no_endpoint(&spec.bundle_endpoint_url) {
        return Err(format!("bundleEndpointURL: {:?} {why}", spec.bundle_endpoint_url));
    }
    let profile = &spec.bundle_endpoint_profile;
    let endpoint = &profile.endpoint_spiffe_id;
    let profile = match &*profile.r#type {
        "https_web" if endpoint.is_empty() => EndpointProfile::HttpsWeb,
        "https_web" => return Err("bundleEndpointProfile.endpointSPIFFEID: https_web has none".into()),
        "https_spiffe" => {
            let id = SpiffeId::parse(endpoint);
            let id = id.map_err(|error| format!("bundleEndpointProfile.endpointSPIFFEID: {error}"))?;
            EndpointProfile::HttpsSpiffe(id)
        }
        other => {
            return Err(format!(
                "bundleEndpointProfile.type: {other:?} is neither https_web nor https_spiffe"
            ));
        }
    };
    let bundle = match &*spec.trust_domain_bundle {
        "" => None,
        json => {
            let bundle = Bundle::from_json(&trust_domain, json.as_bytes());
            Some(Arc::new(bundle.map_err(|error| format!("trustDomainBundle: {error}"))?))
        }
    };
    Ok(Some(FederatedTrustDomain {
        trust_domain,
        bundle_endpoint_url: spec.bundle_endpoint_url.clone(),
        profile,
        bundle,
    }))
}

fn why_no_endpoint(url: &str) -> Option<&'static str> {
    let Ok(uri) = url.parse::<http::Uri>() else {
        return Some("is no URL");
    };
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    if uri.scheme_str() != Some("https") {
        Some("does not begin with https://")
    } else if uri.host().is_none_or(str::is_empty) {
        Some("has no host")
    } else if authority.contains('@') {
        Some("has user information, which it must not")
    } else {
        None
    }
}
