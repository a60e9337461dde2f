//! What is in the store's own files: a header, then records, each in a frame with its checksum.
//!
//! ```text
//! file    header record*
//! header  "MMSTORE1" kind:u8 0:u8×7 id:16 salt:8 revision:u64 keys:u64 sum:u64 crc:u32
//! frame   "\xf7mmR" length:u32 crc:u32 payload          crc = CRC32C(salt length payload)
//! payload 1 revision:u64 keys:u64 sum:u64 count:u32 txn*        a group of transactions, and where it leads
//!           txn = revision:u64 count:u32 (0 key | 1 key created:u64 value)*
//!         2 count:u32 (key created:u64 modified:u64 value)*     keys that exist, of an image
//!         3 revision:u64                                         a journal was closed in order
//!         4 revision:u64 keys:u64 sum:u64                        the end of an image, and where it leads
//! key     length:u16 bytes          value   length:u32 bytes     integers are little-endian
//! ```
//!
//! The salt is random per file, so that no value that someone stores can look like a frame.

use bytes::{BufMut, Bytes, BytesMut};

use crate::store::{
    digest::{Digest, Position},
    history::Committed,
    types::{Change, Event, KeyValue, Revision},
};

pub(super) const HEADER_LEN: usize = 68;
pub(super) const FRAME_LEN: usize = 12;
pub(super) const FRAME_MAGIC: [u8; 4] = *b"\xf7mmR";
/// The longest payload: a group of transactions at its limits fits.
pub(super) const MAX_PAYLOAD: usize = 32 << 20;

const FILE_MAGIC: [u8; 8] = *b"MMSTORE1";

/// What kind of file this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    Journal = 1,
    Image = 2,
}

/// The first bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Header {
    pub(in crate::store) kind: Kind,
    /// The store that the file belongs to.
    pub(in crate::store) id: [u8; 16],
    pub(in crate::store) salt: [u8; 8],
    /// A journal: where its first transaction starts from. An image: zero, for its end says it.
    pub(in crate::store) base: Position,
}

/// One record of a file.
#[derive(Debug)]
pub(in crate::store) enum Record {
    Group { to: Position, commits: Vec<Committed> },
    Pairs(Vec<KeyValue>),
    Closed(Revision),
    End(Position),
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.put_slice(&FILE_MAGIC);
        out.put_u8(self.kind as u8);
        out.put_slice(&[0; 7]);
        out.put_slice(&self.id);
        out.put_slice(&self.salt);
        put_position(&mut out, &self.base);
        out.put_u32_le(crc32c::crc32c(&out));
        out.try_into().expect("the header has a fixed length")
    }

    pub(super) fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, &'static str> {
        let (body, crc) = bytes.split_at(HEADER_LEN - 4);
        let mut reader = Reader(Bytes::copy_from_slice(body));
        if reader.array::<8>()? != FILE_MAGIC {
            return Err("it is not a file of this store's format");
        }
        if crc != crc32c::crc32c(body).to_le_bytes() {
            return Err("its header does not match its checksum");
        }
        let kind = match reader.u8()? {
            1 => Kind::Journal,
            2 => Kind::Image,
            _ => return Err("its kind is not known"),
        };
        reader.array::<7>()?;
        Ok(Self {
            kind,
            id: reader.array()?,
            salt: reader.array()?,
            base: reader.position()?,
        })
    }
}

/// A group of transactions as a payload.
pub(in crate::store) fn encode_group(commits: &[Committed], to: &Position) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(1);
    put_position(&mut out, to);
    put_count(&mut out, commits.len());
    for committed in commits {
        out.put_u64_le(committed.revision);
        put_count(&mut out, committed.events.len());
        for event in &committed.events {
            match &event.change {
                Change::Delete => {
                    out.put_u8(0);
                    put_key(&mut out, &event.key);
                }
                Change::Put(pair) => {
                    out.put_u8(1);
                    put_key(&mut out, &event.key);
                    out.put_u64_le(pair.created);
                    put_value(&mut out, &pair.value);
                }
            }
        }
    }
    out.freeze()
}

pub(in crate::store) fn encode_pairs(pairs: &[KeyValue]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(2);
    put_count(&mut out, pairs.len());
    for pair in pairs {
        put_key(&mut out, &pair.key);
        out.put_u64_le(pair.created);
        out.put_u64_le(pair.modified);
        put_value(&mut out, &pair.value);
    }
    out.freeze()
}

pub(in crate::store) fn encode_closed(revision: Revision) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(3);
    out.put_u64_le(revision);
    out.freeze()
}

pub(in crate::store) fn encode_end(at: &Position) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(4);
    put_position(&mut out, at);
    out.freeze()
}

/// The frame that goes before a payload.
pub(in crate::store) fn frame(salt: &[u8; 8], payload: &[u8]) -> [u8; FRAME_LEN] {
    let length = u32::try_from(payload.len())
        .expect("payloads are bounded")
        .to_le_bytes();
    let mut out = [0; FRAME_LEN];
    for (to, from) in out
        .iter_mut()
        .zip(FRAME_MAGIC.iter().chain(&length).chain(&crc(salt, &length, payload)))
    {
        *to = *from;
    }
    out
}

