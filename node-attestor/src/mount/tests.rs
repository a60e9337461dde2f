//! Through the driver's own sockets, as the kubelet calls it, with real mounts.

#![expect(clippy::disallowed_methods, reason = "a test spawns what it tests beside itself")]

mod propagation;
mod world;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mintmark_identity::svid::x509::Leaf;
use mintmark_proto::attestor::Update;
use mintmark_proto::csi::{
    GetPluginCapabilitiesRequest, GetPluginInfoRequest, NodeGetCapabilitiesRequest, NodeGetInfoRequest, ProbeRequest,
};
use mintmark_proto::registration::RegistrationStatus;
use rustix::fs::{Mode, OFlags, open, openat};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::keep::NewKey;
use crate::testing::{Authority, TTL, entry};
use world::{CART, Container, Kubelet, PATIENCE, TestPod, World, ids, in_own_namespace, names, within};

const MINTMARK: &str = "csi.mintmark.dev";
const FILES: [(&str, &str); 1] = [("files", "true")];

#[test]
fn the_kubelet_finds_the_drivers_and_learns_what_they_are() {
    in_own_namespace("the_kubelet_finds_the_drivers_and_learns_what_they_are", || async {
        let world = World::new();
        let waits = world.registered.check().unwrap_err();
        assert!(waits.contains(MINTMARK) && waits.contains("csi.kubelet_dir"), "{waits}");
        for driver in [MINTMARK, "csi.spiffe.io"] {
            let mut kubelet = world.kubelet(driver).await;
            let info = kubelet.identity.get_plugin_info(GetPluginInfoRequest {}).await.unwrap();
            assert_eq!(info.into_inner().name, driver);
            let ready = kubelet.identity.probe(ProbeRequest {}).await.unwrap();
            assert_eq!(ready.into_inner().ready, Some(true));
            let none = GetPluginCapabilitiesRequest {};
            kubelet.identity.get_plugin_capabilities(none).await.unwrap();
            let node = kubelet.node.node_get_info(NodeGetInfoRequest {}).await.unwrap();
            assert_eq!(node.into_inner().node_id, "node-a");
            let can = kubelet.node.node_get_capabilities(NodeGetCapabilitiesRequest {}).await;
            assert_eq!(can.unwrap().into_inner().capabilities.len(), 1);
            let socket = std::fs::metadata(world.root.path().join(format!("kubelet/plugins/{driver}/csi.sock")));
            assert_eq!(socket.unwrap().mode() & 0o777, 0o600);
        }
        world.registered.check().unwrap();
        let refused = RegistrationStatus {
            plugin_registered: false,
            error: "no room".into(),
        };
        let mut kubelet = world.kubelet(MINTMARK).await;
        kubelet.registration.notify_registration_status(refused).await.unwrap();
        assert!(world.registered.check().unwrap_err().contains("no room"));
    });
}

