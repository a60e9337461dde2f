//! Which volumes are published, on disk, so that a restarted attestor finds them again.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use mintmark_runtime::fs::{FsError, ensure_dir, read_limited, write_atomic};
use ring::digest::{SHA256, digest};

use super::request::Spec;

/// A larger file is none of ours.
const MAX_FILE: u64 = 256 << 10;

/// Names a volume of a driver: in the table, in the run directory, and on disk. As long for every volume, since paths of sockets are short.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key([u8; 16]);

impl Key {
    /// How many letters its text has.
    pub(super) const TEXT: usize = 32;

    /// The name of a volume of `driver`.
    pub(super) fn new(driver: &str, volume_id: &str) -> Self {
        let whole = digest(&SHA256, format!("{driver}\0{volume_id}").as_bytes());
        let mut key = [0; 16];
        key.iter_mut().zip(whole.as_ref()).for_each(|(to, from)| *to = *from);
        Self(key)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The files, one for each volume.
#[derive(Clone, Debug)]
pub(super) struct Records(PathBuf);

impl Records {
    /// The files in `dir`, which is made when it is missing.
    pub(super) fn open(dir: PathBuf) -> Result<Self, FsError> {
        ensure_dir(&dir, 0o700)?;
        Ok(Self(dir))
    }

    /// Writes down a volume.
    pub(super) fn put(&self, key: Key, spec: &Spec) -> Result<(), FsError> {
        let text = serde_json::to_vec(spec).expect("a volume's description is plain text and numbers");
        write_atomic(&self.file(key), &text, 0o600)
    }

    /// The volume of this key, if one is written down.
    pub(super) fn get(&self, key: Key) -> Option<Spec> {
        read(&self.file(key)).ok()
    }

    /// Forgets a volume, which may be forgotten already.
    pub(super) fn remove(&self, key: Key) -> io::Result<()> {
        match std::fs::remove_file(self.file(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All volumes. A file that cannot be read is left aside and logged: the kubelet asks for its volume again, or for its end.
    pub(super) fn all(&self) -> io::Result<Vec<Spec>> {
        let mut specs = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path) {
                Ok(spec) => specs.push(spec),
                Err(error) => {
                    tracing::warn!(path = %path.display(), error, "a volume's record cannot be read; its volume waits for the kubelet")
                }
            }
        }
        Ok(specs)
    }

    fn file(&self, key: Key) -> PathBuf {
        self.0.join(format!("{key}.json"))
    }
}

fn read(path: &Path) -> Result<Spec, String> {
    let bytes = read_limited(path, MAX_FILE).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::request::{Audience, Files, Layout};
    use super::*;
    use crate::peer::PodInfo;

    #[test]
    fn a_volume_is_found_again_as_it_was_and_a_broken_record_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path().join("csi")).unwrap();
        let spec = Spec {
            driver: "csi.mintmark.dev".into(),
            volume_id: "csi-1".into(),
            target: "/t".into(),
            pod: PodInfo {
                uid: "u".into(),
                namespace: "n".into(),
                name: "p".into(),
                service_account: "s".into(),
            },
            files: Some(Files {
                layout: Layout::Istio,
                audiences: vec![Audience {
                    name: "a".into(),
                    audience: "b".into(),
                }],
            }),
            group: Some(7),
        };
        let key = Key::new(&spec.driver, &spec.volume_id);
        assert_eq!(key.to_string().len(), Key::TEXT);
        assert_ne!(key, Key::new("csi.spiffe.io", &spec.volume_id));
        records.put(key, &spec).unwrap();
        mintmark_runtime::fs::write_new(&dir.path().join("csi/x.json"), b"{", 0o600).unwrap();
        assert_eq!(records.get(key).as_ref(), Some(&spec));
        assert_eq!(records.all().unwrap(), [spec]);
        records.remove(key).unwrap();
        records.remove(key).unwrap();
        assert_eq!((records.all().unwrap(), records.get(key)), (vec![], None));
    }
}
