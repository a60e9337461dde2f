//! The checks: which rules there are, and for each one function that says what of [`Seen`] breaks it.
//!
//! A function returns what breaks the rule (nothing, when it is kept), or why there was nothing to look at. A thing
//! that cannot even be read is the finding of one check, and the others pass over it, so that one fault fails one
//! check. Whether a broken rule is a failure or a warning is the rule's level.

mod bundle;
mod endpoint;
mod evidence;
mod federation;
mod ids;
mod jwt;
mod oidc;
mod requests;
mod wit;
mod workload;
mod x509;

use anyhow::{Result, bail};

use crate::{
    observe::Seen,
    report::{Line, Outcome, Report},
};

/// How binding a rule is (RFC 2119).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Broken: the check fails.
    Must,
    /// Not met: the check warns.
    Should,
}

/// One rule of the standards.
#[derive(Debug)]
pub struct Check {
    /// Its number; a letter follows where one number has several rules.
    pub id: &'static str,
    /// How binding it is.
    pub level: Level,
    /// The rule in a few words.
    pub title: &'static str,
    /// Where it is written.
    pub standard: &'static str,
    judge: fn(&Seen) -> Finding,
}

/// What breaks a rule, or why it could not be looked at.
type Finding = std::result::Result<Vec<String>, NotSeen>;

/// Why there was nothing to look at.
#[derive(Debug)]
struct NotSeen(String);

