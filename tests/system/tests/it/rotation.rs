//! Authorities that change under workloads that go on.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;

use nix::sys::signal::Signal;
use spiffe::{JwtSource, TrustDomain, WorkloadApiClient, X509Source};
use system::{Dev, Program, interop};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

const ROTATIONS: usize = 3;
/// An authority signs for 15 s, an X.509-SVID lives for 3.
const FAST: [&str; 6] = ["--ca-ttl", "18s", "--x509-ttl", "3s", "--jwt-ttl", "3s"];

#[test]
fn go_spiffe_and_the_crate_spiffe_hold_their_streams_across_three_rotations_and_no_handshake_fails() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Dev::start(&dir, &FAST);
    let server = Program::start(
        "mtls-server",
        Command::new(interop()).args(["mtls-server", "--socket", &dev.socket, "--authorize", "td"]),
    );
    let listening = server.event("it listens", |event| event["event"] == "listening");
    let address = listening["address"].as_str().unwrap().to_owned();
    let client = Program::start(
        "mtls-client",
        Command::new(interop()).args([
            "mtls-client",
            "--socket",
            &dev.socket,
            "--connect",
            &address,
            "--expect",
            "td",
            "--rate",
            "20",
        ]),
    );

    let socket = dev.socket.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let crate_spiffe = runtime.spawn(follow(socket));

    let mut seen = BTreeSet::new();
    while seen.len() <= ROTATIONS {
        let svid = client.event("an SVID of the server by another authority", |event| {
            event["event"] == "svid" && event["end"] == "peer" && !seen.contains(&event["authority"].to_string())
        });
        seen.insert(svid["authority"].to_string());
    }
    let authorities = runtime.block_on(crate_spiffe).unwrap();
    assert!(authorities.len() > ROTATIONS, "{authorities:?}");

    for (name, program) in [("client", client), ("server", server)] {
        let done = program.stop(Signal::SIGTERM);
        let summary = done
            .stdout
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let summary = summary.into_iter().find(|event| event["event"] == "summary");
        let summary = summary.unwrap_or_else(|| panic!("the {name} has no summary: {done:?}"));
        assert!(done.status == 0, "{name}: {done:?}");
        assert_eq!(
            (&summary["failures"], &summary["stream_errors"]),
            (&0.into(), &0.into()),
            "{name}: {summary}"
        );
        assert!(summary["handshakes"].as_u64().unwrap() > 100, "{name}: {summary}");
        assert!(
            summary["peer_authorities"].as_array().unwrap().len() > ROTATIONS,
            "{name}: {summary}"
        );
    }
    // All of it is in the ledger, and every leaf of it.
    let data = dev.server_data();
    dev.interrupt();
    let verified = system::run(
        Command::new(system::binary("mintmark"))
            .args(["ledger", "verify", "--data"])
            .arg(data),
        b"",
    );
    verified.ok();
}

/// With the crate `spiffe`: an X.509 source, a JWT source, until enough authorities have signed. At each update the SVID verifies by the bundle that the
/// source has at that moment, and a fresh JWT-SVID is by a key that it has.
async fn follow(socket: String) -> BTreeSet<Vec<u8>> {
    let source = X509Source::builder()
        .endpoint(&socket)
        .build()
        .await
        .expect("an X.509 source");
    let jwt_source = JwtSource::builder()
        .endpoint(&socket)
        .build()
        .await
        .expect("a JWT source");
    let client = WorkloadApiClient::connect_to(&socket).await.expect("a client");
    let trust_domain = TrustDomain::new("dev.mintmark.test").unwrap();
    let mut updates = source.updated();
    let mut authorities = BTreeSet::new();
    let mut round = 0;
    loop {
        let context = source.x509_context().expect("the source has a context");
        let svid = Arc::clone(context.default_svid().expect("an SVID"));
        let bundle = context.bundle_set().get(&trust_domain).expect("a bundle");
        let roots: Vec<&[u8]> = bundle.authorities().iter().map(AsRef::as_ref).collect();
        authorities.insert(signed_by_one_of(svid.cert_chain()[0].as_ref(), &roots));

        // Many, so that some meet the moment at which the node's own SVID is replaced.
        for n in 0..40 {
            let audience = [format!("audience-{round}-{n}")];
            let token = jwt_source.fetch_jwt_svid(&audience).await.expect("a JWT-SVID");
            if n == 0 {
                let valid = client.validate_jwt_token(&audience[0], token.token()).await;
                valid.expect("the JWT-SVID is valid");
            }
        }
        round += 1;
        assert!(source.is_healthy() && jwt_source.is_healthy());
        if authorities.len() > ROTATIONS {
            return authorities;
        }
        updates.changed().await.expect("the stream goes on");
    }
}

/// The key identifier of the authority, once its key has verified the signature.
fn signed_by_one_of(leaf: &[u8], roots: &[&[u8]]) -> Vec<u8> {
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    let authority = leaf
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(identifier) => {
                identifier.key_identifier.as_ref().map(|key| key.0.to_vec())
            }
            _ => None,
        });
    let verified = roots.iter().any(|root| {
        let (_, root) = X509Certificate::from_der(root).unwrap();
        leaf.verify_signature(Some(root.public_key())).is_ok()
    });
    assert!(verified, "an SVID came without an authority that verifies it");
    authority.expect("it names its authority")
}