#[test]
fn a_pod_starts_at_once_with_a_socket_of_its_own_and_ends_without_a_trace() {
    in_own_namespace(
        "a_pod_starts_at_once_with_a_socket_of_its_own_and_ends_without_a_trace",
        || async {
            let world = World::new();
            let kubelet = world.kubelet(MINTMARK).await;
            // Neither the server nor anything else is needed for that.
            kubelet.publish(&CART, &[]).await.unwrap();
            let volume = kubelet.target(&CART);
            assert_eq!(names(&volume), ["socket", "spire-agent.sock"]);
            let readonly = std::fs::create_dir(volume.join("x")).unwrap_err();
            assert_eq!(readonly.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
            let dir = std::fs::metadata(world.root.path().join("csi")).unwrap();
            assert_eq!(dir.mode() & 0o777, 0o700);
            assert_eq!(
                world.news().await,
                format!("up {} shop/cart-0 cart \"token-of-cart\"", CART.uid)
            );

            // A workload that is early waits for its identity instead of failing.
            let container = Container::start(&world, &kubelet, &CART);
            let mut stream = container.x509().await;
            world.judge(&CART, Code::Ok, "");
            world.give(&CART);
            assert_eq!(ids(&mut stream).await.unwrap(), ["spiffe://example.org/cart-0"]);

            kubelet.unpublish(&CART).await.unwrap();
            let ended = ids(&mut stream).await.unwrap_err();
            assert!(ended.message().contains("not mounted"), "{ended}");
            drop(container);
            assert!(!volume.exists());
            world.assert_nothing_left();
            assert_eq!(world.news().await, format!("down {}", CART.uid));
            // Whatever the kubelet forgot, it may ask again.
            kubelet.unpublish(&CART).await.unwrap();
            world.assert_nothing_left();
        },
    );
}

#[test]
fn files_are_there_before_the_pod_starts_belong_to_its_group_and_never_touch_a_disk() {
    in_own_namespace(
        "files_are_there_before_the_pod_starts_belong_to_its_group_and_never_touch_a_disk",
        || async {
            let world = World::new();
            let kubelet = world.kubelet(MINTMARK).await;
            let own = ["socket", "spire-agent.sock"];
            let cases = [
                ("spiffe", ["bundle.pem", "svid.pem", "svid_key.pem"]),
                ("tls", ["ca.crt", "tls.crt", "tls.key"]),
                ("istio", ["cert-chain.pem", "key.pem", "root-cert.pem"]),
            ];
            let pod = TestPod {
                group: Some(2000),
                ..CART
            };
            world.give(&pod);
            for (layout, expected) in cases {
                let audiences = "aws=sts.amazonaws.com,b";
                let attributes = [("files", "true"), ("layout", layout), ("audiences", audiences)];
                kubelet.publish(&pod, &attributes).await.unwrap();
                let volume = kubelet.target(&pod);
                let mut all: Vec<_> = expected.into_iter().chain(own).chain(["jwt_aws", "jwt_b"]).collect();
                all.sort_unstable();
                assert_eq!(names(&volume), all);
                for name in expected.into_iter().chain(["jwt_aws"]) {
                    let meta = std::fs::metadata(volume.join(name)).unwrap();
                    assert_eq!((meta.mode() & 0o777, meta.gid(), meta.uid()), (0o640, 2000, 0));
                }
                let token = std::fs::read_to_string(volume.join("jwt_aws")).unwrap();
                let token = mintmark_identity::svid::jwt::Token::parse(&token).unwrap();
                assert_eq!(token.audience(), ["sts.amazonaws.com"]);
                let mounts = world.mounts();
                assert!(
                    mounts.len() == 2 && mounts.iter().all(|line| line.contains(" tmpfs ")),
                    "{mounts:?}"
                );
                assert!(mounts.iter().all(|line| line.contains("size=8192k")), "{mounts:?}");
                let record = std::fs::read_dir(world.root.path().join("data/csi")).unwrap().next();
                let record = std::fs::read_to_string(record.unwrap().unwrap().path()).unwrap();
                assert!(record.contains(pod.uid) && !record.contains(pod.token), "{record}");
                kubelet.unpublish(&pod).await.unwrap();
                world.assert_nothing_left();
            }
        },
    );
}

/// A call that has got so far that it waits for the identity. Its token is a new one, so that the server is told.
async fn waiting(world: &World, kubelet: &Kubelet, token: &'static str) -> JoinHandle<Result<(), Status>> {
    let kubelet = kubelet.clone();
    let call = tokio::spawn(async move { kubelet.publish(&TestPod { token, ..CART }, &FILES).await });
    assert!(world.news().await.contains(token));
    call
}

#[test]
fn tokens_and_bundles_of_others_in_the_files_follow_what_changes() {
    in_own_namespace(
        "tokens_and_bundles_of_others_in_the_files_follow_what_changes",
        || async {
            let world = World::new();
            let kubelet = world.kubelet(MINTMARK).await;
            let authority = world.server.authority.lock().unwrap().clone();
            let other = Authority::new("other.example");
            let mut federated = entry(CART.name, "/cart-0", &format!("k8s:pod-uid:{}", CART.uid));
            federated.federates_with = vec!["other.example".into()];
            let refused = world.keep.apply(&Update {
                upserts: vec![federated],
                bundles: [&*authority, &other]
                    .map(|one| Authority::bundle(1, &[one], &[]))
                    .into(),
                complete: true,
                ..Update::default()
            });
            assert_eq!(refused, []);
            kubelet
                .publish(&CART, &[("files", "true"), ("audiences", "a")])
                .await
                .unwrap();
            let volume = kubelet.target(&CART);
            let theirs = std::fs::read(volume.join("federated_other.example.pem")).unwrap();
            let theirs = CertificateDer::from_pem_slice(&theirs).unwrap();
            assert_eq!(theirs.as_ref(), other.der());

            let token = || std::fs::read(volume.join("jwt_a")).unwrap();
            let before = token();
            // Nothing but the token is due by then.
            world.clock.advance(std::time::Duration::from_secs(200));
            while token() == before {
                tokio::task::yield_now().await;
            }
            world.give(&CART);
            while names(&volume).iter().any(|name| name.starts_with("federated_")) {
                tokio::task::yield_now().await;
            }
            kubelet.unpublish(&CART).await.unwrap();
            world.assert_nothing_left();
        },
    );
}

/// What becomes of a call for which the node's time passes.
async fn late(world: &World, mut call: JoinHandle<Result<(), Status>>) -> Result<(), Status> {
    loop {
        tokio::select! {
            biased;
            done = &mut call => return done.unwrap(),
            () = tokio::task::yield_now() => world.clock.advance(PATIENCE),
        }
    }
}

#[test]
fn a_pod_with_files_waits_for_its_identity_but_never_for_ever() {
    in_own_namespace("a_pod_with_files_waits_for_its_identity_but_never_for_ever", || async {
        let world = World::new();
        let kubelet = world.kubelet(MINTMARK).await;
        let publish = |token| waiting(&world, &kubelet, token);
        // The server is silent: the kubelet is told to try again.
        let waits = publish("t1").await;
        let busy = kubelet.publish(&CART, &FILES).await.unwrap_err();
        assert_eq!(busy.code(), Code::Aborted);
        let silent = late(&world, waits).await.unwrap_err();
        assert_eq!(silent.code(), Code::Unavailable);
        let text = silent.message();
        assert!(text.contains("shop/cart-0") && text.contains("has not said"), "{text}");
        assert!(!kubelet.target(&CART).exists());

        // It refuses: that is said at once, with its reason, to the kubelet and to whoever calls.
        let waits = publish("t2").await;
        world.judge(&CART, Code::PermissionDenied, "the API server knows no such pod");
        let refused = within(waits).await.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(
            refused
                .message()
                .contains("no identity issued: the API server knows no such pod")
        );

        // Asked again, it agrees, and no rule selects the pod.
        let waits = publish("t3").await;
        world.judge(&CART, Code::Ok, "");
        let none = late(&world, waits).await.unwrap_err();
        assert!(
            none.code() == Code::Unavailable && none.message().contains("no identity rule"),
            "{none}"
        );

        // There is one now.
        let waits = publish("t4").await;
        world.give(&CART);
        within(waits).await.unwrap().unwrap();
        assert!(names(&kubelet.target(&CART)).contains(&"svid.pem".to_owned()));
        kubelet.unpublish(&CART).await.unwrap();
        world.assert_nothing_left();
    });
}

#[test]
fn a_volume_that_is_asked_for_again_takes_the_new_token_and_does_nothing_else() {
    in_own_namespace(
        "a_volume_that_is_asked_for_again_takes_the_new_token_and_does_nothing_else",
        || async {
            let world = World::new();
            let kubelet = world.kubelet(MINTMARK).await;
            world.give(&CART);
            kubelet.publish(&CART, &FILES).await.unwrap();
            assert!(world.news().await.contains("token-of-cart"));
            let data = std::fs::read_link(kubelet.target(&CART).join("..data")).unwrap();
            kubelet.publish(&CART, &FILES).await.unwrap();
            let fresh = TestPod {
                token: "token-2",
                ..CART
            };
            // Without the identity it had, too: what is published stays.
            world.apply(vec![], &[CART.name]);
            kubelet.publish(&fresh, &FILES).await.unwrap();
            assert!(world.news().await.contains("token-2"));
            assert_eq!(std::fs::read_link(kubelet.target(&CART).join("..data")).unwrap(), data);
            let differs = kubelet.publish(&CART, &[]).await.unwrap_err();
            assert_eq!(differs.code(), Code::AlreadyExists);
            let wrong = kubelet.publish(&CART, &[("fils", "true")]).await.unwrap_err();
            assert_eq!(wrong.code(), Code::InvalidArgument);
            assert!(wrong.message().contains("audiences, files, layout"), "{wrong}");
            kubelet.unpublish(&CART).await.unwrap();
            world.assert_nothing_left();
        },
    );
}

#[test]
fn what_is_published_survives_a_restart_and_a_crash_of_the_attestor() {
    in_own_namespace(
        "what_is_published_survives_a_restart_and_a_crash_of_the_attestor",
        || async {
            let plain = TestPod {
                uid: "6d3b9f1e-0f6c-4c8e-9a45-000000000002",
                name: "plain-0",
                ..CART
            };
            let mut world = World::new();
            let kubelet = world.kubelet(MINTMARK).await;
            world.give(&CART);
            kubelet.publish(&CART, &FILES).await.unwrap();
            kubelet.publish(&plain, &[]).await.unwrap();
            let containers = [&CART, &plain].map(|pod| (pod, Container::start(&world, &kubelet, pod)));
            for crash in [false, true] {
                world = match crash {
                    true => world.crash().await,
                    false => world.restart().await,
                };
                // The server is told of the pods, and that their tokens are still to come.
                assert!(world.news().await.ends_with("\"\""));
                assert!(world.news().await.ends_with("\"\""));
                world.give(&CART);
                world.apply(
                    vec![entry(plain.name, "/plain-0", &format!("k8s:pod-uid:{}", plain.uid))],
                    &[],
                );
                for (pod, container) in &containers {
                    // Through the mount that the container has had all the time.
                    let mut stream = container.x509().await;
                    assert_eq!(
                        ids(&mut stream).await.unwrap(),
                        [format!("spiffe://example.org/{}", pod.name)]
                    );
                }
                let kubelet = world.kubelet(MINTMARK).await;
                kubelet.publish(&CART, &FILES).await.unwrap();
                assert!(world.news().await.contains("token-of-cart"));
            }
            drop(containers);
            // With nobody else there: the kubelet can end pods without a server.
            let world = world.restart().await;
            let kubelet = world.kubelet(MINTMARK).await;
            kubelet.unpublish(&plain).await.unwrap();
            kubelet.unpublish(&CART).await.unwrap();
            world.assert_nothing_left();
        },
    );
}

#[test]
fn what_was_half_done_when_the_attestor_ended_is_undone_or_finished() {
    in_own_namespace(
        "what_was_half_done_when_the_attestor_ended_is_undone_or_finished",
        || async {
            let mut world = World::new();
            let kubelet = world.kubelet(MINTMARK).await;
            // It waits for the identity, and has everything but the pod's view, when the attestor ends.
            for finish in [false, true] {
                let waits = {
                    let kubelet = kubelet.clone();
                    tokio::spawn(async move { kubelet.publish(&CART, &FILES).await })
                };
                assert!(world.news().await.starts_with("up"));
                assert_eq!(world.mounts().len(), 1);
                world = world.restart().await;
                within(waits).await.unwrap().unwrap_err();
                world.assert_nothing_left();
                let kubelet = world.kubelet(MINTMARK).await;
                if finish {
                    world.give(&CART);
                    kubelet.publish(&CART, &FILES).await.unwrap();
                }
                kubelet.unpublish(&CART).await.unwrap();
                world.assert_nothing_left();
            }
        },
    );
}

#[test]
fn a_kubelet_that_hangs_up_leaves_nothing_half_done() {
    in_own_namespace("a_kubelet_that_hangs_up_leaves_nothing_half_done", || async {
        let world = World::new();
        let kubelet = world.kubelet(MINTMARK).await;
        let waits = {
            let kubelet = world.kubelet(MINTMARK).await;
            tokio::spawn(async move { kubelet.publish(&CART, &FILES).await })
        };
        assert!(world.news().await.starts_with("up"));
        waits.abort();
        world.give(&CART);
        // What was begun is finished meanwhile, or still under way.
        let published = loop {
            match kubelet.publish(&CART, &FILES).await {
                Err(status) if status.code() == Code::Aborted => tokio::task::yield_now().await,
                done => break done,
            }
        };
        published.unwrap();
        kubelet.unpublish(&CART).await.unwrap();
        world.assert_nothing_left();
    });
}

#[test]
fn a_pod_is_nobody_else_and_is_what_it_says_only_when_both_witnesses_agree() {
    in_own_namespace(
        "a_pod_is_nobody_else_and_is_what_it_says_only_when_both_witnesses_agree",
        || async {
            let other = TestPod {
                uid: "6d3b9f1e-0f6c-4c8e-9a45-000000000003",
                name: "other-0",
                ..CART
            };
            let world = World::new();
            let kubelet = world.kubelet(MINTMARK).await;
            for pod in [&CART, &other] {
                kubelet.publish(pod, &[]).await.unwrap();
            }
            let by_namespace = entry("shop", "/shop", "k8s:ns:shop");
            // The test's own user: the kernel's word counts for nothing on a pod's socket.
            let by_user = entry("root", "/root", "unix:uid:0");
            world.give(&CART);
            world.apply(vec![by_namespace, by_user], &[]);
            let [cart, rival] = [&CART, &other].map(|pod| Container::start(&world, &kubelet, pod));

            let mut stream = cart.x509().await;
            assert_eq!(ids(&mut stream).await.unwrap(), ["spiffe://example.org/cart-0"]);
            // What the witnesses say reaches streams that are open.
            world.judge(&CART, Code::Ok, "");
            let mut both = ids(&mut stream).await.unwrap();
            both.sort();
            assert_eq!(both, ["spiffe://example.org/cart-0", "spiffe://example.org/shop"]);
            world.judge(&CART, Code::PermissionDenied, "the pod is gone");
            let gone = ids(&mut stream).await.unwrap_err();
            assert_eq!(gone.message(), "no identity issued: the pod is gone");

            let mut stream = rival.x509().await;
            world.judge(
                &other,
                Code::PermissionDenied,
                "its token is not that of a pod of this node",
            );
            let refused = ids(&mut stream).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied);
            assert_eq!(
                refused.message(),
                "no identity issued: its token is not that of a pod of this node"
            );
            world.judge(&other, Code::Ok, "");
            let mut stream = rival.x509().await;
            assert_eq!(ids(&mut stream).await.unwrap(), ["spiffe://example.org/shop"]);
            world.apply(vec![], &["shop"]);
            let gone = ids(&mut stream).await.unwrap_err();
            assert!(
                gone.code() == Code::PermissionDenied && gone.message().contains("no identity rule"),
                "{gone}"
            );
            drop((cart, rival));
            for pod in [&CART, &other] {
                kubelet.unpublish(pod).await.unwrap();
            }
            world.assert_nothing_left();
        },
    );
}

