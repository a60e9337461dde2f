//! The measurements, one module each. Each finds its server, prepares, runs, verifies a sample and reports.

mod entries;
mod idle;
mod jwt;
mod logged;
mod million;
mod node;
mod propagation;
mod record;
mod x509_batch;
mod x509_link;
mod yardstick;

use std::io::Write as _;

pub(crate) use node::workload;

use anyhow::{Context as _, Result, bail};

use crate::{
    options::{Load, Options},
    report::Report,
    target::Target,
};

/// Samples that one worker keeps.
const SAMPLES: usize = 500;

/// Runs the measurement that was asked for.
pub(crate) async fn run(options: &Options) -> Result<Report> {
    match &options.load {
        Load::Million(load) => return million::run(&options.target, load).await,
        Load::Yardstick => return yardstick::run(&options.target),
        _ => {}
    }
    let pid = options.target.pid.context("--pid is needed: the server's process ID")?;
    if let Load::Idle(load) = &options.load
        && load.nodes == 0
    {
        return idle::alone(&options.target.label, pid, load).await;
    }
    let target = Target::find(&options.target, pid).await?;
    match &options.load {
        Load::X509Batch(load) => x509_batch::run(&target, load).await,
        Load::X509Link(load) => x509_link::run(&target, load).await,
        Load::Jwt(load) => jwt::run(&target, load).await,
        Load::Entries(load) => entries::run(&target, load).await,
        Load::Propagation(load) => propagation::run(&target, load).await,
        Load::Idle(load) => idle::run(&target, load).await,
        Load::Record(load) => record::run(&target, load).await,
        Load::Logged(load) => logged::run(&target, load).await,
        Load::Node(load) => node::run(&target, load).await,
        Load::Million(_) | Load::Yardstick | Load::Workload(_) => bail!("this needs no running server"),
    }
}

/// Says which calls leave a sample: one credential of so many, and no more than a worker keeps.
#[derive(Debug, Clone)]
struct Sampler {
    every: u64,
    seen: u64,
    kept: usize,
}

impl Sampler {
    fn new(every: u64) -> Self {
        Self {
            every,
            seen: 0,
            kept: 0,
        }
    }

    /// Whether this credential is kept; the first one is.
    fn keeps(&mut self) -> bool {
        let keeps = self.seen.is_multiple_of(self.every) && self.kept < SAMPLES;
        self.seen += 1;
        self.kept += usize::from(keeps);
        keeps
    }
}

/// Tells whoever started this, at once.
fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_so_many_is_kept_the_first_one_too() {
        let mut sampler = Sampler::new(100);
        assert_eq!((0..250).filter(|_| sampler.keeps()).count(), 3);
    }
}
