//! The issuer: see docs/architecture.md for its rooms.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

pub mod attest;
pub mod authority;
pub mod issuance;
pub mod ledger;
pub mod mint;
pub mod registry;
pub mod store;
pub mod verdict;