#[test]
fn a_pod_of_both_drivers_is_one_pod_until_its_last_volume_is_gone() {
    in_own_namespace(
        "a_pod_of_both_drivers_is_one_pod_until_its_last_volume_is_gone",
        || async {
            let world = World::new();
            let (ours, spires) = (world.kubelet(MINTMARK).await, world.kubelet("csi.spiffe.io").await);
            ours.publish(&CART, &[]).await.unwrap();
            let mut request = spires.request(&CART, &[]);
            request.target_path = request.target_path.replace("/spiffe/", "/spire/");
            std::fs::create_dir_all(Path::new(&request.target_path).parent().unwrap()).unwrap();
            spires.node.clone().node_publish_volume(request.clone()).await.unwrap();
            assert!(world.news().await.starts_with("up"));
            assert_eq!(world.pods.count(), 1);
            ours.unpublish(&CART).await.unwrap();
            assert_eq!(world.pods.count(), 1);
            let unpublish = mintmark_proto::csi::NodeUnpublishVolumeRequest {
                volume_id: request.volume_id,
                target_path: request.target_path,
            };
            spires.node.clone().node_unpublish_volume(unpublish).await.unwrap();
            world.assert_nothing_left();
            assert!(world.news().await.starts_with("down"));
        },
    );
}

