//! An image: everything the store held at one revision, in one file with its checksum. A snapshot is an
//! image, and so is a backup.
//!
//! It is written while transactions go on: pages of keys, each read at the revision of its moment, and
//! between them the groups that were committed since the page before. Read in order, they lead to the
//! position that the last record names.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use mintmark_runtime::crypto;

use super::{
    Failure,
    codec::{self, Header, Kind, Record},
    file::{Next, RecordReader, RecordWriter},
};
use crate::store::{
    digest::Position,
    error::StoreError,
    index::{Index, IndexError, Page},
    types::KeyValue,
};

/// What one page holds at most.
const PAGE: Page = Page {
    keys: 1000,
    bytes: 1 << 20,
};

/// One step over a store: the groups since the last step, then a page of keys, and the position at which
/// both are true.
pub(in crate::store) struct Chunk {
    pub(in crate::store) groups: Vec<Bytes>,
    pub(in crate::store) pairs: Vec<KeyValue>,
    pub(in crate::store) at: Position,
}

/// Writes an image as `temporary`, renames it to what `path` says, and gives its position and length.
pub(in crate::store) fn write(
    temporary: PathBuf,
    path: impl FnOnce(&Position) -> PathBuf,
    id: [u8; 16],
    mut step: impl FnMut(Option<&Bytes>, Page) -> Result<Chunk, StoreError>,
) -> Result<(Position, u64), StoreError> {
    let header = Header {
        kind: Kind::Image,
        id,
        salt: crypto::random(),
        base: Position::default(),
    };
    let mut writer = RecordWriter::create(temporary, header)?;
    let mut after: Option<Bytes> = None;
    let end = loop {
        let chunk = step(after.as_ref(), PAGE)?;
        for group in &chunk.groups {
            writer.append(group)?;
        }
        let Some(last) = chunk.pairs.last() else { break chunk.at };
        after = Some(last.key.clone());
        writer.append(&codec::encode_pairs(&chunk.pairs))?;
    };
    writer.append(&codec::encode_end(&end))?;
    let (_, length) = writer.finish(&path(&end))?;
    Ok((end, length))
}

/// Reads all of an image into `index`, and gives its position.
pub(in crate::store) fn load(path: &Path, id: [u8; 16], index: &mut dyn Index) -> Result<Position, Failure> {
    read(path, id, |record| match record {
        Record::Pairs(pairs) => index.apply(None, &mut pairs.iter().map(|pair| (&pair.key, Some(pair)))),
        Record::Group { commits, .. } => {
            let events = commits.iter().flat_map(|committed| &committed.events);
            index.apply(None, &mut events.map(|event| (&event.key, event.pair())))
        }
        Record::Closed(_) | Record::End(_) => Ok(()),
    })
}

/// Reads an image to its end, visits its pages and groups, and gives its position.
fn read(
    path: &Path,
    id: [u8; 16],
    mut visit: impl FnMut(Record) -> Result<(), IndexError>,
) -> Result<Position, Failure> {
    let mut failure = None;
    let end = payloads(path, Some(id), |record, _| {
        visit(record).map_err(|error| {
            let why = error.0.clone();
            failure = Some(error);
            StoreError::Index { why }
        })
    });
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(end?),
    }
}

/// Reads an image to its end, visits the records before it, decoded and as they are, and gives the position
/// that the end names.
pub(super) fn payloads(
    path: &Path,
    id: Option<[u8; 16]>,
    mut visit: impl FnMut(Record, &Bytes) -> Result<(), StoreError>,
) -> Result<Position, StoreError> {
    let mut reader = RecordReader::open(path, Kind::Image)?;
    if id.is_some_and(|id| id != reader.header().id) {
        return Err(reader.damaged(0, "it belongs to another store"));
    }
    loop {
        let offset = reader.offset();
        let (payload, last) = match reader.next()? {
            Next::Payload(_, payload) => (payload, reader.offset() == reader.length()),
            Next::End => return Err(reader.damaged(offset, "its end is missing")),
            Next::Bad(why) => return Err(reader.damaged(offset, why)),
        };
        match Record::decode(payload.clone()) {
            Ok(Record::End(end)) if last => return Ok(end),
            Ok(record @ (Record::Pairs(_) | Record::Group { .. })) => visit(record, &payload)?,
            Ok(_) => return Err(reader.damaged(offset, "a record does not belong in an image")),
            Err(why) => return Err(reader.damaged(offset, why)),
        }
    }
}
