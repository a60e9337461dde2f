//! Failures of the disk, for tests.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicU64, Ordering},
};

/// What the next writes run into.
#[derive(Debug, Default)]
pub(in crate::store) struct Faults {
    /// How many more writes find the disk full, after half of their bytes.
    pub(in crate::store) full: AtomicU64,
}

impl Faults {
    pub(super) fn before_write(&self, file: &File, record: &[u8], at: u64) -> io::Result<()> {
        let spend = |left: u64| left.checked_sub(1);
        if self
            .full
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, spend)
            .is_err()
        {
            return Ok(());
        }
        let (half, _) = record.split_at(record.len() / 2);
        file.write_all_at(half, at)?;
        Err(io::ErrorKind::StorageFull.into())
    }
}
