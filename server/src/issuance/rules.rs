//! What may be asked for, whatever entries say.

use mintmark_identity::{SpiffeId, Ttl};

use super::Refusal;
use super::issuer::{Call, Inner};
use crate::attest::By;
use crate::authority::Kind;
use crate::mint::Validity;
use crate::mint::jws::{MAX_AUDIENCE, MAX_AUDIENCES};
use crate::verdict::{Subject, Verdict};

impl Inner {
    /// Whether this identity may be given to whoever asks.
    pub(super) fn check_identity(&self, call: Call<'_>, id: &SpiffeId) -> Result<(), Refusal> {
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
        let own = match call.asked.by() {
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

    /// What the policies say, if it is not no.
    pub(super) fn verdict(
        &self,
        call: Call<'_>,
        spiffe_id: &SpiffeId,
        entry_id: Option<&str>,
    ) -> Result<Verdict, Refusal> {
        let verdict = self.verdicts.judge(&Subject {
            spiffe_id,
            by: call.asked.by(),
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

    /// How long a credential of an authority lives.
    pub(super) fn validity(
        &self,
        call: Call<'_>,
        ttl: Ttl,
        verdict: &Verdict,
        kind: Kind,
        (not_before, not_after): (i64, i64),
    ) -> Result<Validity, Refusal> {
        let now = call.now();
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
}

impl Call<'_> {
    /// Seconds since 1970.
    pub(super) fn now(self) -> i64 {
        self.now_ms.div_euclid(1_000)
    }
}

/// Whether these may be the audience of a JWT-SVID.
pub(super) fn check_audience(audience: &[String]) -> Result<(), Refusal> {
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
