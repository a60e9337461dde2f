//! `spire.api.server.debug.v1.Debug`: a look at the server from its own machine.

use mintmark_identity::SpiffeId;
use mintmark_proto::spire::server::debug::{GetInfoRequest, GetInfoResponse, debug_server, get_info_response::Cert};
use tonic::{Request, Response, Status};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::Rooms;
use super::convert::id_message;

/// The service.
pub(super) struct DebugService {
    pub(super) rooms: Rooms,
}

#[tonic::async_trait]
impl debug_server::Debug for DebugService {
    async fn get_info(&self, _: Request<GetInfoRequest>) -> Result<Response<GetInfoResponse>, Status> {
        let Rooms {
            clock,
            nodes,
            registry,
            authorities,
            ..
        } = &self.rooms;
        let int = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let uptime = clock.instant().saturating_duration_since(self.rooms.started).as_secs();
        let chain = self.rooms.credential.chain().unwrap_or_default();
        // The chain that a peer builds: what we show, and the authority that it finds in the bundle.
        let issuer = authorities.bundle();
        let issuer = chain
            .last()
            .and_then(|last| issuer_of(last, issuer.x509.iter().map(|authority| &*authority.der)));
        let certs = chain
            .iter()
            .map(|der| &**der)
            .map(cert)
            .chain(issuer.as_deref().map(cert));
        Ok(Response::new(GetInfoResponse {
            svid_chain: certs.flatten().collect(),
            uptime: i32::try_from(uptime).unwrap_or(i32::MAX),
            agents_count: int(nodes.count(|_| true)),
            entries_count: int(registry.len()),
            federated_bundles_count: 1,
        }))
    }
}

fn cert(der: &[u8]) -> Option<Cert> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let uri = names.and_then(|names| {
        names.value.general_names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => SpiffeId::parse(uri).ok(),
            _ => None,
        })
    });
    Some(Cert {
        id: uri.as_ref().map(id_message),
        expires_at: parsed.validity().not_after.timestamp(),
        subject: parsed.subject().to_string(),
    })
}

fn issuer_of<'a>(leaf: &[u8], authorities: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    authorities
        .filter(|der| {
            X509Certificate::from_der(der)
                .is_ok_and(|(_, authority)| leaf.verify_signature(Some(authority.public_key())).is_ok())
        })
        .map(<[u8]>::to_vec)
        .next()
}
