//! Runs workers against the server and measures a window: a closed loop, or calls at a fixed rate.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

use crate::{
    options::Pace,
    process::{Memory, Process},
    scrape::{self, Ledger},
    target::Target,
};

/// How long calls in flight may take to end once the window is over.
const DRAIN: Duration = Duration::from_secs(60);

/// Does one call after another.
pub(crate) trait Worker: Send + 'static {
    /// One call; says how many credentials (or entries) it brought.
    fn call(&mut self) -> impl Future<Output = Result<u64>> + Send;
}

/// What a window saw.
#[derive(Debug, Default)]
pub(crate) struct Window {
    pub(crate) wall: Duration,
    pub(crate) credentials: u64,
    pub(crate) calls: u64,
    pub(crate) server_cpu: Duration,
    pub(crate) own_cpu: Duration,
    pub(crate) memory: Memory,
    pub(crate) ledger: Option<Ledger>,
    pub(crate) latencies: Latencies,
}

/// How long calls took; to the microsecond, all of them.
#[derive(Debug, Default, Clone)]
pub(crate) struct Latencies(Vec<u32>);

impl Latencies {
    pub(crate) fn push(&mut self, took: Duration) {
        self.0.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// In order.
    pub(crate) fn sorted(mut self) -> Self {
        self.0.sort_unstable();
        self
    }

    /// Milliseconds below which this share of the calls, of a sorted list, was answered.
    pub(crate) fn quantile_ms(&self, share: f64) -> Option<f64> {
        let last = self.0.len().checked_sub(1)?;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let index = ((last as f64) * share).ceil() as usize;
        self.0.get(index.min(last)).map(|micros| f64::from(*micros) / 1000.0)
    }
}

const WARM_UP: u8 = 0;
const MEASURE: u8 = 1;
const DONE: u8 = 2;

/// Lets the workers run, at most `in_flight` of them in a call, and returns them with what the window saw.
///
/// # Errors
/// With the first call that fails: a server that refuses is not measured.
pub(crate) async fn drive<W: Worker>(
    target: &Target,
    pace: &Pace,
    in_flight: u32,
    workers: Vec<W>,
) -> Result<(Window, Vec<W>)> {
    let gate = Arc::new(Gate::new(in_flight, pace.rate));
    let phase = Arc::new(AtomicU8::new(WARM_UP));
    let mut tasks = JoinSet::new();
    for worker in workers {
        tasks.spawn(work(worker, Arc::clone(&gate), Arc::clone(&phase)));
    }

    let mut window = Window::default();
    let mut done = Vec::with_capacity(tasks.len());
    if let Some(ended) = first_end(&mut tasks, pace.warm_up()).await {
        done.push(ended?);
    }
    let before = Reading::take(target).await?;
    phase.store(MEASURE, Ordering::SeqCst);
    if let Some(ended) = first_end(&mut tasks, pace.window()).await {
        done.push(ended?);
    }
    phase.store(DONE, Ordering::SeqCst);
    let after = Reading::take(target).await?;
    gate.close();

    let rest = async {
        while let Some(ended) = tasks.join_next().await {
            done.push(ended.context("a worker panicked")??);
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::time::timeout(DRAIN, rest)
        .await
        .with_context(|| format!("calls were not answered within {} s", DRAIN.as_secs()))??;

    let mut workers = Vec::with_capacity(done.len());
    for (worker, tally) in done {
        window.calls += tally.calls;
        window.credentials += tally.credentials;
        window.latencies.0.extend(tally.latencies.0);
        workers.push(worker);
    }
    window.latencies = std::mem::take(&mut window.latencies).sorted();
    window.wall = after.at - before.at;
    window.server_cpu = after.server_cpu.saturating_sub(before.server_cpu);
    window.own_cpu = after.own_cpu.saturating_sub(before.own_cpu);
    window.memory = after.memory;
    window.ledger = after.ledger.zip(before.ledger).map(|(after, before)| after - before);
    Ok((window, workers))
}

#[derive(Default)]
struct Tally {
    calls: u64,
    credentials: u64,
    latencies: Latencies,
}

type Ended<W> = Result<(W, Tally)>;

/// Waits for `time`, or for the first worker that ends before: with an error, or because it has nothing left to do.
async fn first_end<W: Worker>(tasks: &mut JoinSet<Ended<W>>, time: Duration) -> Option<Ended<W>> {
    match tokio::time::timeout(time, tasks.join_next()).await {
        Err(_) | Ok(None) => None,
        Ok(Some(ended)) => Some(ended.context("a worker panicked").and_then(|ended| ended)),
    }
}

async fn work<W: Worker>(mut worker: W, gate: Arc<Gate>, phase: Arc<AtomicU8>) -> Ended<W> {
    let mut tally = Tally::default();
    while phase.load(Ordering::SeqCst) != DONE {
        let Some((_permit, begun)) = gate.enter().await else {
            break;
        };
        let credentials = worker.call().await?;
        if phase.load(Ordering::SeqCst) == MEASURE {
            tally.calls += 1;
            tally.credentials += credentials;
            tally.latencies.push(begun.elapsed());
        }
    }
    Ok((worker, tally))
}

/// Lets workers into their calls: so many at a time, and with a rate each at its own moment.
struct Gate {
    open: Arc<Semaphore>,
    begun: Instant,
    interval: Option<Duration>,
    next: AtomicU64,
}

impl Gate {
    fn new(in_flight: u32, rate: Option<f64>) -> Self {
        Self {
            open: Arc::new(Semaphore::new(usize::try_from(in_flight).unwrap_or(usize::MAX))),
            begun: Instant::now(),
            interval: rate.map(|rate| Duration::from_secs_f64(rate.recip())),
            next: AtomicU64::new(0),
        }
    }

    fn close(&self) {
        self.open.close();
    }

    /// A permit, and the moment from which the call is timed: with a rate it is the one at which it was due, so that a server
    /// that stalls is charged for the calls that had to wait.
    async fn enter(&self) -> Option<(OwnedSemaphorePermit, Instant)> {
        let permit = Arc::clone(&self.open).acquire_owned().await.ok()?;
        let Some(interval) = self.interval else {
            return Some((permit, Instant::now()));
        };
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let due = self.begun + interval.mul_f64(f64::from(u32::try_from(turn).unwrap_or(u32::MAX)));
        tokio::time::sleep_until(due.into()).await;
        Some((permit, due.min(Instant::now())))
    }
}

struct Reading {
    at: Instant,
    server_cpu: Duration,
    own_cpu: Duration,
    memory: Memory,
    ledger: Option<Ledger>,
}

impl Reading {
    async fn take(target: &Target) -> Result<Self> {
        let ledger = match target.metrics {
            Some(address) => scrape::ledger(address).await?,
            None => None,
        };
        Ok(Self {
            at: Instant::now(),
            server_cpu: target.process.cpu()?,
            own_cpu: Process::own().cpu()?,
            memory: target.process.memory()?,
            ledger,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_was_measured() {
        let mut latencies = Latencies::default();
        for ms in (1..=100).rev() {
            latencies.push(Duration::from_millis(ms));
        }
        let latencies = latencies.sorted();
        assert_eq!(latencies.quantile_ms(0.0), Some(1.0));
        assert_eq!(latencies.quantile_ms(0.5), Some(51.0));
        assert_eq!(latencies.quantile_ms(1.0), Some(100.0));
        assert_eq!(Latencies::default().quantile_ms(0.5), None);
    }

    #[tokio::test]
    async fn at_a_rate_calls_are_timed_from_when_they_were_due() {
        let gate = Gate::new(2, Some(1000.0));
        let (_first, due) = gate.enter().await.unwrap();
        assert_eq!(due, gate.begun);
        let (_second, due) = gate.enter().await.unwrap();
        assert_eq!(due, gate.begun + Duration::from_millis(1));
    }
}
