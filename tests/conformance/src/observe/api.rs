//! A client of the Workload API that can also misbehave: wrong security headers, methods that do not exist.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::Result;
use hyper_util::rt::TokioIo;
use mintmark_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Code, Request, Response, Status, Streaming,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::{options::Address, report::shown};

/// What a call gave.
pub(crate) type Answer<T> = Result<T, Refusal>;

/// How a call was not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// With a gRPC status.
    Status(Code, String),
    /// Not within the time-out.
    Silence(Duration),
    /// With an empty stream.
    Nothing,
    /// It was not called: why.
    NotCalled(String),
}

impl Refusal {
    /// The gRPC status code, when there was one.
    pub(crate) fn code(&self) -> Option<Code> {
        match self {
            Self::Status(code, _) => Some(*code),
            _ => None,
        }
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Status(status.code(), shown(status.message()))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code, message) if message.is_empty() => write!(f, "{code:?}"),
            Self::Status(code, message) => write!(f, "{code:?} ({message})"),
            Self::Silence(after) => write!(f, "no answer within {after:?}"),
            Self::Nothing => write!(f, "the stream ended without a message"),
            Self::NotCalled(why) => write!(f, "{why}"),
        }
    }
}

/// The beginning of a stream.
#[derive(Debug)]
pub(crate) struct Opening<T> {
    /// The first message.
    pub(crate) first: Answer<T>,
    /// How the stream ended while it was watched; `None` when it stayed open.
    pub(crate) end: Option<String>,
    /// Messages after the first, while it was watched.
    pub(crate) later: Vec<T>,
}

/// A connection to one Workload API.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    channel: Channel,
    timeout: Duration,
}

impl Api {
    /// Connects without TLS and without credentials, as EP-1 wants it to be possible.
    pub(crate) async fn connect(address: &Address, timeout: Duration) -> Result<Self> {
        let channel = match address {
            Address::Tcp(address) => {
                Endpoint::from_shared(format!("http://{address}"))?
                    .connect_timeout(timeout)
                    .connect()
                    .await?
            }
            Address::Unix(path) => {
                let path = path.clone();
                let connector = service_fn(move |_| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                Endpoint::from_static("http://localhost")
                    .connect_timeout(timeout)
                    .connect_with_connector(connector)
                    .await?
            }
        };
        Ok(Self { channel, timeout })
    }

    /// The generated client.
    pub(crate) fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(self.channel.clone())
    }

    /// The connection itself, for other services.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Waits for a unary call.
    pub(crate) async fn unary<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Answer<T> {
        match timeout(self.timeout, call).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Refusal::Silence(self.timeout)),
        }
    }

    /// Opens a stream, waits for its first message and watches it for `hold`.
    pub(crate) async fn open<T>(
        &self,
        call: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
        hold: Duration,
    ) -> Opening<T> {
        let mut opening = Opening {
            first: Err(Refusal::Nothing),
            end: None,
            later: Vec::new(),
        };
        let started = timeout(self.timeout, async {
            let mut stream = call.await?.into_inner();
            let first = stream.message().await?;
            Ok::<_, Status>((stream, first))
        });
        let mut stream = match started.await {
            Err(_) => {
                opening.first = Err(Refusal::Silence(self.timeout));
                return opening;
            }
            Ok(Err(status)) => {
                opening.first = Err(status.into());
                return opening;
            }
            Ok(Ok((_, None))) => return opening,
            Ok(Ok((stream, Some(first)))) => {
                opening.first = Ok(first);
                stream
            }
        };
        let until = Instant::now() + hold;
        while let Ok(message) = timeout(until.saturating_duration_since(Instant::now()), stream.message()).await {
            match message {
                Ok(Some(message)) => opening.later.push(message),
                Ok(None) => opening.end = Some("ended".into()),
                Err(status) => opening.end = Some(format!("ended with {}", Refusal::from(status))),
            }
            if opening.end.is_some() || opening.later.len() >= 64 {
                break;
            }
        }
        opening
    }

    /// Opens a stream and waits for its first message only.
    pub(crate) async fn first<T>(
        &self,
        call: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
    ) -> Answer<T> {
        self.open(call, Duration::ZERO).await.first
    }
}

/// A request with the security header.
pub(crate) fn request<T>(message: T) -> Request<T> {
    with_header(message, Some("true"))
}

/// A request with whatever security header, or none.
pub(crate) fn with_header<T>(message: T, value: Option<&'static str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(value) = value {
        request
            .metadata_mut()
            .insert("workload.spiffe.io", MetadataValue::from_static(value));
    }
    request
}
