//! A small HTTPS client that writes down what others hide: the certificates, the protocol, the redirects.
//!
//! It accepts any certificate, so that a wrong one is a finding and not the end of the run; who issued it and for
//! whom is judged afterwards.

use std::{
    fmt,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{BundleEndpoint, Oidc, Roots, legacy_tls};
use crate::Options;

/// The largest document that is read.
const MOST_BYTES: usize = 8 << 20;
/// The most redirects that are followed.
const MOST_REDIRECTS: usize = 4;
/// Where Linux distributions keep the authorities of the web.
const SYSTEM_ROOTS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// One document, and how it was served.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    /// Each hop, the last without a target.
    pub(crate) hops: Vec<Hop>,
    pub(crate) status: u16,
    pub(crate) content_type: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// One request on the way to a document.
#[derive(Debug, Clone)]
pub(crate) struct Hop {
    pub(crate) url: String,
    /// The host of the URL, without brackets.
    pub(crate) host: String,
    /// Status and target of a redirect.
    pub(crate) redirect: Option<(u16, String)>,
    /// What the server presented, leaf first.
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    /// TLS version and cipher suite.
    pub(crate) negotiated: String,
}

/// Why there is no document.
#[derive(Debug, Clone)]
pub(crate) struct NoPage {
    pub(crate) why: String,
    /// Whether the server asked for a client certificate before it failed.
    pub(crate) certificate_asked: bool,
}

impl From<String> for NoPage {
    fn from(why: String) -> Self {
        Self {
            why,
            certificate_asked: false,
        }
    }
}

impl fmt::Display for NoPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// Whom certificates of the web are verified with.
pub(super) fn roots(options: &Options) -> Result<Roots> {
    if options.insecure || (options.bundle_endpoint.is_none() && options.oidc.is_none()) {
        return Ok(Roots::Anyone);
    }
    let (path, named) = match &options.bundle_ca {
        Some(path) => (path.as_path(), true),
        None => (
            SYSTEM_ROOTS
                .iter()
                .map(Path::new)
                .find(|p| p.exists())
                .unwrap_or(Path::new(SYSTEM_ROOTS[0])),
            false,
        ),
    };
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(_) if !named => return Ok(Roots::Certificates(Vec::new())),
        Err(e) => return Err(e).with_context(|| format!("read the authorities in {}", path.display())),
    };
    let blocks = pem::parse_many(text).with_context(|| format!("read the authorities in {}", path.display()))?;
    let certificates: Vec<_> = blocks
        .into_iter()
        .filter(|block| block.tag() == "CERTIFICATE")
        .map(|block| CertificateDer::from(block.into_contents()))
        .collect();
    if certificates.is_empty() {
        bail!("read the authorities in {}: it holds no certificate", path.display());
    }
    Ok(Roots::Certificates(certificates))
}

/// Looks at a bundle endpoint.
pub(super) async fn bundle_endpoint(url: &str, options: &Options) -> BundleEndpoint {
    let first = get(url, options.timeout).await;
    let second = get(url, options.timeout).await;
    let mut legacy = Vec::new();
    if let Ok(target) = Target::parse(url) {
        for (name, version) in [("TLS 1.0", 0x0301), ("TLS 1.1", 0x0302)] {
            legacy.push((
                name,
                legacy_tls::is_accepted(&target.host, target.port, version, options.timeout).await,
            ));
        }
    }
    BundleEndpoint {
        url: url.into(),
        spiffe_id: options.bundle_spiffe_id.clone(),
        first,
        second,
        legacy,
    }
}

/// Looks at an OIDC issuer.
pub(super) async fn oidc(issuer: &str, most: Duration) -> Oidc {
    let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let discovery = get(&url, most).await;
    let jwks_uri = discovery.as_ref().ok().and_then(|page| {
        let document: serde_json::Value = serde_json::from_slice(&page.body).ok()?;
        document["jwks_uri"].as_str().map(str::to_owned)
    });
    let keys = match jwks_uri {
        Some(uri) => get(&uri, most).await,
        None => Err("the discovery document names no jwks_uri".to_owned().into()),
    };
    Oidc {
        issuer: issuer.into(),
        discovery,
        keys,
    }
}

/// A GET without credentials, following redirects.
async fn get(url: &str, most: Duration) -> Result<Page, NoPage> {
    timeout(most, follow(url))
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {most:?}").into()))
}

async fn follow(url: &str) -> Result<Page, NoPage> {
    let mut hops = Vec::new();
    let mut url = url.to_owned();
    loop {
        let (mut page, hop) = one(&url).await?;
        let redirect = hop.redirect.clone();
        hops.push(hop);
        match redirect {
            // A redirect to nowhere is the last that there is to see.
            Some((_, target)) if Target::parse(&target).is_ok() => url = target,
            _ => {
                page.hops = hops;
                return Ok(page);
            }
        }
        if hops.len() > MOST_REDIRECTS {
            return Err(format!("more than {MOST_REDIRECTS} redirects").into());
        }
    }
}

