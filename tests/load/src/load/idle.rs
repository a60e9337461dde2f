//! `idle`: what connected nodes cost that do nothing; or what any process costs as it is.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::{
    link, node,
    options::Idle,
    process::{Memory, Process},
    report::{Report, count},
    target::Target,
};

/// Nodes that are connected and thrown away before the first reading, so that what the server makes once is not counted.
const FIRST: u32 = 20;

pub(super) async fn run(target: &Target, load: &Idle) -> Result<Report> {
    drop(link::open_all(&node::join_all(target, FIRST).await?).await?);
    tokio::time::sleep(Duration::from_secs(load.settle)).await;
    let before = target.process.memory()?;
    let nodes = node::join_all(target, load.nodes).await?;
    let links = link::open_all(&nodes).await?;
    let quiet = Quiet::watch(target.process, load.settle, load.seconds).await?;
    drop(links);
    let grown = count(quiet.memory.now) - count(before.now);
    Ok(quiet
        .report("idle", &target.label)
        .with("nodes", load.nodes)
        .with("rss_before_kib", before.now)
        .number("kib_per_node", grown / f64::from(load.nodes)))
}

/// Without any nodes of ours.
pub(super) async fn alone(label: &str, pid: u32, load: &Idle) -> Result<Report> {
    let quiet = Quiet::watch(Process(pid), load.settle, load.seconds).await?;
    Ok(quiet.report("idle", label).with("nodes", 0))
}

/// A process that is left alone.
pub(super) struct Quiet {
    wall: Duration,
    cpu: Duration,
    memory: Memory,
}

impl Quiet {
    /// Leaves it alone for `settle` seconds, and then watches it.
    pub(super) async fn watch(process: Process, settle: u64, seconds: u64) -> Result<Self> {
        tokio::time::sleep(Duration::from_secs(settle)).await;
        let (begun, before) = (Instant::now(), process.cpu()?);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        Ok(Self {
            wall: begun.elapsed(),
            cpu: process.cpu()?.saturating_sub(before),
            memory: process.memory()?,
        })
    }

    pub(super) fn report(&self, measure: &'static str, label: &str) -> Report {
        Report::new(measure, label)
            .seconds("seconds", self.wall)
            .seconds("server_cpu_seconds", self.cpu)
            .number("cpu_percent", 100.0 * self.cpu.as_secs_f64() / self.wall.as_secs_f64())
            .memory(self.memory)
    }
}
