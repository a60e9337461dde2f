//! `mintmark mint`: one credential by an administrator's hand.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use mintmark_identity::SpiffeId;
use mintmark_proto::Bytes;
use mintmark_proto::spire::server::bundle::GetBundleRequest;
use mintmark_proto::spire::server::bundle::bundle_client::BundleClient;
use mintmark_proto::spire::server::svid::svid_client::SvidClient;
use mintmark_proto::spire::server::svid::{MintJwtsvidRequest, MintX509svidRequest};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use serde_json::json;

use super::files::{output_dir, write_private, write_public};
use super::wire::id_message;
use crate::args::Seconds;
use crate::client::admin;
use crate::context::Context;
use crate::failure::{Failure, refused};
use crate::output::certificates::{Summary, pem, pems};
use crate::output::stamp_and_distance;

const X509: &str = "\
Examples:
  mintmark mint x509 --spiffe-id spiffe://example.org/rescue --ttl 10m --write /root/rescue
  mintmark mint x509 --spiffe-id spiffe://example.org/rescue --output json | jq -r '.x509_svid[0]'

It needs no entry and no node: for emergencies. The key is made here; the ledger records who asked.";
const JWT: &str = "\
Examples:
  mintmark mint jwt --spiffe-id spiffe://example.org/rescue --audience vault
  mintmark mint jwt --spiffe-id spiffe://example.org/rescue --audience vault --ttl 2m --write token.jwt";

/// Make one credential by hand; it is in the ledger with you as its author
#[derive(Debug, Subcommand)]
pub enum Mint {
    /// An X.509-SVID with a new key
    #[command(after_help = X509)]
    X509(X509),
    /// A JWT-SVID
    #[command(after_help = JWT)]
    Jwt(Jwt),
}

#[derive(Debug, Args)]
pub struct X509 {
    /// Whose it is
    #[arg(long, value_name = "ID")]
    spiffe_id: SpiffeId,
    /// Its lifetime; the server's default unless given
    #[arg(long, value_name = "TIME")]
    ttl: Option<Seconds>,
    /// A DNS name for the certificate; several times for several
    #[arg(long = "dns", value_name = "NAME")]
    dns_names: Vec<String>,
    /// Write svid.pem, key.pem and bundle.pem into this directory instead of printing them
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Jwt {
    /// Whose it is
    #[arg(long, value_name = "ID")]
    spiffe_id: SpiffeId,
    /// To whom it may be shown; several times for several
    #[arg(long, value_name = "AUDIENCE", required = true)]
    audience: Vec<String>,
    /// Its lifetime; the server's default unless given
    #[arg(long, value_name = "TIME")]
    ttl: Option<Seconds>,
    /// Write it into this file instead of printing it
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

impl Mint {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::X509(mint) => mint.run(context).await,
            Self::Jwt(mint) => mint.run(context).await,
        }
    }
}

impl X509 {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(refused)?;
        let request = MintX509svidRequest {
            csr: csr(&key, &self.spiffe_id, &self.dns_names)?,
            ttl: self.ttl.map_or(0, |ttl| ttl.0),
        };
        let channel = crate::client::server(context).await?;
        let action = format!("mint an X.509-SVID for {}", self.spiffe_id);
        let mut client = SvidClient::new(channel.clone());
        let minted = context.ask(&action, client.mint_x509svid(request)).await?;
        let svid = minted.svid.unwrap_or_default();
        let Some(leaf) = svid.cert_chain.first() else {
            return Err(Failure::Refused(format!(
                "cannot {action}: the answer holds no certificate"
            )));
        };
        let request = GetBundleRequest { output_mask: None };
        let bundle = context
            .ask("show the bundle", BundleClient::new(channel).get_bundle(request))
            .await?;
        let roots: Vec<Bytes> = bundle
            .x509_authorities
            .into_iter()
            .map(|authority| authority.asn1)
            .collect();

        let summary = Summary::of_svid(leaf).map_err(refused)?;
        let now = context.clock.unix();
        let asked = self.ttl.map_or(0, |ttl| i64::from(ttl.0));
        // Notices of rounding to seconds would only confuse.
        if summary.not_after + 5 < now + asked {
            context.out.aside(format_args!(
                "The server made it shorter than asked: it ends {}.",
                stamp_and_distance(now, summary.not_after)
            ));
        }
        if let Some(dir) = &self.write {
            output_dir(dir)?;
            write_private(&dir.join("key.pem"), key.serialize_pem().as_bytes())?;
            write_public(&dir.join("svid.pem"), pems(&svid.cert_chain).as_bytes())?;
            write_public(&dir.join("bundle.pem"), pems(&roots).as_bytes())?;
            let files = json!({
                "spiffe_id": self.spiffe_id, "serial": summary.serial, "not_after": summary.not_after,
                "svid": dir.join("svid.pem"), "key": dir.join("key.pem"), "bundle": dir.join("bundle.pem"),
            });
            return context.out.value(&files, |_| {
                format!(
                    "{}: serial {}, ends {}\nwritten to {}: svid.pem, key.pem, bundle.pem",
                    self.spiffe_id,
                    summary.serial,
                    stamp_and_distance(now, summary.not_after),
                    dir.display()
                )
            });
        }
        let encode = |ders: &[Bytes]| ders.iter().map(|der| STANDARD.encode(der)).collect::<Vec<_>>();
        let value = json!({
            "x509_svid": encode(&svid.cert_chain), "private_key": STANDARD.encode(key.serialize_der()), "root_cas": encode(&roots),
        });
        context.out.value(&value, |_| {
            format!(
                "# X.509-SVID {}, serial {}, ends {}\n{}\n# its key\n{}\n# the bundle\n{}",
                self.spiffe_id,
                summary.serial,
                stamp_and_distance(now, summary.not_after),
                pems(&svid.cert_chain),
                pem("PRIVATE KEY", &key.serialize_der()),
                pems(&roots)
            )
        })
    }
}

fn csr(key: &KeyPair, id: &SpiffeId, dns_names: &[String]) -> Result<Bytes, Failure> {
    let mut params = CertificateParams::new(dns_names.to_vec())
        .map_err(|error| Failure::Refused(format!("cannot ask for DNS names {}: {error}", dns_names.join(", "))))?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let uri = id.as_str().try_into().map_err(refused)?;
    params.subject_alt_names.insert(0, SanType::URI(uri));
    let request = params.serialize_request(key).map_err(refused)?;
    Ok(request.der().to_vec().into())
}

impl Jwt {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        let request = MintJwtsvidRequest {
            id: Some(id_message(&self.spiffe_id)),
            audience: self.audience.clone(),
            ttl: self.ttl.map_or(0, |ttl| ttl.0),
        };
        let mut client = admin!(SvidClient, context);
        let action = format!("mint a JWT-SVID for {}", self.spiffe_id);
        let minted = context.ask(&action, client.mint_jwtsvid(request)).await?;
        let svid = minted.svid.clone().unwrap_or_default();
        let end = stamp_and_distance(context.clock.unix(), svid.expires_at);
        match &self.write {
            Some(path) => {
                write_private(path, svid.token.as_bytes())?;
                let file = json!({ "spiffe_id": self.spiffe_id, "expires_at": svid.expires_at, "token": path });
                context
                    .out
                    .value(&file, |_| format!("written to {}; it ends {end}", path.display()))
            }
            None => context.out.message(&minted, |_| svid.token.clone()),
        }
    }
}
