//! The issuer's binary: `mintmark-server run|validate|backup|restore|uninstall-check`.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use mintmark_runtime::clock::Clock;
use mintmark_runtime::config::{Loaded, environment};
use mintmark_runtime::{crypto, telemetry};
use mintmark_server::config::{Config, InvalidConfig};
use mintmark_server::roll;
use mintmark_server::server::{self, Options, Server};
use serde_json::json;

/// How long the log may take to be written at the end.
const FLUSH: Duration = Duration::from_secs(2);

/// Issues SPIFFE identities: X.509-SVIDs, JWT-SVIDs and WIT-SVIDs, each logged before it is signed.
#[derive(Parser)]
#[command(name = "mintmark-server", version, disable_help_subcommand = true, after_help = EXIT_STATUS)]
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
    /// Run the server until it is told to stop.
    Run(Configured),
    /// Check a configuration, lint its lifetimes, and print what is in force.
    Validate(Configured),
    /// Write a backup of entries, nodes and authorities to a new file; the server may run. The issuance log is not part of it.
    Backup {
        #[command(flatten)]
        configured: Configured,
        /// The file to write, which must not exist.
        #[arg(long, value_name = "FILE")]
        write: PathBuf,
    },
    /// Make the data directory's store from a backup, and go on in a new issuance log; the server must not run.
    Restore {
        #[command(flatten)]
        configured: Configured,
        /// The backup.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Refuse while pods mount a CSI driver, and name them: what the chart runs before it is uninstalled.
    UninstallCheck(UninstallCheck),
}

#[derive(clap::Args)]
struct UninstallCheck {
    /// A driver; several times for several.
    #[arg(long = "driver", value_name = "NAME", required = true)]
    drivers: Vec<String>,
    /// What undoes a refused uninstallation: printed with the refusal.
    #[arg(long, value_name = "TEXT")]
    undo: Option<String>,
    /// How the API server is reached; without it, as a pod of its cluster.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Configured {
    /// The configuration; without it there are the defaults and MINTMARK_CONFIG_… variables.
    #[arg(long, value_name = "FILE", env = "MINTMARK_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
}

impl Configured {
    fn load(&self) -> Result<Loaded<Config>, InvalidConfig> {
        Config::load(self.config.as_deref(), environment())
    }
}

fn main() -> ExitCode {
    crypto::install();
    let cli = Cli::parse();
    match cli.command {
        Command::Run(configured) => finish(run(&configured)),
        Command::Validate(configured) => finish(validate(&configured, cli.output)),
        Command::Backup { configured, write } => finish(backup(&configured, &write, cli.output)),
        Command::Restore { configured, file } => finish(restore(&configured, &file, cli.output)),
        Command::UninstallCheck(check) => finish(uninstall_check(&check, cli.output)),
    }
}

#[expect(clippy::print_stderr, reason = "a command's errors go to standard error")]
fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Our errors name their causes themselves.
            eprintln!("mintmark-server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(configured: &Configured) -> anyhow::Result<()> {
    let Loaded {
        value: config,
        warnings,
    } = configured.load()?;
    if let Err(error) = crypto::hide_memory() {
        anyhow::bail!("cannot keep the memory of this process, which holds keys, from others: {error}");
    }
    runtime()?.block_on(async {
        let log = telemetry::init(&config.log)?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let options = Options {
            log: Some(log.clone()),
            ..Options::default()
        };
        let result = async {
            let running = Server::start(config, Clock::system(), options).await?;
            Ok(running.wait().await?)
        };
        let result = result.await;
        log.flush(FLUSH);
        result
    })
}

#[expect(clippy::print_stderr, reason = "this is a command's output")]
fn validate(configured: &Configured, output: Output) -> anyhow::Result<()> {
    let Loaded {
        value: config,
        warnings,
    } = configured.load()?;
    config.log.check()?;
    let warnings: Vec<_> = warnings.into_iter().chain(config.check()?).collect();
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    let effective = config.effective();
    let as_json: serde_json::Value = toml::from_str(&effective)?;
    let answer = json!({ "valid": true, "warnings": warnings, "configuration": as_json });
    answer_with(output, &answer, effective.trim_end());
    Ok(())
}

fn backup(configured: &Configured, file: &std::path::Path, output: Output) -> anyhow::Result<()> {
    let config = configured.load()?.value;
    let (revision, store) = (server::backup(&config, file)?, config.store_dir());
    let answer = json!({ "revision": revision, "store": store, "file": file });
    let text = format!("wrote revision {revision} of {} to {}", store.display(), file.display());
    answer_with(output, &answer, &text);
    Ok(())
}

fn restore(configured: &Configured, file: &std::path::Path, output: Output) -> anyhow::Result<()> {
    let config = configured.load()?.value;
    let restored = runtime()?.block_on(server::restore(&config, file))?;
    let (revision, store, log) = (restored.revision, config.store_dir(), restored.log);
    let answer = json!({ "revision": revision, "store": store, "log": log });
    let text = format!(
        "restored revision {revision} to {}; the server goes on in issuance log {log}",
        store.display()
    );
    answer_with(output, &answer, &text);
    Ok(())
}

fn uninstall_check(check: &UninstallCheck, output: Output) -> anyhow::Result<()> {
    let UninstallCheck {
        drivers,
        undo,
        kubeconfig,
    } = check;
    let mut hints =
        "`helm uninstall --no-hooks` goes on all the same: pods that mount the driver then cannot end until it is back"
            .to_owned();
    if let Some(undo) = undo {
        hints = format!("{hints}\nuntil then the release counts as half gone; this makes it whole again: {undo}");
    }
    let found = runtime()?.block_on(roll::mounting(kubeconfig.as_deref(), drivers, &Clock::system()));
    let found = found.map_err(|error| anyhow::anyhow!("{error}\n{hints}"))?;
    let (names, all) = (drivers.join(" or "), found.pods.len() + found.more);
    if all == 0 {
        let answer = json!({ "drivers": drivers, "pods": found.pods });
        answer_with(output, &answer, &format!("no pod mounts {names}"));
        return Ok(());
    }
    let mut pods = found.pods.join("\n  ");
    if found.more > 0 {
        pods = format!("{pods}\n  and {} more", found.more);
    }
    let (count, they) = match all {
        1 => ("1 pod mounts".to_owned(), "it"),
        all => (format!("{all} pods mount"), "them"),
    };
    anyhow::bail!(
        "{count} {names}, without which the kubelet could not end {they}:\n  {pods}\ndelete {they}, or what makes {they}, and uninstall again\n{hints}"
    )
}

#[expect(clippy::print_stdout, reason = "this is a command's output")]
fn answer_with(output: Output, json: &serde_json::Value, text: &str) {
    match output {
        Output::Text => println!("{text}"),
        Output::Json => println!("{json}"),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("worker")
        .build()
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
