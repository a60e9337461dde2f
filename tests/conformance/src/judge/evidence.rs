//! Shortcuts into [`Seen`] that the checks share: parsed chains, read tokens, key sets, and why there are none.

use std::collections::BTreeSet;

use mintmark_proto::workload as pb;
use rustls_pki_types::CertificateDer;
use serde_json::Value;

use super::NotSeen;
use crate::{
    der,
    jws::{Jws, key_set},
    observe::{Answer, BundleEndpoint, Opening, Page, Seen, Workload},
    report::shown,
    spiffe_id,
};

/// One X.509-SVID whose chain could be parsed.
pub(super) struct Chain<'a> {
    pub(super) svid: &'a pb::X509svid,
    /// Leaf first.
    pub(super) certificates: Vec<CertificateDer<'static>>,
}

impl Chain<'_> {
    /// What findings call it.
    pub(super) fn name(&self) -> String {
        shown(&self.svid.spiffe_id)
    }
}

/// A token as the Workload API gave it.
pub(super) struct Token {
    /// The `spiffe_id` field beside it.
    pub(super) spiffe_id: String,
    pub(super) jws: Jws,
}

impl Token {
    /// What findings call it.
    pub(super) fn name(&self) -> String {
        shown(&self.spiffe_id)
    }
}

impl Seen {
    /// What the Workload API said.
    pub(super) fn workload(&self) -> Result<&Workload, NotSeen> {
        self.workload.as_ref().ok_or_else(|| NotSeen::because("no --socket"))
    }

    /// What the bundle endpoint said.
    pub(super) fn endpoint(&self) -> Result<&BundleEndpoint, NotSeen> {
        self.bundle
            .as_ref()
            .ok_or_else(|| NotSeen::because("no --bundle-endpoint"))
    }

    /// What the bundle endpoint answered, whatever the status.
    pub(super) fn bundle_answer(&self) -> Result<&Page, NotSeen> {
        match &self.endpoint()?.first {
            Ok(page) => Ok(page),
            Err(why) => Err(NotSeen::because(format!("the bundle endpoint gave no answer: {why}"))),
        }
    }

    /// The bundle endpoint's document.
    pub(super) fn bundle_page(&self) -> Result<&Page, NotSeen> {
        match self.bundle_answer()? {
            page if page.status == 200 => Ok(page),
            page => Err(NotSeen::because(format!(
                "the bundle endpoint gave no document: HTTP status {}",
                page.status
            ))),
        }
    }

    /// The bundle endpoint's document as JSON.
    pub(super) fn bundle_json(&self) -> Result<Value, NotSeen> {
        json(&self.bundle_page()?.body)
            .ok_or_else(|| NotSeen::because("the bundle endpoint's document is no JSON object"))
    }

    /// The keys in the bundle endpoint's document.
    pub(super) fn bundle_keys(&self) -> Result<Vec<Value>, NotSeen> {
        match self.bundle_json()?.get("keys") {
            Some(Value::Array(keys)) => Ok(keys.clone()),
            _ => Err(NotSeen::because("the bundle endpoint's document has no keys array")),
        }
    }

    /// The caller's own trust domain.
    pub(super) fn trust_domain(&self) -> Result<String, NotSeen> {
        let workload = self.workload()?;
        let x509 = workload
            .x509
            .first
            .iter()
            .flat_map(|r| &r.svids)
            .map(|svid| &svid.spiffe_id);
        let jwt = workload.jwt.iter().flat_map(|r| &r.svids).map(|svid| &svid.spiffe_id);
        x509.chain(jwt)
            .find_map(|id| spiffe_id::trust_domain(id))
            .map(str::to_owned)
            .ok_or_else(|| NotSeen::because("no SVID that names a trust domain"))
    }

    /// The X.509-SVIDs of the first response.
    pub(super) fn x509_svids(&self) -> Result<&[pb::X509svid], NotSeen> {
        let response = got("FetchX509SVID", &self.workload()?.x509.first)?;
        some(&response.svids, "FetchX509SVID gave no SVID")
    }

