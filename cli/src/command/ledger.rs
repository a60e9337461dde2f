//! `mintmark ledger`: what was issued, and proof of it.

mod certificate;
mod leaf;
mod note;
mod prove;
mod verify;

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand};
use mintmark_identity::Serial;
use mintmark_proto::admin::admin_client::AdminClient;
use mintmark_proto::admin::{CheckpointRequest, ShowLeavesRequest, show_leaves_request};
use serde_json::json;

use self::leaf::LeafView;
use crate::client::admin;
use crate::context::Context;
use crate::failure::{Failure, refused};

const SHOW: &str = "\
Examples:
  mintmark ledger show                                       # the last ones, newest first
  mintmark ledger show --last 100
  mintmark ledger show 42                                    # by index
  mintmark ledger show 010001000000000003A1B2C3D4E5F60718293A4B
  mintmark ledger show \"$(openssl x509 -in svid.0.pem -noout -serial | cut -d= -f2)\"
  mintmark ledger show \"$JTI\" --output json | jq .witnesses   # by a token's jti";
const PROVE: &str = "\
Examples:
  mintmark ledger prove 42                                   # that the log holds leaf 42
  mintmark ledger prove 010001000000000003A1B2C3D4E5F60718293A4B --output json
  mintmark ledger checkpoint > then.txt; …; mintmark ledger prove --since then.txt   # that nothing since then was rewritten

What the server answers is verified here (RFC 6962) before it is printed.";
const VERIFY: &str = "\
Examples:
  mintmark ledger verify --data /var/lib/mintmark/server     # every byte of the log, offline; the server may run
  mintmark ledger verify --cert svid.0.pem                   # that the running server's log holds these certificates
  mintmark ledger verify --data .mintmark/server --cert svid.0.pem

An unfinished end that a crash left is told and passes; after a clean stop every byte is covered.";
const CHECKPOINT: &str = "\
Example:
  mintmark ledger checkpoint > then.txt                      # keep it: `ledger prove --since then.txt` tells whether the log was rewritten";

/// The issuance log: what was issued, and proof of it
#[derive(Debug, Subcommand)]
pub enum Ledger {
    /// Show one leaf, or the last ones
    #[command(after_help = SHOW)]
    Show(Show),
    /// Prove that the log holds a leaf, or that it only grew since a checkpoint
    #[command(after_help = PROVE)]
    Prove(Prove),
    /// Verify the log's files, and that certificates are in the log
    #[command(after_help = VERIFY)]
    Verify(Verify),
    /// Print the newest checkpoint, a signed note (C2SP tlog-checkpoint)
    #[command(after_help = CHECKPOINT)]
    Checkpoint,
}

#[derive(Debug, Args)]
pub struct Show {
    /// Which leaf
    #[arg(value_name = "SERIAL|JTI|INDEX")]
    which: Option<Handle>,
    /// How many of the last ones
    #[arg(long, default_value_t = 20, value_name = "COUNT", conflicts_with = "which", value_parser = clap::value_parser!(u32).range(1..=1000))]
    last: u32,
}

#[derive(Debug, Args)]
pub struct Prove {
    /// Which leaf
    #[arg(value_name = "SERIAL|JTI|INDEX", required_unless_present = "since")]
    which: Option<Handle>,
    /// A checkpoint of before, as `ledger checkpoint` printed it; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "which")]
    since: Option<PathBuf>,
    /// Also verify signatures with the log's public key, which is in this file (the server's <data_dir>/ledger/<log>/log)
    #[arg(long, value_name = "FILE")]
    log_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Verify {
    /// The server's data_dir
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A PEM file, each certificate of which must be in the log; several times for several
    #[arg(long = "cert", value_name = "FILE")]
    certs: Vec<PathBuf>,
}

/// What names a leaf.
#[derive(Debug, Clone)]
enum Handle {
    Serial(Serial),
    Index(u64),
}

impl FromStr for Handle {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() < Serial::JTI_LENGTH && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text
                .parse()
                .map(Self::Index)
                .map_err(|_| format!("no log has an index {text}"));
        }
        Serial::parse(text)
            .map(Self::Serial)
            .map_err(|error| format!("{error}; name a serial as openssl prints it, a token's jti, or an index"))
    }
}

impl Ledger {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Show(show) => show.run(context).await,
            Self::Prove(prove) => prove.run(context).await,
            Self::Verify(verify) => verify.run(context).await,
            Self::Checkpoint => {
                let mut client = admin!(AdminClient, context);
                let answer = context
                    .ask("show the checkpoint", client.checkpoint(CheckpointRequest {}))
                    .await?;
                let checkpoint = note::checkpoint(&answer.checkpoint)?;
                let value = json!({
                    "origin": checkpoint.origin, "size": checkpoint.size, "root": note::base64(&checkpoint.root), "checkpoint": answer.checkpoint,
                });
                context.out.value(&value, |_| answer.checkpoint.clone())
            }
        }
    }
}

impl Show {
    async fn run(self, context: &Context) -> Result<(), Failure> {
        use show_leaves_request::Which;
        let (which, action) = match &self.which {
            Some(Handle::Serial(serial)) => (
                Which::Serial(serial.as_bytes().to_vec().into()),
                format!("show the leaf of serial {serial}"),
            ),
            Some(Handle::Index(index)) => (Which::Index(*index), format!("show leaf {index}")),
            None => (Which::Last(self.last), "show the last leaves".to_owned()),
        };
        let mut client = admin!(AdminClient, context);
        let request = ShowLeavesRequest { which: Some(which) };
        let answer = context.ask(&action, client.show_leaves(request)).await?;
        let leaves = answer.leaves.iter().map(LeafView::of);
        let mut leaves = leaves.collect::<Result<Vec<_>, _>>().map_err(refused)?;
        let now = context.clock.unix();
        let Some(handle) = &self.which else {
            return context
                .out
                .value(&json!({ "leaves": leaves }), |_| leaf::table(now, &leaves));
        };
        let Some(leaf) = leaves.pop() else {
            return Err(Failure::Refused(format!(
                "cannot {action}: the server answered with no leaf"
            )));
        };
        if let Handle::Serial(serial) = handle
            && leaf.serial != serial.hex()
        {
            return Err(Failure::Refused(format!(
                "cannot {action}: not found; at its place in the log, index {}, is another serial",
                serial.index()
            )));
        }
        context.out.value(&leaf, |leaf| leaf.fields(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_named_by_serial_jti_or_index() {
        let serial = Serial::new(1, 42, [7; 11]).unwrap();
        for text in [serial.hex(), serial.jti(), serial.hex().to_lowercase()] {
            assert!(
                matches!(text.parse(), Ok(Handle::Serial(parsed)) if parsed == serial),
                "{text}"
            );
        }
        assert!(matches!("42".parse(), Ok(Handle::Index(42))));
        for wrong in ["", "-1", "4x", "99999999999999999999", "spiffe://a/b"] {
            assert!(wrong.parse::<Handle>().is_err(), "{wrong}");
        }
    }
}
