//! How do I prove which node I am?
//!
//! In: the configured method and what the server is trusted by. Out: the node's own SVID and key, held in `data_dir` so that a restart needs no new
//! proof ([`Join::ensure`], [`Join::renew`]); TLS connections to the server with them ([`Join::dial`]). `link` calls it.
//!
//! The first contact is verified against the configured trust bundle, or, when told so, against nothing (`insecure_bootstrap`); every later one against the bundle that the server
//! keeps up to date, which is held in `data_dir`, too. The server must always be `spiffe://<trust domain>/spire/server`.

mod attest;
mod bootstrap;
mod files;
mod psat;
mod refusal;
mod x509pop;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mintmark_identity::svid::x509::{Leaf, X509SvidError};
use mintmark_identity::{Bundle, SpiffeId, TrustDomain};
use mintmark_proto::spire::server::agent::agent_client::AgentClient;
use mintmark_proto::spire::server::agent::{AgentX509svidParams, RenewAgentRequest};
use mintmark_proto::spire::types;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::crypto::SecretString;
use mintmark_runtime::fs::FsError;
use mintmark_runtime::tls::{
    ALPN_H2, AcceptAny, Connector, Credential, Expect, SharedAnchors, SpiffeServerVerifier, TlsError, TrustAnchors,
    client_config,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::transport::{Channel, Endpoint};

use crate::keep::{NewKey, Sealer, signer};
use files::Files;

pub use bootstrap::{BootstrapError, Trust};
pub use psat::{Projected, PsatError, TOKEN_PATHS};
pub use refusal::Refusal;
pub use x509pop::{Certificate, PopError};

/// A connection that says nothing is asked after this time whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// It is given up when it does not answer that for so long.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call about the node itself may take.
const CALL: Duration = Duration::from_secs(30);
/// The largest message that is taken from the server.
pub const MAX_MESSAGE: usize = 16 << 20;

/// How the node proves what it is.
pub enum Method {
    /// By a token that is good once.
    JoinToken(SecretString),
    /// By a certificate and the possession of its key.
    X509pop(Certificate),
    /// By the service account token of the attestor's own pod.
    K8sPsat(Projected),
}

/// What there is to join.
pub struct Settings {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The server, `host:port`.
    pub server: String,
    /// How the first contact is verified.
    pub trust: Trust,
    /// How the node proves what it is.
    pub method: Method,
    /// Where the node's SVID, key and bundle are held.
    pub data_dir: PathBuf,
    /// What seals the node's key; a file that only its owner can read when there is none.
    pub sealer: Option<Sealer>,
}

/// The node, by its own SVID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// The last second at which its SVID is valid, Unix seconds.
    pub not_after: i64,
    /// When the SVID should be renewed, Unix seconds.
    pub renew_at: i64,
    /// Whether it attests anew instead of renewing.
    pub reattests: bool,
    /// The key identifier of the authority that signed its SVID, if it is said.
    pub authority: Option<Vec<u8>>,
}

