//! Making the index again: from the newest snapshot that is whole, and the journal after it.

use std::{collections::BTreeMap, io, path::Path};

use bytes::Bytes;

use super::{
    Failure, Places,
    file::failed,
    image,
    journal::{self, Replayed, Segment},
};
use crate::store::{
    digest::Position,
    error::StoreError,
    history::Committed,
    index::{Index, IndexError, MemoryIndex, SledIndex},
    types::{KeyValue, Revision},
};

/// Makes the index again, on disk if that is possible, and in memory if not.
pub(super) fn rebuild(places: &Places, id: [u8; 16]) -> Result<(Box<dyn Index>, Replayed), StoreError> {
    put_aside(places)?;
    let on_disk = || {
        remove(&places.index)?;
        SledIndex::open(&places.index, id).map(|(index, _)| Box::new(index) as Box<dyn Index>)
    };
    // The second time without the one put aside, which takes space that may be what is missing.
    for _ in 0..2 {
        match build(places, id, on_disk) {
            Ok(built) => return Ok(built),
            Err(Failure::Store(error)) => return Err(error),
            Err(Failure::Index(error)) => tracing::error!(%error, "the store's index cannot be made on disk"),
        }
        let _ = remove(&places.damaged);
    }
    tracing::error!("the store's index is kept in memory until the next start");
    let _ = remove(&places.index);
    build(places, id, || Ok(Box::new(MemoryIndex::default()))).map_err(|failure| match failure {
        Failure::Store(error) => error,
        Failure::Index(error) => StoreError::Damaged {
            path: places.directory.clone(),
            offset: 0,
            why: format!("snapshot and journal do not lead to what they say: {error}"),
        },
    })
}

/// An index from the newest image that is whole, and the journal after it.
fn build(
    places: &Places,
    id: [u8; 16],
    make: impl Fn() -> Result<Box<dyn Index>, IndexError>,
) -> Result<(Box<dyn Index>, Replayed), Failure> {
    let segments = journal::segments(&places.journal)?;
    let mut damage = None;
    for (_, path) in places.snapshots()?.iter().rev() {
        let mut index = make()?;
        match image::load(path, id, &mut *index) {
            Ok(at) => return bring_up(index, &at, &segments, path),
            Err(Failure::Store(error)) => {
                tracing::error!(%error, "a snapshot is damaged, going on with the one before it");
                damage.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    let begins = segments.first().map_or(0, |segment| segment.base);
    if begins == 0 {
        return bring_up(make()?, &Position::default(), &segments, &places.journal);
    }
    let why = format!("the journal begins after revision {begins}, and there is no snapshot before it");
    Err(damage
        .unwrap_or(StoreError::Damaged {
            path: places.snapshots.clone(),
            offset: 0,
            why,
        })
        .into())
}

fn bring_up(
    mut index: Box<dyn Index>,
    at: &Position,
    segments: &[Segment],
    from: &Path,
) -> Result<(Box<dyn Index>, Replayed), Failure> {
    let damaged = |why: String| StoreError::Damaged {
        path: from.into(),
        offset: 0,
        why,
    };
    let segments = since(segments, at.revision).ok_or_else(|| {
        damaged(format!(
            "it ends at revision {}, before the journal begins",
            at.revision
        ))
    })?;
    let mut changes = Changes::default();
    let replayed = journal::replay(segments, at.revision, |_, commits| changes.take(commits, &mut *index))?;
    changes.apply(&mut *index)?;
    if replayed.end.revision < at.revision {
        return Err(damaged(format!("it ends at revision {}, after the journal ends", at.revision)).into());
    }
    index.apply(Some(&replayed.end), &mut std::iter::empty())?;
    hold(&*index, &replayed.end)?;
    Ok((index, replayed))
}

/// Changes of many transactions, to be applied in the order of their keys, which is several times quicker
/// than in their own; the last of a key counts.
#[derive(Default)]
struct Changes {
    last: BTreeMap<Bytes, Option<KeyValue>>,
    bytes: usize,
}

impl Changes {
    /// How many bytes are held before they are applied.
    const MOST: usize = 64 << 20;

    fn take(&mut self, commits: Vec<Committed>, index: &mut dyn Index) -> Result<(), IndexError> {
        for committed in commits {
            self.bytes += committed.bytes();
            for event in committed.events {
                let pair = event.pair().cloned();
                self.last.insert(event.key, pair);
            }
        }
        if self.bytes < Self::MOST {
            Ok(())
        } else {
            self.apply(index)
        }
    }

    fn apply(&mut self, index: &mut dyn Index) -> Result<(), IndexError> {
        let Self { last, .. } = std::mem::take(self);
        index.apply(None, &mut last.iter().map(|(key, pair)| (key, pair.as_ref())))
    }
}

/// Holds what the index has against what the journal says.
pub(super) fn hold(index: &dyn Index, position: &Position) -> Result<(), IndexError> {
    let found = index.digest()?;
    if found == position.digest {
        return Ok(());
    }
    let (keys, revision) = (position.digest.keys, position.revision);
    Err(IndexError(format!(
        "it has {} keys that do not add up to the {keys} of revision {revision}",
        found.keys
    )))
}

/// The segments that lead on from `revision`.
pub(super) fn since(segments: &[Segment], revision: Revision) -> Option<&[Segment]> {
    let first = segments.iter().rposition(|segment| segment.base <= revision)?;
    segments.get(first..)
}

/// Moves a damaged index aside, in the place of the one before it.
fn put_aside(places: &Places) -> Result<(), StoreError> {
    if !places.index.exists() {
        return Ok(());
    }
    let removed = std::fs::remove_dir_all(&places.damaged);
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(failed("remove", &places.damaged)(error));
    }
    std::fs::rename(&places.index, &places.damaged).map_err(failed("put aside", &places.index))
}

fn remove(index: &Path) -> Result<(), IndexError> {
    match std::fs::remove_dir_all(index) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(IndexError(format!("{} cannot be removed: {error}", index.display())))
        }
        _ => Ok(()),
    }
}
