//! How we reach the other end, and what is to be said when we do not.
//!
//! In: the global options. Out: a gRPC channel to the Workload API or to the server, or an error that says which socket, why, and what to do.

mod remote;

use std::error::Error;
use std::io;
use std::path::Path;

use hyper_util::rt::TokioIo;
use mintmark_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use mintmark_runtime::net::{ConnectError, UnixConnector, tcp_connect};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::args::WorkloadSocket;
use crate::context::Context;
use crate::failure::Failure;

/// Answers larger than this are refused: lists come in pages.
pub const MAX_ANSWER: usize = 64 << 20;

/// What the connectors of Unix sockets do not look at, and HTTP needs.
const NOWHERE: &str = "http://localhost";

/// Said of a method that the other end does not know. It may be another one's socket: the two are easily swapped.
const NOT_SERVED: &str = "nobody serves that there: a server that does not have it, or the other program's socket \
    (SPIFFE_ENDPOINT_SOCKET is the attestor's, MINTMARK_ADMIN_SOCKET the server's)";

/// A client of one of the server's services: `admin!(EntryClient, context)`.
macro_rules! admin {
    ($client:ident, $context:expr) => {
        $client::new($crate::client::server($context).await?)
            .max_decoding_message_size($crate::client::MAX_ANSWER)
            .max_encoding_message_size($crate::client::MAX_ANSWER)
    };
}
pub(crate) use admin;

/// A channel to the server: by its admin socket, or from afar where `--server` says so.
pub async fn server(context: &Context) -> Result<Channel, Failure> {
    if let Some(address) = &context.globals.server {
        return remote::connect(context, address).await;
    }
    let path = context.globals.admin_socket();
    connect_unix(context, &path)
        .await
        .map_err(|error| error.failure(admin_text(&path, &error)))
}

/// A client of the Workload API.
pub async fn workload(context: &Context) -> Result<SpiffeWorkloadApiClient<Channel>, Failure> {
    let channel = workload_channel(context).await?;
    Ok(SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MAX_ANSWER))
}

/// A channel to the Workload API's socket.
pub async fn workload_channel(context: &Context) -> Result<Channel, Failure> {
    let socket = context.globals.workload_socket();
    let connected = match &socket {
        WorkloadSocket::Unix(path) => connect_unix(context, path).await,
        WorkloadSocket::Tcp(address) => {
            let (target, limit, clock) = (address.to_string(), context.limit(), context.clock.clone());
            let connector = tower::service_fn(move |_| {
                let (target, clock) = (target.clone(), clock.clone());
                async move { tcp_connect(&target, limit, &clock).await.map(TokioIo::new) }
            });
            within(
                context,
                Endpoint::from_static(NOWHERE).connect_with_connector(connector),
            )
            .await
        }
    };
    connected.map_err(|error| error.failure(workload_text(&socket, &error)))
}

/// A request to the Workload API carries this header (Workload Endpoint §6): what cannot set it, a browser for one, gets nothing.
pub fn workload_request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

async fn connect_unix(context: &Context, path: &Path) -> Result<Channel, Unreachable> {
    let connector = UnixConnector::new(path);
    within(
        context,
        Endpoint::from_static(NOWHERE).connect_with_connector(connector),
    )
    .await
}

async fn within(
    context: &Context,
    connect: impl Future<Output = Result<Channel, tonic::transport::Error>>,
) -> Result<Channel, Unreachable> {
    match context.clock.timeout(context.limit(), connect).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(Unreachable::of(&error)),
        Err(late) => Err(Unreachable {
            kind: None,
            text: late.to_string(),
        }),
    }
}

/// Why there is no connection.
struct Unreachable {
    kind: Option<io::ErrorKind>,
    text: String,
}

