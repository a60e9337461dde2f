//! `spire.api.server.svid.v1.SVID`: credentials for workloads, by their nodes and by an administrator's hand.

use std::sync::Arc;

use mintmark_identity::{Csr, JwsAlg, PublicKey, Ttl};
use mintmark_proto::spire::server::svid::{
    BatchNewWitsvidRequest, BatchNewWitsvidResponse, BatchNewX509svidRequest, BatchNewX509svidResponse,
    MintJwtsvidRequest, MintJwtsvidResponse, MintWitsvidRequest, MintWitsvidResponse, MintX509svidRequest,
    MintX509svidResponse, NewJwtsvidRequest, NewJwtsvidResponse, NewWitsvidParams, batch_new_witsvid_response,
    batch_new_x509svid_response, svid_server,
};
use mintmark_proto::spire::types;
use tonic::{Extensions, Request, Response, Status};

use super::Rooms;
use super::caller::{Agent, Allowance, Caller, audit};
use super::convert::{id_message, workload_id};
use super::status::{self, invalid, malformed};
use super::vouched::{self, Vouched};
use crate::issuance::{JwtOrder, JwtSvid, Refusal, WitOrder, WitSvid, X509Order, X509Svid};
use crate::registry::Entry;

/// One call asks for no more credentials than this; SPIRE's agents ask for at most 500.
pub(super) const MAX_BATCH: usize = 1_000;
/// A CSR has no more bytes than this; one with the largest key that is taken has about 1,300.
pub(super) const MAX_CSR: usize = 16 << 10;
/// So many CSRs are verified, at 53 µs each, before others get a turn on this thread.
const TURN: usize = 16;

/// The service.
pub(super) struct SvidService {
    pub(super) rooms: Rooms,
}

