//! `propagation`: how long after the call that creates it an entry shows, in an agent's API, on the node link, or as an SVID on
//! an open stream of a workload. Timed from the start of the call, so that what the server does to keep it is in it.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use mintmark_proto::{
    spire::{
        server::entry::entry_client::EntryClient,
        types::{Entry, Spiffeid},
    },
    workload::{X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient},
};
use tokio::time::timeout;
use tonic::{Code, Request, Streaming, metadata::MetadataValue, transport::Channel};

use crate::{
    drive::Latencies,
    entries::{self, Identity, Names},
    link::{self, Link},
    node,
    options::{Propagation, Where},
    report::Report,
    target::{Target, unix},
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
            at_workload(target, load.rounds, patience, socket, &parse(parent)?).await?
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
    let opened = timeout(patience, open(socket, &first.spiffe_id)).await;
    let mut stream = opened.context("the workload got no identity")??;
    let mut latencies = Latencies::default();
    for _ in 0..rounds {
        let begun = Instant::now();
        let made = create(target, names.entry_for(parent, selector.clone())).await?;
        let came = until(&mut stream, |held| held.contains(&*made.spiffe_id));
        timeout(patience, came)
            .await
            .context("no SVID came on the open stream")??;
        latencies.push(begun.elapsed());
        entries::delete(target, [&made]).await?;
        let gone = until(&mut stream, |held| !held.contains(&*made.spiffe_id));
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

/// Opens the stream of X.509-SVIDs, again and again until it brings this identity.
async fn open(socket: &Path, spiffe_id: &str) -> Result<Streaming<X509svidResponse>> {
    let mut client: SpiffeWorkloadApiClient<Channel> = SpiffeWorkloadApiClient::new(unix(socket).await?);
    loop {
        let mut request = Request::new(X509svidRequest {});
        request
            .metadata_mut()
            .insert("workload.spiffe.io", MetadataValue::from_static("true"));
        let refused = match client.fetch_x509svid(request).await {
            Ok(opened) => {
                let mut stream = opened.into_inner();
                match until(&mut stream, |held| held.contains(spiffe_id)).await {
                    Ok(()) => return Ok(stream),
                    Err(error) => error,
                }
            }
            Err(status) => status.into(),
        };
        let code = refused.downcast_ref::<tonic::Status>().map(tonic::Status::code);
        if !matches!(code, Some(Code::PermissionDenied | Code::Unavailable)) {
            return Err(refused.context("fetch X.509-SVIDs"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Reads the stream until the identities it brings are as wanted.
async fn until(stream: &mut Streaming<X509svidResponse>, wanted: impl Fn(&BTreeSet<String>) -> bool) -> Result<()> {
    loop {
        let Some(message) = stream.message().await? else {
            bail!("the stream of X.509-SVIDs ended");
        };
        if wanted(&message.svids.into_iter().map(|svid| svid.spiffe_id).collect()) {
            return Ok(());
        }
    }
}

fn parse(id: &str) -> Result<Spiffeid> {
    let rest = id
        .strip_prefix("spiffe://")
        .with_context(|| format!("{id:?} is not a SPIFFE ID"))?;
    let (trust_domain, path) = rest.split_once('/').with_context(|| format!("{id:?} has no path"))?;
    Ok(Spiffeid {
        trust_domain: trust_domain.to_owned(),
        path: format!("/{path}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_is_taken_apart_and_put_together() {
        let id = "spiffe://bench.test/spire/agent/join_token/abc";
        assert_eq!(entries::text(&parse(id).unwrap()), id);
        assert!(parse("bench.test/a").is_err());
    }
}
