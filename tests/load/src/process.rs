//! What the kernel knows about the server's process and its disk.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        statfs::{FsType, TMPFS_MAGIC, statfs},
    },
    unistd::{SysconfVar, sysconf},
};

/// ramfs has no constant in nix.
const RAMFS_MAGIC: u64 = 0x8584_58f6;

/// A process by its ID.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process(pub(crate) u32);

/// Resident memory, KiB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) now: u64,
    pub(crate) peak: u64,
}

impl Process {
    /// This one.
    pub(crate) fn own() -> Self {
        Self(std::process::id())
    }

    /// Whether it has ended, or is about to be reaped.
    pub(crate) fn is_gone(self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0));
        stat.map_or(true, |text| {
            text.rsplit_once(") ")
                .is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
        })
    }

    /// CPU time of all its threads since it began, ended ones included.
    pub(crate) fn cpu(self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.0);
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}: has the server ended?"))?;
        let ticks = ticks_of(&text).with_context(|| format!("{path} is not as proc(5) says"))?;
        let hertz = sysconf(SysconfVar::CLK_TCK)?
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(100);
        Ok(Duration::from_secs(ticks) / hertz)
    }

    /// Its memory.
    pub(crate) fn memory(self) -> Result<Memory> {
        let path = format!("/proc/{}/status", self.0);
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}: has the server ended?"))?;
        let of = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok())
                .with_context(|| format!("{path} has no {name}"))
        };
        Ok(Memory {
            now: of("VmRSS:")?,
            peak: of("VmHWM:")?,
        })
    }
}

/// `utime` and `stime`, fields 14 and 15; the second field may hold anything, spaces and parentheses too.
fn ticks_of(stat: &str) -> Option<u64> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

/// Refuses to measure where an fsync costs nothing.
pub(crate) fn refuse_memory_disk(dir: &Path) -> Result<()> {
    let found = statfs(dir)
        .with_context(|| format!("look at --data-dir {}", dir.display()))?
        .filesystem_type();
    if found == TMPFS_MAGIC || is_ramfs(found) {
        bail!(
            "--data-dir {} is in memory, where nothing is durable: put the server's data on a real disk",
            dir.display()
        );
    }
    Ok(())
}

fn is_ramfs(found: FsType) -> bool {
    u64::try_from(found.0).is_ok_and(|magic| magic == RAMFS_MAGIC)
}

/// Thousands of links are as many descriptors.
pub(crate) fn raise_descriptor_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let line = "42 (a) b (c) S 1 42 42 0 -1 4194560 5 0 0 0 170 30 0 0 20 0 3 0 9 1 2";
        assert_eq!(ticks_of(line), Some(200));
        assert_eq!(ticks_of("42 (a S 1"), None);
    }

    #[test]
    fn a_process_has_memory_and_cpu_time() {
        let own = Process::own();
        own.cpu().unwrap();
        let memory = own.memory().unwrap();
        assert!(memory.now > 0 && memory.peak >= memory.now);
    }

    #[test]
    fn a_directory_in_memory_is_refused() {
        let refused = refuse_memory_disk(Path::new("/dev/shm")).unwrap_err();
        assert!(format!("{refused:#}").contains("in memory"), "{refused:#}");
    }
}
