//! Compiles the .proto files of this folder, without protoc.
//!
//! In: `workload.proto`, `spire/**`, `mintmark/**`, `csi/**`, `kubelet/**`. Out, in `OUT_DIR`: `workload/`, `server/` and
//! `node/` with the generated modules; `workload.bin` and `all.bin`, the encoded descriptor sets.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_types::FileDescriptorSet;

const WORKLOAD: [&str; 1] = ["workload.proto"];

const SERVER: [&str; 11] = [
    "spire/api/server/agent/v1/agent.proto",
    "spire/api/server/bundle/v1/bundle.proto",
    "spire/api/server/debug/v1/debug.proto",
    "spire/api/server/entry/v1/entry.proto",
    "spire/api/server/localauthority/v1/localauthority.proto",
    "spire/api/server/logger/v1/logger.proto",
    "spire/api/server/svid/v1/svid.proto",
    "spire/api/server/trustdomain/v1/trustdomain.proto",
    "mintmark/admin/v1/admin.proto",
    "mintmark/attestor/v1/attestor.proto",
    "mintmark/ledger/v1/ledger.proto",
];

/// What the kubelet and a driver of volumes say to each other on a node.
const NODE: [&str; 2] = ["csi/v1/csi.proto", "kubelet/pluginregistration.proto"];

/// Messages that hold a key or a token themselves, with what is nested in them. Each has its `Debug` in
/// `src/redact.rs`.
const SECRET: [&str; 13] = [
    ".X509SVID",
    ".JWTSVID",
    ".WITSVID",
    ".ValidateJWTSVIDRequest",
    ".spire.api.types.AttestationData",
    ".spire.api.types.JoinToken",
    ".spire.api.types.JWTSVID",
    ".spire.api.types.WITSVID",
    ".spire.api.server.agent.v1.AttestAgentRequest",
    ".spire.api.server.agent.v1.AttestAgentResponse",
    ".spire.api.server.agent.v1.CreateJoinTokenRequest",
    ".mintmark.attestor.v1.PodUp",
    ".csi.v1.NodePublishVolumeRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let workload = protox::compile(WORKLOAD, ["."])?;
    write_descriptors(&workload, &out.join("workload.bin"))?;
    generate(workload, &out.join("workload"))?;

    generate(protox::compile(SERVER, ["."])?, &out.join("server"))?;
    generate(protox::compile(NODE, ["."])?, &out.join("node"))?;

    let all = protox::compile(WORKLOAD.iter().chain(&SERVER), ["."])?;
    write_descriptors(&all, &out.join("all.bin"))?;

    for input in ["build.rs", "workload.proto", "spire", "mintmark", "csi", "kubelet"] {
        println!("cargo:rerun-if-changed={input}");
    }
    Ok(())
}

/// Clients and servers of one set of files, in a folder of their own.
fn generate(files: FileDescriptorSet, out: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(out)?;
    let mut messages = tonic_prost_build::Config::new();
    messages.enable_type_names();
    tonic_prost_build::configure()
        .out_dir(out)
        .include_file("mod.rs")
        // What is not served answers UNIMPLEMENTED.
        .generate_default_stubs(true)
        // Certificates and keys are shared between streams, not copied.
        .bytes(".")
        // One state has one encoding.
        .btree_map(".")
        .skip_debug(SECRET)
        .compile_fds_with_config(files, messages)?;
    Ok(())
}

/// For reflection and for protobuf JSON; comments are left out.
#[expect(
    clippy::disallowed_methods,
    reason = "what a build script writes need not outlive a crash"
)]
fn write_descriptors(files: &FileDescriptorSet, path: &Path) -> Result<(), Box<dyn Error>> {
    let mut files = files.clone();
    for file in &mut files.file {
        file.source_code_info = None;
    }
    fs::write(path, files.encode_to_vec())?;
    Ok(())
}
