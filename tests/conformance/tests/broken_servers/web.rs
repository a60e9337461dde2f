//! The reference bundle endpoint and OIDC issuer: one HTTPS listener, with the faults that documents and servers can have.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Request, Response, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    authority::{World, pem, remove},
    breakage::Breakage,
};

/// The listener's documents.
pub(crate) struct Web {
    world: Arc<World>,
    /// `https://localhost:PORT`
    pub(crate) origin: String,
    gets: AtomicUsize,
}

/// Listens, and serves until the runtime ends. Also returns the authority of its certificate, PEM.
pub(crate) async fn start(listener: TcpListener, world: Arc<World>) -> (Arc<Web>, Vec<u8>) {
    let origin = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let web = Arc::new(Web {
        world: world.clone(),
        origin,
        gets: AtomicUsize::new(0),
    });
    let (config, ca) = tls(&world);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let served = web.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(connection(tcp, acceptor.clone(), served.clone()));
        }
    });
    (web, ca)
}

async fn connection(mut tcp: TcpStream, acceptor: TlsAcceptor, web: Arc<Web>) {
    if web.world.is(Breakage::EndpointOldTls) && offers_old_tls(&tcp).await {
        // The head of a ServerHello of TLS 1.0.
        let _ = tcp.write_all(&[0x16, 3, 1, 0, 49, 2, 0, 0, 45, 3, 1]).await;
        return;
    }
    let Ok(tls) = acceptor.accept(tcp).await else { return };
    let service = service_fn(move |request| {
        let web = web.clone();
        async move { Ok::<_, Infallible>(web.answer(&request)) }
    });
    let _ = Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(tls), service)
        .await;
}

/// Whether the first record is a hello of at most TLS 1.1.
async fn offers_old_tls(tcp: &TcpStream) -> bool {
    let mut head = [0; 11];
    while let Ok(n @ 1..) = tcp.peek(&mut head).await {
        if n == head.len() {
            break;
        }
    }
    head[9..] < [3, 3][..]
}

fn tls(world: &World) -> (ServerConfig, Vec<u8>) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_der = ca.self_signed(&ca_key).unwrap().der().to_vec();
    let issuer = Issuer::new(ca, ca_key);

    let key = KeyPair::generate().unwrap();
    let host = if world.is(Breakage::EndpointOtherHost) {
        "elsewhere.test"
    } else {
        "localhost"
    };
    let mut leaf = CertificateParams::new([host.to_owned()]).unwrap();
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let chain = leaf.signed_by(&key, &issuer).unwrap().der().to_vec();
    let (chain, key) = match world.broken {
        Some(Breakage::EndpointSpiffe) => world.leaf(&format!("{}/endpoint", world.id())),
        Some(Breakage::EndpointSpiffeOther) => world.leaf(&format!("{}/other", world.id())),
        _ => (chain, key.serialize_der()),
    };

    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca_der.clone())).unwrap();
    let builder = match world.broken {
        Some(Breakage::EndpointClientCertificate) => {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .build()
                    .unwrap(),
            )
        }
        _ => builder.with_no_client_auth(),
    };
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
    let config = builder
        .with_single_cert(vec![CertificateDer::from(chain)], key)
        .unwrap();
    let trusted = if world.is(Breakage::EndpointUntrusted) {
        world.friend.der.clone()
    } else {
        ca_der
    };
    (config, pem("CERTIFICATE", trusted))
}

