//! Whom do we trust, and how do others learn it?
//!
//! In: the trust bundle of `authority`. Out: the documents by which strangers verify what we issue. `server` serves them; bundles of other trust domains come with
//! federation.

pub mod documents;
