//! A server that does what the test says.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mintmark_identity::SpiffeId;
use mintmark_proto::attestor::attestor_server::{Attestor, AttestorServer};
use mintmark_proto::attestor::{Ack, FromNode, Hello, PodJudged, Sign, Signed, ToNode, Update, from_node, to_node};
use mintmark_proto::spire::server::agent::agent_server::{Agent, AgentServer};
use mintmark_proto::spire::server::agent::{
    AttestAgentRequest, AttestAgentResponse, RenewAgentRequest, RenewAgentResponse, attest_agent_request,
    attest_agent_response,
};
use mintmark_proto::spire::server::bundle::GetBundleRequest;
use mintmark_proto::spire::server::bundle::bundle_server::{Bundle, BundleServer};
use mintmark_proto::spire::types::permission_denied_details::Reason;
use mintmark_proto::spire::types::{self, PermissionDeniedDetails};
use mintmark_runtime::clock::Clock;
use mintmark_runtime::net::tcp_listener;
use mintmark_runtime::tls::{ALPN_H2, ClientAuth, ConnectInfo, TlsLimits, TrustAnchors, incoming, server_config};
use prost::{Message as _, Name as _};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};

use super::DEADLINE;
use crate::join::Refusal;
use crate::testing::Authority;

/// The server. A handle.
#[derive(Clone)]
pub(super) struct Fake {
    pub(super) addr: SocketAddr,
    pub(super) authority: Arc<Authority>,
    inner: Arc<Inner>,
}

struct Inner {
    tokens: Mutex<HashSet<String>>,
    node_ttl: AtomicI64,
    attestations: AtomicUsize,
    links: mpsc::UnboundedSender<FakeLink>,
}

/// The links that come.
pub(super) struct Arrived(mpsc::UnboundedReceiver<FakeLink>);

/// One link, from the server's side.
pub(super) struct FakeLink {
    pub(super) serial: Vec<u8>,
    pub(super) acknowledged: u64,
    inbound: Streaming<FromNode>,
    outbound: mpsc::Sender<Result<ToNode, Status>>,
}

impl Fake {
    pub(super) async fn start(authority: Authority) -> (Self, Arrived) {
        Self::start_as(authority, "/spire/server").await
    }

    /// A server that shows an SVID of this path.
    pub(super) async fn start_as(authority: Authority, path: &str) -> (Self, Arrived) {
        let clock = Clock::system();
        let listener = tcp_listener(([127, 0, 0, 1], 0).into()).unwrap();
        let (links, arrived) = mpsc::unbounded_channel();
        let fake = Self {
            addr: listener.local_addr().unwrap(),
            authority: Arc::new(authority),
            inner: Arc::new(Inner {
                tokens: Mutex::default(),
                node_ttl: AtomicI64::new(600),
                attestations: AtomicUsize::new(0),
                links,
            }),
        };
        let now = clock.unix();
        let credential = Arc::new(fake.authority.credential(path, now - 60, now + 3600));
        let mut anchors = TrustAnchors::default();
        anchors.insert(fake.authority.trust_domain.clone(), [&fake.authority.der()[..]]);
        let auth = ClientAuth::Optional(Arc::new(ArcSwap::from_pointee(anchors)));
        let config = server_config(credential, auth, &[ALPN_H2], &clock);
        let connections = incoming(listener, config, TlsLimits::default(), Default::default(), clock);
        let server = Server::builder()
            .add_service(AgentServer::new(fake.clone()))
            .add_service(BundleServer::new(fake.clone()))
            .add_service(AttestorServer::new(fake.clone()))
            .serve_with_incoming(connections);
        tokio::spawn(server);
        (fake, Arrived(arrived))
    }

    /// These tokens are good, once each.
    pub(super) fn tokens(&self, tokens: &[&str]) {
        self.inner
            .tokens
            .lock()
            .unwrap()
            .extend(tokens.iter().map(ToString::to_string));
    }

    pub(super) fn set_node_ttl(&self, seconds: i64) {
        self.inner.node_ttl.store(seconds, Ordering::Relaxed);
    }

    pub(super) fn attestations(&self) -> usize {
        self.inner.attestations.load(Ordering::Relaxed)
    }

    fn svid(&self, id: &str, csr: &[u8]) -> types::X509svid {
        let csr = mintmark_identity::Csr::parse(csr).unwrap();
        csr.verify_signature().unwrap();
        let now = Clock::system().unix();
        let not_after = now + self.inner.node_ttl.load(Ordering::Relaxed);
        let der = self.authority.svid(id, csr.public_key().spki_der(), now - 1, not_after);
        types::X509svid {
            cert_chain: vec![der],
            expires_at: not_after,
            ..types::X509svid::default()
        }
    }

