//! `record`: issues through every door until the server is gone, and writes down all that came. Whoever kills the server then holds its
//! ledger against this.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use mintmark_proto::{
    Bytes,
    attestor::KeyBinding,
    spire::server::svid::{BatchNewX509svidRequest, NewJwtsvidRequest, NewX509svidParams, svid_client::SvidClient},
};
use serde::Deserialize;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::transport::Channel;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::say;
use crate::{
    entries::{self, Identity},
    keys::Ring,
    link::{self, Link},
    node,
    options::Record,
    report::Report,
    target::Target,
};

/// Keys of one call: some, so that a kill finds calls at every point.
const BATCH: usize = 5;

/// Certificates of one file.
const FILE: usize = 5000;

/// What came.
enum Came {
    Certificate(Bytes),
    Token(String),
}

/// Where workers put what came.
#[derive(Clone)]
struct Tell {
    to: mpsc::UnboundedSender<Came>,
    count: Arc<AtomicU64>,
    enough: u64,
}

impl Tell {
    fn came(&self, what: Came) -> Result<()> {
        self.to.send(what).ok().context("nobody writes it down")?;
        if self.count.fetch_add(1, Ordering::SeqCst) + 1 == self.enough {
            say(r#"{"event":"loaded"}"#)?;
        }
        Ok(())
    }
}

pub(super) async fn run(target: &Target, load: &Record) -> Result<Report> {
    let agents = node::join_all(target, load.nodes).await?;
    let members = node::join_all(target, load.nodes).await?;
    let nodes: Vec<_> = agents.iter().chain(&members).cloned().collect();
    let spread = entries::spread(target, &nodes, 10 * u32::try_from(nodes.len())?).await?;
    let links = link::open_all(&members).await?;
    let ring = Ring::generate(200)?;

    let (to, mut all) = mpsc::unbounded_channel();
    let tell = Tell {
        to,
        count: Arc::default(),
        enough: load.enough,
    };
    let mut workers = JoinSet::new();
    let mut identities = spread.into_iter();
    for (agent, identities) in agents.iter().zip(&mut identities) {
        let client = SvidClient::new(agent.channel.clone());
        workers.spawn(batches(client.clone(), identities.clone(), ring.clone(), tell.clone()));
        workers.spawn(tokens(client, identities, tell.clone()));
    }
    for (link, identities) in links.into_iter().zip(identities) {
        workers.spawn(over_the_link(link, identities, ring.clone(), tell.clone()));
    }
    drop(tell);

    // Each worker ends with the first call that fails, which must be because the server is gone.
    let gone = async {
        let first = workers
            .join_next()
            .await
            .context("no workers")?
            .context("a worker panicked")?;
        let why = first.err().context("a worker ended")?;
        for _ in 0..100 {
            if target.process.is_gone() {
                return Ok(());
            }
            sleep(Duration::from_millis(10)).await;
        }
        bail!("a call failed while the server runs: {why:#}")
    };
    timeout(Duration::from_secs(load.patience), gone)
        .await
        .with_context(|| format!("the server was still there after {} s", load.patience))??;
    while workers.join_next().await.is_some() {}

    let mut came = Vec::new();
    while let Some(one) = all.recv().await {
        came.push(one);
    }
    let tokens = came.iter().filter(|one| matches!(one, Came::Token(_))).count();
    write(&load.into, &came)?;
    Ok(Report::new("record", &target.label)
        .with("credentials", came.len())
        .with("certificates", came.len() - tokens)
        .with("tokens", tokens))
}

async fn batches(mut client: SvidClient<Channel>, identities: Vec<Identity>, ring: Ring, tell: Tell) -> Result<()> {
    loop {
        let params = ring
            .take(BATCH)
            .zip(identities.iter().cycle())
            .map(|(key, identity)| NewX509svidParams {
                entry_id: identity.entry_id.to_string(),
                csr: key.csr.clone(),
            });
        let request = BatchNewX509svidRequest {
            params: params.collect(),
        };
        for result in client.batch_new_x509svid(request).await?.into_inner().results {
            let status = result.status.unwrap_or_default();
            ensure!(
                status.code == 0,
                "BatchNewX509SVID: code {}: {}",
                status.code,
                status.message
            );
            let svid = result.svid.context("a result without an SVID")?;
            tell.came(Came::Certificate(first(svid.cert_chain)?))?;
        }
    }
}

async fn tokens(mut client: SvidClient<Channel>, identities: Vec<Identity>, tell: Tell) -> Result<()> {
    for (n, identity) in identities.iter().cycle().enumerate() {
        let request = NewJwtsvidRequest {
            entry_id: identity.entry_id.to_string(),
            audience: vec![format!("audience-{n}")],
        };
        let svid = client.new_jwtsvid(request).await?.into_inner().svid;
        tell.came(Came::Token(svid.context("an answer without an SVID")?.token))?;
    }
    Ok(())
}

async fn over_the_link(mut link: Link, identities: Vec<Identity>, ring: Ring, tell: Tell) -> Result<()> {
    loop {
        let keys = ring
            .take(BATCH)
            .zip(identities.iter().cycle())
            .map(|(key, identity)| KeyBinding {
                entry_id: identity.entry_id.to_string(),
                public_key: key.public_key.clone(),
            });
        for result in link.sign(keys.collect()).await?.results {
            ensure!(
                result.code == 0,
                "sign over the link: code {}: {}",
                result.code,
                result.message
            );
            tell.came(Came::Certificate(first(result.cert_chain)?))?;
        }
    }
}

/// A copy of the SVID itself, so that the message it came in can go.
fn first(chain: Vec<Bytes>) -> Result<Bytes> {
    let leaf = chain.first().context("an empty chain")?;
    Ok(Bytes::copy_from_slice(leaf))
}

fn write(into: &Path, came: &[Came]) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("create {}", into.display()))?;
    let create = |name: &str| {
        let path = into.join(name);
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        Ok::<_, anyhow::Error>(BufWriter::new(file))
    };
    let mut serials = create("serials.txt")?;
    for one in came {
        writeln!(serials, "{}", serial_of(one)?)?;
    }
    serials.flush()?;
    let certificates: Vec<&Bytes> = came
        .iter()
        .filter_map(|one| match one {
            Came::Certificate(der) => Some(der),
            Came::Token(_) => None,
        })
        .collect();
    for (number, part) in certificates.chunks(FILE).enumerate() {
        let mut file = create(&format!("certificates-{number}.pem"))?;
        for der in part {
            let text = STANDARD.encode(der);
            file.write_all(b"-----BEGIN CERTIFICATE-----\n")?;
            for line in text.as_bytes().chunks(64) {
                file.write_all(line)?;
                file.write_all(b"\n")?;
            }
            file.write_all(b"-----END CERTIFICATE-----\n")?;
        }
        file.flush()?;
    }
    Ok(())
}

/// The serial as a token's `jti` has it: base64url of the same bytes.
fn serial_of(one: &Came) -> Result<String> {
    #[derive(Deserialize)]
    struct Claims {
        jti: String,
    }
    match one {
        Came::Certificate(der) => {
            let (_, certificate) = X509Certificate::from_der(der).context("read a certificate")?;
            Ok(URL_SAFE_NO_PAD.encode(certificate.raw_serial()))
        }
        Came::Token(token) => {
            let claims = token.split('.').nth(1).context("a token without claims")?;
            let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?).context("read a token")?;
            Ok(claims.jti)
        }
    }
}
