//! What is followed while the server runs: the trust anchors of its listener, its health, and numbers that are read when somebody asks for the metrics.

use std::fmt;
use std::sync::Arc;

use futures::FutureExt as _;
use mintmark_runtime::health::Health;
use mintmark_runtime::metrics::Metrics;
use mintmark_runtime::metrics::prometheus_client::collector::Collector;
use mintmark_runtime::metrics::prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use mintmark_runtime::metrics::prometheus_client::metrics::MetricType;
use mintmark_runtime::metrics::prometheus_client::metrics::gauge::ConstGauge;
use mintmark_runtime::task::Supervisor;
use mintmark_runtime::tls::{SharedAnchors, TrustAnchors};

use super::backup::LOG_NUMBER;
use crate::api::Rooms;
use crate::authority::{Kind, Slot};
use crate::trust::publish;

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

/// The trust bundle, into the clusters.
pub(super) fn publish(rooms: &Rooms, house: &Supervisor) {
    if rooms.roll.clusters().next().is_some() {
        let work = publish::run(rooms.authorities.clone(), rooms.roll.clone());
        let stop = house.token();
        house.spawn_critical("bundle-publishing", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }
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
    if rooms.roll.clusters().next().is_some() {
        let roll = rooms.roll.clone();
        health.readiness_fn("kubernetes", move || roll.not_synced().map_or(Ok(()), Err));
    }
    let credential = rooms.credential.clone();
    health.readiness_fn("own_svid", move || {
        credential.chain().map(drop).ok_or_else(|| "there is none yet".into())
    });
}

/// Numbers that are read when somebody asks.
pub(super) fn metrics(rooms: &Rooms, metrics: &Metrics) {
    rooms.authorities.register(metrics);
    let collector = Numbers { rooms: rooms.clone() };
    metrics.with_registry(|registry| registry.register_collector(Box::new(collector)));
}

struct Numbers {
    rooms: Rooms,
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Numbers").finish_non_exhaustive()
    }
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Rooms {
            registry,
            nodes,
            ledger,
            issuer,
            clock,
            ..
        } = &self.rooms;
        let now = clock.unix();
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let is_halted = issuer.halted().is_some() || ledger.stopped().is_some();
        for (name, help, value) in [
            ("entries", "Registration entries", count(registry.len())),
            (
                "nodes_attested",
                "Nodes with an SVID that has not ended",
                count(nodes.count(|node| node.is_attested(now))),
            ),
            (
                "nodes_banned",
                "Nodes that are banned",
                count(nodes.count(|node| node.banned)),
            ),
            (
                "issuance_halted",
                "1 when nothing is issued until a restart: a signature was wrong, or the issuance log could not be written",
                i64::from(is_halted),
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
