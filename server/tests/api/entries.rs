//! Registration entries: what may be in one, and how they are found, changed and told to nodes.

use mintmark_proto::spire::server::entry::entry_client::EntryClient;
use mintmark_proto::spire::server::entry::{
    BatchCreateEntryRequest, BatchDeleteEntryRequest, BatchUpdateEntryRequest, CountEntriesRequest, GetEntryRequest,
    ListEntriesRequest, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse, list_entries_request,
};
use mintmark_proto::spire::types;
use tonic::Code;
use tonic::transport::Channel;

use crate::world::{World, entry, id_message, in_time, selector};

type Client = EntryClient<Channel>;

async fn create(client: &mut Client, entries: Vec<types::Entry>) -> Vec<(Code, String, Option<types::Entry>)> {
    let request = BatchCreateEntryRequest {
        entries,
        output_mask: None,
    };
    let results = client.batch_create_entry(request).await.unwrap().into_inner().results;
    let result = results.into_iter().map(|result| {
        let status = result.status.unwrap();
        (Code::from_i32(status.code), status.message, result.entry)
    });
    result.collect()
}

#[tokio::test]
async fn an_entry_is_made_shown_changed_and_deleted() {
    let world = World::new().await;
    let mut client = EntryClient::new(world.admin().await);
    let full = types::Entry {
        x509_svid_ttl: 600,
        jwt_svid_ttl: 60,
        federates_with: vec!["other.org".into()],
        admin: true,
        downstream: true,
        expires_at: 1_900_000_000,
        dns_names: vec!["w.example.org".into()],
        store_svid: true,
        hint: "internal".into(),
        additional_attributes: Some(types::entry::AdditionalAttributes {
            disable_x509_svid_prefetch: true,
            jwt_svid_include_jti: true,
        }),
        ..entry("/w", "/node")
    };
    let (code, _, made) = create(&mut client, vec![full.clone()]).await.pop().unwrap();
    let made = made.unwrap();
    assert_eq!(code, Code::Ok);
    assert_eq!(
        made,
        types::Entry {
            id: made.id.clone(),
            created_at: 1_800_000_000,
            ..full.clone()
        }
    );

    let (code, message, twin) = create(&mut client, vec![full]).await.pop().unwrap();
    assert_eq!(
        (code, &*message, twin.unwrap().id),
        (Code::AlreadyExists, "similar entry already exists", made.id.clone())
    );

    let mask = types::EntryMask {
        hint: true,
        ..Default::default()
    };
    let shown = client
        .get_entry(GetEntryRequest {
            id: made.id.clone(),
            output_mask: Some(mask),
        })
        .await
        .unwrap();
    assert_eq!(
        shown.into_inner(),
        types::Entry {
            id: made.id.clone(),
            hint: "internal".into(),
            ..Default::default()
        }
    );

    // Only what the mask names is changed, and what it names is changed to nothing too.
    let change = types::Entry {
        id: made.id.clone(),
        hint: "public".into(),
        x509_svid_ttl: 0,
        admin: false,
        ..Default::default()
    };
    let mask = types::EntryMask {
        hint: true,
        x509_svid_ttl: true,
        ..Default::default()
    };
    let request = BatchUpdateEntryRequest {
        entries: vec![change],
        input_mask: Some(mask),
        output_mask: None,
    };
    let result = client
        .batch_update_entry(request)
        .await
        .unwrap()
        .into_inner()
        .results
        .pop()
        .unwrap();
    let expected = types::Entry {
        hint: "public".into(),
        x509_svid_ttl: 0,
        revision_number: 1,
        ..made.clone()
    };
    assert_eq!((result.status.unwrap().code, result.entry.unwrap()), (0, expected));

    let bad = types::Entry {
        id: made.id.clone(),
        ..Default::default()
    };
    let mask = types::EntryMask {
        selectors: true,
        ..Default::default()
    };
    let unknown = types::Entry {
        id: "nobody".into(),
        ..entry("/x", "/node")
    };
    let request = BatchUpdateEntryRequest {
        entries: vec![bad, unknown],
        input_mask: Some(mask),
        output_mask: None,
    };
    let results = client.batch_update_entry(request).await.unwrap().into_inner().results;
    let codes: Vec<_> = results
        .iter()
        .map(|result| Code::from_i32(result.status.as_ref().unwrap().code))
        .collect();
    assert_eq!(codes, [Code::InvalidArgument, Code::NotFound]);

    let request = BatchDeleteEntryRequest {
        ids: vec![made.id.clone(), "nobody".into(), String::new()],
    };
    let results = client.batch_delete_entry(request).await.unwrap().into_inner().results;
    let codes: Vec<_> = results
        .iter()
        .map(|result| Code::from_i32(result.status.as_ref().unwrap().code))
        .collect();
    assert_eq!(codes, [Code::Ok, Code::NotFound, Code::InvalidArgument]);
    let gone = client
        .get_entry(GetEntryRequest {
            id: made.id,
            output_mask: None,
        })
        .await
        .unwrap_err();
    assert_eq!((gone.code(), gone.message()), (Code::NotFound, "entry not found"));
    world.shutdown().await;
}

