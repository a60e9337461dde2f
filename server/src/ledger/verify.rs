//! Checking a ledger's directory, of a server that runs or of one that was stopped.
//!
//! Everything is computed again from the leaves: checksums, hashes, tiles, roots, the tree of the last checkpoint, its signature by
//! the log's key. After a clean stop every byte under the directory is covered. What a crash or a running server left unfinished (leaves
//! after the last checkpoint, a frame that was being written, a segment that is full and not sealed) is told and passes.

mod report;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

pub use self::report::{LogReport, Report};

use super::SEGMENT;
use super::error::{At as _, LedgerError};
use super::files::{self, Name};
use super::frame::{self, Frame, Tail};
use super::leaf;
use super::lock::Lock;
use super::merkle::Hash;
use super::note::{Checkpoint, VerifierKey};
use super::open;
use super::segment::{self, Segment};
use super::tree::Tree;

/// Verifies all logs under the ledger's directory `root`. `progress` hears how many bytes of leaves of one log were read, and how many
/// there are.
pub fn verify(root: &Path, mut progress: impl FnMut(u64, u64)) -> Report {
    let mut report = Report {
        logs: Vec::new(),
        notes: Vec::new(),
        problem: None,
    };
    let names = match files::list(root) {
        Ok(names) => names,
        Err(error) => {
            return Report {
                problem: Some(error),
                ..report
            };
        }
    };
    for name in names.iter().filter(|name| files::log_number(name).is_none()) {
        let path = root.join(name);
        if files::is_unfinished_log(name) {
            report
                .notes
                .push(format!("{} is left of a log that was being made", path.display()));
        } else {
            report
                .problem
                .get_or_insert(LedgerError::corrupt(&path, 0, "nothing of that name belongs here"));
        }
    }
    for number in files::log_numbers(root).unwrap_or_default() {
        report
            .logs
            .push(verify_log(&files::log_dir(root, number), number, &mut progress));
    }
    report
}

fn verify_log(dir: &Path, number: u16, progress: &mut dyn FnMut(u64, u64)) -> LogReport {
    let mut running = Lock::is_taken(dir);
    loop {
        let mut check = Check::new(dir, number, running);
        let result = check.run(progress);
        check.report.problem = result.err();
        if check.report.problem.is_none() || running || !Lock::is_taken(dir) {
            return check.report;
        }
        // It was started meanwhile, and files changed under our hands.
        running = true;
    }
}

struct Check<'a> {
    dir: &'a Path,
    tree: Tree,
    /// Whether the tree of the checkpoint was met.
    met: bool,
    report: LogReport,
}

impl<'a> Check<'a> {
    fn new(dir: &'a Path, number: u16, running: bool) -> Self {
        let tree = Tree::new(0);
        let report = LogReport {
            number,
            running,
            verifier: None,
            checkpoint: None,
            minimum: 0,
            size: 0,
            root: tree.root(),
            notes: Vec::new(),
            problem: None,
        };
        Self {
            dir,
            tree,
            met: false,
            report,
        }
    }

