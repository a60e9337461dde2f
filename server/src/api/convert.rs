//! Between the API's messages and the rooms' types. Only what several services need.

use mintmark_identity::{Bundle, JwtAuthority, Selectors, SpiffeId, TrustDomain};
use mintmark_proto::Bytes;
use mintmark_proto::spire::types::{self, selector_match::MatchBehavior};
use tonic::Status;

use super::status::{invalid, malformed};
use crate::registry::Match;
use crate::registry::entry;

/// A page holds no more than this, whatever was asked for.
pub(super) const MAX_PAGE: usize = 1_000;

pub(super) use crate::registry::entry::{id_message, selector_message};

/// A SPIFFE ID of our own trust domain.
pub(super) fn member_id(what: &str, id: Option<types::Spiffeid>, own: &TrustDomain) -> Result<SpiffeId, Status> {
    let id = entry::id_from_message("id", id).map_err(|error| malformed(what, error.why))?;
    if !id.is_in(own) {
        return Err(malformed(
            what,
            format!("\"{id}\" is not a member of trust domain \"{own}\""),
        ));
    }
    Ok(id)
}

/// A SPIFFE ID of our own trust domain that a workload may have.
pub(super) fn workload_id(what: &str, id: Option<types::Spiffeid>, own: &TrustDomain) -> Result<SpiffeId, Status> {
    let id = member_id(what, id, own)?;
    check_workload_id(&id).map_err(|why| malformed(what, why))?;
    Ok(id)
}

/// Why a workload may not have this ID, if it may not.
pub(super) fn check_workload_id(id: &SpiffeId) -> Result<(), String> {
    if id.is_root() {
        Err(format!("\"{id}\" has no path: it is the trust domain itself"))
    } else if id.is_reserved() {
        Err(format!(
            "\"{id}\" is in the reserved namespace /spire, which holds servers and agents"
        ))
    } else {
        Ok(())
    }
}

/// A node's SPIFFE ID.
pub(super) fn agent_id(id: Option<types::Spiffeid>, own: &TrustDomain) -> Result<SpiffeId, Status> {
    let what = "invalid agent ID";
    let id = member_id(what, id, own)?;
    if !id.path().starts_with("/spire/agent/") {
        return Err(malformed(
            what,
            format!("\"{id}\" is not an agent's: its path must begin with /spire/agent/"),
        ));
    }
    Ok(id)
}