impl Web {
    fn is(&self, breakage: Breakage) -> bool {
        self.world.is(breakage)
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/.well-known/openid-configuration" => document(&self.discovery()),
            "/keys" => document(&json!({ "keys": [self.oidc_key()] })),
            "/moved" => self.moved(),
            _ => self.bundle(),
        }
    }

    fn moved(&self) -> Response<Full<Bytes>> {
        let (status, target) = match self.world.broken {
            Some(Breakage::EndpointRedirectsForGood) => (301, format!("{}/", self.origin)),
            Some(Breakage::EndpointRedirectsToHttp) => (302, "http://localhost/".to_owned()),
            _ => (302, "/".to_owned()),
        };
        Response::builder()
            .status(status)
            .header(header::LOCATION, target)
            .body(Full::default())
            .unwrap()
    }

    fn bundle(&self) -> Response<Full<Bytes>> {
        let gets = self.gets.fetch_add(1, Ordering::Relaxed);
        let mut response = document(&self.bundle_document(gets));
        match self.world.broken {
            Some(Breakage::EndpointNotFound) => *response.status_mut() = http::StatusCode::NOT_FOUND,
            Some(Breakage::EndpointUnauthorized) => *response.status_mut() = http::StatusCode::UNAUTHORIZED,
            Some(Breakage::EndpointNotUtf8) => *response.body_mut() = Full::from(&b"{\"keys\": [\"\xff\"]}"[..]),
            Some(Breakage::EndpointTextPlain) => {
                response
                    .headers_mut()
                    .insert(header::CONTENT_TYPE, "text/plain".parse().unwrap());
            }
            _ => {}
        }
        response
    }

    fn bundle_document(&self, gets: usize) -> Value {
        let mut x509 = self.world.authority.jwk();
        let mut jwt = self.world.jwt.public_jwk(Some("jwt-svid"));
        let mut extra = Vec::new();
        match self.world.broken {
            Some(Breakage::EndpointCertificateKid) => x509["kid"] = json!("x509"),
            Some(Breakage::EndpointTwoCertificates) => {
                let second = x509["x5c"][0].clone();
                x509["x5c"].as_array_mut().unwrap().push(second);
            }
            Some(Breakage::EndpointNoCertificate) => extra.push(json!({ "kty": "EC", "use": "x509-svid" })),
            Some(Breakage::EndpointWrongParameters) => x509["x"] = jwt["x"].clone(),
            Some(Breakage::EndpointLacksAuthority) => x509 = self.world.friend.jwk(),
            Some(Breakage::EndpointJwtNoKid) => extra.push(json!({ "kty": "EC", "use": "jwt-svid" })),
            Some(Breakage::EndpointLacksJwtKey) => jwt["kid"] = json!("other"),
            Some(Breakage::EndpointKeyWithoutUse) => extra.push(json!({ "kty": "EC" })),
            Some(Breakage::EndpointPrivateKey) => jwt["d"] = self.world.jwt.private(),
            Some(Breakage::EndpointAlg) => jwt["alg"] = json!("ES256"),
            Some(Breakage::EndpointSequenceStays) if gets > 0 => {
                extra.push(self.world.unknown.public_jwk(Some("jwt-svid")));
            }
            _ => {}
        }
        let mut keys = vec![x509, jwt, self.world.wit.public_jwk(Some("wit-svid"))];
        keys.extend(extra);
        let mut document = json!({ "keys": keys, "spiffe_sequence": 7, "spiffe_refresh_hint": 60 });
        match self.world.broken {
            Some(Breakage::EndpointNoKeys) => remove(&mut document, "keys"),
            Some(Breakage::EndpointKeysObject) => document["keys"] = json!({}),
            Some(Breakage::EndpointNoSequence) => remove(&mut document, "spiffe_sequence"),
            Some(Breakage::EndpointSequenceText) => document["spiffe_sequence"] = json!("7"),
            Some(Breakage::EndpointSequenceShrinks) => {
                document["spiffe_sequence"] = json!(7_usize.saturating_sub(gets))
            }
            Some(Breakage::EndpointNoHint) => remove(&mut document, "spiffe_refresh_hint"),
            Some(Breakage::EndpointHintText) => document["spiffe_refresh_hint"] = json!(1.5),
            _ => {}
        }
        document
    }

    fn discovery(&self) -> Value {
        let mut document = json!({
            "issuer": self.origin,
            "jwks_uri": format!("{}/keys", self.origin),
            "authorization_endpoint": "",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        });
        match self.world.broken {
            Some(Breakage::OidcIssuerDiffers) => document["issuer"] = json!("https://elsewhere.test"),
            Some(Breakage::OidcKeysOverHttp) => document["jwks_uri"] = json!("http://localhost/keys"),
            Some(Breakage::OidcMembersMissing) => remove(&mut document, "subject_types_supported"),
            Some(Breakage::OidcOtherAlgorithms) => document["id_token_signing_alg_values_supported"] = json!(["RS256"]),
            _ => {}
        }
        document
    }

    fn oidc_key(&self) -> Value {
        let key = if self.is(Breakage::OidcOtherKeys) {
            &self.world.unknown
        } else {
            &self.world.jwt
        };
        let mut jwk = key.public_jwk(Some("sig"));
        jwk["alg"] = json!("ES256");
        match self.world.broken {
            Some(Breakage::OidcPrivateKey) => jwk["d"] = key.private(),
            Some(Breakage::OidcKeysWithoutUse) => remove(&mut jwk, "use"),
            _ => {}
        }
        jwk
    }
}

fn document(json: &Value) -> Response<Full<Bytes>> {
    let body = Full::from(json.to_string());
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)
        .unwrap()
}
