//! What is followed while the server runs: the trust anchors of its listener, its health, and numbers that are read when somebody asks for the metrics.

use std::fmt;
use std::sync::Arc;

use futures::FutureExt as _;
use mintmark_runtime::health::Health;
use mintmark_runtime::metrics::Metrics;
use mintmark_runtime::metrics::prometheus_client::collector::Collector;
use mintmark_runtime::metrics::prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use mintmark_runtime::metrics::prometheus_client::metrics::MetricType;
use mintmark_runtime::metrics::prometheus_client::metrics::gauge::ConstGauge;
use mintmark_runtime::task::Supervisor;
use mintmark_runtime::tls::{SharedAnchors, TrustAnchors};

use super::backup::LOG_NUMBER;
use crate::api::Rooms;
use crate::authority::{Kind, Slot};

/// The anchors by which clients' certificates are believed: our own bundle's, as it changes.
pub(super) fn anchors(rooms: &Rooms, house: &Supervisor) -> SharedAnchors {
    let mut bundles = rooms.authorities.watch_bundle();
    let now = Arc::clone(&bundles.borrow_and_update());
    let anchors = TrustAnchors::from_bundles([&*now]).shared();
    let (shared, stop) = (Arc::clone(&anchors), house.token());
    house.spawn_critical("trust-anchors", async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = bundles.changed() => if changed.is_err() { return },
            }
            let bundle = Arc::clone(&bundles.borrow_and_update());
            shared.store(Arc::new(TrustAnchors::from_bundles([&*bundle])));
        }
    });
    anchors
}

/// When requests should go elsewhere.
pub(super) fn health(rooms: &Rooms, health: &Health) {
    let store = rooms.store.clone();
    health.readiness_fn("store", move || match store.get(LOG_NUMBER).now_or_never() {
        Some(Err(error)) => Err(error.to_string()),
        Some(Ok(_)) | None => Ok(()),
    });
    let (ledger, issuer) = (rooms.ledger.clone(), rooms.issuer.clone());
    health.readiness_fn("ledger", move || match (ledger.stopped(), issuer.halted()) {
        (Some(why), _) => Err(why),
        (None, Some(why)) => Err(format!("nothing is issued: {why}")),
        (None, None) if ledger.free_bytes() == 0 => Err("the issuance log has no room left".into()),
        (None, None) => Ok(()),
    });
    let (authorities, clock) = (rooms.authorities.clone(), rooms.clock.clone());
    health.readiness_fn("authorities", move || {
        let now = clock.unix();
        let is_active = |kind| {
            authorities
                .list(kind)
                .iter()
                .any(|info| info.slot == Slot::Active && info.not_after > now)
        };
        match Kind::ALL.into_iter().find(|kind| !is_active(*kind)) {
            Some(kind) => Err(format!("no {kind} authority is valid now")),
            None => Ok(()),
        }
    });
    let credential = rooms.credential.clone();
    health.readiness_fn("own_svid", move || {
        credential.chain().map(drop).ok_or_else(|| "there is none yet".into())
    });
}

/// Numbers that are read when somebody asks.
pub(super) fn metrics(rooms: &Rooms, metrics: &Metrics) {
    let collector = Numbers { rooms: rooms.clone() };
    metrics.with_registry(|registry| registry.register_collector(Box::new(collector)));
}

struct Numbers {
    rooms: Rooms,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AuthorityLabels {
    kind: &'static str,
    state: &'static str,
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Numbers").finish_non_exhaustive()
    }
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Rooms {
            authorities,
            registry,
            nodes,
            clock,
            ..
        } = &self.rooms;
        let now = clock.unix();
        let help = "Seconds until an authority ends; of several in one state, the first that does";
        let mut family = encoder.encode_descriptor("authority_expiry_seconds", help, None, MetricType::Gauge)?;
        for kind in Kind::ALL {
            let infos = authorities.list(kind);
            for slot in [Slot::Active, Slot::Prepared, Slot::Old] {
                let ends = infos.iter().filter(|info| info.slot == slot).map(|info| info.not_after);
                if let Some(end) = ends.min() {
                    let labels = AuthorityLabels {
                        kind: kind.as_str(),
                        state: slot.as_str(),
                    };
                    ConstGauge::new(end - now).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        let all = nodes.list(None, usize::MAX, |_| true);
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let attested = all.iter().filter(|node| !node.banned && node.not_after > now).count();
        let banned = all.iter().filter(|node| node.banned).count();
        for (name, help, value) in [
            ("entries", "Registration entries", count(registry.len())),
            (
                "nodes_attested",
                "Nodes with an SVID that has not ended",
                count(attested),
            ),
            ("nodes_banned", "Nodes that are banned", count(banned)),
            (
                "bundle_sequence",
                "The number of the trust bundle; it grows with every change",
                i64::try_from(authorities.bundle().sequence).unwrap_or(i64::MAX),
            ),
            (
                "start_time_seconds",
                "When the server started, Unix seconds",
                self.rooms.started_at,
            ),
        ] {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}
