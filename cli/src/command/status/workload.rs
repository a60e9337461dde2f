//! The Workload API's part: which identities this process has there.

use mintmark_attestor::serve::LINK;
use mintmark_proto::workload::{X509svidRequest, X509svidResponse};
use mintmark_runtime::clock::TimedOut;
use serde::Serialize;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::client::{status_text, workload, workload_channel, workload_request};
use crate::context::Context;
use crate::failure::{Failure, refused};
use crate::output::certificates::{Summary, split};
use crate::output::{Table, ago_or_in};

/// How the Workload API is to this process. Times are Unix seconds.
#[derive(Serialize)]
pub struct WorkloadStatus {
    address: String,
    health: String,
    /// Whether the attestor has a link to the server: `up` or `down`; none where the other end is no attestor of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'static str>,
    identities: Vec<Identity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

#[derive(Serialize)]
struct Identity {
    spiffe_id: String,
    hint: String,
    serial: String,
    not_after: i64,
}

pub async fn ask(context: &Context) -> Result<WorkloadStatus, Failure> {
    let health = HealthClient::new(workload_channel(context).await?);
    let mut status = WorkloadStatus {
        address: context.globals.workload_socket().to_string(),
        health: whole(context, health.clone()).await,
        link: link(context, health).await,
        identities: Vec::new(),
        refused: None,
    };
    let mut client = workload(context).await?;
    let fetch = async {
        let mut stream = client
            .fetch_x509svid(workload_request(X509svidRequest {}))
            .await?
            .into_inner();
        stream.message().await
    };
    match context.clock.timeout(context.limit(), fetch).await {
        Ok(Ok(answer)) => status.identities = identities(&answer.unwrap_or_default())?,
        // To have none is an answer.
        Ok(Err(refusal)) if refusal.code() == Code::PermissionDenied => status.refused = Some(status_text(&refusal)),
        Ok(Err(refusal)) => {
            return Err(Failure::Refused(format!(
                "cannot fetch X.509-SVIDs: {}",
                status_text(&refusal)
            )));
        }
        Err(_) => return Err(context.late("fetch X.509-SVIDs")),
    }
    Ok(status)
}

/// What the standard health service says of the whole.
async fn whole(context: &Context, client: HealthClient<Channel>) -> String {
    match check(context, client, "").await {
        Ok(Ok(ServingStatus::Serving)) => "serving".to_owned(),
        Ok(Ok(ServingStatus::NotServing)) => "not serving".to_owned(),
        Ok(Ok(ServingStatus::Unknown | ServingStatus::ServiceUnknown)) => "unknown".to_owned(),
        Ok(Err(status)) if status.code() == Code::Unimplemented => "unknown: it has no health service".to_owned(),
        Ok(Err(status)) => format!("unknown: {}", status_text(&status)),
        Err(late) => format!("unknown: {late}"),
    }
}

/// What it says of the link, which only an attestor of ours knows.
async fn link(context: &Context, client: HealthClient<Channel>) -> Option<&'static str> {
    match check(context, client, LINK).await {
        Ok(Ok(ServingStatus::Serving)) => Some("up"),
        Ok(Ok(ServingStatus::NotServing)) => Some("down"),
        _ => None,
    }
}

async fn check(
    context: &Context,
    mut client: HealthClient<Channel>,
    service: &str,
) -> Result<Result<ServingStatus, Status>, TimedOut> {
    let request = workload_request(HealthCheckRequest {
        service: service.to_owned(),
    });
    let answer = context.clock.timeout(context.limit(), client.check(request)).await?;
    Ok(answer.map(|answer| answer.into_inner().status()))
}

fn identities(answer: &X509svidResponse) -> Result<Vec<Identity>, Failure> {
    let identity = |svid: &mintmark_proto::workload::X509svid| {
        let chain = split(&svid.x509_svid)?;
        let leaf = chain.first().ok_or("an SVID has no certificate")?;
        let summary = Summary::of_svid(leaf)?;
        Ok::<_, String>(Identity {
            spiffe_id: svid.spiffe_id.clone(),
            hint: svid.hint.clone(),
            serial: summary.serial,
            not_after: summary.not_after,
        })
    };
    answer
        .svids
        .iter()
        .map(identity)
        .collect::<Result<_, _>>()
        .map_err(refused)
}

impl WorkloadStatus {
    pub fn text(&self, now: i64) -> String {
        let uid = nix::unistd::getuid();
        let mut text = format!("Workload API at {}\n  health  {}\n", self.address, self.health);
        match self.link {
            Some("down") => {
                text += "  link    down: the attestor cannot reach the server, and serves what it holds until that ends; its log and /ready say why\n"
            }
            Some(link) => text += &format!("  link    {link}\n"),
            None => {}
        }
        text.push('\n');
        if let Some(refused) = &self.refused {
            text += &format!("  no identity for this process (uid {uid}): {refused}\n");
            return text;
        }
        let mut table = Table::new(&["  IDENTITY", "ENDS", "SERIAL", "HINT"]);
        for identity in &self.identities {
            table.row([
                format!("  {}", identity.spiffe_id),
                ago_or_in(now, identity.not_after),
                identity.serial.clone(),
                identity.hint.clone(),
            ]);
        }
        text += &table.to_string();
        text
    }
}
