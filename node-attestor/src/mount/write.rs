//! Sets of files that change together.
//!
//! A set is written into a directory of its own, and shown by the rename of one link, `..data`, as the kubelet does for its own volumes:
//!
//! ```text
//! svid.pem     -> ..data/svid.pem
//! svid_key.pem -> ..data/svid_key.pem
//! ..data       -> ..1800000000000.5f3a9c21
//! ..1800000000000.5f3a9c21/svid.pem, svid_key.pem
//! ```
//!
//! Whoever opens `..data` once and reads from there has one set. The set before stays until the next change, so that whoever was reading it can finish.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use mintmark_runtime::crypto::random;
use zeroize::Zeroizing;

use super::place::PlaceError;

/// The link that every reader goes through.
const DATA: &str = "..data";
/// The same, before it is renamed.
const NEW_DATA: &str = "..data_tmp";
/// A set's directory, and nothing else, begins like this.
const HIDDEN: &str = "..";
/// Readable by the pod's group; for nobody else.
const MODE: u32 = 0o640;

/// Files by name.
pub(super) type Set = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// Writes the sets of one volume.
#[derive(Debug)]
pub(super) struct Writer {
    dir: PathBuf,
    group: Option<u32>,
    /// Nothing is written any more.
    is_closed: bool,
}

impl Writer {
    /// A writer into `dir`, which is ours; files belong to `group`.
    pub(super) fn new(dir: PathBuf, group: Option<u32>) -> Self {
        Self {
            dir,
            group,
            is_closed: false,
        }
    }

    /// Shows `set` instead of what was shown before. A name that the set has no more is gone, too. It blocks.
    pub(super) fn write(&mut self, set: &Set, now_ms: i64) -> Result<(), PlaceError> {
        if self.is_closed {
            return Ok(());
        }
        let before = std::fs::read_link(self.dir.join(DATA)).ok();
        let name = format!("{HIDDEN}{now_ms}.{:08x}", u32::from_ne_bytes(random()));
        let dir = self.dir.join(&name);
        let written = self.write_set(&dir, set).and_then(|()| {
            // A link that a crash left would be in the way.
            remove_if_there(&self.dir.join(NEW_DATA))?;
            symlink(&name, self.dir.join(NEW_DATA))?;
            std::fs::rename(self.dir.join(NEW_DATA), self.dir.join(DATA))
        });
        if let Err(source) = written {
            let _ = std::fs::remove_dir_all(&dir);
            return Err(PlaceError::Io {
                action: "write files into",
                path: self.dir.clone(),
                source,
            });
        }
        let keep = [Some(PathBuf::from(name)), before];
        self.tidy(set, &keep).map_err(|source| PlaceError::Io {
            action: "tidy up",
            path: self.dir.clone(),
            source,
        })
    }

