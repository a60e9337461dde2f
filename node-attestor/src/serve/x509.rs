//! X.509: SVIDs and bundles.

use std::collections::BTreeMap;

use mintmark_proto::workload::{X509BundlesResponse, X509svid, X509svidResponse};
use tonic::Status;

use super::status;
use super::watch::{Answer, Made};
use crate::keep::{Kind, Seen, View};

/// Answers of FetchX509SVID.
pub(super) struct X509Svids;

/// Answers of FetchX509Bundles.
pub(super) struct X509Bundles;

impl Answer for X509Svids {
    type Message = X509svidResponse;
    const METHOD: &'static str = "FetchX509SVID";
    const KIND: Option<Kind> = Some(Kind::X509);

    fn answer(&mut self, view: &View) -> Result<Made<X509svidResponse>, Status> {
        let mut print = bundles_print(view);
        let there = view
            .identities
            .iter()
            .filter_map(|seen| Some([seen.identity.print(), seen.x509.as_ref()?.generation]));
        print.extend(there.flatten());
        let is_settled = |seen: &Seen| seen.x509.is_some() || seen.x509_problem.is_some();
        let is_whole = view.own.is_some() && view.identities.iter().all(is_settled);
        let is_pending = view
            .identities
            .iter()
            .all(|seen| seen.x509.is_none() && seen.x509_problem.is_none());
        let view = view.clone();
        Ok(Made {
            print,
            is_whole,
            is_pending,
            message: Box::new(move || svids(&view)),
        })
    }
}

fn svids(view: &View) -> Result<X509svidResponse, Status> {
    let own = view
        .own
        .as_ref()
        .ok_or_else(|| status::not_signed(Some("the trust bundle has not come yet")))?;
    let svids: Vec<_> = view
        .identities
        .iter()
        .filter_map(|seen| {
            let svid = seen.x509.as_ref()?;
            Some(X509svid {
                spiffe_id: seen.identity.spiffe_id.to_string(),
                x509_svid: svid.chain.clone(),
                x509_svid_key: svid.key.clone(),
                bundle: own.x509.clone(),
                hint: seen.hint.to_string(),
            })
        })
        .collect();
    if svids.is_empty() {
        let problem = view.identities.iter().find_map(|seen| seen.x509_problem.as_deref());
        return Err(status::not_signed(problem));
    }
    let federated = view
        .federated
        .iter()
        .map(|held| (held.bundle.trust_domain.id().to_string(), held.x509.clone()));
    Ok(X509svidResponse {
        svids,
        crl: Vec::new(),
        federated_bundles: federated.collect(),
    })
}

impl Answer for X509Bundles {
    type Message = X509BundlesResponse;
    const METHOD: &'static str = "FetchX509Bundles";
    const KIND: Option<Kind> = None;

    fn answer(&mut self, view: &View) -> Result<Made<X509BundlesResponse>, Status> {
        let view = view.clone();
        Ok(Made {
            print: bundles_print(&view),
            is_whole: view.own.is_some(),
            is_pending: false,
            message: Box::new(move || {
                let bundles = by_id(&view, |held| held.x509.clone())?;
                Ok(X509BundlesResponse {
                    crl: Vec::new(),
                    bundles,
                })
            }),
        })
    }
}

/// Which bundles there are, in which state.
pub(super) fn bundles_print(view: &View) -> Vec<u64> {
    view.bundles().map(|(_, held)| held.print()).collect()
}

/// The caller's bundles by the trust domain's ID, in one of their forms. Our own is always among them.
pub(super) fn by_id<F>(
    view: &View,
    form: impl Fn(&crate::keep::HeldBundle) -> F,
) -> Result<BTreeMap<String, F>, Status> {
    if view.own.is_none() {
        return Err(status::not_signed(Some("the trust bundle has not come yet")));
    }
    Ok(view
        .bundles()
        .map(|(trust_domain, held)| (trust_domain.id().to_string(), form(held)))
        .collect())
}
