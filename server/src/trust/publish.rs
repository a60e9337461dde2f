//! The trust bundle for Kubernetes: `roll` writes it into every cluster, where attestors and others find it without a call to this server.

use mintmark_identity::Bundle;
use pem::{EncodeConfig, LineEnding, Pem};

use crate::authority::Authorities;
use crate::roll::{BundleText, Roll};

/// Gives `roll` the bundle, now and whenever it changes; ends with the authorities.
pub async fn run(authorities: Authorities, roll: Roll) {
    let mut bundles = authorities.watch_bundle();
    loop {
        let bundle = bundles.borrow_and_update().clone();
        match bundle.to_json() {
            Ok(json) => roll.publish(BundleText {
                pem: to_pem(&bundle),
                json,
            }),
            Err(error) => tracing::error!(%error, "the bundle cannot be written as a document, and is not published"),
        }
        if bundles.changed().await.is_err() {
            return;
        }
    }
}

fn to_pem(bundle: &Bundle) -> String {
    let blocks = bundle
        .x509
        .iter()
        .map(|authority| Pem::new("CERTIFICATE", &*authority.der));
    let blocks: Vec<_> = blocks.collect();
    pem::encode_many_config(&blocks, EncodeConfig::new().set_line_ending(LineEnding::LF))
}