/// The length that a frame announces, if it is one.
pub(super) fn announced(frame: &[u8; FRAME_LEN]) -> Result<usize, &'static str> {
    let [a, b, c, d, length @ .., _, _, _, _] = frame;
    if [*a, *b, *c, *d] != FRAME_MAGIC {
        return Err("a record was expected to start here");
    }
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_PAYLOAD {
        Err("the record announces an impossible length")
    } else {
        Ok(length)
    }
}

/// Whether a payload is what its frame was made for.
pub(super) fn matches(salt: &[u8; 8], frame: &[u8; FRAME_LEN], payload: &[u8]) -> bool {
    let [_, _, _, _, length @ .., a, b, c, d] = frame;
    crc(salt, length, payload) == [*a, *b, *c, *d]
}

fn crc(salt: &[u8; 8], length: &[u8; 4], payload: &[u8]) -> [u8; 4] {
    let crc = crc32c::crc32c_append(crc32c::crc32c(salt), length);
    crc32c::crc32c_append(crc, payload).to_le_bytes()
}

impl Record {
    pub(super) fn decode(payload: Bytes) -> Result<Self, &'static str> {
        let mut reader = Reader(payload);
        let record = match reader.u8()? {
            1 => {
                let to = reader.position()?;
                let commits = reader.many(Reader::committed)?;
                Self::Group { to, commits }
            }
            2 => Self::Pairs(reader.many(|reader| {
                let key = reader.key()?;
                let (created, modified) = (reader.u64()?, reader.u64()?);
                Ok(KeyValue {
                    key,
                    value: reader.value()?,
                    created,
                    modified,
                })
            })?),
            3 => Self::Closed(reader.u64()?),
            4 => Self::End(reader.position()?),
            _ => return Err("the record's kind is not known"),
        };
        if reader.0.is_empty() {
            Ok(record)
        } else {
            Err("the record is longer than what it says")
        }
    }
}

/// From which revision to which position a group leads, without decoding it; `None` for other records.
pub(super) fn span(payload: &Bytes) -> Option<(Revision, Position)> {
    let mut reader = Reader(payload.clone());
    if reader.u8() != Ok(1) {
        return None;
    }
    let to = reader.position().ok()?;
    let count = reader.array().map(u32::from_le_bytes).ok()?;
    Some((to.revision.checked_sub(count.into())?, to))
}

fn put_position(out: &mut impl BufMut, position: &Position) {
    out.put_u64_le(position.revision);
    out.put_u64_le(position.digest.keys);
    out.put_u64_le(position.digest.sum);
}

fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("groups and pages are bounded"));
}

fn put_key(out: &mut BytesMut, key: &[u8]) {
    out.put_u16_le(u16::try_from(key.len()).expect("keys are bounded"));
    out.put_slice(key);
}

fn put_value(out: &mut BytesMut, value: &[u8]) {
    out.put_u32_le(u32::try_from(value.len()).expect("values are bounded"));
    out.put_slice(value);
}

/// Reads what was encoded; what it gives shares the payload's memory.
struct Reader(Bytes);

const SHORT: &str = "the record is shorter than what it says";

impl Reader {
    fn take(&mut self, length: usize) -> Result<Bytes, &'static str> {
        if length > self.0.len() {
            Err(SHORT)
        } else {
            Ok(self.0.split_to(length))
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (array, _) = self.0.split_first_chunk::<N>().ok_or(SHORT)?;
        let array = *array;
        self.take(N)?;
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, &'static str> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        self.array().map(u64::from_le_bytes)
    }

    fn key(&mut self) -> Result<Bytes, &'static str> {
        let length = self.array().map(u16::from_le_bytes)?;
        self.take(length.into())
    }

    fn value(&mut self) -> Result<Bytes, &'static str> {
        let length = self.array().map(u32::from_le_bytes)?;
        self.take(length as usize)
    }

    fn position(&mut self) -> Result<Position, &'static str> {
        let revision = self.u64()?;
        Ok(Position {
            revision,
            digest: Digest {
                keys: self.u64()?,
                sum: self.u64()?,
            },
        })
    }

    fn many<T>(&mut self, one: impl Fn(&mut Self) -> Result<T, &'static str>) -> Result<Vec<T>, &'static str> {
        let count = self.array().map(u32::from_le_bytes)?;
        (0..count).map(|_| one(self)).collect()
    }

    fn committed(&mut self) -> Result<Committed, &'static str> {
        let revision = self.u64()?;
        let events = self.many(|reader| {
            let put = reader.u8()?;
            let key = reader.key()?;
            let change = match put {
                0 => Change::Delete,
                1 => {
                    let created = reader.u64()?;
                    Change::Put(KeyValue {
                        key: key.clone(),
                        value: reader.value()?,
                        created,
                        modified: revision,
                    })
                }
                _ => return Err("the change's kind is not known"),
            };
            Ok(Event { key, change, revision })
        })?;
        Ok(Committed { revision, events })
    }
}
