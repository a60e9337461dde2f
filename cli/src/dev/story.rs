//! What was done, and what to try next.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use mintmark_identity::{Serial, SpiffeId, TrustDomain};
use mintmark_proto::workload::X509svid;
use mintmark_server::server::Running as RunningServer;
use serde::Serialize;

use super::layout::Layout;
use super::setup::Setup;
use crate::output::certificates::{Summary, split};
use crate::output::{Fields, ago_or_in};

/// What was done. Times are Unix seconds.
#[derive(Serialize)]
pub struct Story {
    trust_domain: TrustDomain,
    dir: PathBuf,
    resumed: bool,
    pid: u32,
    node: SpiffeId,
    parent_id: SpiffeId,
    spiffe_id: SpiffeId,
    selector: String,
    serial: String,
    not_after: i64,
    server: String,
    metrics: String,
    bundle: PathBuf,
    socket: String,
    admin_socket: PathBuf,
    oidc_issuer: String,
}

impl Story {
    pub fn of(
        layout: &Layout,
        server: &RunningServer,
        setup: &Setup,
        (node, svid): (SpiffeId, X509svid),
        resumed: bool,
    ) -> Self {
        let leaf = split(&svid.x509_svid).ok().and_then(|chain| chain.into_iter().next());
        let summary = leaf.and_then(|leaf| Summary::of_svid(&leaf).ok());
        let show = |addr: Option<std::net::SocketAddr>| addr.map_or_else(String::new, |addr| addr.to_string());
        Self {
            trust_domain: server.trust_domain().clone(),
            dir: layout.dir.clone(),
            resumed,
            pid: std::process::id(),
            node,
            parent_id: setup.node_name.clone(),
            spiffe_id: setup.user_id.clone(),
            selector: setup.selector.clone(),
            serial: summary
                .as_ref()
                .map(|summary| summary.serial.clone())
                .unwrap_or_default(),
            not_after: summary.map_or(0, |summary| summary.not_after),
            server: show(server.api_addr()),
            metrics: show(server.metrics_addr()),
            bundle: layout.bundle.clone(),
            socket: format!("unix://{}", layout.workload_socket.display()),
            admin_socket: layout.admin_socket.clone(),
            oidc_issuer: server.issuer().to_owned(),
        }
    }

    pub fn text(&self, now: i64) -> String {
        let index = Serial::from_hex(&self.serial).map_or_else(|_| "?".to_owned(), |serial| serial.index().to_string());
        let authorities = if self.resumed {
            "kept from the last start"
        } else {
            "made: X.509, JWT and WIT"
        };
        let mut done = Fields::default();
        done.add("  authorities", authorities)
            .add(
                "  server",
                format_args!("{} (gRPC), {} (documents)", self.server, self.oidc_issuer),
            )
            .add("  node", format_args!("{}, also called {}", self.node, self.parent_id))
            .add("  entry", format_args!("{} for {}", self.spiffe_id, self.selector))
            .add(
                "  X.509-SVID",
                format_args!("serial {}, ends {}", self.serial, ago_or_in(now, self.not_after)),
            )
            .add(
                "",
                format_args!("fetched through the socket; leaf {index} of the ledger"),
            );
        let (mintmark, dir) = (command(), self.dir.display());
        let bundle = quoted(&self.bundle);
        let mut text = format!("Mintmark for trust domain {} in {dir}\n\n{done}\n", self.trust_domain);
        let _ = write!(
            text,
            "Try, in another terminal, after the two exports below:\n\
             \x20 {mintmark} fetch x509 --write /tmp/svid\n\
             \x20 openssl verify -CAfile /tmp/svid/bundle.0.pem /tmp/svid/svid.0.pem\n\
             \x20 {mintmark} fetch jwt --audience test\n\
             \x20 {mintmark} fetch wit\n\
             \x20 {mintmark} ledger show\n\
             \x20 {mintmark} ledger verify --data {} --cert /tmp/svid/svid.0.pem\n\
             \x20 {mintmark} entry create --parent-id {} --spiffe-id spiffe://{}/web --selector unix:user:www-data\n\
             \x20 {mintmark} status\n\
             \x20 curl --cacert {bundle} {}/.well-known/openid-configuration\n\
             \x20 curl http://{}/metrics\n\
             Ctrl-C stops it; the next start goes on from here. Remove {dir} to begin anew.\n\n",
            quoted(&self.dir.join("server")),
            self.parent_id,
            self.trust_domain,
            self.oidc_issuer,
            self.metrics
        );
        let _ = write!(
            text,
            "export SPIFFE_ENDPOINT_SOCKET={}\nexport MINTMARK_ADMIN_SOCKET={}\nOIDC issuer: {}\n",
            quoted(Path::new(&self.socket)),
            quoted(&self.admin_socket),
            self.oidc_issuer
        );
        text
    }
}

/// How this program is called from where it was called: by its name where the PATH has it, else by its path.
fn command() -> String {
    let Ok(program) = std::env::current_exe() else {
        return "mintmark".to_owned();
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).any(|dir| {
        let candidate = dir.join("mintmark");
        candidate.canonicalize().is_ok_and(|candidate| candidate == program)
    });
    if on_path {
        return "mintmark".to_owned();
    }
    let here = std::env::current_dir().ok();
    let relative = here.and_then(|here| program.strip_prefix(here).map(Path::to_owned).ok());
    quoted(&relative.unwrap_or(program))
}

/// A path for a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:+=@%,".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_a_shell() {
        for (path, text) in [
            ("/a/b.sock", "/a/b.sock"),
            ("/a b", "'/a b'"),
            ("/it's", r"'/it'\''s'"),
            ("/$HOME", "'/$HOME'"),
        ] {
            assert_eq!(quoted(Path::new(path)), text);
        }
    }
}
