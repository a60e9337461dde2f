//! What came of verifying a signature or a path.

/// Whether a proof holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verified {
    /// It holds.
    Yes,
    /// It does not: why.
    No(String),
    /// The libraries used here cannot tell: why.
    Unknown(String),
}
