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

const LEAVES_PER_FSYNC: &str = "mintmark_server_ledger_leaves_per_fsync";
const ISSUANCE: &str = "mintmark_server_issuance_seconds";

/// What the ledger did so far, or meanwhile.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    pub(crate) leaves: f64,
    pub(crate) fsyncs: f64,
    /// How many issuances were logged within so many seconds, by growing bound.
    logged: Vec<(f64, f64)>,
}

impl Ledger {
    /// Half of the issuances waited no longer than this for their leaves to be durable; milliseconds.
    pub(crate) fn log_p50_ms(&self) -> Option<f64> {
        let half = self.logged.last().filter(|(_, all)| *all > 0.0)?.1 / 2.0;
        let mut below = (0.0, 0.0);
        for (bound, count) in &self.logged {
            if *count >= half {
                let share = (half - below.1) / (count - below.1);
                return Some(1000.0 * (below.0 + share * (bound - below.0)));
            }
            below = (*bound, *count);
        }
        None
    }
}

impl Sub for Ledger {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        let logged = self.logged.iter().map(|(bound, count)| {
            let was = before.logged.iter().find(|(other, _)| other == bound);
            (*bound, count - was.map_or(0.0, |(_, count)| *count))
        });
        Self {
            leaves: self.leaves - before.leaves,
            fsyncs: self.fsyncs - before.fsyncs,
            logged: logged.collect(),
        }
    }
}

/// Counts so far; none from a server without such metrics.
pub(crate) async fn ledger(address: SocketAddr) -> Result<Option<Ledger>> {
    let (_, body) = get(address, "/metrics").await?;
    Ok(parse(&body))
}

fn parse(text: &str) -> Option<Ledger> {
    let series = |name: &str| value(text, &format!("{LEAVES_PER_FSYNC}{name}"));
    let (leaves, fsyncs) = series("_sum").zip(series("_count"))?;
    Some(Ledger {
        leaves,
        fsyncs,
        logged: text.lines().filter_map(logged).collect(),
    })
}

/// A finite bucket of the phase in which leaves become durable.
fn logged(line: &str) -> Option<(f64, f64)> {
    let (labels, count) = line
        .strip_prefix(ISSUANCE)?
        .strip_prefix("_bucket{")?
        .split_once("} ")?;
    let label = |name: &str| {
        let mut all = labels.split(',').filter_map(|label| label.split_once('='));
        all.find_map(|(key, value)| (key == name).then(|| value.trim_matches('"')))
    };
    let bound: f64 = label("le")?.parse().ok()?;
    (label("phase")? == "log" && bound.is_finite()).then_some((bound, count.split(' ').next()?.parse().ok()?))
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
    fn the_median_wait_for_the_log_is_read_from_the_buckets() {
        let text = |seen: [u32; 3]| {
            let bucket = |le: &str, n| format!("{ISSUANCE}_bucket{{le=\"{le}\",phase=\"log\"}} {n}\n");
            let other = format!("{ISSUANCE}_bucket{{le=\"0.001\",phase=\"sign\"}} 99\n");
            let leaves = format!("{LEAVES_PER_FSYNC}_sum 10\n{LEAVES_PER_FSYNC}_count 5\n");
            other + &bucket("0.001", seen[0]) + &bucket("0.002", seen[1]) + &bucket("+Inf", seen[2]) + &leaves
        };
        let meanwhile = parse(&text([10, 30, 30])).unwrap() - parse(&text([10, 10, 10])).unwrap();
        assert_eq!(meanwhile.log_p50_ms(), Some(1.5));
        assert_eq!(parse(&text([0, 0, 0])).unwrap().log_p50_ms(), None);
    }

    #[test]
    fn a_series_is_found_by_its_whole_name() {
        let text = "# HELP x_sum Words.\nx_sum_more 1\nx_sum{a=\"b\"} 2\nx_sum 3.5 1700000000\n";
        assert_eq!(value(text, "x_sum"), Some(3.5));
        assert_eq!(value(text, "x"), None);
    }
}
