//! Through rotations there is never a second in which something that was issued has no bundle that verifies it.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use mintmark_identity::{KeyId, Ttl};
use mintmark_runtime::task::Supervisor;

use super::tokens::verified;
use super::*;

const LIFE: u32 = 24;

enum Credential {
    X509(X509Svid),
    Jwt(JwtSvid),
    Wit(WitSvid),
}

impl Credential {
    fn key_id(&self) -> &KeyId {
        match self {
            Self::X509(svid) => &svid.key_id,
            Self::Jwt(svid) => &svid.key_id,
            Self::Wit(svid) => &svid.key_id,
        }
    }

    fn is_alive(&self, now: i64) -> bool {
        match self {
            Self::X509(svid) => now <= svid.not_after,
            Self::Jwt(svid) => now < svid.expires_at,
            Self::Wit(svid) => now < svid.expires_at,
        }
    }

    fn is_verified_by(&self, bundle: &Bundle, now: i64) -> bool {
        match self {
            Self::X509(svid) => verify(bundle, &svid.chain[0], now).is_ok(),
            Self::Jwt(svid) => verified(&bundle.jwt, Algorithm::ES256, &svid.token, Some("a")).is_some(),
            Self::Wit(svid) => verified(&bundle.wit, Algorithm::ES256, &svid.token, None).is_some(),
        }
    }
}

/// One of each kind.
async fn issue(house: &House) -> Vec<Credential> {
    let ttl = Some(Ttl::constant(9));
    let x509 = X509Order {
        ttl,
        ..X509Order::new(id("/web"), key())
    };
    let jwt = JwtOrder {
        ttl,
        ..JwtOrder::new(id("/web"), vec!["a".into()])
    };
    let wit = WitOrder {
        ttl,
        ..WitOrder::new(id("/web"), key())
    };
    vec![
        Credential::X509(house.issuer.x509(&node(), vec![x509]).await.swap_remove(0).unwrap()),
        Credential::Jwt(house.issuer.jwt(&node(), jwt).await.unwrap()),
        Credential::Wit(house.issuer.wit(&node(), vec![wit]).await.swap_remove(0).unwrap()),
    ]
}

#[tokio::test]
async fn at_every_second_of_four_rotations_everything_that_was_issued_verifies() {
    let life = Ttl::constant(LIFE);
    let house = House::with(AuthorityConfig {
        ttl: life,
        ..AuthorityConfig::default()
    })
    .await;
    let supervisor = Supervisor::embedded();
    supervisor.spawn("rotation", house.authorities.clone().run(supervisor.token()));
    let published = house.authorities.watch_bundle();
    let mut sequence = house.authorities.bundle().sequence;
    let mut alive: Vec<Credential> = Vec::new();
    let mut signers: Vec<KeyId> = Vec::new();
    for _ in 0..4 * LIFE {
        for settled in [false, true] {
            if settled {
                house.authorities.settled().await;
            }
            for credential in issue(&house).await {
                assert!(
                    credential.is_verified_by(&published.borrow(), house.clock.unix()),
                    "when it was issued"
                );
                if !signers.contains(credential.key_id()) {
                    signers.push(credential.key_id().clone());
                }
                alive.push(credential);
            }
            alive.retain(|credential| credential.is_alive(house.clock.unix()));
            let bundle = published.borrow().clone();
            assert!(
                alive
                    .iter()
                    .all(|credential| credential.is_verified_by(&bundle, house.clock.unix())),
                "until it expires"
            );
            assert!(bundle.sequence >= sequence);
            sequence = bundle.sequence;
            assert!(
                bundle.x509.len() <= 3 && bundle.jwt.len() <= 3 && bundle.wit.len() <= 3,
                "{bundle:?}"
            );
        }
        house.clock.advance(Duration::from_secs(1));
    }
    assert!(signers.len() >= 3 * 5, "{} keys have signed", signers.len());
    assert!(supervisor.shutdown(Duration::from_secs(10)).await.is_empty());
}
