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
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mintmark_identity::{Selector, Selectors};
use mintmark_runtime::clock::{Clock, TimedOut};
use mintmark_runtime::task::BlockingPool;
use ring::digest::{Context, SHA256};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::PeerError;
use super::names::{Names, Whose};
use super::process::{Process, program};
use super::status::{Status, status};

/// The kind of these selectors.
pub const KIND: &str = "unix";
/// So many digests of programs are remembered.
const MAX_DIGESTS: usize = 1024;
/// How long digest and names of one caller may take, its turn included.
const PATIENCE: Duration = Duration::from_secs(10);
/// A file's time of change moves in steps of some milliseconds: of one that was changed just now, that time does not tell a further change. Seconds.
const SETTLED: i64 = 2;

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
    turns: Turns,
    clock: Clock,
}

/// What was found out about a process.
#[derive(Clone, Debug)]
pub struct Attested {
    /// What it is.
    pub selectors: Selectors,
    /// What could not be found out although it was asked for, and why: for people.
    pub missing: Vec<String>,
    /// Whether that is so for good. Otherwise the caller may well have more selectors than were found.
    pub is_sure: bool,
}

/// Why something was not found out.
struct Unknown {
    why: String,
    /// Whether it may well be found out a little later.
    is_passing: bool,
}

impl Unknown {
    fn passing(why: impl ToString) -> Self {
        Self {
            why: why.to_string(),
            is_passing: true,
        }
    }
}

impl From<io::Error> for Unknown {
    fn from(error: io::Error) -> Self {
        use nix::libc::{EAGAIN, EIO, EMFILE, ENFILE, ENOMEM, ESTALE, ETIMEDOUT};
        let passing = [EAGAIN, EIO, EMFILE, ENFILE, ENOMEM, ESTALE, ETIMEDOUT];
        Self {
            is_passing: error.raw_os_error().is_some_and(|code| passing.contains(&code)),
            why: error.to_string(),
        }
    }
}

impl Unix {
    /// An attestor of processes that blocks on `pool` alone.
    pub fn new(limits: UnixLimits, pool: BlockingPool, clock: Clock) -> Self {
        Self {
            names: Names::new(pool.clone(), clock.clone()),
            digests: Digests {
                limits,
                pool,
                known: Arc::default(),
                clock: clock.clone(),
            },
            turns: Turns::default(),
            clock,
        }
    }

    /// What `process` is now.
    ///
    /// # Errors
    /// When it has ended, has become someone else since it connected, or the kernel does not say.
    pub async fn attest(&self, process: &Process, needs: Needs) -> Result<Attested, PeerError> {
        let pid = process.pid();
        let turn = self.turn(process.uid(), needs).await;
        process.check_alive()?;
        let status = status(pid)?;
        let path = program_path(pid);
        // The digest is remembered by the file, so the file has to be the one that this process runs: all of it lies between the two looks.
        let found = match turn {
            Ok(_) => self.clock.timeout(PATIENCE, self.slow(pid, &status, needs)).await,
            Err(late) => Err(late),
        };
        let program_now = program(pid);
        process.check_alive()?;
        check_unchanged(process, &status, program_now)?;
        drop(turn);

        let (names, digest) = found.unwrap_or_else(|late| (unknown(needs.names, late), unknown(needs.digests, late)));
        let (mut missing, mut is_sure) = (Vec::new(), true);
        let mut miss = |what: &str, unknown: Unknown| {
            missing.push(format!("{what} ({})", unknown.why));
            is_sure &= !unknown.is_passing;
        };
        let mut values = vec![format!("uid:{}", status.uid), format!("gid:{}", status.gid)];
        values.extend(status.groups.iter().map(|gid| format!("supplementary_gid:{gid}")));
        match names {
            Ok(names) => values.extend(names.iter().flat_map(|names| name_values(&status, names))),
            Err(unknown) => miss("unix:user, unix:group, unix:supplementary_group", unknown),
        }
        match path {
            Ok(path) => values.extend(path.map(|path| format!("path:{path}"))),
            Err(error) => miss("unix:path", error.into()),
        }
        match digest {
            Ok(digest) => values.extend(digest.map(|digest| format!("sha256:{}", hex::encode(digest)))),
            Err(unknown) => miss("unix:sha256", unknown),
        }
        let selectors = values
            .iter()
            .filter_map(|value| Selector::new(KIND, value).ok())
            .collect();
        Ok(Attested {
            selectors,
            missing,
            is_sure,
        })
    }

    /// The callers of one user take turns at what takes threads: many who ask for the same at once have it found out once, and one user cannot keep the threads
    /// from the others.
    async fn turn(&self, uid: u32, needs: Needs) -> Result<Option<Turn>, TimedOut> {
        match needs == Needs::default() {
            true => Ok(None),
            false => self.clock.timeout(PATIENCE, self.turns.take(uid)).await.map(Some),
        }
    }

