//! Credentials, judged by other people's code.

use std::process::Command;

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use mintmark_proto::admin::admin_client::AdminClient;
use mintmark_proto::admin::{ShowLeavesRequest, show_leaves_request};
use mintmark_proto::ledger::{Kind, Witness};
use mintmark_proto::spire::server::svid::svid_client::SvidClient;
use mintmark_proto::spire::server::svid::{
    BatchNewWitsvidRequest, BatchNewX509svidRequest, MintJwtsvidRequest, MintX509svidRequest, NewJwtsvidRequest,
    NewWitsvidParams, NewX509svidParams,
};
use mintmark_proto::spire::types;
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _, SanType};
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde_json::Value;
use tonic::{Code, Status};

use crate::documents::get_json;
use crate::world::{Node, World, credential, csr, entry, id_message};

pub(crate) async fn batch(
    node: &Node,
    asked: &[(&str, &KeyPair)],
) -> Result<Vec<Result<types::X509svid, types::Status>>, Status> {
    let param = |(id, key): &(&str, &KeyPair)| NewX509svidParams {
        entry_id: (*id).to_owned(),
        csr: csr(key),
    };
    let request = BatchNewX509svidRequest {
        params: asked.iter().map(param).collect(),
    };
    let answer = SvidClient::new(node.channel.clone())
        .batch_new_x509svid(request)
        .await?
        .into_inner();
    let results = answer.results.into_iter().map(|result| match result.svid {
        Some(svid) => {
            assert_eq!(result.status.unwrap().code, 0);
            Ok(svid)
        }
        None => Err(result.status.unwrap()),
    });
    Ok(results.collect())
}

#[tokio::test]
async fn a_batch_of_svids_is_accepted_by_webpki_and_openssl() {
    let world = World::new().await;
    let node = world.node().await;
    let mut wanted = entry("/w", node.id.path());
    wanted.dns_names = vec!["w.example.org".into()];
    wanted.x509_svid_ttl = 600;
    let id = world.entry(wanted).await;
    let keys: Vec<_> = (0..40).map(|_| KeyPair::generate().unwrap()).collect();
    let asked: Vec<_> = keys.iter().map(|key| (&*id, key)).collect();
    let svids = batch(&node, &asked).await.unwrap();
    assert_eq!(svids.len(), 40);

    let bundle = world.server.bundle();
    let root = CertificateDer::from(bundle.x509[0].der.to_vec());
    let anchors = [webpki::anchor_from_trusted_cert(&root).unwrap()];
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_001));
    for (svid, key) in svids.iter().zip(&keys) {
        let svid = svid.as_ref().unwrap();
        assert_eq!((svid.expires_at, svid.cert_chain.len()), (1_800_000_600, 1));
        let leaf = CertificateDer::from(svid.cert_chain[0].to_vec());
        let parsed = webpki::EndEntityCert::try_from(&leaf).unwrap();
        let usage = webpki::KeyUsage::client_auth();
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        parsed
            .verify_for_usage(algorithms, &anchors, &[], now, usage, None, None)
            .unwrap();
        let (_, x509) = x509_parser::parse_x509_certificate(&leaf).unwrap();
        assert_eq!(x509.public_key().raw, key.subject_public_key_info());
    }

    let file = |name: &str, der: &[u8]| {
        let path = world.dir.path().join(name);
        std::fs::write(&path, pem::encode(&pem::Pem::new("CERTIFICATE", der))).unwrap();
        path
    };
    let (roots, leaf) = (
        file("root.pem", &root),
        file("leaf.pem", &svids[0].as_ref().unwrap().cert_chain[0]),
    );
    let verified = Command::new("openssl")
        .args(["verify", "-x509_strict", "-attime", "1800000001", "-CAfile"])
        .args([&roots, &leaf])
        .output()
        .expect("openssl is installed");
    assert!(verified.status.success(), "{verified:?}");
    let text = Command::new("openssl")
        .args(["x509", "-noout", "-ext", "subjectAltName", "-in"])
        .arg(&leaf)
        .output()
        .unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("URI:spiffe://example.org/w") && text.contains("DNS:w.example.org"),
        "{text}"
    );
    world.shutdown().await;
}

