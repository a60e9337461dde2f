//! Logs, and traces where they are switched on.
//!
//! In comes a [`LogConfig`]; out come lines on standard error, written by a thread of its own through a bounded queue, so that a slow
//! terminal or a full pipe never holds up an issuance: lines beyond the bound are dropped, counted and reported. `main` calls [`init`] once, and
//! keeps the [`LogHandle`], with which the level changes at run time.

#[cfg(feature = "otlp")]
mod otlp;
mod writer;

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use writer::LineWriter;

/// The level that a program logs at unless told otherwise.
pub const DEFAULT_FILTER: &str = "info";
/// A longer filter is refused.
const MAX_FILTER: usize = 1024;

/// The `[telemetry]` settings.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// How a line looks.
    pub format: LogFormat,
    /// Which lines there are: a level (`debug`) or a list such as `info,mintmark_server::ledger=debug`. Its key is `level`, or `filter`.
    #[serde(rename = "level", alias = "filter")]
    pub filter: String,
    /// Where traces go over OTLP/gRPC, such as `http://127.0.0.1:4317`; empty for nowhere.
    pub otlp: String,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl LogConfig {
    /// Whether [`init`] would take the filter, without setting anything up.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), LogError> {
        parse_filter(&self.filter).map(drop)
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            filter: DEFAULT_FILTER.into(),
            otlp: String::new(),
        }
    }
}

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter makes no sense.
    #[error(
        "\"{filter}\" is not a log filter ({why}); write a level such as debug, or a list such as info,mintmark_server=debug"
    )]
    Filter {
        /// What was asked for.
        filter: String,
        /// What is wrong with it.
        why: String,
    },
    /// [`init`] was called before.
    #[error("logging is set up already")]
    Twice,
    /// No thread for the writer.
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(std::io::Error),
    /// Traces were asked for and cannot be had.
    #[error("cannot send traces to {endpoint}: {why}")]
    Traces {
        /// Where to.
        endpoint: String,
        /// Why not.
        why: String,
    },
    /// The subscriber is gone, at the end of the process.
    #[error("logging has ended")]
    Gone,
}

/// Changes what is logged, while the program runs. Clones are handles on the same log.
#[derive(Clone)]
pub struct LogHandle {
    shared: Arc<Shared>,
}

struct Shared {
    filter: reload::Handle<EnvFilter, Registry>,
    configured: String,
    writer: LineWriter,
    #[cfg(feature = "otlp")]
    traces: Option<otlp::Traces>,
}

/// Sets logging up for the process.
///
/// # Errors
/// When the filter makes no sense, traces cannot be had, or it was called before.
pub fn init(config: &LogConfig) -> Result<LogHandle, LogError> {
    let (filter, handle) = reload::Layer::new(parse_filter(&config.filter)?);
    let writer = LineWriter::start(std::io::stderr()).map_err(LogError::Thread)?;
    let format = tracing_subscriber::fmt::layer().with_writer(writer.clone());
    let format = match config.format {
        LogFormat::Text => format.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => format.json().flatten_event(true).with_current_span(false).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(format);

    #[cfg(feature = "otlp")]
    let (traces, layer) = otlp::layer(&config.otlp)?.unzip();
    #[cfg(feature = "otlp")]
    let subscriber = subscriber.with(layer);
    #[cfg(not(feature = "otlp"))]
    if !config.otlp.is_empty() {
        let why = "this program was built without the feature otlp".into();
        return Err(LogError::Traces {
            endpoint: config.otlp.clone(),
            why,
        });
    }

    subscriber.try_init().map_err(|_| LogError::Twice)?;
    let shared = Shared {
        filter: handle,
        configured: config.filter.clone(),
        writer,
        #[cfg(feature = "otlp")]
        traces,
    };
    Ok(LogHandle {
        shared: Arc::new(shared),
    })
}

impl LogHandle {
    /// Logs by this filter from now on.
    ///
    /// # Errors
    /// When it makes no sense; the log is then as it was.
    pub fn set_filter(&self, filter: &str) -> Result<(), LogError> {
        self.shared
            .filter
            .reload(parse_filter(filter)?)
            .map_err(|_| LogError::Gone)
    }

    /// Logs by the configured filter again.
    ///
    /// # Errors
    /// At the end of the process only.
    pub fn reset(&self) -> Result<(), LogError> {
        self.set_filter(&self.shared.configured)
    }

    /// The filter in force.
    pub fn filter(&self) -> String {
        self.shared.filter.with_current(ToString::to_string).unwrap_or_default()
    }

    /// How many lines were dropped since start because the writer could not keep up.
    pub fn dropped(&self) -> u64 {
        self.shared.writer.dropped()
    }

    /// Waits, blocking, until what was logged so far is written or `limit` has passed: at the end of `main`.
    pub fn flush(&self, limit: Duration) {
        #[cfg(feature = "otlp")]
        if let Some(traces) = &self.shared.traces {
            traces.flush();
        }
        self.shared.writer.flush(limit);
    }
}

fn parse_filter(filter: &str) -> Result<EnvFilter, LogError> {
    let refused = |why: String| LogError::Filter {
        filter: filter.chars().take(200).collect(),
        why,
    };
    if filter.trim().is_empty() || filter.len() > MAX_FILTER {
        return Err(refused(format!(
            "it has {} characters, and 1 to {MAX_FILTER} are allowed",
            filter.len()
        )));
    }
    // A word that is no level would be taken for the name of a module: a slip that silences everything.
    let slip = |part: &&str| !part.contains(['=', '[']) && part.parse::<LevelFilter>().is_err();
    if let Some(part) = filter.split(',').map(str::trim).find(slip) {
        return Err(refused(format!(
            "{part:?} is none of off, error, warn, info, debug, trace"
        )));
    }
    EnvFilter::try_new(filter).map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_a_list() {
        for good in ["info", "debug", "info,mintmark_server::ledger=debug", "off"] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        for bad in ["", " ", "info,=", "a=b=c", "mintmark=loud", &"a".repeat(2000)] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_filter_changes_while_the_program_runs() {
        let log = init(&LogConfig {
            filter: "warn".into(),
            ..LogConfig::default()
        })
        .unwrap();
        assert!(!tracing::enabled!(tracing::Level::INFO));
        log.set_filter("debug").unwrap();
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        assert_eq!(log.filter(), "debug");
        assert!(log.set_filter("loud").is_err());
        assert_eq!(log.filter(), "debug");
        log.reset().unwrap();
        assert!(!tracing::enabled!(tracing::Level::INFO));
        log.flush(Duration::from_secs(10));
        assert!(matches!(init(&LogConfig::default()), Err(LogError::Twice)));
    }
}
