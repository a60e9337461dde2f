//! BN-*, X5-8, JW-8b, WT-5b: the document at the bundle endpoint, and a bundle map.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use x509_parser::{prelude::X509Certificate, public_key::PublicKey};

use super::{Finding, NotSeen, evidence::json, wit::PRIVATE};
use crate::{der, jws::decode_part, observe::Seen, report::shown, spiffe_id};

pub(super) fn key_set(seen: &Seen) -> Finding {
    Ok(key_set_problem(&seen.bundle_json()?).into_iter().collect())
}

fn key_set_problem(document: &Value) -> Option<String> {
    match document.get("keys") {
        None => Some("no keys".into()),
        Some(Value::Array(keys)) if keys.iter().all(Value::is_object) => None,
        Some(Value::Array(_)) => Some("keys holds something that is no JSON object".into()),
        Some(_) => Some("keys is no array".into()),
    }
}

pub(super) fn sequence_present(seen: &Seen) -> Finding {
    present(seen, "spiffe_sequence")
}

pub(super) fn hint_present(seen: &Seen) -> Finding {
    present(seen, "spiffe_refresh_hint")
}

fn present(seen: &Seen, member: &str) -> Finding {
    Ok(if seen.bundle_json()?.get(member).is_some() {
        Vec::new()
    } else {
        vec![format!("no {member}")]
    })
}

pub(super) fn sequence(seen: &Seen) -> Finding {
    integer(seen, "spiffe_sequence")
}

pub(super) fn hint(seen: &Seen) -> Finding {
    integer(seen, "spiffe_refresh_hint")
}

fn integer(seen: &Seen, member: &str) -> Finding {
    match seen.bundle_json()?.get(member) {
        None => Err(NotSeen::because(format!("no {member}"))),
        Some(value) if value.is_u64() => Ok(Vec::new()),
        Some(value) => Ok(vec![format!("{member} is {}", shown(&value.to_string()))]),
    }
}

pub(super) fn sequence_follows(seen: &Seen) -> Finding {
    let endpoint = seen.endpoint()?;
    let first = seen.bundle_json()?;
    let second = match &endpoint.second {
        Ok(page) => json(&page.body).ok_or_else(|| NotSeen::because("the second document is no JSON object"))?,
        Err(why) => return Err(NotSeen::because(format!("no second document: {why}"))),
    };
    let number = |document: &Value| document["spiffe_sequence"].as_u64();
    let (Some(before), Some(after)) = (number(&first), number(&second)) else {
        return Err(NotSeen::because("no spiffe_sequence to compare"));
    };
    Ok(if after < before {
        vec![format!("spiffe_sequence went from {before} to {after}")]
    } else if after == before && contents(&first) != contents(&second) {
        vec![format!("the keys changed and spiffe_sequence stayed {before}")]
    } else {
        Vec::new()
    })
}

/// The keys, whatever their order.
fn contents(document: &Value) -> BTreeSet<String> {
    document["keys"]
        .as_array()
        .into_iter()
        .flatten()
        .map(Value::to_string)
        .collect()
}

/// Looks at each key, or each key of one use.
fn each(seen: &Seen, only: Option<&str>, problems: impl Fn(&Value) -> Vec<String>) -> Finding {
    let keys = seen.bundle_keys()?;
    let mut findings = Vec::new();
    let mut looked = false;
    for (i, key) in keys.iter().enumerate() {
        if only.is_some() && key["use"].as_str() != only {
            continue;
        }
        looked = true;
        let kid = key["kid"]
            .as_str()
            .map(|kid| format!(" ({})", shown(kid)))
            .unwrap_or_default();
        findings.extend(
            problems(key)
                .into_iter()
                .map(|why| format!("key {}{kid}: {why}", i + 1)),
        );
    }
    match only {
        Some(only) if !looked => Err(NotSeen::because(format!("the bundle has no {only} key"))),
        _ => Ok(findings),
    }
}

pub(super) fn key_type_and_use(seen: &Seen) -> Finding {
    each(seen, None, |key| {
        let lacking = ["kty", "use"]
            .into_iter()
            .filter(|member| key[*member].as_str().is_none_or(str::is_empty));
        lacking.map(|member| format!("no {member}")).collect()
    })
}

pub(super) fn no_private(seen: &Seen) -> Finding {
    each(seen, None, |key| {
        let private = PRIVATE.iter().filter(|member| key.get(**member).is_some());
        private
            .map(|member| format!("has the private parameter {member}"))
            .collect()
    })
}

pub(super) fn no_other(seen: &Seen) -> Finding {
    each(seen, None, |key| {
        let mut known = vec!["kty", "use", "crv", "x", "y", "n", "e"];
        known.extend(match key["use"].as_str() {
            Some("x509-svid") => ["x5c", "kid"],
            // A use that no standard knows yet may bring its own.
            Some("jwt-svid" | "wit-svid") => ["kid", "kid"],
            _ => return Vec::new(),
        });
        let members = key.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        let other = members.filter(|name| !known.contains(name) && !PRIVATE.contains(name));
        other.map(|name| format!("has {}", shown(name))).collect()
    })
}

/// The certificates of the x509-svid keys, read as X509-SVID.md §6.2 wants.
pub(super) fn certificates(keys: &[Value]) -> Vec<Vec<u8>> {
    let x509 = keys.iter().filter(|key| key["use"].as_str() == Some("x509-svid"));
    x509.filter_map(|key| STANDARD.decode(key["x5c"].get(0)?.as_str()?).ok())
        .collect()
}

