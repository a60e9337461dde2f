//! `propagation`: how long after the call that creates it an entry shows, in an agent's API, on the node link, or as an SVID on
//! an open stream of a workload. Timed from the start of the call, so that what the server does to keep it is in it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use mintmark_proto::spire::{
    server::entry::entry_client::EntryClient,
    types::{Entry, Spiffeid},
};
use tokio::time::timeout;

use crate::{
    drive::Latencies,
    entries::{self, Identity, Names},
    link::{self, Link},
    node,
    options::{Propagation, Where},
    report::Report,
    target::Target,
    workload,
};

/// Between two looks at the agent's API.
const LOOK: Duration = Duration::from_millis(1);

pub(super) async fn run(target: &Target, load: &Propagation) -> Result<Report> {
    let idle = link::open_all(&node::join_all(target, load.nodes).await?).await?;
    let patience = Duration::from_secs(load.patience);
    let latencies = match load.at {
        Where::Api => at_api(target, load.rounds, patience).await?,
        Where::Link => at_link(target, load.rounds, patience).await?,
        Where::Workload => {
            let socket = load.workload_socket.as_deref().context("--workload-socket is needed")?;
            let parent = load.node_id.as_deref().context("--node-id is needed")?;
            at_workload(target, load.rounds, patience, socket, &entries::parse(parent)?).await?
        }
    };
    let at = match load.at {
        Where::Api => "api",
        Where::Link => "link",
        Where::Workload => "workload",
    };
    let connected = idle.len();
    drop(idle);
    Ok(Report::new("propagation", &target.label)
        .with("at", at)
        .with("nodes", connected)
        .with("rounds", latencies.len())
        .latencies(&latencies.sorted())
        .memory(target.process.memory()?))
}

async fn at_api(target: &Target, rounds: u32, patience: Duration) -> Result<Latencies> {
    let node = node::join(target).await?;
    let mut agent = EntryClient::new(node.channel.clone());
    let mut names = Names::new();
    let mut latencies = Latencies::default();
    for _ in 0..rounds {
        let begun = Instant::now();
        let made = create(target, names.entry(&node.id)).await?;
        let shown = async {
            while !entries::authorized(&mut agent)
                .await?
                .iter()
                .any(|id| **id == *made.entry_id)
            {
                tokio::time::sleep(LOOK).await;
            }
            Ok::<_, anyhow::Error>(())
        };
        timeout(patience, shown)
            .await
            .context("the entry did not show in the agent's API")??;
        latencies.push(begun.elapsed());
        entries::delete(target, [&made]).await?;
    }
    Ok(latencies)
}

async fn at_link(target: &Target, rounds: u32, patience: Duration) -> Result<Latencies> {
    let node = node::join(target).await?;
    let mut link = Link::open(&node).await?;
    let mut names = Names::new();
    let mut latencies = Latencies::default();
    for _ in 0..rounds {
        let begun = Instant::now();
        let made = create(target, names.entry(&node.id)).await?;
        let shown = async {
            while !link
                .update()
                .await?
                .upserts
                .iter()
                .any(|entry| *entry.id == *made.entry_id)
            {}
            Ok::<_, anyhow::Error>(())
        };
        timeout(patience, shown)
            .await
            .context("the entry did not come over the link")??;
        latencies.push(begun.elapsed());
        entries::delete(target, [&made]).await?;
        let gone = async {
            while !link.update().await?.removed_ids.iter().any(|id| **id == *made.entry_id) {}
            Ok::<_, anyhow::Error>(())
        };
        timeout(patience, gone)
            .await
            .context("the entry did not go over the link")??;
    }
    Ok(latencies)
}

async fn at_workload(
    target: &Target,
    rounds: u32,
    patience: Duration,
    socket: &Path,
    parent: &Spiffeid,
) -> Result<Latencies> {
    let selector = format!("uid:{}", nix::unistd::getuid());
    let mut names = Names::new();
    // A workload without any identity is refused a stream: one entry stays for as long as this runs.
    let first = create(target, names.entry_for(parent, selector.clone())).await?;
    let opened = timeout(patience, workload::open(socket, &first.spiffe_id)).await;
    let mut stream = opened.context("the workload got no identity")??;
    let mut latencies = Latencies::default();
    for _ in 0..rounds {
        let begun = Instant::now();
        let made = create(target, names.entry_for(parent, selector.clone())).await?;
        let came = workload::until(&mut stream, |held| held.contains(&*made.spiffe_id));
        timeout(patience, came)
            .await
            .context("no SVID came on the open stream")??;
        latencies.push(begun.elapsed());
        entries::delete(target, [&made]).await?;
        let gone = workload::until(&mut stream, |held| !held.contains(&*made.spiffe_id));
        timeout(patience, gone)
            .await
            .context("the SVID stayed on the open stream")??;
    }
    entries::delete(target, [&first]).await?;
    Ok(latencies)
}

async fn create(target: &Target, entry: Entry) -> Result<Identity> {
    let made = entries::create(target, vec![entry]).await?;
    made.into_iter().next().context("no entry was made")
}
