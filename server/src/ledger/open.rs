//! Making a log and opening one.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use super::error::{At as _, LedgerError};
use super::files::{self, Name};
use super::frame::{self, Tail};
use super::merkle::{self, Hash};
use super::note::{Checkpoint, Signer, VerifierKey};
use super::segment::{self, HASHES_SIZE, Hashes};
use super::tree::{Sealed, Stored, Tree};
use super::{SEGMENT, minimum_text, origin, parse_minimum};

/// Makes the directory of a new, empty log with a new key.
pub(super) fn create(
    root: &Path,
    trust_domain: &str,
    number: u16,
    storage: &dyn files::Storage,
) -> Result<(), LedgerError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(root).at("make", root)?;
    let dir = files::log_dir(root, number);
    if dir.exists() {
        return Err(LedgerError::Io {
            action: "make",
            path: dir,
            why: "there is a log of that number already".to_owned(),
            kind: std::io::ErrorKind::AlreadyExists,
            errno: None,
        });
    }
    let temporary = root.join(format!("{number}.tmp"));
    files::remove_unfinished_logs(root)?;
    builder.create(&temporary).at("make", &temporary)?;
    let signer = Signer::generate(&origin(trust_domain, number))
        .map_err(|error| LedgerError::corrupt(root, 0, error.to_string()))?;
    let name = signer.verifier().name().to_owned();
    let empty = Checkpoint {
        origin: name.clone(),
        size: 0,
        root: merkle::empty_root(),
    };
    let write = |file: &str, text: &str| files::replace(storage, &temporary.join(file), text.as_bytes());
    write(files::LOG, &format!("{}\n", signer.verifier()))?;
    write(files::KEY, &signer.to_file())?;
    write(files::MINIMUM, &signer.sign(&minimum_text(&name, 0)))?;
    write(files::ROOTS, "")?;
    write(files::CHECKPOINT, &signer.sign(&empty.to_string()))?;
    fs::rename(&temporary, &dir).at("rename", &temporary)?;
    files::sync_dir(root)
}

/// A log as it stands on the disk.
pub(super) struct Loaded {
    pub(super) stored: Stored,
    pub(super) checkpoint: Checkpoint,
}

/// Whether what a crash left unfinished is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mend {
    Yes,
    No,
}

/// Reads the private key of a log.
pub(super) fn signer(dir: &Path, verifier: &VerifierKey) -> Result<Signer, LedgerError> {
    let path = dir.join(files::KEY);
    let text = zeroize::Zeroizing::new(files::read_text(&path)?);
    let signer = Signer::from_file(&text).map_err(|error| LedgerError::corrupt(&path, 0, error.to_string()))?;
    if signer.verifier() == verifier {
        Ok(signer)
    } else {
        Err(LedgerError::corrupt(
            &path,
            0,
            format!("it is not the private key of {verifier}, which {} names", files::LOG),
        ))
    }
}

/// Reads a log: the small files, and the leaves of the segments that are not sealed.
pub(super) fn load(dir: &Path, number: u16, mend: Mend) -> Result<Loaded, LedgerError> {
    let verifier = verifier(dir, number)?;
    let checkpoint_path = dir.join(files::CHECKPOINT);
    let checkpoint = verifier
        .open_checkpoint(&files::read_text(&checkpoint_path)?)
        .map_err(|error| LedgerError::corrupt(&checkpoint_path, 0, error.to_string()))?;
    let minimum = minimum(dir, &verifier)?;
    let present = present(dir, mend, minimum / SEGMENT)?;
    let mut tree = Tree::new(minimum / SEGMENT);
    load_sealed(dir, mend, &present, &mut tree)?;
    if tree.roots_written < tree.first_segment {
        let what = format!(
            "it has {} roots, and the minimum index is {minimum}",
            tree.roots_written
        );
        return Err(LedgerError::corrupt(
            &dir.join(files::ROOTS),
            tree.roots_written * 32,
            what,
        ));
    }
    let unfinished = replay(dir, &present, &mut tree)?;
    let stored = Stored::new(dir, number, verifier, tree);
    check_prefix(&stored, &checkpoint, minimum)?;
    // Only now: what the checkpoint has is there, so that the torn end was never told to anyone.
    if let (Some(unfinished), Mend::Yes) = (unfinished, mend) {
        unfinished.cut()?;
    }
    Ok(Loaded { stored, checkpoint })
}

/// The verifier key of a log.
pub(super) fn verifier(dir: &Path, number: u16) -> Result<VerifierKey, LedgerError> {
    let path = dir.join(files::LOG);
    let text = files::read_text(&path)?;
    let wrong = |what: String| LedgerError::corrupt(&path, 0, what);
    let line = text
        .strip_suffix('\n')
        .ok_or_else(|| wrong("it does not end in a newline".to_owned()))?;
    let key: VerifierKey = line
        .parse()
        .map_err(|error: super::note::NoteError| wrong(error.to_string()))?;
    if key.name().ends_with(&origin("", number)) {
        Ok(key)
    } else {
        Err(wrong(format!(
            "it is the key of {}, not of a log of number {number}",
            key.name()
        )))
    }
}

/// The minimum index of a log.
pub(super) fn minimum(dir: &Path, verifier: &VerifierKey) -> Result<u64, LedgerError> {
    let path = dir.join(files::MINIMUM);
    let note = files::read_text(&path)?;
    parse_minimum(&note, verifier).map_err(|error| LedgerError::corrupt(&path, 0, error.to_string()))
}

/// Which segments have files.
struct Present {
    leaves: BTreeSet<u64>,
    hashes: BTreeSet<u64>,
}

