//! Checkpoints as they come, and the log's public key.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mintmark_proto::Bytes;
use mintmark_server::ledger::{Checkpoint, Hash, VerifierKey};

use crate::command::files::read_input;
use crate::failure::{Failure, refused};

/// What a signed note says. Its signature is looked at with [`signed`].
pub fn checkpoint(note: &str) -> Result<Checkpoint, Failure> {
    let wrong = |why: &str| Failure::Refused(format!("that is no checkpoint: {why}"));
    let end = note
        .rfind("\n\n")
        .ok_or_else(|| wrong("no empty line separates text and signature"))?;
    note[..=end].parse().map_err(|error| wrong(&format!("{error}")))
}

/// What a note says, once its signature is that of the log's key.
pub fn signed(note: &str, key: &VerifierKey) -> Result<Checkpoint, Failure> {
    key.open_checkpoint(note).map_err(refused)
}

/// The log's public key from a file.
pub fn verifier(path: &Path) -> Result<VerifierKey, Failure> {
    let bytes = read_input(path)?;
    let text = String::from_utf8_lossy(&bytes);
    text.trim()
        .parse()
        .map_err(|error| Failure::Refused(format!("{} holds no public key of a log: {error}", path.display())))
}

/// The hashes of a proof.
pub fn hashes(proof: &[Bytes]) -> Result<Vec<Hash>, Failure> {
    let hashes = proof.iter().map(|hash| Hash::try_from(&hash[..]));
    hashes
        .collect::<Result<_, _>>()
        .map_err(|_| refused("the server's proof holds a hash that has not 32 bytes"))
}

pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
