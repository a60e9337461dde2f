//! A volume's place: its directory, the memory behind it, and the pod's view of it.
//!
//! ```text
//! <csi.dir>/<key>/                 ours, writable; a tmpfs of its own when files are wanted
//!     spire-agent.sock             the pod's socket
//!     socket -> spire-agent.sock
//!     svid.pem -> ..data/svid.pem  files, if any are wanted
//! <target>                         the same directory, bound read-only: what the pod sees
//! <csi.dir>/<key>.ro               the same for a moment, from which the pod's view is made
//! ```
//!
//! The attestor is in a container: what it mounts propagates to the host, from there to the pods, and to the next container of the attestor. What is changed of a mount afterwards does not; so
//! the pod's view is read-only from its first moment.
//!
//! Every step may be done twice, and undone when it was not done: a crash may come between any two. All of it blocks.

use std::ffi::CStr;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mintmark_runtime::fs::{FsError, ensure_dir};
use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};

/// The file system behind files: in memory, bounded, and never swapped out where the kernel can promise that (Linux 6.4).
const TMPFS: &CStr = c"mode=0755,size=8m,nr_inodes=1k,noswap";
/// For kernels that know no `noswap`.
const TMPFS_BEFORE_6_4: &CStr = c"mode=0755,size=8m,nr_inodes=1k";
/// What nothing in a volume needs.
const STRICT: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
/// No more mounts than this are found on top of each other.
const MAX_STACK: usize = 16;

/// Why a volume's place could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    /// A directory.
    #[error(transparent)]
    Dir(#[from] FsError),
    /// Another step.
    #[error("cannot {action} {path}: {source}{}", hint(source))]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; mounting needs CAP_SYS_ADMIN: does the attestor's container run privileged?"
        }
        _ => "",
    }
}

fn failed<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> PlaceError {
    move |source| PlaceError::Io {
        action,
        path: path.into(),
        source: source.into(),
    }
}

/// Makes the volume's directory, on memory of its own when it is to hold files.
pub(super) fn prepare(dir: &Path, with_files: bool) -> Result<(), PlaceError> {
    ensure_dir(dir, 0o755)?;
    if !with_files || is_mount_point(dir)? {
        return Ok(());
    }
    let tmpfs = |options: &CStr| mount("mintmark", dir, "tmpfs", STRICT, options);
    let mounted = match tmpfs(TMPFS) {
        Err(Errno::INVAL) => tmpfs(TMPFS_BEFORE_6_4),
        done => done,
    };
    mounted.map_err(failed("mount a tmpfs on", dir))
}

/// Shows the directory at `target`, read-only.
pub(super) fn publish(dir: &Path, target: &Path) -> Result<(), PlaceError> {
    ensure_dir(target, 0o755)?;
    if is_published(dir, target) {
        return Ok(());
    }
    // Whatever is left there is not what the pod is to see.
    clear(target)?;
    let view = view(dir);
    ensure_dir(&view, 0o700)?;
    clear(&view)?;
    mount_bind(dir, &view).map_err(failed("bind the volume to", &view))?;
    mount_remount(&view, MountFlags::BIND | MountFlags::RDONLY | STRICT, c"")
        .map_err(failed("make read-only the volume at", &view))?;
    // A bind of a mount begins with that mount's flags.
    mount_bind(&view, target).map_err(failed("bind the volume to", target))?;
    discard(&view)
}

/// Where the pod's view is made.
fn view(dir: &Path) -> PathBuf {
    dir.with_extension("ro")
}

/// Whether `target` shows the directory, read-only.
pub(super) fn is_published(dir: &Path, target: &Path) -> bool {
    shows(dir, target) && statvfs(target).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Takes the pod's view away, and the directory that it was on.
pub(super) fn unpublish(target: &Path) -> Result<(), PlaceError> {
    discard(target)
}

/// Removes the directory with everything in it, and the memory behind it.
pub(super) fn remove(dir: &Path) -> Result<(), PlaceError> {
    // A crash may have left it.
    discard(&view(dir))?;
    clear(dir)?;
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", dir)(error)),
        _ => Ok(()),
    }
}

/// Unmounts whatever is mounted on `path`, and removes the directory.
fn discard(path: &Path) -> Result<(), PlaceError> {
    clear(path)?;
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Unmounts whatever is mounted on `path`. What is in use goes away with its last user.
fn clear(path: &Path) -> Result<(), PlaceError> {
    for _ in 0..MAX_STACK {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there, or nothing is there.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(failed("unmount", path)(errno)),
        }
    }
    Err(failed("unmount", path)(io::Error::other(format!(
        "more than {MAX_STACK} mounts are on top of each other"
    ))))
}

/// Whether a file system of its own is mounted on `dir`.
fn is_mount_point(dir: &Path) -> Result<bool, PlaceError> {
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|meta| meta.dev());
    let above = dir.parent().unwrap_or(dir);
    let (dir_is_on, above_is_on) = (
        device(dir).map_err(failed("look at", dir))?,
        device(above).map_err(failed("look at", above))?,
    );
    Ok(dir_is_on != above_is_on)
}

/// Whether the two paths are one directory.
fn shows(dir: &Path, target: &Path) -> bool {
    let identity = |path: &Path| std::fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()));
    matches!((identity(dir), identity(target)), (Ok(one), Ok(other)) if one == other)
}
