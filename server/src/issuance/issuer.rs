//! The one path that every credential takes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use mintmark_identity::{JwsAlg, Serial, SpiffeId, TrustDomain, Ttl};
use mintmark_proto::ledger::Leaf;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::crypto::fill_random;
use mintmark_runtime::metrics::Metrics as Registry;

use super::form::{Form, JwtForm, WitForm, X509Form};
use super::leaf;
use super::metrics::{Metrics, Phase};
use super::{JwtOrder, JwtSvid, Refusal, WitOrder, WitSvid, X509Order, X509Svid};
use crate::attest::{Attested, By, join_token};
use crate::authority::{Authorities, SignError};
use crate::ledger::{Durable, Ledger};
use crate::mint::Validity;
use crate::verdict::Verdicts;

/// The most credentials in one call; the ledger takes more.
const MAX_BATCH: usize = 1_000;
/// After so many signatures (20 µs each) other tasks get their turn.
const TURN: usize = 32;
/// The signature of one credential in so many is verified.
const VERIFY_EVERY: u64 = 1_024;
/// The log's targets.
const ISSUED: &str = "mintmark_server::issued";
const REFUSED: &str = "mintmark_server::refused";
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

pub(super) struct Inner {
    ledger: Ledger,
    pub(super) authorities: Authorities,
    pub(super) verdicts: Verdicts,
    clock: Clock,
    pub(super) config: IssuanceConfig,
    metrics: Metrics,
    signed: AtomicU64,
    halted: OnceLock<Arc<str>>,
}

/// Who asks, and when.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) asked: &'a Attested,
    /// Milliseconds since 1970.
    pub(super) now_ms: i64,
}

/// What is made of an order that may be filled.
pub(super) struct Grant {
    pub(super) validity: Validity,
    /// What the ledger will say, but for what only the ledger knows.
    pub(super) leaf: Leaf,
}

/// An order that may be filled.
struct Granted<'a, O> {
    /// Its place in the call.
    at: usize,
    order: &'a O,
    grant: Grant,
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
        let form = X509Form(self.inner.authorities.x509());
        self.inner.issue(asked, &form, &orders).await
    }

    /// Issues one JWT-SVID.
    ///
    /// # Errors
    /// Why it was not issued.
    pub async fn jwt(&self, asked: &Attested, order: JwtOrder) -> Result<JwtSvid, Refusal> {
        match self.inner.authorities.jws(order.algorithm) {
            Ok(authority) => self
                .inner
                .issue(asked, &JwtForm(authority), &[order])
                .await
                .swap_remove(0),
            Err(_) => {
                let wanted = order.algorithm.unwrap_or(JwsAlg::Es256);
                let refusal = Refusal::Algorithm { wanted };
                self.inner.metrics.refused(JwtForm::KIND, &refusal);
                Err(refusal)
            }
        }
    }

    /// Issues WIT-SVIDs, with one write to the log for all of them. The answers are in the order of the orders.
    pub async fn wit(&self, asked: &Attested, orders: Vec<WitOrder>) -> Vec<Result<WitSvid, Refusal>> {
        let form = WitForm(self.inner.authorities.wit());
        self.inner.issue(asked, &form, &orders).await
    }

    /// Why nothing is signed any more, if a signature was wrong.
    pub fn halted(&self) -> Option<&str> {
        self.inner.halted.get().map(|why| &**why)
    }

    /// Issues credentials of any form.
    #[cfg(test)]
    pub(super) async fn issue<F: Form>(
        &self,
        asked: &Attested,
        form: &F,
        orders: &[F::Order],
    ) -> Vec<Result<F::Svid, Refusal>> {
        self.inner.issue(asked, form, orders).await
    }
}

impl Inner {
    async fn issue<F: Form>(&self, asked: &Attested, form: &F, orders: &[F::Order]) -> Vec<Result<F::Svid, Refusal>> {
        let start = self.clock.instant();
        let (mut granted, mut answers) = self.judge(asked, form, orders);
        let judged = self.clock.instant();
        self.metrics.took(Phase::Judge, judged - start);
        if !granted.is_empty() {
            let logged = self.log(form, &mut granted).await;
            let durable = self.clock.instant();
            self.metrics.took(Phase::Log, durable - judged);
            self.sign(form, granted, logged, &mut answers).await;
            self.metrics.took(Phase::Sign, self.clock.instant() - durable);
        }
        let answers = self.account(F::KIND, start, answers);
        tell::<F>(asked, orders, &answers);
        answers
    }

