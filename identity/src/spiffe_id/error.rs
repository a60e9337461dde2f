//! Which rule of SPIFFE-ID.md a text breaks.

use super::{MAX_ID, MAX_TRUST_DOMAIN};

/// Why a text is not a SPIFFE ID or a trust domain name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeIdError {
    /// No scheme, or another one than `spiffe`.
    #[error("SPIFFE ID {value} does not start with spiffe:// (SPIFFE-ID §2)")]
    Scheme {
        /// What was given.
        value: String,
    },
    /// A whole ID was given where a trust domain name belongs.
    #[error("trust domain {value} is a SPIFFE ID: give the name alone, such as example.org")]
    IdAsName {
        /// What was given.
        value: String,
    },
    /// Longer than 2048 bytes.
    #[error("SPIFFE ID {value} has {length} bytes, at most {MAX_ID} are allowed (SPIFFE-ID §2.3)")]
    TooLong {
        /// What was given.
        value: String,
        /// Its length in bytes.
        length: usize,
    },
    /// Nothing between the scheme and the path.
    #[error("{value} has an empty trust domain (SPIFFE-ID §2.1)")]
    TrustDomainEmpty {
        /// What was given.
        value: String,
    },
    /// A trust domain longer than 255 bytes.
    #[error("the trust domain of {value} has {length} bytes, at most {MAX_TRUST_DOMAIN} are allowed (SPIFFE-ID §2.3)")]
    TrustDomainTooLong {
        /// What was given.
        value: String,
        /// The trust domain's length in bytes.
        length: usize,
    },
    /// A character that a trust domain must not have.
    #[error(
        "the trust domain of {value} has {character:?}, {}; only a-z, 0-9, '.', '-' and '_' are allowed (SPIFFE-ID §2.1)",
        hint(*.character)
    )]
    TrustDomainCharacter {
        /// What was given.
        value: String,
        /// The first one that is not allowed.
        character: char,
    },
    /// A path that does not start with a slash.
    #[error("path {value} does not start with '/' (SPIFFE-ID §2.2)")]
    PathStart {
        /// What was given.
        value: String,
    },
    /// An empty segment (`//`).
    #[error("the path of {value} has an empty segment (SPIFFE-ID §2.2)")]
    EmptySegment {
        /// What was given.
        value: String,
    },
    /// A slash at the end.
    #[error("{value} ends with '/', which a SPIFFE ID must not: leave it out (SPIFFE-ID §2.2)")]
    TrailingSlash {
        /// What was given.
        value: String,
    },
    /// A segment `.` or `..`.
    #[error("the path of {value} has a '.' or '..' segment (SPIFFE-ID §2.2)")]
    DotSegment {
        /// What was given.
        value: String,
    },
    /// A character that a path must not have.
    #[error(
        "the path of {value} has {character:?}, {}; only a-z, A-Z, 0-9, '.', '-' and '_' are allowed in a segment (SPIFFE-ID §2.2)",
        hint(*.character)
    )]
    PathCharacter {
        /// What was given.
        value: String,
        /// The first one that is not allowed.
        character: char,
    },
}

fn hint(character: char) -> &'static str {
    match character {
        '%' => "and percent-encoding is not allowed",
        '?' => "and a query is not allowed",
        '#' => "and a fragment is not allowed",
        '@' => "and user information is not allowed",
        ':' => "and a port is not allowed",
        _ => "which is not allowed",
    }
}
