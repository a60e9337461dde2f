//! Unix sockets in the file system.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group};
use rustix::fs::{AtFlags, CWD, Mode, chmodat, chownat, fchmod};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
use tokio::net::UnixListener;

use super::accept::{Accepted, Acceptor, Limits, Listener, ListenerStats, accept, incoming};
use super::local::LocalStream;
use super::{BACKLOG, NetError};
use crate::clock::Clock;

/// The longest path of a socket: `sun_path` has 108 bytes, the last of which is zero.
pub const MAX_UNIX_PATH: usize = 107;

/// A listening Unix socket, whose file is removed when it is dropped.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// Listens on a socket at `path` with exactly `mode`, whatever the umask, and the group named (or numbered) `group` if there is one. Nobody can
/// connect before mode and group are set. A socket that a dead process left is removed first; everything else that is in the way is left as it is.
///
/// # Errors
/// When the path is too long, it or its directory is a symbolic link, something is in the way, another process answers there, or there
/// is no such group.
pub fn unix_listener(path: &Path, mode: u32, group: Option<&str>) -> Result<UnixSocket, NetError> {
    let group = group.map(find_group).transpose()?;
    let addr = address(path)?;
    clear(path, &addr)?;

    let failed = |action| {
        move |errno: Errno| NetError::Unix {
            action,
            path: path.into(),
            source: errno.into(),
        }
    };
    let socket = socket().map_err(failed("make a socket for"))?;
    // Linux makes the file with the socket's own mode, so that it is never open to more than its owner; the umask is the whole process's and would race.
    fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed("set the mode of the socket for"))?;
    bind(&socket, &addr).map_err(failed("listen on"))?;
    let file = SocketFile::at(path)?;
    if let Some(group) = group {
        let group = Some(rustix::process::Gid::from_raw(group.as_raw()));
        chownat(CWD, path, None, group, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed("set the group (which only root and its members may) of"))?;
    }
    chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty()).map_err(failed("set the mode of"))?;
    listen(&socket, i32::try_from(BACKLOG).unwrap_or(i32::MAX)).map_err(failed("listen on"))?;

    let listener = UnixListener::from_std(socket.into());
    let listener = listener.map_err(|source| NetError::Unix {
        action: "listen on",
        path: path.into(),
        source,
    })?;
    Ok(UnixSocket { listener, file })
}

impl UnixSocket {
    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// The accept loop within `limits`.
    pub fn acceptor(self, limits: Limits, stats: ListenerStats, clock: Clock) -> Acceptor<Self> {
        accept(self, limits, stats, clock)
    }

    /// The accept loop as a stream, in the form that tonic serves.
    pub fn incoming(
        self,
        limits: Limits,
        stats: ListenerStats,
        clock: Clock,
    ) -> impl futures::Stream<Item = io::Result<Accepted<LocalStream>>> + Send {
        incoming(self, limits, stats, clock)
    }
}

impl Listener for UnixSocket {
    type Io = LocalStream;

    async fn accept(&self) -> io::Result<(LocalStream, Option<std::net::SocketAddr>)> {
        self.listener.accept().await.map(|(io, _)| (LocalStream::new(io), None))
    }
}

/// The file of a socket that is ours: told from another's at the same path by its inode.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> Result<Self, NetError> {
        let meta = std::fs::symlink_metadata(path);
        let meta = meta.map_err(|source| NetError::Unix {
            action: "look at",
            path: path.into(),
            source,
        })?;
        Ok(Self {
            path: path.into(),
            inode: (meta.dev(), meta.ino()),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.inode);
        if ours {
            // One that stays is stale, and removed by whoever listens here next.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn find_group(name: &str) -> Result<Gid, NetError> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        _ => Err(NetError::Group(name.to_owned())),
    }
}

fn address(path: &Path) -> Result<SocketAddrUnix, NetError> {
    let length = path.as_os_str().as_bytes().len();
    if length > MAX_UNIX_PATH {
        return Err(NetError::PathTooLong {
            path: path.into(),
            length,
        });
    }
    SocketAddrUnix::new(path).map_err(|errno| NetError::Unix {
        action: "use as a socket's path",
        path: path.into(),
        source: errno.into(),
    })
}

