//! What is where in the directory.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use mintmark_runtime::fs::{ensure_dir, write_atomic};
use ring::digest::{SHA256, digest};

use crate::failure::{Failure, refused};

/// Sockets with longer paths go elsewhere: the kernel takes 107 bytes, and what is copied into a container's mount is longer.
const MAX_SOCKET_PATH: usize = 100;
const WORKLOAD_SOCKET: &str = "workload.sock";
const ADMIN_SOCKET: &str = "admin.sock";

/// What is where.
pub struct Layout {
    pub dir: PathBuf,
    pub state: PathBuf,
    pub bundle: PathBuf,
    pub server_data: PathBuf,
    pub attestor_data: PathBuf,
    pub workload_socket: PathBuf,
    pub admin_socket: PathBuf,
}

impl Layout {
    /// Makes the directory where it is missing. Others may enter it, to reach the Workload API; what is secret is in directories that they may not.
    pub fn of(dir: &Path) -> Result<Self, Failure> {
        ensure_dir(dir, 0o755).map_err(|error| Failure::Refused(format!("{error}; --dir names another place")))?;
        let dir = dir
            .canonicalize()
            .map_err(|error| Failure::Refused(format!("cannot find {}: {error}", dir.display())))?;
        // There are keys in it.
        let ignore = dir.join(".gitignore");
        if !ignore.exists() {
            write_atomic(&ignore, b"*\n", 0o644).map_err(refused)?;
        }
        let sockets = match fits(&dir) {
            true => dir.clone(),
            false => elsewhere(&dir)?,
        };
        Ok(Self {
            state: dir.join("dev.json"),
            bundle: dir.join("bundle.pem"),
            server_data: dir.join("server"),
            attestor_data: dir.join("attestor"),
            workload_socket: sockets.join(WORKLOAD_SOCKET),
            admin_socket: sockets.join(ADMIN_SOCKET),
            dir,
        })
    }
}

fn fits(dir: &Path) -> bool {
    dir.join(WORKLOAD_SOCKET).as_os_str().len() <= MAX_SOCKET_PATH
}

/// A directory with a short path for the sockets of `dir`: under `$XDG_RUNTIME_DIR`, or one of our own under `/tmp`.
fn elsewhere(dir: &Path) -> Result<PathBuf, Failure> {
    let hash = hex::encode(&digest(&SHA256, dir.as_os_str().as_encoded_bytes()).as_ref()[..6]);
    let runtime = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|runtime| runtime.is_absolute() && runtime.is_dir());
    let uid = nix::unistd::getuid();
    let candidates = [
        runtime.map(|runtime| runtime.join(format!("mintmark-{hash}"))),
        Some(PathBuf::from(format!("/tmp/mintmark-{uid}-{hash}"))),
    ];
    let short = candidates.into_iter().flatten().find(|candidate| fits(candidate));
    let short = short.ok_or_else(|| refused("no directory has a path that is short enough for a socket"))?;
    ensure_dir(&short, 0o700).map_err(refused)?;
    // In /tmp somebody else may have been first.
    let owner = std::fs::symlink_metadata(&short).map_err(refused)?.uid();
    if owner != uid.as_raw() {
        return Err(Failure::Refused(format!(
            "{}, where the sockets would be, belongs to user {owner}, not to {uid}; use a --dir with a path of at most {} bytes",
            short.display(),
            MAX_SOCKET_PATH - WORKLOAD_SOCKET.len() - 1
        )));
    }
    Ok(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_in_the_directory_unless_their_path_would_be_long() {
        let dir = tempfile::tempdir().unwrap();
        let short = Layout::of(dir.path()).unwrap();
        assert_eq!(
            short.workload_socket,
            dir.path().canonicalize().unwrap().join("workload.sock")
        );

        let long = Layout::of(&dir.path().join("d".repeat(100))).unwrap();
        assert!(long.workload_socket.as_os_str().len() <= MAX_SOCKET_PATH);
        assert_eq!(long.workload_socket.parent(), long.admin_socket.parent());
        assert!(long.bundle.starts_with(&long.dir));
        std::fs::remove_dir(long.workload_socket.parent().unwrap()).unwrap();
    }

    #[test]
    fn what_is_in_the_directory_stays_out_of_version_control() {
        let dir = tempfile::tempdir().unwrap();
        Layout::of(dir.path()).unwrap();
        assert_eq!(std::fs::read(dir.path().join(".gitignore")).unwrap(), b"*\n");
    }
}
