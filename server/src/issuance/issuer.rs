//! The one path that every credential takes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use mintmark_identity::{Serial, SpiffeId, TrustDomain, Ttl};
use mintmark_proto::ledger::{Kind as LeafKind, Leaf};
use mintmark_runtime::clock::Clock;
use mintmark_runtime::crypto::fill_random;
use mintmark_runtime::metrics::Metrics as Registry;

use super::leaf::{self, Draft};
use super::metrics::{Metrics, Phase};
use super::{JwtOrder, JwtSvid, Refusal, WitOrder, WitSvid, X509Order, X509Svid};
use crate::attest::{Attested, By};
use crate::authority::{Authorities, JwsAuthority, Kind, SignError, X509Authority};
use crate::ledger::{Durable, Ledger};
use crate::mint::jws::{self, JwtSpec, MAX_AUDIENCE, MAX_AUDIENCES, UnsignedJws, WitSpec};
use crate::mint::x509::{self, UnsignedX509, X509Spec};
use crate::mint::{Validity, check, dns};
use crate::verdict::{Subject, Verdict, Verdicts};

/// The most credentials in one call; as many as the ledger takes in one.
const MAX_BATCH: usize = 1_000;
/// After so many signatures (20 µs each) other tasks get their turn.
const TURN: usize = 32;
/// The signature of one credential in so many is verified.
const VERIFY_EVERY: u64 = 1_024;
/// The random part of a serial in bytes.
const RANDOM: usize = 11;

/// What is issued where an order does not say.
#[derive(Clone, Debug)]
pub struct IssuanceConfig {
    /// Whose identities are issued.
    pub trust_domain: TrustDomain,
    /// The life of an X.509-SVID; 1 h by default.
    pub x509_ttl: Ttl,
    /// The life of a JWT-SVID; 5 minutes by default.
    pub jwt_ttl: Ttl,
    /// The life of a WIT-SVID; 1 h by default.
    pub wit_ttl: Ttl,
    /// The `iss` of JWT-SVIDs, by which OIDC consumers find the keys.
    pub jwt_issuer: Option<String>,
}

impl IssuanceConfig {
    /// The defaults for a trust domain.
    pub fn new(trust_domain: TrustDomain) -> Self {
        let (hour, minutes) = (Ttl::constant(3_600), Ttl::constant(300));
        Self {
            trust_domain,
            x509_ttl: hour,
            jwt_ttl: minutes,
            wit_ttl: hour,
            jwt_issuer: None,
        }
    }
}

/// Issues credentials. Clones share counters and the halt.
#[derive(Clone)]
pub struct Issuer {
    inner: Arc<Inner>,
}

struct Inner {
    ledger: Ledger,
    authorities: Authorities,
    verdicts: Verdicts,
    clock: Clock,
    config: IssuanceConfig,
    metrics: Metrics,
    signed: AtomicU64,
    halted: OnceLock<Arc<str>>,
}

/// An order that may be filled.
struct Granted<'a, O> {
    /// Its place in the call.
    at: usize,
    order: &'a O,
    validity: Validity,
    leaf: Leaf,
}

/// What became of each order of a call so far.
type Answers<A> = Vec<Option<Result<A, Refusal>>>;

impl Issuer {
    /// An issuer over these rooms.
    pub fn new(
        ledger: Ledger,
        authorities: Authorities,
        verdicts: Verdicts,
        clock: Clock,
        config: IssuanceConfig,
        registry: &Registry,
    ) -> Self {
        let metrics = Metrics::new(registry);
        let (signed, halted) = (AtomicU64::new(0), OnceLock::new());
        Self {
            inner: Arc::new(Inner {
                ledger,
                authorities,
                verdicts,
                clock,
                config,
                metrics,
                signed,
                halted,
            }),
        }
    }