/// Why the node has no SVID.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The server cannot be reached, or is not whom it must be.
    #[error("cannot reach the server: {0}")]
    Connect(String),
    /// The server's name is no name.
    #[error("server {0:?} is not a host and port, such as mintmark-server:8081")]
    Address(String),
    /// Nothing says whom to trust.
    #[error(
        "nothing says how to recognise the server: set `trust_bundle` to a file with its bundle (`mintmark bundle show`), or `insecure_bootstrap = true` to trust whoever answers first"
    )]
    NoTrust,
    /// The server does not want the node.
    #[error("the server refuses this node: {0}")]
    Refused(Refusal),
    /// The server answered with an error.
    #[error("the server answered {code:?}: {message}")]
    Status {
        /// Which.
        code: tonic::Code,
        /// What it says.
        message: String,
    },
    /// The method has nothing left to prove the node with.
    #[error(
        "{why}; a join token is good once: create a new one with `mintmark token create`, set `join.token` and restart"
    )]
    TokenUsed {
        /// Why it is needed.
        why: String,
    },
    /// There is no token.
    #[error("no join token is configured: create one with `mintmark token create` and set `join.token`")]
    NoToken,
    /// Proof of possession.
    #[error(transparent)]
    Pop(#[from] PopError),
    /// The pod's token.
    #[error(transparent)]
    Psat(#[from] PsatError),
    /// The server answered something else than was asked.
    #[error("the server's answer makes no sense: {0}")]
    Nonsense(String),
    /// The server's SVID for us cannot be used.
    #[error("the server's SVID for this node cannot be used: {0}")]
    Svid(#[from] X509SvidError),
    /// The key and certificate cannot be used for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The certificate request cannot be made.
    #[error("cannot make a certificate request: {0}")]
    Request(#[from] rcgen::Error),
    /// What is to be held in `data_dir` cannot be.
    #[error(transparent)]
    File(#[from] FsError),
    /// What is held in `data_dir` cannot be used.
    #[error("{path} cannot be used: {why}")]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It took too long.
    #[error("the server did not answer within {0:?}")]
    Late(Duration),
}

impl JoinError {
    /// Whether it passes only when somebody does something about it.
    pub fn needs_somebody(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Late(_) => false,
            Self::Status { code, .. } => matches!(
                code,
                tonic::Code::InvalidArgument
                    | tonic::Code::PermissionDenied
                    | tonic::Code::FailedPrecondition
                    | tonic::Code::Unimplemented
            ),
            _ => true,
        }
    }
}

impl From<tonic::Status> for JoinError {
    fn from(status: tonic::Status) -> Self {
        match Refusal::of(&status) {
            Some(refusal) => Self::Refused(refusal),
            None => Self::Status {
                code: status.code(),
                message: status.message().to_owned(),
            },
        }
    }
}

/// The node's proof. A handle.
#[derive(Clone)]
pub struct Join(Arc<Inner>);

struct Inner {
    settings: Settings,
    clock: Clock,
    files: Files,
    anchors: SharedAnchors,
    credential: Credential,
    state: Mutex<State>,
}

struct State {
    /// The SVID with what belongs to it, if there is one.
    own: Option<files::Own>,
    bundle: Option<Bundle>,
    /// The server does not accept the SVID, for this reason.
    rejected: Option<Refusal>,
}

impl Join {
    /// Takes up what an earlier run left in `data_dir`.
    ///
    /// # Errors
    /// When that, or the configured trust bundle, cannot be read.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, JoinError> {
        let files = Files::new(&settings.data_dir, settings.sealer.clone());
        let bundle = files.read_bundle(&settings.trust_domain)?;
        let own = files.read_own(&settings.trust_domain)?;
        let credential = Credential::empty();
        if let Some(own) = &own {
            show(&credential, own)?;
        }
        // Until the server has told its bundle in this run, the configured one is believed beside the one that was held: so a node finds a server that
        // was set up anew, once its configuration says so.
        let configured = match &settings.trust {
            Trust::Bundle(configured) => Some(&**configured),
            Trust::FirstUse | Trust::Nobody => None,
        };
        let believed: Vec<_> = bundle
            .iter()
            .chain(configured)
            .flat_map(|bundle| &bundle.x509)
            .map(|one| &*one.der)
            .collect();
        let mut anchors = TrustAnchors::default();
        if !believed.is_empty() {
            anchors.insert(settings.trust_domain.clone(), believed);
        }
        let state = Mutex::new(State {
            own,
            bundle,
            rejected: None,
        });
        Ok(Self(Arc::new(Inner {
            settings,
            clock,
            files,
            anchors: anchors.shared(),
            credential,
            state,
        })))
    }

    /// The node, if it has an SVID, ended or not.
    pub fn node(&self) -> Option<Node> {
        self.state().own.as_ref().map(node)
    }

    /// The node with an SVID that has not ended: the one that is held, else one by a new attestation.
    ///
    /// # Errors
    /// When there is none to be had.
    pub async fn ensure(&self) -> Result<Node, JoinError> {
        let now = self.0.clock.unix();
        let (held, rejected) = {
            let mut state = self.state();
            // Whoever cannot attest again tries what it has another time, later: the server may change its mind.
            (state.own.as_ref().map(node), state.rejected.take())
        };
        match (held, rejected) {
            (Some(node), None) if node.not_after > now => Ok(node),
            (Some(node), rejected) => {
                let why = match rejected {
                    Some(refusal) => refusal.to_string(),
                    None => format!(
                        "the node's SVID ended at {} (Unix seconds), before it could be renewed",
                        node.not_after
                    ),
                };
                self.check_can_attest(&why)?;
                tracing::info!(node = %node.id, why, "attesting anew");
                self.attest().await
            }
            (None, _) => self.attest().await,
        }
    }

    /// The server does not accept the node's SVID: the next [`Join::ensure`] attests anew, if the method can.
    pub fn reject(&self, refusal: Refusal) {
        self.state().rejected = Some(refusal);
    }

    /// A new SVID for the node over a connection with the present one, by renewal or, if the server wants it so, by attestation.
    ///
    /// # Errors
    /// When the server does not give one.
    pub async fn renew(&self, channel: &Channel) -> Result<Node, JoinError> {
        if self.state().own.as_ref().is_some_and(|own| own.reattests) {
            return self.attest().await;
        }
        let key = NewKey::generate();
        let request = RenewAgentRequest {
            params: Some(AgentX509svidParams {
                csr: attest::request(&key)?.into(),
            }),
        };
        let mut client = AgentClient::new(channel.clone());
        let call = self.0.clock.timeout(CALL, client.renew_agent(request)).await;
        let answer = match call.map_err(|late| JoinError::Late(late.0))? {
            Ok(answer) => answer.into_inner(),
            Err(status) if Refusal::of(&status) == Some(Refusal::MustReattest) => return self.attest().await,
            Err(status) => return Err(status.into()),
        };
        let svid = answer
            .svid
            .ok_or_else(|| JoinError::Nonsense("a renewal without an SVID".into()))?;
        let token = self.state().own.as_ref().and_then(|own| own.token.clone());
        self.take(svid, key, false, token)
    }

    /// A connection on which the server sees the node's SVID.
    ///
    /// # Errors
    /// When the server cannot be reached, or is not whom it must be.
    pub async fn dial(&self) -> Result<Channel, JoinError> {
        self.connect(Some(self.0.credential.clone())).await
    }

    /// The server's bundle is this now.
    pub fn learn(&self, bundle: &Bundle) {
        {
            let mut state = self.state();
            if state.bundle.as_ref() == Some(bundle) {
                return;
            }
            state.bundle = Some(bundle.clone());
        }
        self.0.anchors.store(Arc::new(TrustAnchors::from_bundles([bundle])));
        if let Err(error) = self.0.files.write_bundle(bundle) {
            tracing::warn!(%error, "the bundle could not be kept for a restart");
        }
    }

    async fn connect(&self, credential: Option<Credential>) -> Result<Channel, JoinError> {
        let Inner {
            settings,
            clock,
            anchors,
            ..
        } = &*self.0;
        let knows_nobody = anchors.load().trust_domains().next().is_none();
        let config = match (knows_nobody, &settings.trust) {
            (true, Trust::FirstUse) => {
                tracing::warn!(
                    server = settings.server,
                    "trusting whoever answers as the server, as `insecure_bootstrap` says"
                );
                client_config(AcceptAny::new(), credential, &[ALPN_H2], clock)
            }
            (true, _) => return Err(JoinError::NoTrust),
            (false, _) => {
                let expect = Expect::Id(SpiffeId::server(&settings.trust_domain));
                let verifier = SpiffeServerVerifier::new(Arc::clone(anchors), expect);
                client_config(verifier, credential, &[ALPN_H2], clock)
            }
        };
        let endpoint = Endpoint::try_from(format!("https://{}", settings.server));
        let endpoint = endpoint.map_err(|_| JoinError::Address(settings.server.clone()))?;
        let endpoint = endpoint
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .user_agent(concat!("mintmark-attestor/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| JoinError::Connect(in_full(&error)))?;
        let channel = endpoint
            .connect_with_connector(Connector::new(config, clock.clone()))
            .await;
        channel.map_err(|error| JoinError::Connect(in_full(&error)))
    }

    /// Holds an SVID that the server gave the node for `key`.
    fn take(
        &self,
        svid: types::X509svid,
        key: NewKey,
        reattests: bool,
        token: Option<Vec<u8>>,
    ) -> Result<Node, JoinError> {
        let now = self.0.clock.unix();
        let first = svid
            .cert_chain
            .first()
            .ok_or_else(|| JoinError::Nonsense("an SVID without a certificate".into()))?;
        let leaf = Leaf::parse(first)?;
        if leaf.certificate.spki_der != &key.spki[..] {
            return Err(JoinError::Nonsense("an SVID for another key".into()));
        }
        if !leaf.spiffe_id.is_in(&self.0.settings.trust_domain) {
            return Err(JoinError::Nonsense(format!("an SVID of {}", leaf.spiffe_id)));
        }
        if leaf.certificate.not_after <= now {
            return Err(JoinError::Nonsense(format!(
                "an SVID that ended at {}, and it is {now} here: is the clock of this machine right?",
                leaf.certificate.not_after
            )));
        }
        let own = files::Own {
            id: leaf.spiffe_id.clone(),
            chain: svid.cert_chain.iter().map(|der| der.to_vec()).collect(),
            key: key.pkcs8.clone(),
            from: now,
            not_after: leaf.certificate.not_after,
            reattests,
            token,
        };
        // Held on disk before it is used: its first use ends the older one.
        self.0.files.write_own(&own)?;
        show(&self.0.credential, &own)?;
        let node = node(&own);
        let mut state = self.state();
        state.own = Some(own);
        state.rejected = None;
        Ok(node)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changed by single assignments only.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn node(own: &files::Own) -> Node {
    let life = (own.not_after - own.from).max(0);
    // Up to an eighth of its life later than at half of it, for one node always the same, so that nodes that joined together do not come together.
    let hash = own
        .id
        .as_str()
        .bytes()
        .fold(0u8, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte));
    let half = life / 2 + life * i64::from(hash % 32) / 256;
    Node {
        id: own.id.clone(),
        not_after: own.not_after,
        renew_at: own.from + half,
        reattests: own.reattests,
        authority: own
            .chain
            .first()
            .and_then(|first| Leaf::parse(first).ok())
            .and_then(|leaf| signer(&leaf, &own.chain)),
    }
}

fn show(credential: &Credential, own: &files::Own) -> Result<(), TlsError> {
    let chain = own.chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    credential.set(chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.key.to_vec())))
}

/// An error with all its causes.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
