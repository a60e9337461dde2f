//! Who signs.

use async_trait::async_trait;
use bytes::Bytes;
use mintmark_proto::attestor::{KeyBinding, SignResult};
use mintmark_proto::spire::types;
use tokio::sync::watch;
use tonic::Code;

/// The server, as `keep` sees it.
#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// Whether there is a connection; a change to true is a new one.
    fn is_up(&self) -> watch::Receiver<bool>;

    /// X.509-SVIDs for these keys, one answer for each in the same order.
    ///
    /// # Errors
    /// When there is no answer.
    async fn x509(&self, keys: Vec<KeyBinding>) -> Result<Vec<SignResult>, UpstreamError>;

    /// A JWT-SVID.
    ///
    /// # Errors
    /// When it is refused, or there is no answer.
    async fn jwt(&self, entry_id: &str, audience: Vec<String>) -> Result<types::Jwtsvid, UpstreamError>;

    /// WIT-SVIDs for these keys (entry ID and SubjectPublicKeyInfo), one answer for each in the same order.
    ///
    /// # Errors
    /// When there is no answer.
    async fn wit(
        &self,
        keys: Vec<(String, Bytes)>,
    ) -> Result<Vec<Result<types::Witsvid, UpstreamError>>, UpstreamError>;
}

/// Why the server did not sign.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// There is no connection.
    #[error("the server cannot be reached{}", because(.0.as_deref()))]
    Down(Option<String>),
    /// It did not answer in time.
    #[error("the server did not answer in time")]
    Late,
    /// It said no.
    #[error("the server refused: {message}")]
    Refused {
        /// How.
        code: Code,
        /// Why.
        message: String,
    },
    /// It answered something else than was asked.
    #[error("the server's answer makes no sense: {0}")]
    Nonsense(String),
}

impl UpstreamError {
    /// Whether the same question may well be answered a little later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Down(_) | Self::Late => true,
            Self::Refused { code, .. } => matches!(
                code,
                Code::Unavailable | Code::ResourceExhausted | Code::Aborted | Code::DeadlineExceeded | Code::Cancelled
            ),
            Self::Nonsense(_) => false,
        }
    }
}

impl From<tonic::Status> for UpstreamError {
    fn from(status: tonic::Status) -> Self {
        Self::Refused {
            code: status.code(),
            message: status.message().to_owned(),
        }
    }
}

fn because(why: Option<&str>) -> String {
    why.map(|why| format!(": {why}")).unwrap_or_default()
}
