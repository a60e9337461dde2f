//! `mintmark ledger prove`.

use mintmark_proto::admin::admin_client::AdminClient;
use mintmark_proto::admin::{CheckpointRequest, ProveConsistencyRequest, ProveLeafRequest, prove_leaf_request};
use mintmark_server::ledger::{Checkpoint, VerifierKey, decode_leaf, leaf_hash, verify_consistency, verify_inclusion};
use serde_json::json;

use super::leaf::LeafView;
use super::{Handle, Prove, note};
use crate::client::admin;
use crate::command::files::read_input;
use crate::context::Context;
use crate::failure::{Failure, refused};
use crate::output::count;

impl Prove {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let key = self.log_key.as_deref().map(note::verifier).transpose()?;
        match (&self.which, &self.since) {
            (Some(which), _) => prove_leaf(context, which, key.as_ref()).await,
            (None, Some(since)) => {
                let before = String::from_utf8(read_input(since)?)
                    .map_err(|_| refused("that is no checkpoint: it is not text"))?;
                let before = opened(&before, key.as_ref())?;
                prove_growth(context, &before, key.as_ref()).await
            }
            (None, None) => Err(Failure::Usage("name a leaf, or a checkpoint with --since".to_owned())),
        }
    }
}

fn opened(text: &str, key: Option<&VerifierKey>) -> Result<Checkpoint, Failure> {
    match key {
        Some(key) => note::signed(text, key),
        None => note::checkpoint(text),
    }
}

async fn prove_leaf(context: &Context, which: &Handle, key: Option<&VerifierKey>) -> Result<(), Failure> {
    use prove_leaf_request::Which;
    let (which, action) = match which {
        Handle::Serial(serial) => (
            Which::Serial(serial.as_bytes().to_vec().into()),
            format!("prove serial {serial}"),
        ),
        Handle::Index(index) => (Which::Index(*index), format!("prove leaf {index}")),
    };
    let mut client = admin!(AdminClient, context);
    let request = ProveLeafRequest {
        which: Some(which.clone()),
    };
    let answer = context.ask(&action, client.prove_leaf(request)).await?;
    let checkpoint = opened(&answer.checkpoint, key)?;
    let proof = note::hashes(&answer.proof)?;
    let wrong = |why: &str| Failure::Refused(format!("cannot {action}: the server's proof is wrong: {why}"));
    if answer.tree_size != checkpoint.size {
        return Err(wrong("it is for another size than the checkpoint's"));
    }
    verify_inclusion(
        &leaf_hash(&answer.leaf),
        answer.index,
        answer.tree_size,
        &proof,
        &checkpoint.root,
    )
    .map_err(|error| wrong(&error.to_string()))?;
    let leaf = decode_leaf(&answer.leaf).map_err(|error| wrong(&error.to_string()))?;
    if let Which::Serial(serial) = &which
        && *serial != leaf.serial
    {
        return Err(Failure::Refused(format!(
            "cannot {action}: not found; at its place in the log, index {}, is another serial",
            answer.index
        )));
    }
    let value = json!({
        "index": answer.index, "leaf": note::base64(&answer.leaf), "leaf_hash": note::base64(&leaf_hash(&answer.leaf)), "tree_size": answer.tree_size,
        "proof": proof.iter().map(|hash| note::base64(hash)).collect::<Vec<_>>(), "checkpoint": answer.checkpoint,
    });
    let now = context.clock.unix();
    context.out.value(&value, |_| {
        let hashes: String = proof.iter().map(|hash| format!("  {}\n", note::base64(hash))).collect();
        format!(
            "proven: leaf {} is in the log of {} leaves{}\n\n{}\ninclusion proof (RFC 6962), {}:\n{hashes}\n{}",
            answer.index,
            answer.tree_size,
            signature_note(key),
            LeafView::from_leaf(answer.index, leaf).fields(now),
            count(proof.len(), "hash", "hashes"),
            answer.checkpoint
        )
    })
}

async fn prove_growth(context: &Context, before: &Checkpoint, key: Option<&VerifierKey>) -> Result<(), Failure> {
    let mut client = admin!(AdminClient, context);
    let action = format!("prove that the log only grew since it had {} leaves", before.size);
    let wrong = |why: &str| Failure::Refused(format!("cannot {action}: {why}"));
    // Of another log, or of one that has shrunk, there is no proof to ask for.
    let now = context
        .ask("show the checkpoint", client.checkpoint(CheckpointRequest {}))
        .await?;
    comparable(before, &opened(&now.checkpoint, key)?).map_err(|why| wrong(&why))?;
    // Every log begins with the empty one; there is nothing to prove, and the server does not.
    let request = ProveConsistencyRequest {
        from: before.size.max(1),
        to: 0,
    };
    let answer = context.ask(&action, client.prove_consistency(request)).await?;
    let checkpoint = opened(&answer.checkpoint, key)?;
    comparable(before, &checkpoint).map_err(|why| wrong(&why))?;
    let proof = note::hashes(&answer.proof)?;
    if before.size > 0 {
        if answer.to != checkpoint.size {
            return Err(wrong("the server's proof is for another size than its checkpoint's"));
        }
        verify_consistency(before.size, &before.root, checkpoint.size, &checkpoint.root, &proof)
            .map_err(|error| wrong(&format!("the log was rewritten, or the proof is wrong: {error}")))?;
    }
    let value = json!({
        "from": before.size, "to": checkpoint.size, "proof": proof.iter().map(|hash| note::base64(hash)).collect::<Vec<_>>(),
        "checkpoint": answer.checkpoint,
    });
    context.out.value(&value, |_| {
        format!(
            "proven: the log of {} leaves begins with the log of {} leaves{}\n\n{}",
            checkpoint.size,
            before.size,
            signature_note(key),
            answer.checkpoint
        )
    })
}

/// Whether the log of one checkpoint can have grown into that of the other at all.
fn comparable(before: &Checkpoint, now: &Checkpoint) -> Result<(), String> {
    if now.origin != before.origin {
        return Err(format!(
            "the checkpoint is of log {}, and the server writes log {}; if that is an older one of the same server, `mintmark ledger verify --data DIR` reads it, too",
            before.origin, now.origin
        ));
    }
    if now.size < before.size {
        return Err(format!(
            "the log has {} leaves now, fewer than it had: it was rolled back, which is what checkpoints are kept for",
            now.size
        ));
    }
    Ok(())
}

fn signature_note(key: Option<&VerifierKey>) -> &'static str {
    match key {
        Some(_) => ", whose checkpoint is signed by its key",
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_of_another_log_or_of_more_leaves_is_told_apart_from_a_rewritten_log() {
        let checkpoint = |origin: &str, size| Checkpoint {
            origin: origin.to_owned(),
            size,
            root: [0; 32],
        };
        let before = checkpoint("a.test/mintmark/1", 6);
        assert_eq!(comparable(&before, &checkpoint("a.test/mintmark/1", 6)), Ok(()));
        let other = comparable(&before, &checkpoint("a.test/mintmark/2", 9)).unwrap_err();
        assert!(
            other.contains("a.test/mintmark/1") && other.contains("a.test/mintmark/2"),
            "{other}"
        );
        let less = comparable(&before, &checkpoint("a.test/mintmark/1", 5)).unwrap_err();
        assert!(less.contains("5 leaves") && less.contains("rolled back"), "{less}");
    }
}