fn socket() -> Result<OwnedFd, Errno> {
    socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}

/// Sees to it that nothing is at `path`, removing at most a socket that nobody listens on.
fn clear(path: &Path, addr: &SocketAddrUnix) -> Result<(), NetError> {
    let failed = |action| {
        move |source| NetError::Unix {
            action,
            path: path.into(),
            source,
        }
    };
    let dir = match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    match std::fs::symlink_metadata(dir) {
        Ok(meta) if meta.is_symlink() => return Err(NetError::Symlink { path: dir.into() }),
        Ok(meta) if meta.is_dir() => {}
        _ => return Err(NetError::NotADirectory { path: dir.into() }),
    }
    let kind = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
    };
    if kind.is_symlink() {
        return Err(NetError::Symlink { path: path.into() });
    }
    if !kind.is_socket() {
        return Err(NetError::NotASocket { path: path.into() });
    }
    let probe = socket().and_then(|socket| connect(&socket, addr));
    match probe {
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path).map_err(failed("remove the stale socket")),
        // A full backlog is an answer too.
        Ok(()) | Err(Errno::AGAIN | Errno::INPROGRESS) => Err(NetError::InUse { path: path.into() }),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("see who listens on")(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::net::unix_connect;

    fn mode_and_group(path: &Path) -> (u32, u32) {
        let meta = std::fs::metadata(path).unwrap();
        (meta.mode() & 0o7777, meta.gid())
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_takes_connections_and_goes_away_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let own_group = rustix::process::getegid().as_raw();
        for mode in [0o600, 0o660, 0o777] {
            let socket = unix_listener(&path, mode, Some(&own_group.to_string())).unwrap();
            assert_eq!(mode_and_group(&path), (mode, own_group));
            let mut acceptor = socket.acceptor(Limits::default(), ListenerStats::default(), Clock::system());
            let (client, _server) = tokio::join!(unix_connect(&path), acceptor.next());
            client.unwrap();
            drop(acceptor);
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        // The standard library's listener leaves its file behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = unix_listener(&path, 0o600, None).unwrap();
        assert!(matches!(unix_listener(&path, 0o600, None), Err(NetError::InUse { .. })));
        // A listener does not remove the file of the one that came after it.
        std::fs::remove_file(&path).unwrap();
        let second = unix_listener(&path, 0o600, None).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn links_and_other_things_in_the_way_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("real")).unwrap();
        symlink(at("real"), at("linked")).unwrap();
        symlink(at("elsewhere"), at("link.sock")).unwrap();
        crate::fs::write_new(&at("file"), b"precious", 0o600).unwrap();
        let refused = |name: &str| unix_listener(&at(name), 0o600, None).unwrap_err();
        assert!(matches!(refused("linked/api.sock"), NetError::Symlink { .. }));
        assert!(matches!(refused("link.sock"), NetError::Symlink { .. }));
        assert!(matches!(refused("file"), NetError::NotASocket { .. }));
        assert!(matches!(refused("real"), NetError::NotASocket { .. }));
        assert!(matches!(refused("missing/api.sock"), NetError::NotADirectory { .. }));
        assert!(matches!(refused("file/api.sock"), NetError::NotADirectory { .. }));
        assert_eq!(std::fs::read(at("file")).unwrap(), b"precious");
        let error = unix_listener(&at("a.sock"), 0o600, Some("no-such-group")).unwrap_err();
        assert!(matches!(error, NetError::Group(_)));
    }

    #[tokio::test]
    async fn a_path_that_the_kernel_would_cut_is_refused_with_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let room = MAX_UNIX_PATH - dir.path().as_os_str().len() - 1;
        unix_listener(&dir.path().join("s".repeat(room)), 0o600, None).unwrap();
        let error = unix_listener(&dir.path().join("s".repeat(room + 1)), 0o600, None)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("has 108 bytes") && error.contains("at most 107"),
            "{error}"
        );
    }
}