#[tonic::async_trait]
impl svid_server::Svid for SvidService {
    async fn mint_x509svid(
        &self,
        request: Request<MintX509svidRequest>,
    ) -> Result<Response<MintX509svidResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let asked = Caller::admin(&extensions)?;
        let csr = parse_csr(&request.csr, "malformed CSR", "failed to verify CSR signature")?;
        match csr.uris() {
            [] => return Err(invalid("CSR URI SAN is required")),
            [_] => {}
            _ => return Err(invalid("only one URI SAN is expected")),
        }
        let id = csr
            .spiffe_id()
            .map_err(|error| malformed("CSR URI SAN is invalid", error))?;
        let id = id.as_ref().map(id_message);
        let id = workload_id("CSR URI SAN is invalid", id, &self.rooms.trust_domain)?;
        let mut order = X509Order::new(id.clone(), csr.public_key().clone());
        order.ttl = ttl(request.ttl)?;
        order.dns_names = csr.dns_names().into();
        let mut signed = self.rooms.issuer.x509(&asked, vec![order]).await.into_iter();
        let minted = answer(&mut signed, "failed to sign X509-SVID");
        let object = minted
            .as_ref()
            .map_or_else(|_| id.to_string(), |svid| format!("{id} serial {}", svid.serial));
        audit(&extensions, "mint x509", object, minted.as_ref().map(drop));
        Ok(Response::new(MintX509svidResponse {
            svid: Some(x509_message(&minted?)),
        }))
    }

    async fn mint_jwtsvid(
        &self,
        request: Request<MintJwtsvidRequest>,
    ) -> Result<Response<MintJwtsvidResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let asked = Caller::admin(&extensions)?;
        let id = workload_id("invalid SPIFFE ID", request.id, &self.rooms.trust_domain)?;
        let mut order = JwtOrder::new(id.clone(), audience(request.audience)?);
        order.ttl = ttl(request.ttl)?;
        order.algorithm = self.algorithm(&order.audience);
        let minted = self.rooms.issuer.jwt(&asked, order).await;
        let minted = minted.map_err(|refusal| status::refusal("failed to sign JWT-SVID", &refusal));
        let object = minted
            .as_ref()
            .map_or_else(|_| id.to_string(), |svid| format!("{id} jti {}", svid.jti.jti()));
        audit(&extensions, "mint jwt", object, minted.as_ref().map(drop));
        Ok(Response::new(MintJwtsvidResponse {
            svid: Some(jwt_message(minted?)),
        }))
    }

    async fn mint_witsvid(
        &self,
        request: Request<MintWitsvidRequest>,
    ) -> Result<Response<MintWitsvidResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let asked = Caller::admin(&extensions)?;
        let id = workload_id("invalid SPIFFE ID", request.id, &self.rooms.trust_domain)?;
        let public_key = wit_key(&request.public_key, &request.signing_algorithm)?;
        let mut order = WitOrder::new(id.clone(), public_key);
        order.ttl = ttl(request.ttl)?;
        let mut signed = self.rooms.issuer.wit(&asked, vec![order]).await.into_iter();
        let minted = answer(&mut signed, "failed to sign WIT-SVID");
        let object = minted
            .as_ref()
            .map_or_else(|_| id.to_string(), |svid| format!("{id} jti {}", svid.jti.jti()));
        audit(&extensions, "mint wit", object, minted.as_ref().map(drop));
        Ok(Response::new(MintWitsvidResponse {
            svid: Some(wit_message(minted?)),
        }))
    }

    async fn batch_new_x509svid(
        &self,
        request: Request<BatchNewX509svidRequest>,
    ) -> Result<Response<BatchNewX509svidResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let agent = Caller::agent(&extensions)?;
        let params = request.params;
        take(&extensions, params.len()).await?;
        let entries = self.entries(agent, params.iter().map(|param| &*param.entry_id));
        let mut orders = Vouched::new(&self.rooms, &agent.attested, params.len());
        let mut checked = Vec::with_capacity(params.len());
        for (at, (param, entry)) in params.iter().zip(entries).enumerate() {
            if at > 0 && at % TURN == 0 {
                tokio::task::yield_now().await;
            }
            let order = x509_order(&param.entry_id, &param.csr, entry);
            checked.push(order.and_then(|(entry, order)| orders.push(&entry, order)));
        }
        let issue = |asked, orders| {
            let issuer = self.rooms.issuer.clone();
            async move { issuer.x509(&asked, orders).await }
        };
        let mut signed = orders.issue(issue).await;
        let results = checked.into_iter().map(|checked| {
            let svid = checked.and_then(|whose| answer(signed.of(whose), "failed to sign X509-SVID"));
            match svid {
                Ok(svid) => batch_new_x509svid_response::Result {
                    status: Some(status::ok()),
                    svid: Some(x509_message(&svid)),
                },
                Err(why) => batch_new_x509svid_response::Result {
                    status: Some(status::item(&why)),
                    svid: None,
                },
            }
        });
        Ok(Response::new(BatchNewX509svidResponse {
            results: results.collect(),
        }))
    }

    async fn new_jwtsvid(&self, request: Request<NewJwtsvidRequest>) -> Result<Response<NewJwtsvidResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let agent = Caller::agent(&extensions)?;
        let entry = self
            .entries(agent, [&*request.entry_id])
            .pop()
            .flatten()
            .ok_or_else(unauthorized)?;
        let mut order = JwtOrder::new(entry.spiffe_id.clone(), audience(request.audience)?);
        order.ttl = entry.jwt_ttl;
        order.algorithm = self.algorithm(&order.audience);
        order.entry_id = Some(entry.id.clone());
        let voucher = vouched::voucher(&self.rooms, &agent.attested, &entry)?;
        let svid = self
            .rooms
            .issuer
            .jwt(voucher.as_ref().unwrap_or(&agent.attested), order)
            .await;
        let svid = svid.map_err(|refusal| status::refusal("failed to sign JWT-SVID", &refusal))?;
        Ok(Response::new(NewJwtsvidResponse {
            svid: Some(jwt_message(svid)),
        }))
    }

    async fn batch_new_witsvid(
        &self,
        request: Request<BatchNewWitsvidRequest>,
    ) -> Result<Response<BatchNewWitsvidResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let agent = Caller::agent(&extensions)?;
        let params = request.params;
        take(&extensions, params.len()).await?;
        let entries = self.entries(agent, params.iter().map(|param| &*param.entry_id));
        let mut orders = Vouched::new(&self.rooms, &agent.attested, params.len());
        let check = |(param, entry): (&NewWitsvidParams, Option<Arc<Entry>>)| {
            let order = wit_order(&param.entry_id, &param.public_key, &param.signing_algorithm, entry);
            order.and_then(|(entry, order)| orders.push(&entry, order))
        };
        let checked: Vec<_> = params.iter().zip(entries).map(check).collect();
        let issue = |asked, orders| {
            let issuer = self.rooms.issuer.clone();
            async move { issuer.wit(&asked, orders).await }
        };
        let mut signed = orders.issue(issue).await;
        let results = checked.into_iter().map(|checked| {
            let svid = checked.and_then(|whose| answer(signed.of(whose), "failed to sign WIT-SVID"));
            match svid {
                Ok(svid) => batch_new_witsvid_response::Result {
                    status: Some(status::ok()),
                    svid: Some(wit_message(svid)),
                },
                Err(why) => batch_new_witsvid_response::Result {
                    status: Some(status::item(&why)),
                    svid: None,
                },
            }
        });
        Ok(Response::new(BatchNewWitsvidResponse {
            results: results.collect(),
        }))
    }
}

