//! A whole server in this process, and clients of its API: over mutual TLS as nodes, over the admin socket as administrators.
#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(
    clippy::disallowed_methods,
    reason = "the server's time stands still in these tests; what must not hang has a deadline in real time"
)]

mod administration;
mod attestation;
mod clusters;
mod documents;
mod entries;
mod hostile;
mod kubernetes;
mod life;
mod link;
mod outages;
mod pods;
mod psat;
mod publishing;
mod reviews;
mod roll;
mod svids;
mod uninstalling;
mod world;
