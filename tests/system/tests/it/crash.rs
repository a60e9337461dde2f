//! Killed at any moment, under load.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mintmark_identity::Serial;
use mintmark_proto::Bytes;
use mintmark_proto::admin::admin_client::AdminClient;
use mintmark_proto::admin::{CheckpointRequest, ShowLeavesRequest, show_leaves_request::Which};
use mintmark_proto::spire::server::svid::svid_client::SvidClient;
use mintmark_proto::spire::server::svid::{MintJwtsvidRequest, MintX509svidRequest};
use mintmark_proto::spire::types::Spiffeid;
use mintmark_proto::workload::JwtsvidRequest;
use mintmark_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use system::{Dev, binary, channel, run, workload_request};
use tokio::sync::{Notify, mpsc};
use x509_parser::prelude::{FromDer as _, X509Certificate};

const CALLERS: usize = 3;

/// 20 rounds; `tests/soak` asks for more by `MINTMARK_KILL_ROUNDS`.
#[test]
fn what_was_received_before_a_kill_is_in_the_log_and_the_log_never_forks() {
    let rounds = std::env::var("MINTMARK_KILL_ROUNDS").map_or(20, |rounds| rounds.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (mut received, mut checkpoints): (Vec<Serial>, Vec<String>) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let dev = Dev::start(&dir, &[]);
        // Somewhere in the midst, each time elsewhere.
        let enough = 20 + (round * 97) % 331;
        let (serials, checkpoint) = runtime.block_on(load(&dev, enough));
        dev.program.kill();
        let new: Vec<_> = runtime.block_on(serials);
        assert!(new.len() >= enough, "round {round}: only {} credentials", new.len());

        let dev = Dev::start(&dir, &[]);
        runtime.block_on(all_are_logged(&dev, &new, round));
        checkpoints.push(checkpoint);
        grew_since(&dev, dir.path(), &checkpoints[checkpoints.len() - 1..]);
        received.extend(new);
        // Every other time the next load meets a log that was closed well.
        if round % 2 == 0 {
            dev.program.kill();
        } else {
            dev.interrupt();
        }
    }
    let dev = Dev::start(&dir, &[]);
    runtime.block_on(all_are_logged(&dev, &received, rounds));
    grew_since(&dev, dir.path(), &checkpoints);
    let unique: std::collections::BTreeSet<_> = received.iter().map(Serial::index).collect();
    assert_eq!(unique.len(), received.len(), "two credentials have one index");
    let data = dev.server_data();
    dev.interrupt();
    run(
        Command::new(binary("mintmark"))
            .args(["ledger", "verify", "--data"])
            .arg(data),
        b"",
    )
    .ok();
}

/// Begins to issue through every door, and returns when `enough` credentials have been received; the calls go on until the server is gone. With all
/// serials that were ever received, and a checkpoint from the midst.
async fn load(dev: &Dev, enough: usize) -> (impl Future<Output = Vec<Serial>> + use<>, String) {
    let (tell, mut told) = mpsc::unbounded_channel();
    let (count, is_enough) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let got = {
        let (count, is_enough) = (Arc::clone(&count), Arc::clone(&is_enough));
        move |serial: Serial| {
            let _ = tell.send(serial);
            if count.fetch_add(1, Ordering::Relaxed) + 1 == enough {
                is_enough.notify_one();
            }
        }
    };
    let csr = csr();
    for caller in 0..CALLERS {
        let (admin, workload) = (channel(&dev.admin_socket).await, channel(&dev.socket_path()).await);
        let (mut svids, csr, tell) = (SvidClient::new(admin.clone()), csr.clone(), got.clone());
        tokio::spawn(async move {
            loop {
                let request = MintX509svidRequest {
                    csr: csr.clone(),
                    ttl: 0,
                };
                let Ok(answer) = svids.mint_x509svid(request).await else {
                    break;
                };
                tell(of_certificate(&answer.into_inner().svid.unwrap().cert_chain[0]));
            }
        });
        let (mut svids, tell) = (SvidClient::new(admin), got.clone());
        tokio::spawn(async move {
            let id = Spiffeid {
                trust_domain: "dev.mintmark.test".into(),
                path: "/minted".into(),
            };
            loop {
                let request = MintJwtsvidRequest {
                    id: Some(id.clone()),
                    audience: vec!["a".into()],
                    ttl: 0,
                };
                let Ok(answer) = svids.mint_jwtsvid(request).await else {
                    break;
                };
                tell(of_token(&answer.into_inner().svid.unwrap().token));
            }
        });
        let (mut workload, tell) = (SpiffeWorkloadApiClient::new(workload), got.clone());
        tokio::spawn(async move {
            for n in 0.. {
                let request = JwtsvidRequest {
                    audience: vec![format!("{caller}-{n}")],
                    spiffe_id: String::new(),
                };
                let Ok(answer) = workload.fetch_jwtsvid(workload_request(request)).await else {
                    break;
                };
                tell(of_token(&answer.into_inner().svids[0].svid));
            }
        });
    }
    drop(got);
    let mut admin = AdminClient::new(channel(&dev.admin_socket).await);
    is_enough.notified().await;
    let checkpoint = admin
        .checkpoint(CheckpointRequest {})
        .await
        .unwrap()
        .into_inner()
        .checkpoint;
    let rest = async move {
        let mut all = Vec::new();
        while let Some(serial) = told.recv().await {
            all.push(serial);
        }
        all
    };
    (rest, checkpoint)
}

async fn all_are_logged(dev: &Dev, serials: &[Serial], round: usize) {
    let mut admin = AdminClient::new(channel(&dev.admin_socket).await);
    for serial in serials {
        let which = Some(Which::Serial(Bytes::copy_from_slice(serial.as_bytes())));
        let answer = admin.show_leaves(ShowLeavesRequest { which }).await;
        let leaf = answer
            .unwrap_or_else(|status| panic!("round {round}: {serial} was received and is not in the log: {status}"));
        let leaf = leaf.into_inner().leaves[0].leaf.clone().unwrap();
        assert_eq!(
            leaf.serial,
            serial.as_bytes().as_slice(),
            "round {round}: another serial has the index of {serial}"
        );
    }
}

fn grew_since(dev: &Dev, dir: &Path, checkpoints: &[String]) {
    let key = dev.server_data().join("ledger/1/log");
    for checkpoint in checkpoints {
        let file = dir.join("checkpoint.txt");
        std::fs::write(&file, checkpoint).unwrap();
        dev.mintmark([
            "ledger",
            "prove",
            "--since",
            file.to_str().unwrap(),
            "--log-key",
            key.to_str().unwrap(),
        ])
        .ok();
    }
}

fn csr() -> Bytes {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![rcgen::SanType::URI(
        "spiffe://dev.mintmark.test/minted".try_into().unwrap(),
    )];
    params.serialize_request(&key).unwrap().der().to_vec().into()
}

fn of_certificate(der: &[u8]) -> Serial {
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    Serial::from_bytes(certificate.raw_serial()).unwrap()
}

fn of_token(token: &str) -> Serial {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    Serial::from_jti(claims["jti"].as_str().unwrap()).unwrap()
}
