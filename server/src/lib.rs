//! The issuer: see docs/architecture.md for its rooms.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::disallowed_methods,
        reason = "tests own their time and tasks"
    )
)]

pub mod api;
pub mod attest;
pub mod authority;
pub mod config;
pub mod issuance;
pub mod ledger;
pub mod mint;
pub mod registry;
pub mod roll;
pub mod server;
pub mod store;
pub mod trust;
pub mod verdict;
