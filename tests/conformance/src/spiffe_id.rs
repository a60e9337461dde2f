//! The rules of SPIFFE-ID.md §2, each by itself, so that a check can say which one an ID breaks.
//!
//! Comes in: any string that a server called a SPIFFE ID. Goes out: its parts, and what is wrong with each.

/// The longest trust domain name, in bytes (SPIFFE-ID.md §2.3).
pub(crate) const MAX_TRUST_DOMAIN: usize = 255;
/// The longest SPIFFE ID that everybody must accept, in bytes (SPIFFE-ID.md §2.3).
pub(crate) const MAX_ID: usize = 2048;

/// A string taken apart as `spiffe://<trust domain><path>[?#…]`, whatever is wrong with the parts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    /// The authority: a trust domain name when the ID is well formed.
    pub(crate) trust_domain: &'a str,
    /// Empty, or from the first `/` on.
    pub(crate) path: &'a str,
    /// From the first `?` or `#` on.
    pub(crate) tail: &'a str,
}

/// Takes an ID apart; `None` when it does not begin with `spiffe://`.
pub(crate) fn parts(id: &str) -> Option<Parts<'_>> {
    let rest = id.strip_prefix("spiffe://")?;
    let (rest, tail) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    Some(Parts {
        trust_domain,
        path,
        tail,
    })
}

/// What breaks ID-1: scheme, presence of a trust domain, no query and no fragment.
pub(crate) fn form_problem(id: &str) -> Option<&'static str> {
    let Some(parts) = parts(id) else {
        return Some("does not begin with spiffe://");
    };
    if parts.trust_domain.is_empty() {
        Some("has no trust domain")
    } else if parts.tail.starts_with('?') {
        Some("has a query")
    } else if parts.tail.starts_with('#') {
        Some("has a fragment")
    } else {
        None
    }
}

/// What breaks ID-2 in a trust domain name.
pub(crate) fn trust_domain_problem(name: &str) -> Option<&'static str> {
    if name.contains('@') {
        Some("the trust domain has user information")
    } else if name.contains('%') {
        Some("the trust domain has percent-encoded characters")
    } else if name.contains(':') {
        Some("the trust domain has a port")
    } else if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Some("the trust domain has upper-case letters")
    } else if !name
        .bytes()
        .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
    {
        Some("the trust domain has characters outside a-z 0-9 . - _")
    } else {
        None
    }
}

/// What breaks ID-3 in a path.
pub(crate) fn path_problem(path: &str) -> Option<&'static str> {
    let segments = path.strip_prefix('/')?;
    if path.contains('%') {
        return Some("the path has percent-encoded characters");
    }
    if path.ends_with('/') {
        return Some("the path ends with /");
    }
    segments.split('/').find_map(|segment| match segment {
        "" => Some("the path has an empty segment"),
        "." | ".." => Some("the path has a relative segment"),
        s if s
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) =>
        {
            None
        }
        _ => Some("the path has characters outside a-z A-Z 0-9 . - _"),
    })
}

/// Whether an ID keeps all rules of SPIFFE-ID.md §2.
pub(crate) fn is_valid(id: &str) -> bool {
    id.len() <= MAX_ID
        && form_problem(id).is_none()
        && parts(id).is_some_and(|p| {
            p.trust_domain.len() <= MAX_TRUST_DOMAIN
                && trust_domain_problem(p.trust_domain).is_none()
                && path_problem(p.path).is_none()
        })
}

/// The trust domain name of an ID; `None` when it has none.
pub(crate) fn trust_domain(id: &str) -> Option<&str> {
    parts(id).map(|p| p.trust_domain).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_of_the_spiffe_id_is_told_apart() {
        type Problem = Option<&'static str>;
        let table: &[(&str, bool, bool, bool)] = &[
            ("spiffe://example.org/a/b", false, false, false),
            ("spiffe://example.org", false, false, false),
            ("spiffe://10.0.0.1/a", false, false, false),
            ("spiffe://a_b-c.d/A.b-c_d", false, false, false),
            ("SPIFFE://example.org/a", true, false, false),
            ("https://example.org/a", true, false, false),
            ("spiffe:///a", true, false, false),
            ("spiffe://example.org/a?b", true, false, false),
            ("spiffe://example.org/a#b", true, false, false),
            ("spiffe://Example.org/a", false, true, false),
            ("spiffe://u@example.org/a", false, true, false),
            ("spiffe://example.org:80/a", false, true, false),
            ("spiffe://exa%20mple/a", false, true, false),
            ("spiffe://exämple/a", false, true, false),
            ("spiffe://example.org/", false, false, true),
            ("spiffe://example.org/a/", false, false, true),
            ("spiffe://example.org/a//b", false, false, true),
            ("spiffe://example.org/a/./b", false, false, true),
            ("spiffe://example.org/..", false, false, true),
            ("spiffe://example.org/a%2fb", false, false, true),
            ("spiffe://example.org/a b", false, false, true),
            ("spiffe://example.org/ä", false, false, true),
        ];
        for &(id, form, name, path) in table {
            let taken = parts(id);
            let name_found: Problem = taken.as_ref().and_then(|p| trust_domain_problem(p.trust_domain));
            let path_found: Problem = taken.as_ref().and_then(|p| path_problem(p.path));
            assert_eq!(form_problem(id).is_some(), form, "form of {id}");
            assert_eq!(name_found.is_some(), name, "trust domain of {id}");
            assert_eq!(path_found.is_some(), path, "path of {id}");
            assert_eq!(is_valid(id), !(form || name || path), "{id}");
        }
    }
}
