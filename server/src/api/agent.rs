//! `spire.api.server.agent.v1.Agent`: how nodes come in, and how they are kept out.

mod attestation;
mod filter;

use futures::stream;
use mintmark_identity::{SpiffeId, Ttl};
use mintmark_proto::spire::server::agent::{
    AttestAgentRequest, AttestAgentResponse, BanAgentRequest, CountAgentsRequest, CountAgentsResponse,
    CreateJoinTokenRequest, DeleteAgentRequest, GetAgentRequest, ListAgentsRequest, ListAgentsResponse,
    PostStatusRequest, PostStatusResponse, RenewAgentRequest, RenewAgentResponse, agent_server,
};
use mintmark_proto::spire::types::{self, permission_denied_details::Reason};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use self::attestation::Attestation;
use self::filter::Filter;
use super::Rooms;
use super::caller::{Caller, audit};
use super::convert::{agent_id, id_message, page_size, selector_message, workload_id};
use super::observe::Attestations;
use super::status::{self, invalid, malformed};
use super::svid::{answer, parse_csr, x509_message};
use crate::attest::{Attested, NodeRecord, join_token};
use crate::issuance::{X509Order, X509Svid};
use crate::registry::{Entry, EntryError, Match};

/// Without pages, no more nodes than this are listed.
const MAX_WHOLE: usize = 50_000;
/// A version that an agent tells has at most so many bytes, as with SPIRE.
const MAX_VERSION: usize = 255;

/// The service.
pub(super) struct AgentService {
    pub(super) rooms: Rooms,
    pub(super) attestations: Attestations,
}

#[tonic::async_trait]
impl agent_server::Agent for AgentService {
    async fn count_agents(
        &self,
        request: Request<CountAgentsRequest>,
    ) -> Result<Response<CountAgentsResponse>, Status> {
        let filter = Filter::parse(request.into_inner().filter.map(Into::into).unwrap_or_default())?;
        let count = self.rooms.nodes.count(|node| filter.admits(node));
        Ok(Response::new(CountAgentsResponse {
            count: count.try_into().unwrap_or(i32::MAX),
        }))
    }

