//! The node link.

use mintmark_proto::attestor::attestor_client::AttestorClient;
use mintmark_proto::attestor::{
    Ack, FromNode, Hello, KeyBinding, Sign, Signed, Status as Told, ToNode, Update, from_node, to_node,
};
use mintmark_proto::spire::server::agent::BanAgentRequest;
use mintmark_proto::spire::server::agent::DeleteAgentRequest;
use mintmark_proto::spire::server::agent::agent_client::AgentClient;
use mintmark_proto::spire::server::entry::BatchDeleteEntryRequest;
use mintmark_proto::spire::server::entry::entry_client::EntryClient;
use mintmark_proto::spire::types;
use mintmark_proto::spire::types::PermissionDeniedDetails;
use mintmark_proto::spire::types::permission_denied_details::Reason;
use mintmark_proto::{Bytes, digest};
use prost::Message as _;
use rcgen::{KeyPair, PublicKeyData as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::world::{Node, World, entry, id_message};

/// Nothing in these tests takes this long, unless it never ends.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);

/// A node's end of a link.
struct Link {
    send: mpsc::Sender<FromNode>,
    receive: Streaming<ToNode>,
}

impl Link {
    async fn open(node: &Node) -> Result<Self, Status> {
        let (send, requests) = mpsc::channel(64);
        let mut client = AttestorClient::new(node.channel.clone()).max_decoding_message_size(16 << 20);
        let receive = client.link(ReceiverStream::new(requests)).await?.into_inner();
        Ok(Self { send, receive })
    }

    /// A link that has said what the node holds.
    async fn begin(node: &Node, hello: Hello) -> Self {
        let link = Self::open(node).await.unwrap();
        link.say(from_node::Message::Hello(hello)).await;
        link
    }

    async fn say(&self, message: from_node::Message) {
        self.send.send(FromNode { message: Some(message) }).await.unwrap();
    }

    async fn next(&mut self) -> Result<to_node::Message, Status> {
        let message = tokio::time::timeout(DEADLINE, self.receive.message())
            .await
            .expect("a message in time")?;
        Ok(message.expect("a link that goes on").message.unwrap())
    }

    /// The next message, an update, acknowledged.
    async fn update(&mut self) -> Update {
        match self.next().await.unwrap() {
            to_node::Message::Update(update) => {
                self.say(from_node::Message::Ack(Ack {
                    sequence: update.sequence,
                }))
                .await;
                update
            }
            other => panic!("{other:?}"),
        }
    }

    /// How the link ends, whatever comes before.
    async fn end(mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }

    async fn sign(&mut self, request_id: u64, keys: Vec<KeyBinding>) -> Signed {
        let mut answer = Signed {
            request_id,
            results: Vec::new(),
        };
        let count = keys.len();
        self.say(from_node::Message::Sign(Sign { request_id, keys })).await;
        while answer.results.len() < count {
            match self.next().await.unwrap() {
                to_node::Message::Signed(signed) => {
                    assert_eq!(signed.request_id, request_id);
                    assert!(signed.encoded_len() < 9 << 10);
                    answer.results.extend(signed.results);
                }
                other => panic!("{other:?}"),
            }
        }
        answer
    }
}

fn key() -> Bytes {
    KeyPair::generate().unwrap().subject_public_key_info().into()
}

fn binding(entry: &str) -> KeyBinding {
    KeyBinding {
        entry_id: entry.into(),
        public_key: key(),
    }
}

fn reason(status: &Status) -> Option<Reason> {
    let whole = tonic_types::pb::Status::decode(status.details()).unwrap();
    let details = whole
        .details
        .iter()
        .find(|any| any.type_url.ends_with("PermissionDeniedDetails"))?;
    Some(PermissionDeniedDetails::decode(&details.value[..]).unwrap().reason())
}

fn ids(update: &Update) -> Vec<&str> {
    update.upserts.iter().map(|entry| &*entry.id).collect()
}

async fn delete(world: &World, ids: &[&str]) {
    let ids = ids.iter().map(ToString::to_string).collect();
    EntryClient::new(world.admin().await)
        .batch_delete_entry(BatchDeleteEntryRequest { ids })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_node_is_told_what_applies_then_every_change_and_gets_svids_for_its_keys() {
    let world = World::new().await;
    let node = world.node().await;
    let first = world.entry(entry("/first", node.id.path())).await;
    let mut link = Link::begin(
        &node,
        Hello {
            version: "1.2.3".into(),
            ..Hello::default()
        },
    )
    .await;
    let update = link.update().await;
    assert_eq!(
        (update.sequence, update.complete, ids(&update)),
        (1, true, vec![&*first])
    );
    assert_eq!(update.bundles.len(), 1);
    assert_eq!(
        update.bundles[0].x509_authorities[0].asn1,
        *world.server.bundle().x509[0].der
    );
    let mut known = update.upserts;

    let second = world.entry(entry("/second", node.id.path())).await;
    let update = link.update().await;
    assert_eq!(
        (update.sequence, update.complete, ids(&update)),
        (2, false, vec![&*second])
    );
    known.extend(update.upserts);

    let keys = vec![
        binding(&first),
        binding(&second),
        binding("unknown"),
        KeyBinding {
            entry_id: first.clone(),
            public_key: Bytes::from_static(b"x"),
        },
    ];
    let signed = link.sign(7, keys.clone()).await;
    assert_eq!((signed.request_id, signed.results.len()), (7, 4));
    for (result, (key, path)) in signed.results.iter().zip(keys.iter().zip(["/first", "/second"])) {
        assert_eq!(
            (result.code, result.cert_chain.len(), result.message.as_str()),
            (0, 1, "")
        );
        let leaf = mintmark_identity::svid::x509::Leaf::parse(&result.cert_chain[0]).unwrap();
        assert_eq!((leaf.spiffe_id.path(), leaf.spki_der), (path, &key.public_key[..]));
        assert_eq!(result.expires_at, leaf.not_after);
    }
    let codes: Vec<_> = signed.results[2..]
        .iter()
        .map(|result| Code::from(i32::try_from(result.code).unwrap()))
        .collect();
    assert_eq!(codes, [Code::NotFound, Code::InvalidArgument]);

    // A long answer comes in several messages, in the order of the keys.
    let keys: Vec<_> = (0..60).map(|n| binding([&first, &second][n % 2])).collect();
    let signed = link.sign(9, keys.clone()).await;
    for (result, key) in signed.results.iter().zip(&keys) {
        let leaf = mintmark_identity::svid::x509::Leaf::parse(&result.cert_chain[0]).unwrap();
        assert_eq!(
            (leaf.spki_der, &*result.entry_id),
            (&key.public_key[..], &*key.entry_id)
        );
    }

    delete(&world, &[&first]).await;
    let update = link.update().await;
    assert_eq!(
        (&update.removed_ids[..], update.upserts.len()),
        (&[first.clone()][..], 0)
    );
    // What is no longer the node's is no longer signed.
    assert_eq!(
        link.sign(8, vec![binding(&first)]).await.results[0].code,
        Code::NotFound as u32
    );

    // It comes back with what it held.
    let third = world.entry(entry("/third", node.id.path())).await;
    drop(link);
    let held_identities = known.iter().map(digest::of).collect();
    let mut link = Link::begin(
        &node,
        Hello {
            held_identities,
            ..Hello::default()
        },
    )
    .await;
    let update = link.update().await;
    let gone = known.iter().find(|entry| entry.id == first).unwrap();
    assert_eq!(
        (ids(&update), update.removed.clone(), update.complete),
        (vec![&*third], vec![digest::of(gone)], true)
    );
    drop(link);
    world.shutdown().await;
}

#[tokio::test]
async fn a_node_is_told_and_signed_for_nothing_of_another_node() {
    let world = World::new().await;
    let (one, two) = (world.node().await, world.node().await);
    let theirs = world.entry(entry("/theirs", two.id.path())).await;
    let mut link = Link::begin(&one, Hello::default()).await;
    assert_eq!(ids(&link.update().await), [""; 0]);
    assert_eq!(
        link.sign(1, vec![binding(&theirs)]).await.results[0].code,
        Code::NotFound as u32
    );
    // Entries of an alias whose selectors the node has are its own.
    let alias = types::Entry {
        selectors: vec![types::Selector {
            r#type: "spiffe_id".into(),
            value: one.id.to_string(),
        }],
        ..entry("/alias", "/spire/server")
    };
    world.entry(alias).await;
    let shared = world.entry(entry("/shared", "/alias")).await;
    let update = link.update().await;
    assert!(ids(&update).contains(&&*shared), "{update:?}");
    assert_eq!(link.sign(2, vec![binding(&shared)]).await.results[0].code, 0);
    world.shutdown().await;
}

#[tokio::test]
async fn a_slow_node_is_sent_no_more_than_it_acknowledges_and_then_the_latest_state() {
    let world = World::new().await;
    let node = world.node().await;
    let mut link = Link::begin(&node, Hello::default()).await;
    let mut sent = Vec::new();
    for n in 0..30 {
        world.entry(entry(&format!("/e{n}"), node.id.path())).await;
    }
    // Sixteen may be on their way; what came meanwhile is one set.
    for _ in 0..16 {
        let to_node::Message::Update(update) = link.next().await.unwrap() else {
            panic!("an update")
        };
        sent.push(update);
    }
    // An answer overtakes what waits.
    let signed = link
        .sign(
            1,
            vec![binding(
                sent.iter().flat_map(|update| ids(update)).next().unwrap_or("none"),
            )],
        )
        .await;
    assert_eq!(signed.request_id, 1);
    link.say(from_node::Message::Ack(Ack { sequence: 16 })).await;
    while sent.iter().map(|update| update.upserts.len()).sum::<usize>() < 30 {
        sent.push(link.update().await);
    }
    assert!(sent.len() <= 18, "{} updates", sent.len());
    world.shutdown().await;
}

#[tokio::test]
async fn a_link_ends_at_once_when_its_node_is_banned_evicted_or_superseded() {
    let world = World::new().await;
    let node = world.node().await;
    let mut link = Link::begin(&node, Hello::default()).await;
    link.update().await;
    let mut second = Link::begin(&node, Hello::default()).await;
    second.update().await;
    assert_eq!(link.end().await.code(), Code::Aborted);

    let mut agents = AgentClient::new(world.admin().await);
    agents
        .ban_agent(BanAgentRequest {
            id: Some(id_message(node.id.path())),
        })
        .await
        .unwrap();
    assert_eq!(reason(&second.end().await), Some(Reason::AgentBanned));
    let refused = Link::open(&node).await.err().unwrap();
    assert_eq!(reason(&refused), Some(Reason::AgentBanned));

    let node = world.node().await;
    let mut link = Link::begin(&node, Hello::default()).await;
    link.update().await;
    agents
        .delete_agent(DeleteAgentRequest {
            id: Some(id_message(node.id.path())),
        })
        .await
        .unwrap();
    assert_eq!(reason(&link.end().await), Some(Reason::AgentNotAttested));

    let node = world.node().await;
    let mut link = Link::begin(&node, Hello::default()).await;
    link.update().await;
    world.clock.advance(std::time::Duration::from_secs(3600));
    assert_eq!(reason(&link.end().await), Some(Reason::AgentExpired));
    world.shutdown().await;
}

#[tokio::test]
async fn what_is_not_in_form_ends_the_link_and_harms_nobody_else() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let mut healthy = Link::begin(&other, Hello::default()).await;
    healthy.update().await;
    let keys = vec![KeyBinding::default(); 1001];
    for (hello, message, expected) in [
        (false, from_node::Message::Ack(Ack { sequence: 0 }), "begins with Hello"),
        (
            false,
            from_node::Message::Hello(Hello {
                version: "x".repeat(65),
                ..Hello::default()
            }),
            "longer than 64",
        ),
        (true, from_node::Message::Hello(Hello::default()), "first message"),
        (
            true,
            from_node::Message::Ack(Ack { sequence: 99 }),
            "update 99 is acknowledged",
        ),
        (
            true,
            from_node::Message::Sign(Sign { request_id: 1, keys }),
            "more than 1000",
        ),
    ] {
        let link = match hello {
            true => Link::begin(&node, Hello::default()).await,
            false => Link::open(&node).await.unwrap(),
        };
        link.say(message).await;
        let status = link.end().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(expected), "{status}");
    }
    // A status of the wildest numbers is only a number.
    healthy
        .say(from_node::Message::Status(Told {
            workloads: u32::MAX,
            svids: u32::MAX,
            renewals_overdue: 1,
            min_remaining_seconds: 0,
        }))
        .await;
    world.entry(entry("/w", other.id.path())).await;
    assert_eq!(healthy.update().await.upserts.len(), 1);
    // Who is no node has no link.
    let mut anonymous = AttestorClient::new(world.anonymous().await);
    let refused = anonymous
        .link(tokio_stream::iter([FromNode::default()]))
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    world.shutdown().await;
}
