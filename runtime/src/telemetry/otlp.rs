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

impl Traces {
    /// Sends what waits.
    pub(super) fn flush(&self) {
        if let Err(error) = self.0.force_flush() {
            tracing::warn!(%error, "traces could not be sent");
        }
    }
}

/// The layer that hands spans to the collector at `endpoint`; nothing when that is empty. To be called within the runtime.
pub(super) fn layer<S>(endpoint: &str) -> Result<(Option<Traces>, Option<OpenTelemetryLayer<S, SdkTracer>>), LogError>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    if endpoint.is_empty() {
        return Ok((None, None));
    }
    let refused = |why: String| LogError::Traces {
        endpoint: endpoint.into(),
        why,
    };
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
    let exporter = exporter.map_err(|error| refused(error.to_string()))?;
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).build();
    let tracer = provider.tracer("mintmark");
    Ok((
        Some(Traces(provider)),
        Some(tracing_opentelemetry::layer().with_tracer(tracer)),
    ))
}
