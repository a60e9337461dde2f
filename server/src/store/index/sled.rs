//! An index in sled: everything on disk, a few megabytes of it in memory.
//!
//! sled is not asked to be durable, and not trusted to be whole: what it has of the last transactions after
//! a crash is brought up from the journal, and a damaged one is made again. It may answer damage with a
//! panic; every call is fenced.

use std::{
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use bytes::{BufMut, Bytes};
use sled::{Batch, Db, IVec};

use super::{Assignment, Index, IndexError, Page};
use crate::store::{
    digest::{Digest, Position, checksum, checksum_of},
    types::KeyValue,
};

/// How often sled's lock is asked for, and how long is waited in between.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);
/// Bytes of pages that sled keeps in memory.
const CACHE: u64 = 16 << 20;

/// Assignments that are applied at once. Every one copies a page, and sled gives none back before the end
/// of a batch: with 1,000 at once, a million entries took 4 GiB.
const BATCH: usize = 50;

/// Where sled keeps the index's position; keys have [`DATA`] before them.
const META: [u8; 1] = [0];
const DATA: u8 = 1;

/// The bytes before a value: created, modified, checksum.
const FIELDS: usize = 20;

/// An index in sled.
pub(in crate::store) struct SledIndex {
    /// There until it is dropped.
    db: Option<Db>,
    id: [u8; 16],
}

impl SledIndex {
    /// Opens the index of store `id` in `directory`, or makes one; gives the position that it is at, `None`
    /// for one that was never finished.
    pub(in crate::store) fn open(directory: &Path, id: [u8; 16]) -> Result<(Self, Option<Position>), IndexError> {
        fenced(|| {
            let config = sled::Config::new()
                .path(directory)
                .cache_capacity(CACHE)
                .flush_every_ms(None);
            let db = unlocked(|| config.open()).map_err(broken)?;
            let position = match db.get(META).map_err(broken)? {
                None => None,
                Some(meta) => Some(decode_meta(&meta, id)?),
            };
            Ok((Self { db: Some(db), id }, position))
        })
    }

    fn db(&self) -> Result<&Db, IndexError> {
        self.db.as_ref().ok_or_else(|| IndexError("it is closed".to_owned()))
    }
}

/// Opens sled, whose lock may be held for a moment by nobody: a process that is just being started by this one has all its files until it becomes another
/// program. The store's own lock says that no other store has them, so this is no damage.
fn unlocked(open: impl Fn() -> sled::Result<Db>) -> sled::Result<Db> {
    let mut tries = 0;
    loop {
        match open() {
            Err(sled::Error::Io(error))
                if tries < LOCK_TRIES && error.to_string().contains("could not acquire lock") =>
            {
                tries += 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            opened => return opened,
        }
    }
}

impl Index for SledIndex {
    fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, IndexError> {
        fenced(|| match self.db()?.get(data_key(key)).map_err(broken)? {
            None => Ok(None),
            Some(record) => decode(Bytes::copy_from_slice(key), &record).map(Some),
        })
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, page: Page) -> Result<Vec<KeyValue>, IndexError> {
        fenced(|| {
            let start = match after {
                Some(after) if after >= prefix => Bound::Excluded(data_key(after)),
                _ => Bound::Included(data_key(prefix)),
            };
            let mut pairs = Vec::with_capacity(page.keys.min(1024));
            let mut bytes = 0;
            for entry in self.db()?.range::<Vec<u8>, _>((start, Bound::Unbounded)) {
                if pairs.len() >= page.keys || bytes >= page.bytes {
                    break;
                }
                let (key, record) = entry.map_err(broken)?;
                let Some(key) = key.get(1..).filter(|key| key.starts_with(prefix)) else {
                    break;
                };
                let pair = decode(Bytes::copy_from_slice(key), &record)?;
                bytes += pair.key.len() + pair.value.len();
                pairs.push(pair);
            }
            Ok(pairs)
        })
    }

    fn apply(
        &mut self,
        to: Option<&Position>,
        assignments: &mut dyn Iterator<Item = Assignment<'_>>,
    ) -> Result<(), IndexError> {
        fenced(|| {
            let db = self.db()?;
            let Some(to) = to else {
                // Nothing has to be atomic while it is being built, and single changes in order are quicker.
                for (key, pair) in assignments {
                    let changed = match pair {
                        Some(pair) => db.insert(data_key(key), encode(pair)),
                        None => db.remove(data_key(key)),
                    };
                    changed.map_err(broken)?;
                }
                return Ok(());
            };
            let mut batch = Batch::default();
            let mut held = 0;
            for (key, pair) in assignments {
                match pair {
                    Some(pair) => batch.insert(data_key(key), encode(pair)),
                    None => batch.remove(data_key(key)),
                }
                held += 1;
                if held == BATCH {
                    db.apply_batch(std::mem::take(&mut batch)).map_err(broken)?;
                    held = 0;
                }
            }
            // The position comes with the last of them: an application that was cut short is applied again.
            batch.insert(&META, encode_meta(to, self.id));
            db.apply_batch(batch).map_err(broken)
        })
    }

    fn digest(&self) -> Result<Digest, IndexError> {
        fenced(|| {
            let mut digest = Digest::default();
            for entry in self.db()?.range::<&[u8], _>(&[DATA][..]..) {
                let (key, record) = entry.map_err(broken)?;
                let (fields, value) = fields(&record)?;
                let [_, key @ ..] = &*key else { return Err(damaged()) };
                if checksum_of(key, fields.created, fields.modified, value) != fields.checksum {
                    return Err(damaged());
                }
                digest.add_checksum(fields.checksum);
            }
            Ok(digest)
        })
    }

    fn syncer(&self) -> Box<dyn FnOnce() -> Result<(), IndexError> + Send> {
        let db = self.db.clone();
        Box::new(move || fenced(|| db.map_or(Ok(()), |db| db.flush().map(|_| ()).map_err(broken))))
    }
}

impl Drop for SledIndex {
    fn drop(&mut self) {
        // sled writes and syncs when it is dropped, and panics when it cannot.
        let _ = fenced(|| {
            drop(self.db.take());
            Ok(())
        });
    }
}

/// Runs a call of sled's, and turns a panic in it into an error.
fn fenced<T>(call: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err(IndexError("sled panicked".to_owned())))
}

fn broken(error: sled::Error) -> IndexError {
    IndexError(format!("sled: {error}"))
}

fn damaged() -> IndexError {
    IndexError("a record does not match its checksum".to_owned())
}

fn data_key(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len());
    out.push(DATA);
    out.extend_from_slice(key);
    out
}

