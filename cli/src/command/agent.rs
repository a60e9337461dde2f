//! `mintmark agent`: the nodes.

use clap::{Args, Subcommand};
use mintmark_identity::{Selector, SpiffeId, Ttl};
use mintmark_proto::spire::server::agent::agent_client::AgentClient;
use mintmark_proto::spire::server::agent::{
    BanAgentRequest, CountAgentsRequest, DeleteAgentRequest, GetAgentRequest, ListAgentsRequest, ListAgentsResponse,
    count_agents_request, list_agents_request,
};
use mintmark_proto::spire::types;
use serde::Serialize;
use serde_json::json;
use tonic::transport::Channel;

use super::wire::{Match, id_message, id_text, selector_text};
use crate::client::admin;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Fields, Table, ago_or_in, count, stamp_and_distance};

const PAGE: i32 = 500;

const LIST: &str = "\
Examples:
  mintmark agent list
  mintmark agent list --attestation-type join_token --banned false
  mintmark agent list --output json | jq -r '.agents[].id.path'";
const SHOW: &str = "\
Example:
  mintmark agent show --spiffe-id spiffe://example.org/spire/agent/join_token/ab12";
const COUNT: &str = "\
Example:
  mintmark agent count --banned true";
const BAN: &str = "\
Example:
  mintmark agent ban --spiffe-id spiffe://example.org/spire/agent/join_token/ab12

Its link is cut at once, and it gets nothing any more. `agent evict` lets it join anew.";
const EVICT: &str = "\
Example:
  mintmark agent evict --spiffe-id spiffe://example.org/spire/agent/join_token/ab12

Its link is cut at once; it can join again with fresh evidence.";
const PURGE: &str = "\
Examples:
  mintmark agent purge --dry-run
  mintmark agent purge --expired-for 7d

Nodes that cannot attest again, such as those of join tokens, are kept unless named with `agent evict`.";

/// Nodes: attestors and agents that have joined
#[derive(Debug, Subcommand)]
pub enum Agent {
    /// List the nodes
    #[command(after_help = LIST)]
    List(Filter),
    /// Show one node
    #[command(after_help = SHOW)]
    Show(Which),
    /// Count the nodes
    #[command(after_help = COUNT)]
    Count(Filter),
    /// Refuse a node everything, from now on
    #[command(after_help = BAN)]
    Ban(Which),
    /// Forget a node: it has to join anew
    #[command(after_help = EVICT)]
    Evict(Which),
    /// Forget nodes whose SVID has ended long ago
    #[command(after_help = PURGE)]
    Purge(Purge),
}

#[derive(Debug, Args)]
pub struct Which {
    /// The node's SPIFFE ID
    #[arg(long, value_name = "ID")]
    spiffe_id: SpiffeId,
}

#[derive(Debug, Args)]
pub struct Filter {
    /// Only nodes with this selector; several times for several
    #[arg(long = "selector", value_name = "KIND:VALUE")]
    selectors: Vec<Selector>,
    /// How --selector is compared with a node's selectors
    #[arg(long, value_enum, default_value_t = Match::Superset, value_name = "HOW")]
    match_selectors: Match,
    /// Only nodes that joined this way, as join_token or x509pop
    #[arg(long, value_name = "TYPE")]
    attestation_type: Option<String>,
    /// Only banned nodes, or only others
    #[arg(long, value_name = "true|false")]
    banned: Option<bool>,
    /// Only nodes that can attest again, or only others
    #[arg(long, value_name = "true|false")]
    can_reattest: Option<bool>,
}

#[derive(Debug, Args)]
pub struct Purge {
    /// How long ago its SVID must have ended
    #[arg(long, default_value = "30d", value_name = "TIME")]
    expired_for: Ttl,
    /// Only tell which ones it would be
    #[arg(long)]
    dry_run: bool,
}

impl Filter {
    fn list(&self) -> list_agents_request::Filter {
        list_agents_request::Filter {
            by_attestation_type: self.attestation_type.clone().unwrap_or_default(),
            by_selector_match: self.match_selectors.selectors(&self.selectors),
            by_banned: self.banned,
            by_can_reattest: self.can_reattest,
            by_expires_before: String::new(),
        }
    }

    fn count(&self) -> count_agents_request::Filter {
        let filter = self.list();
        count_agents_request::Filter {
            by_attestation_type: filter.by_attestation_type,
            by_selector_match: filter.by_selector_match,
            by_banned: filter.by_banned,
            by_can_reattest: filter.by_can_reattest,
            by_expires_before: filter.by_expires_before,
        }
    }
}

