//! Callers of whom something cannot be found out just now.

use std::sync::mpsc;

use super::*;

/// Keeps the threads of `world` busy until this is dropped.
async fn occupy(world: &World) -> mpsc::Sender<()> {
    let (release, wait) = mpsc::channel::<()>();
    let (begun, is_begun) = tokio::sync::oneshot::channel();
    let pool = world.pool.clone();
    tokio::spawn(async move {
        let job = move || {
            begun.send(()).unwrap();
            let _ = wait.recv();
        };
        pool.run(job).await
    });
    is_begun.await.unwrap();
    release
}

/// Lets time pass until there is an answer.
async fn meanwhile<T>(world: &World, answer: impl Future<Output = T>) -> T {
    let mut answer = std::pin::pin!(answer);
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            () = tokio::task::yield_now() => world.server.clock.advance(Duration::from_millis(100)),
        }
    }
}

fn user() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
    format!("unix:user:{}", user.name)
}

#[tokio::test]
async fn a_caller_that_cannot_be_found_out_just_now_is_not_told_that_it_has_nothing() {
    let world = World::in_step(vec![entry("named", "/named", &user())], &[]);
    let mut client = world.client().await;
    let busy = occupy(&world).await;
    let status = meanwhile(&world, async { next(&mut client.x509().await).await.unwrap_err() }).await;
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("unix:user"), "{status}");
    let status = meanwhile(&world, client.jwt(&["x"], "")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    drop(busy);
    assert_eq!(
        ids(&next(&mut client.x509().await).await.unwrap()),
        ["spiffe://example.org/named"]
    );
}

#[tokio::test]
async fn a_stream_is_told_of_no_withdrawal_that_only_seems_so() {
    let world = World::in_step(vec![entry("named", "/named", &user())], &[]);
    let mut client = world.client().await;
    let mut stream = client.x509().await;
    let before = next(&mut stream).await.unwrap();
    // The name is not believed for ever.
    world.server.clock.advance(Duration::from_secs(60));
    let busy = occupy(&world).await;
    world.put(entry("by-id", "/by-id", &own_uid()));
    let quiet = async {
        let end = world.server.clock.instant() + Duration::from_secs(120);
        meanwhile(&world, world.server.clock.sleep_until(end)).await;
    };
    tokio::select! {
        biased;
        told = stream.message() => panic!("{told:?}"),
        () = quiet => {}
    }
    drop(busy);
    let after = meanwhile(&world, next(&mut stream)).await.unwrap();
    assert_eq!(
        ids(&after),
        ["spiffe://example.org/by-id", "spiffe://example.org/named"]
    );
    assert_eq!(before.svids[0].x509_svid, after.svids[1].x509_svid);
}

#[tokio::test]
async fn what_is_known_of_a_caller_is_served_while_the_rest_is_not() {
    let world = World::in_step(vec![entry("by-id", "/by-id", &own_uid())], &[]);
    let mut client = world.client().await;
    let mut stream = client.x509().await;
    next(&mut stream).await.unwrap();
    let busy = occupy(&world).await;
    // From here on names are asked for.
    world.put(entry("named", "/named", "unix:user:nobody-of-this-name"));
    let friend = Authority::new("friend.test");
    let mut federated = entry("by-id", "/by-id", &own_uid());
    federated.federates_with = vec!["friend.test".into()];
    world.apply(Update {
        upserts: vec![federated],
        bundles: vec![Authority::bundle(1, &[&friend], &[])],
        ..Update::default()
    });
    let told = meanwhile(&world, next(&mut stream)).await.unwrap();
    assert_eq!(ids(&told), ["spiffe://example.org/by-id"]);
    assert_eq!(told.federated_bundles.len(), 1);
    let by_id = "spiffe://example.org/by-id";
    assert_eq!(meanwhile(&world, client.jwt(&["x"], by_id)).await.unwrap()[0].0, by_id);
    let refused = meanwhile(&world, client.jwt(&["x"], "spiffe://example.org/named")).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
    drop(busy);
}