fn encode(pair: &KeyValue) -> Vec<u8> {
    let mut out = Vec::with_capacity(FIELDS + pair.value.len());
    out.put_u64_le(pair.created);
    out.put_u64_le(pair.modified);
    out.put_u32_le(checksum(pair));
    out.put_slice(&pair.value);
    out
}

struct Fields {
    created: u64,
    modified: u64,
    checksum: u32,
}

fn fields(record: &[u8]) -> Result<(Fields, &[u8]), IndexError> {
    let (created, rest) = record.split_first_chunk().ok_or_else(damaged)?;
    let (modified, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
    let (checksum, value) = rest.split_first_chunk().ok_or_else(damaged)?;
    let fields = Fields {
        created: u64::from_le_bytes(*created),
        modified: u64::from_le_bytes(*modified),
        checksum: u32::from_le_bytes(*checksum),
    };
    Ok((fields, value))
}

fn decode(key: Bytes, record: &IVec) -> Result<KeyValue, IndexError> {
    let (fields, value) = fields(record)?;
    let pair = KeyValue {
        key,
        value: Bytes::copy_from_slice(value),
        created: fields.created,
        modified: fields.modified,
    };
    if checksum(&pair) != fields.checksum {
        return Err(damaged());
    }
    Ok(pair)
}

/// Store, revision, keys, sum, and a checksum over them.
fn encode_meta(position: &Position, id: [u8; 16]) -> Vec<u8> {
    let mut out = Vec::with_capacity(44);
    out.put_slice(&id);
    out.put_u64_le(position.revision);
    out.put_u64_le(position.digest.keys);
    out.put_u64_le(position.digest.sum);
    out.put_u32_le(crc32c::crc32c(&out));
    out
}

fn decode_meta(meta: &[u8], id: [u8; 16]) -> Result<Position, IndexError> {
    let (body, crc) = meta.split_last_chunk::<4>().ok_or_else(damaged)?;
    if crc32c::crc32c(body).to_le_bytes() != *crc {
        return Err(damaged());
    }
    let (found, rest) = body.split_first_chunk::<16>().ok_or_else(damaged)?;
    if *found != id {
        return Err(IndexError("it belongs to another store".to_owned()));
    }
    let (revision, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
    let (keys, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
    let (sum, _) = rest.split_first_chunk().ok_or_else(damaged)?;
    let digest = Digest {
        keys: u64::from_le_bytes(*keys),
        sum: u64::from_le_bytes(*sum),
    };
    Ok(Position {
        revision: u64::from_le_bytes(*revision),
        digest,
    })
}
