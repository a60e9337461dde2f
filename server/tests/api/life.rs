//! A server's own life: start, stop, start again, backup and restore.

use std::os::unix::fs::PermissionsExt as _;

use mintmark_runtime::clock::Clock;
use mintmark_server::config::Config;
use mintmark_server::ledger;
use mintmark_server::server::{BackupError, StartError, backup, restore};
use rcgen::KeyPair;

use crate::svids::batch;
use crate::world::{Node, World, config, entry, start};

async fn again(dir: &tempfile::TempDir, clock: &Clock, change: impl FnOnce(&mut Config)) -> Result<World, StartError> {
    let mut config = config(dir.path());
    change(&mut config);
    let server = start(config, clock.clone()).await?;
    // The directory belongs to the caller.
    Ok(World {
        server,
        clock: clock.clone(),
        dir: tempfile::tempdir().unwrap(),
    })
}

#[tokio::test]
async fn a_second_server_on_one_directory_is_refused_with_the_first_ones_pid() {
    let world = World::new().await;
    let mut second = config(world.dir.path());
    second.listen.admin = mintmark_runtime::config::ListenPath::off();
    let refused = start(second, world.clock.clone()).await.err().unwrap().to_string();
    assert!(
        refused.contains(&format!("in use by process {}", std::process::id())),
        "{refused}"
    );
    let admin = world.server.admin_socket().unwrap().to_owned();
    assert_eq!(std::fs::metadata(&admin).unwrap().permissions().mode() & 0o777, 0o600);
    let dir = world.shutdown().await;
    assert!(!admin.exists());
    // And once the first is gone, the second starts.
    let second = again(&dir, &Clock::manual(1_800_000_000), |_| {}).await.unwrap();
    second.server.shutdown().await;
}

#[tokio::test]
async fn a_restart_keeps_authorities_entries_and_nodes_and_covers_every_byte_of_the_ledger() {
    let world = World::new().await;
    let clock = world.clock.clone();
    let key = KeyPair::generate().unwrap();
    let token = world.token().await;
    let svid = crate::world::attest(&world, "join_token", token.as_bytes(), &crate::world::csr(&key))
        .await
        .unwrap();
    let node = Node::with(&world, svid.clone(), &key).await;
    let id = world.entry(entry("/w", node.id.path())).await;
    let bundle = world.server.bundle();
    let issued = world.server.rooms().ledger.reader().size();
    let dir = world.shutdown().await;
    let report = ledger::verify(&dir.path().join("data").join("ledger"), |_, _| {});
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(
        (report.logs[0].size, report.logs[0].notes.len()),
        (issued, 0),
        "{report:?}"
    );

    let world = again(&dir, &clock, |_| {}).await.unwrap();
    assert_eq!(world.server.bundle(), bundle);
    assert!(
        world.server.rooms().ledger.reader().size() > issued,
        "the log goes on with the server's new SVID"
    );
    let node = Node::with(&world, svid, &key).await;
    assert!(batch(&node, &[(&id, &key)]).await.unwrap()[0].is_ok());
    world.server.shutdown().await;
}

#[tokio::test]
async fn a_start_that_fails_leaves_nothing_running() {
    let world = World::new().await;
    let taken = world.server.api_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let clock = world.clock.clone();
    let refused = again(&dir, &clock, |config| {
        config.listen.api = mintmark_runtime::config::Listen::new(taken)
    })
    .await;
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains(&taken.to_string()), "{refused}");
    let refused = again(&dir, &clock, |config| {
        config.attest.x509pop_authorities = "/nonexistent.pem".into()
    })
    .await;
    assert!(refused.err().unwrap().to_string().contains("/nonexistent.pem"));
    let refused = again(&dir, &clock, |config| {
        config.https.certificate = "/nonexistent.pem".into()
    })
    .await;
    assert!(refused.err().unwrap().to_string().contains("https.key"));
    let refused = again(&dir, &clock, |config| {
        config.https.certificate = "/nonexistent.pem".into();
        config.https.key = "/nonexistent.pem".into();
    });
    assert!(refused.await.err().unwrap().to_string().contains("/nonexistent.pem"));
    // Not even the directory's lock.
    again(&dir, &clock, |_| {}).await.unwrap().server.shutdown().await;
    world.shutdown().await;
}

#[tokio::test]
async fn a_restored_server_goes_on_in_a_new_log() {
    let world = World::new().await;
    let clock = world.clock.clone();
    let id = world.entry(entry("/w", "/node")).await;
    let bundle = world.server.bundle();
    let file = world.dir.path().join("backup");
    let source = config(world.dir.path());
    // While the server runs.
    let revision = backup(&source, &file).unwrap();
    world.entry(entry("/later", "/node")).await;
    let busy = restore(&source, &file).await.unwrap_err();
    assert!(matches!(busy, BackupError::Locked(_)), "{busy}");
    let dir = world.shutdown().await;
    let there = restore(&source, &file).await.unwrap_err();
    assert!(matches!(there, BackupError::Exists(_)), "{there}");

    // On a new machine: the key-encryption key comes along, the old log does not.
    let new = tempfile::tempdir().unwrap();
    let mut target = config(new.path());
    target.keys.kek = dir.path().join("data/keys/kek");
    let restored = restore(&target, &file).await.unwrap();
    assert_eq!((restored.revision, restored.log), (revision, 2));
    let world = again(&new, &clock, |config| {
        config.keys.kek = dir.path().join("data/keys/kek")
    })
    .await
    .unwrap();
    assert_eq!(world.server.bundle(), bundle);
    let registry = &world.server.rooms().registry;
    assert_eq!((registry.len(), registry.get(&id).is_some()), (1, true));
    assert_eq!(world.server.rooms().ledger.number(), 2);
    world.server.shutdown().await;

    // On the same machine: the old log stays beside the new one.
    std::fs::remove_dir_all(dir.path().join("data/store")).unwrap();
    assert_eq!(restore(&source, &file).await.unwrap().log, 2);
    let world = again(&dir, &clock, |_| {}).await.unwrap();
    assert!(world.server.rooms().ledger.reader_of(1).is_some());
    world.server.shutdown().await;
}