impl NotSeen {
    fn because(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

/// The most findings that one line tells.
const MOST_FINDINGS: usize = 8;

macro_rules! checks {
    ($($id:literal $level:ident $title:literal, $standard:literal => $judge:path;)*) => {
        &[$(Check { id: $id, level: Level::$level, title: $title, standard: $standard, judge: $judge }),*]
    };
}

/// Every check, in the order of the report.
pub static CHECKS: &[Check] = checks! {
    "ID-1" Must "every SPIFFE ID has scheme spiffe, a trust domain, no query, no fragment", "SPIFFE-ID §2" => ids::form;
    "ID-2" Must "every trust domain name is lower case a-z 0-9 . - _ without user, port or percent", "SPIFFE-ID §2.1" => ids::trust_domain;
    "ID-3" Must "every path has no empty, relative or percent-encoded segment and no trailing slash", "SPIFFE-ID §2.2" => ids::path;
    "ID-4a" Must "every trust domain name has at most 255 bytes", "SPIFFE-ID §2.3" => ids::trust_domain_length;
    "ID-4b" Should "every SPIFFE ID has at most 2048 bytes", "SPIFFE-ID §2.3" => ids::length;
    "ID-4c" Must "a SPIFFE ID of 2048 bytes is treated as a short one is", "SPIFFE-ID §2.3" => ids::longest;
    "ID-5" Should "an identity asked for with scheme and trust domain in upper case is the same identity", "SPIFFE-ID §2.4" => ids::upper_case;
    "ID-6" Should "an authority in the bundle carries an SVID: the ID of the own trust domain without a path", "SPIFFE-ID §3.1, X509-SVID §3.2" => ids::authority;
    "ID-7" Must "the SPIFFE ID that a response names is the one inside the signed document", "SPIFFE-ID §3.2" => ids::signed;

    "X5-1" Must "exactly one URI SAN per leaf", "X509-SVID §2" => x509::one_uri;
    "X5-2a" Must "a leaf's SPIFFE ID has a path", "X509-SVID §3.1" => x509::leaf_path;
    "X5-2b" Must "the SAN extension is critical where the subject is empty", "X509-SVID §3.1" => x509::san_critical;
    "X5-3" Must "a leaf is no CA; its key usage is there, critical, digitalSignature, not keyCertSign or cRLSign", "X509-SVID §4.1, §4.3" => x509::leaf_usage;
    "X5-4a" Must "a leaf's extended key usage, where present, has serverAuth and clientAuth", "X509-SVID §4.4" => x509::extended_usage;
    "X5-4b" Should "a leaf has an extended key usage", "X509-SVID §4.4" => x509::extended_usage_present;
    "X5-5a" Must "a signing certificate is a CA with keyCertSign, in a critical key usage", "X509-SVID §3.2, §4.1, §4.3" => x509::signing_usage;
    "X5-5b" Must "a signing certificate's SPIFFE ID has no path", "X509-SVID §3.2" => x509::signing_path;
    "X5-6" Must "leaves lie within the URI name constraints of their signing certificates", "X509-SVID §4.2" => x509::name_constraints;
    "X5-7" Must "every X.509-SVID verifies to the bundle of its trust domain by RFC 5280", "X509-SVID §5.1" => x509::verifies;
    "X5-8a" Must "x509-svid keys at the bundle endpoint: no kid, one certificate in x5c, key parameters that fit it", "X509-SVID §6.1" => bundle::x509_keys;
    "X5-8b" Should "certificates at the bundle endpoint are self-signed", "X509-SVID §6.1" => bundle::self_signed;

    "JW-1a" Must "JWT-SVIDs are compact JWS", "JWT-SVID §5.1" => jwt::compact;
    "JW-1b" Must "ValidateJWTSVID refuses JSON serialization", "JWT-SVID §5.1" => jwt::refuses_json;
    "JW-2" Must "a JWT-SVID's header has only alg, kid, typ", "JWT-SVID §2" => jwt::header;
    "JW-3a" Must "a JWT-SVID's alg is one of RS, ES, PS with 256, 384 or 512", "JWT-SVID §2.1" => jwt::algorithm;
    "JW-3b" Must "a JWT-SVID's signature verifies with the JWT bundle of its trust domain", "JWT-SVID §4" => jwt::verifies;
    "JW-4" Should "a JWT-SVID names its key in kid (clients in use refuse it otherwise)", "JWT-SVID §2.2, WIT-SVID App. C" => jwt::kid;
    "JW-5" Must "a JWT-SVID's typ, where present, is JWT or JOSE", "JWT-SVID §2.3" => jwt::typ;
    "JW-6" Must "a JWT-SVID has a SPIFFE ID with a path as sub, the asked audience as aud, and an exp to come", "JWT-SVID §3" => jwt::claims;
    "JW-7" Should "a JWT-SVID that goes to OIDC consumers has iss and an iat that is past", "JWT-SVID §3" => jwt::oidc_claims;
    "JW-8a" Must "every key of a JWT bundle has a kid", "JWT-SVID §6.1" => jwt::bundle_kid;
    "JW-8b" Must "every jwt-svid key at the bundle endpoint has a kid of its own", "JWT-SVID §6.1" => bundle::jwt_keys;
    "JW-9a" Must "ValidateJWTSVID refuses alg none and HS256", "JWT-SVID §2.1, App. A" => jwt::refuses_algorithms;
    "JW-9b" Must "ValidateJWTSVID refuses a token for another audience", "JWT-SVID §3.2" => jwt::refuses_audience;
    "JW-9c" Must "ValidateJWTSVID refuses an expired token", "JWT-SVID §3.3" => jwt::refuses_expired;

    "WT-1a" Must "a WIT-SVID's header has kid, typ wit+jwt and an allowed alg", "WIT-SVID §2" => wit::header;
    "WT-1b" Must "a WIT-SVID's signature verifies with the WIT bundle of its trust domain", "WIT-SVID §4" => wit::verifies;
    "WT-1c" Should "a WIT-SVID's header has nothing else", "WIT-SVID §2.4" => wit::only_header;
    "WT-2a" Must "a WIT-SVID has a SPIFFE ID with a path as sub, cnf.jwk with an allowed alg, and an exp to come", "WIT-SVID §3" => wit::claims;
    "WT-2b" Must "a WIT-SVID has no aud", "WIT-SVID §3" => wit::no_audience;
    "WT-2c" Must "wit_svid_key is a private JWK for the public key in cnf.jwk, which holds nothing private", "Workload API §7.1" => wit::key;
    "WT-2d" Should "a WIT-SVID's iss is not one that OIDC discovery would find", "WIT-SVID §3" => wit::issuer;
    "WT-5a" Must "every key of a WIT bundle has use wit-svid and a kid of its own", "WIT-SVID §6.1" => wit::bundle;
    "WT-5b" Must "every wit-svid key at the bundle endpoint has a kid that no other key there has", "WIT-SVID §6.1" => bundle::wit_keys;

    "BN-1" Must "the bundle is a JWK set with a keys array", "Trust Domain and Bundle §4.1" => bundle::key_set;
    "BN-2a" Should "the bundle has spiffe_sequence", "Trust Domain and Bundle §4.1.1" => bundle::sequence_present;
    "BN-2b" Must "spiffe_sequence is an integer of at most 64 bits", "Trust Domain and Bundle §4.1.1" => bundle::sequence;
    "BN-2c" Must "spiffe_sequence grows with every change of content and never shrinks", "Trust Domain and Bundle §4.1.1" => bundle::sequence_follows;
    "BN-3a" Should "the bundle has spiffe_refresh_hint", "Trust Domain and Bundle §4.1.2" => bundle::hint_present;
    "BN-3b" Must "spiffe_refresh_hint is an integer of seconds", "Trust Domain and Bundle §4.1.2" => bundle::hint;
    "BN-4a" Must "every key has kty and use", "Trust Domain and Bundle §4.2" => bundle::key_type_and_use;
    "BN-4b" Must "no key holds private parameters", "RFC 7517 §9.1" => bundle::no_private;
    "BN-4c" Should "keys have no parameter that no standard of SPIFFE defines for them", "Trust Domain and Bundle §4.2" => bundle::no_other;
    "BN-5" Must "a bundle map has trust_domains, keyed by names that are unique, with bundles as values", "Trust Domain and Bundle §5" => bundle::map;

    "FD-1" Must "the bundle endpoint answers a GET over HTTPS", "Federation §5" => federation::answers;
    "FD-2a" Must "the endpoint's URL is https without user information, and TLS is 1.2 or 1.3", "Federation §5, §5.2" => federation::tls;
    "FD-2b" Must "TLS 1.0 and 1.1 are refused", "Federation §5" => federation::legacy_tls;
    "FD-3a" Must "the response is a bundle in UTF-8", "Federation §5.2.1.3, §5.2.2.3" => federation::document;
    "FD-3b" Should "the response's Content-Type is application/json", "Federation §5.2.1.3, §5.2.2.3" => federation::content_type;
    "FD-3c" Must "no client authentication is required", "Federation §5.2.1.3, §5.2.2.3" => federation::no_authentication;
    "FD-4" Must "the endpoint's certificate is valid for its profile: for the host, or as an X509-SVID", "Federation §5.2.1.3, §5.2.2.3" => federation::certificate;
    "FD-5a" Must "a redirect leads to another valid endpoint URL", "Federation §5.2.1.3, §5.2.2.3" => federation::redirect_target;
    "FD-5b" Should "a redirect is a temporary one", "Federation §5.2.1.3, §5.2.2.3" => federation::redirect_kind;
    "FD-6" Must "the keys that SVIDs are signed with are published at the endpoint", "Federation §4.1" => federation::published;

    "EP-1" Must "gRPC without TLS and without client authentication", "Workload Endpoint §3, §5" => endpoint::plain;
    "EP-2a" Must "every RPC without the security header is refused with InvalidArgument", "Workload Endpoint §3, §6" => endpoint::header_missing;
    "EP-2b" Must "every RPC whose security header is not exactly true is refused with InvalidArgument", "Workload Endpoint §3, §6" => endpoint::header_wrong;
    "EP-2c" Should "reflection without the security header is refused", "Workload Endpoint §3" => endpoint::header_reflection;
    "EP-4a" Must "a caller without identity gets no SVID", "Workload Endpoint §6" => endpoint::denied;
    "EP-4b" Should "a caller without identity gets PermissionDenied", "Workload Endpoint §6" => endpoint::denied_code;
    "EP-4c" Must "an RPC that does not exist is Unimplemented", "Workload Endpoint App. A" => endpoint::unimplemented;
    "EP-5a" Should "server reflection is offered and lists SpiffeWorkloadAPI", "Workload Endpoint §7" => endpoint::reflection;
    "EP-5b" Must "SpiffeWorkloadAPI is not extended", "Workload Endpoint §7, Workload API §2" => endpoint::extended;

    "WA-1a" Must "every stream sends its first message at once", "Workload API §4.3" => workload::prompt;
    "WA-1b" Must "streams stay open after the first message", "Workload API §4.3, §5.2, §6.2" => workload::open;
    "WA-1c" Must "every message of FetchX509SVID carries the full set", "Workload API §4.3" => workload::full_set;
    "WA-3a" Must "FetchX509SVID and FetchJWTSVID give at least one SVID", "Workload API §5.2.1, §6.2.1" => workload::some_svid;
    "WA-3b" Must "no mandatory field of a response is empty", "Workload API §4.5, §5.2, §6.2" => workload::mandatory;
    "WA-3c" Should "the default identity, the first, is the same on two streams", "Workload API §8" => workload::default_identity;
    "WA-4a" Must "hints are unique within a response", "Workload API §5.2.1, §6.2.1, §7.2.1" => workload::hints;
    "WA-4b" Should "hints have at most 1024 bytes", "Workload API §8" => workload::hint_length;
    "WA-5a" Must "a request without its mandatory audience or token is not answered", "Workload API §6.2.1, §6.2.3" => requests::incomplete;
    "WA-5b" Should "such a request is refused with InvalidArgument", "Workload API §4.5" => requests::incomplete_code;
    "WA-6a" Must "FetchX509Bundles has the own trust domain's bundle, the one that the SVIDs come with", "Workload API §5.2.2" => workload::x509_bundles;
    "WA-6b" Must "FetchJWTBundles has the own trust domain's bundle", "Workload API §6.2.2" => workload::jwt_bundles;
    "WA-6c" Must "JWT bundles are JWK sets without keys of other uses", "Workload API §6.2.2" => workload::jwt_uses;
    "WA-6d" Must "bundle maps are keyed by trust domain IDs; federated_bundles are foreign", "Workload API §5.1, §6.1, §7.1" => workload::map_keys;
    "WA-7a" Must "FetchJWTSVID without a SPIFFE ID gives a token for every identity", "Workload API §6.2.1" => requests::all_tokens;
    "WA-7b" Must "FetchJWTSVID with a SPIFFE ID gives the token of that identity", "Workload API §6.1" => requests::asked_token;
    "WA-7c" Must "FetchJWTSVID gives no token for an identity that is not the caller's", "Workload API §6.2.1" => requests::foreign_token;
    "WA-7d" Should "such a request is refused with PermissionDenied", "Workload API §6.2.1" => requests::foreign_code;
    "WA-8a" Must "ValidateJWTSVID accepts the server's own token and names its SPIFFE ID", "Workload API §6.2.3" => requests::validates;
    "WA-8b" Must "ValidateJWTSVID returns the claims sub, aud and exp", "Workload API §6.2.3" => requests::validated_claims;
    "WA-8c" Must "ValidateJWTSVID refuses tokens that no key of the subject's bundle has signed", "Workload API §6.2.3, §6.3" => requests::refuses_forged;
    "WA-9" Must "both WIT RPCs work, or both are Unimplemented", "Workload API §7" => workload::wit_complete;
    "WA-10a" Must "certificates and bundles are concatenated DER, CRLs DER, keys unencrypted DER PKCS#8", "Workload API §5.1" => workload::der;
    "WA-10b" Must "x509_svid_key is the key of the leaf", "Workload API §5.1" => workload::key_fits;

    "OIDC-1" Must "the discovery document's issuer is the URL it was found under", "OpenID Connect Discovery §4.3" => oidc::issuer;
    "OIDC-2" Must "jwks_uri is an https URL with a JWK set of public keys", "OpenID Connect Discovery §3" => oidc::keys;
    "OIDC-3" Should "every key there has kid, alg and use sig", "RFC 7517 §4, Azure and GCP federation" => oidc::key_parameters;
    "OIDC-4" Must "the required members of the discovery document are there", "OpenID Connect Discovery §3" => oidc::members;
    "OIDC-5" Must "JWT-SVIDs verify with the keys at jwks_uri and have the issuer as iss", "OpenID Connect Core §3.1.3.7" => oidc::verifies;
};

/// The checks that `only` and `skip` leave over.
///
/// Each names a check (`X5-4a`), a number (`X5-4`) or a group (`X5`), whatever the case.
///
/// # Errors
/// When a name fits no check.
pub fn select(only: &[String], skip: &[String]) -> Result<Vec<&'static Check>> {
    for name in only.iter().chain(skip) {
        if !CHECKS.iter().any(|check| is_named(check.id, name)) {
            bail!("no check is called {name:?}: --list prints all of them");
        }
    }
    let chosen = |check: &&Check| {
        (only.is_empty() || only.iter().any(|name| is_named(check.id, name)))
            && !skip.iter().any(|name| is_named(check.id, name))
    };
    Ok(CHECKS.iter().filter(chosen).collect())
}

fn is_named(id: &str, name: &str) -> bool {
    let number = id.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let group = id.split('-').next().unwrap_or(id);
    [id, number, group].iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Judges what was seen.
pub(crate) fn judge(checks: &[&'static Check], seen: &Seen) -> Report {
    Report {
        lines: checks
            .iter()
            .map(|check| Line {
                check,
                outcome: outcome(check, seen),
            })
            .collect(),
    }
}

fn outcome(check: &Check, seen: &Seen) -> Outcome {
    match (check.judge)(seen) {
        Err(NotSeen(why)) => Outcome::Skip(why),
        Ok(findings) if findings.is_empty() => Outcome::Pass,
        Ok(mut findings) => {
            let more = findings.len().saturating_sub(MOST_FINDINGS);
            findings.truncate(MOST_FINDINGS);
            if more > 0 {
                findings.push(format!("and {more} more"));
            }
            match check.level {
                Level::Must => Outcome::Fail(findings),
                Level::Should => Outcome::Warn(findings),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(only: &[&str], skip: &[&str]) -> Vec<&'static str> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        select(&owned(only), &owned(skip))
            .unwrap()
            .into_iter()
            .map(|check| check.id)
            .collect()
    }

    #[test]
    fn checks_are_chosen_by_id_number_or_group() {
        assert_eq!(ids(&["x5-4"], &[]), ["X5-4a", "X5-4b"]);
        assert_eq!(ids(&["X5-4b", "WA-9"], &[]), ["X5-4b", "WA-9"]);
        assert_eq!(ids(&["EP"], &["EP-2", "EP-4", "EP-5a"]), ["EP-1", "EP-5b"]);
        assert_eq!(ids(&["WA-1"], &[]), ["WA-1a", "WA-1b", "WA-1c"]);
        assert_eq!(ids(&[], &[]).len(), CHECKS.len());
        assert!(select(&["X5-99".into()], &[]).is_err());
        assert!(select(&[], &["nothing".into()]).is_err());
    }

    #[test]
    fn every_check_has_an_id_of_its_own() {
        let unique: std::collections::BTreeSet<_> = CHECKS.iter().map(|check| check.id).collect();
        assert_eq!(unique.len(), CHECKS.len());
    }

    #[test]
    fn the_readme_has_a_row_for_every_check() {
        let readme = include_str!("../README.md");
        for check in CHECKS {
            let level = if check.level == Level::Must { "MUST" } else { "SHOULD" };
            let row = format!("| {} | {} | {level} | {} |", check.id, check.title, check.standard);
            assert!(readme.contains(&row), "the README lacks: {row}");
        }
    }
}
