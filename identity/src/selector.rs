//! Selectors: what attestation found out about a workload or a node, as `kind:value`.
//!
//! A registration entry fits when its selectors are a subset of the subject's; [`Selectors::is_subset`] is
//! on the path of every issuance, so a set is sorted and carries a 64-bit summary that settles most
//! questions without a comparison of text.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::text::excerpt;

/// The longest kind in bytes.
pub(crate) const MAX_KIND: usize = 255;
/// The longest value in bytes.
pub(crate) const MAX_VALUE: usize = 4096;

/// One fact about a subject, such as `unix:uid:0`: kind `unix`, value `uid:0`.
///
/// The kind has no colon and at most 255 bytes; the value has at most 4 KiB; neither is empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    text: Arc<str>,
    kind: u16,
}

impl Selector {
    /// Parses `kind:value`; only the first colon separates.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let (kind, value) = text
            .split_once(':')
            .ok_or_else(|| SelectorError::NoColon { value: excerpt(text) })?;
        check(kind, value)?;
        Ok(Self {
            text: text.into(),
            kind: kind_length(kind),
        })
    }

    /// A selector from its two parts.
    pub fn new(kind: &str, value: &str) -> Result<Self, SelectorError> {
        check(kind, value)?;
        let mut text = String::with_capacity(kind.len() + 1 + value.len());
        text.push_str(kind);
        text.push(':');
        text.push_str(value);
        Ok(Self {
            text: text.into(),
            kind: kind_length(kind),
        })
    }

    /// What kind of fact it is, which is the name of the attestor that found it.
    pub fn kind(&self) -> &str {
        &self.text[..usize::from(self.kind)]
    }

    /// The fact.
    pub fn value(&self) -> &str {
        &self.text[usize::from(self.kind) + 1..]
    }

    /// Kind and value with a colon between.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// One bit of 64, the same for the same text in every process.
    fn bit(&self) -> u64 {
        let hash = self.text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        1 << (hash >> 58)
    }
}

/// A sorted set of selectors. A clone is a reference count.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selectors {
    sorted: Arc<[Selector]>,
    /// The bits of all members: a set cannot be within another whose summary lacks one of its bits.
    summary: u64,
}

impl Selectors {
    /// Parses each text as [`Selector::parse`] does; the first one that fails decides.
    pub fn parse<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, SelectorError> {
        texts.into_iter().map(|text| Selector::parse(text.as_ref())).collect()
    }

    /// Whether every selector of this set is in `other`. The empty set is in every set.
    pub fn is_subset(&self, other: &Self) -> bool {
        if self.summary & !other.summary != 0 || self.len() > other.len() {
            return false;
        }
        let mut rest = &*other.sorted;
        for selector in &*self.sorted {
            // The sets are short and of similar size, or this one is much shorter: step, then search.
            let at = match rest.first().map(|first| first.cmp(selector)) {
                Some(Ordering::Equal) => 0,
                Some(Ordering::Less) => match rest.binary_search(selector) {
                    Ok(at) => at,
                    Err(_) => return false,
                },
                Some(Ordering::Greater) | None => return false,
            };
            rest = &rest[at + 1..];
        }
        true
    }

    /// Whether `selector` is in the set.
    pub fn contains(&self, selector: &Selector) -> bool {
        self.sorted.binary_search(selector).is_ok()
    }

    /// The selectors in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Selector> {
        self.sorted.iter()
    }

    /// The selectors in order.
    pub fn as_slice(&self) -> &[Selector] {
        &self.sorted
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }
}

impl Default for Selectors {
    fn default() -> Self {
        Self {
            sorted: Arc::from([]),
            summary: 0,
        }
    }
}

impl FromIterator<Selector> for Selectors {
    fn from_iter<I: IntoIterator<Item = Selector>>(selectors: I) -> Self {
        let mut sorted: Vec<_> = selectors.into_iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        let summary = sorted.iter().fold(0, |summary, one| summary | one.bit());
        Self {
            sorted: sorted.into(),
            summary,
        }
    }
}

