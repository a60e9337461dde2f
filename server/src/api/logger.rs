//! `spire.api.server.logger.v1.Logger`: the log's level at run time.

use mintmark_proto::spire::server::logger::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest, logger_server,
};
use mintmark_proto::spire::types::{LogLevel, Logger};
use mintmark_runtime::telemetry::LogHandle;
use tonic::{Code, Request, Response, Status};

use super::Rooms;
use super::caller::audit;
use super::status::{self, internal, invalid};

/// The service.
pub(super) struct LoggerService {
    pub(super) rooms: Rooms,
    /// The filter at start.
    pub(super) launched: String,
}

#[tonic::async_trait]
impl logger_server::Logger for LoggerService {
    async fn get_logger(&self, _: Request<GetLoggerRequest>) -> Result<Response<Logger>, Status> {
        Ok(Response::new(self.logger(self.log()?)))
    }

    async fn set_log_level(&self, request: Request<SetLogLevelRequest>) -> Result<Response<Logger>, Status> {
        let (_, extensions, request) = request.into_parts();
        let level = match LogLevel::try_from(request.new_level) {
            Ok(LogLevel::Unspecified) => return Err(invalid("newLevel value cannot be LogLevel_UNSPECIFIED")),
            Ok(level) => name(level),
            Err(_) => return Err(invalid("unsupported log level")),
        };
        let log = self.log()?;
        let set = log
            .set_filter(level)
            .map_err(|error| internal("failed to set the log level", error));
        audit(&extensions, "set log level", level, set.as_ref().map(drop));
        set?;
        Ok(Response::new(self.logger(log)))
    }

    async fn reset_log_level(&self, request: Request<ResetLogLevelRequest>) -> Result<Response<Logger>, Status> {
        let log = self.log()?;
        let reset = log
            .reset()
            .map_err(|error| internal("failed to reset the log level", error));
        audit(
            request.extensions(),
            "reset log level",
            log.filter(),
            reset.as_ref().map(drop),
        );
        reset?;
        Ok(Response::new(self.logger(log)))
    }
}

impl LoggerService {
    fn log(&self) -> Result<&LogHandle, Status> {
        self.rooms.log.as_ref().ok_or_else(|| {
            status::refused(
                Code::FailedPrecondition,
                "NO_LOG",
                "this server runs inside another program, which owns the log",
            )
        })
    }

    fn logger(&self, log: &LogHandle) -> Logger {
        Logger {
            current_level: level(&log.filter()).into(),
            launch_level: level(&self.launched).into(),
        }
    }
}

/// The level that a filter has for everything that it does not name.
fn level(filter: &str) -> LogLevel {
    let general = filter.split(',').map(str::trim).find(|part| !part.contains('='));
    match general.map(str::to_ascii_lowercase).as_deref() {
        Some("trace") => LogLevel::Trace,
        Some("debug") => LogLevel::Debug,
        Some("info") => LogLevel::Info,
        Some("warn") => LogLevel::Warn,
        _ => LogLevel::Error,
    }
}

fn name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Trace => "trace",
        LogLevel::Debug => "debug",
        LogLevel::Info | LogLevel::Unspecified => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error | LogLevel::Fatal | LogLevel::Panic => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filters_level_is_the_one_for_what_it_does_not_name() {
        assert_eq!(level("info"), LogLevel::Info);
        assert_eq!(level("mintmark_server::ledger=trace,debug"), LogLevel::Debug);
        assert_eq!(level("a=info"), LogLevel::Error);
        for level_ in [
            LogLevel::Trace,
            LogLevel::Debug,
            LogLevel::Info,
            LogLevel::Warn,
            LogLevel::Error,
        ] {
            assert_eq!(level(name(level_)), level_);
        }
    }
}