    fn result(&self, id: &str, csr: &[u8], reattestable: bool) -> AttestAgentResponse {
        self.inner.attestations.fetch_add(1, Ordering::Relaxed);
        let result = attest_agent_response::Result {
            svid: Some(self.svid(id, csr)),
            reattestable,
        };
        AttestAgentResponse {
            step: Some(attest_agent_response::Step::Result(result)),
        }
    }

    async fn attest(
        self,
        mut requests: Streaming<AttestAgentRequest>,
        answers: mpsc::Sender<Result<AttestAgentResponse, Status>>,
    ) {
        let Some(attest_agent_request::Step::Params(params)) = requests.message().await.unwrap().unwrap().step else {
            panic!("no parameters")
        };
        let (data, csr) = (params.data.unwrap(), params.params.unwrap().csr);
        let answer = match &*data.r#type {
            "join_token" => {
                let token = String::from_utf8(data.payload.to_vec()).unwrap();
                match self.inner.tokens.lock().unwrap().remove(&token) {
                    true => Ok(self.result(
                        &format!("spiffe://example.org/spire/agent/join_token/{token}"),
                        &csr,
                        false,
                    )),
                    false => Err(Status::invalid_argument("no such token")),
                }
            }
            "k8s_psat" => {
                let shown: serde_json::Value = serde_json::from_slice(&data.payload).unwrap();
                let (cluster, token) = (shown["cluster"].as_str().unwrap(), shown["token"].as_str().unwrap());
                match self.inner.tokens.lock().unwrap().remove(token) {
                    true => Ok(self.result(
                        &format!("spiffe://example.org/spire/agent/k8s_psat/{cluster}/node"),
                        &csr,
                        true,
                    )),
                    false => Err(Status::permission_denied("that token was shown before")),
                }
            }
            _ => {
                let payload: serde_json::Value = serde_json::from_slice(&data.payload).unwrap();
                let der = BASE64.decode(payload["certificates"][0].as_str().unwrap()).unwrap();
                let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
                let is_rsa = matches!(
                    certificate.public_key().parsed().unwrap(),
                    x509_parser::public_key::PublicKey::RSA(_)
                );
                let kind = if is_rsa { "rsa_signature" } else { "ecdsa_signature" };
                let challenge = serde_json::json!({ kind: { "nonce": BASE64.encode([7; 32]) } }).to_string();
                let challenge = attest_agent_response::Step::Challenge(challenge.into());
                answers
                    .send(Ok(AttestAgentResponse { step: Some(challenge) }))
                    .await
                    .unwrap();
                let Some(attest_agent_request::Step::ChallengeResponse(answer)) =
                    requests.message().await.unwrap().unwrap().step
                else {
                    panic!("no answer")
                };
                let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
                check(&answer[kind], is_rsa, &certificate.public_key().subject_public_key.data);
                Ok(self.result("spiffe://example.org/spire/agent/x509pop/node", &csr, true))
            }
        };
        let _ = answers.send(answer).await;
    }
}

/// Is the challenge of 32 sevens answered by this key?
fn check(answer: &serde_json::Value, is_rsa: bool, key: &[u8]) {
    let part = |name: &str| BASE64.decode(answer[name].as_str().unwrap()).unwrap();
    let message = [&[7; 32][..], &part("nonce")].concat();
    if is_rsa {
        UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key)
            .verify(&message, &part("signature"))
            .unwrap();
        return;
    }
    let integer = |bytes: Vec<u8>| {
        let pad = if bytes[0] >= 0x80 { vec![0] } else { vec![] };
        let body = [pad, bytes].concat();
        [vec![2, u8::try_from(body.len()).unwrap()], body].concat()
    };
    let body = [integer(part("r")), integer(part("s"))].concat();
    let der = [vec![0x30, u8::try_from(body.len()).unwrap()], body].concat();
    let algorithm: &dyn VerificationAlgorithm = match key.len() {
        65 => &ECDSA_P256_SHA256_ASN1,
        _ => &ECDSA_P384_SHA384_ASN1,
    };
    UnparsedPublicKey::new(algorithm, key).verify(&message, &der).unwrap();
}

