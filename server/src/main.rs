//! The issuer's binary: `mintmark-server run|validate|backup|restore`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use mintmark_runtime::clock::Clock;
use mintmark_runtime::config::{Loaded, environment};
use mintmark_runtime::{crypto, telemetry};
use mintmark_server::config::{Config, InvalidConfig};
use mintmark_server::server::{self, Options, Server};

/// How long the log may take to be written at the end.
const FLUSH: Duration = Duration::from_secs(2);

/// Issues SPIFFE identities: X.509-SVIDs, JWT-SVIDs and WIT-SVIDs, each logged before it is signed.
#[derive(Parser)]
#[command(name = "mintmark-server", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
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
}

#[derive(clap::Args)]
struct Configured {
    /// The configuration; without it there are the defaults and MINTMARK_CONFIG_… variables.
    #[arg(long, value_name = "FILE", env = "MINTMARK_CONFIG")]
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
        Command::Validate(configured) => finish(validate(&configured)),
        Command::Backup { configured, write } => finish(backup(&configured, &write)),
        Command::Restore { configured, file } => finish(restore(&configured, &file)),
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
        for warning in &warnings {
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

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a command's output")]
fn validate(configured: &Configured) -> anyhow::Result<()> {
    let Loaded {
        value: config,
        warnings,
    } = configured.load()?;
    config.log.check()?;
    for warning in warnings.into_iter().chain(config.check()?) {
        eprintln!("warning: {warning}");
    }
    print!("{}", config.effective());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is a command's output")]
fn backup(configured: &Configured, file: &std::path::Path) -> anyhow::Result<()> {
    let config = configured.load()?.value;
    let revision = server::backup(&config, file)?;
    println!(
        "wrote revision {revision} of {} to {}",
        config.store_dir().display(),
        file.display()
    );
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is a command's output")]
fn restore(configured: &Configured, file: &std::path::Path) -> anyhow::Result<()> {
    let config = configured.load()?.value;
    let restored = runtime()?.block_on(server::restore(&config, file))?;
    println!(
        "restored revision {} to {}; the server goes on in issuance log {}",
        restored.revision,
        config.store_dir().display(),
        restored.log
    );
    Ok(())
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("worker")
        .build()
}
