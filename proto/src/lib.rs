//! The wire: what Mintmark's programs say to each other and to the world over gRPC, as generated code.
//!
//! In: the .proto files beside this crate, written from published packages, messages and field numbers. Out:
//! messages, clients and servers, and their descriptors. Every crate but `identity` may use it; nothing but
//! the edges (`api`, `link`, `serve`, the CLI) should, since identities travel as types of `identity` within.
//!
//! | module | protobuf package | who speaks it |
//! |---|---|---|
//! | [`workload`] | none (`SpiffeWorkloadAPI`) | workloads to the attestor |
//! | [`spire::types`], [`spire::server`] | `spire.api.types`, `spire.api.server.*.v1` | admins, SPIRE's agents, and attestors to the server |
//! | [`attestor`] | `mintmark.attestor.v1` | attestors to the server |
//! | [`admin`] | `mintmark.admin.v1` | the CLI to the server |
//! | [`ledger`] | `mintmark.ledger.v1` | the log's files |
//! | [`csi`], [`registration`] | `csi.v1`, `pluginregistration` | the kubelet to the attestor |
//!
//! In a server trait every method has a body that answers UNIMPLEMENTED, so that an implementation writes only
//! those it serves. Streams are `tonic::codegen::BoxStream<T>`, not associated types. `bytes` fields are
//! [`Bytes`], so that one certificate or key is shared by all who send it; `map` fields are `BTreeMap`s. In a
//! message that was received they are views of the whole message: what is kept is copied out first.
//! Messages with a key or token in them do not print it, see `redact`.
//!
//! Names are prost's: `X509SVIDResponse` is `X509svidResponse`, `SpiffeWorkloadAPI` is
//! `spiffe_workload_api_server::SpiffeWorkloadApi`, and service `SVID` is `svid_server::Svid`.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

pub use prost::bytes::Bytes;

pub mod digest;
mod generated;
mod redact;

pub use generated::workload;

/// SPIRE's server API v1.
pub mod spire {
    pub use crate::generated::server::spire::api::types;

    /// SPIRE's services, one module each, without their `v1`.
    pub mod server {
        pub use crate::generated::server::spire::api::server::agent::v1 as agent;
        pub use crate::generated::server::spire::api::server::bundle::v1 as bundle;
        pub use crate::generated::server::spire::api::server::debug::v1 as debug;
        pub use crate::generated::server::spire::api::server::entry::v1 as entry;
        pub use crate::generated::server::spire::api::server::localauthority::v1 as localauthority;
        pub use crate::generated::server::spire::api::server::logger::v1 as logger;
        pub use crate::generated::server::spire::api::server::svid::v1 as svid;
        pub use crate::generated::server::spire::api::server::trustdomain::v1 as trustdomain;
    }
}

pub use generated::node::csi::v1 as csi;
pub use generated::node::pluginregistration as registration;
pub use generated::server::mintmark::admin::v1 as admin;
pub use generated::server::mintmark::attestor::v1 as attestor;
pub use generated::server::mintmark::ledger::v1 as ledger;

/// Everything that workloads, servers and the CLI speak, as an encoded `google.protobuf.FileDescriptorSet`: for protobuf JSON, and for
/// reflection on the server (which names the services it really has with `with_service_name`).
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/all.bin"));

/// The Workload API alone, as an encoded `google.protobuf.FileDescriptorSet`: for reflection on its socket.
pub const WORKLOAD_FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/workload.bin"));

#[cfg(test)]
mod tests {
    use prost::Name as _;
    use prost_reflect::DescriptorPool;

    use super::*;

    #[test]
    fn the_descriptor_set_names_every_service() {
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
        let mut services: Vec<_> = pool.services().map(|s| s.full_name().to_owned()).collect();
        services.sort();
        assert_eq!(
            services,
            [
                "SpiffeWorkloadAPI",
                "mintmark.admin.v1.Admin",
                "mintmark.attestor.v1.Attestor",
                "spire.api.server.agent.v1.Agent",
                "spire.api.server.bundle.v1.Bundle",
                "spire.api.server.debug.v1.Debug",
                "spire.api.server.entry.v1.Entry",
                "spire.api.server.localauthority.v1.LocalAuthority",
                "spire.api.server.logger.v1.Logger",
                "spire.api.server.svid.v1.SVID",
                "spire.api.server.trustdomain.v1.TrustDomain",
            ]
        );
    }

    #[test]
    fn the_workload_descriptor_set_holds_the_seven_workload_methods_alone() {
        let pool = DescriptorPool::decode(WORKLOAD_FILE_DESCRIPTOR_SET).unwrap();
        let services: Vec<_> = pool.services().collect();
        assert_eq!(services.len(), 1);
        assert_eq!(services[0].full_name(), "SpiffeWorkloadAPI");
        assert_eq!(services[0].methods().len(), 7);
    }

    #[test]
    fn a_message_finds_its_descriptor_by_its_name() {
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
        for name in [
            spire::types::Entry::full_name(),
            workload::X509svidResponse::full_name(),
            ledger::Leaf::full_name(),
        ] {
            assert!(pool.get_message_by_name(&name).is_some(), "{name}");
        }
    }
}
