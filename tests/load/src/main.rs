//! `mintmark-bench`: loads any server that speaks SPIRE's server API v1, or our node link, and says what that cost it.
//!
//! Comes in: the address, admin socket, process ID and data directory of a running server. Goes out: one report with
//! throughput, throughput per second of the server's own CPU, latencies and memory, as text or JSON. Keys and requests are made
//! before the clock starts; a sample of what came back is verified after it has stopped, by webpki and ring, and a run
//! whose sample does not hold fails.
//!
//! ```text
//! target   the server: its channels, its trust bundle, its process, its metrics
//! node     one agent: joins by token, then speaks mTLS; link: the same on Mintmark's link; workload: one behind a real node
//! drive    workers in a closed loop, or at a fixed rate; warm-up, window, latencies
//! load     one module a measurement
//! check    verifies the sample
//! ```
//!
//! Nothing of Mintmark is linked but the generated client, so that what is measured does not help itself.

#![allow(
    clippy::disallowed_methods,
    reason = "measures real time on real sockets, and links nothing of Mintmark's runtime"
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

mod check;
mod drive;
mod entries;
mod keys;
mod link;
mod load;
mod node;
mod options;
mod process;
mod report;
mod scrape;
mod target;
mod tls;
mod workload;

use std::{io::Write as _, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser as _;

use options::{Load, Options, Output};

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "mintmark-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    if let Load::Workload(workload) = &options.load {
        return load::workload(workload).await;
    }
    process::refuse_memory_disk(&options.target.data_dir)?;
    process::raise_descriptor_limit().context("raise the limit of open files")?;
    let report = load::run(options).await?;
    let text = match options.output {
        Output::Text => report.text(),
        Output::Json => report.json()?,
    };
    std::io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .context("write the report")
}
