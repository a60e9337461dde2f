//! Registration entries for the load: made, waited for, and taken away again.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use mintmark_proto::spire::{
    server::entry::{
        BatchCreateEntryRequest, BatchDeleteEntryRequest, GetAuthorizedEntriesRequest, entry_client::EntryClient,
    },
    types::{Entry, EntryMask, Selector, Spiffeid},
};
use tonic::transport::Channel;

use crate::{node::Node, target::Target};

/// Entries of one call.
const BATCH: usize = 500;

/// How long a server may take to let an agent see its entries.
const PATIENCE: Duration = Duration::from_secs(60);

/// An entry that was made: its ID, and the SPIFFE ID as text.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) entry_id: Arc<str>,
    pub(crate) spiffe_id: Arc<str>,
}

/// Names for entries that no other run has.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    run: u64,
    next: u64,
}

impl Names {
    pub(crate) fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            run: u64::try_from(since.as_micros()).unwrap_or_default(),
            next: 0,
        }
    }

    /// An entry below this parent, for a workload that does not exist.
    pub(crate) fn entry(&mut self, parent: &Spiffeid) -> Entry {
        let n = self.next;
        self.next += 1;
        self.entry_for(parent, format!("uid:{}", 1_000_000 + n))
    }

    /// An entry below this parent for the workload that the unix selector names.
    pub(crate) fn entry_for(&mut self, parent: &Spiffeid, selector: String) -> Entry {
        let n = self.next;
        self.next += 1;
        Entry {
            spiffe_id: Some(Spiffeid {
                trust_domain: parent.trust_domain.clone(),
                path: format!("/bench/{:x}/{n}", self.run),
            }),
            parent_id: Some(parent.clone()),
            selectors: vec![Selector {
                r#type: "unix".into(),
                value: selector,
            }],
            ..Entry::default()
        }
    }
}

/// Makes `count` entries, spread evenly over the nodes, and waits until each node may use its own. One list a node.
pub(crate) async fn spread(target: &Target, nodes: &[Node], count: u32) -> Result<Vec<Vec<Identity>>> {
    let count = usize::try_from(count)?;
    ensure!(
        count >= nodes.len(),
        "{count} identities are less than one for each of {} nodes",
        nodes.len()
    );
    let mut names = Names::new();
    let entries = nodes
        .iter()
        .cycle()
        .take(count)
        .map(|node| names.entry(&node.id))
        .collect();
    let made = create(target, entries).await?;
    let mut spread = vec![Vec::new(); nodes.len()];
    for (n, identity) in made.into_iter().enumerate() {
        spread[n % nodes.len()].push(identity);
    }
    for (node, identities) in nodes.iter().zip(&spread) {
        wait_authorized(&node.channel, identities.len()).await?;
    }
    Ok(spread)
}

/// Makes entries, some hundred a call; the identities are in the same order.
pub(crate) async fn create(target: &Target, entries: Vec<Entry>) -> Result<Vec<Identity>> {
    let mut client = EntryClient::new(target.admin.clone());
    let mut made = Vec::with_capacity(entries.len());
    for batch in entries.chunks(BATCH) {
        made.extend(create_batch(&mut client, batch.to_vec()).await?);
    }
    Ok(made)
}

/// Makes the entries of one call.
pub(crate) async fn create_batch(client: &mut EntryClient<Channel>, entries: Vec<Entry>) -> Result<Vec<Identity>> {
    let asked = entries.len();
    let request = BatchCreateEntryRequest {
        entries,
        output_mask: Some(EntryMask {
            spiffe_id: true,
            ..EntryMask::default()
        }),
    };
    let results = client
        .batch_create_entry(request)
        .await
        .context("create entries")?
        .into_inner()
        .results;
    ensure!(results.len() == asked, "{} results for {asked} entries", results.len());
    let mut made = Vec::with_capacity(asked);
    for result in results {
        let status = result.status.unwrap_or_default();
        ensure!(
            status.code == 0,
            "create an entry: code {}: {}",
            status.code,
            status.message
        );
        let entry = result.entry.context("no entry in the answer to its creation")?;
        let id = entry.spiffe_id.context("an entry without its SPIFFE ID")?;
        made.push(Identity {
            entry_id: entry.id.into(),
            spiffe_id: text(&id).into(),
        });
    }
    Ok(made)
}

/// Takes entries away.
pub(crate) async fn delete<'a>(target: &Target, ids: impl IntoIterator<Item = &'a Identity>) -> Result<()> {
    let ids: Vec<String> = ids.into_iter().map(|identity| identity.entry_id.to_string()).collect();
    let mut client = EntryClient::new(target.admin.clone());
    for batch in ids.chunks(BATCH) {
        let request = BatchDeleteEntryRequest { ids: batch.to_vec() };
        for result in client
            .batch_delete_entry(request)
            .await
            .context("delete entries")?
            .into_inner()
            .results
        {
            let status = result.status.unwrap_or_default();
            ensure!(
                status.code == 0,
                "delete an entry: code {}: {}",
                status.code,
                status.message
            );
        }
    }
    Ok(())
}

/// The IDs of the entries that an agent may use, as it is told.
pub(crate) async fn authorized(client: &mut EntryClient<Channel>) -> Result<Vec<String>> {
    let request = GetAuthorizedEntriesRequest {
        output_mask: Some(EntryMask::default()),
    };
    let entries = client
        .get_authorized_entries(request)
        .await
        .context("get authorized entries")?
        .into_inner()
        .entries;
    Ok(entries.into_iter().map(|entry| entry.id).collect())
}

/// SPIRE reads its entries into memory every few seconds.
async fn wait_authorized(channel: &Channel, count: usize) -> Result<()> {
    let mut client = EntryClient::new(channel.clone()).max_decoding_message_size(64 << 20);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = authorized(&mut client).await?.len();
        if seen == count {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!(
                "an agent sees {seen} of its {count} entries after {} s",
                PATIENCE.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A SPIFFE ID as text.
pub(crate) fn text(id: &Spiffeid) -> String {
    format!("spiffe://{}{}", id.trust_domain, id.path)
}

/// A SPIFFE ID with a path, from text.
pub(crate) fn parse(id: &str) -> Result<Spiffeid> {
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
        assert_eq!(text(&parse(id).unwrap()), id);
        assert!(parse("bench.test/a").is_err());
    }
}
