//! `logged`: asks the server's ledger for every serial of a record, and that no two share an index.

use std::{collections::HashSet, fs};

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mintmark_proto::{
    Bytes,
    admin::{ShowLeavesRequest, admin_client::AdminClient, show_leaves_request::Which},
};
use tonic::transport::Channel;

use crate::{options::Logged, report::Report, target::Target};

/// Questions at a time.
const ASKED: usize = 32;

pub(super) async fn run(target: &Target, load: &Logged) -> Result<Report> {
    let path = load.from.join("serials.txt");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let client = AdminClient::new(target.admin.clone());
    let indices: Vec<u64> = stream::iter(text.lines())
        .map(|serial| index_of(client.clone(), serial))
        .buffer_unordered(ASKED)
        .try_collect()
        .await?;
    let unique: HashSet<&u64> = indices.iter().collect();
    ensure!(unique.len() == indices.len(), "two credentials have one index");
    Ok(Report::new("logged", &target.label).with("credentials", indices.len()))
}

async fn index_of(mut client: AdminClient<Channel>, serial: &str) -> Result<u64> {
    let bytes = URL_SAFE_NO_PAD
        .decode(serial)
        .with_context(|| format!("decode serial {serial:?}"))?;
    let which = Some(Which::Serial(Bytes::from(bytes.clone())));
    let answer = client.show_leaves(ShowLeavesRequest { which }).await;
    let leaves = answer
        .with_context(|| format!("{serial} was received and is not in the log"))?
        .into_inner()
        .leaves;
    let found = leaves
        .into_iter()
        .next()
        .with_context(|| format!("{serial} was received and is not in the log"))?;
    let leaf = found
        .leaf
        .with_context(|| format!("the leaf of {serial} cannot be read"))?;
    ensure!(leaf.serial == bytes, "another serial has the index of {serial}");
    Ok(found.index)
}