async fn one(url: &str) -> Result<(Page, Hop), NoPage> {
    let recorder = Arc::new(Recorder::default());
    exchange(url, &recorder).await.map_err(|why| NoPage {
        why,
        certificate_asked: recorder.asked.load(Ordering::Relaxed),
    })
}

async fn exchange(url: &str, recorder: &Arc<Recorder>) -> Result<(Page, Hop), String> {
    let target = Target::parse(url)?;
    let config = ClientConfig::builder_with_provider(recorder.provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(recorder.clone())
        .with_client_cert_resolver(recorder.clone());
    let name = ServerName::try_from(target.host.clone()).map_err(|e| format!("the host of {url}: {e}"))?;
    let tcp = TcpStream::connect((target.host.as_str(), target.port))
        .await
        .map_err(|e| format!("connect to {}:{}: {e}", target.host, target.port))?;
    let tls = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .map_err(|e| format!("TLS handshake: {e}"))?;
    let session = tls.get_ref().1;
    let negotiated = format!(
        "{:?} {:?}",
        session.protocol_version().ok_or("TLS without a version")?,
        session
            .negotiated_cipher_suite()
            .ok_or("TLS without a cipher suite")?
            .suite()
    );

    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
        .await
        .map_err(|e| told(&e))?;
    // Errors of the connection come back through the request.
    tokio::spawn(connection);
    let request = Request::get(target.path)
        .header(header::HOST, target.authority)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let response = sender.send_request(request).await.map_err(|e| told(&e))?;
    let text = |name| {
        response
            .headers()
            .get(name)
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned)
    };
    let status = response.status().as_u16();
    let location = text(header::LOCATION).filter(|_| response.status().is_redirection());
    let content_type = text(header::CONTENT_TYPE);
    let body = Limited::new(response.into_body(), MOST_BYTES)
        .collect()
        .await
        .map_err(|e| format!("the body: {e}"))?;
    let hop = Hop {
        url: url.into(),
        host: target.host,
        redirect: location.map(|to| (status, absolute(url, &to))),
        certificates: recorder.certificates(),
        negotiated,
    };
    Ok((
        Page {
            hops: Vec::new(),
            status,
            content_type,
            body: body.to_bytes().to_vec(),
        },
        hop,
    ))
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = format!("HTTP: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// A redirect's target against the URL it came from.
fn absolute(base: &str, location: &str) -> String {
    match (location.strip_prefix('/'), base.find("://").map(|i| i + 3)) {
        (Some(_), Some(start)) => {
            let end = base[start..].find('/').map_or(base.len(), |i| start + i);
            format!("{}{location}", &base[..end])
        }
        _ => location.to_owned(),
    }
}

/// The parts of an https URL.
#[derive(Debug)]
struct Target {
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, String> {
        let shown = crate::report::shown(url);
        let uri: Uri = url.parse().map_err(|e| format!("{shown} is no URL: {e}"))?;
        if uri.scheme_str() != Some("https") {
            return Err(format!("{shown} is not an https URL"));
        }
        let authority = uri.authority().ok_or_else(|| format!("{shown} has no host"))?;
        Ok(Self {
            host: authority
                .host()
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            port: authority.port_u16().unwrap_or(443),
            authority: authority.as_str().rsplit('@').next().unwrap_or_default().to_owned(),
            path: uri.path_and_query().map_or_else(|| "/".into(), ToString::to_string),
        })
    }
}

/// Verifies that the server holds the key of the certificate it shows; remembers the certificates, and whether the
/// server asked for one.
struct Recorder {
    provider: Arc<CryptoProvider>,
    asked: AtomicBool,
    presented: Mutex<Vec<CertificateDer<'static>>>,
}

impl Recorder {
    fn certificates(&self) -> Vec<CertificateDer<'static>> {
        self.presented
            .lock()
            .map(|presented| presented.clone())
            .unwrap_or_default()
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            asked: AtomicBool::new(false),
            presented: Mutex::default(),
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

impl ResolvesClientCert for Recorder {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Ok(mut presented) = self.presented.lock() {
            *presented = std::iter::once(end_entity)
                .chain(intermediates)
                .map(|c| c.clone().into_owned())
                .collect();
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let target = Target::parse("https://user@[::1]:8443/a?b").unwrap();
        assert_eq!((target.host.as_str(), target.port), ("::1", 8443));
        assert_eq!(
            (target.authority.as_str(), target.path.as_str()),
            ("[::1]:8443", "/a?b")
        );
        let target = Target::parse("https://example.org").unwrap();
        assert_eq!(
            (target.host.as_str(), target.port, target.path.as_str()),
            ("example.org", 443, "/")
        );
        for wrong in ["http://example.org/", "example.org", "https://", "ftp://a/"] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_redirect_may_be_relative() {
        assert_eq!(absolute("https://a:1/b/c", "/d"), "https://a:1/d");
        assert_eq!(absolute("https://a", "/d"), "https://a/d");
        assert_eq!(absolute("https://a/b", "https://c/d"), "https://c/d");
    }
}
