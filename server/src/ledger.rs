//! The ledger: is it written down?
//!
//! In come leaves, one for each credential that is about to be issued. Out go their indices in the log, when they are durable, and a
//! [`Durable`] of what each leaf describes; later, proofs and checkpoints. `issuance` is the only one that appends, and `authority` signs
//! only a [`Durable`], which nobody but this room can make: an unlogged signature does not compile.
//!
//! A log is an RFC 6962 tree with a number and an Ed25519 key of its own, in a directory of its own under `<data_dir>/ledger`:
//!
//! | file | holds |
//! |---|---|
//! | `log` | the verifier key (C2SP `signed-note`); its name is the origin, `<trust domain>/mintmark/<number>` |
//! | `key` | the private key |
//! | `checkpoint` | the last signed checkpoint (C2SP `tlog-checkpoint`) |
//! | `minimum` | the signed minimum index (C2SP `tlog-tiles`, pruning) |
//! | `0000000000.leaves` | 65,536 leaves each, in [frames](frame) |
//! | `0000000000.hashes` | the [level-0 and level-1 tiles](segment) of a full segment |
//! | `roots` | the roots of all full segments, never pruned |
//!
//! A frame is written and fsynced before its callers hear of it; the next batch is what came meanwhile. Where there is room, frames are
//! written over zeros that were written with an earlier one, which makes the fsync cheaper; a clean stop cuts them off. After a crash an unfinished
//! frame at the end is cut off; the last checkpoint must be a prefix of what is there, or the log does not open.

mod durable;
mod error;
mod files;
mod frame;
mod keeper;
mod leaf;
mod lock;
mod log;
mod merkle;
mod metrics;
mod note;
mod open;
mod path;
mod prune;
mod queue;
mod reader;
mod segment;
mod settings;
mod tree;
mod verify;
mod writer;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests damage files")]
mod tests;

use std::path::Path;
use std::sync::Arc;

use mintmark_identity::Serial;
use mintmark_proto::ledger::Leaf;
use tokio::sync::watch;

pub use self::durable::{Durable, LeafBytes, Slot};
pub use self::error::LedgerError;
pub use self::frame::{MAX_LEAF, MAX_LEAVES_PER_CALL};
pub use self::leaf::{LeafError, decode_leaf, verify_issued};
pub use self::merkle::{Hash, ProofError, empty_root, leaf_hash, node_hash, verify_consistency, verify_inclusion};
pub use self::metrics::Metrics;
pub use self::note::{Checkpoint, NoteError, VerifierKey};
pub use self::reader::Reader;
pub use self::settings::Settings;
pub use self::verify::{LogReport, Report, verify};

use self::error::At as _;
use self::lock::Lock;
use self::log::Log;
use self::open::Mend;

/// Hashes of a full tile.
const TILE: u64 = 256;
const TILE_LEVEL: u32 = 8;
/// Leaves of a segment: a segment's root is one hash of a level-2 tile.
const SEGMENT: u64 = 65_536;
const SEGMENT_LEVEL: u32 = 16;

/// How a ledger is.
#[derive(Clone, Debug)]
pub struct State {
    /// The number of the log that is appended to.
    pub log: u16,
    /// Its leaves, pruned ones included: the next index.
    pub size: u64,
    /// The index of its first leaf that was not pruned.
    pub minimum: u64,
    /// Bytes of leaves and hashes, of older logs, too.
    pub used_bytes: u64,
    /// Bytes left: on the filesystem, or up to the maximum size, whichever is less.
    pub free_bytes: u64,
    /// The size of the last checkpoint that was written.
    pub checkpoint_size: u64,
    /// Why nothing is issued, if so.
    pub halted: Option<LedgerError>,
}

/// A log that is open for appending. Clones share it; when the last is dropped, the log is closed.
#[derive(Clone, Debug)]
pub struct Ledger {
    handle: Arc<Handle>,
    reader: Reader,
}

#[derive(Debug)]
struct Handle {
    log: Arc<Log>,
    /// Set when both threads have ended: whether they ended well.
    ended: watch::Receiver<Option<Result<(), LedgerError>>>,
}

impl Ledger {
    /// Makes a new, empty log under the ledger's directory `root`, with a new key. A restored backup must go on in a new log: the
    /// one that it was taken from may have been written to since.
    ///
    /// # Errors
    /// [`LedgerError`] when there is a log of that number, or it cannot be made.
    pub fn create(root: &Path, trust_domain: &str, number: u16) -> Result<(), LedgerError> {
        open::create(root, trust_domain, number, &files::Disk)
    }

    /// The numbers of the logs under the ledger's directory, ascending; empty when there is no such directory.
    ///
    /// # Errors
    /// [`LedgerError`] when the directory cannot be read.
    pub fn numbers(root: &Path) -> Result<Vec<u16>, LedgerError> {
        if root.exists() {
            files::log_numbers(root)
        } else {
            Ok(Vec::new())
        }
    }

