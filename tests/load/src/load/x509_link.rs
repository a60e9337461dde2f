//! `x509-link`: bare public keys through the node link, from many connected nodes.

use std::sync::Arc;

use anyhow::{Result, ensure};
use mintmark_proto::{Bytes, attestor::KeyBinding};

use super::Sampler;
use crate::{
    check::X509Sample,
    drive::{Worker, drive},
    entries::{self, Identity},
    keys::Ring,
    link::{self, Link},
    node,
    options::X509Link,
    report::Report,
    target::Target,
};

pub(super) async fn run(target: &Target, load: &X509Link) -> Result<Report> {
    let nodes = node::join_all(target, load.nodes).await?;
    let identities: Vec<Arc<[Identity]>> = entries::spread(target, &nodes, load.identities)
        .await?
        .into_iter()
        .map(Into::into)
        .collect();
    let ring = Ring::generate(load.ring)?;
    let keys = usize::try_from(load.keys)?;
    let workers: Vec<Member> = link::open_all(&nodes)
        .await?
        .into_iter()
        .zip(&identities)
        .map(|(link, identities)| Member {
            link,
            identities: Arc::clone(identities),
            next: 0,
            keys,
            ring: ring.clone(),
            sampler: Sampler::new(load.pace.sample),
            samples: Vec::new(),
        })
        .collect();
    let (window, workers) = drive(target, &load.pace, load.in_flight, workers).await?;
    let samples: Vec<&X509Sample> = workers.iter().flat_map(|worker| &worker.samples).take(5000).collect();
    samples.iter().try_for_each(|sample| target.anchors.x509(sample))?;
    let verified = samples.len();
    drop(workers);
    entries::delete(target, identities.iter().flat_map(|identities| identities.iter())).await?;
    Ok(Report::new("x509-link", &target.label)
        .with("nodes", load.nodes)
        .with("identities", load.identities)
        .with("keys_per_message", load.keys)
        .with("in_flight", load.in_flight)
        .window("credentials", &window)
        .with("verified", verified))
}

struct Member {
    link: Link,
    identities: Arc<[Identity]>,
    next: usize,
    keys: usize,
    ring: Ring,
    sampler: Sampler,
    samples: Vec<X509Sample>,
}

impl Worker for Member {
    async fn call(&mut self) -> Result<u64> {
        let first = self.next;
        self.next += self.keys;
        let identity = |n: usize| &self.identities[(first + n) % self.identities.len()];
        let mut sent: Vec<Bytes> = Vec::with_capacity(self.keys);
        let bindings = self
            .ring
            .take(self.keys)
            .enumerate()
            .map(|(n, key)| {
                sent.push(key.public_key.clone());
                KeyBinding {
                    entry_id: identity(n).entry_id.to_string(),
                    public_key: key.public_key.clone(),
                }
            })
            .collect();
        let signed = self.link.sign(bindings).await?;
        for (n, (result, public_key)) in signed.results.into_iter().zip(sent).enumerate() {
            ensure!(
                result.code == 0,
                "sign over the link: code {}: {}",
                result.code,
                result.message
            );
            if self.sampler.keeps() {
                self.samples.push(X509Sample {
                    spiffe_id: identity(n).spiffe_id.to_string(),
                    public_key,
                    chain: result.cert_chain,
                });
            }
        }
        Ok(u64::try_from(self.keys)?)
    }
}
