//! `mintmark fetch`: what a workload gets over the Workload API.

mod bundle;
mod jwt;
mod wit;
mod x509;

use clap::Subcommand;
use tonic::{Response, Status, Streaming};

use crate::context::Context;
use crate::failure::Failure;

const X509: &str = "\
Examples:
  mintmark fetch x509
  mintmark fetch x509 --write /tmp/svid            # svid.0.pem, svid.0.key, bundle.0.pem, federated_bundle.0.0.pem
  mintmark fetch x509 --write /run/tls --watch     # and again at every renewal, until interrupted
  openssl verify -CAfile /tmp/svid/bundle.0.pem -untrusted /tmp/svid/svid.0.pem /tmp/svid/svid.0.pem";
const JWT: &str = "\
Examples:
  mintmark fetch jwt --audience sts.amazonaws.com
  mintmark fetch jwt --audience a --audience b --spiffe-id spiffe://example.org/web
  curl -H \"Authorization: Bearer $(mintmark fetch jwt --audience api)\" https://api.example.org";
const WIT: &str = "\
Examples:
  mintmark fetch wit
  mintmark fetch wit --write /tmp/wit              # wit.0.jwt and its key wit.0.key
  mintmark fetch wit --output json | jq -r '.svids[0].wit_svid_key'";
const BUNDLE: &str = "\
Examples:
  mintmark fetch bundle                            # X.509 authorities as PEM, JWT and WIT keys as JSON
  mintmark fetch bundle x509 > bundle.pem
  mintmark fetch bundle jwt | jq '.keys[].kid'";

/// Fetch SVIDs and bundles over the Workload API, as this process
///
/// The attestor looks at the process that asks, its user, its program, its cgroup, and gives it the identities whose selectors fit.
#[derive(Debug, Subcommand)]
pub enum Fetch {
    /// X.509-SVIDs: certificates with their keys
    #[command(after_help = X509)]
    X509(x509::X509),
    /// JWT-SVIDs: tokens for an audience, one a line
    #[command(after_help = JWT)]
    Jwt(jwt::Jwt),
    /// WIT-SVIDs: tokens bound to a key, one a line
    #[command(after_help = WIT)]
    Wit(wit::Wit),
    /// The trust bundles by which others are verified
    #[command(after_help = BUNDLE)]
    Bundle(bundle::Bundle),
}

impl Fetch {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::X509(fetch) => fetch.run(context).await,
            Self::Jwt(fetch) => fetch.run(context).await,
            Self::Wit(fetch) => fetch.run(context).await,
            Self::Bundle(fetch) => fetch.run(context).await,
        }
    }
}

/// The first message of a stream.
pub async fn first<T>(
    context: &Context,
    action: &str,
    call: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
) -> Result<(T, Streaming<T>), Failure> {
    let mut stream = context.ask(action, call).await?;
    let message = context
        .ask(action, async { stream.message().await.map(Response::new) })
        .await?;
    match message {
        Some(message) => Ok((message, stream)),
        None => Err(Failure::Refused(format!(
            "cannot {action}: the Workload API ended the stream without an answer"
        ))),
    }
}

/// What may help whoever is refused an identity, where the refusal does not say it itself, as the attestor's does.
pub(super) fn with_hint(failure: Failure) -> Failure {
    match failure {
        Failure::Refused(text) if text.contains("no identity issued") && !text.contains("mintmark entry") => {
            Failure::Refused(format!(
                "{text}; no entry's selectors fit this process (uid {}): `mintmark entry list` shows those there are, `mintmark entry create --help` how to make one",
                nix::unistd::getuid()
            ))
        }
        other => other,
    }
}
