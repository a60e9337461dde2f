//! Whom do we trust, and how do others learn it?
//!
//! In: the trust bundle of `authority`. Out: the documents by which strangers verify what we issue, which `server` serves, and the bundle for `roll` to write into Kubernetes. Bundles of other trust domains come with
//! federation.

pub mod documents;
pub mod publish;