impl SvidService {
    /// The algorithm that the audience insists on, if one does.
    fn algorithm(&self, audience: &[String]) -> Option<JwsAlg> {
        let wants = |wanted: &String| wanted == "*" || audience.contains(wanted);
        self.rooms.rs256_audiences.iter().any(wants).then_some(JwsAlg::Rs256)
    }

    /// The entries with these IDs, those that are the node's.
    fn entries<'a>(&self, agent: &Agent, ids: impl IntoIterator<Item = &'a str>) -> Vec<Option<Arc<Entry>>> {
        let record = &agent.record;
        self.rooms
            .registry
            .authorized_entries(&record.id, &record.alias_selectors(), ids)
    }
}

/// The size of a batch, and the caller's allowance for it.
async fn take(extensions: &Extensions, count: usize) -> Result<(), Status> {
    match count {
        0 => return Err(invalid("missing parameters")),
        1..=MAX_BATCH => {}
        _ => {
            return Err(invalid(format!(
                "{count} credentials in one call are more than {MAX_BATCH}: send several"
            )));
        }
    }
    match extensions.get::<Allowance>() {
        Some(allowance) => allowance.take_all(count).await,
        None => Ok(()),
    }
}

pub(super) fn unauthorized() -> Status {
    status::not_found("entry not found or not authorized")
}

fn x509_order(entry_id: &str, csr: &[u8], entry: Option<Arc<Entry>>) -> Result<(Arc<Entry>, X509Order), Status> {
    match (entry_id, csr) {
        ("", _) => return Err(invalid("missing entry ID")),
        (_, []) => return Err(invalid("missing CSR")),
        _ => {}
    }
    let entry = entry.ok_or_else(unauthorized)?;
    let csr = parse_csr(csr, "malformed CSR", "invalid CSR signature")?;
    let order = x509_order_of(&entry, csr.public_key().clone());
    Ok((entry, order))
}

/// What an entry says, for a key of its holder's.
pub(super) fn x509_order_of(entry: &Entry, key: PublicKey) -> X509Order {
    let mut order = X509Order::new(entry.spiffe_id.clone(), key);
    order.ttl = entry.x509_ttl;
    order.dns_names = Arc::clone(&entry.dns_names);
    order.entry_id = Some(Arc::clone(&entry.id));
    order
}

