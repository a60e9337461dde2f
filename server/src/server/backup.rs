//! Backup and restore of everything but the issuance log.
//!
//! A backup is the store: entries, nodes, authorities (their keys sealed), at one revision. The log is not part of it: it is written to after every backup, and a
//! restored server goes on in a log of a new number, so that no serial is given twice.

use std::path::Path;

use mintmark_runtime::fs::{DirLock, FsError, LockError, ensure_dir};
use mintmark_runtime::metrics::Metrics;

use super::METRICS;
use crate::config::{Config, InvalidConfig};
use crate::ledger::{Ledger, LedgerError};
use crate::store::{self, Revision, Store, StoreError, Txn};

/// Where the store keeps the number of the log that this server writes.
pub(super) const LOG_NUMBER: &[u8] = b"server/log";

/// What a restore made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// The revision of the backup.
    pub revision: Revision,
    /// The log that the server writes from now on.
    pub log: u16,
}

/// Why there is no backup, or none was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// A directory cannot be made.
    #[error(transparent)]
    Directory(#[from] FsError),
    /// A server runs on the data directory.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// The store says no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The issuance log says no.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// There is something already.
    #[error("{0} holds a store already: move it away first, nothing is restored over it")]
    Exists(String),
    /// All 65,535 numbers are used.
    #[error("log {0} is the last there can be: this trust domain has used up its logs")]
    LastLog(u16),
}

/// Writes a backup of the store to the new file `file`, whether the server runs or not. Blocks.
///
/// # Errors
/// The store cannot be read, or the file cannot be written or exists.
pub fn backup(config: &Config, file: &Path) -> Result<Revision, BackupError> {
    config.check()?;
    Ok(store::backup(&config.store_dir(), file)?)
}

/// Makes the store from a backup, and a new log beside those that are there. The server must not run.
///
/// # Errors
/// There is a store already, a server runs, or the backup is damaged.
pub async fn restore(config: &Config, file: &Path) -> Result<Restored, BackupError> {
    config.check()?;
    let (store_dir, ledger_dir) = (config.store_dir(), config.ledger_dir());
    ensure_dir(&config.data_dir, 0o700)?;
    let _lock = DirLock::acquire(&config.data_dir)?;
    let is_empty = std::fs::read_dir(&store_dir).map_or(true, |mut entries| entries.next().is_none());
    if !is_empty {
        return Err(BackupError::Exists(store_dir.display().to_string()));
    }
    let revision = store::restore(file, &store_dir)?.revision;
    let store = Store::open_sled(&store_dir, &Metrics::new(METRICS))?;
    let result = new_log(config, &store, &ledger_dir).await;
    store.close().await;
    Ok(Restored { revision, log: result? })
}

async fn new_log(config: &Config, store: &Store, ledger_dir: &Path) -> Result<u16, BackupError> {
    // Behind every log that this server has written: those that are here, and the one that the backup knows.
    let here = Ledger::numbers(ledger_dir)?.pop().unwrap_or_default();
    let known = noted_log(store).await?.unwrap_or_default();
    let last = here.max(known);
    let number = last.checked_add(1).ok_or(BackupError::LastLog(last))?;
    ensure_dir(ledger_dir, 0o700)?;
    let trust_domain = config
        .trust_domain
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    Ledger::create(ledger_dir, &trust_domain, number)?;
    note_log(store, number).await?;
    Ok(number)
}

/// Notes the number of the log that this server writes.
pub(super) async fn note_log(store: &Store, number: u16) -> Result<(), StoreError> {
    if noted_log(store).await? != Some(number) {
        store
            .commit(Txn::new().put(LOG_NUMBER, number.to_string().into_bytes()))
            .await?;
    }
    Ok(())
}

async fn noted_log(store: &Store) -> Result<Option<u16>, StoreError> {
    let item = store.get(LOG_NUMBER).await?;
    Ok(item.and_then(|item| str::from_utf8(&item.value).ok()?.parse().ok()))
}