fn present(dir: &Path, mend: Mend, first: u64) -> Result<Present, LedgerError> {
    let mut present = Present {
        leaves: BTreeSet::new(),
        hashes: BTreeSet::new(),
    };
    for name in files::list(dir)? {
        let (set, number) = match Name::of(&name) {
            Name::Leaves(number) => (&mut present.leaves, number),
            Name::Hashes(number) => (&mut present.hashes, number),
            Name::Temporary if mend == Mend::Yes => {
                files::remove(&dir.join(&name))?;
                continue;
            }
            _ => continue,
        };
        if number >= first {
            set.insert(number);
        } else if mend == Mend::Yes {
            // Pruned, but for the end of it.
            files::remove(&dir.join(&name))?;
        }
    }
    Ok(present)
}

fn load_sealed(dir: &Path, mend: Mend, present: &Present, tree: &mut Tree) -> Result<(), LedgerError> {
    let path = dir.join(files::ROOTS);
    let bytes = fs::read(&path).at("read", &path)?;
    for (number, root) in (0..).zip(bytes.as_chunks::<32>().0) {
        tree.push_root(*root);
        if number < tree.first_segment {
            continue;
        }
        let leaves = dir.join(files::leaves(number));
        let leaves_size = fs::metadata(&leaves).at("read", &leaves)?.len();
        let hashes_path = dir.join(files::hashes(number));
        if !present.hashes.contains(&number) && mend == Mend::Yes {
            make_hashes(dir, number, root)?;
        }
        let newest = match Hashes::open(&hashes_path, number)? {
            Some(hashes) => hashes.newest()?,
            None => 0,
        };
        tree.sealed.push_back(Sealed {
            number,
            bytes: leaves_size + HASHES_SIZE,
            newest,
        });
    }
    Ok(())
}

/// Makes the file of hashes of a sealed segment again from its leaves.
fn make_hashes(dir: &Path, number: u64, root: &Hash) -> Result<(), LedgerError> {
    let path = dir.join(files::leaves(number));
    let mut tree = Tree::new(0);
    for _ in 0..number {
        tree.push_root([0; 32]);
    }
    replay_one(&path, number, &mut tree)?;
    match tree.full.pop_front() {
        Some(full) if tree.recent_root(number).as_ref() == Some(root) => {
            tracing::warn!(
                segment = number,
                "the hashes of a segment were missing and are made again from its leaves"
            );
            files::replace(&files::Disk, &dir.join(files::hashes(number)), &full.to_hashes())
        }
        _ => Err(LedgerError::corrupt(
            &path,
            0,
            format!("its leaves have not the root that {} has", files::ROOTS),
        )),
    }
}

/// An end of a file that is no frame.
struct Unfinished {
    path: std::path::PathBuf,
    end: u64,
    bytes: u64,
    torn: bool,
}

impl Unfinished {
    fn cut(&self) -> Result<(), LedgerError> {
        let (path, bytes) = (self.path.display(), self.bytes);
        if self.torn {
            tracing::warn!(%path, bytes, "an unfinished write at the end of the issuance log is removed; nothing in it was issued");
        }
        let file = OpenOptions::new().write(true).open(&self.path).at("open", &self.path)?;
        file.set_len(self.end)
            .and_then(|()| file.sync_all())
            .at("truncate", &self.path)
    }
}

/// Reads the leaves of the segments that have no root in the file of roots.
fn replay(dir: &Path, present: &Present, tree: &mut Tree) -> Result<Option<Unfinished>, LedgerError> {
    let mut unfinished = None;
    for number in present.leaves.range(tree.roots_written..) {
        let path = dir.join(files::leaves(*number));
        if *number != tree.open.number || unfinished.is_some() {
            let before = dir.join(files::leaves(tree.open.number));
            let what = format!(
                "segment {} has {} of 65,536 leaves, and segment {number} follows",
                tree.open.number,
                tree.open.level0.len()
            );
            return Err(LedgerError::corrupt(&before, tree.open.end, what));
        }
        unfinished = replay_one(&path, *number, tree)?;
    }
    Ok(unfinished)
}

fn replay_one(path: &Path, number: u64, tree: &mut Tree) -> Result<Option<Unfinished>, LedgerError> {
    let file = File::open(path).at("open", path)?;
    let scanned = frame::scan(&file, path, number, |frame| {
        let end = frame.offset + (frame::HEADER + frame.body.len()) as u64;
        tree.push_frame(&segment::leaf_hashes(&frame), frame.offset, end, frame.header.time);
        Ok(())
    })?;
    Ok(match scanned.tail {
        Tail::Clean => None,
        Tail::Prepared(bytes) | Tail::Torn(bytes) => Some(Unfinished {
            path: path.to_owned(),
            end: scanned.end,
            bytes,
            torn: matches!(scanned.tail, Tail::Torn(_)),
        }),
    })
}

/// The last checkpoint must be of a tree that is a prefix of what is there.
fn check_prefix(stored: &Stored, checkpoint: &Checkpoint, minimum: u64) -> Result<(), LedgerError> {
    let size = stored.tree().size();
    let forked = |what: String| LedgerError::Forked {
        path: stored.dir.clone(),
        what,
    };
    if checkpoint.size > size {
        return Err(forked(format!(
            "its last checkpoint is of {} leaves, and {size} are there: leaves were lost or rolled back",
            checkpoint.size
        )));
    }
    if checkpoint.size < minimum {
        return Err(forked(format!(
            "its last checkpoint is of {} leaves, fewer than its minimum index {minimum}",
            checkpoint.size
        )));
    }
    if merkle::root(stored, checkpoint.size)? == checkpoint.root {
        Ok(())
    } else {
        Err(forked(format!(
            "its first {} leaves have another root than its last checkpoint",
            checkpoint.size
        )))
    }
}
