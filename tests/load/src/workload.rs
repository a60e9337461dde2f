//! One workload behind a real node: the stream of its X.509-SVIDs.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Result, bail};
use mintmark_proto::workload::{
    X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use tonic::{Code, Request, Status, Streaming, metadata::MetadataValue};

use crate::target::unix;

/// Between two attempts of a workload that has no identity yet.
const AGAIN: Duration = Duration::from_millis(50);

/// Opens the stream, again and again until it brings this identity, or any when it is empty.
pub(crate) async fn open(socket: &Path, spiffe_id: &str) -> Result<Streaming<X509svidResponse>> {
    let mut client = SpiffeWorkloadApiClient::new(unix(socket).await?);
    let wanted = |held: &BTreeSet<String>| spiffe_id.is_empty() || held.contains(spiffe_id);
    loop {
        let mut request = Request::new(X509svidRequest {});
        request
            .metadata_mut()
            .insert("workload.spiffe.io", MetadataValue::from_static("true"));
        let refused = match client.fetch_x509svid(request).await {
            Ok(opened) => {
                let mut stream = opened.into_inner();
                match until(&mut stream, wanted).await {
                    Ok(()) => return Ok(stream),
                    Err(error) => error,
                }
            }
            Err(status) => status.into(),
        };
        let code = refused.downcast_ref::<Status>().map(Status::code);
        if !matches!(code, Some(Code::PermissionDenied | Code::Unavailable)) {
            return Err(refused.context("fetch X.509-SVIDs"));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Reads the stream until the identities it brings are as wanted.
pub(crate) async fn until(
    stream: &mut Streaming<X509svidResponse>,
    wanted: impl Fn(&BTreeSet<String>) -> bool,
) -> Result<()> {
    loop {
        let Some(message) = stream.message().await? else {
            bail!("the stream of X.509-SVIDs ended");
        };
        if wanted(&message.svids.into_iter().map(|svid| svid.spiffe_id).collect()) {
            return Ok(());
        }
    }
}
