//! One attestation: evidence, perhaps a challenge, and at the end the node's SVID and the bundle.

use mintmark_proto::spire::server::agent::agent_client::AgentClient;
use mintmark_proto::spire::server::agent::{
    AgentX509svidParams, AttestAgentRequest, attest_agent_request, attest_agent_response,
};
use mintmark_proto::spire::server::bundle::GetBundleRequest;
use mintmark_proto::spire::server::bundle::bundle_client::BundleClient;
use mintmark_proto::spire::types::AttestationData;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use ring::digest::{SHA256, digest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{CALL, Join, JoinError, MAX_MESSAGE, Method, Node, x509pop};
use crate::keep::{NewKey, bundle_of};

/// A server that asks more often than this asks too much.
const MAX_CHALLENGES: usize = 4;

impl Join {
    /// Attests the node, and holds the SVID and bundle that it is given.
    pub(super) async fn attest(&self) -> Result<Node, JoinError> {
        let (kind, payload, token) = match &self.0.settings.method {
            Method::JoinToken(token) if token.is_empty() => return Err(JoinError::NoToken),
            Method::JoinToken(token) => (
                "join_token",
                token.expose().as_bytes().to_vec(),
                Some(token_digest(token.expose())),
            ),
            Method::X509pop(certificate) => ("x509pop", certificate.payload(), None),
            Method::K8sPsat(projected) => ("k8s_psat", projected.payload()?, None),
        };
        let channel = self.connect(None).await?;
        let key = NewKey::generate();
        let params = attest_agent_request::Params {
            data: Some(AttestationData {
                r#type: kind.into(),
                payload: payload.into(),
            }),
            params: Some(AgentX509svidParams {
                csr: request(&key)?.into(),
            }),
        };
        let exchange = self.exchange(channel.clone(), params);
        let result = self
            .0
            .clock
            .timeout(CALL, exchange)
            .await
            .map_err(|late| JoinError::Late(late.0))??;
        let svid = result
            .svid
            .ok_or_else(|| JoinError::Nonsense("an attestation without an SVID".into()))?;

        let mut bundles = BundleClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let bundle = self
            .0
            .clock
            .timeout(CALL, bundles.get_bundle(GetBundleRequest::default()))
            .await;
        let bundle = bundle.map_err(|late| JoinError::Late(late.0))??.into_inner();
        let bundle = bundle_of(&bundle).map_err(JoinError::Nonsense)?;
        if bundle.trust_domain != self.0.settings.trust_domain {
            return Err(JoinError::Nonsense(format!(
                "the bundle of trust domain {}",
                bundle.trust_domain
            )));
        }
        if bundle.x509.is_empty() {
            return Err(JoinError::Nonsense("a bundle without an X.509 authority".into()));
        }
        // Held together: an SVID whose server is not recognised is of no use.
        self.learn(&bundle);
        let node = self.take(svid, key, result.reattestable, token)?;
        tracing::info!(node = %node.id, method = kind, not_after = node.not_after, "node attested");
        Ok(node)
    }

    /// Whether the method can prove the node once more.
    pub(super) fn check_can_attest(&self, why: &str) -> Result<(), JoinError> {
        match &self.0.settings.method {
            Method::X509pop(_) | Method::K8sPsat(_) => Ok(()),
            Method::JoinToken(token) => {
                let used = self.state().own.as_ref().and_then(|own| own.token.clone());
                match used == Some(token_digest(token.expose())) || token.is_empty() {
                    true => Err(JoinError::TokenUsed { why: why.to_owned() }),
                    false => Ok(()),
                }
            }
        }
    }

    async fn exchange(
        &self,
        channel: Channel,
        params: attest_agent_request::Params,
    ) -> Result<attest_agent_response::Result, JoinError> {
        let (send, requests) = mpsc::channel(1);
        let step = |step| AttestAgentRequest { step: Some(step) };
        let ended = |_| JoinError::Nonsense("the attestation ended early".into());
        send.send(step(attest_agent_request::Step::Params(params)))
            .await
            .map_err(ended)?;
        let mut client = AgentClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let mut answers = client.attest_agent(ReceiverStream::new(requests)).await?.into_inner();
        for _ in 0..MAX_CHALLENGES {
            let answer = answers
                .message()
                .await?
                .ok_or_else(|| JoinError::Nonsense("the attestation ended early".into()))?;
            match answer.step {
                Some(attest_agent_response::Step::Result(result)) => return Ok(result),
                Some(attest_agent_response::Step::Challenge(challenge)) => {
                    let answer = self.answer(&challenge)?;
                    let answer = attest_agent_request::Step::ChallengeResponse(answer.into());
                    send.send(step(answer))
                        .await
                        .map_err(|_| JoinError::Nonsense("the attestation ended early".into()))?;
                }
                None => return Err(JoinError::Nonsense("an empty step of attestation".into())),
            }
        }
        Err(JoinError::Nonsense(format!("more than {MAX_CHALLENGES} challenges")))
    }

    fn answer(&self, challenge: &[u8]) -> Result<Vec<u8>, JoinError> {
        match &self.0.settings.method {
            Method::JoinToken(_) | Method::K8sPsat(_) => Err(JoinError::Nonsense("a challenge to a token".into())),
            Method::X509pop(certificate) => Ok(x509pop::answer(certificate, challenge)?),
        }
    }
}

/// A certificate request for this key; the server takes nothing else from it.
pub(super) fn request(key: &NewKey) -> Result<Vec<u8>, JoinError> {
    let pair = KeyPair::try_from(&key.pkcs8[..])?;
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(&pair)?.der().to_vec())
}

fn token_digest(token: &str) -> Vec<u8> {
    digest(&SHA256, token.as_bytes()).as_ref().to_vec()
}