    async fn list_agents(&self, request: Request<ListAgentsRequest>) -> Result<Response<ListAgentsResponse>, Status> {
        let request = request.into_inner();
        let filter = Filter::parse(request.filter.map(Into::into).unwrap_or_default())?;
        let size = page_size(request.page_size)?;
        let after = Some(&*request.page_token).filter(|token| size.is_some() && !token.is_empty());
        let after = after
            .map(SpiffeId::parse)
            .transpose()
            .map_err(|error| malformed("malformed page token", error))?;
        let limit = size.unwrap_or(MAX_WHOLE);
        let mut nodes = self
            .rooms
            .nodes
            .list(after.as_ref(), limit + 1, |node| filter.admits(node));
        let has_more = nodes.len() > limit;
        if has_more && size.is_none() {
            let message = format!("there are more than {MAX_WHOLE} agents: ask for them in pages (page_size)");
            return Err(status::refused(
                tonic::Code::ResourceExhausted,
                "ASK_FOR_PAGES",
                message,
            ));
        }
        nodes.truncate(limit);
        let next = nodes.last().filter(|_| has_more).map(|node| node.id.to_string());
        let mask = request.output_mask;
        Ok(Response::new(ListAgentsResponse {
            agents: nodes.iter().map(|node| agent_message(node, mask.as_ref())).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn get_agent(&self, request: Request<GetAgentRequest>) -> Result<Response<types::Agent>, Status> {
        let request = request.into_inner();
        let id = agent_id(request.id, &self.rooms.trust_domain)?;
        let node = self
            .rooms
            .nodes
            .get(&id)
            .ok_or_else(|| status::not_found("agent not found"))?;
        Ok(Response::new(agent_message(&node, request.output_mask.as_ref())))
    }

    async fn delete_agent(&self, request: Request<DeleteAgentRequest>) -> Result<Response<()>, Status> {
        let (_, extensions, request) = request.into_parts();
        let id = agent_id(request.id, &self.rooms.trust_domain)?;
        let deleted = self
            .rooms
            .nodes
            .delete(&id)
            .await
            .map_err(|error| status::node("failed to remove agent", error));
        audit(&extensions, "delete agent", &id, deleted.as_ref().map(drop));
        deleted?;
        self.delete_alias(&id).await?;
        Ok(Response::new(()))
    }

    async fn ban_agent(&self, request: Request<BanAgentRequest>) -> Result<Response<()>, Status> {
        let (_, extensions, request) = request.into_parts();
        let id = agent_id(request.id, &self.rooms.trust_domain)?;
        let banned = self
            .rooms
            .nodes
            .ban(&id)
            .await
            .map_err(|error| status::node("failed to ban agent", error));
        audit(&extensions, "ban agent", &id, banned.as_ref().map(drop));
        Ok(Response::new(banned?))
    }

    async fn attest_agent(
        &self,
        request: Request<Streaming<AttestAgentRequest>>,
    ) -> Result<Response<BoxStream<AttestAgentResponse>>, Status> {
        let attestation = Attestation::new(self.rooms.clone(), self.attestations.clone(), request);
        Ok(Response::new(Box::pin(stream::try_unfold(
            attestation,
            |mut attestation| async {
                let next = attestation.next().await?;
                Ok(next.map(|response| (response, attestation)))
            },
        ))))
    }

    async fn renew_agent(&self, request: Request<RenewAgentRequest>) -> Result<Response<RenewAgentResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let agent = Caller::agent(&extensions)?;
        if agent.record.can_reattest {
            return Err(status::agent_denied(
                Reason::AgentMustReattest,
                "agent must reattest instead of renew",
            ));
        }
        let params = request.params.ok_or_else(|| invalid("params cannot be nil"))?;
        let id = &agent.record.id;
        let svid = sign(&self.rooms, &agent.attested, id, &params.csr).await?;
        let with = &agent.record.serial;
        let noted = self.rooms.nodes.renewed(id, with, &svid.serial, svid.not_after).await;
        noted.map_err(|error| status::node("failed to update agent", error))?;
        tracing::info!(node = %id, serial = %svid.serial, not_after = svid.not_after, "node renewed its SVID");
        Ok(Response::new(RenewAgentResponse {
            svid: Some(x509_message(&svid)),
        }))
    }

    async fn post_status(&self, request: Request<PostStatusRequest>) -> Result<Response<PostStatusResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let agent = Caller::agent(&extensions)?;
        let version = request.agent_version;
        if version.len() > MAX_VERSION {
            return Err(invalid(format!(
                "agent version is too long (max {MAX_VERSION} characters)"
            )));
        }
        if !version.is_empty() {
            let noted = self.rooms.nodes.version(&agent.record.id, &version).await;
            noted.map_err(|error| status::node("failed to update agent", error))?;
        }
        Ok(Response::new(PostStatusResponse {}))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        let (_, extensions, request) = request.into_parts();
        let created = self.create_token(request).await;
        // The token itself is a secret; the node's ID that would name it is too, as long as it has not joined.
        let object = created
            .as_ref()
            .map_or_else(|_| String::new(), |(_, expires_at)| format!("good until {expires_at}"));
        audit(&extensions, "create join token", object, created.as_ref().map(drop));
        let (value, expires_at) = created?;
        Ok(Response::new(types::JoinToken { value, expires_at }))
    }
}

impl AgentService {
    async fn create_token(&self, request: CreateJoinTokenRequest) -> Result<(String, i64), Status> {
        let Rooms {
            store,
            clock,
            trust_domain,
            ..
        } = &self.rooms;
        let what = "failed to create token";
        let ttl = u64::try_from(request.ttl).ok().filter(|ttl| *ttl > 0);
        let ttl = ttl.ok_or_else(|| invalid("ttl is required, you must provide one"))?;
        let ttl = Ttl::from_secs(ttl).map_err(|error| malformed(what, error))?;
        let alias = request
            .agent_id
            .map(|id| workload_id("invalid agent ID", Some(id), trust_domain))
            .transpose()?;
        if let Err(error) = join_token::prune(store, clock).await {
            tracing::warn!(%error, "join tokens whose time is over could not be removed");
        }
        let chosen = Some(request.token).filter(|token| !token.is_empty());
        let created = join_token::create(store, clock, trust_domain, chosen, Some(ttl)).await;
        let (token, expires_at) = created.map_err(|error| status::token(what, error))?;
        if let Some(alias) = alias {
            let node = join_token::node_id(trust_domain, &token).map_err(|error| status::token(what, error))?;
            self.create_alias(&node, &alias).await?;
        }
        Ok((token, expires_at))
    }

    /// An entry by which the node that will join is also `alias`, as SPIRE makes one.
    async fn create_alias(&self, node: &SpiffeId, alias: &SpiffeId) -> Result<(), Status> {
        let what = "failed to create join token registration entry";
        let entry = types::Entry {
            spiffe_id: Some(id_message(alias)),
            parent_id: Some(id_message(node)),
            selectors: vec![own_selector(node)],
            ..types::Entry::default()
        };
        let entry = Entry::from_message(entry, &self.rooms.trust_domain);
        let created = self
            .rooms
            .registry
            .create(vec![entry])
            .await
            .map_err(|error| status::entry(what, error))?;
        match created.into_iter().next() {
            Some(Err(error)) if !matches!(error, EntryError::Similar(_)) => Err(status::entry(what, error)),
            _ => Ok(()),
        }
    }

    /// The entry that came with the node's join token goes with the node.
    async fn delete_alias(&self, node: &SpiffeId) -> Result<(), Status> {
        if !node.path().starts_with("/spire/agent/join_token/") {
            return Ok(());
        }
        let what = "failed to delete the entry of the agent's join token";
        let own = own_selector(node);
        let selectors = mintmark_identity::Selector::new(&own.r#type, &own.value)
            .into_iter()
            .collect();
        let filter = crate::registry::Filter {
            parent_id: Some(node.clone()),
            selectors: Some((selectors, Match::Exact)),
            ..crate::registry::Filter::default()
        };
        let (entries, _) = self.rooms.registry.list(&filter, None, crate::registry::MAX_BATCH);
        let ids: Vec<_> = entries.iter().map(|entry| entry.id.to_string()).collect();
        if !ids.is_empty() {
            self.rooms
                .registry
                .delete(&ids)
                .await
                .map_err(|error| status::entry(what, error))?;
        }
        Ok(())
    }
}

/// The selector by which a node is told from all others.
fn own_selector(node: &SpiffeId) -> types::Selector {
    types::Selector {
        r#type: "spiffe_id".into(),
        value: node.to_string(),
    }
}

/// An SVID for a node itself, for the key of a CSR.
async fn sign(rooms: &Rooms, attested: &Attested, id: &SpiffeId, csr: &[u8]) -> Result<X509Svid, Status> {
    let csr = parse_csr(csr, "failed to parse CSR", "failed to parse CSR")?;
    let mut order = X509Order::new(id.clone(), csr.public_key().clone());
    order.ttl = Some(rooms.agent_ttl);
    let mut signed = rooms.issuer.x509(attested, vec![order]).await.into_iter();
    answer(&mut signed, "failed to sign X509 SVID")
}

fn agent_message(node: &NodeRecord, mask: Option<&types::AgentMask>) -> types::Agent {
    let everything = types::AgentMask {
        attestation_type: true,
        x509svid_serial_number: true,
        x509svid_expires_at: true,
        selectors: true,
        banned: true,
        can_reattest: true,
        agent_version: true,
    };
    let mask = mask.unwrap_or(&everything);
    let mut agent = types::Agent {
        id: Some(id_message(&node.id)),
        ..types::Agent::default()
    };
    if mask.attestation_type {
        agent.attestation_type.clone_from(&node.method);
    }
    if mask.x509svid_serial_number {
        agent.x509svid_serial_number.clone_from(&node.serial);
    }
    if mask.x509svid_expires_at {
        agent.x509svid_expires_at = node.not_after;
    }
    if mask.selectors {
        agent.selectors = node.selectors().iter().map(selector_message).collect();
    }
    if mask.agent_version {
        agent.agent_version.clone_from(&node.version);
    }
    agent.banned = mask.banned && node.banned;
    agent.can_reattest = mask.can_reattest && node.can_reattest;
    agent
}