    /// Opens the log with the highest number under the ledger's directory. It reads the open segment, so it blocks for up to a second.
    ///
    /// # Errors
    /// [`LedgerError`] when there is none, another process has it, or it is not the log that its last checkpoint describes.
    pub fn open(root: &Path, trust_domain: &str, settings: Settings) -> Result<Self, LedgerError> {
        let none = || LedgerError::NotFound(format!("there is no log under {}", root.display()));
        let mut numbers = Self::numbers(root)?;
        let number = numbers.pop().ok_or_else(none)?;
        files::remove_unfinished_logs(root)?;
        let mut older = Vec::new();
        for number in numbers {
            let opened = open_log(root, trust_domain, number, Vec::new(), settings.clone());
            match opened.and_then(|log| keeper::settle(&log).map(|()| log)) {
                Ok(log) => older.push(log),
                Err(error) => {
                    tracing::warn!(%error, log = number, "an older issuance log cannot be opened: it is neither read nor pruned");
                }
            }
        }
        let log = Arc::new(open_log(root, trust_domain, number, older, settings)?);
        let reader = Reader(log.stored.clone());
        let ended = start(&log)?;
        Ok(Self {
            handle: Arc::new(Handle { log, ended }),
            reader,
        })
    }

    /// Opens the log with the highest number, or makes one of number `number` where there is none.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::create`].
    pub fn open_or_create(
        root: &Path,
        trust_domain: &str,
        number: u16,
        settings: Settings,
    ) -> Result<Self, LedgerError> {
        if Self::numbers(root)?.is_empty() {
            Self::create(root, trust_domain, number)?;
        }
        Self::open(root, trust_domain, settings)
    }

    /// Appends `count` leaves (at most 4,096), and returns when they are durable.
    ///
    /// `encode` is called once, on the caller's task, with the place of the first leaf, and returns for each leaf its bytes and the
    /// thing that it describes. It is called under the queue's lock: it must be quick and must not block. When the future is dropped
    /// after that, the leaves stay in the log.
    ///
    /// # Errors
    /// [`LedgerError::Full`] when there is no room, and the next call tries again; [`LedgerError::Stopped`] after a failed write, until a
    /// restart; [`LedgerError::Closed`], [`LedgerError::TooMany`], [`LedgerError::LeafSize`], [`LedgerError::Count`].
    pub async fn append<U>(
        &self,
        count: usize,
        encode: impl FnOnce(Slot) -> Vec<(LeafBytes, U)>,
    ) -> Result<Vec<Durable<U>>, LedgerError> {
        let log = &self.handle.log;
        let placed = log.queue.place(count, encode).await?;
        if count == 0 {
            return Ok(Vec::new());
        }
        log.metrics.queued.inc_by(metrics::count(count as u64));
        placed.outcome.wait().await?;
        let slot = placed.slot;
        Ok(placed
            .things
            .into_iter()
            .enumerate()
            .map(|(nth, thing)| Durable::new(slot.log, slot.index(nth), thing))
            .collect())
    }

    /// A checkpoint of all leaves that are durable now, and its signed note.
    pub fn checkpoint(&self) -> (Checkpoint, String) {
        self.handle.log.sign_checkpoint()
    }

    /// For reading: leaves, proofs, tiles.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// For reading the log of this number, which may be one that is no longer appended to.
    pub fn reader_of(&self, number: u16) -> Option<Reader> {
        self.handle.log.of_number(number).map(|log| Reader(log.stored.clone()))
    }

    /// The log's number.
    pub fn number(&self) -> u16 {
        self.reader.number()
    }

    /// Bytes left for the ledger: on its filesystem, or up to its maximum size, whichever is less.
    pub fn free_bytes(&self) -> u64 {
        self.handle.log.free()
    }

    /// Bytes of leaves and hashes on the disk, of older logs, too.
    pub fn used_bytes(&self) -> u64 {
        self.handle.log.bytes()
    }

    /// Why the log takes no leaves until a restart, if so. A full disk is not among it: that passes.
    pub fn stopped(&self) -> Option<String> {
        self.handle.log.queue.stopped().map(|error| error.to_string())
    }

    /// How the ledger is. It looks at the filesystem and may wait for a file that is being written: call it where blocking is
    /// allowed.
    pub fn state(&self) -> State {
        let log = &self.handle.log;
        State {
            log: self.number(),
            size: self.reader.size(),
            minimum: self.reader.minimum(),
            used_bytes: self.used_bytes(),
            free_bytes: self.free_bytes(),
            checkpoint_size: log.keeper.checkpoint_size(),
            halted: log.halted(),
        }
    }