pub(super) fn x509_keys(seen: &Seen) -> Finding {
    each(seen, Some("x509-svid"), |key| {
        let mut problems = Vec::new();
        if key.get("kid").is_some() {
            problems.push("has a kid".to_owned());
        }
        let Some(chain) = key["x5c"].as_array() else {
            problems.push("has no x5c array".into());
            return problems;
        };
        if chain.len() != 1 {
            problems.push(format!("x5c holds {} certificates", chain.len()));
        }
        let Some(first) = chain.first() else { return problems };
        let Some(der) = first.as_str().and_then(|text| STANDARD.decode(text).ok()) else {
            problems.push("x5c is not base64".into());
            return problems;
        };
        match der::split(&der) {
            Err(why) => problems.push(format!("x5c {why}")),
            Ok(certificates) if certificates.len() != 1 => {
                problems.push(format!("one x5c value holds {} certificates", certificates.len()))
            }
            Ok(_) => match der::parse(&der) {
                Ok(certificate) => {
                    if !der::is_authority(&certificate) {
                        problems.push("the certificate is no CA".into());
                    }
                    problems.extend(parameters_problem(key, &certificate));
                }
                Err(why) => problems.push(format!("x5c {why}")),
            },
        }
        problems
    })
}

/// Why a JWK's key parameters are not those of a certificate.
fn parameters_problem(key: &Value, certificate: &X509Certificate<'_>) -> Option<String> {
    let part = |name: &str| key[name].as_str().and_then(|text| decode_part(text).ok());
    let fits = match (key["kty"].as_str(), certificate.public_key().parsed()) {
        (Some("EC"), Ok(PublicKey::EC(point))) => {
            let (Some(x), Some(y)) = (part("x"), part("y")) else {
                return Some("lacks crv, x or y".into());
            };
            point.data() == [vec![4], x, y].concat()
        }
        (Some("RSA"), Ok(PublicKey::RSA(rsa))) => {
            let (Some(n), Some(e)) = (part("n"), part("e")) else {
                return Some("lacks n or e".into());
            };
            trimmed(rsa.modulus) == trimmed(&n) && trimmed(rsa.exponent) == trimmed(&e)
        }
        (Some("EC" | "RSA"), _) => false,
        // Other key types are not this tool's to read.
        _ => true,
    };
    (!fits).then(|| "its parameters are not those of the certificate's key".into())
}

/// A big-endian number without leading zeros.
fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

pub(super) fn self_signed(seen: &Seen) -> Finding {
    each(seen, Some("x509-svid"), |key| {
        let Some(der) = certificates(std::slice::from_ref(key)).pop() else {
            return Vec::new();
        };
        let Ok(certificate) = der::parse(&der) else {
            return Vec::new();
        };
        if certificate.subject().as_raw() == certificate.issuer().as_raw() {
            return Vec::new();
        }
        vec![format!("issued by {}", shown(&certificate.issuer().to_string()))]
    })
}

pub(super) fn jwt_keys(seen: &Seen) -> Finding {
    kids(seen, "jwt-svid")
}

pub(super) fn wit_keys(seen: &Seen) -> Finding {
    kids(seen, "wit-svid")
}

/// Keys of one use have a `kid`; no JWT key shares one with another JWT key, and no WIT key with any.
fn kids(seen: &Seen, wanted: &str) -> Finding {
    let mut count = BTreeMap::new();
    for key in seen.bundle_keys()? {
        let (Some(kid), Some(used)) = (key["kid"].as_str(), key["use"].as_str()) else {
            continue;
        };
        if used == wanted || wanted == "wit-svid" {
            *count.entry(kid.to_owned()).or_insert(0) += 1;
        }
    }
    each(seen, Some(wanted), |key| match key["kid"].as_str() {
        None | Some("") => vec!["no kid".into()],
        Some(kid) if count.get(kid).is_some_and(|n| *n > 1) => vec!["another key has the same kid".into()],
        Some(_) => Vec::new(),
    })
}

pub(super) fn map(seen: &Seen) -> Finding {
    let Some(text) = &seen.bundle_map else {
        return Err(NotSeen::because("no --bundle-map"));
    };
    let map: Map = match serde_json::from_slice(text) {
        Ok(map) => map,
        Err(e) => return Ok(vec![format!("it does not parse: {e}")]),
    };
    let Some(Entries(entries)) = map.trust_domains else {
        return Ok(vec!["no trust_domains".into()]);
    };
    let mut findings = Vec::new();
    let mut known = BTreeSet::new();
    for (name, bundle) in &entries {
        let name = shown(name);
        if !known.insert(name.clone()) {
            findings.push(format!("{name} is there twice"));
        }
        if name.is_empty() || spiffe_id::trust_domain_problem(&name).is_some() {
            findings.push(format!("{name} is no trust domain name"));
        }
        findings.extend(key_set_problem(bundle).map(|why| format!("{name}: {why}")));
    }
    Ok(findings)
}

/// A bundle map, with whatever else it holds.
#[derive(Deserialize)]
struct Map {
    trust_domains: Option<Entries>,
}

/// The members of an object in order, with duplicates.
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Entries;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of bundles")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}
