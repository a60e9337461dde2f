//! A disk that fills up, and one that fails.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// A disk of some size under a directory, and one whose fsync can be made to fail.
#[derive(Debug)]
struct SmallDisk {
    dir: PathBuf,
    size: AtomicU64,
    broken: AtomicBool,
    /// Whether the lack of space shows at the fsync only, as with delayed allocation.
    late: AtomicBool,
}

impl SmallDisk {
    fn new(dir: &Path, size: u64) -> Arc<Self> {
        Arc::new(Self {
            dir: dir.to_owned(),
            size: size.into(),
            broken: false.into(),
            late: false.into(),
        })
    }

    fn free(&self) -> u64 {
        let used: u64 = fs::read_dir(&self.dir)
            .unwrap()
            .filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()))
            .sum();
        self.size.load(Ordering::SeqCst).saturating_sub(used)
    }
}

impl files::Storage for SmallDisk {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        if bytes.len() as u64 <= self.free() || self.late.load(Ordering::SeqCst) {
            return file.write_all_at(bytes, offset);
        }
        file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
        Err(io::Error::from_raw_os_error(ENOSPC))
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        if self.late.load(Ordering::SeqCst) && self.free() == 0 {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        file.sync_data()
    }

    fn space(&self, _dir: &Path) -> io::Result<(u64, u64)> {
        Ok((self.free(), self.size.load(Ordering::SeqCst)))
    }
}

fn on(root: &Path, disk: &Arc<SmallDisk>) -> Ledger {
    Ledger::open(
        root,
        DOMAIN,
        Settings {
            storage: disk.clone(),
            ..settings()
        },
    )
    .unwrap()
}

#[tokio::test]
async fn a_full_disk_refuses_and_goes_on_by_itself_when_there_is_room() {
    for late in [false, true] {
        let root = tempfile::tempdir().unwrap();
        Ledger::create(root.path(), DOMAIN, 1).unwrap();
        let disk = SmallDisk::new(&root.path().join("1"), 20_000);
        disk.late.store(late, Ordering::SeqCst);
        let ledger = on(root.path(), &disk);
        let mut size = 0;
        let refused = loop {
            match append(&ledger, 50).await {
                Ok(durable) => size = durable[49].index() + 1,
                Err(error) => break error,
            }
        };
        assert!(
            matches!(&refused, LedgerError::Full { path, .. } if *path == root.path().join("1")),
            "{refused}"
        );
        assert!(size > 0);
        // Nothing of the refused leaves is left.
        let report = check(root.path());
        assert!(report.is_sound(), "{report:?}");
        assert_eq!(report.logs[0].size, size);
        assert!(
            !report.logs[0].notes.iter().any(|note| note.contains("unfinished")),
            "{report:?}"
        );
        assert!(matches!(ledger.state().halted, Some(LedgerError::Full { .. })));
        assert!(append(&ledger, 50).await.is_err());
        assert_eq!(ledger.reader().leaf(size - 1).unwrap(), leaf(size - 1));
        disk.size.store(1 << 20, Ordering::SeqCst);
        assert_eq!(append(&ledger, 50).await.unwrap()[0].index(), size);
        assert!(ledger.state().halted.is_none());
        ledger.shutdown().await.unwrap();
        assert_clean(root.path(), size + 50);
    }
}

#[tokio::test]
async fn callers_behind_a_refused_batch_are_refused_and_their_indices_are_given_out_again() {
    let root = tempfile::tempdir().unwrap();
    Ledger::create(root.path(), DOMAIN, 1).unwrap();
    let disk = SmallDisk::new(&root.path().join("1"), 10_000);
    let ledger = on(root.path(), &disk);
    let calls = futures::future::join_all((0..600).map(|_| append(&ledger, 1))).await;
    let granted: Vec<u64> = calls.iter().flatten().map(|durable| durable[0].index()).collect();
    assert_eq!(granted.len() as u64, ledger.reader().size());
    assert!(calls.iter().any(|call| matches!(call, Err(LedgerError::Full { .. }))));
    disk.size.store(1 << 20, Ordering::SeqCst);
    assert_eq!(append(&ledger, 1).await.unwrap()[0].index(), granted.len() as u64);
    ledger.shutdown().await.unwrap();
    assert_clean(root.path(), granted.len() as u64 + 1);
}

#[tokio::test]
async fn on_a_full_disk_the_oldest_make_room_for_the_new() {
    let root = tempfile::tempdir().unwrap();
    Ledger::create(root.path(), DOMAIN, 1).unwrap();
    let disk = SmallDisk::new(&root.path().join("1"), 26 << 20);
    let ledger = on(root.path(), &disk);
    fill(&ledger, 8 * SEGMENT).await;
    assert!(ledger.reader().minimum() > 0);
    ledger.shutdown().await.unwrap();
    assert_clean(root.path(), 8 * SEGMENT);
}

#[tokio::test]
async fn a_disk_without_room_for_hashes_refuses_in_time_and_seals_later() {
    let root = tempfile::tempdir().unwrap();
    Ledger::create(root.path(), DOMAIN, 1).unwrap();
    // Room for the leaves of one segment and a half, not for the hashes of one.
    let disk = SmallDisk::new(&root.path().join("1"), 6 << 20);
    let ledger = on(root.path(), &disk);
    let mut refused = None;
    while refused.is_none() {
        refused = append(&ledger, 4096).await.err();
    }
    assert!(matches!(refused, Some(LedgerError::Full { .. })), "{refused:?}");
    let size = ledger.reader().size();
    assert!(size > SEGMENT);
    disk.size.store(64 << 20, Ordering::SeqCst);
    append(&ledger, 4096).await.unwrap();
    let size_now = ledger.reader().size();
    assert!(size_now == size + 4096);
    ledger.shutdown().await.unwrap();
    assert_clean(root.path(), size_now);
}

#[tokio::test]
async fn after_a_failed_fsync_nothing_is_issued_until_a_restart() {
    let root = tempfile::tempdir().unwrap();
    Ledger::create(root.path(), DOMAIN, 1).unwrap();
    let disk = SmallDisk::new(&root.path().join("1"), 1 << 20);
    let ledger = on(root.path(), &disk);
    append(&ledger, 3).await.unwrap();
    disk.broken.store(true, Ordering::SeqCst);
    let refused = append(&ledger, 2).await.unwrap_err();
    assert!(matches!(refused, LedgerError::Stopped(_)), "{refused}");
    disk.broken.store(false, Ordering::SeqCst);
    assert!(matches!(append(&ledger, 2).await, Err(LedgerError::Stopped(_))));
    assert!(matches!(ledger.state().halted, Some(LedgerError::Stopped(_))));
    // What was durable before can still be read.
    assert_eq!(ledger.reader().leaf(2).unwrap(), leaf(2));
    let _ = ledger.shutdown().await;
    assert!(check(root.path()).is_sound());
    let ledger = open(root.path());
    let size = ledger.reader().size();
    // The leaves of the failed batch may have reached the disk; they are in the log then, and nothing was issued for them.
    assert!(size == 3 || size == 5);
    append(&ledger, 1).await.unwrap();
    ledger.shutdown().await.unwrap();
    assert_clean(root.path(), size + 1);
}