#[tonic::async_trait]
impl Agent for Fake {
    async fn attest_agent(
        &self,
        request: Request<Streaming<AttestAgentRequest>>,
    ) -> Result<Response<BoxStream<AttestAgentResponse>>, Status> {
        let (send, answers) = mpsc::channel(4);
        tokio::spawn(self.clone().attest(request.into_inner(), send));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn renew_agent(&self, request: Request<RenewAgentRequest>) -> Result<Response<RenewAgentResponse>, Status> {
        let id = caller(&request).0;
        let csr = request.into_inner().params.unwrap().csr;
        Ok(Response::new(RenewAgentResponse {
            svid: Some(self.svid(id.as_str(), &csr)),
        }))
    }
}

#[tonic::async_trait]
impl Bundle for Fake {
    async fn get_bundle(&self, _: Request<GetBundleRequest>) -> Result<Response<types::Bundle>, Status> {
        Ok(Response::new(Authority::bundle(1, &[&self.authority], &[])))
    }
}

#[tonic::async_trait]
impl Attestor for Fake {
    async fn link(&self, request: Request<Streaming<FromNode>>) -> Result<Response<BoxStream<ToNode>>, Status> {
        let serial = caller(&request).1;
        let (outbound, messages) = mpsc::channel(16);
        let link = FakeLink {
            serial,
            acknowledged: 0,
            inbound: request.into_inner(),
            outbound,
        };
        let _ = self.inner.links.send(link);
        Ok(Response::new(Box::pin(
            ReceiverStream::new(messages).map(|message| message),
        )))
    }
}

fn caller<T>(request: &Request<T>) -> (SpiffeId, Vec<u8>) {
    let info = request.extensions().get::<ConnectInfo>().unwrap();
    let peer = info.peer.clone().expect("a caller with an SVID");
    (peer.spiffe_id.clone(), peer.serial.to_vec())
}

impl Arrived {
    /// The next link that comes.
    pub(super) async fn link(&mut self) -> FakeLink {
        tokio::time::timeout(DEADLINE, self.0.recv())
            .await
            .expect("a link in time")
            .unwrap()
    }
}

impl FakeLink {
    /// The next message but acknowledgements, which are noted.
    pub(super) async fn next(&mut self) -> from_node::Message {
        loop {
            let message = tokio::time::timeout(DEADLINE, self.inbound.message())
                .await
                .expect("a message in time");
            match message.unwrap().unwrap().message.unwrap() {
                from_node::Message::Ack(Ack { sequence }) => self.acknowledged = sequence,
                other => return other,
            }
        }
    }

    /// Waits until this update is acknowledged.
    pub(super) async fn acknowledgement(&mut self, wanted: u64) {
        while self.acknowledged < wanted {
            let message = tokio::time::timeout(DEADLINE, self.inbound.message())
                .await
                .expect("a message in time");
            if let Some(from_node::Message::Ack(Ack { sequence })) = message.unwrap().unwrap().message {
                self.acknowledged = sequence;
            }
        }
    }

    pub(super) async fn hello(&mut self) -> Hello {
        match self.next().await {
            from_node::Message::Hello(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn sign(&mut self) -> Sign {
        loop {
            if let from_node::Message::Sign(sign) = self.next().await {
                return sign;
            }
        }
    }

    /// The next thing that is said of a pod.
    pub(super) async fn pod(&mut self) -> String {
        loop {
            match self.next().await {
                from_node::Message::PodUp(up) => {
                    return format!(
                        "up {} {}/{} {} {}",
                        up.pod_uid, up.namespace, up.name, up.service_account, up.token
                    );
                }
                from_node::Message::PodDown(down) => return format!("down {}", down.pod_uid),
                _ => {}
            }
        }
    }

    async fn say(&self, message: to_node::Message) {
        self.outbound.send(Ok(ToNode { message: Some(message) })).await.unwrap();
    }

    pub(super) async fn tell(&self, update: Update) {
        self.say(to_node::Message::Update(update)).await;
    }

    pub(super) async fn answer(&self, signed: Signed) {
        self.say(to_node::Message::Signed(signed)).await;
    }

    pub(super) async fn judge(&self, judged: PodJudged) {
        self.say(to_node::Message::PodJudged(judged)).await;
    }

    /// Ends the link so.
    pub(super) async fn end(self, status: Status) {
        self.outbound.send(Err(status)).await.unwrap();
    }
}

/// The status by which the server refuses a node.
pub(super) fn denied(refusal: Refusal) -> Status {
    let reason = match refusal {
        Refusal::Expired => Reason::AgentExpired,
        Refusal::NotAttested => Reason::AgentNotAttested,
        Refusal::NotActive => Reason::AgentNotActive,
        Refusal::MustReattest => Reason::AgentMustReattest,
        Refusal::Banned => Reason::AgentBanned,
    };
    let details = PermissionDeniedDetails { reason: reason.into() };
    let any = prost_types::Any {
        type_url: format!("type.googleapis.com/{}", PermissionDeniedDetails::full_name()),
        value: details.encode_to_vec(),
    };
    let whole = tonic_types::pb::Status {
        code: Code::PermissionDenied.into(),
        message: "no".into(),
        details: vec![any],
    };
    Status::with_details(Code::PermissionDenied, "no", whole.encode_to_vec().into())
}
