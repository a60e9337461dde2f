//! What the kernel says about a process, as selectors of kind `unix`, spelled as SPIRE spells them.
//!
//! | selector | of |
//! |---|---|
//! | `unix:uid:N`, `unix:gid:N` | the effective user and group |
//! | `unix:user:NAME`, `unix:group:NAME` | their names, where they have one |
//! | `unix:supplementary_gid:N`, `unix:supplementary_group:NAME` | each supplementary group |
//! | `unix:path:/PATH` | the program, as the process's own mount namespace names it |
//! | `unix:sha256:HEX` | the program's content |

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use mintmark_identity::{Selector, Selectors};
use mintmark_runtime::clock::Clock;
use mintmark_runtime::task::BlockingPool;
use ring::digest::{Context, SHA256};

use super::PeerError;
use super::names::{Names, Whose};
use super::process::{Process, program};
use super::status::{Status, status};

/// The kind of these selectors.
pub const KIND: &str = "unix";
/// So many digests of programs are remembered.
const MAX_DIGESTS: usize = 1024;

/// What some identity of this node asks about, beyond what is always found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Names of users and groups.
    pub names: bool,
    /// Digests of programs.
    pub digests: bool,
}

/// What may be spent on a process.
#[derive(Clone, Copy, Debug)]
pub struct UnixLimits {
    /// A larger program is not read, and has no `unix:sha256` selector.
    pub program_bytes: u64,
}

/// Finds out what there is to say about processes. A handle.
#[derive(Clone)]
pub struct Unix {
    names: Names,
    digests: Digests,
}

/// What was found out about a process.
#[derive(Clone, Debug)]
pub struct Attested {
    /// What it is.
    pub selectors: Selectors,
    /// What could not be found out although it was asked for, and why: for people.
    pub missing: Vec<String>,
}

impl Unix {
    /// An attestor of processes that blocks on `pool` alone.
    pub fn new(limits: UnixLimits, pool: BlockingPool, clock: Clock) -> Self {
        Self {
            names: Names::new(pool.clone(), clock),
            digests: Digests {
                limits,
                pool,
                known: Arc::default(),
            },
        }
    }

    /// What `process` is now.
    ///
    /// # Errors
    /// When it has ended, has become someone else since it connected, or the kernel does not say.
    pub async fn attest(&self, process: &Process, needs: Needs) -> Result<Attested, PeerError> {
        let pid = process.pid();
        process.check_alive()?;
        let status = status(pid)?;
        let path = std::fs::read_link(format!("/proc/{pid}/exe"));
        let mut missing = Vec::new();
        // The digest is remembered by the file, so the file has to be the one that this process runs: all of it lies between the two looks.
        let digest = match needs.digests {
            true => self
                .digests
                .of(pid)
                .await
                .map_err(|why| missing.push(format!("unix:sha256 ({why})")))
                .ok(),
            false => None,
        };
        let program_now = program(pid);
        process.check_alive()?;
        check_unchanged(process, &status, program_now)?;

        let mut values = vec![format!("uid:{}", status.uid), format!("gid:{}", status.gid)];
        values.extend(status.groups.iter().map(|gid| format!("supplementary_gid:{gid}")));
        if needs.names {
            values.extend(self.name_values(&status).await);
        }
        match path {
            Ok(path) => values.extend(path.to_str().map(|path| format!("path:{path}"))),
            Err(error) => missing.push(format!("unix:path ({error})")),
        }
        values.extend(digest.map(|digest| format!("sha256:{}", hex::encode(digest))));
        let selectors = values
            .iter()
            .filter_map(|value| Selector::new(KIND, value).ok())
            .collect();
        Ok(Attested { selectors, missing })
    }

    async fn name_values(&self, status: &Status) -> Vec<String> {
        let (user, group) = (Whose::User(status.uid), Whose::Group(status.gid));
        let supplementary = status.groups.iter().copied().map(Whose::Group);
        let wanted: Vec<_> = [user, group].into_iter().chain(supplementary.clone()).collect();
        let names = self.names.of(&wanted).await;
        let value = |whose, what| names.get(&whose).map(|name| format!("{what}:{name}"));
        let values = [value(user, "user"), value(group, "group")].into_iter();
        values
            .chain(supplementary.map(|whose| value(whose, "supplementary_group")))
            .flatten()
            .collect()
    }
}

/// Whoever connects and then becomes another user or another program could otherwise lend its connection to who it was before.
fn check_unchanged(process: &Process, status: &Status, program_now: Option<(u64, u64)>) -> Result<(), PeerError> {
    let changed = |was: String, is: String| {
        Err(PeerError::Changed {
            pid: process.pid(),
            was,
            is,
        })
    };
    if (status.uid, status.gid) != (process.uid(), process.gid()) {
        let text = |uid, gid| format!("user {uid}, group {gid}");
        return changed(text(process.uid(), process.gid()), text(status.uid, status.gid));
    }
    match (process.program_at_connect(), program_now) {
        (Some(was), Some(is)) if was != is => changed("one program".into(), "another one".into()),
        _ => Ok(()),
    }
}

/// Digests of programs, remembered by what tells a changed file.
#[derive(Clone)]
struct Digests {
    limits: UnixLimits,
    pool: BlockingPool,
    known: Arc<Mutex<HashMap<File4, [u8; 32]>>>,
}

/// Device, inode, size, and times of change of content and inode.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct File4 {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Digests {
    async fn of(&self, pid: i32) -> Result<[u8; 32], String> {
        // The link in /proc opens the file that runs, whatever its path means in our mount namespace.
        let file = File::open(format!("/proc/{pid}/exe")).map_err(|error| error.to_string())?;
        let identity = identity(&file).map_err(|error| error.to_string())?;
        if let Some(digest) = self.known().get(&identity) {
            return Ok(*digest);
        }
        let limit = self.limits.program_bytes;
        if identity.size > limit {
            return Err(format!(
                "the program has {} bytes, and at most {limit} are read: see attest.program_size",
                identity.size
            ));
        }
        let digest = self.pool.try_run(move || digest(file, limit)).await;
        let (digest, after) = digest
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        if after != identity {
            return Err("the program was changed while it was read".into());
        }
        let mut known = self.known();
        if known.len() >= MAX_DIGESTS {
            // Whatever is still needed is read again.
            known.clear();
        }
        known.insert(identity, digest);
        Ok(digest)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<File4, [u8; 32]>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn identity(file: &File) -> std::io::Result<File4> {
    let meta = file.metadata()?;
    Ok(File4 {
        device: meta.dev(),
        inode: meta.ino(),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

fn digest(mut file: File, limit: u64) -> std::io::Result<([u8; 32], File4)> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 64 << 10];
    let mut left = limit;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        left = left
            .checked_sub(read as u64)
            .ok_or_else(|| std::io::Error::other("the program grew beyond the limit"))?;
        context.update(&buffer[..read]);
    }
    let digest = context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");
    Ok((digest, identity(&file)?))
}

#[cfg(test)]
mod tests;
