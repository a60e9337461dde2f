//! A server and an attestor in this process, and workloads that know them by the crate `spiffe` alone: over real sockets, in real time.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(
    clippy::disallowed_methods,
    reason = "tests wait with real deadlines for what runs in real time"
)]

mod identities;
mod joining;
mod outage;
mod rotation;
mod world;
