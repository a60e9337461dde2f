//! What both programs stand on: time, randomness and the TLS provider, files, sockets, SPIFFE TLS, supervised tasks, configuration
//! and telemetry.
//!
//! In come the operating system's facilities, out come the same with limits, deadlines and names. Nothing here knows what
//! Mintmark issues; the rooms of the server and the attestor may use everything here, and use it instead of `std` and
//! `tokio` wherever `clippy.toml` says so.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

pub mod clock;
pub mod config;
pub mod crypto;
pub mod fs;
pub mod health;
pub mod http;
pub mod metrics;
pub mod net;
pub mod task;
pub mod telemetry;
pub mod tls;
