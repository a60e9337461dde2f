//! One node on Mintmark's link, as the attestor speaks it: hello, updates acknowledged, keys up, SVIDs down.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mintmark_proto::attestor::{
    Ack, FromNode, Hello, KeyBinding, Sign, Signed, ToNode, Update, attestor_client::AttestorClient, from_node, to_node,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::node::Node;

/// Links that open at a time.
const OPENING: usize = 16;

/// How long the server may take to bring a node into step.
const PATIENCE: Duration = Duration::from_secs(60);

/// An open link that is in step.
pub(crate) struct Link {
    up: mpsc::Sender<FromNode>,
    down: Streaming<ToNode>,
    requests: u64,
}

/// Opens a link for each node, in order.
pub(crate) async fn open_all(nodes: &[Node]) -> Result<Vec<Link>> {
    stream::iter(nodes)
        .map(Link::open)
        .buffered(OPENING)
        .try_collect()
        .await
}

impl Link {
    /// Says hello and takes updates until the server says that the node is in step.
    pub(crate) async fn open(node: &Node) -> Result<Self> {
        let (up, outgoing) = mpsc::channel(4);
        let hello = from_node::Message::Hello(Hello {
            version: concat!("bench-", env!("CARGO_PKG_VERSION")).into(),
            ..Hello::default()
        });
        send(&up, hello).await?;
        let opened = AttestorClient::new(node.channel.clone())
            .link(ReceiverStream::new(outgoing))
            .await
            .context("open the link")?;
        let mut link = Self {
            up,
            down: opened.into_inner(),
            requests: 0,
        };
        let in_step = async {
            while !link.update().await?.complete {}
            Ok::<_, anyhow::Error>(())
        };
        tokio::time::timeout(PATIENCE, in_step)
            .await
            .with_context(|| format!("a link was not in step within {} s", PATIENCE.as_secs()))??;
        Ok(link)
    }

    /// The next update, acknowledged.
    pub(crate) async fn update(&mut self) -> Result<Update> {
        match self.next().await? {
            to_node::Message::Update(update) => {
                self.acknowledge(&update).await?;
                Ok(update)
            }
            to_node::Message::Signed(_) | to_node::Message::PodJudged(_) => {
                bail!("the server answered what was not asked")
            }
        }
    }

    /// Has keys signed. Updates that come meanwhile are acknowledged and dropped.
    pub(crate) async fn sign(&mut self, keys: Vec<KeyBinding>) -> Result<Signed> {
        self.requests += 1;
        let asked = keys.len();
        let request_id = self.requests;
        send(&self.up, from_node::Message::Sign(Sign { request_id, keys })).await?;
        let mut answer = Signed {
            request_id,
            results: Vec::with_capacity(asked),
        };
        loop {
            match self.next().await? {
                to_node::Message::Update(update) => self.acknowledge(&update).await?,
                to_node::Message::Signed(signed) => {
                    ensure!(signed.request_id == request_id, "the server answered another request");
                    answer.results.extend(signed.results);
                    let count = answer.results.len();
                    ensure!(count <= asked, "{count} results for {asked} keys");
                    if count == asked {
                        return Ok(answer);
                    }
                }
                to_node::Message::PodJudged(_) => bail!("the server judged a pod that nobody reported"),
            }
        }
    }

    async fn next(&mut self) -> Result<to_node::Message> {
        let message = self.down.message().await.context("the link broke")?;
        message
            .context("the server ended the link")?
            .message
            .context("an empty message on the link")
    }

    async fn acknowledge(&self, update: &Update) -> Result<()> {
        send(
            &self.up,
            from_node::Message::Ack(Ack {
                sequence: update.sequence,
            }),
        )
        .await
    }
}

async fn send(up: &mpsc::Sender<FromNode>, message: from_node::Message) -> Result<()> {
    up.send(FromNode { message: Some(message) })
        .await
        .map_err(|_| anyhow::anyhow!("the link is closed"))
}
