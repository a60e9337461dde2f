//! What `keep` asks the server for.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mintmark_proto::attestor::{KeyBinding, SignResult};
use mintmark_proto::spire::server::svid::svid_client::SvidClient;
use mintmark_proto::spire::server::svid::{BatchNewWitsvidRequest, NewJwtsvidRequest, NewWitsvidParams};
use mintmark_proto::spire::types;
use tokio::sync::{oneshot, watch};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use super::pump::{Connection, Order};
use super::{Link, LinkState};
use crate::join::Refusal;
use crate::keep::{Upstream, UpstreamError};

/// How long the server may take to sign a message of keys.
const SIGN: Duration = Duration::from_secs(30);
/// How long a call may take.
const CALL: Duration = Duration::from_secs(20);
/// How long the link may take to move to a connection with the node's new SVID.
const MOVE: Duration = Duration::from_secs(10);

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
        let request = NewJwtsvidRequest {
            entry_id: entry_id.to_owned(),
            audience,
        };
        let answer = self
            .call(request, |mut client, request| async move {
                client.new_jwtsvid(request).await
            })
            .await?;
        answer.svid.ok_or_else(|| UpstreamError::Nonsense("no JWT-SVID".into()))
    }

    async fn wit(
        &self,
        keys: Vec<(String, Bytes)>,
    ) -> Result<Vec<Result<types::Witsvid, UpstreamError>>, UpstreamError> {
        let params = keys.into_iter().map(|(entry_id, public_key)| NewWitsvidParams {
            entry_id,
            public_key,
            signing_algorithm: "ES256".into(),
        });
        let request = BatchNewWitsvidRequest {
            params: params.collect(),
        };
        let answer = self
            .call(request, |mut client, request| async move {
                client.batch_new_witsvid(request).await
            })
            .await?;
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
    /// Calls the server. The first use of the node's new SVID ends the older one, so that a call that is on its way over the connection before is refused
    /// at that moment: it is made once more when the link has moved.
    async fn call<Q: Clone, T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        request: Q,
        call: impl Fn(SvidClient<Channel>, Q) -> F,
    ) -> Result<T, UpstreamError> {
        let clock = &self.0.clock;
        // Told from here on, so that a move during the call is not missed.
        let mut moves = self.0.is_up.subscribe();
        let first = call(SvidClient::new(self.up()?.channel), request.clone());
        let refused = match clock.timeout(CALL, first).await.map_err(|_| UpstreamError::Late)? {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if Refusal::of(&status) == Some(Refusal::NotActive) => status,
            Err(status) => return Err(status.into()),
        };
        let moved = async { while moves.changed().await.is_ok() && !*moves.borrow_and_update() {} };
        // Where it does not move, somebody else is this node: the session finds that out.
        clock.timeout(MOVE, moved).await.map_err(|_| refused)?;
        let second = call(SvidClient::new(self.up()?.channel), request);
        let answer = clock.timeout(CALL, second).await.map_err(|_| UpstreamError::Late)?;
        Ok(answer?.into_inner())
    }

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
