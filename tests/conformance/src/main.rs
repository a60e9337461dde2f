//! The command: reads its options, runs the suite, prints the report.

#![allow(
    clippy::disallowed_methods,
    reason = "links nothing of Mintmark's runtime, so that it judges it from outside"
)]

use std::{io::Write as _, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use conformance::{Options, Output};

#[tokio::main]
async fn main() -> ExitCode {
    if let [_, probe, rest @ ..] = &std::env::args().collect::<Vec<_>>()[..]
        && probe == conformance::PROBE
    {
        return finish(
            conformance::probe(rest)
                .await
                .and_then(|seen| write_out(&seen))
                .map(|()| true),
        );
    }
    let options = Options::parse();
    if !options.list && !options.has_target() {
        Options::command()
            .error(
                ErrorKind::MissingRequiredArgument,
                "nothing to look at: give --socket, --bundle-endpoint, --bundle-map, --oidc or --expect-no-identity-socket",
            )
            .exit()
    }
    let checks = match conformance::select(&options.only, &options.skip) {
        Ok(checks) => checks,
        Err(error) => Options::command().error(ErrorKind::InvalidValue, error).exit(),
    };
    finish(if options.list {
        write_out(&conformance::list(&checks)).map(|()| true)
    } else {
        run(&options).await
    })
}

fn finish(done: Result<bool>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "conformance: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing failed.
async fn run(options: &Options) -> Result<bool> {
    let report = conformance::run(options).await?;
    let report = if options.strict { report.strict() } else { report };
    if let Some(path) = &options.junit {
        std::fs::write(path, report.junit()).with_context(|| format!("write {}", path.display()))?;
    }
    write_out(&match options.output {
        Output::Text => report.text(),
        Output::Json => report.json(),
    })?;
    Ok(report.failed() == 0)
}

fn write_out(text: &str) -> Result<()> {
    std::io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .context("write the report")
}