/// Selectors of a filter: some, and how an item's must relate to them.
pub(super) fn selector_match(what: &str, wanted: types::SelectorMatch) -> Result<(Selectors, Match), Status> {
    let how = match MatchBehavior::try_from(wanted.r#match) {
        Ok(MatchBehavior::MatchExact) => Match::Exact,
        Ok(MatchBehavior::MatchSubset) => Match::Subset,
        Ok(MatchBehavior::MatchSuperset) => Match::Superset,
        Ok(MatchBehavior::MatchAny) => Match::Any,
        Err(_) => return Err(malformed(what, format!("{} is no match behaviour", wanted.r#match))),
    };
    let selectors = entry::selectors_from_messages(wanted.selectors).map_err(|error| malformed(what, error.why))?;
    if selectors.is_empty() {
        return Err(malformed(what, "empty selector set"));
    }
    Ok((selectors, how))
}

/// How many items a page has: what was asked for, within bounds. None when no pages were asked for.
pub(super) fn page_size(asked: i32) -> Result<Option<usize>, Status> {
    match usize::try_from(asked) {
        Ok(0) => Ok(None),
        Ok(size) => Ok(Some(size.min(MAX_PAGE))),
        Err(_) => Err(invalid(format!("page size {asked} is negative"))),
    }
}

/// The trust bundle as the API has it.
pub(super) fn bundle_message(bundle: &Bundle, mask: Option<types::BundleMask>) -> types::Bundle {
    let mask = mask.unwrap_or(types::BundleMask {
        x509_authorities: true,
        jwt_authorities: true,
        refresh_hint: true,
        sequence_number: true,
        wit_authorities: true,
    });
    let certificate = |authority: &mintmark_identity::X509Authority| types::X509Certificate {
        asn1: Bytes::copy_from_slice(&authority.der),
        tainted: authority.tainted,
    };
    let jwt = |key: &JwtAuthority| types::JwtKey {
        public_key: Bytes::copy_from_slice(&key.spki_der),
        key_id: key.key_id.to_string(),
        expires_at: key.expires_at,
        tainted: key.tainted,
    };
    let wit = |key: &JwtAuthority| types::WitKey {
        public_key: Bytes::copy_from_slice(&key.spki_der),
        key_id: key.key_id.to_string(),
        expires_at: key.expires_at,
        tainted: key.tainted,
    };
    let if_wanted = |wanted: bool| if wanted { usize::MAX } else { 0 };
    types::Bundle {
        trust_domain: bundle.trust_domain.to_string(),
        x509_authorities: bundle
            .x509
            .iter()
            .take(if_wanted(mask.x509_authorities))
            .map(certificate)
            .collect(),
        jwt_authorities: bundle
            .jwt
            .iter()
            .take(if_wanted(mask.jwt_authorities))
            .map(jwt)
            .collect(),
        wit_authorities: bundle
            .wit
            .iter()
            .take(if_wanted(mask.wit_authorities))
            .map(wit)
            .collect(),
        refresh_hint: if mask.refresh_hint {
            bundle.refresh_hint.unwrap_or_default().into()
        } else {
            0
        },
        sequence_number: if mask.sequence_number { bundle.sequence } else { 0 },
    }
}

/// Copies what the mask lets through from an entry; the ID always.
pub(super) fn mask_entry(entry: types::Entry, mask: Option<&types::EntryMask>) -> types::Entry {
    match mask {
        None => entry,
        Some(mask) => {
            let bare = types::Entry {
                id: entry.id.clone(),
                ..types::Entry::default()
            };
            overlay_entry(bare, entry, mask)
        }
    }
}

/// `base` with what the mask lets through from `over`; the ID stays.
pub(super) fn overlay_entry(mut base: types::Entry, over: types::Entry, mask: &types::EntryMask) -> types::Entry {
    macro_rules! overlay {
        ($($field:ident),* $(,)?) => { $(if mask.$field { base.$field = over.$field; })* };
    }
    overlay!(
        spiffe_id,
        parent_id,
        selectors,
        x509_svid_ttl,
        federates_with,
        admin,
        downstream,
        expires_at,
        dns_names,
        revision_number,
        store_svid,
        jwt_svid_ttl,
        hint,
        created_at,
        additional_attributes,
    );
    base
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> types::Entry {
        types::Entry {
            id: "e".into(),
            spiffe_id: Some(types::Spiffeid {
                trust_domain: "example.org".into(),
                path: "/w".into(),
            }),
            parent_id: Some(types::Spiffeid {
                trust_domain: "example.org".into(),
                path: "/n".into(),
            }),
            selectors: vec![types::Selector {
                r#type: "unix".into(),
                value: "uid:1".into(),
            }],
            x509_svid_ttl: 1,
            federates_with: vec!["other.org".into()],
            admin: true,
            downstream: true,
            expires_at: 2,
            dns_names: vec!["a".into()],
            revision_number: 3,
            store_svid: true,
            jwt_svid_ttl: 4,
            hint: "h".into(),
            created_at: 5,
            additional_attributes: Some(types::entry::AdditionalAttributes::default()),
        }
    }

    #[test]
    fn a_mask_lets_through_what_it_names_and_the_id() {
        let nothing = mask_entry(entry(), Some(&types::EntryMask::default()));
        assert_eq!(
            nothing,
            types::Entry {
                id: "e".into(),
                ..Default::default()
            }
        );
        let mask = types::EntryMask {
            hint: true,
            spiffe_id: true,
            ..Default::default()
        };
        let some = mask_entry(entry(), Some(&mask));
        let expected = types::Entry {
            id: "e".into(),
            hint: "h".into(),
            spiffe_id: entry().spiffe_id,
            ..Default::default()
        };
        assert_eq!(some, expected);
        assert_eq!(mask_entry(entry(), None), entry());
    }

    #[test]
    fn servers_and_agents_have_ids_that_no_workload_may_have() {
        let own = TrustDomain::parse("example.org").unwrap();
        let id = |path: &str| {
            Some(types::Spiffeid {
                trust_domain: "example.org".into(),
                path: path.into(),
            })
        };
        for path in ["", "/spire", "/spire/server", "/spire/agent/x509pop/a"] {
            assert!(workload_id("x", id(path), &own).is_err(), "{path}");
        }
        assert!(workload_id("x", id("/spirex"), &own).is_ok());
        assert!(agent_id(id("/spire/agent/x509pop/a"), &own).is_ok());
        for path in ["", "/w", "/spire/server", "/spire/agent"] {
            assert!(agent_id(id(path), &own).is_err(), "{path}");
        }
        let foreign = Some(types::Spiffeid {
            trust_domain: "other.org".into(),
            path: "/w".into(),
        });
        let error = workload_id("invalid SPIFFE ID", foreign, &own).unwrap_err();
        assert!(
            error
                .message()
                .contains("is not a member of trust domain \"example.org\""),
            "{error}"
        );
    }

    #[test]
    fn pages_are_bounded() {
        assert_eq!(page_size(0).unwrap(), None);
        assert_eq!(page_size(5).unwrap(), Some(5));
        assert_eq!(page_size(i32::MAX).unwrap(), Some(MAX_PAGE));
        assert!(page_size(-1).is_err());
    }
}
