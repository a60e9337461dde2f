//! `mintmark fetch jwt`.

use clap::Args;
use mintmark_identity::SpiffeId;
use mintmark_proto::workload::JwtsvidRequest;

use super::with_hint;
use crate::client::{workload, workload_request};
use crate::context::Context;
use crate::failure::Failure;

#[derive(Debug, Args)]
pub struct Jwt {
    /// To whom it may be shown; several times for several
    #[arg(long, value_name = "AUDIENCE", required = true)]
    audience: Vec<String>,
    /// Only for this one of our identities
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,
}

impl Jwt {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut client = workload(context).await?;
        let request = JwtsvidRequest {
            audience: self.audience,
            spiffe_id: self.spiffe_id.map_or_else(String::new, |id| id.to_string()),
        };
        let call = client.fetch_jwtsvid(workload_request(request));
        let answer = context.ask("fetch a JWT-SVID", call).await.map_err(with_hint)?;
        if context.out.is_terminal() && !context.out.is_json() {
            for svid in &answer.svids {
                context.out.aside(format_args!("# {} {}", svid.spiffe_id, svid.hint));
            }
        }
        context.out.message(&answer, |answer| {
            answer.svids.iter().map(|svid| format!("{}\n", svid.svid)).collect()
        })
    }
}