    /// Issues X.509-SVIDs, with one write to the log for all of them. The answers are in the order of the orders.
    pub async fn x509(&self, asked: &Attested, orders: Vec<X509Order>) -> Vec<Result<X509Svid, Refusal>> {
        let start = self.inner.clock.instant();
        let authority = self.inner.authorities.x509();
        let (granted, mut answers) = self
            .inner
            .judge(&orders, |order| self.inner.grant_x509(asked, order, &authority));
        let specs: Vec<_> = granted
            .iter()
            .map(|granted| granted.order.spec(granted.validity))
            .collect();
        let logged = self
            .inner
            .log(
                &granted,
                |nth, serial| x509::encode(authority.template(), &specs[nth], serial),
                UnsignedX509::tbs,
            )
            .await;
        let signing = self.inner.clock.instant();
        match logged {
            Ok(durable) => {
                for (nth, (granted, unsigned)) in granted.iter().zip(durable).enumerate() {
                    take_turns(nth).await;
                    answers[granted.at] = Some(self.inner.sign_x509(&authority, &specs[nth], granted, unsigned));
                }
            }
            Err(refusal) => granted
                .iter()
                .for_each(|granted| answers[granted.at] = Some(Err(refusal.clone()))),
        }
        self.inner
            .metrics
            .took(Phase::Sign, self.inner.clock.instant() - signing);
        self.inner.account("x509", start, answers)
    }

    /// Issues one JWT-SVID.
    ///
    /// # Errors
    /// Why it was not issued.
    pub async fn jwt(&self, asked: &Attested, order: JwtOrder) -> Result<JwtSvid, Refusal> {
        let start = self.inner.clock.instant();
        let done = self.inner.jwt(asked, &order).await;
        self.inner.account("jwt", start, vec![Some(done)]).swap_remove(0)
    }

    /// Issues WIT-SVIDs, with one write to the log for all of them. The answers are in the order of the orders.
    pub async fn wit(&self, asked: &Attested, orders: Vec<WitOrder>) -> Vec<Result<WitSvid, Refusal>> {
        let start = self.inner.clock.instant();
        let authority = self.inner.authorities.wit();
        let (granted, mut answers) = self
            .inner
            .judge(&orders, |order| self.inner.grant_wit(asked, order, &authority));
        let specs: Vec<_> = granted
            .iter()
            .map(|granted| granted.order.spec(granted.validity, granted.issued_at()))
            .collect();
        let encode = |nth: usize, serial| jws::encode_wit(authority.template(), &specs[nth], serial);
        let logged = self.inner.log(&granted, encode, UnsignedJws::signing_input).await;
        let signing = self.inner.clock.instant();
        match logged {
            Ok(durable) => {
                for (nth, (granted, unsigned)) in granted.iter().zip(durable).enumerate() {
                    take_turns(nth).await;
                    answers[granted.at] = Some(self.inner.sign_wit(&authority, &specs[nth], granted, unsigned));
                }
            }
            Err(refusal) => granted
                .iter()
                .for_each(|granted| answers[granted.at] = Some(Err(refusal.clone()))),
        }
        self.inner
            .metrics
            .took(Phase::Sign, self.inner.clock.instant() - signing);
        self.inner.account("wit", start, answers)
    }

    /// Stops all signing, as a wrong signature does.
    #[cfg(test)]
    pub(super) fn halt(&self, error: &SignError) {
        self.inner.halt(error);
    }

    /// Why nothing is signed any more, if a signature was wrong.
    pub fn halted(&self) -> Option<&str> {
        self.inner.halted.get().map(|why| &**why)
    }
}

impl Inner {
    /// Holds every order of a call against the rules and the verdict.
    fn judge<'a, O, A>(
        &self,
        orders: &'a [O],
        grant: impl Fn(&'a O) -> Result<(Validity, Leaf), Refusal>,
    ) -> (Vec<Granted<'a, O>>, Answers<A>) {
        let start = self.clock.instant();
        let too_many = (orders.len() > MAX_BATCH).then_some(Refusal::TooMany {
            count: orders.len(),
            limit: MAX_BATCH,
        });
        let halted = self.halted.get().map(|why| Refusal::Halted(Arc::clone(why)));
        let refuse_all = too_many.or(halted);
        let mut granted = Vec::with_capacity(orders.len());
        let mut answers = Vec::with_capacity(orders.len());
        for (at, order) in orders.iter().enumerate() {
            let judged = refuse_all.clone().map_or_else(|| grant(order), Err);
            answers.push(match judged {
                Ok((validity, leaf)) => {
                    granted.push(Granted {
                        at,
                        order,
                        validity,
                        leaf,
                    });
                    None
                }
                Err(refusal) => Some(Err(refusal)),
            });
        }
        self.metrics.took(Phase::Judge, self.clock.instant() - start);
        (granted, answers)
    }

