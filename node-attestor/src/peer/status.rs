//! `/proc/<pid>/status` and `stat`: the few lines that are needed.

use std::fs::File;
use std::io::{self, Read};

use super::PeerError;

/// More than the kernel ever writes: 65,536 supplementary groups have up to 11 bytes each.
const MAX_STATUS: u64 = 1 << 20;

/// Who a process is, by its effective user and group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

/// What the kernel says about `pid` now.
pub(super) fn status(pid: i32) -> Result<Status, PeerError> {
    let text = read(pid, "status", "read the status")?;
    parse(&text).map_err(|field| PeerError::Status { pid, field })
}

/// When `pid` was started, in clock ticks since boot: field 22 of `stat`. The program's name, in parentheses, may hold anything.
pub(super) fn start_time(pid: i32) -> Result<u64, PeerError> {
    let text = read(pid, "stat", "read the start time")?;
    let behind_name = text.rsplit_once(')').map(|(_, rest)| rest);
    let field = behind_name.and_then(|rest| rest.split_ascii_whitespace().nth(19));
    field.and_then(|field| field.parse().ok()).ok_or(PeerError::Status {
        pid,
        field: "start time",
    })
}

fn read(pid: i32, file: &str, action: &'static str) -> Result<String, PeerError> {
    let read = || {
        let mut text = Vec::new();
        File::open(format!("/proc/{pid}/{file}"))?
            .take(MAX_STATUS)
            .read_to_end(&mut text)?;
        // A name may be any bytes; what is needed is ASCII.
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    read().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => PeerError::Ended(pid),
        _ if source.raw_os_error() == Some(nix::libc::ESRCH) => PeerError::Ended(pid),
        _ => PeerError::Io { action, pid, source },
    })
}

fn parse(text: &str) -> Result<Status, &'static str> {
    // The name is in the first line, and the kernel escapes a newline in it: a line that starts with a field is that field.
    let line = |field: &str| text.lines().find_map(|line| line.strip_prefix(field));
    // Real, effective, saved, file system.
    let effective = |field| line(field)?.split_ascii_whitespace().nth(1)?.parse().ok();
    let groups = line("Groups:").ok_or("Groups")?;
    let groups = groups
        .split_ascii_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>();
    Ok(Status {
        uid: effective("Uid:").ok_or("Uid")?,
        gid: effective("Gid:").ok_or("Gid")?,
        groups: groups.map_err(|_| "Groups")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_ids_and_all_groups_are_read() {
        let text = "Name:\tUid: 0\nUmask:\t0022\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t9 10 \n";
        assert_eq!(
            parse(text),
            Ok(Status {
                uid: 2,
                gid: 6,
                groups: vec![9, 10]
            })
        );
        let none = "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t\n";
        assert_eq!(
            parse(none),
            Ok(Status {
                uid: 0,
                gid: 0,
                groups: vec![]
            })
        );
    }

    #[test]
    fn what_is_not_a_status_is_an_error() {
        for (text, field) in [
            ("", "Groups"),
            ("Uid:\t0\nGid:\t0\t0\t0\t0\nGroups:\t\n", "Uid"),
            ("Uid:\t0\t0\t0\t0\nGid:\tx\ty\nGroups:\t\n", "Gid"),
            ("Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t1 x\n", "Groups"),
            ("Uid:\t0\t-1\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t\n", "Uid"),
        ] {
            assert_eq!(parse(text), Err(field), "{text:?}");
        }
    }

    #[test]
    fn our_own_status_is_ours() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(status(pid).unwrap().uid, nix::unistd::geteuid().as_raw());
        assert!(start_time(pid).unwrap() > 0);
        assert!(matches!(status(i32::MAX), Err(PeerError::Ended(_))));
    }
}
