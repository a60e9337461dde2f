//! The server from afar: its API over mutual TLS, with an admin SVID that the Workload API gives us.

use std::io;

use mintmark_identity::SpiffeId;
use mintmark_proto::workload::{X509svid, X509svidRequest};
use mintmark_runtime::tls::{
    ALPN_H2, Connector, Credential, Expect, SpiffeServerVerifier, TrustAnchors, client_config,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::transport::{Channel, Endpoint};

use super::{Unreachable, within, workload, workload_request};
use crate::args::HostPort;
use crate::context::Context;
use crate::failure::{Failure, refused};
use crate::output::certificates::split;

pub(super) async fn connect(context: &Context, address: &HostPort) -> Result<Channel, Failure> {
    let svid = own_svid(context).await?;
    let id = SpiffeId::parse(&svid.spiffe_id).map_err(refused)?;
    let trust_domain = id.trust_domain();

    let authorities = split(&svid.bundle).map_err(refused)?;
    let mut anchors = TrustAnchors::default();
    anchors.insert(trust_domain.clone(), authorities.iter().map(|der| &der[..]));
    let expect = Expect::Id(SpiffeId::server(&trust_domain));
    let verifier = SpiffeServerVerifier::new(anchors.shared(), expect);

    let chain = split(&svid.x509_svid).map_err(refused)?;
    let chain = chain
        .into_iter()
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.x509_svid_key.to_vec()));
    let credential = Credential::empty();
    credential.set(chain, key).map_err(refused)?;

    let config = client_config(verifier, Some(credential), &[ALPN_H2], &context.clock);
    let connector = Connector::new(config, context.clock.clone()).with_limit(context.limit());
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(refused)?;
    within(context, endpoint.connect_with_connector(connector))
        .await
        .map_err(|error| Failure::Refused(text(address, &id, &error)))
}

/// The SVID to show: the one that `--as` names, or the first.
async fn own_svid(context: &Context) -> Result<X509svid, Failure> {
    let mut client = workload(context).await?;
    let action = "fetch an X.509-SVID to show to the server";
    let request = client.fetch_x509svid(workload_request(X509svidRequest {}));
    let mut answers = context.ask(action, request).await?;
    let first = context
        .ask(action, async { answers.message().await.map(tonic::Response::new) })
        .await?;
    let svids = first.map(|answer| answer.svids).unwrap_or_default();
    let wanted = context.globals.r#as.as_ref();
    let ids = svids
        .iter()
        .map(|svid| svid.spiffe_id.clone())
        .collect::<Vec<_>>()
        .join(", ");
    svids
        .into_iter()
        .find(|svid| wanted.is_none_or(|wanted| svid.spiffe_id == wanted.as_str()))
        .ok_or_else(|| match wanted {
            Some(wanted) => Failure::Refused(format!("cannot {action}: we have {ids}, and not {wanted}")),
            None => Failure::Refused(format!("cannot {action}: the Workload API has none for this process")),
        })
}

fn text(address: &HostPort, id: &SpiffeId, error: &Unreachable) -> String {
    let hint = match error.kind {
        Some(io::ErrorKind::ConnectionRefused) => {
            "; is the server running, and is that the port of its API (`listen.api`, 8081 unless configured)?"
        }
        _ => "",
    };
    format!("cannot reach the server at {address} as {id}: {}{hint}", error.text)
}
