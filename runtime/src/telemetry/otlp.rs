//! Traces over OTLP/gRPC.

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::registry::LookupSpan;

use super::LogError;

/// The pipeline that spans leave by.
pub(super) struct Traces(SdkTracerProvider);

/// Where spans go in, and what sends them.
type Pipeline<S> = (Traces, OpenTelemetryLayer<S, SdkTracer>);

impl Traces {
    /// Sends what waits.
    pub(super) fn flush(&self) {
        if let Err(error) = self.0.force_flush() {
            tracing::warn!(%error, "traces could not be sent");
        }
    }
}

/// The layer that hands spans to the collector at `endpoint`; nothing when that is empty. To be called within the runtime.
pub(super) fn layer<S>(endpoint: &str) -> Result<Option<Pipeline<S>>, LogError>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    if endpoint.is_empty() {
        return Ok(None);
    }
    let refused = |why: String| LogError::Traces {
        endpoint: endpoint.into(),
        why,
    };
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
    let exporter = exporter.map_err(|error| refused(error.to_string()))?;
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).build();
    let tracer = provider.tracer("mintmark");
    Ok(Some((
        Traces(provider),
        tracing_opentelemetry::layer().with_tracer(tracer),
    )))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::clock::Clock;
    use crate::net::tcp_listener;
    use crate::task::BlockingPool;

    #[tokio::test(flavor = "multi_thread")]
    async fn spans_go_to_the_collector() {
        let listener = tcp_listener(([127, 0, 0, 1], 0).into()).unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (traces, layer) = layer(&endpoint).unwrap().unwrap();
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || tracing::info_span!("issue").in_scope(|| ()));
        let pool = BlockingPool::new("flush", 1, 1);
        let flush = pool.run(move || traces.flush());
        let seen = async move {
            let (mut io, _) = listener.accept().await.unwrap();
            let mut preface = [0; 14];
            io.read_exact(&mut preface).await.unwrap();
            preface
        };
        let (clock, limit) = (Clock::system(), Duration::from_secs(30));
        let (seen, flushed) = tokio::join!(clock.timeout(limit, seen), flush);
        assert_eq!(&seen.unwrap(), b"PRI * HTTP/2.0");
        flushed.unwrap();
    }

    #[test]
    fn no_endpoint_is_no_layer() {
        assert!(layer::<tracing_subscriber::Registry>("").unwrap().is_none());
    }
}
