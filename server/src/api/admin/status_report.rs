//! How the server is, and what somebody has to look at.

use mintmark_proto::admin::{self, Attention, StatusResponse, authority};

use super::super::Rooms;
use crate::authority::{AuthorityInfo, Kind, Slot};

/// Below this share of `ledger.max_size`, or of what the disk has, there is little room left.
const NEARLY_FULL_PERCENT: u64 = 20;
/// An authority that should have been replaced by now: less than this share of its life is left.
const OVERDUE_SHARE: i64 = 8;

/// Looks at the filesystem, so it blocks.
pub(super) fn report(rooms: &Rooms) -> StatusResponse {
    let now = rooms.clock.unix();
    let uptime = rooms.clock.instant().saturating_duration_since(rooms.started).as_secs();
    let infos: Vec<_> = Kind::ALL
        .into_iter()
        .flat_map(|kind| rooms.authorities.list(kind))
        .collect();
    let ledger = ledger(rooms);
    let nodes = nodes(rooms, now);
    let attention = attention(rooms, now, &infos, &ledger);
    StatusResponse {
        trust_domain: rooms.trust_domain.to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
        started_at: rooms.started_at,
        uptime_seconds: uptime,
        authorities: infos.iter().map(authority_message).collect(),
        nodes: Some(nodes),
        entries: rooms.registry.len() as u64,
        store: Some(admin::Store {
            engine: rooms.store_engine.into(),
            revision: rooms.store.revision(),
            // Tokens, authorities and guards are few beside these.
            entries: (rooms.registry.len() + rooms.nodes.count(|_| true)) as u64,
        }),
        ledger: Some(ledger),
        attention,
    }
}

fn authority_message(info: &AuthorityInfo) -> admin::Authority {
    admin::Authority {
        kind: match info.kind {
            Kind::X509 => authority::Kind::X509,
            Kind::Jwt => authority::Kind::Jwt,
            Kind::Wit => authority::Kind::Wit,
        }
        .into(),
        key_id: info.key_id.to_string(),
        state: match info.slot {
            Slot::Prepared => authority::State::Prepared,
            Slot::Active => authority::State::Active,
            Slot::Old => authority::State::Old,
        }
        .into(),
        not_before: info.not_before,
        not_after: info.not_after,
        expires_at: info.not_after,
        tainted: info.tainted,
        algorithm: info
            .token_keys
            .iter()
            .map(|(algorithm, _)| algorithm.as_str())
            .collect::<Vec<_>>()
            .join(", "),
    }
}

fn nodes(rooms: &Rooms, now: i64) -> admin::Nodes {
    admin::Nodes {
        attested: rooms.nodes.count(|node| node.is_attested(now)) as u64,
        connected: u64::try_from(rooms.connected.get()).unwrap_or_default(),
        banned: rooms.nodes.count(|node| node.banned) as u64,
    }
}

fn ledger(rooms: &Rooms) -> admin::Ledger {
    let state = rooms.ledger.state();
    let halted = state
        .halted
        .map(|error| error.to_string())
        .or_else(|| rooms.issuer.halted().map(str::to_owned));
    admin::Ledger {
        log: state.log.into(),
        size: state.size,
        min_index: state.minimum,
        bytes: state.used_bytes,
        free_bytes: state.free_bytes,
        checkpoint_size: state.checkpoint_size,
        halted_reason: halted.unwrap_or_default(),
    }
}

fn attention(rooms: &Rooms, now: i64, infos: &[AuthorityInfo], ledger: &admin::Ledger) -> Vec<Attention> {
    let mut found = Vec::new();
    let mut say = |code: &str, message: String, action: &str| {
        found.push(Attention {
            code: code.into(),
            message,
            action: action.into(),
        });
    };
    if !ledger.halted_reason.is_empty() {
        say(
            "issuance_halted",
            format!("nothing is issued: {}", ledger.halted_reason),
            "check the disk and the machine, then restart the server",
        );
    }
    if ledger.free_bytes == 0 {
        say(
            "ledger_full",
            "the issuance log has no room left, and nothing is issued".into(),
            "free space on its filesystem, or raise ledger.max_size",
        );
    } else if ledger.free_bytes < (ledger.bytes + ledger.free_bytes) / 100 * NEARLY_FULL_PERCENT {
        let message = format!(
            "the issuance log has {} MiB left of {} MiB",
            ledger.free_bytes >> 20,
            (ledger.bytes + ledger.free_bytes) >> 20
        );
        say(
            "ledger_nearly_full",
            message,
            "its oldest leaves will be pruned: archive them, enlarge the volume, or raise ledger.max_size",
        );
    }
    for info in infos.iter().filter(|info| info.slot == Slot::Active) {
        let left = info.not_after - now;
        if left <= 0 {
            say(
                "authority_expired",
                format!("the active {} authority {} has ended", info.kind, info.key_id),
                "look at the server's clock and its log: rotation has failed",
            );
        } else if left < (info.not_after - info.not_before) / OVERDUE_SHARE {
            let message = format!(
                "the active {} authority {} ends in {left} s and has not been replaced",
                info.kind, info.key_id
            );
            say(
                "authority_not_rotated",
                message,
                "look at the server's log: rotation should have replaced it with a sixth of its life left",
            );
        }
    }
    for info in infos.iter().filter(|info| info.tainted) {
        let message = format!(
            "{} authority {} is tainted and still in the bundle",
            info.kind, info.key_id
        );
        say(
            "authority_tainted",
            message,
            "revoke it when everything that it signed has been replaced",
        );
    }
    for (check, why) in rooms.health.not_ready() {
        if !matches!(check, "ledger" | "authorities") {
            say("not_ready", format!("{check}: {why}"), "see the server's log");
        }
    }
    if let Some(log) = rooms.log.as_ref().filter(|log| log.dropped() > 0) {
        say(
            "log_lines_dropped",
            format!("{} lines of the log were dropped", log.dropped()),
            "let the log go somewhere faster, or log less",
        );
    }
    found
}