    fn grant_x509(
        &self,
        asked: &Attested,
        order: &X509Order,
        authority: &X509Authority,
    ) -> Result<(Validity, Leaf), Refusal> {
        self.check_identity(asked, &order.spiffe_id)?;
        dns::check_all(&order.dns_names)?;
        if !order.ip_addresses.is_empty() && !matches!(asked.by(), By::Server) {
            return Err(Refusal::IpAddress(order.spiffe_id.clone()));
        }
        let verdict = self.verdict(asked, &order.spiffe_id, order.entry_id.as_deref())?;
        let ttl = order.ttl.unwrap_or(self.config.x509_ttl);
        let validity = self.validity(ttl, &verdict, Kind::X509, authority.not_before(), authority.not_after())?;
        let draft = Draft {
            kind: LeafKind::X509Svid,
            asked,
            verdict: &verdict,
            spiffe_id: &order.spiffe_id,
            public_key: Some(&order.public_key),
            validity,
            key_id: authority.key_id(),
            audience: &[],
            dns_names: &order.dns_names,
            entry_id: order.entry_id.as_deref(),
            time_unix_ms: self.clock.unix_ms(),
        };
        Ok((validity, draft.leaf()?))
    }

    fn grant_jwt(
        &self,
        asked: &Attested,
        order: &JwtOrder,
        authority: &JwsAuthority,
    ) -> Result<(Validity, Leaf), Refusal> {
        self.check_identity(asked, &order.spiffe_id)?;
        check_audience(&order.audience)?;
        let verdict = self.verdict(asked, &order.spiffe_id, order.entry_id.as_deref())?;
        let ttl = order.ttl.unwrap_or(self.config.jwt_ttl);
        let validity = self.token_validity(ttl, &verdict, Kind::Jwt, authority)?;
        let draft = Draft {
            kind: LeafKind::JwtSvid,
            asked,
            verdict: &verdict,
            spiffe_id: &order.spiffe_id,
            public_key: None,
            validity,
            key_id: authority.key_id(),
            audience: &order.audience,
            dns_names: &[],
            entry_id: order.entry_id.as_deref(),
            time_unix_ms: self.clock.unix_ms(),
        };
        Ok((validity, draft.leaf()?))
    }

    fn grant_wit(
        &self,
        asked: &Attested,
        order: &WitOrder,
        authority: &JwsAuthority,
    ) -> Result<(Validity, Leaf), Refusal> {
        self.check_identity(asked, &order.spiffe_id)?;
        let verdict = self.verdict(asked, &order.spiffe_id, order.entry_id.as_deref())?;
        let ttl = order.ttl.unwrap_or(self.config.wit_ttl);
        let validity = self.token_validity(ttl, &verdict, Kind::Wit, authority)?;
        let draft = Draft {
            kind: LeafKind::WitSvid,
            asked,
            verdict: &verdict,
            spiffe_id: &order.spiffe_id,
            public_key: Some(&order.public_key),
            validity,
            key_id: authority.key_id(),
            audience: &[],
            dns_names: &[],
            entry_id: order.entry_id.as_deref(),
            time_unix_ms: self.clock.unix_ms(),
        };
        Ok((validity, draft.leaf()?))
    }

    async fn jwt(&self, asked: &Attested, order: &JwtOrder) -> Result<JwtSvid, Refusal> {
        let authority = self.authorities.jws(order.algorithm).map_err(|_| Refusal::Algorithm {
            wanted: order.algorithm.unwrap_or(mintmark_identity::JwsAlg::Es256),
        })?;
        let orders = std::slice::from_ref(order);
        let (granted, mut answers) = self.judge(orders, |order| self.grant_jwt(asked, order, &authority));
        let [granted] = &*granted else {
            return answers
                .swap_remove(0)
                .expect("an order that was not granted was answered");
        };
        let spec = JwtSpec {
            spiffe_id: &order.spiffe_id,
            audience: &order.audience,
            issuer: self.config.jwt_issuer.as_deref(),
            issued_at: granted.issued_at(),
            expires_at: granted.validity.not_after,
        };
        let encode = |_, serial| jws::encode_jwt(authority.template(), &spec, serial);
        let unsigned = self
            .log(std::slice::from_ref(granted), encode, UnsignedJws::signing_input)
            .await?
            .swap_remove(0);
        let signing = self.clock.instant();
        let checked = check::jwt(authority.template(), &spec, unsigned.get())?;
        let jti = checked.serial();
        let token = self.sign_token(&authority, unsigned, checked)?;
        self.metrics.took(Phase::Sign, self.clock.instant() - signing);
        Ok(JwtSvid {
            spiffe_id: order.spiffe_id.clone(),
            token,
            jti,
            issued_at: spec.issued_at,
            expires_at: spec.expires_at,
            key_id: authority.key_id().clone(),
            capped: granted.validity.capped,
        })
    }

