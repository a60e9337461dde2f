//! One agent: joins with a token, as SPIRE's agents do, and speaks mTLS from then on.

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mintmark_proto::spire::{
    server::agent::{
        AgentX509svidParams, AttestAgentRequest, CreateJoinTokenRequest,
        agent_client::AgentClient,
        attest_agent_request::{self, Params},
        attest_agent_response,
    },
    types::{AttestationData, Spiffeid},
};
use rustls_pki_types::CertificateDer;
use tonic::transport::Channel;

use crate::{keys, target::Target};

/// Attestations at a time.
const JOINING: usize = 8;

/// An attested agent with a connection of its own.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) id: Spiffeid,
    pub(crate) channel: Channel,
}

/// Lets `count` agents join, some at a time, in order.
pub(crate) async fn join_all(target: &Target, count: u32) -> Result<Vec<Node>> {
    stream::iter(0..count)
        .map(|_| join(target))
        .buffered(JOINING)
        .try_collect()
        .await
}

/// Lets one agent join.
pub(crate) async fn join(target: &Target) -> Result<Node> {
    let token = AgentClient::new(target.admin.clone())
        .create_join_token(CreateJoinTokenRequest {
            ttl: 600,
            ..CreateJoinTokenRequest::default()
        })
        .await
        .context("create a join token")?
        .into_inner();
    let key = keys::generate()?;
    let request = AttestAgentRequest {
        step: Some(attest_agent_request::Step::Params(Params {
            data: Some(AttestationData {
                r#type: "join_token".into(),
                payload: token.value.into(),
            }),
            params: Some(AgentX509svidParams { csr: key.public.csr }),
        })),
    };
    let mut answers = AgentClient::new(target.connect(None).await?)
        .attest_agent(stream::iter([request]))
        .await
        .context("attest")?
        .into_inner();
    let answer = answers
        .message()
        .await
        .context("attest")?
        .context("no answer to an attestation")?;
    let Some(attest_agent_response::Step::Result(result)) = answer.step else {
        bail!("an attestation by join token was answered with a challenge");
    };
    let svid = result.svid.context("an attestation without an SVID")?;
    let id = svid.id.context("an SVID without a SPIFFE ID")?;
    let chain = svid
        .cert_chain
        .iter()
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect();
    let channel = target.connect(Some((chain, key.private))).await?;
    Ok(Node { id, channel })
}
