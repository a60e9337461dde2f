//! `k8s_psat`: the token that the kubelet projects into the attestor's own pod, shown to the server, which asks the API server whose it is.
//!
//! The message is that of SPIRE's plugin of this name. The kubelet replaces the token long before it ends, so it is read anew for each attestation and held no longer.

use std::path::PathBuf;

use mintmark_runtime::fs::{FsError, read_limited};
use serde::Serialize;
use zeroize::Zeroizing;

/// Where the token is when nothing else is configured: first ours, then where SPIRE's charts put it.
pub const TOKEN_PATHS: [&str; 2] = [
    "/var/run/secrets/tokens/mintmark",
    "/var/run/secrets/tokens/spire-agent",
];
/// A longer token is none.
const MAX_TOKEN: u64 = 16 << 10;

/// What the node shows, and where it is found.
pub struct Projected {
    cluster: String,
    paths: Vec<PathBuf>,
}

/// Why the node has no token to show.
#[derive(Debug, thiserror::Error)]
pub enum PsatError {
    /// There is none.
    #[error(
        "k8s_psat: there is no service account token at {}: project one into the pod (serviceAccountToken with audience mintmark-node), or set `join.token_path`",
        .0.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
    )]
    Missing(Vec<PathBuf>),
    /// It cannot be read.
    #[error("k8s_psat: {0}")]
    File(#[from] FsError),
    /// It is something else.
    #[error("k8s_psat: {0} holds no service account token, which is three parts of base64url with dots between")]
    NotAToken(PathBuf),
}

#[derive(Serialize)]
struct Payload<'a> {
    cluster: &'a str,
    token: &'a str,
}

impl Projected {
    /// The token at `path`, or at the first of [`TOKEN_PATHS`] where there is one, of the cluster that the server knows by this name.
    pub fn new(cluster: String, path: Option<PathBuf>) -> Self {
        let paths = match path {
            Some(path) => vec![path],
            None => TOKEN_PATHS.map(PathBuf::from).into(),
        };
        Self { cluster, paths }
    }

    /// What the node sends, with the token as it is now.
    pub(super) fn payload(&self) -> Result<Vec<u8>, PsatError> {
        for path in &self.paths {
            let bytes = match read_limited(path, MAX_TOKEN) {
                Ok(bytes) => Zeroizing::new(bytes),
                Err(FsError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            let token = parse(&bytes).ok_or_else(|| PsatError::NotAToken(path.clone()))?;
            let cluster = &self.cluster;
            return Ok(serde_json::to_vec(&Payload { cluster, token }).expect("text is JSON"));
        }
        Err(PsatError::Missing(self.paths.clone()))
    }
}

fn parse(bytes: &[u8]) -> Option<&str> {
    let token = std::str::from_utf8(bytes).ok()?.trim();
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let parts: Vec<_> = token.split('.').collect();
    let is_token = parts.len() == 3 && parts.iter().all(|part| !part.is_empty() && part.bytes().all(legal));
    is_token.then_some(token)
}

#[cfg(test)]
mod tests {
    use mintmark_runtime::fs::write_atomic;

    use super::*;

    #[test]
    fn the_token_is_read_anew_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let projected = Projected::new("prod".into(), Some(path.clone()));
        for token in ["aa.bb.cc", "dd.ee.f-_"] {
            write_atomic(&path, format!("{token}\n").as_bytes(), 0o600).unwrap();
            let payload: serde_json::Value = serde_json::from_slice(&projected.payload().unwrap()).unwrap();
            assert_eq!(payload, serde_json::json!({"cluster": "prod", "token": token}));
        }
    }

    #[test]
    fn what_is_missing_or_no_token_is_named_with_its_place_and_not_with_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let projected = Projected::new("prod".into(), Some(path.clone()));
        let error = projected.payload().unwrap_err().to_string();
        assert!(
            error.contains(&path.display().to_string()) && error.contains("join.token_path"),
            "{error}"
        );
        for text in [
            "",
            "secret",
            "secret.b",
            "secret.b.c.d",
            "secret..c",
            "secret.b.c d",
            "secret.b.ä",
        ] {
            write_atomic(&path, text.as_bytes(), 0o600).unwrap();
            let error = projected.payload().unwrap_err();
            assert!(matches!(error, PsatError::NotAToken(_)), "{text:?}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        write_atomic(&path, &[b'a'; 17 << 10], 0o600).unwrap();
        assert!(matches!(projected.payload(), Err(PsatError::File(_))));
    }
}
