//! Tasks that have a name, a supervisor and an end; pools for work that blocks; the process's signals.
//!
//! In come futures and closures; out come tasks that all end at shutdown and whose failure is never silent. Everyone spawns
//! through a [`Supervisor`] and runs blocking work on a [`BlockingPool`].
#![allow(clippy::disallowed_methods, reason = "this is where tasks are spawned")]

mod backoff;
mod pool;

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

pub use backoff::Backoff;
pub use pool::{BlockingPool, PoolError};

/// How long a process whose critical task ended may take to shut down before it is ended.
const FAILURE_GRACE: Duration = Duration::from_secs(15);
/// The exit status of a process that did not shut down by itself after a critical task ended (`EX_SOFTWARE`).
const FAILURE_STATUS: i32 = 70;

/// Owner of a program's tasks. Clones are handles on the same supervisor.
#[derive(Clone)]
pub struct Supervisor {
    inner: Arc<Inner>,
}

struct Inner {
    token: CancellationToken,
    tracker: TaskTracker,
    next_id: AtomicU64,
    /// A task is here from before it can run until its future is dropped; its handle comes a moment later.
    running: Mutex<BTreeMap<u64, (Name, Option<AbortHandle>)>>,
    failure: watch::Sender<Option<TaskFailure>>,
    ends_process: bool,
}

type Name = Cow<'static, str>;

/// A critical task that ended although nobody asked the program to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("critical task {name} {how}")]
pub struct TaskFailure {
    /// The task.
    pub name: String,
    /// What became of it: `ended`, or `panicked: …`.
    pub how: String,
}

/// Why a program stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Someone cancelled the shutdown token.
    Asked,
    /// A critical task ended.
    Failed(TaskFailure),
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervisor {
    /// A supervisor for a program. When a critical task ends, the program is asked to shut down, and ended with status 70 if it has not
    /// within 15 s.
    pub fn new() -> Self {
        Self::with(true)
    }

    /// As [`Supervisor::new`], but it never ends the process: for tests, and for several programs in one process.
    pub fn embedded() -> Self {
        Self::with(false)
    }

    fn with(ends_process: bool) -> Self {
        let inner = Inner {
            token: CancellationToken::new(),
            tracker: TaskTracker::new(),
            next_id: AtomicU64::new(0),
            running: Mutex::default(),
            failure: watch::Sender::new(None),
            ends_process,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The shutdown token: cancelled when the program is to stop. Every loop of a task selects on it.
    pub fn token(&self) -> CancellationToken {
        self.inner.token.clone()
    }

    /// Spawns a task that may end by itself. A panic is logged with its name and ends only the task.
    pub fn spawn(
        &self,
        name: impl Into<Cow<'static, str>>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        self.start(name.into(), false, task)
    }

    /// Spawns a task without which the program is of no use: its end or panic before shutdown is logged with its name and stops the program.
    pub fn spawn_critical(
        &self,
        name: impl Into<Cow<'static, str>>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        self.start(name.into(), true, task)
    }

    /// The names of the tasks that run, in the order of their start.
    pub fn running(&self) -> Vec<String> {
        self.inner
            .running()
            .values()
            .map(|(name, _)| name.to_string())
            .collect()
    }

    /// Waits until the program is to stop, and says why.
    pub async fn stopped(&self) -> Stop {
        self.inner.token.cancelled().await;
        match &*self.inner.failure.borrow() {
            Some(failure) => Stop::Failed(failure.clone()),
            None => Stop::Asked,
        }
    }

    /// Serves until SIGINT, SIGTERM, the token or the end of a critical task, then shuts down within `grace`, or at once when told a second time: the last
    /// line of a `main`.
    ///
    /// # Errors
    /// The critical task that ended.
    pub async fn run(&self, grace: Duration) -> Result<(), TaskFailure> {
        let stop = tokio::select! {
            biased;
            stop = self.stopped() => stop,
            signal = shutdown_signal() => {
                tracing::info!(signal, "shutting down");
                Stop::Asked
            }
        };
        tokio::select! {
            biased;
            _ = self.shutdown(grace) => {}
            signal = shutdown_signal() => {
                tracing::warn!(signal, "told again: not waiting any longer");
                self.shutdown(Duration::ZERO).await;
            }
        }
        match stop {
            Stop::Asked => Ok(()),
            Stop::Failed(failure) => Err(failure),
        }
    }

    /// Cancels the token, waits up to `grace` for the tasks to end, and aborts the rest, whose names it logs and returns.
    pub async fn shutdown(&self, grace: Duration) -> Vec<String> {
        self.inner.token.cancel();
        self.inner.tracker.close();
        if tokio::time::timeout(grace, self.inner.tracker.wait()).await.is_ok() {
            return Vec::new();
        }
        let late = self.running();
        tracing::warn!(tasks = ?late, ?grace, "tasks did not end in time and are aborted");
        let handles: Vec<_> = self
            .inner
            .running()
            .values()
            .filter_map(|(_, abort)| abort.clone())
            .collect();
        handles.iter().for_each(AbortHandle::abort);
        late
    }

    fn start(&self, name: Name, critical: bool, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let inner = Arc::clone(&self.inner);
        let id = inner.next_id.fetch_add(1, Ordering::Relaxed);
        inner.running().insert(id, (name.clone(), None));
        let span = tracing::info_span!("task", name = %name);
        let watched = {
            let registered = Registered {
                inner: Arc::clone(&inner),
                id,
            };
            async move {
                let outcome = AssertUnwindSafe(task).catch_unwind().await;
                drop(registered);
                inner.ended(&name, critical, outcome.err());
            }
        };
        let handle = self.inner.tracker.spawn(watched.instrument(span)).abort_handle();
        if let Some((_, abort)) = self.inner.running().get_mut(&id) {
            *abort = Some(handle.clone());
        }
        handle
    }
}

impl Inner {
    fn running(&self) -> MutexGuard<'_, BTreeMap<u64, (Name, Option<AbortHandle>)>> {
        // The map is whole whatever happened to the thread that held the lock.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, name: &str, critical: bool, panic: Option<Box<dyn Any + Send>>) {
        let how = match &panic {
            Some(panic) => format!("panicked: {}", panic_text(panic.as_ref())),
            None => "ended".to_owned(),
        };
        if !critical || (panic.is_none() && self.token.is_cancelled()) {
            if panic.is_some() {
                tracing::error!(task = name, how, "task failed");
            }
            return;
        }
        tracing::error!(task = name, how, "critical task failed; shutting down");
        let failure = TaskFailure {
            name: name.to_owned(),
            how,
        };
        self.failure.send_modify(|first| {
            first.get_or_insert(failure);
        });
        self.token.cancel();
        if self.ends_process {
            end_process_after(FAILURE_GRACE);
        }
    }
}

/// Takes a task off the list when it ends or is aborted.
struct Registered {
    inner: Arc<Inner>,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.inner.running().remove(&self.id);
    }
}