    /// Overwrites every file of every set, and writes nothing any more. It blocks.
    pub(super) fn wipe(&mut self) {
        self.is_closed = true;
        if let Err(error) = wipe(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "a volume's files could not be overwritten before they are removed");
        }
    }

    fn write_set(&self, dir: &Path, set: &Set) -> io::Result<()> {
        DirBuilder::new().mode(0o755).create(dir)?;
        std::fs::set_permissions(dir, Permissions::from_mode(0o755))?;
        for (name, bytes) in set {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(dir.join(name))?;
            file.write_all(bytes)?;
            std::os::unix::fs::fchown(&file, None, self.group)?;
            file.set_permissions(Permissions::from_mode(MODE))?;
        }
        Ok(())
    }

    /// Makes the names in front of the link fit the set, and removes sets that nobody reads.
    fn tidy(&self, set: &Set, keep: &[Option<PathBuf>]) -> io::Result<()> {
        let mut missing: BTreeSet<&str> = set.keys().map(String::as_str).collect();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let (name, kind) = (entry.file_name(), entry.file_type()?);
            let is_hidden = name.to_string_lossy().starts_with(HIDDEN);
            if kind.is_dir() && is_hidden {
                if !keep.iter().flatten().any(|kept| kept.as_os_str() == name) {
                    std::fs::remove_dir_all(entry.path())?;
                }
                continue;
            }
            let is_ours = kind.is_symlink()
                && !is_hidden
                && std::fs::read_link(entry.path()).is_ok_and(|to| to.starts_with(DATA));
            if is_ours && !name.to_str().is_some_and(|name| missing.remove(name)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        for name in missing {
            symlink(Path::new(DATA).join(name), self.dir.join(name))?;
        }
        Ok(())
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Zeroes over every file in the directories of sets below `dir`; memory that is given back is not always cleared.
fn wipe(dir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for set in entries {
        let set = set?;
        if !set.file_type()?.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(set.path())? {
            let file = file?;
            let meta = file.metadata()?;
            if meta.is_file() {
                let mut open: File = OpenOptions::new().write(true).open(file.path())?;
                io::copy(&mut io::Read::take(io::repeat(0), meta.len()), &mut open)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::{Mode, OFlags, open, openat};
    use rustix::io::Errno;

    use super::*;

    fn set(files: &[(&str, &str)]) -> Set {
        let file = |(name, text): &(&str, &str)| ((*name).to_owned(), Zeroizing::new(text.as_bytes().to_vec()));
        files.iter().map(file).collect()
    }

    fn names(dir: &Path) -> BTreeSet<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_set_is_shown_whole_names_follow_it_and_the_one_before_stays_until_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        symlink("elsewhere", at("socket")).unwrap();
        let mut writer = Writer::new(dir.path().into(), None);
        writer.write(&set(&[("a", "1"), ("b", "1")]), 1).unwrap();
        let first = std::fs::read_link(at(DATA)).unwrap();
        writer.write(&set(&[("a", "2"), ("c", "2")]), 2).unwrap();
        assert_eq!(std::fs::read(at("a")).unwrap(), b"2");
        assert_eq!(std::fs::read(at("c")).unwrap(), b"2");
        assert_eq!(std::fs::read(dir.path().join(&first).join("a")).unwrap(), b"1");
        let visible = |dir: &Path| -> Vec<String> {
            names(dir)
                .into_iter()
                .filter(|name| !name.starts_with(HIDDEN))
                .collect()
        };
        assert_eq!(visible(dir.path()), ["a", "c", "socket"]);
        let meta = std::fs::metadata(at("a")).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o640);

        // A writer that comes after a crash tidies up what the crash left.
        std::fs::create_dir(at("..17.dead")).unwrap();
        symlink("..17.dead", at(NEW_DATA)).unwrap();
        let mut writer = Writer::new(dir.path().into(), None);
        writer.write(&set(&[("a", "3")]), 3).unwrap();
        assert_eq!(visible(dir.path()), ["a", "socket"]);
        assert_eq!(names(dir.path()).len(), 5);
        assert!(!dir.path().join(first).exists());
    }

    #[test]
    fn what_is_wiped_is_zeros_and_nothing_comes_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(dir.path().into(), None);
        writer.write(&set(&[("key", "secret")]), 1).unwrap();
        let mut still_open = File::open(dir.path().join("key")).unwrap();
        writer.wipe();
        let mut text = Vec::new();
        io::Read::read_to_end(&mut still_open, &mut text).unwrap();
        assert_eq!(text, [0; 6]);
        writer.write(&set(&[("key", "another")]), 2).unwrap();
        assert_eq!(std::fs::read(dir.path().join("key")).unwrap(), [0; 6]);
        Writer::new(dir.path().join("missing"), None).wipe();
    }

    #[test]
    fn a_reader_never_sees_a_mismatched_pair_in_1000_changes() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(dir.path().into(), None);
        let pair = |n: usize| set(&[("cert", &n.to_string()), ("key", &n.to_string())]);
        writer.write(&pair(0), 0).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = BTreeSet::new();
                while !done.load(Ordering::Relaxed) {
                    let data = match open(dir.path().join(DATA), OFlags::DIRECTORY, Mode::empty()) {
                        // Two changes came between the link and what it names.
                        Err(Errno::NOENT) => continue,
                        opened => opened.unwrap(),
                    };
                    let read = |name: &str| {
                        let file = openat(&data, name, OFlags::RDONLY, Mode::empty()).ok()?;
                        io::read_to_string(File::from(file)).ok()
                    };
                    // Between the two, as many changes may come as like.
                    if let (Some(cert), Some(key)) = (read("cert"), read("key")) {
                        assert_eq!(cert, key);
                        seen.insert(cert);
                    }
                }
                seen.len()
            });
            for n in 1..=1000 {
                writer.write(&pair(n), i64::try_from(n).unwrap()).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() > 1);
        });
        assert_eq!(std::fs::read(dir.path().join("key")).unwrap(), b"1000");
    }
}
