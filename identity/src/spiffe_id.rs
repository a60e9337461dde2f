//! SPIFFE IDs and trust domains (SPIFFE-ID.md), in their canonical form.
//!
//! Comes in: text of any case in scheme and trust domain. Goes out: a value whose text is canonical, so
//! that equality of bytes is equality of identity. Both types are one shared string: a clone is a
//! reference count, and a SPIFFE ID hands out its trust domain without copying it.

mod error;

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use crate::text::excerpt;

pub use error::SpiffeIdError;

const SCHEME: &str = "spiffe://";

/// The longest SPIFFE ID in bytes (SPIFFE-ID §2.3).
pub(crate) const MAX_ID: usize = 2048;
/// The longest trust domain name in bytes (SPIFFE-ID §2.3).
pub(crate) const MAX_TRUST_DOMAIN: usize = 255;

/// A SPIFFE ID, at most 2048 bytes, in canonical form (SPIFFE-ID §2).
///
/// Scheme and trust domain are lower case, the path is kept as written. The path is empty, for the ID of
/// a trust domain itself, or one or more segments of `[a-zA-Z0-9.-_]` each after a slash.
#[derive(Clone)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the trust domain ends in `text`.
    path_at: u16,
}

impl SpiffeId {
    /// Parses `spiffe://trust-domain/path` (SPIFFE-ID §2).
    pub fn parse(value: &str) -> Result<Self, SpiffeIdError> {
        let (trust_domain, path) = split(value)?;
        Self::assemble(value, trust_domain, path)
    }

    /// The ID of `path` in a trust domain; `path` is empty or starts with a slash.
    pub fn new(trust_domain: &TrustDomain, path: &str) -> Result<Self, SpiffeIdError> {
        let name = trust_domain.as_str();
        if SCHEME.len() + name.len() + path.len() > MAX_ID {
            return Err(SpiffeIdError::TooLong {
                length: SCHEME.len() + name.len() + path.len(),
                value: excerpt(path),
            });
        }
        check_path(path, path)?;
        Ok(join(name, path))
    }

    /// The server's own ID, `spiffe://<td>/spire/server`.
    pub fn server(trust_domain: &TrustDomain) -> Self {
        join(trust_domain.as_str(), "/spire/server")
    }

    /// A node's ID, `spiffe://<td>/spire/agent/<method>/<rest>`; `rest` may have several segments.
    pub fn agent(trust_domain: &TrustDomain, method: &str, rest: &str) -> Result<Self, SpiffeIdError> {
        Self::new(trust_domain, &format!("/spire/agent/{method}/{rest}"))
    }

    /// The trust domain, sharing this ID's text.
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain {
            text: Arc::clone(&self.text),
            end: self.path_at,
        }
    }

    /// The name of the trust domain.
    pub fn trust_domain_name(&self) -> &str {
        &self.text[SCHEME.len()..usize::from(self.path_at)]
    }

    /// Whether this ID belongs to `trust_domain`.
    pub fn is_in(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain_name() == trust_domain.as_str()
    }

    /// The path: empty, or `/a/b`.
    pub fn path(&self) -> &str {
        &self.text[usize::from(self.path_at)..]
    }

    /// The whole ID in canonical form.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this is the ID of the trust domain itself, without a path.
    pub fn is_root(&self) -> bool {
        self.text.len() == usize::from(self.path_at)
    }

    /// Whether the path is `/spire` or below it, where servers and nodes live and no workload may.
    pub fn is_reserved(&self) -> bool {
        self.path()
            .strip_prefix("/spire")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    fn assemble(value: &str, trust_domain: &str, path: &str) -> Result<Self, SpiffeIdError> {
        if value.len() > MAX_ID {
            return Err(SpiffeIdError::TooLong {
                length: value.len(),
                value: excerpt(value),
            });
        }
        let canonical = check_trust_domain(trust_domain, value)?;
        check_path(path, value)?;
        if canonical && value.starts_with(SCHEME) {
            return Ok(Self {
                text: value.into(),
                path_at: offset(trust_domain.len()),
            });
        }
        Ok(join(&trust_domain.to_ascii_lowercase(), path))
    }
}

/// The name of a trust domain, at most 255 bytes of `[a-z0-9.-_]` (SPIFFE-ID §2.1).
#[derive(Clone)]
pub struct TrustDomain {
    /// `spiffe://<name>`, perhaps with a path behind it.
    text: Arc<str>,
    end: u16,
}

