//! What the server's Prometheus metrics say of its ledger.

use std::{net::SocketAddr, ops::Sub, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// How long an answer may take, and how large it may be.
const LIMIT: Duration = Duration::from_secs(10);
const SIZE: u64 = 4 << 20;

const LEAVES: &str = "mintmark_server_ledger_leaves_per_fsync_sum";
const FSYNCS: &str = "mintmark_server_ledger_leaves_per_fsync_count";

/// Leaves of the ledger, and the fsyncs that made them durable.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fsyncs {
    pub(crate) leaves: f64,
    pub(crate) fsyncs: f64,
}

impl Sub for Fsyncs {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            leaves: self.leaves - before.leaves,
            fsyncs: self.fsyncs - before.fsyncs,
        }
    }
}

/// Counts so far; none from a server without such metrics.
pub(crate) async fn fsyncs(address: SocketAddr) -> Result<Option<Fsyncs>> {
    let (_, body) = get(address, "/metrics").await?;
    Ok(value(&body, LEAVES)
        .zip(value(&body, FSYNCS))
        .map(|(leaves, fsyncs)| Fsyncs { leaves, fsyncs }))
}

/// The status and the body of a plain GET.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let answer = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(SIZE).read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(LIMIT, answer)
        .await
        .with_context(|| format!("http://{address}{path} did not answer in time"))?
        .with_context(|| format!("fetch http://{address}{path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer without a body")?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("an HTTP answer without a status")?;
    ensure!(status < 600, "HTTP status {status}");
    Ok((status, body.to_owned()))
}

/// The value of a series without labels.
fn value(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| {
        line.strip_prefix(name)?
            .strip_prefix(' ')?
            .split(' ')
            .next()?
            .parse()
            .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_found_by_its_whole_name() {
        let text = "# HELP x_sum Words.\nx_sum_more 1\nx_sum{a=\"b\"} 2\nx_sum 3.5 1700000000\n";
        assert_eq!(value(text, "x_sum"), Some(3.5));
        assert_eq!(value(text, "x"), None);
    }
}