    /// The leaf of the credential with this serial.
    ///
    /// # Errors
    /// [`LedgerError::NotFound`] when this ledger never issued it, as when only its index is the same; as [`Reader::leaf`] otherwise.
    pub fn find(&self, serial: &Serial) -> Result<(LeafBytes, Leaf), LedgerError> {
        let none = |why: String| LedgerError::NotFound(format!("{} was not issued here: {why}", serial.hex()));
        let reader = self
            .reader_of(serial.log())
            .ok_or_else(|| none(format!("there is no log {}", serial.log())))?;
        let bytes = reader.leaf(serial.index())?;
        let leaf = decode_leaf(&bytes).map_err(|error| none(error.to_string()))?;
        if leaf.serial != serial.as_bytes().as_slice() {
            return Err(none(format!(
                "leaf {} records {}",
                serial.index(),
                hex::encode_upper(&leaf.serial)
            )));
        }
        Ok((bytes, leaf))
    }

    /// Takes no more leaves, writes those that wait, seals, writes the last checkpoint, and releases the log. From then on every byte
    /// under its directory is covered by `verify`.
    ///
    /// # Errors
    /// [`LedgerError`] when something of that could not be done; the log then opens as after a crash.
    pub async fn shutdown(&self) -> Result<(), LedgerError> {
        self.handle.log.queue.close();
        let mut ended = self.handle.ended.clone();
        let ended = ended.wait_for(Option::is_some).await.map_err(|_| LedgerError::Closed)?;
        ended.clone().unwrap_or(Err(LedgerError::Closed))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.log.queue.close();
    }
}

/// Opens one log, and mends what a crash left.
fn open_log(
    root: &Path,
    trust_domain: &str,
    number: u16,
    older: Vec<Log>,
    settings: Settings,
) -> Result<Log, LedgerError> {
    let dir = files::log_dir(root, number);
    let lock = Lock::take(&dir)?;
    let loaded = open::load(&dir, number, Mend::Yes)?;
    let (found, expected) = (loaded.stored.verifier.name(), origin(trust_domain, number));
    if found != expected {
        let what = format!("it is the log of {found}, not of {expected}");
        return Err(LedgerError::Forked { path: dir, what });
    }
    let signer = open::signer(&dir, &loaded.stored.verifier)?;
    Ok(Log::new(
        signer,
        Arc::new(loaded.stored),
        lock,
        loaded.checkpoint.size,
        older,
        settings,
    ))
}

/// Starts the writer and the keeper.
fn start(log: &Arc<Log>) -> Result<watch::Receiver<Option<Result<(), LedgerError>>>, LedgerError> {
    keeper::start(log);
    let dir = log.stored.dir.clone();
    let (tell, ended) = watch::channel(None);
    let kept = log.clone();
    let keeper = std::thread::Builder::new()
        .name("ledger-keeper".to_owned())
        .spawn(move || {
            let kept_well = keeper::run(&kept);
            kept.unlock();
            kept_well
        })
        .at("start a thread for", &dir)?;
    let log = log.clone();
    let written = std::thread::Builder::new()
        .name("ledger-writer".to_owned())
        .spawn(move || {
            let wrote = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer::run(&log)));
            if wrote.is_err() {
                log.queue.stop("the ledger's writer panicked");
            }
            log.keeper.close();
            let panicked = || LedgerError::Stopped("a thread of the ledger panicked".to_owned());
            let kept = keeper.join().unwrap_or_else(|_| Err(panicked()));
            let result = if wrote.is_err() { Err(panicked()) } else { kept };
            tell.send_replace(Some(result));
        });
    written.at("start a thread for", &dir)?;
    Ok(ended)
}

/// The origin of a log's checkpoints.
fn origin(trust_domain: &str, number: u16) -> String {
    format!("{trust_domain}/mintmark/{number}")
}

/// The text of the note that publishes the minimum index. It has two lines, and so is no checkpoint.
fn minimum_text(origin: &str, minimum: u64) -> String {
    format!("{origin}\nminimum index {minimum}\n")
}

/// Checks and reads the note of [`minimum_text`]. A log prunes whole segments only.
fn parse_minimum(note: &str, verifier: &VerifierKey) -> Result<u64, NoteError> {
    let malformed = NoteError::Malformed {
        what: "minimum index",
        why: "it is not origin and a multiple of 65,536",
    };
    let text = verifier.open_canonical(note)?;
    let line = text
        .strip_prefix(verifier.name())
        .and_then(|rest| rest.strip_prefix("\nminimum index "));
    let minimum = line.and_then(|line| line.strip_suffix('\n')).and_then(note::decimal);
    minimum
        .filter(|minimum| minimum.is_multiple_of(SEGMENT))
        .ok_or(malformed)
}