impl TrustDomain {
    /// Parses a name such as `example.org`; upper case becomes lower case.
    pub fn parse(name: &str) -> Result<Self, SpiffeIdError> {
        if name
            .get(..SCHEME.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(SCHEME))
        {
            return Err(SpiffeIdError::IdAsName { value: excerpt(name) });
        }
        check_trust_domain(name, name)?;
        Ok(join(&name.to_ascii_lowercase(), "").trust_domain())
    }

    /// Parses either a name or a SPIFFE ID, whose trust domain is taken.
    ///
    /// For places where SPIRE's interfaces take both.
    pub fn parse_name_or_id(value: &str) -> Result<Self, SpiffeIdError> {
        if value.contains("://") {
            SpiffeId::parse(value).map(|id| id.trust_domain())
        } else {
            Self::parse(value)
        }
    }

    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        &self.text[SCHEME.len()..usize::from(self.end)]
    }

    /// The ID of the trust domain itself, `spiffe://<name>`.
    pub fn id(&self) -> SpiffeId {
        let whole = usize::from(self.end);
        SpiffeId {
            text: if self.text.len() == whole {
                Arc::clone(&self.text)
            } else {
                self.text[..whole].into()
            },
            path_at: self.end,
        }
    }
}

/// The trust domain and the path of an ID, unchecked.
fn split(value: &str) -> Result<(&str, &str), SpiffeIdError> {
    let rest = value
        .split_at_checked(SCHEME.len())
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(SCHEME))
        .map(|(_, rest)| rest)
        .ok_or_else(|| SpiffeIdError::Scheme { value: excerpt(value) })?;
    Ok(rest.split_at(rest.find('/').unwrap_or(rest.len())))
}

/// Checks the characters and the length; true when it is in lower case already.
fn check_trust_domain(name: &str, value: &str) -> Result<bool, SpiffeIdError> {
    if name.is_empty() {
        return Err(SpiffeIdError::TrustDomainEmpty { value: excerpt(value) });
    }
    if name.len() > MAX_TRUST_DOMAIN {
        return Err(SpiffeIdError::TrustDomainTooLong {
            length: name.len(),
            value: excerpt(value),
        });
    }
    let mut canonical = true;
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' => {}
            b'A'..=b'Z' => canonical = false,
            _ => {
                return Err(SpiffeIdError::TrustDomainCharacter {
                    character: first_refused(name, |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')),
                    value: excerpt(value),
                });
            }
        }
    }
    Ok(canonical)
}