    /// Encodes what was granted with the serials that the log gives, and waits until all leaves are durable.
    async fn log<O, U>(
        &self,
        granted: &[Granted<'_, O>],
        encode: impl Fn(usize, Serial) -> U,
        content: impl Fn(&U) -> &[u8],
    ) -> Result<Vec<Durable<U>>, Refusal> {
        if granted.is_empty() {
            return Ok(Vec::new());
        }
        let start = self.clock.instant();
        let mut random = vec![0; granted.len() * RANDOM];
        fill_random(&mut random);
        let logged = self.ledger.append(granted.len(), |slot| {
            let random = random
                .chunks_exact(RANDOM)
                .map(|chunk| <[u8; RANDOM]>::try_from(chunk).unwrap_or_default());
            let numbered = granted.iter().zip(random).enumerate();
            numbered
                .map(|(nth, (granted, random))| {
                    let serial = Serial::new(slot.log, slot.index(nth), random)
                        .expect("the ledger gives no index beyond 48 bits");
                    let unsigned = encode(nth, serial);
                    (leaf::finish(granted.leaf.clone(), serial, content(&unsigned)), unsigned)
                })
                .collect()
        });
        let logged = logged.await?;
        self.metrics.took(Phase::Log, self.clock.instant() - start);
        Ok(logged)
    }

    fn sign_x509(
        &self,
        authority: &X509Authority,
        spec: &X509Spec<'_>,
        granted: &Granted<'_, X509Order>,
        unsigned: Durable<UnsignedX509>,
    ) -> Result<X509Svid, Refusal> {
        self.check_halt()?;
        let checked = check::x509(authority.template(), spec, unsigned.get())?;
        let serial = checked.serial();
        let certificate = authority.sign(unsigned, checked)?;
        if self.is_to_be_verified() {
            authority.verify(&certificate).map_err(|error| self.halt(&error))?;
        }
        Ok(X509Svid {
            spiffe_id: granted.order.spiffe_id.clone(),
            chain: vec![certificate],
            serial,
            not_before: granted.validity.not_before,
            not_after: granted.validity.not_after,
            key_id: authority.key_id().clone(),
            capped: granted.validity.capped,
        })
    }

    fn sign_wit(
        &self,
        authority: &JwsAuthority,
        spec: &WitSpec<'_>,
        granted: &Granted<'_, WitOrder>,
        unsigned: Durable<UnsignedJws>,
    ) -> Result<WitSvid, Refusal> {
        let checked = check::wit(authority.template(), spec, unsigned.get())?;
        let jti = checked.serial();
        let token = self.sign_token(authority, unsigned, checked)?;
        Ok(WitSvid {
            spiffe_id: granted.order.spiffe_id.clone(),
            token,
            jti,
            issued_at: spec.issued_at,
            expires_at: spec.expires_at,
            key_id: authority.key_id().clone(),
            capped: granted.validity.capped,
        })
    }

    fn sign_token(
        &self,
        authority: &JwsAuthority,
        unsigned: Durable<UnsignedJws>,
        checked: check::Checked,
    ) -> Result<String, Refusal> {
        self.check_halt()?;
        let token = authority.sign(unsigned, checked)?;
        if self.is_to_be_verified() {
            authority.verify(&token).map_err(|error| self.halt(&error))?;
        }
        Ok(token)
    }

    /// Whose identities are given to whom, whatever entries say.
    fn check_identity(&self, asked: &Attested, id: &SpiffeId) -> Result<(), Refusal> {
        let trust_domain = &self.config.trust_domain;
        if id.trust_domain() != *trust_domain {
            return Err(Refusal::TrustDomain {
                spiffe_id: id.clone(),
                trust_domain: trust_domain.clone(),
            });
        }
        if id.is_root() {
            return Err(Refusal::Root(id.clone()));
        }
        let own = match asked.by() {
            By::Node(node) => node == id && *id != SpiffeId::server(trust_domain),
            By::Admin(_) => false,
            By::Server => true,
        };
        if id.is_reserved() && !own {
            Err(Refusal::Reserved(id.clone()))
        } else {
            Ok(())
        }
    }

    fn verdict(&self, asked: &Attested, spiffe_id: &SpiffeId, entry_id: Option<&str>) -> Result<Verdict, Refusal> {
        let verdict = self.verdicts.judge(&Subject {
            spiffe_id,
            by: asked.by(),
            entry_id,
        });
        if verdict.allowed {
            Ok(verdict)
        } else {
            Err(Refusal::Verdict {
                spiffe_id: spiffe_id.clone(),
                reasons: verdict.reasons,
            })
        }
    }

    fn validity(
        &self,
        ttl: Ttl,
        verdict: &Verdict,
        kind: Kind,
        not_before: i64,
        not_after: i64,
    ) -> Result<Validity, Refusal> {
        let now = self.clock.unix();
        Validity::new(now, ttl, verdict.ttl_cap, not_before, not_after).ok_or_else(|| {
            // Either the clock has jumped or rotation is late: it looks again at once.
            self.authorities.nudge();
            Refusal::Authority {
                kind,
                not_before,
                not_after,
                now,
            }
        })
    }

    /// A token's `iat` is the very second it is made; it has no other start.
    fn token_validity(
        &self,
        ttl: Ttl,
        verdict: &Verdict,
        kind: Kind,
        authority: &JwsAuthority,
    ) -> Result<Validity, Refusal> {
        let validity = self.validity(ttl, verdict, kind, authority.not_before(), authority.not_after())?;
        Ok(Validity {
            not_before: self.clock.unix().min(validity.not_after - 1),
            ..validity
        })
    }

    fn check_halt(&self) -> Result<(), Refusal> {
        self.halted
            .get()
            .map_or(Ok(()), |why| Err(Refusal::Halted(Arc::clone(why))))
    }

    fn is_to_be_verified(&self) -> bool {
        self.signed.fetch_add(1, Ordering::Relaxed).is_multiple_of(VERIFY_EVERY)
    }

    /// Stops all signing until a restart.
    fn halt(&self, error: &SignError) -> Refusal {
        tracing::error!(%error, "a signature is wrong; nothing is signed until the server is restarted");
        self.metrics.halt();
        Refusal::Halted(Arc::clone(self.halted.get_or_init(|| error.to_string().into())))
    }

    /// Counts what became of a call, and gives the answers out.
    fn account<A>(
        &self,
        kind: &'static str,
        start: std::time::Instant,
        answers: Answers<A>,
    ) -> Vec<Result<A, Refusal>> {
        self.metrics.took(Phase::Whole, self.clock.instant() - start);
        let answers: Vec<_> = answers
            .into_iter()
            .map(|answer| answer.expect("every order was answered"))
            .collect();
        self.metrics
            .issued(kind, answers.iter().filter(|answer| answer.is_ok()).count());
        answers
            .iter()
            .filter_map(|answer| answer.as_ref().err())
            .for_each(|refusal| self.metrics.refused(kind, refusal));
        answers
    }
}

impl X509Order {
    fn spec(&self, validity: Validity) -> X509Spec<'_> {
        X509Spec {
            spiffe_id: &self.spiffe_id,
            public_key: &self.public_key,
            dns_names: &self.dns_names,
            ip_addresses: &self.ip_addresses,
            validity,
        }
    }
}

impl WitOrder {
    fn spec(&self, validity: Validity, issued_at: i64) -> WitSpec<'_> {
        WitSpec {
            spiffe_id: &self.spiffe_id,
            public_key: &self.public_key,
            issued_at,
            expires_at: validity.not_after,
        }
    }
}

impl<O> Granted<'_, O> {
    fn issued_at(&self) -> i64 {
        self.validity.not_before
    }
}

fn check_audience(audience: &[String]) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::Audience(why));
    match audience {
        [] => refuse("is missing: name whom it is for".to_owned()),
        many if many.len() > MAX_AUDIENCES => {
            refuse(format!("has {} entries, {MAX_AUDIENCES} are possible", many.len()))
        }
        some => match some.iter().find(|one| one.is_empty() || one.len() > MAX_AUDIENCE) {
            Some(one) => refuse(format!(
                "has an entry of {} bytes: 1 to {MAX_AUDIENCE} are possible",
                one.len()
            )),
            None => Ok(()),
        },
    }
}

/// Lets other tasks run now and then.
async fn take_turns(nth: usize) {
    if nth % TURN == TURN - 1 {
        tokio::task::yield_now().await;
    }
}
