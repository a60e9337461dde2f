//! `x509-batch`: BatchNewX509SVID as agents call it.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use mintmark_proto::{
    Bytes,
    spire::server::svid::{BatchNewX509svidRequest, NewX509svidParams, svid_client::SvidClient},
};
use tonic::transport::Channel;

use super::Sampler;
use crate::{
    check::X509Sample,
    drive::{Worker, drive},
    entries::{self, Identity},
    keys::Ring,
    node,
    options::X509Batch,
    report::Report,
    target::Target,
};

pub(super) async fn run(target: &Target, load: &X509Batch) -> Result<Report> {
    let nodes = node::join_all(target, load.nodes).await?;
    let spread = entries::spread(target, &nodes, load.identities).await?;
    let ring = Ring::generate(load.ring)?;
    let batch = usize::try_from(load.batch)?;
    let identities: Vec<Arc<[Identity]>> = spread.into_iter().map(Into::into).collect();
    let workers: Vec<Caller> = (0..usize::try_from(load.in_flight)?)
        .map(|n| Caller {
            client: SvidClient::new(nodes[n % nodes.len()].channel.clone()).max_decoding_message_size(64 << 20),
            identities: Arc::clone(&identities[n % nodes.len()]),
            next: n * batch,
            batch,
            ring: ring.clone(),
            sampler: Sampler::new(load.pace.sample),
            samples: Vec::new(),
        })
        .collect();
    let (window, workers) = drive(target, &load.pace, load.in_flight, workers).await?;
    let samples: Vec<X509Sample> = workers.into_iter().flat_map(|worker| worker.samples).collect();
    samples.iter().try_for_each(|sample| target.anchors.x509(sample))?;
    entries::delete(target, identities.iter().flat_map(|identities| identities.iter())).await?;
    Ok(Report::new("x509-batch", &target.label)
        .with("nodes", load.nodes)
        .with("identities", load.identities)
        .with("requests_per_call", load.batch)
        .with("in_flight", load.in_flight)
        .window("credentials", &window)
        .with("verified", samples.len()))
}

struct Caller {
    client: SvidClient<Channel>,
    identities: Arc<[Identity]>,
    next: usize,
    batch: usize,
    ring: Ring,
    sampler: Sampler,
    samples: Vec<X509Sample>,
}

impl Worker for Caller {
    async fn call(&mut self) -> Result<u64> {
        let first = self.next;
        self.next += self.batch;
        let identity = |n: usize| &self.identities[(first + n) % self.identities.len()];
        let mut keys: Vec<Bytes> = Vec::with_capacity(self.batch);
        let params = self
            .ring
            .take(self.batch)
            .enumerate()
            .map(|(n, key)| {
                keys.push(key.public_key.clone());
                NewX509svidParams {
                    entry_id: identity(n).entry_id.to_string(),
                    csr: key.csr.clone(),
                }
            })
            .collect();
        let answer = self.client.batch_new_x509svid(BatchNewX509svidRequest { params }).await;
        let results = answer.context("BatchNewX509SVID")?.into_inner().results;
        ensure!(
            results.len() == self.batch,
            "{} results for {} requests",
            results.len(),
            self.batch
        );
        for (n, (result, public_key)) in results.into_iter().zip(keys).enumerate() {
            let status = result.status.unwrap_or_default();
            ensure!(
                status.code == 0,
                "BatchNewX509SVID: code {}: {}",
                status.code,
                status.message
            );
            let svid = result.svid.context("a result without an SVID")?;
            if self.sampler.keeps() {
                self.samples.push(X509Sample {
                    spiffe_id: identity(n).spiffe_id.to_string(),
                    public_key,
                    chain: svid.cert_chain,
                });
            }
        }
        Ok(u64::try_from(self.batch)?)
    }
}
