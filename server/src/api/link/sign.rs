//! Signs a message of public keys.

use std::sync::Arc;

use mintmark_identity::PublicKey;
use mintmark_proto::attestor::{KeyBinding, Sign, SignResult, Signed};
use tonic::{Code, Status};

use super::super::caller::Allowance;
use super::super::limits::TooFast;
use super::super::methods::Limit;
use super::super::svid::{answer, unauthorized, x509_order_of};
use super::super::vouched::Vouched;
use super::super::{Rooms, status};
use super::session::Node;
use crate::issuance::{X509Order, X509Svid};
use crate::registry::Entry;

/// One message asks for no more keys than this; the wire promises as many.
pub(super) const MAX_KEYS: usize = 1_000;

/// Signs the keys that are the node's to have signed; one answer for each, in their order.
pub(super) async fn sign(rooms: Rooms, node: Arc<Node>, request: Sign) -> Signed {
    let Sign { request_id, keys } = request;
    if let Err(over) = take(node.allowance.as_ref(), keys.len()).await {
        return Signed {
            request_id,
            results: keys.into_iter().map(|key| too_fast(key, over)).collect(),
        };
    }
    let ids = keys.iter().map(|key| &*key.entry_id);
    let entries = rooms.registry.authorized_entries(&node.id, &node.selectors, ids);
    let mut orders = Vouched::new(&rooms, &node.attested, keys.len());
    let checked: Vec<_> = keys
        .iter()
        .zip(entries)
        .map(|(key, entry)| {
            let entry = entry.ok_or_else(unauthorized)?;
            orders.push(&entry, order(key, &entry)?)
        })
        .collect();
    let issue = |asked, orders| {
        let issuer = rooms.issuer.clone();
        async move { issuer.x509(&asked, orders).await }
    };
    let mut signed = orders.issue(issue).await;
    let results = keys.into_iter().zip(checked).map(|(key, checked)| {
        let svid = checked.and_then(|whose| answer(signed.of(whose), "failed to sign X509-SVID"));
        match svid {
            Ok(svid) => result(key.entry_id, svid),
            Err(status) => refused(key.entry_id, &status),
        }
    });
    Signed {
        request_id,
        results: results.collect(),
    }
}

async fn take(allowance: Option<&Allowance>, count: usize) -> Result<(), TooFast> {
    match allowance {
        Some(allowance) => allowance.limits.take(Limit::Sign, &allowance.key, count).await,
        None => Ok(()),
    }
}

fn order(key: &KeyBinding, entry: &Entry) -> Result<X509Order, Status> {
    let public =
        PublicKey::from_spki_der(&key.public_key).map_err(|error| status::malformed("malformed public key", error))?;
    Ok(x509_order_of(entry, public))
}

fn result(entry_id: String, svid: X509Svid) -> SignResult {
    SignResult {
        entry_id,
        cert_chain: svid.chain,
        expires_at: svid.not_after,
        ..SignResult::default()
    }
}

fn refused(entry_id: String, status: &Status) -> SignResult {
    let code = u32::try_from(i32::from(status.code())).unwrap_or_default();
    SignResult {
        entry_id,
        code,
        message: status.message().to_owned(),
        ..SignResult::default()
    }
}

fn too_fast(key: KeyBinding, over: TooFast) -> SignResult {
    let message = format!(
        "too many keys for now: ask again in {} s",
        over.retry_after.as_secs() + 1
    );
    refused(key.entry_id, &Status::new(Code::ResourceExhausted, message))
}