#[tokio::test]
async fn a_node_gets_nothing_for_entries_that_are_not_its_own() {
    let world = World::new().await;
    let (node, other) = (world.node().await, world.node().await);
    let own = world.entry(entry("/own", node.id.path())).await;
    let foreign = world.entry(entry("/foreign", other.id.path())).await;
    let key = KeyPair::generate().unwrap();
    let answers = batch(
        &node,
        &[(&own, &key), (&foreign, &key), ("", &key), ("no-such-entry", &key)],
    )
    .await
    .unwrap();
    assert!(answers[0].is_ok());
    for (answer, code, message) in [
        (&answers[1], Code::NotFound, "entry not found or not authorized"),
        (&answers[2], Code::InvalidArgument, "missing entry ID"),
        (&answers[3], Code::NotFound, "entry not found or not authorized"),
    ] {
        let refused = answer.as_ref().unwrap_err();
        assert_eq!((refused.code, &*refused.message), (code.into(), message));
    }
    let mut client = SvidClient::new(node.channel.clone());
    let request = NewJwtsvidRequest {
        entry_id: foreign.clone(),
        audience: vec!["a".into()],
    };
    assert_eq!(client.new_jwtsvid(request).await.unwrap_err().code(), Code::NotFound);
    let param = NewWitsvidParams {
        entry_id: foreign,
        public_key: key.subject_public_key_info().into(),
        signing_algorithm: "ES256".into(),
    };
    let answer = client
        .batch_new_witsvid(BatchNewWitsvidRequest { params: vec![param] })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        answer.results[0].status.as_ref().unwrap().code,
        i32::from(Code::NotFound)
    );
    // Nothing was signed for the foreign identity, so nothing is in the log.
    let request = ShowLeavesRequest {
        which: Some(show_leaves_request::Which::Last(100)),
    };
    let leaves = AdminClient::new(world.admin().await)
        .show_leaves(request)
        .await
        .unwrap()
        .into_inner()
        .leaves;
    assert!(
        leaves
            .iter()
            .all(|leaf| leaf.leaf.as_ref().unwrap().spiffe_id != "spiffe://example.org/foreign")
    );
    world.shutdown().await;
}

/// jsonwebtoken verifies with ring.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::InvalidAlgorithm.into()),
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

struct RingVerifier(Vec<u8>);

impl signature::Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.0);
        key.verify(message, signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::ES256
    }
}

fn verifier(_: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    Ok(Box::new(RingVerifier(key.try_get_as_bytes()?.to_vec())))
}

/// Verifies a token by a JWK set, as an OIDC consumer does: the key by its `kid`.
fn verify_token(token: &str, jwks: &Value, audience: Option<&str>) -> Value {
    let _ = PROVIDER.install_default();
    let kid = jsonwebtoken::decode_header(token).unwrap().kid.unwrap();
    let jwk = jwks["keys"]
        .as_array()
        .unwrap()
        .iter()
        .find(|jwk| jwk["kid"] == *kid)
        .expect("the key is published");
    let part = |name: &str| jwk[name].as_str().unwrap();
    let key = DecodingKey::from_ec_components(part("x"), part("y")).unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.validate_exp = false;
    match audience {
        Some(audience) => validation.set_audience(&[audience]),
        None => validation.validate_aud = false,
    }
    jsonwebtoken::decode::<Value>(token, &key, &validation).unwrap().claims
}

