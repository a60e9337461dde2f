//! `mintmark-attestor`: the per-node attestor.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

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
#[command(name = "mintmark-attestor", version, disable_help_subcommand = true, after_help = EXIT_STATUS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How the answer is printed: text for people, json for scripts. What is logged follows `[log] format`.
    #[arg(long, global = true, value_enum, default_value_t = Output::Text, value_name = "FORMAT", hide_possible_values = true)]
    output: Output,
}

const EXIT_STATUS: &str = "Exit status: 0 done, 1 refused (with the reason on standard error), 2 wrong usage.";

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
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
    /// The configuration; without it there are the defaults and MINTMARK_CONFIG_… variables.
    #[arg(long, short, value_name = "FILE", env = "MINTMARK_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    crypto::install();
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Run(options) => run(&options),
        Command::Validate(options) => validate(&options, cli.output),
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

#[expect(clippy::print_stdout, reason = "this is a command's output")]
fn validate(options: &Options, output: Output) -> anyhow::Result<()> {
    let Loaded { value, warnings } = Config::load(options.config.as_deref(), environment())?;
    value.log.check()?;
    let warnings: Vec<_> = warnings.into_iter().chain(value.check()?).collect();
    for warning in &warnings {
        say(&format!("warning: {warning}"));
    }
    match output {
        Output::Text => println!("the configuration is good"),
        Output::Json => println!("{}", serde_json::json!({ "valid": true, "warnings": warnings })),
    }
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_reference_is_what_help_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/programs.md");
        let reference = std::fs::read_to_string(path).unwrap();
        let mut root = Cli::command().term_width(140);
        root.build();
        let all = root.get_subcommands().cloned().collect::<Vec<_>>();
        for mut command in std::iter::once(root).chain(all) {
            let help = command.render_help().to_string();
            let lines: Vec<_> = help.trim_end().lines().map(str::trim_end).collect();
            let block = format!("```\n{}\n```", lines.join("\n"));
            assert!(
                reference.contains(&block),
                "docs/reference/programs.md should hold\n{block}"
            );
        }
    }
}
