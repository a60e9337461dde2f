//! The server's own X.509-SVID: issued as any other, shown on the API's listener and, without a certificate from files, on the `https` listener.
//!
//! It is replaced at half of its life, and when another authority begins to sign: so it has left an authority before that one can be tainted, and after a jump of the
//! clock, which makes new authorities, it is valid again at once. It is also
//! replaced when the clock is set back to before it began, as it would be refused by everybody whose clock is right.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::{KeyId, PublicKey, SpiffeId, dns};
use rcgen::{KeyPair, PublicKeyData as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::StartError;
use super::listeners::Sockets;
use crate::api::Rooms;
use crate::attest::Attested;
use crate::config::Config;
use crate::issuance::X509Order;

/// When it could not be replaced, it is tried again after so many seconds.
const RETRY: i64 = 10;

/// How often it is seen whether the clock was set back.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What the certificate is good for beside the SPIFFE ID.
pub(super) struct Names {
    dns: Arc<[String]>,
    ips: Vec<IpAddr>,
}

impl Names {
    /// This machine's name, `localhost`, the loopback addresses, what is configured, where it listens, and the issuer's host.
    pub(super) fn of(config: &Config, issuer: &str, sockets: &Sockets) -> Self {
        let mut dns = BTreeSet::from(["localhost".to_owned()]);
        let mut ips = BTreeSet::from([IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()]);
        let machine = rustix::system::uname().nodename().to_str().ok().map(str::to_owned);
        for name in machine
            .into_iter()
            .chain(config.listen.dns_names.iter().cloned())
            .chain(host_of(issuer))
        {
            match name.parse::<IpAddr>() {
                Ok(ip) => drop(ips.insert(ip)),
                Err(_) => match dns::check(&name) {
                    Ok(()) => drop(dns.insert(name)),
                    Err(error) => tracing::warn!(%error, "a name is left out of the server's own certificate"),
                },
            }
        }
        ips.extend(sockets.ips().filter(|ip| !ip.is_unspecified()));
        Self {
            dns: dns.into_iter().collect(),
            ips: ips.into_iter().collect(),
        }
    }
}

/// The host in an https URL.
fn host_of(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => authority.split(':').next()?,
    };
    (!host.is_empty()).then(|| host.to_owned())
}

/// The SVID, and what it takes to replace it.
pub(super) struct OwnSvid {
    rooms: Rooms,
    names: Names,
    signer: watch::Receiver<KeyId>,
    /// From when on the one that is shown is valid, Unix seconds.
    not_before: i64,
    /// When it is to be replaced, Unix seconds.
    due: i64,
}

impl OwnSvid {
    /// Issues the first one.
    pub(super) async fn issue(rooms: Rooms, names: Names) -> Result<Self, StartError> {
        let signer = rooms.authorities.watch_signer();
        let (not_before, due) = issue(&rooms, &names).await?;
        Ok(Self {
            rooms,
            names,
            signer,
            not_before,
            due,
        })
    }

    /// Replaces it when its time has come, until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let clock = self.rooms.clock.clone();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = clock.sleep_until_unix(self.due) => {}
                () = clock.sleep(LOOK_AGAIN) => if clock.unix() >= self.not_before {
                    continue;
                },
                changed = self.signer.changed() => if changed.is_err() { return },
            }
            match issue(&self.rooms, &self.names).await {
                Ok((not_before, half_life)) => (self.not_before, self.due) = (not_before, half_life),
                Err(error) => {
                    tracing::warn!(%error, "the server's own SVID could not be replaced; trying again in {RETRY} s, or when another authority signs");
                    self.due = clock.unix() + RETRY;
                }
            }
        }
    }
}

/// Issues one and shows it; gives when it begins, and when half of its life is over.
async fn issue(rooms: &Rooms, names: &Names) -> Result<(i64, i64), StartError> {
    let failed = |why: String| StartError::OwnSvid(why);
    let key = KeyPair::generate().map_err(|error| failed(error.to_string()))?;
    let public_key =
        PublicKey::from_spki_der(&key.subject_public_key_info()).map_err(|error| failed(error.to_string()))?;
    let mut order = X509Order::new(SpiffeId::server(&rooms.trust_domain), public_key);
    order.dns_names = Arc::clone(&names.dns);
    order.ip_addresses = names.ips.clone();
    let mut answers = rooms.issuer.x509(&Attested::server(), vec![order]).await;
    let svid = answers
        .pop()
        .ok_or_else(|| failed("one order has no answer".into()))??;
    let chain = svid
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    rooms.credential.set(chain, key)?;
    tracing::info!(serial = %svid.serial, not_after = svid.not_after, authority = %svid.key_id, "the server has a new SVID of its own");
    Ok((svid.not_before, svid.not_before.midpoint(svid.not_after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_issuers_host_is_found() {
        for (url, host) in [
            ("https://a.example", Some("a.example")),
            ("https://a.example:8443/x", Some("a.example")),
            ("https://127.0.0.1:8443", Some("127.0.0.1")),
            ("https://[::1]:8443/", Some("::1")),
            ("nothing", None),
        ] {
            assert_eq!(host_of(url).as_deref(), host, "{url}");
        }
    }
}