#[tokio::test]
async fn a_bad_entry_is_refused_by_itself_and_names_what_is_wrong() {
    let world = World::new().await;
    let mut client = EntryClient::new(world.admin().await);
    let good = || entry("/w", "/node");
    let table: Vec<(types::Entry, &str)> = vec![
        (
            types::Entry {
                spiffe_id: None,
                ..good()
            },
            "spiffe_id",
        ),
        (
            types::Entry {
                parent_id: None,
                ..good()
            },
            "parent_id",
        ),
        (
            types::Entry {
                spiffe_id: Some(id_message("")),
                ..good()
            },
            "spiffe_id",
        ),
        (
            types::Entry {
                spiffe_id: Some(id_message("/spire/server")),
                ..good()
            },
            "spiffe_id",
        ),
        (
            types::Entry {
                spiffe_id: Some(id_message("/spire/agent/x509pop/a")),
                ..good()
            },
            "spiffe_id",
        ),
        (
            types::Entry {
                spiffe_id: Some(id_message("/a//b")),
                ..good()
            },
            "spiffe_id",
        ),
        (
            types::Entry {
                spiffe_id: Some(id_message(&format!("/{}", "a".repeat(2048)))),
                ..good()
            },
            "spiffe_id",
        ),
        (
            types::Entry {
                parent_id: Some(types::Spiffeid {
                    trust_domain: "other.org".into(),
                    path: "/n".into(),
                }),
                ..good()
            },
            "parent_id",
        ),
        (
            types::Entry {
                selectors: vec![],
                ..good()
            },
            "selectors",
        ),
        (
            types::Entry {
                selectors: vec![selector("unix:uid:1"); 5000],
                ..good()
            },
            "selectors",
        ),
        (
            types::Entry {
                selectors: vec![types::Selector {
                    r#type: "a:b".into(),
                    value: "c".into(),
                }],
                ..good()
            },
            "selectors",
        ),
        (
            types::Entry {
                x509_svid_ttl: -1,
                ..good()
            },
            "x509_svid_ttl",
        ),
        (
            types::Entry {
                dns_names: vec!["not a name".into()],
                ..good()
            },
            "dns_names",
        ),
        (
            types::Entry {
                hint: "h".repeat(2000),
                ..good()
            },
            "hint",
        ),
        (
            types::Entry {
                federates_with: vec!["Not A Domain".into()],
                ..good()
            },
            "federates_with",
        ),
    ];
    let count = table.len();
    let (mut entries, words): (Vec<_>, Vec<_>) = table.into_iter().unzip();
    entries.push(good());
    let results = create(&mut client, entries).await;
    for ((code, message, made), word) in results.iter().zip(words) {
        assert_eq!((*code, made), (Code::InvalidArgument, &None), "{word}: {message}");
        assert!(
            message.starts_with("failed to convert entry: ") && message.contains(word),
            "{word}: {message}"
        );
        assert!(message.len() < 1000, "{} bytes", message.len());
    }
    assert_eq!(results[count].0, Code::Ok);
    let request = BatchCreateEntryRequest {
        entries: vec![types::Entry::default(); 1001],
        output_mask: None,
    };
    assert_eq!(
        client.batch_create_entry(request).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    world.shutdown().await;
}

#[tokio::test]
async fn an_entry_that_a_batch_names_twice_is_answered_twice() {
    let world = World::new().await;
    let id = world.entry(entry("/w", "/spire/server")).await;
    let mut admin = EntryClient::new(world.admin().await);
    let change = |hint: &str| types::Entry {
        id: id.clone(),
        hint: hint.into(),
        ..Default::default()
    };
    let request = BatchUpdateEntryRequest {
        entries: vec![change("first"), change("second")],
        input_mask: Some(types::EntryMask {
            hint: true,
            ..Default::default()
        }),
        output_mask: None,
    };
    let updated = admin.batch_update_entry(request).await.unwrap().into_inner().results;
    let updated: Vec<_> = updated.iter().map(|result| result.entry.as_ref().unwrap()).collect();
    let seen = updated.iter().map(|entry| (&*entry.hint, entry.revision_number));
    assert_eq!(seen.collect::<Vec<_>>(), [("first", 1), ("second", 2)]);
    let request = GetEntryRequest {
        id: id.clone(),
        output_mask: None,
    };
    let now = admin.get_entry(request).await.unwrap().into_inner();
    assert_eq!(&now, updated[1]);
    let request = BatchDeleteEntryRequest {
        ids: vec![id.clone(), id.clone()],
    };
    let deleted = admin.batch_delete_entry(request).await.unwrap().into_inner().results;
    let codes = deleted
        .iter()
        .map(|result| Code::from_i32(result.status.as_ref().unwrap().code));
    assert_eq!(codes.collect::<Vec<_>>(), [Code::Ok, Code::NotFound]);
    world.shutdown().await;
}

#[tokio::test]
async fn entries_are_found_by_filter_and_page() {
    let world = World::new().await;
    let mut client = EntryClient::new(world.admin().await);
    let entries = (0..25).map(|n| {
        let mut made = entry(&format!("/w{n}"), if n % 2 == 0 { "/even" } else { "/odd" });
        made.selectors = vec![selector("unix:uid:1"), selector(&format!("unix:gid:{}", n % 5))];
        made.hint = format!("h{}", n % 3);
        made.downstream = n == 7;
        if n < 4 {
            made.federates_with = vec!["a.org".into(), "b.org".into()];
        }
        made
    });
    assert!(
        create(&mut client, entries.collect())
            .await
            .iter()
            .all(|(code, ..)| *code == Code::Ok)
    );
    let selectors = |texts: &[&str], how: i32| {
        Some(types::SelectorMatch {
            selectors: texts.iter().map(|text| selector(text)).collect(),
            r#match: how,
        })
    };
    let domains = |names: &[&str], how: i32| {
        Some(types::FederatesWithMatch {
            trust_domains: names.iter().map(|name| (*name).to_owned()).collect(),
            r#match: how,
        })
    };
    let filter = list_entries_request::Filter::default;
    for (filter, expected) in [
        (filter(), 25),
        (
            list_entries_request::Filter {
                by_spiffe_id: Some(id_message("/w3")),
                ..filter()
            },
            1,
        ),
        (
            list_entries_request::Filter {
                by_parent_id: Some(id_message("/even")),
                ..filter()
            },
            13,
        ),
        (
            list_entries_request::Filter {
                by_hint: Some("h0".into()),
                ..filter()
            },
            9,
        ),
        (
            list_entries_request::Filter {
                by_downstream: Some(true),
                ..filter()
            },
            1,
        ),
        (
            list_entries_request::Filter {
                by_selectors: selectors(&["unix:uid:1", "unix:gid:0"], 0),
                ..filter()
            },
            5,
        ),
        (
            list_entries_request::Filter {
                by_selectors: selectors(&["unix:uid:1"], 2),
                ..filter()
            },
            25,
        ),
        (
            list_entries_request::Filter {
                by_selectors: selectors(&["unix:uid:1"], 1),
                ..filter()
            },
            0,
        ),
        (
            list_entries_request::Filter {
                by_selectors: selectors(&["unix:gid:1", "unix:gid:2"], 3),
                ..filter()
            },
            10,
        ),
        (
            list_entries_request::Filter {
                by_federates_with: domains(&["a.org", "b.org"], 0),
                ..filter()
            },
            4,
        ),
        (
            list_entries_request::Filter {
                by_federates_with: domains(&["spiffe://a.org"], 2),
                ..filter()
            },
            4,
        ),
        (
            list_entries_request::Filter {
                by_federates_with: domains(&["c.org"], 3),
                ..filter()
            },
            0,
        ),
    ] {
        let (mut seen, mut page_token) = (std::collections::BTreeSet::new(), String::new());
        loop {
            let request = ListEntriesRequest {
                filter: Some(filter.clone()),
                page_size: 4,
                page_token,
                output_mask: None,
            };
            let page = client.list_entries(request).await.unwrap().into_inner();
            assert!(page.entries.len() <= 4);
            seen.extend(page.entries.into_iter().map(|entry| entry.id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(seen.len(), expected, "{filter:?}");
    }
    let all = client
        .list_entries(ListEntriesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!((all.entries.len(), &*all.next_page_token), (25, ""));
    assert_eq!(
        client
            .count_entries(CountEntriesRequest::default())
            .await
            .unwrap()
            .into_inner()
            .count,
        25
    );
    for bad in [
        list_entries_request::Filter {
            by_spiffe_id: Some(types::Spiffeid::default()),
            ..filter()
        },
        list_entries_request::Filter {
            by_selectors: selectors(&[], 0),
            ..filter()
        },
        list_entries_request::Filter {
            by_selectors: selectors(&["a:b"], 9),
            ..filter()
        },
        list_entries_request::Filter {
            by_federates_with: domains(&[], 0),
            ..filter()
        },
        list_entries_request::Filter {
            by_federates_with: domains(&["Not A Domain"], 0),
            ..filter()
        },
    ] {
        let request = ListEntriesRequest {
            filter: Some(bad.clone()),
            ..Default::default()
        };
        assert_eq!(
            client.list_entries(request).await.unwrap_err().code(),
            Code::InvalidArgument,
            "{bad:?}"
        );
    }
    let request = ListEntriesRequest {
        page_size: -1,
        ..Default::default()
    };
    assert_eq!(
        client.list_entries(request).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    world.shutdown().await;
}

#[tokio::test]
async fn a_node_with_few_entries_gets_them_at_once() {
    let world = World::new().await;
    let node = world.node().await;
    let id = world.entry(entry("/w", node.id.path())).await;
    let mut client = EntryClient::new(node.channel.clone());
    let mask = types::EntryMask {
        revision_number: true,
        spiffe_id: true,
        ..Default::default()
    };
    let request = SyncAuthorizedEntriesRequest {
        output_mask: Some(mask),
        ids: vec![],
    };
    let mut answers = client
        .sync_authorized_entries(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = in_time(answers.message()).await.unwrap().unwrap();
    assert_eq!(
        answer.entries,
        [types::Entry {
            id,
            spiffe_id: Some(id_message("/w")),
            ..Default::default()
        }]
    );
    assert!(!answer.more && answer.entry_revisions.is_empty());
    assert_eq!(in_time(answers.message()).await.unwrap(), None);
    let without = world.node().await;
    let mut answers = EntryClient::new(without.channel.clone())
        .sync_authorized_entries(tokio_stream::iter([SyncAuthorizedEntriesRequest::default()]))
        .await
        .unwrap()
        .into_inner();
    let nothing = in_time(answers.message()).await.unwrap();
    assert_eq!(nothing, Some(SyncAuthorizedEntriesResponse::default()));
    assert_eq!(in_time(answers.message()).await.unwrap(), None);
    for request in [
        SyncAuthorizedEntriesRequest {
            output_mask: None,
            ids: vec!["a".into()],
        },
        SyncAuthorizedEntriesRequest {
            output_mask: Some(types::EntryMask::default()),
            ids: vec![],
        },
    ] {
        let refused = client
            .sync_authorized_entries(tokio_stream::iter([request]))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    world.shutdown().await;
}

#[tokio::test]
async fn a_node_with_many_entries_is_told_of_their_revisions_and_asks_for_what_it_lacks() {
    const COUNT: usize = 1_250;
    let world = World::new().await;
    let node = world.node().await;
    let mut admin = EntryClient::new(world.admin().await);
    for chunk in (0..COUNT).collect::<Vec<_>>().chunks(1_000) {
        let entries = chunk.iter().map(|n| entry(&format!("/w{n}"), node.id.path())).collect();
        assert!(
            create(&mut admin, entries)
                .await
                .iter()
                .all(|(code, ..)| *code == Code::Ok)
        );
    }
    let (requests, outgoing) = tokio::sync::mpsc::channel(4);
    requests.send(SyncAuthorizedEntriesRequest::default()).await.unwrap();
    let mut client = EntryClient::new(node.channel.clone());
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut answers = client.sync_authorized_entries(outgoing).await.unwrap().into_inner();
    let (mut ids, mut sizes) = (Vec::new(), Vec::new());
    loop {
        let answer = in_time(answers.message()).await.unwrap().unwrap();
        sizes.push(answer.entry_revisions.len());
        ids.extend(answer.entry_revisions.into_iter().map(|revision| revision.id));
        if !answer.more {
            break;
        }
    }
    assert_eq!((ids.len(), sizes), (COUNT, vec![500, 500, 250]));
    for (asked, expected) in [
        (ids[..600].to_vec(), vec![500, 100]),
        (vec!["nobody".into()], vec![0]),
        (vec![ids[0].clone()], vec![1]),
        // However often it is asked for.
        (vec![ids[0].clone(); 50_000], vec![1]),
    ] {
        requests
            .send(SyncAuthorizedEntriesRequest {
                output_mask: None,
                ids: asked,
            })
            .await
            .unwrap();
        let mut sizes = Vec::new();
        loop {
            let answer = in_time(answers.message()).await.unwrap().unwrap();
            sizes.push(answer.entries.len());
            if !answer.more {
                break;
            }
        }
        assert_eq!(sizes, expected);
    }
    drop(requests);
    assert_eq!(in_time(answers.message()).await.unwrap(), None);
    world.shutdown().await;
}
