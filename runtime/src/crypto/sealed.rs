//! Secrets at rest: boxes sealed under a key-encryption key.
//!
//! A box is `MMSB`, a version byte (1), an algorithm byte (1 = AES-256-GCM), a random 12-byte nonce, then ciphertext and tag. The
//! six header bytes and the caller's context are authenticated with it, so that a box opens only for what it was sealed for.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::{SecretBytes, random};
use crate::fs::{FsError, write_new};

const KEK_LEN: usize = 32;
const MAGIC: &[u8; 4] = b"MMSB";
const VERSION: u8 = 1;
const AES_256_GCM_ID: u8 = 1;
const HEADER: [u8; 6] = [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], VERSION, AES_256_GCM_ID];

/// A key-encryption key: seals and opens boxes, and is never seen.
pub struct Kek {
    key: LessSafeKey,
}

/// Who besides its owner may read the file of a key-encryption key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KekAccess {
    /// Nobody: mode 0600 or stricter.
    #[default]
    Owner,
    /// The file's group too: mode 0640, or 0660 as the kubelet sets it on a volume of a pod with `fsGroup`.
    OwnerAndGroup,
}

/// Why a box or a key-encryption key was refused.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The file of the key cannot be opened, read or made.
    #[error("cannot {action} key file {path}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The key's file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file of a new key cannot be written.
    #[error(transparent)]
    Write(#[from] FsError),
    /// Others than the owner may read the file.
    #[error(
        "key file {path} has mode {mode:04o}, so that others than its owner can read it; make it private with: chmod 600 {path}"
    )]
    Readable {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is someone else's.
    #[error(
        "key file {path} belongs to user {owner}, who can read and change it; it must belong to root or to user {user}, as whom this runs"
    )]
    Owner {
        /// The key's file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who runs this.
        user: u32,
    },
    /// It is not a regular file.
    #[error("key file {path} is not a regular file")]
    NotAFile {
        /// The key's file.
        path: PathBuf,
    },
    /// It does not hold 32 bytes.
    #[error("key file {path} holds {length}, not exactly 32 bytes; make a new one with: head -c 32 /dev/urandom")]
    Length {
        /// The key's file.
        path: PathBuf,
        /// What it holds.
        length: String,
    },
    /// The bytes are not a sealed box, or one of a later version.
    #[error("not a sealed box that this version can open: {0}")]
    Format(&'static str),
    /// Wrong key, wrong context, or the box was changed.
    #[error(
        "the sealed box does not open: it was changed, was sealed for another purpose, or was sealed under another key"
    )]
    Open,
    /// More than AES-GCM can seal at once.
    #[error("{0} bytes are too many for one sealed box")]
    TooLarge(usize),
}

impl Kek {
    /// The key in `path`: 32 raw bytes in a file that nobody but its owner can read. A missing file is made, mode 0600.
    ///
    /// # Errors
    /// When the file cannot be read or made, is readable to others, or holds something else.
    pub fn load_or_create(path: &Path) -> Result<Self, SealError> {
        Self::load_or_create_with(path, KekAccess::Owner)
    }

