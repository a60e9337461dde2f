//! Threads for work that blocks or computes, behind a queue with a bound.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// A named pool of threads. Clones are handles on the same pool; when the last is dropped, the queue is worked off and the threads end.
#[derive(Clone)]
pub struct BlockingPool {
    shared: Arc<Shared>,
    _closer: Arc<Closer>,
}

struct Shared {
    name: &'static str,
    slots: Arc<Semaphore>,
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

type Job = Box<dyn FnOnce() + Send>;

/// Why a job has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// The queue is full; only [`BlockingPool::try_run`] gives this.
    #[error("the queue of pool {0} is full")]
    Full(&'static str),
    /// The job panicked; the pool goes on.
    #[error("a job of pool {0} panicked")]
    Panicked(&'static str),
}

impl BlockingPool {
    /// A pool of `threads` threads (at least one) in front of which at most `queue` jobs wait.
    ///
    /// # Panics
    /// When the operating system gives no thread: at start, where nothing is lost yet.
    pub fn new(name: &'static str, threads: usize, queue: usize) -> Self {
        let threads = threads.max(1);
        let shared = Arc::new(Shared {
            name,
            slots: Arc::new(Semaphore::new((threads + queue).min(Semaphore::MAX_PERMITS))),
            queue: Mutex::default(),
            work: Condvar::new(),
        });
        for number in 0..threads {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("{name}-{number}"))
                .spawn(move || shared.work_off())
                .expect("a thread at start");
        }
        let closer = Arc::new(Closer(Arc::clone(&shared)));
        Self {
            shared,
            _closer: closer,
        }
    }

    /// Runs `job`, after waiting for a place in the queue if need be. A caller that goes away before its job has begun takes it along.
    ///
    /// # Errors
    /// When the job panicked.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, PoolError> {
        let slot = Arc::clone(&self.shared.slots).acquire_owned().await;
        let slot = slot.expect("the semaphore of a pool is never closed");
        self.enqueue(slot, job).await
    }

    /// As [`BlockingPool::run`], but refuses at once when the queue is full.
    ///
    /// # Errors
    /// When the queue is full or the job panicked.
    pub async fn try_run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, PoolError> {
        let slot = Arc::clone(&self.shared.slots).try_acquire_owned();
        let slot = slot.map_err(|_| PoolError::Full(self.shared.name))?;
        self.enqueue(slot, job).await
    }

    /// How many jobs wait for a thread.
    pub fn queued(&self) -> usize {
        self.shared.lock().jobs.len()
    }

    async fn enqueue<T: Send + 'static>(
        &self,
        slot: OwnedSemaphorePermit,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let (result, wait) = oneshot::channel();
        let job = move || {
            let _slot = slot;
            if result.is_closed() {
                return;
            }
            // A panic drops the sender, which is how the caller hears of it; the message was printed by the panic hook.
            if let Ok(done) = catch_unwind(AssertUnwindSafe(job)) {
                let _ = result.send(done);
            }
        };
        self.shared.lock().jobs.push_back(Box::new(job));
        self.shared.work.notify_one();
        wait.await.map_err(|_| PoolError::Panicked(self.shared.name))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No job runs under the lock, so the queue is always whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work_off(&self) {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                job();
                queue = self.lock();
            } else if queue.closed {
                return;
            } else {
                queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.work.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_pool_gives_results_and_outlives_a_panic() {
        let pool = BlockingPool::new("sums", 2, 4);
        assert_eq!(pool.run(|| 1 + 1).await, Ok(2));
        assert_eq!(
            pool.run(|| panic!("on purpose")).await,
            Err::<(), _>(PoolError::Panicked("sums"))
        );
        for n in 0..20 {
            assert_eq!(pool.run(move || n).await, Ok(n));
        }
    }

    #[tokio::test]
    async fn a_full_pool_refuses_or_lets_wait() {
        let pool = BlockingPool::new("slow", 1, 1);
        let ((go, gate), (begun, wait)) = (mpsc::channel::<()>(), oneshot::channel());
        let busy = pool.run(move || {
            begun.send(()).unwrap();
            gate.recv().unwrap();
            1
        });
        let second = async {
            wait.await.unwrap();
            let queued = pool.run(|| 2);
            let refused = async {
                while pool.queued() == 0 {
                    tokio::task::yield_now().await;
                }
                let refused = pool.try_run(|| 3).await;
                go.send(()).unwrap();
                refused
            };
            tokio::join!(queued, refused)
        };
        let (first, (second, third)) = tokio::join!(busy, second);
        assert_eq!((first, second, third), (Ok(1), Ok(2), Err(PoolError::Full("slow"))));
    }
}
