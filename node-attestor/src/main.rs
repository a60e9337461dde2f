//! `mintmark-attestor`: the per-node attestor.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::{Parser, Subcommand};
use mintmark_attestor::{Attestor, Config};
use mintmark_runtime::clock::Clock;
use mintmark_runtime::config::{Loaded, environment};
use mintmark_runtime::task::Supervisor;
use mintmark_runtime::{crypto, net, telemetry};

/// How long it may take to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Proves which node this is, and gives the processes on it their SPIFFE identities over the Workload API.
#[derive(Parser)]
#[command(name = "mintmark-attestor", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGINT or SIGTERM.
    Run(Options),
    /// Check a configuration without starting anything.
    Validate(Options),
}

#[derive(clap::Args)]
struct Options {
    /// The configuration, a TOML file; every key is also a variable, MINTMARK_CONFIG_SECTION__KEY.
    #[arg(long, short, env = "MINTMARK_CONFIG")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    crypto::install();
    let done = match Cli::parse().command {
        Command::Run(options) => run(&options),
        Command::Validate(options) => validate(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Our errors name their causes themselves.
            say(&format!("mintmark-attestor: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn validate(options: &Options) -> anyhow::Result<()> {
    let Loaded { value, warnings } = Config::load(options.config.as_deref(), environment())?;
    value.log.check()?;
    for warning in warnings.into_iter().chain(value.check()?) {
        say(&format!("warning: {warning}"));
    }
    say("the configuration is good");
    Ok(())
}

fn run(options: &Options) -> anyhow::Result<()> {
    if let Err(error) = crypto::hide_memory() {
        bail!("cannot keep the memory of this process, which holds keys, from others: {error}");
    }
    let Loaded {
        value: config,
        warnings,
    } = Config::load(options.config.as_deref(), environment())?;
    // Little work, and much of it waiting: two threads keep the memory small.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| anyhow!("cannot start the runtime: {error}"))?;
    runtime.block_on(async {
        // Within the runtime, by which traces are sent.
        let log = telemetry::init(&config.log)?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        if let Err(error) = net::raise_nofile_limit() {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
        let outcome = serve(config).await;
        log.flush(Duration::from_secs(2));
        outcome
    })
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let supervisor = Supervisor::new();
    let running = Attestor::start_under(config, Clock::system(), supervisor.clone()).await?;
    let stopped = supervisor.run(GRACE).await;
    drop(running);
    Ok(stopped?)
}

#[expect(clippy::print_stderr, reason = "what a command says goes to standard error")]
fn say(text: &str) {
    eprintln!("{text}");
}
