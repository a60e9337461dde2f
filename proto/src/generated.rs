//! What `build.rs` made of the .proto files. Reached through the names that `lib.rs` gives it.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    elided_lifetimes_in_paths,
    clippy::all,
    clippy::use_self,
    clippy::allow_attributes_without_reason,
    reason = "generated code has its own style; its documentation is in the .proto files"
)]

/// The SPIFFE Workload API.
pub mod workload {
    include!(concat!(env!("OUT_DIR"), "/workload/mod.rs"));
}

/// Everything that a server serves, in the tree of its packages.
pub mod server {
    include!(concat!(env!("OUT_DIR"), "/server/mod.rs"));
}

/// What the kubelet asks of a driver of volumes.
pub mod node {
    include!(concat!(env!("OUT_DIR"), "/node/mod.rs"));
}
