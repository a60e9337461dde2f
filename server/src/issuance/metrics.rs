//! What issuance counts.

use std::time::Duration;

use mintmark_runtime::metrics::prometheus_client::encoding::EncodeLabelSet;
use mintmark_runtime::metrics::prometheus_client::metrics::counter::Counter;
use mintmark_runtime::metrics::prometheus_client::metrics::family::Family;
use mintmark_runtime::metrics::prometheus_client::metrics::histogram::Histogram;
use mintmark_runtime::metrics::{Metrics as Registry, SECONDS};

use super::Refusal;

/// Credentials by kind and outcome, seconds by phase.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    issuances: Family<Issuance, Counter>,
    x509: Counter,
    jwt: Counter,
    wit: Counter,
    seconds: [Histogram; 4],
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Issuance {
    kind: &'static str,
    result: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InPhase {
    phase: &'static str,
}

/// The parts of an issuance that are timed; a batch is timed as one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    /// Orders are held against the rules and the policies.
    Judge,
    /// Encoded, and waited for until it is durable.
    Log,
    /// Parsed back and checked, and signed.
    Sign,
    /// From the order to the credential.
    Whole,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let issuances =
            registry.counters::<Issuance>("issuances", "Credentials that were asked for, by what became of them");
        let seconds = registry.histograms::<InPhase>(
            "issuance_seconds",
            "How long the phases of an issuance take; a batch counts as one",
            SECONDS,
        );
        let in_phase = |phase| seconds.get_or_create(&InPhase { phase }).clone();
        let issued = |kind| {
            issuances
                .get_or_create(&Issuance {
                    kind,
                    result: "issued",
                    reason: "",
                })
                .clone()
        };
        Self {
            x509: issued("x509"),
            jwt: issued("jwt"),
            wit: issued("wit"),
            seconds: [in_phase("judge"), in_phase("log"), in_phase("sign"), in_phase("whole")],
            issuances,
        }
    }

    pub(super) fn issued(&self, kind: &'static str, count: usize) {
        let counter = match kind {
            "jwt" => &self.jwt,
            "wit" => &self.wit,
            _ => &self.x509,
        };
        counter.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    pub(super) fn refused(&self, kind: &'static str, refusal: &Refusal) {
        self.issuances
            .get_or_create(&Issuance {
                kind,
                result: "refused",
                reason: refusal.reason(),
            })
            .inc();
    }

    pub(super) fn took(&self, phase: Phase, time: Duration) {
        self.seconds[phase as usize].observe(time.as_secs_f64());
    }
}
