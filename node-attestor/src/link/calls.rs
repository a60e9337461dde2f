//! What `keep` asks the server for.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mintmark_proto::attestor::{KeyBinding, SignResult};
use mintmark_proto::spire::server::svid::svid_client::SvidClient;
use mintmark_proto::spire::server::svid::{BatchNewWitsvidRequest, NewJwtsvidRequest, NewWitsvidParams};
use mintmark_proto::spire::types;
use tokio::sync::{oneshot, watch};
use tonic::Code;

use super::pump::{Connection, Order};
use super::{Link, LinkState};
use crate::keep::{Upstream, UpstreamError};

/// How long the server may take to sign a message of keys.
const SIGN: Duration = Duration::from_secs(30);
/// How long a call may take.
const CALL: Duration = Duration::from_secs(20);

#[async_trait]
impl Upstream for Link {
    fn is_up(&self) -> watch::Receiver<bool> {
        self.0.is_up.subscribe()
    }

    async fn x509(&self, keys: Vec<KeyBinding>) -> Result<Vec<SignResult>, UpstreamError> {
        let connection = self.up()?;
        self.0.metrics.keys.inc_by(keys.len() as u64);
        let (answer, wait) = oneshot::channel();
        let sign = async {
            let ended = || UpstreamError::Down(Some("the link ended".into()));
            connection
                .orders
                .send(Order { keys, answer })
                .await
                .map_err(|_| ended())?;
            wait.await.map_err(|_| ended())
        };
        self.0
            .clock
            .timeout(SIGN, sign)
            .await
            .unwrap_or(Err(UpstreamError::Late))
    }

    async fn jwt(&self, entry_id: &str, audience: Vec<String>) -> Result<types::Jwtsvid, UpstreamError> {
        let mut client = SvidClient::new(self.up()?.channel);
        let request = NewJwtsvidRequest {
            entry_id: entry_id.to_owned(),
            audience,
        };
        let answer = self.0.clock.timeout(CALL, client.new_jwtsvid(request)).await;
        let answer = answer.map_err(|_| UpstreamError::Late)??.into_inner();
        answer.svid.ok_or_else(|| UpstreamError::Nonsense("no JWT-SVID".into()))
    }

    async fn wit(
        &self,
        keys: Vec<(String, Bytes)>,
    ) -> Result<Vec<Result<types::Witsvid, UpstreamError>>, UpstreamError> {
        let mut client = SvidClient::new(self.up()?.channel);
        let params = keys.into_iter().map(|(entry_id, public_key)| NewWitsvidParams {
            entry_id,
            public_key,
            signing_algorithm: "ES256".into(),
        });
        let request = BatchNewWitsvidRequest {
            params: params.collect(),
        };
        let answer = self.0.clock.timeout(CALL, client.batch_new_witsvid(request)).await;
        let answer = answer.map_err(|_| UpstreamError::Late)??.into_inner();
        let results = answer
            .results
            .into_iter()
            .map(|result| match (result.status, result.svid) {
                (Some(types::Status { code: 0, .. }) | None, Some(svid)) => Ok(svid),
                (Some(status), _) if status.code != 0 => Err(UpstreamError::Refused {
                    code: Code::from(status.code),
                    message: status.message,
                }),
                _ => Err(UpstreamError::Nonsense("no WIT-SVID".into())),
            });
        Ok(results.collect())
    }
}

impl Link {
    fn up(&self) -> Result<Connection, UpstreamError> {
        self.connection().ok_or_else(|| {
            let why = match &*self.0.state.borrow() {
                LinkState::Down(why) => Some(why.clone()),
                LinkState::Banned => Some("this node is banned".into()),
                _ => None,
            };
            UpstreamError::Down(why)
        })
    }
}