/// Waits for SIGINT or SIGTERM and gives its name.
///
/// # Panics
/// When the process cannot have a signal handler: it could then not be stopped in good order.
pub async fn shutdown_signal() -> &'static str {
    let mut interrupt = signal(SignalKind::interrupt()).expect("a handler for SIGINT");
    let mut terminate = signal(SignalKind::terminate()).expect("a handler for SIGTERM");
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}

fn end_process_after(grace: Duration) {
    // A thread, as the runtime may be what is stuck.
    let watchdog = std::thread::Builder::new().name("watchdog".into()).spawn(move || {
        std::thread::sleep(grace);
        std::process::exit(FAILURE_STATUS);
    });
    if watchdog.is_err() {
        std::process::exit(FAILURE_STATUS);
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("with something that is no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_end_at_shutdown_and_late_ones_are_named_and_aborted() {
        let supervisor = Supervisor::embedded();
        let token = supervisor.token();
        supervisor.spawn_critical("good", async move { token.cancelled().await });
        supervisor.spawn("stuck", std::future::pending());
        assert_eq!(supervisor.running(), ["good", "stuck"]);
        assert_eq!(supervisor.shutdown(Duration::from_millis(20)).await, ["stuck"]);
        assert_eq!(supervisor.stopped().await, Stop::Asked);
        supervisor.inner.tracker.wait().await;
        assert!(supervisor.running().is_empty());
    }

    #[tokio::test]
    async fn the_end_or_panic_of_a_critical_task_stops_the_program() {
        for (panics, how) in [(false, "ended"), (true, "panicked: at 7")] {
            let supervisor = Supervisor::embedded();
            supervisor.spawn_critical("lost", async move { assert!(!panics, "at {}", 7) });
            let failure = TaskFailure {
                name: "lost".into(),
                how: how.into(),
            };
            assert_eq!(supervisor.stopped().await, Stop::Failed(failure.clone()));
            assert_eq!(supervisor.run(Duration::from_secs(1)).await, Err(failure));
        }
    }

    #[tokio::test]
    async fn a_signal_shuts_down_and_a_second_one_does_not_wait() {
        let supervisor = Supervisor::embedded();
        let token = supervisor.token();
        let (told, mut wait) = tokio::sync::mpsc::channel(1);
        supervisor.spawn("stubborn", async move {
            token.cancelled().await;
            told.send(()).await.unwrap();
            std::future::pending().await
        });
        let mut run = std::pin::pin!(supervisor.run(Duration::from_secs(3600)));
        for told_twice in [false, true] {
            // The handlers are in place once it waits.
            assert!(run.as_mut().now_or_never().is_none());
            nix::sys::signal::raise(nix::sys::signal::SIGTERM).unwrap();
            if !told_twice {
                tokio::select! {
                    _ = run.as_mut() => panic!("it did not wait"),
                    _ = wait.recv() => {}
                }
            }
        }
        assert_eq!(run.await, Ok(()));
    }

    #[tokio::test]
    async fn the_panic_of_another_task_stops_nothing_else() {
        let supervisor = Supervisor::embedded();
        supervisor.spawn("unlucky", async { panic!("alone") });
        let (done, wait) = tokio::sync::oneshot::channel();
        supervisor.spawn("lucky", async move { done.send(()).unwrap() });
        wait.await.unwrap();
        assert!(supervisor.shutdown(Duration::from_secs(10)).await.is_empty());
        assert_eq!(supervisor.stopped().await, Stop::Asked);
    }
}
