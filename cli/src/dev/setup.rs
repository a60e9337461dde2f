//! What an administrator would do first: a token for the node, an entry for the user; and what a workload would: fetch its SVID.

use std::collections::BTreeSet;
use std::time::Duration;

use mintmark_identity::{SpiffeId, TrustDomain};
use mintmark_proto::spire::server::agent::agent_client::AgentClient;
use mintmark_proto::spire::server::agent::{CreateJoinTokenRequest, DeleteAgentRequest, ListAgentsRequest};
use mintmark_proto::spire::server::entry::entry_client::EntryClient;
use mintmark_proto::spire::server::entry::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, ListEntriesRequest, list_entries_request,
};
use mintmark_proto::spire::types;
use mintmark_proto::workload::{X509svid, X509svidRequest};
use nix::unistd::{User, getuid};
use tonic::Code;

use crate::client::{admin, result_text, workload, workload_request};
use crate::command::{first_message, id_message, id_text};
use crate::context::Context;
use crate::failure::{Failure, refused};

/// The token is used within moments.
const TOKEN_TTL: i32 = 600;
/// How long the node may take to join.
const JOIN: Duration = Duration::from_secs(60);
/// After this the user is told what is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was set up.
pub struct Setup {
    /// With which the node joins, if it has not before.
    pub token: String,
    /// What every node of this directory is called, whatever token it joined with; the parent of the user's entry.
    pub node_name: SpiffeId,
    /// The user's identity.
    pub user_id: SpiffeId,
    /// The selector by which the user is known.
    pub selector: String,
}

impl Setup {
    /// Before the attestor starts, so that it finds everything there.
    pub async fn before_join(context: &Context, trust_domain: &TrustDomain) -> Result<Self, Failure> {
        let node_name = SpiffeId::new(trust_domain, "/node/dev").map_err(refused)?;
        let user_id = SpiffeId::new(trust_domain, &format!("/user/{}", user_name())).map_err(refused)?;
        let request = CreateJoinTokenRequest {
            ttl: TOKEN_TTL,
            token: String::new(),
            agent_id: Some(id_message(&node_name)),
        };
        let mut agents = admin!(AgentClient, context);
        let token = context
            .ask("create a join token", agents.create_join_token(request))
            .await?;
        let setup = Self {
            token: token.value,
            node_name,
            user_id,
            selector: format!("unix:uid:{}", getuid()),
        };
        setup.create_entry(context).await?;
        Ok(setup)
    }

    async fn create_entry(&self, context: &Context) -> Result<(), Failure> {
        let entry = types::Entry {
            spiffe_id: Some(id_message(&self.user_id)),
            parent_id: Some(id_message(&self.node_name)),
            selectors: vec![types::Selector {
                r#type: "unix".to_owned(),
                value: format!("uid:{}", getuid()),
            }],
            ..types::Entry::default()
        };
        let mut entries = admin!(EntryClient, context);
        let request = BatchCreateEntryRequest {
            entries: vec![entry],
            output_mask: None,
        };
        let created = context
            .ask("create an entry for you", entries.batch_create_entry(request))
            .await?;
        let status = created
            .results
            .into_iter()
            .next()
            .and_then(|result| result.status)
            .unwrap_or_default();
        match Code::from_i32(status.code) {
            // It is there since an earlier start.
            Code::Ok | Code::AlreadyExists => Ok(()),
            _ => Err(Failure::Refused(format!(
                "cannot create an entry for {}: {}",
                self.user_id,
                result_text(status.code, &status.message)
            ))),
        }
    }

    /// The first X.509-SVID, through the socket as any workload gets it.
    pub async fn first_svid(
        &self,
        context: &Context,
        attestor: &mintmark_attestor::Running,
    ) -> Result<(SpiffeId, X509svid), Failure> {
        if context.clock.timeout(PATIENCE, attestor.in_step()).await.is_err() {
            let link = attestor.status().link;
            context
                .out
                .aside(format_args!("Waiting for the attestor to join: {link}"));
        }
        if context.clock.timeout(JOIN, attestor.in_step()).await.is_err() {
            let link = attestor.status().link;
            return Err(Failure::Refused(format!(
                "the attestor did not join within {JOIN:?}: {link}"
            )));
        }
        let node = attestor
            .status()
            .node
            .ok_or_else(|| refused("the attestor has joined as no node"))?;
        self.forget_former_nodes(context, &node).await?;
        let mut client = workload(context).await?;
        let call = client.fetch_x509svid(workload_request(X509svidRequest {}));
        let (answer, _) = first_message(context, "fetch your first X.509-SVID", call).await?;
        let svid = answer
            .svids
            .into_iter()
            .find(|svid| svid.spiffe_id == self.user_id.as_str());
        let svid =
            svid.ok_or_else(|| Failure::Refused(format!("the Workload API gives no X.509-SVID of {}", self.user_id)))?;
        Ok((node, svid))
    }

    /// Nodes of earlier starts whose SVID ended before the next start, and tokens that were not needed: their names go, so that they do not pile up. That of
    /// this start's token stays: a node that is evicted while it runs joins anew with it.
    async fn forget_former_nodes(&self, context: &Context, node: &SpiffeId) -> Result<(), Failure> {
        let mut entries = admin!(EntryClient, context);
        let filter = list_entries_request::Filter {
            by_spiffe_id: Some(id_message(&self.node_name)),
            ..list_entries_request::Filter::default()
        };
        let request = ListEntriesRequest {
            filter: Some(filter),
            output_mask: None,
            page_size: 0,
            page_token: String::new(),
        };
        let named = context
            .ask("list the names of nodes", entries.list_entries(request))
            .await?
            .entries;
        let mut agents = admin!(AgentClient, context);
        let request = ListAgentsRequest::default();
        let joined = context.ask("list the nodes", agents.list_agents(request)).await?.agents;
        let joined: BTreeSet<_> = joined.iter().map(|agent| id_text(agent.id.as_ref())).collect();
        let mut former = Vec::new();
        for entry in named {
            let parent = id_text(entry.parent_id.as_ref());
            let token = parent.split_once("/spire/agent/join_token/").map(|(_, token)| token);
            if parent == node.as_str() || token.is_none_or(|token| token == self.token) {
                continue;
            }
            if joined.contains(&parent) {
                let request = DeleteAgentRequest { id: entry.parent_id };
                context
                    .ask("forget a former node", agents.delete_agent(request))
                    .await?;
            }
            former.push(entry.id);
        }
        if !former.is_empty() {
            let request = BatchDeleteEntryRequest { ids: former };
            context
                .ask("delete the names of former nodes", entries.batch_delete_entry(request))
                .await?;
        }
        Ok(())
    }
}

/// The calling user's name, where it can be part of a SPIFFE ID; else its number.
fn user_name() -> String {
    let uid = getuid();
    let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
    let legal = |name: &String| {
        let chars = name
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'));
        chars && !name.is_empty() && name != "." && name != ".."
    };
    name.filter(legal).unwrap_or_else(|| uid.to_string())
}
