//! A leaf as people and scripts read it.

use mintmark_identity::Serial;
use mintmark_proto::admin::LedgerLeaf;
use mintmark_proto::ledger::{Kind, Leaf, Verdict, Witness};
use mintmark_server::ledger::decode_leaf;
use serde::Serialize;

use crate::output::{Fields, Table, ago_or_in, stamp, stamp_and_distance};

/// A leaf. Times are Unix seconds, hashes are hex.
#[derive(Debug, Serialize)]
pub struct LeafView {
    pub index: u64,
    pub log: u32,
    pub serial: String,
    pub jti: String,
    pub spiffe_id: String,
    pub kind: &'static str,
    /// When it was written.
    pub logged_at: i64,
    pub not_before: i64,
    pub not_after: i64,
    pub witnesses: Vec<&'static str>,
    pub node: String,
    pub author: String,
    pub entry_id: String,
    pub key_id: String,
    pub audience: Vec<String>,
    pub dns_names: Vec<String>,
    pub verdict: Option<VerdictView>,
    pub reason: String,
    pub content_sha256: String,
    pub public_key_sha256: String,
}

/// What was decided.
#[derive(Debug, Serialize)]
pub struct VerdictView {
    pub outcome: String,
    pub reasons: Vec<String>,
    pub policy_epoch: u64,
}

impl LeafView {
    /// Of what the server answers. The stored bytes are what counts; they are read here.
    ///
    /// # Errors
    /// When they are no leaf.
    pub fn of(answer: &LedgerLeaf) -> Result<Self, String> {
        let leaf =
            decode_leaf(&answer.raw).map_err(|error| format!("leaf {} cannot be read: {error}", answer.index))?;
        Ok(Self::from_leaf(answer.index, leaf))
    }

    /// Of a leaf at this place.
    pub fn from_leaf(index: u64, leaf: Leaf) -> Self {
        let kind = kind_name(leaf.kind());
        let witnesses = leaf.witnesses().map(witness_name).collect();
        let serial = Serial::from_bytes(&leaf.serial).ok();
        Self {
            index,
            log: leaf.log,
            serial: hex::encode_upper(&leaf.serial),
            jti: serial.as_ref().map(Serial::jti).unwrap_or_default(),
            spiffe_id: leaf.spiffe_id,
            kind,
            logged_at: leaf.time_unix_ms.div_euclid(1000),
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            witnesses,
            node: leaf.node,
            author: leaf.author,
            entry_id: leaf.entry_id,
            key_id: leaf.key_id,
            audience: leaf.audience,
            dns_names: leaf.dns_names,
            verdict: leaf.verdict.map(|verdict: Verdict| VerdictView {
                outcome: verdict.outcome,
                reasons: verdict.reasons,
                policy_epoch: verdict.policy_epoch,
            }),
            reason: leaf.reason,
            content_sha256: hex::encode(&leaf.content_sha256),
            public_key_sha256: hex::encode(&leaf.public_key_sha256),
        }
    }

    /// All of it, for people.
    pub fn fields(&self, now: i64) -> String {
        let mut fields = Fields::default();
        fields
            .add("index", format_args!("{} of log {}", self.index, self.log))
            .add("kind", self.kind)
            .some("spiffe id", &self.spiffe_id)
            .add("serial", &self.serial);
        if matches!(self.kind, "jwt_svid" | "wit_svid") {
            fields.some("jti", &self.jti);
        }
        fields.add("logged", stamp_and_distance(now, self.logged_at));
        if self.kind != "void" {
            fields
                .add("valid from", stamp(self.not_before))
                .add("valid until", stamp_and_distance(now, self.not_after));
        }
        fields
            .some("witnesses", self.witnesses.join(" "))
            .some("node", &self.node)
            .some("author", &self.author)
            .some("entry", &self.entry_id)
            .some("signed by", &self.key_id)
            .some("audience", self.audience.join(" "))
            .some("dns names", self.dns_names.join(" "));
        if let Some(verdict) = &self.verdict {
            let reasons = verdict.reasons.join("; ");
            let reasons = if reasons.is_empty() {
                reasons
            } else {
                format!(": {reasons}")
            };
            fields.add(
                "verdict",
                format_args!("{}{reasons} (epoch {})", verdict.outcome, verdict.policy_epoch),
            );
        }
        fields
            .some("reason", &self.reason)
            .some("content sha256", &self.content_sha256)
            .some("key sha256", &self.public_key_sha256);
        fields.to_string()
    }
}

/// Several, one a line.
pub fn table(now: i64, leaves: &[LeafView]) -> String {
    if leaves.is_empty() {
        return "the log is empty".to_owned();
    }
    let mut table = Table::new(&["INDEX", "KIND", "SPIFFE ID", "LOGGED", "ENDS", "BY", "SERIAL"]);
    for leaf in leaves {
        let by = match leaf.author.as_str() {
            "" => leaf.witnesses.join(" "),
            author => author.to_owned(),
        };
        table.row([
            leaf.index.to_string(),
            leaf.kind.to_owned(),
            leaf.spiffe_id.clone(),
            ago_or_in(now, leaf.logged_at),
            if leaf.not_after == 0 {
                String::new()
            } else {
                ago_or_in(now, leaf.not_after)
            },
            by,
            leaf.serial.clone(),
        ]);
    }
    table.to_string()
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::X509Svid => "x509_svid",
        Kind::JwtSvid => "jwt_svid",
        Kind::WitSvid => "wit_svid",
        Kind::X509Ca => "x509_ca",
        Kind::Void => "void",
        Kind::Unspecified => "unknown",
    }
}

fn witness_name(witness: Witness) -> &'static str {
    match witness {
        Witness::Kubelet => "kubelet",
        Witness::Tokenreview => "tokenreview",
        Witness::Roll => "roll",
        Witness::Node => "node",
        Witness::Admin => "admin",
        Witness::Unspecified => "unknown",
    }
}
