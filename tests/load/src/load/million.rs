//! `million`: fills a server with entries, restarts it, and measures how long it takes to be ready, what it then holds in memory,
//! and whether a node's look-up has become slower.

use std::{
    fs::File,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use mintmark_proto::spire::{
    server::entry::{CountEntriesRequest, entry_client::EntryClient},
    types::Spiffeid,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};

use crate::{
    drive::Latencies,
    entries::{self, Names},
    node::{self, Node},
    options::{self, Million},
    process::Process,
    report::Report,
    scrape,
    target::Target,
};

/// Entries of one call.
const BATCH: u32 = 1000;

/// Look-ups that are timed.
const LOOK_UPS: u32 = 500;

pub(super) async fn run(options: &options::Target, load: &Million) -> Result<Report> {
    let mut first = Server::start(options, load).await?;
    let target = first.target.clone();
    let node = node::join(&target).await?;
    let mut names = Names::new();
    let own = (0..load.own).map(|_| names.entry(&node.id)).collect();
    entries::create(&target, own).await?;
    let few = look_up(&node, load).await?;

    let begun = Instant::now();
    fill(&target, &mut names, load.entries.saturating_sub(load.own)).await?;
    let filled = begun.elapsed();
    let many = look_up(&node, load).await?;
    let loaded = Process(first.pid()?).memory()?;
    drop((node, target));
    let stopped = first.stop(load).await?;

    let mut second = Server::start(options, load).await?;
    let memory = Process(second.pid()?).memory()?;
    let count = EntryClient::new(second.target.admin.clone())
        .count_entries(CountEntriesRequest { filter: None })
        .await
        .context("count the entries")?
        .into_inner()
        .count;
    ensure!(
        count == i32::try_from(load.entries)?,
        "{count} entries after the restart, where {} were made",
        load.entries
    );
    let report = Report::new("million", &options.label)
        .with("entries", load.entries)
        .seconds("fill_seconds", filled)
        .number("entries_per_second", f64::from(load.entries) / filled.as_secs_f64())
        .with("rss_filled_kib", loaded.now)
        .seconds("stop_seconds", stopped)
        .seconds("start_to_ready_seconds", second.ready_after)
        .memory(memory)
        .with("own_entries", load.own)
        .number("look_up_few_p50_ms", few.quantile_ms(0.5))
        .number("look_up_many_p50_ms", many.quantile_ms(0.5))
        .number("look_up_many_p99_ms", many.quantile_ms(0.99));
    second.stop(load).await?;
    Ok(report)
}

/// A server that was started here.
struct Server {
    child: Child,
    target: Target,
    ready_after: Duration,
}

impl Server {
    async fn start(options: &options::Target, load: &Million) -> Result<Self> {
        let (program, arguments) = load.command.split_first().context("no command")?;
        let begun = Instant::now();
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_of(load)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let pid = child.id().context("the server ended at once")?;
        let deadline = begun + Duration::from_secs(load.patience);
        while !ready(options, load, pid).await {
            if let Some(status) = child.try_wait().context("look after the server")? {
                bail!("the server ended before it was ready: {status}");
            }
            ensure!(
                Instant::now() < deadline,
                "the server was not ready within {} s",
                load.patience
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let ready_after = begun.elapsed();
        Ok(Self {
            child,
            target: Target::find(options, pid).await?,
            ready_after,
        })
    }

    fn pid(&self) -> Result<u32> {
        self.child.id().context("the server has ended")
    }

    async fn stop(&mut self, load: &Million) -> Result<Duration> {
        let begun = Instant::now();
        kill(Pid::from_raw(i32::try_from(self.pid()?)?), Signal::SIGTERM).context("stop the server")?;
        let status = tokio::time::timeout(Duration::from_secs(load.patience), self.child.wait())
            .await
            .context("the server did not stop")?
            .context("wait for the server")?;
        ensure!(status.success(), "the server stopped with {status}");
        Ok(begun.elapsed())
    }
}

fn log_of(load: &Million) -> Result<Stdio> {
    let Some(path) = &load.server_log else {
        return Ok(Stdio::null());
    };
    let log = File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    Ok(log.into())
}

async fn ready(options: &options::Target, load: &Million, pid: u32) -> bool {
    match load.ready {
        Some(address) => matches!(scrape::get(address, "/ready").await, Ok((200, _))),
        None => Target::find(options, pid).await.is_ok(),
    }
}

async fn fill(target: &Target, names: &mut Names, count: u32) -> Result<()> {
    let parent = Spiffeid {
        trust_domain: target.anchors.trust_domain().to_owned(),
        path: String::new(),
    };
    let mut client = EntryClient::new(target.admin.clone());
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH);
        // As in a fleet of a hundred workloads a node.
        let entries = (0..batch)
            .map(|n| {
                let path = format!("/bench/node/{}", (left - n) / 100);
                names.entry(&Spiffeid { path, ..parent.clone() })
            })
            .collect();
        entries::create_batch(&mut client, entries).await?;
        left -= batch;
    }
    Ok(())
}

async fn look_up(node: &Node, load: &Million) -> Result<Latencies> {
    let mut client = EntryClient::new(node.channel.clone());
    let own = usize::try_from(load.own)?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while entries::authorized(&mut client).await?.len() != own {
        ensure!(Instant::now() < deadline, "the node does not see its {own} entries");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut latencies = Latencies::default();
    for _ in 0..LOOK_UPS {
        let begun = Instant::now();
        let seen = entries::authorized(&mut client).await?.len();
        latencies.push(begun.elapsed());
        ensure!(seen == own, "the node sees {seen} of its {own} entries");
    }
    Ok(latencies.sorted())
}
