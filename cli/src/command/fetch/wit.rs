//! `mintmark fetch wit`.

use std::path::PathBuf;

use clap::Args;
use mintmark_identity::SpiffeId;
use mintmark_proto::workload::WitsvidRequest;
use serde_json::json;

use super::{first, with_hint};
use crate::client::{workload, workload_request};
use crate::command::files::{output_dir, write_private};
use crate::context::Context;
use crate::failure::Failure;

#[derive(Debug, Args)]
pub struct Wit {
    /// Only for this one of our identities
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,
    /// Write tokens and keys into this directory
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

impl Wit {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut client = workload(context).await?;
        let request = WitsvidRequest {
            spiffe_id: self.spiffe_id.map_or_else(String::new, |id| id.to_string()),
        };
        let call = client.fetch_witsvid(workload_request(request));
        let (answer, _) = first(context, "fetch WIT-SVIDs", call).await.map_err(with_hint)?;
        let Some(dir) = &self.write else {
            let tokens: String = answer.svids.iter().map(|svid| format!("{}\n", svid.wit_svid)).collect();
            return context.out.message(&answer, |_| tokens);
        };
        output_dir(dir)?;
        let mut files = Vec::new();
        for (nth, svid) in answer.svids.iter().enumerate() {
            let (token, key) = (dir.join(format!("wit.{nth}.jwt")), dir.join(format!("wit.{nth}.key")));
            write_private(&key, svid.wit_svid_key.as_bytes())?;
            write_private(&token, svid.wit_svid.as_bytes())?;
            files.push(json!({ "spiffe_id": svid.spiffe_id, "hint": svid.hint, "wit": token, "key": key }));
        }
        context.out.value(&json!({ "svids": files }), |_| {
            let line = |(nth, svid): (usize, &mintmark_proto::workload::Witsvid)| {
                format!(
                    "{}\n  written to {}: wit.{nth}.jwt, wit.{nth}.key\n",
                    svid.spiffe_id,
                    dir.display()
                )
            };
            answer.svids.iter().enumerate().map(line).collect()
        })
    }
}
