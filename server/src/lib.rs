//! The issuer: see docs/architecture.md for its rooms.

pub mod store;