impl<'a> IntoIterator for &'a Selectors {
    type Item = &'a Selector;
    type IntoIter = std::slice::Iter<'a, Selector>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Why a text is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// Nothing separates kind and value.
    #[error("selector {value} has no ':': write it as kind:value, such as unix:uid:0")]
    NoColon {
        /// What was given.
        value: String,
    },
    /// The kind has a colon, which only its end may have.
    #[error("selector kind {kind} has a ':', which only separates kind and value")]
    ColonInKind {
        /// The kind that was given.
        kind: String,
    },
    /// Nothing before the colon.
    #[error("selector with value {value} has an empty kind")]
    EmptyKind {
        /// The value that was given.
        value: String,
    },
    /// Nothing after the colon.
    #[error("selector of kind {kind} has an empty value")]
    EmptyValue {
        /// The kind that was given.
        kind: String,
    },
    /// The kind is too long.
    #[error("selector kind {kind} has {length} bytes, at most {MAX_KIND} are allowed")]
    KindTooLong {
        /// The kind that was given.
        kind: String,
        /// Its length in bytes.
        length: usize,
    },
    /// The value is too long.
    #[error("the value of a selector of kind {kind} has {length} bytes, at most {MAX_VALUE} are allowed")]
    ValueTooLong {
        /// The kind that was given.
        kind: String,
        /// The value's length in bytes.
        length: usize,
    },
}

fn check(kind: &str, value: &str) -> Result<(), SelectorError> {
    if kind.is_empty() {
        return Err(SelectorError::EmptyKind { value: excerpt(value) });
    }
    if kind.len() > MAX_KIND {
        return Err(SelectorError::KindTooLong {
            kind: excerpt(kind),
            length: kind.len(),
        });
    }
    if kind.contains(':') {
        return Err(SelectorError::ColonInKind { kind: excerpt(kind) });
    }
    if value.is_empty() {
        return Err(SelectorError::EmptyValue { kind: excerpt(kind) });
    }
    if value.len() > MAX_VALUE {
        return Err(SelectorError::ValueTooLong {
            kind: excerpt(kind),
            length: value.len(),
        });
    }
    Ok(())
}

fn kind_length(kind: &str) -> u16 {
    u16::try_from(kind.len()).expect("a checked kind has at most 255 bytes")
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, f)
    }
}

impl fmt::Debug for Selectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Borrow<str> for Selector {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl FromStr for Selector {
    type Err = SelectorError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl serde::Serialize for Selector {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> serde::Deserialize<'de> for Selector {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for Selectors {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> serde::Deserialize<'de> for Selectors {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<Selector>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_colon_separates() {
        let selector = Selector::parse("unix:uid:0").unwrap();
        assert_eq!((selector.kind(), selector.value()), ("unix", "uid:0"));
        assert_eq!(selector, Selector::new("unix", "uid:0").unwrap());
        assert_eq!(selector.to_string(), "unix:uid:0");
    }

    #[test]
    fn a_selector_without_kind_or_value_is_refused() {
        use SelectorError as E;
        assert!(matches!(Selector::parse("unix"), Err(E::NoColon { .. })));
        assert!(matches!(Selector::parse(":a"), Err(E::EmptyKind { .. })));
        assert!(matches!(Selector::parse("a:"), Err(E::EmptyValue { .. })));
        assert!(matches!(Selector::new("a:b", "c"), Err(E::ColonInKind { .. })));
        let long = "v".repeat(4097);
        assert!(matches!(Selector::new("a", &long), Err(E::ValueTooLong { .. })));
        assert!(matches!(Selector::new(&long, "a"), Err(E::KindTooLong { .. })));
        assert!(Selector::new("a", &long[..4096]).is_ok());
    }

    #[test]
    fn a_set_is_sorted_without_duplicates() {
        let set = Selectors::parse(["b:1", "a:2", "b:1", "a:1"]).unwrap();
        let texts: Vec<_> = set.iter().map(Selector::as_str).collect();
        assert_eq!(texts, ["a:1", "a:2", "b:1"]);
        assert!(Selectors::default().is_subset(&set));
        assert!(!set.is_subset(&Selectors::default()));
    }
}