impl Agent {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut client = admin!(AgentClient, context);
        match self {
            Self::List(filter) => {
                let agents = list(context, &mut client, filter.list()).await?;
                let now = context.clock.unix();
                context.out.message(&agents, |agents| table(now, &agents.agents))
            }
            Self::Show(which) => {
                let request = GetAgentRequest {
                    id: Some(id_message(&which.spiffe_id)),
                    output_mask: None,
                };
                let action = format!("show node {}", which.spiffe_id);
                let agent = context.ask(&action, client.get_agent(request)).await?;
                let now = context.clock.unix();
                context.out.message(&agent, |agent| fields(now, agent))
            }
            Self::Count(filter) => {
                let request = CountAgentsRequest {
                    filter: Some(filter.count()),
                };
                let counted = context.ask("count the nodes", client.count_agents(request)).await?;
                context.out.message(&counted, |counted| {
                    count(usize::try_from(counted.count).unwrap_or_default(), "node", "nodes")
                })
            }
            Self::Ban(which) => {
                let request = BanAgentRequest {
                    id: Some(id_message(&which.spiffe_id)),
                };
                let action = format!("ban node {}", which.spiffe_id);
                context.ask(&action, client.ban_agent(request)).await?;
                done(context, "banned", &which.spiffe_id)
            }
            Self::Evict(which) => {
                let action = format!("evict node {}", which.spiffe_id);
                evict(context, &mut client, &action, id_message(&which.spiffe_id)).await?;
                done(context, "evicted", &which.spiffe_id)
            }
            Self::Purge(purge) => purge.run(context, &mut client).await,
        }
    }
}

/// As JSON what the API answers: nothing.
fn done(context: &Context, what: &str, id: &SpiffeId) -> Result<(), Failure> {
    context.out.value(&json!({}), |_| format!("{what} {id}"))
}

async fn evict(
    context: &Context,
    client: &mut AgentClient<Channel>,
    action: &str,
    id: types::Spiffeid,
) -> Result<(), Failure> {
    let request = DeleteAgentRequest { id: Some(id) };
    context.ask(action, client.delete_agent(request)).await.map(|_| ())
}

async fn list(
    context: &Context,
    client: &mut AgentClient<Channel>,
    filter: list_agents_request::Filter,
) -> Result<ListAgentsResponse, Failure> {
    let mut all = ListAgentsResponse::default();
    let mut page_token = String::new();
    loop {
        let request = ListAgentsRequest {
            filter: Some(filter.clone()),
            output_mask: None,
            page_size: PAGE,
            page_token,
        };
        let page = context.ask("list the nodes", client.list_agents(request)).await?;
        all.agents.extend(page.agents);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        page_token = page.next_page_token;
    }
}

#[derive(Serialize)]
struct Purged {
    expired_agents: Vec<PurgedAgent>,
}

#[derive(Serialize)]
struct PurgedAgent {
    agent_id: String,
    deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Purge {
    async fn run(self, context: &Context, client: &mut AgentClient<Channel>) -> Result<(), Failure> {
        let filter = list_agents_request::Filter {
            by_can_reattest: Some(true),
            ..Default::default()
        };
        let before = context.clock.unix() - self.expired_for.as_secs_i64();
        let mut purged = Purged {
            expired_agents: Vec::new(),
        };
        for agent in list(context, client, filter).await?.agents {
            if agent.x509svid_expires_at >= before {
                continue;
            }
            let agent_id = id_text(agent.id.as_ref());
            let result = match agent.id {
                Some(id) if !self.dry_run => evict(context, client, "evict it", id).await,
                _ => Ok(()),
            };
            purged.expired_agents.push(PurgedAgent {
                agent_id,
                deleted: result.is_ok() && !self.dry_run,
                error: result.err().map(|error| error.to_string()),
            });
        }
        let failed = purged
            .expired_agents
            .iter()
            .filter(|agent| agent.error.is_some())
            .count();
        context.out.value(&purged, |purged| {
            let mut table = Table::new(&["NODE", "PURGED"]);
            for agent in &purged.expired_agents {
                let done = if agent.deleted { "yes" } else { "no" };
                table.row([
                    agent.agent_id.clone(),
                    agent.error.clone().unwrap_or_else(|| done.to_owned()),
                ]);
            }
            if purged.expired_agents.is_empty() {
                "no node to purge".to_owned()
            } else {
                table.to_string()
            }
        })?;
        match failed {
            0 => Ok(()),
            failed => Err(Failure::Refused(format!(
                "{} could not be purged",
                count(failed, "node", "nodes")
            ))),
        }
    }
}

fn table(now: i64, agents: &[types::Agent]) -> String {
    if agents.is_empty() {
        return "no nodes; `mintmark token create` makes a token with which one can join".to_owned();
    }
    let mut table = Table::new(&["SPIFFE ID", "JOINED BY", "SVID ENDS", "BANNED", "VERSION"]);
    for agent in agents {
        table.row([
            id_text(agent.id.as_ref()),
            agent.attestation_type.clone(),
            ago_or_in(now, agent.x509svid_expires_at),
            if agent.banned {
                "yes".to_owned()
            } else {
                "no".to_owned()
            },
            agent.agent_version.clone(),
        ]);
    }
    table.to_string()
}

fn fields(now: i64, agent: &types::Agent) -> String {
    let mut fields = Fields::default();
    fields
        .add("spiffe id", id_text(agent.id.as_ref()))
        .add("joined by", &agent.attestation_type)
        .some("serial", &agent.x509svid_serial_number)
        .add("svid ends", stamp_and_distance(now, agent.x509svid_expires_at))
        .add("banned", if agent.banned { "yes" } else { "no" })
        .add("can attest again", if agent.can_reattest { "yes" } else { "no" })
        .some("version", &agent.agent_version);
    for selector in &agent.selectors {
        fields.add("selector", selector_text(selector));
    }
    fields.to_string()
}