    /// As [`Kek::load_or_create`], where `access` says who besides the owner may be able to read an existing file.
    ///
    /// # Errors
    /// As [`Kek::load_or_create`].
    pub fn load_or_create_with(path: &Path, access: KekAccess) -> Result<Self, SealError> {
        if let Some(kek) = Self::load(path, access)? {
            return Ok(kek);
        }
        let bytes = Zeroizing::new(random::<KEK_LEN>());
        match write_new(path, bytes.as_slice(), 0o600) {
            Ok(()) => Ok(Self::from_bytes(&bytes)),
            // Another process made it in this moment: theirs is the key.
            Err(FsError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                let gone = || io::Error::from(io::ErrorKind::NotFound);
                Self::load(path, access)?.ok_or_else(|| SealError::Io {
                    action: "open",
                    path: path.into(),
                    source: gone(),
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The key in an existing file; `None` when there is no file.
    ///
    /// # Errors
    /// As [`Kek::load_or_create`].
    pub fn load(path: &Path, access: KekAccess) -> Result<Option<Self>, SealError> {
        let io_error = |action| {
            move |source| SealError::Io {
                action,
                path: path.into(),
                source,
            }
        };
        let file = match OpenOptions::new().read(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open")(error)),
        };
        check_access(&file, path, access)?;
        // One byte more than a key tells a longer file.
        let mut bytes = Zeroizing::new([0; KEK_LEN + 1]);
        let length = read_up_to(&file, bytes.as_mut_slice()).map_err(io_error("read"))?;
        let length = match length {
            KEK_LEN => return Ok(Some(Self::from_slice(&bytes[..KEK_LEN]))),
            shorter @ ..KEK_LEN => format!("{shorter} bytes"),
            _ => format!("more than {KEK_LEN} bytes"),
        };
        Err(SealError::Length {
            path: path.into(),
            length,
        })
    }

    /// The key of these bytes, which the caller wipes.
    pub fn from_bytes(bytes: &[u8; KEK_LEN]) -> Self {
        Self::from_slice(bytes)
    }

    /// Seals `plaintext` for `context`: what it is and where it lives, so that a box cannot stand in for another.
    ///
    /// One key seals fewer than 2^32 boxes safely, as the nonces are random; keys and caches of an installation stay far below.
    ///
    /// # Errors
    /// When there is more plaintext than AES-GCM can seal at once (64 GiB).
    pub fn seal(&self, context: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce = random::<NONCE_LEN>();
        // Allocated once, so that no copy of the plaintext is left behind by growth.
        let mut sealed = Vec::with_capacity(HEADER.len() + NONCE_LEN + plaintext.len() + MAX_TAG_LEN);
        sealed.extend_from_slice(&HEADER);
        sealed.extend_from_slice(&nonce);
        let body = sealed.len();
        sealed.extend_from_slice(plaintext);
        let (_, in_out) = sealed.split_at_mut(body);
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), associated(context), in_out)
            .map_err(|_| SealError::TooLarge(plaintext.len()))?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Opens a box that was sealed for `context`.
    ///
    /// # Errors
    /// When it is not a box, was changed, or was sealed under another key or for another context.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<SecretBytes, SealError> {
        let rest = sealed
            .strip_prefix(MAGIC)
            .ok_or(SealError::Format("it does not begin as one"))?;
        let [VERSION, AES_256_GCM_ID, rest @ ..] = rest else {
            return Err(SealError::Format("its version or algorithm is unknown"));
        };
        let (nonce, body) = rest
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(SealError::Format("it is too short"))?;
        let mut bytes = Zeroizing::new(body.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self
            .key
            .open_in_place(nonce, associated(context), &mut bytes)
            .map_err(|_| SealError::Open)?
            .len();
        bytes.truncate(length);
        Ok(bytes.into())
    }

    fn from_slice(bytes: &[u8]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("an AES-256 key has 32 bytes");
        Self {
            key: LessSafeKey::new(key),
        }
    }
}

impl std::fmt::Debug for Kek {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kek(redacted)")
    }
}

fn associated(context: &[u8]) -> Aad<Vec<u8>> {
    // The header has a fixed length, so that header and context cannot run into each other.
    Aad::from([HEADER.as_slice(), context].concat())
}

fn check_access(file: &File, path: &Path, access: KekAccess) -> Result<(), SealError> {
    let meta = file.metadata().map_err(|source| SealError::Io {
        action: "look at",
        path: path.into(),
        source,
    })?;
    if !meta.is_file() {
        return Err(SealError::NotAFile { path: path.into() });
    }
    let (mode, user) = (meta.mode() & 0o7777, rustix::process::geteuid().as_raw());
    let refused = match access {
        KekAccess::Owner => 0o077,
        KekAccess::OwnerAndGroup => 0o007,
    };
    if mode & refused != 0 {
        return Err(SealError::Readable {
            path: path.into(),
            mode,
        });
    }
    if meta.uid() != user && meta.uid() != 0 {
        return Err(SealError::Owner {
            path: path.into(),
            owner: meta.uid(),
            user,
        });
    }
    Ok(())
}

fn read_up_to(mut file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_box_opens_only_unchanged_under_its_key_and_for_its_context() {
        let (kek, other) = (Kek::from_bytes(&[1; 32]), Kek::from_bytes(&[2; 32]));
        let sealed = kek.seal(b"slot a", b"secret").unwrap();
        assert_eq!(kek.open(b"slot a", &sealed).unwrap().expose(), b"secret");
        assert!(matches!(kek.open(b"slot b", &sealed), Err(SealError::Open)));
        assert!(matches!(other.open(b"slot a", &sealed), Err(SealError::Open)));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(kek.open(b"slot a", &changed).is_err(), "byte {at} is not covered");
            assert!(kek.open(b"slot a", &sealed[..at]).is_err(), "cut at {at}");
        }
        assert_ne!(kek.seal(b"slot a", b"secret").unwrap(), sealed);
    }

    #[test]
    fn a_new_key_is_private_and_stays_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        let sealed = Kek::load_or_create(&path).unwrap().seal(b"", b"x").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(
            Kek::load_or_create(&path).unwrap().open(b"", &sealed).unwrap().expose(),
            b"x"
        );
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        Kek::load_or_create(&path).unwrap();
        for (mode, owner, group) in [
            (0o600, true, true),
            (0o400, true, true),
            (0o640, false, true),
            (0o660, false, true),
            (0o604, false, false),
            (0o644, false, false),
        ] {
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(Kek::load_or_create(&path).is_ok(), owner, "{mode:o}");
            let with_group = Kek::load_or_create_with(&path, KekAccess::OwnerAndGroup);
            assert_eq!(with_group.is_ok(), group, "{mode:o}");
        }
        let error = Kek::load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("mode 0644") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kek");
        for length in [0, 31, 33, 5000] {
            let _ = std::fs::remove_file(&path);
            write_new(&path, &vec![0; length], 0o600).unwrap();
            assert!(
                matches!(Kek::load_or_create(&path), Err(SealError::Length { .. })),
                "{length}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens(context: Vec<u8>, plaintext: Vec<u8>) {
            let kek = Kek::from_bytes(&[7; 32]);
            let sealed = kek.seal(&context, &plaintext).unwrap();
            prop_assert_eq!(kek.open(&context, &sealed).unwrap().expose().to_vec(), plaintext);
        }

        #[test]
        fn bytes_from_outside_never_panic(bytes: Vec<u8>) {
            prop_assert!(Kek::from_bytes(&[7; 32]).open(b"", &bytes).is_err());
        }
    }
}
