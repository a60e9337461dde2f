//! Files that the user names.

use std::io::Read as _;
use std::path::Path;

use mintmark_runtime::fs::{FsError, ensure_dir, read_limited, write_atomic};

use crate::failure::{Failure, refused};

/// No input is larger.
const MAX_INPUT: u64 = 256 << 20;

/// Reads a file, or standard input for `-`.
pub fn read_input(path: &Path) -> Result<Vec<u8>, Failure> {
    if path != Path::new("-") {
        return read_limited(path, MAX_INPUT).map_err(refused);
    }
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(MAX_INPUT + 1).read_to_end(&mut bytes);
    match read {
        Ok(read) if read as u64 > MAX_INPUT => Err(Failure::Refused(format!(
            "standard input has more than {MAX_INPUT} bytes"
        ))),
        Ok(_) => Ok(bytes),
        Err(error) => Err(Failure::Refused(format!("cannot read standard input: {error}"))),
    }
}

/// Makes a directory for what is written, if it is not there.
pub fn output_dir(path: &Path) -> Result<(), Failure> {
    let made = if path.is_dir() { Ok(()) } else { ensure_dir(path, 0o755) };
    made.map_err(refused)
}

/// Writes what everybody may read: whole or not at all.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    write(path, bytes, 0o644)
}

/// Writes what only its owner may read: whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    write(path, bytes, 0o600)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    write_atomic(path, bytes, mode).map_err(|error: FsError| refused(error))
}