    /// Holds every order of a call against the rules and the verdict.
    fn judge<'a, F: Form>(
        &self,
        asked: &Attested,
        form: &F,
        orders: &'a [F::Order],
    ) -> (Vec<Granted<'a, F::Order>>, Answers<F::Svid>) {
        let call = Call {
            asked,
            now_ms: self.clock.unix_ms(),
        };
        let too_many = (orders.len() > MAX_BATCH).then_some(Refusal::TooMany {
            count: orders.len(),
            limit: MAX_BATCH,
        });
        let refuse_all = too_many.or(self.check_halt().err());
        let mut granted = Vec::with_capacity(orders.len());
        let judge = |(at, order)| match refuse_all.clone().map_or_else(|| form.grant(self, call, order), Err) {
            Ok(grant) => {
                granted.push(Granted { at, order, grant });
                None
            }
            Err(refusal) => Some(Err(refusal)),
        };
        let answers = orders.iter().enumerate().map(judge).collect();
        (granted, answers)
    }

    /// Encodes what was granted with the serials that the log gives, and waits until all leaves are durable.
    async fn log<F: Form>(
        &self,
        form: &F,
        granted: &mut [Granted<'_, F::Order>],
    ) -> Result<Vec<Durable<F::Unsigned>>, Refusal> {
        let mut random = vec![0; granted.len() * RANDOM];
        fill_random(&mut random);
        let logged = self.ledger.append(granted.len(), |slot| {
            let random = random
                .chunks_exact(RANDOM)
                .map(|chunk| <[u8; RANDOM]>::try_from(chunk).unwrap_or_default());
            let encode = |(nth, (granted, random)): (usize, (&mut Granted<'_, F::Order>, _))| {
                let serial =
                    Serial::new(slot.log, slot.index(nth), random).expect("the ledger gives no index beyond 48 bits");
                let unsigned = form.encode(&self.config, granted.order, granted.grant.validity, serial);
                let leaf = std::mem::take(&mut granted.grant.leaf);
                (leaf::finish(leaf, serial, F::content(&unsigned)), unsigned)
            };
            granted.iter_mut().zip(random).enumerate().map(encode).collect()
        });
        Ok(logged.await?)
    }

    /// Checks and signs what is durable.
    async fn sign<F: Form>(
        &self,
        form: &F,
        granted: Vec<Granted<'_, F::Order>>,
        logged: Result<Vec<Durable<F::Unsigned>>, Refusal>,
        answers: &mut Answers<F::Svid>,
    ) {
        let durable = match logged {
            Ok(durable) => durable,
            Err(refusal) => {
                granted
                    .iter()
                    .for_each(|granted| answers[granted.at] = Some(Err(refusal.clone())));
                return;
            }
        };
        for (nth, (granted, unsigned)) in granted.into_iter().zip(durable).enumerate() {
            let Granted { at, order, grant } = granted;
            answers[at] = Some(self.sign_one(form, order, grant.validity, unsigned));
            if nth % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn sign_one<F: Form>(
        &self,
        form: &F,
        order: &F::Order,
        validity: Validity,
        unsigned: Durable<F::Unsigned>,
    ) -> Result<F::Svid, Refusal> {
        self.check_halt()?;
        let svid = form.sign(&self.config, order, validity, unsigned)?;
        if self.signed.fetch_add(1, Ordering::Relaxed).is_multiple_of(VERIFY_EVERY) {
            form.verify(&svid).map_err(|error| self.halt(&error))?;
        }
        Ok(svid)
    }

    fn check_halt(&self) -> Result<(), Refusal> {
        self.halted
            .get()
            .map_or(Ok(()), |why| Err(Refusal::Halted(Arc::clone(why))))
    }

    /// Stops all signing until a restart.
    fn halt(&self, error: &SignError) -> Refusal {
        tracing::error!(%error, "a signature is wrong; nothing is signed until the server is restarted");
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

/// Writes down what became of each order. The leaf is the record of an issuance; this is for who watches the log: `mintmark_server::issued=debug` shows what was
/// issued, refusals are always shown.
fn tell<F: Form>(asked: &Attested, orders: &[F::Order], answers: &[Result<F::Svid, Refusal>]) {
    let mut is_told = false;
    for (order, answer) in orders.iter().zip(answers) {
        let (spiffe_id, entry) = F::subject(order);
        match answer {
            Ok(svid) => {
                if tracing::enabled!(target: ISSUED, tracing::Level::DEBUG) {
                    let (serial, ends) = F::outcome(svid);
                    let (spiffe_id, by) = names(asked, spiffe_id);
                    tracing::debug!(target: ISSUED, kind = F::KIND, %serial, %spiffe_id, entry, %by, ends, "issued");
                }
            }
            // What hits all orders of a call alike is told once.
            Err(why) if !why.is_callers_fault() && std::mem::replace(&mut is_told, true) => {}
            Err(why) => {
                let reason = why.reason();
                let (spiffe_id, by) = names(asked, spiffe_id);
                tracing::warn!(target: REFUSED, kind = F::KIND, %spiffe_id, entry, %by, reason, %why, "refused");
            }
        }
    }
}

/// Whose a credential is and who asks, for the log. A node that asks for its own may not have joined yet: its join token is then still good.
fn names(asked: &Attested, spiffe_id: &SpiffeId) -> (String, String) {
    match asked.by() {
        By::Node(node) if node == spiffe_id => {
            let name = join_token::without_token(node);
            (name.clone(), name)
        }
        by => (spiffe_id.to_string(), by.to_string()),
    }
}
