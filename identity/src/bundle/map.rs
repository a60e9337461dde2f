//! Bundle maps: the bundles of several trust domains in one document
//! (SPIFFE_Trust_Domain_and_Bundle.md §5), as Envoy's SPIFFE validator reads it.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::json::{self, MAX_DOCUMENT, Written};
use super::{Bundle, BundleError};
use crate::TrustDomain;
use crate::text::excerpt;

/// The largest bundle map in bytes.
const MAX_MAP: usize = 16 << 20;
/// The most trust domains in a bundle map.
const MAX_TRUST_DOMAINS: usize = 1000;

/// Bundles by the trust domain they belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BundleMap {
    bundles: BTreeMap<TrustDomain, Bundle>,
}

impl BundleMap {
    /// Puts a bundle under its trust domain and returns the one it replaces.
    pub fn insert(&mut self, bundle: Bundle) -> Option<Bundle> {
        self.bundles.insert(bundle.trust_domain.clone(), bundle)
    }

    /// The bundle of a trust domain.
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&Bundle> {
        self.bundles.get(trust_domain)
    }

    /// Takes a bundle out.
    pub fn remove(&mut self, trust_domain: &TrustDomain) -> Option<Bundle> {
        self.bundles.remove(trust_domain)
    }

    /// The bundles, ordered by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &Bundle> {
        self.bundles.values()
    }

    /// How many bundles there are.
    pub fn len(&self) -> usize {
        self.bundles.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bundles.is_empty()
    }

    /// Reads a bundle map of at most 16 MiB, 1,000 trust domains, and 1 MiB a bundle. A trust domain that is
    /// there twice, in whatever case, is refused.
    pub fn from_json(json: &[u8]) -> Result<Self, BundleError> {
        if json.len() > MAX_MAP {
            return Err(BundleError::MapTooLong { length: json.len() });
        }
        let document: Document<'_> = serde_json::from_slice(json)?;
        let mut map = Self::default();
        if document.trust_domains.0.len() > MAX_TRUST_DOMAINS {
            return Err(BundleError::TooManyTrustDomains {
                count: document.trust_domains.0.len(),
            });
        }
        for (name, bundle) in document.trust_domains.0 {
            let trust_domain = TrustDomain::parse(&name)?;
            if bundle.get().len() > MAX_DOCUMENT {
                return Err(BundleError::TooLong {
                    length: bundle.get().len(),
                });
            }
            let bundle = json::read(&trust_domain, serde_json::from_str(bundle.get())?)?;
            if map.insert(bundle).is_some() {
                return Err(BundleError::DuplicateTrustDomain { name: excerpt(&name) });
            }
        }
        Ok(map)
    }

    /// Writes the bundle map; the bundles in it have no refresh hint (§5).
    pub fn to_json(&self) -> Result<String, BundleError> {
        let mut trust_domains = Vec::with_capacity(self.bundles.len());
        for (name, bundle) in &self.bundles {
            trust_domains.push((name.as_str(), json::write(bundle)?.without_hint()));
        }
        Ok(serde_json::to_string(&WrittenMap {
            trust_domains: Members(trust_domains),
        })?)
    }
}

impl FromIterator<Bundle> for BundleMap {
    fn from_iter<I: IntoIterator<Item = Bundle>>(bundles: I) -> Self {
        let mut map = Self::default();
        for bundle in bundles {
            map.insert(bundle);
        }
        map
    }
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    trust_domains: Pairs<'a>,
}

/// The members of an object in the order they have, so that a second one of a name is seen.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Vec<(String, &'de RawValue)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of bundles by trust domain name")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }
        deserializer.deserialize_map(Read).map(Pairs)
    }
}

#[derive(Serialize)]
struct WrittenMap<'a> {
    trust_domains: Members<'a>,
}

struct Members<'a>(Vec<(&'a str, Written)>);

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, bundle) in &self.0 {
            map.serialize_entry(name, bundle)?;
        }
        map.end()
    }
}