    /// What takes threads, as far as it is needed.
    async fn slow(&self, pid: i32, status: &Status, needs: Needs) -> Slow {
        let names = match needs.names {
            true => self.names.of(&whose(status)).await.map(Some).map_err(Unknown::passing),
            false => Ok(None),
        };
        let digest = match needs.digests {
            true => self.digests.of(pid).await.map(Some),
            false => Ok(None),
        };
        (names, digest)
    }
}

/// Names and digest, as far as they were needed.
type Slow = (
    Result<Option<HashMap<Whose, Arc<str>>>, Unknown>,
    Result<Option<[u8; 32]>, Unknown>,
);

fn unknown<T>(is_needed: bool, late: TimedOut) -> Result<Option<T>, Unknown> {
    match is_needed {
        true => Err(Unknown::passing(late)),
        false => Ok(None),
    }
}

/// Whose names stand in selectors.
fn whose(status: &Status) -> Vec<Whose> {
    let supplementary = status.groups.iter().copied().map(Whose::Group);
    [Whose::User(status.uid), Whose::Group(status.gid)]
        .into_iter()
        .chain(supplementary)
        .collect()
}

fn name_values(status: &Status, names: &HashMap<Whose, Arc<str>>) -> Vec<String> {
    let value = |whose, what| names.get(&whose).map(|name| format!("{what}:{name}"));
    let own = [
        value(Whose::User(status.uid), "user"),
        value(Whose::Group(status.gid), "group"),
    ];
    let supplementary = status.groups.iter().copied().map(Whose::Group);
    own.into_iter()
        .chain(supplementary.map(|whose| value(whose, "supplementary_group")))
        .flatten()
        .collect()
}

/// Whose turn it is, by user.
#[derive(Clone, Default)]
struct Turns(Arc<Mutex<HashMap<u32, Arc<AsyncMutex<()>>>>>);

type Turn = OwnedMutexGuard<()>;

impl Turns {
    async fn take(&self, uid: u32) -> Turn {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds or waits for are of no more use.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(uid).or_default())
        };
        turn.lock_owned().await
    }
}

/// The path of the program that runs as `pid`, if it is text. A program that was replaced on disk, as by an upgrade, keeps its path for as long as it runs: the
/// kernel says of it that it is deleted, which a name of that ending alone is not.
fn program_path(pid: i32) -> io::Result<Option<String>> {
    let link = format!("/proc/{pid}/exe");
    let path = std::fs::read_link(&link)?;
    let Some(path) = path.to_str() else { return Ok(None) };
    let path = match path.strip_suffix(" (deleted)") {
        Some(was) if std::fs::metadata(&link)?.nlink() == 0 => was,
        _ => path,
    };
    Ok(Some(path.to_owned()))
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
    clock: Clock,
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
    async fn of(&self, pid: i32) -> Result<[u8; 32], Unknown> {
        // The link in /proc opens the file that runs, whatever its path means in our mount namespace.
        let file = File::open(format!("/proc/{pid}/exe"))?;
        let identity = identity(&file)?;
        if let Some(digest) = self.known().get(&identity) {
            return Ok(*digest);
        }
        let limit = self.limits.program_bytes;
        if identity.size > limit {
            return Err(Unknown {
                why: format!(
                    "the program has {} bytes, and at most {limit} are read: see attest.program_size",
                    identity.size
                ),
                is_passing: false,
            });
        }
        let this = self.clone();
        // Remembered by the thread, so that what took too long for this caller is there for the next.
        let digest = self.pool.run(move || this.read(file, identity)).await;
        digest.map_err(Unknown::passing)?
    }

    fn read(&self, file: File, identity: File4) -> Result<[u8; 32], Unknown> {
        let (digest, after) = digest(file, self.limits.program_bytes)?;
        if after != identity {
            return Err(Unknown::passing("the program was changed while it was read"));
        }
        if identity.changed.0 <= self.clock.unix() - SETTLED {
            let mut known = self.known();
            if known.len() >= MAX_DIGESTS {
                // Whatever is still needed is read again.
                known.clear();
            }
            known.insert(identity, digest);
        }
        Ok(digest)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<File4, [u8; 32]>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn identity(file: &File) -> io::Result<File4> {
    let meta = file.metadata()?;
    Ok(File4 {
        device: meta.dev(),
        inode: meta.ino(),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

fn digest(mut file: File, limit: u64) -> io::Result<([u8; 32], File4)> {
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
            .ok_or_else(|| io::Error::other("the program grew beyond the limit"))?;
        context.update(&buffer[..read]);
    }
    let digest = context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");
    Ok((digest, identity(&file)?))
}

#[cfg(test)]
mod tests;