#[tokio::test]
async fn a_jwt_svid_is_verified_by_the_published_oidc_keys() {
    let world = World::new().await;
    let node = world.node().await;
    let mut wanted = entry("/w", node.id.path());
    wanted.jwt_svid_ttl = 120;
    let entry_id = world.entry(wanted).await;
    let mut client = SvidClient::new(node.channel.clone());
    let request = NewJwtsvidRequest {
        entry_id,
        audience: vec!["sts.example.com".into()],
    };
    let svid = client
        .new_jwtsvid(request.clone())
        .await
        .unwrap()
        .into_inner()
        .svid
        .unwrap();
    let jwks = get_json(&world, "/keys").await;
    assert!(
        jwks["keys"]
            .as_array()
            .unwrap()
            .iter()
            .all(|jwk| jwk["use"] == "sig" && jwk["alg"] == "ES256")
    );
    let claims = verify_token(&svid.token, &jwks, Some("sts.example.com"));
    assert_eq!(claims["sub"], "spiffe://example.org/w");
    assert_eq!(claims["iss"], world.server.issuer());
    assert_eq!(
        (svid.expires_at, svid.issued_at),
        (claims["exp"].as_i64().unwrap(), claims["iat"].as_i64().unwrap())
    );
    assert_eq!(svid.expires_at, 1_800_000_120);
    let none = client
        .new_jwtsvid(NewJwtsvidRequest {
            audience: vec![],
            ..request.clone()
        })
        .await
        .unwrap_err();
    assert_eq!(
        (none.code(), none.message()),
        (Code::InvalidArgument, "at least one audience is required")
    );
    for audience in [vec![String::new()], vec!["a".repeat(2000)], vec!["a".into(); 100]] {
        let refused = client
            .new_jwtsvid(NewJwtsvidRequest {
                audience,
                ..request.clone()
            })
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    world.shutdown().await;
}

#[tokio::test]
async fn an_audience_that_takes_nothing_else_gets_rs256() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("rsa.pem");
    let made = Command::new("openssl")
        .args([
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
            "-out",
        ])
        .arg(&key)
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{made:?}");
    let world = World::with(|config| {
        config.keys.jwt_rs256 = true;
        config.keys.rs256_import = key.clone();
    })
    .await;
    let mut admin = SvidClient::new(world.admin().await);
    for (audience, algorithm) in [
        ("api://AzureADTokenExchange", Algorithm::RS256),
        ("sts.example.com", Algorithm::ES256),
    ] {
        let request = MintJwtsvidRequest {
            id: Some(id_message("/w")),
            audience: vec![audience.into()],
            ttl: 0,
        };
        let token = admin
            .mint_jwtsvid(request)
            .await
            .unwrap()
            .into_inner()
            .svid
            .unwrap()
            .token;
        assert_eq!(
            jsonwebtoken::decode_header(&token).unwrap().alg,
            algorithm,
            "{audience}"
        );
    }
    let configuration = get_json(&world, "/.well-known/openid-configuration").await;
    let algorithms = &configuration["id_token_signing_alg_values_supported"];
    assert_eq!(*algorithms, serde_json::json!(["ES256", "RS256"]));
    world.shutdown().await;
}

#[tokio::test]
async fn a_wit_svid_names_the_workloads_key() {
    let world = World::new().await;
    let node = world.node().await;
    let entry_id = world.entry(entry("/w", node.id.path())).await;
    let key = KeyPair::generate().unwrap();
    let spki = key.subject_public_key_info();
    let good = NewWitsvidParams {
        entry_id,
        public_key: spki.into(),
        signing_algorithm: "ES256".into(),
    };
    let params = vec![
        good.clone(),
        NewWitsvidParams {
            signing_algorithm: "none".into(),
            ..good.clone()
        },
        NewWitsvidParams {
            signing_algorithm: "RS256".into(),
            ..good.clone()
        },
        NewWitsvidParams {
            public_key: vec![1, 2, 3].into(),
            ..good.clone()
        },
        NewWitsvidParams {
            public_key: Default::default(),
            ..good
        },
    ];
    let mut client = SvidClient::new(node.channel.clone());
    let results = client
        .batch_new_witsvid(BatchNewWitsvidRequest { params })
        .await
        .unwrap()
        .into_inner()
        .results;
    let svid = results[0].svid.as_ref().unwrap();
    let wit = world.server.bundle().wit_jwks().unwrap();
    let claims = verify_token(&svid.token, &serde_json::from_str(&wit).unwrap(), None);
    assert_eq!(claims["sub"], "spiffe://example.org/w");
    assert_eq!(
        (&claims["cnf"]["jwk"]["kty"], &claims["cnf"]["jwk"]["crv"]),
        (&"EC".into(), &"P-256".into())
    );
    assert!(claims.get("aud").is_none());
    for refused in &results[1..] {
        assert_eq!(
            refused.status.as_ref().unwrap().code,
            i32::from(Code::InvalidArgument),
            "{refused:?}"
        );
        assert!(refused.svid.is_none());
    }
    world.shutdown().await;
}

