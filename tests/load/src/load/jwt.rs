//! `jwt`: NewJWTSVID as agents call it, with an audience that no token had before.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result};
use mintmark_proto::spire::server::svid::{NewJwtsvidRequest, svid_client::SvidClient};
use tonic::transport::Channel;

use super::Sampler;
use crate::{
    check::JwtSample,
    drive::{Worker, drive},
    entries::{self, Identity},
    node,
    options::Jwt,
    report::Report,
    target::Target,
};

pub(super) async fn run(target: &Target, load: &Jwt) -> Result<Report> {
    let nodes = node::join_all(target, load.nodes).await?;
    let identities: Vec<Arc<[Identity]>> = entries::spread(target, &nodes, load.identities)
        .await?
        .into_iter()
        .map(Into::into)
        .collect();
    let audiences = Arc::new(AtomicU64::new(0));
    let workers: Vec<Caller> = (0..usize::try_from(load.in_flight)?)
        .map(|n| Caller {
            client: SvidClient::new(nodes[n % nodes.len()].channel.clone()),
            identities: Arc::clone(&identities[n % nodes.len()]),
            next: n,
            audiences: Arc::clone(&audiences),
            sampler: Sampler::new(load.pace.sample),
            samples: Vec::new(),
        })
        .collect();
    let (window, workers) = drive(target, &load.pace, load.in_flight, workers).await?;
    let samples: Vec<&JwtSample> = workers.iter().flat_map(|worker| &worker.samples).collect();
    samples.iter().try_for_each(|sample| target.anchors.jwt(sample))?;
    entries::delete(target, identities.iter().flat_map(|identities| identities.iter())).await?;
    Ok(Report::new("jwt", &target.label)
        .with("nodes", load.nodes)
        .with("identities", load.identities)
        .with("in_flight", load.in_flight)
        .window("credentials", &window)
        .with("verified", samples.len()))
}

struct Caller {
    client: SvidClient<Channel>,
    identities: Arc<[Identity]>,
    next: usize,
    audiences: Arc<AtomicU64>,
    sampler: Sampler,
    samples: Vec<JwtSample>,
}

impl Worker for Caller {
    async fn call(&mut self) -> Result<u64> {
        let identity = &self.identities[self.next % self.identities.len()];
        self.next += 1;
        let audience = format!(
            "https://audience-{}.bench.test",
            self.audiences.fetch_add(1, Ordering::Relaxed)
        );
        let request = NewJwtsvidRequest {
            entry_id: identity.entry_id.to_string(),
            audience: vec![audience.clone()],
        };
        let answer = self
            .client
            .new_jwtsvid(request)
            .await
            .context("NewJWTSVID")?
            .into_inner();
        let svid = answer.svid.context("an answer without an SVID")?;
        if self.sampler.keeps() {
            self.samples.push(JwtSample {
                spiffe_id: identity.spiffe_id.to_string(),
                audience,
                token: svid.token,
            });
        }
        Ok(1)
    }
}
