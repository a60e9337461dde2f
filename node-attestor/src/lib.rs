//! The node attestor: proves which node this is, holds the identities that apply to it, and serves them to the processes on it over the SPIFFE Workload API.
//!
//! ```text
//! server ◄──► link ──► keep ──► serve ◄──► workloads
//!              ▲                  ▲
//!             join            peer, mount ◄──► kubelet
//! ```
//!
//! Each module is one room: `join` (how do I prove which node I am?), `link` (what does the server push?), `keep` (which keys and SVIDs do I hold?), `peer` (which process is at the other
//! end of this socket?), `mount` (into which pod was it mounted?), `serve` (the Workload API), and [`attestor`], which puts them together. In comes a [`Config`]; out comes a [`Running`] attestor.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

pub mod attestor;
pub mod config;
pub mod join;
pub mod keep;
pub mod link;
pub mod mount;
pub mod peer;
pub mod serve;

#[cfg(test)]
mod testing;

pub use attestor::{Attestor, Running, StartError, Status};
pub use config::{Config, InvalidConfig};