#[tokio::test]
async fn what_an_administrator_mints_is_in_the_ledger_with_its_author() {
    let world = World::new().await;
    let mut admin = SvidClient::new(world.admin().await);
    let request = MintJwtsvidRequest {
        id: Some(id_message("/break-glass")),
        audience: vec!["a".into()],
        ttl: 30,
    };
    let svid = admin.mint_jwtsvid(request).await.unwrap().into_inner().svid.unwrap();
    let jwks = get_json(&world, "/keys").await;
    let claims = verify_token(&svid.token, &jwks, Some("a"));
    let serial = mintmark_identity::Serial::from_jti(claims["jti"].as_str().unwrap()).unwrap();
    let which = show_leaves_request::Which::Serial(serial.as_bytes().to_vec().into());
    let mut ledger = AdminClient::new(world.admin().await);
    let leaves = ledger
        .show_leaves(ShowLeavesRequest { which: Some(which) })
        .await
        .unwrap()
        .into_inner()
        .leaves;
    let leaf = leaves[0].leaf.as_ref().unwrap();
    let uid = nix::unistd::getuid();
    assert_eq!(leaf.author, format!("uid:{uid} pid:{}", std::process::id()));
    assert_eq!(
        (leaf.kind(), &*leaf.spiffe_id),
        (Kind::JwtSvid, "spiffe://example.org/break-glass")
    );
    assert_eq!(leaf.witnesses, [i32::from(Witness::Admin)]);

    let refused = |name: &str| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
        let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
        MintX509svidRequest {
            csr: request.der().to_vec().into(),
            ttl: 60,
        }
    };
    let minted = admin
        .mint_x509svid(refused("spiffe://example.org/w"))
        .await
        .unwrap()
        .into_inner()
        .svid
        .unwrap();
    assert_eq!(minted.id, Some(id_message("/w")));
    for name in [
        "spiffe://example.org",
        "spiffe://example.org/spire/server",
        "spiffe://other.org/w",
        "https://example.org/w",
    ] {
        let status = admin.mint_x509svid(refused(name)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{name}: {status}");
    }
    world.shutdown().await;
}

#[tokio::test]
async fn an_admin_svid_administers_from_afar_as_long_as_its_entry_says_so() {
    let world = World::new().await;
    let node = world.node().await;
    let mut wanted = entry("/admin", node.id.path());
    wanted.admin = true;
    let id = world.entry(wanted).await;
    let plain = world.entry(entry("/plain", node.id.path())).await;
    let key = KeyPair::generate().unwrap();
    let svids = batch(&node, &[(&id, &key), (&plain, &key)]).await.unwrap();
    let connect = async |svid: &types::X509svid| world.connect(Some(credential(svid, &key))).await.unwrap();
    let admin = connect(svids[0].as_ref().unwrap()).await;
    let status = |channel| AdminClient::new(channel);
    status(admin.clone())
        .status(mintmark_proto::admin::StatusRequest {})
        .await
        .unwrap();
    let mut debug = mintmark_proto::spire::server::debug::debug_client::DebugClient::new(admin.clone());
    let local = debug
        .get_info(mintmark_proto::spire::server::debug::GetInfoRequest {})
        .await
        .unwrap_err();
    // The service is not even there.
    assert_eq!(local.code(), Code::PermissionDenied, "{local}");
    let plain = connect(svids[1].as_ref().unwrap()).await;
    for channel in [plain, node.channel.clone(), world.anonymous().await] {
        let refused = status(channel)
            .status(mintmark_proto::admin::StatusRequest {})
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    world.server.rooms().registry.delete(&[id]).await.unwrap();
    let refused = status(admin)
        .status(mintmark_proto::admin::StatusRequest {})
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    world.shutdown().await;
}