fn wit_order(
    entry_id: &str,
    key: &[u8],
    algorithm: &str,
    entry: Option<Arc<Entry>>,
) -> Result<(Arc<Entry>, WitOrder), Status> {
    if entry_id.is_empty() {
        return Err(invalid("missing entry ID"));
    }
    let entry = entry.ok_or_else(unauthorized)?;
    let mut order = WitOrder::new(entry.spiffe_id.clone(), wit_key(key, algorithm)?);
    // SPIRE has no lifetime of its own for WIT-SVIDs in an entry either.
    order.ttl = entry.x509_ttl;
    order.entry_id = Some(Arc::clone(&entry.id));
    Ok((entry, order))
}

/// A CSR whose signature is good. The size is looked at first.
pub(super) fn parse_csr(der: &[u8], what: &str, what_of_signature: &str) -> Result<Csr, Status> {
    match der.len() {
        0 => return Err(invalid("missing CSR")),
        1..=MAX_CSR => {}
        len => return Err(malformed(what, format!("{len} bytes are more than {MAX_CSR}"))),
    }
    let csr = Csr::parse(der).map_err(|error| malformed(what, error))?;
    csr.verify_signature()
        .map_err(|error| malformed(what_of_signature, error))?;
    Ok(csr)
}

/// The key of a WIT-SVID, with which its holder will sign by this algorithm.
fn wit_key(der: &[u8], algorithm: &str) -> Result<PublicKey, Status> {
    if der.is_empty() {
        return Err(invalid("missing public key"));
    }
    let key = PublicKey::from_spki_der(der).map_err(|error| malformed("malformed public key", error))?;
    let what = "invalid signing algorithm or key type";
    let algorithm = JwsAlg::parse(algorithm).map_err(|error| malformed(what, error))?;
    // The key's own algorithm is what the token will name.
    let own = JwsAlg::of(key.kind());
    match algorithm == own {
        true => Ok(key),
        false => Err(malformed(
            what,
            format!("a key of this type signs with {own}, not with {algorithm}"),
        )),
    }
}

fn audience(audience: Vec<String>) -> Result<Vec<String>, Status> {
    match audience.is_empty() {
        true => Err(invalid("at least one audience is required")),
        false => Ok(audience),
    }
}

/// A lifetime in seconds; 0 for the default.
fn ttl(seconds: i32) -> Result<Option<Ttl>, Status> {
    match u64::try_from(seconds) {
        Ok(0) => Ok(None),
        Ok(seconds) => Ttl::from_secs(seconds)
            .map(Some)
            .map_err(|error| malformed("invalid TTL", error)),
        Err(_) => Err(invalid(format!("invalid TTL: {seconds} seconds are less than none"))),
    }
}

/// The next answer of those for the orders that were good.
pub(super) fn answer<T>(signed: &mut impl Iterator<Item = Result<T, Refusal>>, what: &str) -> Result<T, Status> {
    match signed.next() {
        Some(Ok(svid)) => Ok(svid),
        Some(Err(refusal)) => Err(status::refusal(what, &refusal)),
        None => Err(status::internal(what, "there are fewer answers than orders")),
    }
}

pub(super) fn x509_message(svid: &X509Svid) -> types::X509svid {
    types::X509svid {
        cert_chain: svid.chain.clone(),
        id: Some(id_message(&svid.spiffe_id)),
        expires_at: svid.not_after,
        hint: String::new(),
    }
}

fn jwt_message(svid: JwtSvid) -> types::Jwtsvid {
    types::Jwtsvid {
        id: Some(id_message(&svid.spiffe_id)),
        token: svid.token,
        expires_at: svid.expires_at,
        issued_at: svid.issued_at,
        hint: String::new(),
    }
}

fn wit_message(svid: WitSvid) -> types::Witsvid {
    types::Witsvid {
        id: Some(id_message(&svid.spiffe_id)),
        token: svid.token,
        expires_at: svid.expires_at,
        issued_at: svid.issued_at,
        hint: String::new(),
    }
}