impl Unreachable {
    fn failure(&self, text: String) -> Failure {
        match self.kind {
            Some(io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => Failure::Absent(text),
            _ => Failure::Refused(text),
        }
    }

    fn of(error: &(dyn Error + 'static)) -> Self {
        let mut last = error;
        let mut cause = Some(error);
        while let Some(error) = cause {
            last = error;
            if let Some(ConnectError::Connect { source, .. }) = error.downcast_ref() {
                return Self {
                    kind: Some(source.kind()),
                    text: source.to_string(),
                };
            }
            if let Some(error) = error.downcast_ref::<ConnectError>() {
                return Self {
                    kind: None,
                    text: error.to_string(),
                };
            }
            cause = error.source();
        }
        Self {
            kind: None,
            text: last.to_string(),
        }
    }
}

fn workload_text(socket: &WorkloadSocket, error: &Unreachable) -> String {
    let hint = match error.kind {
        Some(io::ErrorKind::NotFound) => {
            "; there is no such socket: is the attestor running? `mintmark dev` starts one and prints the line that names its socket; --socket or \
             SPIFFE_ENDPOINT_SOCKET names another"
        }
        Some(io::ErrorKind::ConnectionRefused) => "; nobody listens there any more: has the attestor stopped?",
        Some(io::ErrorKind::PermissionDenied) => "; this user may not open the socket or a directory above it",
        _ => "",
    };
    format!("cannot reach the Workload API at {socket}: {}{hint}", error.text)
}

fn admin_text(path: &Path, error: &Unreachable) -> String {
    let hint = match error.kind {
        Some(io::ErrorKind::NotFound) => {
            "; there is no such socket: is the server running on this machine? `mintmark dev` starts one and prints the line that names its socket; \
             --admin-socket or MINTMARK_ADMIN_SOCKET names another, --server HOST:PORT asks from afar"
        }
        Some(io::ErrorKind::ConnectionRefused) => "; nobody listens there any more: has the server stopped?",
        Some(io::ErrorKind::PermissionDenied) => {
            "; the admin socket is for root, the server's user and its admin group: use sudo, or --server HOST:PORT with an admin SVID"
        }
        _ => "",
    };
    format!("cannot reach the server at {}: {}{hint}", path.display(), error.text)
}

/// A gRPC status in words: what the other end says, and the kind of refusal.
pub fn status_text(status: &Status) -> String {
    let said = match status.message() {
        "" => status.source().map(ToString::to_string).unwrap_or_default(),
        message => message.to_owned(),
    };
    let kind = match status.code() {
        Code::Unimplemented => return NOT_SERVED.to_owned(),
        Code::Cancelled => "cancelled",
        Code::InvalidArgument => "invalid argument",
        Code::DeadlineExceeded => "too late",
        Code::NotFound => "not found",
        Code::AlreadyExists => "already exists",
        Code::PermissionDenied => "permission denied",
        Code::ResourceExhausted => "too much",
        Code::FailedPrecondition => "not in this state",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out of range",
        Code::Internal => "internal error",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data loss",
        Code::Unauthenticated => "not authenticated",
        Code::Ok | Code::Unknown => "unknown error",
    };
    if said.is_empty() {
        kind.to_owned()
    } else if said.contains(kind) {
        said
    } else {
        format!("{said} ({kind})")
    }
}

/// A status of one result of a batch, in words.
pub fn result_text(code: i32, message: &str) -> String {
    status_text(&Status::new(Code::from_i32(code), message))
}

#[cfg(test)]
mod tests {
    use mintmark_runtime::net::unix_connect;

    use super::*;

    #[test]
    fn a_status_is_told_once() {
        for (status, text) in [
            (Status::not_found("no entry a"), "no entry a (not found)"),
            (Status::not_found("entry a not found"), "entry a not found"),
            (Status::permission_denied(""), "permission denied"),
            (Status::unimplemented("whatever"), NOT_SERVED),
        ] {
            assert_eq!(status_text(&status), text);
        }
    }

    #[tokio::test]
    async fn a_missing_socket_is_named_with_what_to_do() {
        let path = Path::new("/nonexistent/api.sock");
        let error = unix_connect(path).await.unwrap_err();
        let error = Unreachable::of(&error);
        let text = admin_text(path, &error);
        assert!(
            text.contains("/nonexistent/api.sock") && text.contains("is the server running"),
            "{text}"
        );
        let text = workload_text(&WorkloadSocket::Unix(path.into()), &error);
        assert!(
            text.contains("unix:///nonexistent/api.sock") && text.contains("is the attestor running"),
            "{text}"
        );
    }
}