    /// Those of them whose chains parse.
    pub(super) fn chains(&self) -> Result<Vec<Chain<'_>>, NotSeen> {
        let parsed = |svid| {
            der::split(&svid_bytes(svid))
                .ok()
                .map(|certificates| Chain { svid, certificates })
        };
        let chains: Vec<_> = self.x509_svids()?.iter().filter_map(parsed).collect();
        if chains.is_empty() {
            Err(NotSeen::because("no X.509-SVID is concatenated DER"))
        } else {
            Ok(chains)
        }
    }

    /// The JWT-SVIDs.
    pub(super) fn jwt_svids(&self) -> Result<&[pb::Jwtsvid], NotSeen> {
        let response = got("FetchJWTSVID", &self.workload()?.jwt)?;
        some(&response.svids, "FetchJWTSVID gave no SVID")
    }

    /// Those of them that can be read.
    pub(super) fn tokens(&self) -> Result<Vec<Token>, NotSeen> {
        let svids = self.jwt_svids()?;
        let read = |svid: &pb::Jwtsvid| {
            Jws::read(&svid.svid).ok().map(|jws| Token {
                spiffe_id: svid.spiffe_id.clone(),
                jws,
            })
        };
        let tokens: Vec<_> = svids.iter().filter_map(read).collect();
        if tokens.is_empty() {
            Err(NotSeen::because("no JWT-SVID is a compact JWS"))
        } else {
            Ok(tokens)
        }
    }

    /// The WIT-SVIDs.
    pub(super) fn wit_svids(&self) -> Result<&[pb::Witsvid], NotSeen> {
        let response = got("FetchWITSVID", &self.workload()?.wit.first)?;
        some(&response.svids, "FetchWITSVID gave no SVID")
    }

    /// Those of them that can be read.
    pub(super) fn wits(&self) -> Result<Vec<(&pb::Witsvid, Jws)>, NotSeen> {
        let svids = self.wit_svids()?;
        let tokens: Vec<_> = svids
            .iter()
            .filter_map(|svid| Jws::read(&svid.wit_svid).ok().map(|jws| (svid, jws)))
            .collect();
        if tokens.is_empty() {
            Err(NotSeen::because("no WIT-SVID is a compact JWS"))
        } else {
            Ok(tokens)
        }
    }

    /// The keys of the JWT bundles, by trust domain ID; sets that cannot be read are left out.
    pub(super) fn jwt_bundles(&self) -> Result<Vec<(String, Vec<Value>)>, NotSeen> {
        let response = got("FetchJWTBundles", &self.workload()?.jwt_bundles.first)?;
        let sets = response.bundles.iter();
        some_owned(
            sets.filter_map(|(id, set)| Some((id.clone(), key_set(set).ok()?)))
                .collect(),
            "FetchJWTBundles gave no readable bundle",
        )
    }

    /// The keys of the WIT bundles, by trust domain ID; sets that cannot be read are left out.
    pub(super) fn wit_bundles(&self) -> Result<Vec<(String, Vec<Value>)>, NotSeen> {
        let response = got("FetchWITBundles", &self.workload()?.wit_bundles.first)?;
        let sets = response.bundles.iter();
        some_owned(
            sets.filter_map(|(id, set)| Some((id.clone(), key_set(set.as_bytes()).ok()?)))
                .collect(),
            "FetchWITBundles gave no readable bundle",
        )
    }

    /// The certificates that sign: those of the bundles, and intermediates of the chains, each once.
    pub(super) fn signing_certificates(&self) -> Result<Vec<CertificateDer<'static>>, NotSeen> {
        let mut unique = BTreeSet::new();
        let mut all = Vec::new();
        let intermediates = self
            .chains()
            .unwrap_or_default()
            .into_iter()
            .flat_map(|c| c.certificates.into_iter().skip(1));
        for certificate in intermediates.chain(
            self.x509_svids()?
                .iter()
                .flat_map(|s| der::split(&s.bundle).unwrap_or_default()),
        ) {
            if unique.insert(certificate.as_ref().to_vec()) {
                all.push(certificate);
            }
        }
        some_owned(all, "no signing certificate is concatenated DER")
    }
}

fn svid_bytes(svid: &pb::X509svid) -> Vec<u8> {
    svid.x509_svid.to_vec()
}

/// The answer of an RPC, or that it was refused.
pub(super) fn got<'a, T>(rpc: &str, answer: &'a Answer<T>) -> Result<&'a T, NotSeen> {
    answer
        .as_ref()
        .map_err(|refusal| NotSeen::because(format!("{rpc}: {refusal}")))
}

fn some<'a, T>(list: &'a [T], otherwise: &str) -> Result<&'a [T], NotSeen> {
    if list.is_empty() {
        Err(NotSeen::because(otherwise))
    } else {
        Ok(list)
    }
}

fn some_owned<T>(list: Vec<T>, otherwise: &str) -> Result<Vec<T>, NotSeen> {
    if list.is_empty() {
        Err(NotSeen::because(otherwise))
    } else {
        Ok(list)
    }
}

/// A JSON object.
pub(super) fn json(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok().filter(Value::is_object)
}

/// The streams by name: how each opened, and how it ended.
pub(super) fn streams(workload: &Workload) -> Vec<(&'static str, Result<(), String>, Option<&str>)> {
    fn of<'a, T>(name: &'static str, o: &'a Opening<T>) -> (&'static str, Result<(), String>, Option<&'a str>) {
        (
            name,
            o.first.as_ref().map(drop).map_err(ToString::to_string),
            o.end.as_deref(),
        )
    }
    vec![
        of("FetchX509SVID", &workload.x509),
        of("FetchX509Bundles", &workload.x509_bundles),
        of("FetchJWTBundles", &workload.jwt_bundles),
        of("FetchWITSVID", &workload.wit),
        of("FetchWITBundles", &workload.wit_bundles),
    ]
}
