//! Why a command failed, and with which exit status.

use std::io;
use std::process::ExitCode;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It was asked in a way that makes no sense: exit status 2.
    #[error("{0}")]
    Usage(String),
    /// It was refused, not found or not possible: exit status 1.
    #[error("{0}")]
    Refused(String),
    /// There is nothing where we were to ask, or it is not for us: exit status 1.
    #[error("{0}")]
    Absent(String),
    /// Whoever reads our output had enough of it, or it cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// The reason on standard error, and the exit status.
    pub fn report(&self) -> ExitCode {
        match self {
            // `mintmark entry list | head` is no failure.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Self::Usage(_) => self.tell(2),
            Self::Refused(_) | Self::Absent(_) | Self::Output(_) => self.tell(1),
        }
    }

    fn tell(&self, status: u8) -> ExitCode {
        crate::output::complain(self);
        ExitCode::from(status)
    }
}

/// A refusal, from whatever says why.
pub fn refused(why: impl ToString) -> Failure {
    Failure::Refused(why.to_string())
}
