//! Backup and restore: one checksummed file of one revision, and a store made from it.

use std::path::{Path, PathBuf};

use mintmark_runtime::crypto;

use super::{
    Failure, OpenReport, Places, Settings,
    codec::{self, Header, Kind},
    file::{RecordReader, RecordWriter, UNFINISHED, failed},
    image,
    journal::{self, Journal},
    open::open,
    rebuild::since,
};
use crate::store::{digest::Position, error::StoreError, local::Shared, metrics::StoreMetrics, types::Revision};

/// How often files that a running store removed meanwhile are looked for again.
const ATTEMPTS: usize = 5;

/// Writes a backup of an open store while transactions go on.
pub(in crate::store) fn write(shared: &Shared, id: [u8; 16], file: &Path) -> Result<Revision, StoreError> {
    let temporary = new_file(file)?;
    let (at, _) = shared.image(temporary, |_| file.into(), id)?;
    Ok(at.revision)
}

/// Writes a backup of the store in `directory` to the new file `file`, from its files alone: whether a
/// server is running on it or not.
///
/// # Errors
/// [`StoreError::Damaged`] when what is acknowledged cannot be read; [`StoreError::Io`] when `file` exists
/// or something cannot be read or written.
pub fn backup(directory: &Path, file: &Path) -> Result<Revision, StoreError> {
    let places = Places::new(directory);
    let mut attempts = 0;
    loop {
        attempts += 1;
        match copy(&places, file) {
            Err(StoreError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound && places.journal.exists() && attempts < ATTEMPTS => {}
            outcome => return outcome,
        }
    }
}

fn copy(places: &Places, file: &Path) -> Result<Revision, StoreError> {
    let segments = journal::segments(&places.journal)?;
    let Some(first) = segments.first() else {
        let why = "there is no journal".to_owned();
        return Err(StoreError::Damaged {
            path: places.journal.clone(),
            offset: 0,
            why,
        });
    };
    let id = RecordReader::open(&first.path, Kind::Journal)?.header().id;
    let header = Header {
        kind: Kind::Image,
        id,
        salt: crypto::random(),
        base: Position::default(),
    };
    let mut damage = None;
    for snapshot in places.snapshots()?.into_iter().rev().map(Some).chain([None]) {
        let mut writer = RecordWriter::create(new_file(file)?, header)?;
        let from = match &snapshot {
            None => 0,
            Some((revision, path)) => match copy_image(path, Some(id), &mut writer) {
                Ok(end) if end.revision == *revision => end.revision,
                Ok(_) => continue,
                Err(error @ StoreError::Damaged { .. }) => {
                    damage.get_or_insert(error);
                    continue;
                }
                Err(error) => return Err(error),
            },
        };
        let Some(segments) = since(&segments, from) else {
            continue;
        };
        let mut written = Ok(());
        let replayed = journal::replay(segments, from, |to, commits| {
            if written.is_ok() {
                written = writer.append(&codec::encode_group(&commits, to));
            }
            Ok(())
        });
        written?;
        let end = replayed.map_err(Failure::into_store)?.end;
        writer.append(&codec::encode_end(&end))?;
        writer.finish(file)?;
        return Ok(end.revision);
    }
    let why = "there is no whole snapshot before the journal begins".to_owned();
    Err(damage.unwrap_or(StoreError::Damaged {
        path: places.snapshots.clone(),
        offset: 0,
        why,
    }))
}

/// Makes a store in `directory`, which must be empty or absent, from a backup; gives what it holds.
///
/// The new store has an identity of its own, so that files of the one before cannot be mixed with it.
///
/// # Errors
/// [`StoreError::NotEmpty`] for a directory with something in it; [`StoreError::Damaged`] for a backup that
/// is not whole.
pub fn restore(file: &Path, directory: &Path) -> Result<OpenReport, StoreError> {
    let occupied = match std::fs::read_dir(directory) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(failed("list", directory)(error)),
    };
    if occupied {
        return Err(StoreError::NotEmpty { path: directory.into() });
    }
    let places = Places::new(directory);
    let placed = place(file, &places);
    if placed.is_err() {
        // Empty it again, so that another try is not refused.
        for path in [&places.journal, &places.snapshots] {
            let _ = std::fs::remove_dir_all(path);
        }
        let _ = std::fs::remove_file(directory.join("lock"));
    }
    placed?;
    let opened = open(directory, Settings::default(), StoreMetrics::unread())?;
    drop(opened.index);
    opened.disk.close(opened.position.revision);
    Ok(opened.report)
}

fn place(file: &Path, places: &Places) -> Result<(), StoreError> {
    let _lock = places.prepare()?;
    let id = crypto::random();
    let header = Header {
        kind: Kind::Image,
        id,
        salt: crypto::random(),
        base: Position::default(),
    };
    let mut writer = RecordWriter::create(places.next(), header)?;
    let end = copy_image(file, None, &mut writer)?;
    writer.append(&codec::encode_end(&end))?;
    writer.finish(&places.snapshot(end.revision))?;
    Journal::create(&places.journal, id, &end, 0)?;
    Ok(())
}

/// Copies all records of an image but its end, which it gives.
fn copy_image(path: &Path, id: Option<[u8; 16]>, writer: &mut RecordWriter) -> Result<Position, StoreError> {
    image::payloads(path, id, |_, payload| writer.append(payload))
}

/// A temporary name beside a file that must not exist yet.
fn new_file(file: &Path) -> Result<PathBuf, StoreError> {
    if file.exists() {
        return Err(failed("write a backup over", file)(
            std::io::ErrorKind::AlreadyExists.into(),
        ));
    }
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(UNFINISHED);
    Ok(name.into())
}
