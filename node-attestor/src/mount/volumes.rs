//! The volumes of this node: published, found again after a restart, unpublished.
//!
//! ```text
//! publish:    record ─ directory ─ socket ─ tell the server ─ (files: wait for the identity) ─ bind to the target
//! unpublish:  tell the server ─ unbind ─ wipe ─ directory ─ record
//! ```
//!
//! Each step can be done twice, and unpublish undoes whatever there is. What is on disk is written first and removed last, so that a restart finds everything that was begun.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mintmark_runtime::clock::Clock;
use mintmark_runtime::crypto::SecretString;
use mintmark_runtime::fs::FsError;
use mintmark_runtime::task::{BlockingPool, PoolError, Supervisor};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::metrics::MountMetrics;
use super::place::{self, PlaceError};
use super::pods::Pods;
use super::request::{RequestError, Spec};
use super::socket::{Doors, SocketError};
use super::state::{Key, Records};
use super::upkeep::{Told, Upkeep};
use super::write::Writer;
use crate::keep::Keep;
use crate::peer::{Pod, Verdict};

/// Why a volume is not published, or not gone.
#[derive(Debug, thiserror::Error)]
pub(super) enum VolumeError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("another call for this volume is under way; try again")]
    Busy,
    #[error("the volume is published already, and not as it is asked for now; unpublish it first")]
    Differs,
    #[error("{0}; the pod's files are not there yet, and its containers wait for them: trying again")]
    NotYet(String),
    #[error("no identity issued: {reason}; the pod asks for files, and there are none without an identity")]
    Refused { code: Code, reason: Arc<str> },
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("cannot open the pod's socket: {0}")]
    Socket(#[from] SocketError),
    #[error("cannot write down the volume: {0}")]
    Record(#[from] FsError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("the attestor is stopping")]
    Stopping,
}

/// The volumes. A handle.
#[derive(Clone)]
pub(super) struct Volumes(pub(super) Arc<Inner>);

/// What they need.
pub(super) struct Inner {
    /// Where their directories are.
    pub(super) dir: PathBuf,
    pub(super) node: String,
    /// How long a publish with files may wait for the identity.
    pub(super) patience: Duration,
    pub(super) records: Records,
    pub(super) pods: Pods,
    pub(super) keep: Keep,
    pub(super) doors: Doors,
    pub(super) pool: BlockingPool,
    pub(super) clock: Clock,
    pub(super) supervisor: Supervisor,
    pub(super) metrics: MountMetrics,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    volumes: HashMap<Key, Arc<Volume>>,
    /// Volumes for which a call is under way.
    busy: HashSet<Key>,
}

/// A volume that is there, if not yet seen by its pod.
struct Volume {
    spec: Spec,
    pod: Arc<Pod>,
    dir: PathBuf,
    /// Cancelled when it goes.
    unmounted: CancellationToken,
    files: Option<(Arc<Mutex<Writer>>, watch::Receiver<Told>)>,
}

impl Volumes {
    /// Publishes a volume, or takes the pod's new token when it is published already. Cancel safe: what was begun is finished.
    pub(super) async fn publish(&self, spec: Spec, token: SecretString) -> Result<(), VolumeError> {
        let key = Key::new(&spec.driver, &spec.volume_id);
        let busy = self.enter(key)?;
        let known = self.state().volumes.get(&key).cloned();
        if let Some(volume) = &known {
            if volume.spec != spec {
                return Err(VolumeError::Differs);
            }
            // The kubelet asks for every volume again and again: that must cost next to nothing.
            if place::is_published(&volume.dir, &spec.target) {
                return self.told_of(key, &spec, Some(token)).map(drop);
            }
        }
        let this = self.clone();
        self.finish(async move {
            let _busy = busy;
            let volume = match known {
                Some(volume) => {
                    this.told_of(key, &spec, Some(token))?;
                    volume
                }
                None => this.begin(key, spec, Some(token)).await?,
            };
            this.wait_for_files(&volume).await?;
            let (dir, target) = (volume.dir.clone(), volume.spec.target.clone());
            this.0.pool.run(move || place::publish(&dir, &target)).await??;
            this.0.metrics.volumes.set(this.count());
            tracing::info!(pod = %volume.pod, target = %volume.spec.target.display(), files = volume.files.is_some(), "volume published");
            Ok(())
        })
        .await
    }

    /// Takes a volume away, whatever there is of it; one that is not there is gone already. Needs no server.
    pub(super) async fn unpublish(&self, driver: &str, volume_id: &str, target: PathBuf) -> Result<(), VolumeError> {
        let key = Key::new(driver, volume_id);
        let busy = self.enter(key)?;
        let this = self.clone();
        self.finish(async move {
            let _busy = busy;
            this.end(key, target).await
        })
        .await
    }

    /// Takes up the volumes that an earlier run published: their sockets are opened anew in the directories that the pods see. What is not seen by a pod is removed. It blocks, at start.
    pub(super) fn restore(&self) -> Result<(), VolumeError> {
        let specs = self.0.records.all().map_err(|source| PlaceError::Io {
            action: "look for the records of volumes in",
            path: self.0.dir.clone(),
            source,
        })?;
        for spec in specs {
            let key = Key::new(&spec.driver, &spec.volume_id);
            let dir = self.dir(key);
            let (volume, target) = (spec.volume_id.clone(), spec.target.clone());
            let done = match place::is_published(&dir, &target) {
                true => self.take_up(key, spec, dir, None).map(drop),
                false => {
                    tracing::warn!(volume, target = %target.display(), "a volume of an earlier run is not seen by its pod and is removed; the kubelet asks for it again if the pod is still there");
                    self.clear(key, &[target])
                }
            };
            if let Err(error) = done {
                // The others are not to suffer; the kubelet asks again for this one.
                tracing::error!(volume, %error, "a volume of an earlier run could not be taken up");
            }
        }
        let count = self.count();
        self.0.metrics.volumes.set(count);
        if count > 0 {
            tracing::info!(volumes = count, "volumes of an earlier run are served again");
        }
        Ok(())
    }

    /// Makes everything but the pod's view of it.
    async fn begin(&self, key: Key, spec: Spec, token: Option<SecretString>) -> Result<Arc<Volume>, VolumeError> {
        let dir = self.dir(key);
        let (records, record, at) = (self.0.records.clone(), spec.clone(), dir.clone());
        let prepare = move || {
            records.put(key, &record)?;
            place::prepare(&at, record.files.is_some())?;
            Ok::<_, VolumeError>(())
        };
        let target = spec.target.clone();
        let begun = match self.0.pool.run(prepare).await {
            Ok(Ok(())) => self.take_up(key, spec, dir, token),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(error.into()),
        };
        if begun.is_err() {
            let this = self.clone();
            let undo = self.0.pool.run(move || this.clear(key, &[target])).await;
            if let Ok(Err(error)) = undo {
                tracing::warn!(%key, %error, "what was begun of a volume could not be removed; it is removed when the kubelet gives up the volume");
            }
        }
        begun
    }

    /// Opens the socket, tells the server, and begins to keep the files, of a volume whose directory is there.
    fn take_up(
        &self,
        key: Key,
        spec: Spec,
        dir: PathBuf,
        token: Option<SecretString>,
    ) -> Result<Arc<Volume>, VolumeError> {
        let pod = self.told_of(key, &spec, token)?;
        let unmounted = CancellationToken::new();
        if let Err(error) = self.0.doors.open(&dir, &pod, &unmounted) {
            self.0.pods.down(key, &spec.pod.uid);
            return Err(error.into());
        }
        let files = spec.files.clone().map(|files| {
            let writer = Arc::new(Mutex::new(Writer::new(dir.clone(), spec.group)));
            let (told, hears) = watch::channel(Told::Pending(None));
            let upkeep = Upkeep {
                pod: Arc::clone(&pod),
                files,
                writer: Arc::clone(&writer),
                told,
                keep: self.0.keep.clone(),
                clock: self.0.clock.clone(),
                pool: self.0.pool.clone(),
                metrics: self.0.metrics.clone(),
                stop: unmounted.clone(),
            };
            let shutdown = self.0.supervisor.token();
            self.0.supervisor.spawn("pod-files", async move {
                tokio::select! {
                    () = upkeep.run() => {}
                    () = shutdown.cancelled() => {}
                }
            });
            (writer, hears)
        });
        let volume = Arc::new(Volume {
            spec,
            pod,
            dir,
            unmounted,
            files,
        });
        self.state().volumes.insert(key, Arc::clone(&volume));
        Ok(volume)
    }

    /// The server is to hear of the pod, or of its new token.
    fn told_of(&self, key: Key, spec: &Spec, token: Option<SecretString>) -> Result<Arc<Pod>, VolumeError> {
        let pod = self.0.pods.up(key, &spec.pod, &self.0.node, token);
        pod.map_err(|error| RequestError::Invalid(format!("the pod cannot be named by selectors: {error}")).into())
    }

    /// Waits until the files are there, if any are asked for.
    async fn wait_for_files(&self, volume: &Volume) -> Result<(), VolumeError> {
        let Some((_, told)) = &volume.files else { return Ok(()) };
        let (mut told, mut verdict) = (told.clone(), volume.pod.verdict());
        let shutdown = self.0.supervisor.token();
        let wait = async {
            loop {
                if *told.borrow_and_update() == Told::Written {
                    return Ok(());
                }
                match &*verdict.borrow_and_update() {
                    Verdict::Refused { code, reason } => {
                        return Err(VolumeError::Refused {
                            code: *code,
                            reason: Arc::clone(reason),
                        });
                    }
                    Verdict::Agreed { why_none: Some(_) } => return Err(VolumeError::NotYet(why_not(volume))),
                    Verdict::Agreed { why_none: None } | Verdict::Waiting(_) => {}
                }
                tokio::select! {
                    changed = told.changed() => changed.map_err(|_| VolumeError::Stopping)?,
                    changed = verdict.changed() => changed.map_err(|_| VolumeError::Stopping)?,
                    () = shutdown.cancelled() => return Err(VolumeError::Stopping),
                }
            }
        };
        let waited = self.0.clock.timeout(self.0.patience, wait).await;
        waited.unwrap_or_else(|_| Err(VolumeError::NotYet(why_not(volume))))
    }

    async fn end(&self, key: Key, target: PathBuf) -> Result<(), VolumeError> {
        let volume = self.state().volumes.remove(&key);
        let mut targets = vec![target];
        let writer = volume.map(|volume| {
            volume.unmounted.cancel();
            self.0.pods.down(key, &volume.spec.pod.uid);
            targets.push(volume.spec.target.clone());
            tracing::info!(pod = %volume.pod, target = %volume.spec.target.display(), "volume unpublished");
            volume.files.as_ref().map(|(writer, _)| Arc::clone(writer))
        });
        self.0.metrics.volumes.set(self.count());
        let this = self.clone();
        let clear = move || {
            if let Some(writer) = writer.flatten() {
                writer.lock().unwrap_or_else(PoisonError::into_inner).wipe();
            }
            this.clear(key, &targets)
        };
        self.0.pool.run(clear).await?
    }

    /// Removes what there is of a volume in the file system. It blocks.
    fn clear(&self, key: Key, targets: &[PathBuf]) -> Result<(), VolumeError> {
        let dir = self.dir(key);
        let recorded = self.0.records.get(key).map(|spec| spec.target);
        for target in targets.iter().chain(&recorded) {
            place::unpublish(target)?;
        }
        Writer::new(dir.clone(), None).wipe();
        place::remove(&dir)?;
        self.0.records.remove(key).map_err(|source| PlaceError::Io {
            action: "remove the record of",
            path: dir,
            source,
        })?;
        Ok(())
    }

    /// Runs to its end what was begun, also when the kubelet hangs up meanwhile.
    async fn finish(
        &self,
        work: impl Future<Output = Result<(), VolumeError>> + Send + 'static,
    ) -> Result<(), VolumeError> {
        let (tell, done) = oneshot::channel();
        self.0.supervisor.spawn("volume", async move {
            // Nobody listens when the kubelet has hung up.
            let _ = tell.send(work.await);
        });
        done.await.unwrap_or(Err(VolumeError::Stopping))
    }

    fn enter(&self, key: Key) -> Result<Busy, VolumeError> {
        match self.state().busy.insert(key) {
            true => Ok(Busy(self.clone(), key)),
            false => Err(VolumeError::Busy),
        }
    }

    fn dir(&self, key: Key) -> PathBuf {
        self.0.dir.join(key.to_string())
    }

    fn count(&self) -> i64 {
        i64::try_from(self.state().volumes.len()).unwrap_or(i64::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is made whole under the lock by code that does not panic halfway.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call for a volume that is under way.
struct Busy(Volumes, Key);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.state().busy.remove(&self.1);
    }
}

/// What the files of a volume wait for.
fn why_not(volume: &Volume) -> String {
    let told = volume.files.as_ref().map(|(_, told)| told.borrow().clone());
    let verdict = volume.pod.verdict().borrow().clone();
    let pod = &volume.pod;
    match (verdict, told) {
        (Verdict::Refused { reason, .. }, _) => format!("no identity issued: {reason}"),
        (_, Some(Told::Pending(Some(problem)))) => format!("the identity of pod {pod} is not there: {problem}"),
        (Verdict::Waiting(Some(why)), _) => format!("no identity yet for pod {pod}: {why}"),
        (Verdict::Waiting(None), _) => {
            format!(
                "no identity yet for pod {pod}: the server has not said what it thinks of it (`mintmark status` on the node shows the link)"
            )
        }
        (Verdict::Agreed { why_none }, _) => format!(
            "no identity yet for pod {pod}: kubelet and API server agree on it, and {}",
            why_none
                .as_deref()
                .unwrap_or("no identity rule and no entry gives it an identity")
        ),
    }
}
