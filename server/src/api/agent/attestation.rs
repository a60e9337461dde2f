//! One attestation: the node's evidence, perhaps a challenge, and at the end its SVID.

use mintmark_proto::spire::server::agent::{
    AttestAgentRequest, AttestAgentResponse, attest_agent_request, attest_agent_response,
};
use mintmark_runtime::tls::ConnectInfo;
use tonic::{Code, Request, Status, Streaming};

use super::super::observe::Attestations;
use super::super::status::{self, invalid, malformed};
use super::super::svid::x509_message;
use super::super::{RECEIVE_TIMEOUT, Rooms};
use super::sign;
use crate::attest::{NodeEvidence, join_token, k8s_psat, x509pop};

/// The name of a method has no more bytes than this.
const MAX_METHOD: usize = 64;

/// An attestation under way.
pub(super) struct Attestation {
    rooms: Rooms,
    counts: Attestations,
    /// By which method, once that is known.
    method: &'static str,
    requests: Streaming<AttestAgentRequest>,
    remote: String,
    step: Step,
}

enum Step {
    /// The evidence is awaited.
    Begin,
    /// The answer to a challenge is awaited, and then this CSR is signed.
    Challenged {
        attempt: Box<x509pop::Attempt>,
        csr: Vec<u8>,
    },
    /// The SVID was given.
    Over,
}

impl Attestation {
    pub(super) fn new(rooms: Rooms, counts: Attestations, request: Request<Streaming<AttestAgentRequest>>) -> Self {
        let remote = request
            .extensions()
            .get::<ConnectInfo>()
            .and_then(|info| info.remote_addr);
        Self {
            rooms,
            counts,
            method: "other",
            remote: remote.map(|remote| remote.to_string()).unwrap_or_default(),
            requests: request.into_inner(),
            step: Step::Begin,
        }
    }

    /// The next message to the node; none after the SVID.
    pub(super) async fn next(&mut self) -> Result<Option<AttestAgentResponse>, Status> {
        let next = match std::mem::replace(&mut self.step, Step::Over) {
            Step::Begin => self.begin().await.map(Some),
            Step::Challenged { attempt, csr } => self.finish(*attempt, &csr).await.map(Some),
            Step::Over => Ok(None),
        };
        next.inspect_err(|status| {
            self.counts.count(self.method, "refused");
            tracing::info!(remote = self.remote, method = self.method, code = ?status.code(), why = status.message(), "attestation refused");
        })
    }

    async fn begin(&mut self) -> Result<AttestAgentResponse, Status> {
        let what = "malformed param";
        let Some(attest_agent_request::Step::Params(params)) = self.receive().await?.step else {
            return Err(malformed(what, "missing params"));
        };
        let data = params.data.ok_or_else(|| malformed(what, "missing attestation data"))?;
        let csr = params
            .params
            .ok_or_else(|| malformed(what, "missing X509-SVID parameters"))?
            .csr;
        if csr.is_empty() {
            return Err(malformed(what, "missing CSR"));
        }
        if data.r#type.is_empty() {
            return Err(malformed(what, "missing attestation data type"));
        }
        if data.payload.is_empty() {
            return Err(malformed(what, "missing attestation data payload"));
        }
        let Rooms {
            store,
            clock,
            trust_domain,
            ..
        } = &self.rooms;
        let methods = [join_token::METHOD, k8s_psat::METHOD, x509pop::METHOD];
        if let Some(method) = methods.into_iter().find(|method| *method == data.r#type) {
            self.method = method;
        }
        match &*data.r#type {
            join_token::METHOD => {
                let token = str::from_utf8(&data.payload)
                    .map_err(|_| invalid("failed to attest: the join token is not text"))?;
                let evidence = join_token::verify(store, clock, trust_domain, token).await;
                let evidence = evidence.map_err(|error| status::token("failed to attest", error))?;
                self.admit(evidence, &csr).await
            }
            x509pop::METHOD => {
                let authorities = self.rooms.x509pop.as_deref();
                let attempt =
                    x509pop::Attempt::begin(authorities, clock, trust_domain, &data.payload).map_err(status::pop)?;
                let challenge = attempt.challenge().into();
                self.step = Step::Challenged {
                    attempt: Box::new(attempt),
                    csr: csr.to_vec(),
                };
                Ok(AttestAgentResponse {
                    step: Some(attest_agent_response::Step::Challenge(challenge)),
                })
            }
            k8s_psat::METHOD => {
                let evidence = self.rooms.psat.verify(trust_domain, &data.payload).await;
                self.admit(evidence.map_err(status::psat)?, &csr).await
            }
            other => {
                let name: String = other.chars().take(MAX_METHOD).collect();
                let message = format!(
                    "error getting node attestor: could not find node attestor type \"{name}\"; this server has join_token, k8s_psat and x509pop"
                );
                Err(status::refused(Code::FailedPrecondition, "UNKNOWN_ATTESTOR", message))
            }
        }
    }

    async fn finish(&mut self, attempt: x509pop::Attempt, csr: &[u8]) -> Result<AttestAgentResponse, Status> {
        let Some(attest_agent_request::Step::ChallengeResponse(answer)) = self.receive().await?.step else {
            return Err(invalid("the challenge is not answered"));
        };
        let evidence = attempt.finish(&answer).map_err(status::pop)?;
        self.admit(evidence, csr).await
    }

    /// The SVID is signed first, then the node recorded with it; should the recording fail, the SVID never leaves this process.
    async fn admit(&self, evidence: NodeEvidence, csr: &[u8]) -> Result<AttestAgentResponse, Status> {
        let nodes = &self.rooms.nodes;
        let attested = nodes
            .admit(&evidence)
            .map_err(|error| status::node("failed to attest", error))?;
        let id = evidence.id().clone();
        let reattestable = evidence.can_reattest();
        let svid = sign(&self.rooms, &attested, &id, csr).await?;
        let recorded = nodes.attested(evidence.clone(), &svid.serial, svid.not_after).await;
        let earlier = recorded.map_err(|error| status::node("failed to create attested agent", error))?;
        let earlier = earlier.filter(|earlier| earlier.is_attested(self.rooms.clock.unix()));
        let result = earlier.as_ref().map_or("joined", |_| "rejoined");
        self.counts.count(self.method, result);
        if let Some(earlier) = earlier {
            self.rooms.psat.tell_rejoined(&evidence, &earlier);
        }
        tracing::info!(node = %id, remote = self.remote, result, serial = %svid.serial, not_after = svid.not_after, "node attested");
        let result = attest_agent_response::Result {
            svid: Some(x509_message(&svid)),
            reattestable,
        };
        Ok(AttestAgentResponse {
            step: Some(attest_agent_response::Step::Result(result)),
        })
    }

    async fn receive(&mut self) -> Result<AttestAgentRequest, Status> {
        let message = self.rooms.clock.timeout(RECEIVE_TIMEOUT, self.requests.message()).await;
        let message =
            message.map_err(|late| Status::deadline_exceeded(format!("nothing came from the agent: {late}")))??;
        message.ok_or_else(|| invalid("failed to receive request from stream: it ended"))
    }
}
