//! `mintmark token`: join tokens.

use clap::{Args, Subcommand};
use mintmark_identity::{SpiffeId, Ttl};
use mintmark_proto::spire::server::agent::CreateJoinTokenRequest;
use mintmark_proto::spire::server::agent::agent_client::AgentClient;

use super::wire::id_message;
use crate::client::admin;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::ago_or_in;

const CREATE: &str = "\
Examples:
  mintmark token create
  mintmark token create --ttl 1h --spiffe-id spiffe://example.org/rack/7

The token goes into the attestor's configuration (`[join] token`) and works once. The node that joins with it is
spiffe://<trust domain>/spire/agent/join_token/<token>; with --spiffe-id it has that name too, which entries can have as their parent.";

/// Join tokens, with which nodes join
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token that one node can join with, once
    #[command(after_help = CREATE)]
    Create(Create),
}

#[derive(Debug, Args)]
pub struct Create {
    /// How long it can be used
    #[arg(long, default_value = "10m", value_name = "TIME")]
    ttl: Ttl,
    /// A second name for the node that joins with it
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,
    /// The token itself, instead of a random one, 16 characters or more; whoever can guess it can join
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
}

impl Token {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let Self::Create(create) = self;
        let request = CreateJoinTokenRequest {
            ttl: create.ttl.as_secs_i32(),
            token: create.token.unwrap_or_default(),
            agent_id: create.spiffe_id.as_ref().map(id_message),
        };
        let mut client = admin!(AgentClient, context);
        let token = context
            .ask("create a join token", client.create_join_token(request))
            .await?;
        if context.out.is_terminal() && !context.out.is_json() {
            let end = ago_or_in(context.clock.unix(), token.expires_at);
            context
                .out
                .aside(format_args!("It works once; what is not used ends {end}."));
        }
        context.out.message(&token, |token| token.value.clone())
    }
}
