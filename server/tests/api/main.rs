//! A whole server in this process, and clients of its API: over mutual TLS as nodes, over the admin socket as administrators.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(
    clippy::disallowed_methods,
    reason = "tests wait with real deadlines for what runs in real time"
)]

mod attestation;
mod world;
