//! `grpc.health.v1.Health`: how the server is, for those who ask by gRPC. The same checks as `/ready`.

use std::time::Duration;

use futures::stream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

use super::Rooms;
use super::status::not_found;

/// Whoever watches is told of a change within this time.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The service. Health is the whole server's: there is no service of it that is well while another is not.
pub(super) struct HealthService {
    pub(super) rooms: Rooms,
}

#[tonic::async_trait]
impl health_server::Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match &*request.into_inner().service {
            "" => Ok(Response::new(answer(serving(&self.rooms)))),
            name => Err(not_found(format!(
                "health is the whole server's: ask without a service, not for {name:?}"
            ))),
        }
    }

    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if !request.into_inner().service.is_empty() {
            let unknown = stream::iter([Ok(answer(ServingStatus::ServiceUnknown))]);
            return Ok(Response::new(Box::pin(unknown)));
        }
        let state = (self.rooms.clone(), None);
        Ok(Response::new(Box::pin(stream::unfold(
            state,
            |(rooms, told)| async move {
                loop {
                    let now = serving(&rooms);
                    if told != Some(now) {
                        return Some((Ok(answer(now)), (rooms, Some(now))));
                    }
                    tokio::select! {
                        () = rooms.clock.sleep(LOOK_AGAIN) => {}
                        () = rooms.stop.cancelled() => return None,
                    }
                }
            },
        ))))
    }
}

fn serving(rooms: &Rooms) -> ServingStatus {
    match rooms.health.not_ready().is_empty() && !rooms.stop.is_cancelled() {
        true => ServingStatus::Serving,
        false => ServingStatus::NotServing,
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