    fn run(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), LedgerError> {
        let verifier = open::verifier(self.dir, self.report.number)?;
        self.report.verifier = Some(verifier.clone());
        self.key(&verifier)?;
        // The checkpoint first: what it covers was there before, whatever a running server does now.
        let (checkpoint, minimum) = self.checkpoint_and_minimum(&verifier)?;
        self.report.checkpoint = Some(checkpoint.clone());
        self.report.minimum = minimum;
        let first = minimum / SEGMENT;
        let roots = self.roots()?;
        self.tree = Tree::new(first);
        for (number, root) in (0..first).zip(&roots) {
            self.tree.push_root(*root);
            self.meet(&checkpoint, number)?;
        }
        self.meet_empty(&checkpoint)?;
        let present = self.names(first)?;
        if self.tree.size() < minimum {
            let what = format!("it has {} roots, and the minimum index is {minimum}", roots.len());
            return Err(LedgerError::corrupt(
                &self.dir.join(files::ROOTS),
                roots.len() as u64 * 32,
                what,
            ));
        }
        self.segments(&checkpoint, &roots, &present, &verifier, progress)?;
        self.report.size = self.tree.size();
        self.report.root = self.tree.root();
        self.end(&checkpoint)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn note(&mut self, note: impl Into<String>) {
        self.report.notes.push(note.into());
    }

    fn key(&mut self, verifier: &VerifierKey) -> Result<(), LedgerError> {
        let path = self.path(files::KEY);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
                self.note(format!(
                    "{} can be read by others than its owner: chmod 600",
                    path.display()
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.note("the private key is not here: this is a copy that nothing can be appended to");
                return Ok(());
            }
            _ => (),
        }
        match open::signer(self.dir, verifier) {
            Err(LedgerError::Io {
                kind: io::ErrorKind::PermissionDenied,
                ..
            }) => {
                self.note("the private key could not be read by this user, and was not checked");
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }

    fn checkpoint_and_minimum(&mut self, verifier: &VerifierKey) -> Result<(Checkpoint, u64), LedgerError> {
        let path = self.path(files::CHECKPOINT);
        let mut tries = 0;
        loop {
            let damaged = |error: super::NoteError| LedgerError::corrupt(&path, 0, error.to_string());
            let note = files::read_text(&path)?;
            let text = verifier.open_canonical(&note).map_err(damaged)?;
            let checkpoint = verifier.open_checkpoint(&note).map_err(damaged)?;
            if checkpoint.to_string() != text {
                return Err(LedgerError::corrupt(
                    &path,
                    0,
                    "it has more lines than a checkpoint of ours",
                ));
            }
            let minimum = open::minimum(self.dir, verifier)?;
            if checkpoint.size >= minimum {
                return Ok((checkpoint, minimum));
            }
            // A running server may have written both in between.
            tries += 1;
            if !self.report.running || tries > 3 {
                let what = format!(
                    "it is of {} leaves, fewer than the minimum index {minimum}",
                    checkpoint.size
                );
                return Err(LedgerError::corrupt(&path, 0, what));
            }
        }
    }

    fn roots(&mut self) -> Result<Vec<Hash>, LedgerError> {
        let path = self.path(files::ROOTS);
        let bytes = fs::read(&path).at("read", &path)?;
        let (roots, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() {
            self.note(format!(
                "{} ends with {} bytes of an unfinished root",
                path.display(),
                rest.len()
            ));
        }
        Ok(roots.to_vec())
    }

    fn names(&mut self, first: u64) -> Result<Present, LedgerError> {
        let mut present = Present::default();
        for name in files::list(self.dir)? {
            let path = self.path(&name);
            match Name::of(&name) {
                Name::Fixed => (),
                Name::Leaves(number) | Name::Hashes(number) if number < first => {
                    self.note(format!("{} is pruned and not yet removed", path.display()));
                }
                Name::Leaves(number) => {
                    present.bytes += fs::metadata(&path).map_or(0, |metadata| metadata.len());
                    present.leaves.insert(number);
                }
                Name::Hashes(number) => {
                    present.hashes.insert(number);
                }
                Name::Temporary => self.note(format!("{} was being written", path.display())),
                Name::Unknown => return Err(LedgerError::corrupt(&path, 0, "nothing of that name belongs here")),
            }
        }
        Ok(present)
    }

    fn segments(
        &mut self,
        checkpoint: &Checkpoint,
        roots: &[Hash],
        present: &Present,
        verifier: &VerifierKey,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), LedgerError> {
        let (mut done, sealed) = (0, roots.len() as u64);
        loop {
            let number = self.tree.open.number;
            if number >= sealed && !present.leaves.contains(&number) {
                break;
            }
            let result = self.segment(number, checkpoint, number < sealed, |bytes| {
                progress(done + bytes, present.bytes)
            });
            let root = usize::try_from(number).ok().and_then(|number| roots.get(number));
            match (result, root) {
                (Ok(()), _) => (),
                // A running server may have pruned it before it was read; its root stays.
                (Err(_), Some(root)) if self.report.running && self.was_pruned(number, verifier)? => {
                    self.tree.push_root(*root);
                    self.meet(checkpoint, number)?;
                    continue;
                }
                (Err(error), _) => return Err(error),
            }
            done += self.tree.full.front().map_or(self.tree.open.end, |full| full.end);
            let Some(full) = self.tree.full.front().cloned() else {
                break;
            };
            self.sealed(&full, root)?;
            self.tree.seal(0);
        }
        let open = self.tree.open.number;
        let stray = |set: &BTreeSet<u64>, from| set.range(from..).next().copied();
        if let Some(number) = stray(&present.leaves, open + 1).filter(|_| !self.report.running) {
            let path = self.path(&files::leaves(open));
            let what = format!("it ends before its segment is full, and segment {number} follows");
            return Err(LedgerError::corrupt(&path, self.tree.open.end, what));
        }
        if let Some(number) = stray(&present.hashes, open).filter(|_| !self.report.running) {
            return Err(LedgerError::corrupt(
                &self.path(&files::hashes(number)),
                0,
                "it is of a segment that is not full",
            ));
        }
        Ok(())
    }

    /// Whether segment `number` went before anything of it was read.
    fn was_pruned(&self, number: u64, verifier: &VerifierKey) -> Result<bool, LedgerError> {
        Ok(self.tree.size() == number * SEGMENT && open::minimum(self.dir, verifier)? > number * SEGMENT)
    }

    /// Reads a segment's leaves into the tree.
    fn segment(
        &mut self,
        number: u64,
        checkpoint: &Checkpoint,
        is_sealed: bool,
        mut progress: impl FnMut(u64),
    ) -> Result<(), LedgerError> {
        let path = self.path(&files::leaves(number));
        let file = File::open(&path).at("open", &path)?;
        let scanned = frame::scan(&file, &path, number, |frame| {
            let end = frame.offset + (frame::HEADER + frame.body.len()) as u64;
            self.frame(&path, &frame, end, checkpoint)?;
            progress(end);
            Ok(())
        });
        let scanned = match scanned {
            // A running server took back what it could not write.
            Err(LedgerError::Io {
                kind: io::ErrorKind::UnexpectedEof,
                ..
            }) if self.report.running && !is_sealed => return Ok(()),
            other => other?,
        };
        if is_sealed && scanned.next != (number + 1) * SEGMENT {
            let what = format!(
                "the segment has a root, so it is full, but no good frame is here for leaf {}",
                scanned.next
            );
            return Err(LedgerError::corrupt(&path, scanned.end, what));
        }
        let (bytes, what) = match scanned.tail {
            Tail::Clean => return Ok(()),
            Tail::Prepared(bytes) => (bytes, "zeros, set aside for the next leaves"),
            Tail::Torn(bytes) => (bytes, "an unfinished write, nothing in them was issued"),
        };
        if is_sealed {
            let what = format!("{bytes} bytes follow the last frame of a sealed segment");
            return Err(LedgerError::corrupt(&path, scanned.end, what));
        }
        // Where leaves are missing that the checkpoint has, it was no unfinished write.
        if scanned.next < checkpoint.size {
            return Err(lost(&path, scanned.end, scanned.next, checkpoint));
        }
        let (path, from) = (path.display(), scanned.end);
        self.note(format!("{path}: from byte {from} on {bytes} bytes of {what}"));
        Ok(())
    }

    fn frame(&mut self, path: &Path, frame: &Frame<'_>, end: u64, checkpoint: &Checkpoint) -> Result<(), LedgerError> {
        let (mut index, mut at) = (frame.header.first, frame.offset + frame::HEADER as u64);
        for bytes in frame::entries(frame.body) {
            leaf::check_place(self.report.number, index, bytes)
                .map_err(|error| LedgerError::corrupt(path, at, format!("leaf {index}: {error}")))?;
            index += 1;
            at += bytes.len() as u64 + 2;
        }
        let hashes = segment::leaf_hashes(frame);
        let before = checkpoint
            .size
            .checked_sub(frame.header.first)
            .filter(|before| *before > 0);
        if let Some(before) = before.and_then(|before| hashes.get(..usize::try_from(before).ok()?)) {
            self.compare(checkpoint, self.tree.root_after(before), path, frame.offset)?;
        }
        self.tree.push_frame(&hashes, frame.offset, end, frame.header.time);
        Ok(())
    }

    /// Checks what is stored beside the leaves of a full segment.
    fn sealed(&mut self, full: &Segment, root: Option<&Hash>) -> Result<(), LedgerError> {
        let number = full.number;
        let path = self.path(&files::hashes(number));
        match fs::read(&path) {
            Ok(stored) => {
                let computed = full.to_hashes();
                if stored != computed {
                    let same = stored
                        .iter()
                        .zip(&computed)
                        .take_while(|(stored, computed)| stored == computed)
                        .count();
                    return Err(LedgerError::corrupt(
                        &path,
                        same as u64,
                        "it is not what the segment's leaves give",
                    ));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if root.is_some() && !self.report.running && number != self.tree.first_segment {
                    return Err(LedgerError::corrupt(&path, 0, "it is missing"));
                }
                self.note(format!(
                    "segment {number} is full, its hashes are not here: they are made at the next start"
                ));
            }
            Err(error) => return Err(LedgerError::io("read", &path, &error)),
        }
        match root {
            Some(root) if Some(*root) != self.tree.recent_root(number) => {
                let what = format!("the root of segment {number} is not that of its leaves");
                Err(LedgerError::corrupt(&self.path(files::ROOTS), number * 32, what))
            }
            Some(_) => Ok(()),
            None => {
                self.note(format!(
                    "segment {number} is full, its root is not in {} yet",
                    files::ROOTS
                ));
                Ok(())
            }
        }
    }

    /// Compares the tree with the checkpoint, if that is of this size: after the root of a pruned segment.
    fn meet(&mut self, checkpoint: &Checkpoint, segment: u64) -> Result<(), LedgerError> {
        if self.tree.size() == checkpoint.size {
            let path = self.path(files::ROOTS);
            return self.compare(checkpoint, self.tree.root(), &path, segment * 32);
        }
        Ok(())
    }

    fn meet_empty(&mut self, checkpoint: &Checkpoint) -> Result<(), LedgerError> {
        if checkpoint.size == 0 && !self.met {
            let (path, root) = (self.path(files::CHECKPOINT), Tree::new(0).root());
            return self.compare(checkpoint, root, &path, 0);
        }
        Ok(())
    }

    fn compare(&mut self, checkpoint: &Checkpoint, root: Hash, path: &Path, offset: u64) -> Result<(), LedgerError> {
        self.met = true;
        if root == checkpoint.root {
            return Ok(());
        }
        let what = format!(
            "the first {} leaves, which end here, have not the root of the checkpoint: a leaf{} before was changed",
            checkpoint.size,
            if self.tree.first_segment > 0 {
                " or the root of a pruned segment"
            } else {
                ""
            }
        );
        Err(LedgerError::corrupt(path, offset, what))
    }

    fn end(&mut self, checkpoint: &Checkpoint) -> Result<(), LedgerError> {
        let size = self.tree.size();
        if size < checkpoint.size || !self.met {
            let path = self.path(&files::leaves(self.tree.open.number));
            return Err(lost(&path, self.tree.open.end, size, checkpoint));
        }
        let after = size - checkpoint.size;
        if after > 0 {
            let why = if self.report.running {
                "the server runs"
            } else {
                "the server was not stopped cleanly"
            };
            self.note(format!(
                "{after} leaves follow the last checkpoint ({why}): they are whole, and the next checkpoint covers them"
            ));
        }
        Ok(())
    }
}

fn lost(path: &Path, offset: u64, size: u64, checkpoint: &Checkpoint) -> LedgerError {
    let what = format!(
        "the leaves end here with {size}, and the last checkpoint is of {}: leaves were lost or damaged",
        checkpoint.size
    );
    LedgerError::corrupt(path, offset, what)
}

/// Which segments have files.
#[derive(Default)]
struct Present {
    leaves: BTreeSet<u64>,
    hashes: BTreeSet<u64>,
    bytes: u64,
}
