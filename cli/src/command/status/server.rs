//! The server's part.

use mintmark_proto::admin::admin_client::AdminClient;
use mintmark_proto::admin::authority::{Kind, State};
use mintmark_proto::admin::{Authority, StatusRequest, StatusResponse};
use mintmark_runtime::config::ByteSize;
use serde::Serialize;

use crate::client::admin;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Fields, Table, ago_or_in, span};

/// How a server is. Times are Unix seconds, sizes bytes.
#[derive(Serialize)]
pub struct ServerStatus {
    address: String,
    trust_domain: String,
    version: String,
    started_at: i64,
    uptime_seconds: u64,
    authorities: Vec<AuthorityStatus>,
    nodes: Nodes,
    entries: u64,
    store: Store,
    ledger: Ledger,
    attention: Vec<Attention>,
}

#[derive(Serialize)]
struct AuthorityStatus {
    kind: &'static str,
    authority_id: String,
    state: &'static str,
    algorithm: String,
    not_before: i64,
    not_after: i64,
    leaves_bundle_at: i64,
    tainted: bool,
}

#[derive(Serialize)]
struct Nodes {
    attested: u64,
    connected: u64,
    banned: u64,
}

#[derive(Serialize)]
struct Store {
    engine: String,
    revision: u64,
    entries: u64,
}

#[derive(Serialize)]
struct Ledger {
    log: u32,
    size: u64,
    min_index: u64,
    bytes: u64,
    free_bytes: u64,
    checkpoint_size: u64,
    halted_reason: String,
}

#[derive(Serialize)]
struct Attention {
    code: String,
    message: String,
    action: String,
}

pub async fn ask(context: &Context) -> Result<ServerStatus, Failure> {
    let mut client = admin!(AdminClient, context);
    let answer = context
        .ask("ask the server how it is", client.status(StatusRequest {}))
        .await?;
    let address = match &context.globals.server {
        Some(server) => server.to_string(),
        None => context.globals.admin_socket().display().to_string(),
    };
    Ok(ServerStatus::of(address, answer))
}

impl ServerStatus {
    fn of(address: String, answer: StatusResponse) -> Self {
        let (nodes, store, ledger) = (
            answer.nodes.unwrap_or_default(),
            answer.store.unwrap_or_default(),
            answer.ledger.unwrap_or_default(),
        );
        Self {
            address,
            trust_domain: answer.trust_domain,
            version: answer.version,
            started_at: answer.started_at,
            uptime_seconds: answer.uptime_seconds,
            authorities: answer.authorities.into_iter().map(authority).collect(),
            nodes: Nodes {
                attested: nodes.attested,
                connected: nodes.connected,
                banned: nodes.banned,
            },
            entries: answer.entries,
            store: Store {
                engine: store.engine,
                revision: store.revision,
                entries: store.entries,
            },
            ledger: Ledger {
                log: ledger.log,
                size: ledger.size,
                min_index: ledger.min_index,
                bytes: ledger.bytes,
                free_bytes: ledger.free_bytes,
                checkpoint_size: ledger.checkpoint_size,
                halted_reason: ledger.halted_reason,
            },
            attention: answer
                .attention
                .into_iter()
                .map(|attention| Attention {
                    code: attention.code,
                    message: attention.message,
                    action: attention.action,
                })
                .collect(),
        }
    }

    pub fn text(&self, now: i64) -> String {
        let ledger = &self.ledger;
        let mut fields = Fields::default();
        fields
            .add("  trust domain", &self.trust_domain)
            .add("  version", &self.version)
            .add("  up", span(self.uptime_seconds))
            .add("  entries", self.entries)
            .add(
                "  nodes",
                format_args!(
                    "{} attested, {} connected, {} banned",
                    self.nodes.attested, self.nodes.connected, self.nodes.banned
                ),
            )
            .add(
                "  store",
                format_args!("{}, revision {}", self.store.engine, self.store.revision),
            )
            .add(
                "  ledger",
                format_args!(
                    "log {}, {} leaves, {} on disk, {} free",
                    ledger.log,
                    ledger.size - ledger.min_index.min(ledger.size),
                    size(ledger.bytes),
                    size(ledger.free_bytes)
                ),
            )
            .some("  NOT ISSUING", &ledger.halted_reason);
        let mut table = Table::new(&["  AUTHORITY", "STATE", "ALGORITHM", "ENDS", "ID"]);
        for authority in &self.authorities {
            let tainted = if authority.tainted { ", tainted" } else { "" };
            table.row([
                format!("  {}", authority.kind),
                format!("{}{tainted}", authority.state),
                authority.algorithm.clone(),
                ago_or_in(now, authority.not_after),
                authority.authority_id.clone(),
            ]);
        }
        let mut text = format!("server at {}\n{fields}\n{table}", self.address);
        if self.attention.is_empty() {
            text += "\n  nothing needs attention\n";
        } else {
            text += "\n  NEEDS ATTENTION\n";
            for attention in &self.attention {
                text += &format!(
                    "  {}: {}\n    {}\n",
                    attention.code, attention.message, attention.action
                );
            }
        }
        text
    }
}

fn authority(authority: Authority) -> AuthorityStatus {
    AuthorityStatus {
        kind: match authority.kind() {
            Kind::X509 => "x509",
            Kind::Jwt => "jwt",
            Kind::Wit => "wit",
            Kind::Unspecified => "unknown",
        },
        state: match authority.state() {
            State::Prepared => "prepared",
            State::Active => "active",
            State::Old => "old",
            State::Unspecified => "unknown",
        },
        authority_id: authority.key_id,
        algorithm: authority.algorithm,
        not_before: authority.not_before,
        not_after: authority.not_after,
        leaves_bundle_at: authority.expires_at,
        tainted: authority.tainted,
    }
}

/// A number of bytes in its largest unit, rounded down.
fn size(bytes: u64) -> String {
    let unit = [40_u32, 30, 20, 10]
        .into_iter()
        .find(|shift| bytes >> shift > 0)
        .unwrap_or(0);
    match unit {
        0 => format!("{bytes}B"),
        _ => ByteSize((bytes >> unit) << unit).to_string(),
    }
}
