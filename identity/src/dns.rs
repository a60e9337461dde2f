//! Which DNS names may stand in a credential, and so in an entry.
//!
//! The same that SPIRE lets through: lower-case letters, digits and hyphens in labels of 1 to 63, 253 characters at
//! most, no dot at the end, and at most one wildcard, which is then the whole first label.

use std::collections::HashSet;

/// The most DNS names that one credential may hold.
pub const MAX_NAMES: usize = 64;
/// The longest DNS name in characters (RFC 1035 §2.3.4, without the root's dot).
pub const MAX_LENGTH: usize = 253;
const MAX_LABEL: usize = 63;

/// Why a DNS name may not stand in a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsNameError {
    /// Empty or longer than [`MAX_LENGTH`].
    #[error("DNS name of {0} characters: must be 1 to {MAX_LENGTH}")]
    Length(usize),
    /// Something other than a lower-case letter, digit, hyphen or dot.
    #[error(
        "DNS name {name:?} has {found:?}: only a-z, 0-9, '-' and '.' may stand in it (write international names in their xn-- form)"
    )]
    Character {
        /// The name.
        name: String,
        /// The first character that is not allowed.
        found: char,
    },
    /// A label that is empty, too long, or begins or ends with a hyphen.
    #[error(
        "DNS name {name:?} has the label {label:?}: labels have 1 to {MAX_LABEL} characters and neither begin nor end with '-'"
    )]
    Label {
        /// The name.
        name: String,
        /// The label.
        label: String,
    },
    /// A `*` that is not the whole first label.
    #[error("DNS name {0:?} has a wildcard that is not its whole first label")]
    Wildcard(String),
    /// A name that a wildcard in the same list covers already.
    #[error("DNS name {0:?} is covered by a wildcard in the same list")]
    Overlap(String),
    /// More than [`MAX_NAMES`].
    #[error("{0} DNS names: at most {MAX_NAMES} fit into one credential")]
    TooMany(usize),
}

/// Checks the DNS names of one credential.
///
/// # Errors
/// The first rule that a name breaks.
pub fn check_all(names: &[impl AsRef<str>]) -> Result<(), DnsNameError> {
    if names.len() > MAX_NAMES {
        return Err(DnsNameError::TooMany(names.len()));
    }
    for name in names {
        check(name.as_ref())?;
    }
    if names.len() > 1 {
        check_overlap(names)?;
    }
    Ok(())
}

/// Checks one DNS name.
///
/// # Errors
/// The first rule that it breaks.
pub fn check(name: &str) -> Result<(), DnsNameError> {
    if name.is_empty() || name.len() > MAX_LENGTH {
        return Err(DnsNameError::Length(name.chars().count()));
    }
    let host = name.strip_prefix("*.").unwrap_or(name);
    if host.contains('*') {
        return Err(DnsNameError::Wildcard(name.to_owned()));
    }
    if let Some(found) = host.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-' | '.')) {
        return Err(DnsNameError::Character {
            name: name.to_owned(),
            found,
        });
    }
    match host.split('.').find(|label| !is_label(label)) {
        Some(label) => Err(DnsNameError::Label {
            name: name.to_owned(),
            label: label.to_owned(),
        }),
        None => Ok(()),
    }
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
}

fn check_overlap(names: &[impl AsRef<str>]) -> Result<(), DnsNameError> {
    let wildcards: HashSet<&str> = names
        .iter()
        .filter_map(|name| name.as_ref().strip_prefix("*."))
        .collect();
    if wildcards.is_empty() {
        return Ok(());
    }
    let covered = |name: &str| {
        name.split_once('.')
            .is_some_and(|(first, parent)| first != "*" && wildcards.contains(parent))
    };
    match names.iter().map(AsRef::as_ref).find(|name| covered(name)) {
        Some(name) => Err(DnsNameError::Overlap(name.to_owned())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_spire_lets_through_pass() {
        for name in [
            "a",
            "db.example.org",
            "*.example.org",
            "xn--bcher-kva.example",
            "10.0.0.1",
            "a-b.c0",
            &format!("{}.x", "a".repeat(63)),
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn what_is_not_a_host_name_is_refused_with_its_reason() {
        let long = format!("{}a", "a.".repeat(126));
        assert_eq!(check(&long), Ok(()));
        assert!(matches!(check(&format!("a.{long}")), Err(DnsNameError::Length(255))));
        assert!(matches!(check(""), Err(DnsNameError::Length(0))));
        for name in ["*.*.org", "a.*.org", "*", "*a.org", "a*"] {
            assert!(matches!(check(name), Err(DnsNameError::Wildcard(_))), "{name}");
        }
        for name in ["A.org", "a b", "a_b", "bücher.example", "a\0b", "a/b", "a:1"] {
            assert!(matches!(check(name), Err(DnsNameError::Character { .. })), "{name}");
        }
        for name in [
            ".",
            "a..b",
            ".a",
            "a.",
            "-a",
            "a-",
            "a.-b.c",
            "*.",
            "*..a",
            &"a".repeat(64),
        ] {
            assert!(matches!(check(name), Err(DnsNameError::Label { .. })), "{name}");
        }
    }

    #[test]
    fn a_list_is_bounded_and_holds_no_name_that_its_wildcard_covers() {
        assert_eq!(check_all(&["a.org", "*.a.org", "b.c.a.org"]), Ok(()));
        assert_eq!(
            check_all(&["*.a.org", "b.a.org"]),
            Err(DnsNameError::Overlap("b.a.org".to_owned()))
        );
        let many: Vec<String> = (0..=MAX_NAMES).map(|n| format!("n{n}.org")).collect();
        assert_eq!(check_all(&many), Err(DnsNameError::TooMany(65)));
        assert_eq!(check_all(&many[1..]), Ok(()));
    }
}