/// The certificate and the key in a volume, read through one look at the link.
fn pair(volume: &Path) -> Option<(Vec<u8>, Vec<u8>)> {
    let data = open(volume.join("..data"), OFlags::DIRECTORY, Mode::empty()).ok()?;
    let read = |name: &str| {
        let mut bytes = Vec::new();
        let file = openat(&data, name, OFlags::RDONLY, Mode::empty()).ok()?;
        File::from(file).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    };
    let (certificate, key) = (read("svid.pem")?, read("svid_key.pem")?);
    let certificate = CertificateDer::from_pem_slice(&certificate).unwrap();
    let key = PrivatePkcs8KeyDer::from_pem_slice(&key).unwrap();
    let leaf = Leaf::parse(&certificate).unwrap();
    let public = NewKey::from_pkcs8(key.secret_pkcs8_der()).unwrap().spki;
    Some((leaf.certificate.spki_der.to_vec(), public.to_vec()))
}

#[test]
fn a_reader_in_the_pod_never_sees_a_key_that_is_not_its_certificates_in_1000_rotations() {
    in_own_namespace(
        "a_reader_in_the_pod_never_sees_a_key_that_is_not_its_certificates_in_1000_rotations",
        || async {
            let world = World::new();
            let kubelet = world.kubelet(MINTMARK).await;
            world.give(&CART);
            kubelet.publish(&CART, &FILES).await.unwrap();
            let volume = kubelet.target(&CART);
            let done = Arc::new(AtomicBool::new(false));
            let reader = std::thread::spawn({
                let (volume, done) = (volume.clone(), Arc::clone(&done));
                move || {
                    let mut seen = BTreeSet::new();
                    while !done.load(Ordering::Relaxed) {
                        // None when two rotations came between its looks.
                        if let Some((certificate, key)) = pair(&volume) {
                            assert_eq!(certificate, key);
                            seen.insert(key);
                        }
                    }
                    seen.len()
                }
            });
            let mut keys = BTreeSet::from([pair(&volume).unwrap().1]);
            let sets = || {
                let metrics = world.metrics.encode().unwrap();
                let line = metrics
                    .lines()
                    .find(|line| line.starts_with("test_volume_file_sets_total "));
                line.and_then(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok())
                    .unwrap()
            };
            for n in 1..=1000 {
                // Past the time at which it is renewed, wherever in its step that is.
                world
                    .clock
                    .advance(std::time::Duration::from_secs(TTL.unsigned_abs() * 3 / 4));
                while sets() <= n {
                    tokio::task::yield_now().await;
                }
                keys.insert(pair(&volume).unwrap().1);
            }
            done.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() > 1);
            assert_eq!(keys.len(), 1001);
            kubelet.unpublish(&CART).await.unwrap();
            world.assert_nothing_left();
        },
    );
}
