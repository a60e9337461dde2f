//! `mintmark log-level`: what the server logs.

use clap::{Args, ValueEnum};
use mintmark_proto::spire::server::logger::logger_client::LoggerClient;
use mintmark_proto::spire::server::logger::{GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest};
use mintmark_proto::spire::types;

use crate::client::admin;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Fields;

pub const EXAMPLES: &str = "\
Examples:
  mintmark log-level               # what it is
  mintmark log-level debug         # until the server is restarted
  mintmark log-level reset         # to what the server was started with";

/// What the server logs.
#[derive(Debug, Args)]
pub struct LogLevel {
    /// The new level; reset for the one that the server was started with; nothing to show what it is
    level: Option<Level>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
    Reset,
}

impl LogLevel {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut client = admin!(LoggerClient, context);
        let set = |level: types::LogLevel| SetLogLevelRequest {
            new_level: level.into(),
        };
        let logger = match self.level {
            None => {
                context
                    .ask("ask what is logged", client.get_logger(GetLoggerRequest {}))
                    .await?
            }
            Some(Level::Reset) => {
                context
                    .ask("reset what is logged", client.reset_log_level(ResetLogLevelRequest {}))
                    .await?
            }
            Some(level) => {
                let level = match level {
                    Level::Error => types::LogLevel::Error,
                    Level::Warn => types::LogLevel::Warn,
                    Level::Info => types::LogLevel::Info,
                    Level::Debug => types::LogLevel::Debug,
                    Level::Trace | Level::Reset => types::LogLevel::Trace,
                };
                context
                    .ask("change what is logged", client.set_log_level(set(level)))
                    .await?
            }
        };
        context.out.message(&logger, |logger| {
            let mut fields = Fields::default();
            fields
                .add("now", logger.current_level().as_str_name().to_lowercase())
                .add("at start", logger.launch_level().as_str_name().to_lowercase());
            fields.to_string()
        })
    }
}
