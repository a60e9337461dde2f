//! Nodes that prove by a certificate what they are.

use std::path::Path;
use std::time::Duration;

use mintmark_attestor::Attestor;
use mintmark_attestor::config::{Config, JoinMethod};
use mintmark_proto::spire::server::agent::DeleteAgentRequest;
use mintmark_proto::spire::server::agent::agent_client::AgentClient;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::fs::write_atomic;
use mintmark_server::config::Config as ServerConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

use crate::world::{DEADLINE, World, trust_domain, verify};

const AUTHORITY: &str = "nodes.pem";
const AUTHORITY_KEY: &str = "nodes.key";

/// Makes an authority of nodes' certificates beside the server's data, and has the server believe it.
fn believe(config: &mut ServerConfig) {
    let (path, key_path) = (
        config.data_dir.with_file_name(AUTHORITY),
        config.data_dir.with_file_name(AUTHORITY_KEY),
    );
    let key = KeyPair::generate().unwrap();
    let issuer = CertifiedIssuer::self_signed(authority(), key).unwrap();
    write_atomic(&path, issuer.pem().as_bytes(), 0o644).unwrap();
    write_atomic(&key_path, issuer.key().serialize_pem().as_bytes(), 0o600).unwrap();
    config.attest.x509pop_authorities = path;
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "nodes");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// A certificate of that authority for `key`, with it in files of its own.
fn certificate(dir: &Path, name: &str, key: &KeyPair) -> Config {
    let authority_key = KeyPair::from_pem(&std::fs::read_to_string(dir.join(AUTHORITY_KEY)).unwrap()).unwrap();
    let issuer = rcgen::Issuer::new(authority(), authority_key);
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let leaf = params.signed_by(key, &issuer).unwrap();
    let mut config = Config::default();
    config.join.method = JoinMethod::X509pop;
    config.join.certificate = dir.join(format!("{name}.pem"));
    config.join.key = dir.join(format!("{name}.key"));
    write_atomic(&config.join.certificate, leaf.pem().as_bytes(), 0o644).unwrap();
    write_atomic(&config.join.key, key.serialize_pem().as_bytes(), 0o600).unwrap();
    config
}

fn rsa_key() -> KeyPair {
    let mut openssl = std::process::Command::new("openssl");
    openssl.args([
        "genpkey",
        "-quiet",
        "-algorithm",
        "RSA",
        "-pkeyopt",
        "rsa_keygen_bits:2048",
    ]);
    KeyPair::from_pem(&String::from_utf8(openssl.output().unwrap().stdout).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_join_by_certificates_and_come_back_by_themselves_when_they_are_evicted() {
    let mut world = World::new(believe).await;
    world.stop_node().await;
    for (name, key) in [("ec", KeyPair::generate().unwrap()), ("rsa", rsa_key())] {
        let proof = certificate(world.dir.path(), name, &key);
        let mut config = Config::quiet(
            trust_domain(),
            world.dir.path().join(format!("data-{name}")),
            world.addr.to_string(),
            world.socket(),
        );
        config.trust_bundle = world.dir.path().join("bundle.json");
        config.join = proof.join;
        world.node = Some(Attestor::start(config, Clock::system()).await.unwrap());
        world.in_step().await;
        assert!(
            world.node_id().path.starts_with("/spire/agent/x509pop/"),
            "{:?}",
            world.node_id()
        );
        world.own_entry(&format!("/{name}")).await;
        verify(&world.context().await);

        let id = Some(world.node_id());
        AgentClient::new(world.admin().await)
            .delete_agent(DeleteAgentRequest { id })
            .await
            .unwrap();
        let returns = async {
            while world
                .server
                .as_ref()
                .unwrap()
                .rooms()
                .nodes
                .get(&world.node.as_ref().unwrap().status().node.unwrap())
                .is_none()
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, returns)
            .await
            .expect("the node returns in time");
        world.stop_node().await;
    }
    world.shutdown().await;
}