fn check_path(path: &str, value: &str) -> Result<(), SpiffeIdError> {
    if path.is_empty() {
        return Ok(());
    }
    let Some(segments) = path.strip_prefix('/') else {
        return Err(SpiffeIdError::PathStart { value: excerpt(value) });
    };
    if path.ends_with('/') {
        return Err(SpiffeIdError::TrailingSlash { value: excerpt(value) });
    }
    for segment in segments.split('/') {
        match segment {
            "" => {
                return Err(SpiffeIdError::EmptySegment { value: excerpt(value) });
            }
            "." | ".." => {
                return Err(SpiffeIdError::DotSegment { value: excerpt(value) });
            }
            _ => {}
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if !segment.bytes().all(allowed) {
            return Err(SpiffeIdError::PathCharacter {
                character: first_refused(segment, |c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')),
                value: excerpt(value),
            });
        }
    }
    Ok(())
}

fn first_refused(text: &str, allowed: impl Fn(char) -> bool) -> char {
    text.chars()
        .find(|c| !allowed(*c))
        .unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Puts checked parts together.
fn join(trust_domain: &str, path: &str) -> SpiffeId {
    let mut text = String::with_capacity(SCHEME.len() + trust_domain.len() + path.len());
    text.push_str(SCHEME);
    text.push_str(trust_domain);
    text.push_str(path);
    SpiffeId {
        text: text.into(),
        path_at: offset(trust_domain.len()),
    }
}

fn offset(trust_domain: usize) -> u16 {
    u16::try_from(SCHEME.len() + trust_domain).expect("a checked trust domain has at most 255 bytes")
}

/// Equality, order, hash, text and serde by the canonical text.
macro_rules! as_text {
    ($type:ty, $parse:path) => {
        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                self.as_str() == other.as_str()
            }
        }
        impl Eq for $type {}
        impl PartialOrd for $type {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }
        impl Ord for $type {
            fn cmp(&self, other: &Self) -> Ordering {
                self.as_str().cmp(other.as_str())
            }
        }
        impl Hash for $type {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.as_str().hash(state);
            }
        }
        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }
        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
        impl FromStr for $type {
            type Err = SpiffeIdError;
            fn from_str(value: &str) -> Result<Self, Self::Err> {
                $parse(value)
            }
        }
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                $parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

as_text!(SpiffeId, SpiffeId::parse);
as_text!(TrustDomain, TrustDomain::parse);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_and_trust_domain_become_lower_case_and_the_path_stays() {
        let id = SpiffeId::parse("SPIFFE://Example.ORG/Ns/A").unwrap();
        assert_eq!(id.as_str(), "spiffe://example.org/Ns/A");
        assert_eq!(id.path(), "/Ns/A");
        assert_eq!(id.trust_domain(), TrustDomain::parse("EXAMPLE.org").unwrap());
        assert_ne!(id, SpiffeId::parse("spiffe://example.org/ns/a").unwrap());
    }

    #[test]
    fn what_the_standard_refuses_is_refused_by_its_rule() {
        use SpiffeIdError as E;
        type Check = fn(&SpiffeIdError) -> bool;
        let long = format!("spiffe://a/{}", "b".repeat(2048));
        let long_domain = format!("spiffe://{}/b", "a".repeat(256));
        let table: &[(&str, Check)] = &[
            ("", |e| matches!(e, E::Scheme { .. })),
            ("spiffe:/a", |e| matches!(e, E::Scheme { .. })),
            ("http://a/b", |e| matches!(e, E::Scheme { .. })),
            ("spiffe://", |e| matches!(e, E::TrustDomainEmpty { .. })),
            ("spiffe:///a", |e| matches!(e, E::TrustDomainEmpty { .. })),
            ("spiffe://a:80/b", |e| {
                matches!(e, E::TrustDomainCharacter { character: ':', .. })
            }),
            ("spiffe://u@a/b", |e| {
                matches!(e, E::TrustDomainCharacter { character: '@', .. })
            }),
            ("spiffe://a%41/b", |e| {
                matches!(e, E::TrustDomainCharacter { character: '%', .. })
            }),
            ("spiffe://ä/b", |e| {
                matches!(e, E::TrustDomainCharacter { character: 'ä', .. })
            }),
            ("spiffe://a?q", |e| {
                matches!(e, E::TrustDomainCharacter { character: '?', .. })
            }),
            ("spiffe://a/", |e| matches!(e, E::TrailingSlash { .. })),
            ("spiffe://a/b/", |e| matches!(e, E::TrailingSlash { .. })),
            ("spiffe://a//b", |e| matches!(e, E::EmptySegment { .. })),
            ("spiffe://a/./b", |e| matches!(e, E::DotSegment { .. })),
            ("spiffe://a/b/..", |e| matches!(e, E::DotSegment { .. })),
            ("spiffe://a/b%2f", |e| {
                matches!(e, E::PathCharacter { character: '%', .. })
            }),
            ("spiffe://a/b?q", |e| {
                matches!(e, E::PathCharacter { character: '?', .. })
            }),
            ("spiffe://a/b#f", |e| {
                matches!(e, E::PathCharacter { character: '#', .. })
            }),
            (&long, |e| matches!(e, E::TooLong { length: 2059, .. })),
            (&long_domain, |e| matches!(e, E::TrustDomainTooLong { length: 256, .. })),
        ];
        for (text, check) in table {
            let error = SpiffeId::parse(text).expect_err(text);
            assert!(check(&error), "{text}: {error:?}");
            assert!(error.to_string().len() < 500, "{error}");
        }
        assert!(SpiffeId::parse("spiffe://127.0.0.1/...").is_ok());
        assert!(SpiffeId::parse(&long[..2048]).is_ok());
    }

    #[test]
    fn reserved_paths_are_those_of_servers_and_nodes() {
        let td = TrustDomain::parse("example.org").unwrap();
        assert_eq!(SpiffeId::server(&td).as_str(), "spiffe://example.org/spire/server");
        let agent = SpiffeId::agent(&td, "k8s_psat", "prod/1-2-3").unwrap();
        assert_eq!(agent.as_str(), "spiffe://example.org/spire/agent/k8s_psat/prod/1-2-3");
        assert!(agent.is_reserved());
        assert!(SpiffeId::new(&td, "/spire").unwrap().is_reserved());
        assert!(!SpiffeId::new(&td, "/spirey").unwrap().is_reserved());
        assert!(td.id().is_root());
        assert_eq!(agent.trust_domain().id(), td.id());
    }

    #[test]
    fn a_trust_domain_is_a_name_and_not_an_id() {
        let error = TrustDomain::parse("spiffe://example.org").unwrap_err();
        assert!(error.to_string().contains("give the name alone"), "{error}");
        let td = TrustDomain::parse_name_or_id("spiffe://example.org/a").unwrap();
        assert_eq!(td.as_str(), "example.org");
        assert!(TrustDomain::parse("example.org/a").is_err());
    }
}
