//! `entries`: BatchCreateEntry by one caller, one call after another, as an administrator's script makes them.

use anyhow::Result;
use mintmark_proto::spire::{server::entry::entry_client::EntryClient, types::Spiffeid};
use tonic::transport::Channel;

use crate::{
    drive::{Worker, drive},
    entries::{self, Identity, Names},
    options::Entries,
    report::Report,
    target::Target,
};

pub(super) async fn run(target: &Target, load: &Entries) -> Result<Report> {
    let caller = Caller {
        client: EntryClient::new(target.admin.clone()),
        names: Names::new(),
        parent: Spiffeid {
            trust_domain: target.anchors.trust_domain().to_owned(),
            path: "/bench/no-such-node".into(),
        },
        batch: usize::try_from(load.batch)?,
        limit: usize::try_from(load.limit)?,
        made: Vec::new(),
    };
    let (window, callers) = drive(target, &load.pace, 1, vec![caller]).await?;
    let made: Vec<&Identity> = callers.iter().flat_map(|caller| &caller.made).collect();
    let total = made.len();
    entries::delete(target, made).await?;
    Ok(Report::new("entries", &target.label)
        .with("entries_per_call", load.batch)
        .window("entries", &window)
        .with("made_in_all", total))
}

struct Caller {
    client: EntryClient<Channel>,
    names: Names,
    parent: Spiffeid,
    batch: usize,
    limit: usize,
    made: Vec<Identity>,
}

impl Worker for Caller {
    async fn call(&mut self) -> Result<u64> {
        anyhow::ensure!(
            self.made.len() < self.limit,
            "{} entries were made before the time was over: give a larger --limit",
            self.limit
        );
        let entries = (0..self.batch).map(|_| self.names.entry(&self.parent)).collect();
        let made = entries::create_batch(&mut self.client, entries).await?;
        let count = u64::try_from(made.len())?;
        self.made.extend(made);
        Ok(count)
    }
}
