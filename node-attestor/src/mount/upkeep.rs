//! Keeps a volume's files as they are to be.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::task::{Backoff, BlockingPool};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::contents::{NamedToken, set};
use super::metrics::MountMetrics;
use super::request::Files;
use super::write::Writer;
use crate::keep::{Identity, JwtSvid, Keep, Kind, Seen, View};
use crate::peer::Pod;

/// Waits before a token that could not be had, or a file that could not be written, is tried for again: from, to.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How a volume's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// There are none yet, for this reason.
    Pending(Option<Arc<str>>),
    /// They are there.
    Written,
}

/// The files of one volume.
pub(super) struct Upkeep {
    pub(super) pod: Arc<Pod>,
    pub(super) files: Files,
    pub(super) writer: Arc<Mutex<Writer>>,
    pub(super) told: watch::Sender<Told>,
    pub(super) keep: Keep,
    pub(super) clock: Clock,
    pub(super) pool: BlockingPool,
    pub(super) metrics: MountMetrics,
    /// The volume is not mounted any more, or the attestor stops.
    pub(super) stop: CancellationToken,
}

/// What the files on disk hold.
#[derive(Default)]
struct Written {
    /// Differs when anything of it does.
    print: Option<Vec<u64>>,
    tokens: Vec<Arc<JwtSvid>>,
}

/// Why the files are not what they are to be.
type Problem = Option<Arc<str>>;

impl Upkeep {
    /// Writes the files whenever something in them has changed, until it is told to stop. What the pod may have no more stays as it is: nothing renews it.
    pub(super) async fn run(self) {
        let mut changes = self.keep.changes();
        let mut verdict = self.pod.verdict();
        let mut demand = self.keep.demand(Kind::X509);
        let mut again = Backoff::new(AGAIN.0, AGAIN.1);
        let mut written = Written::default();
        loop {
            changes.mark_unchanged();
            verdict.mark_unchanged();
            let view = self.keep.view(&self.pod.selectors());
            demand.set(view.identities.first().map(|seen| Arc::clone(&seen.identity.id)));
            let outcome = self.bring_up_to_date(&view, &mut written).await;
            let (due, problem) = match outcome {
                // A token that could not be renewed in time is still valid, and tried for again.
                Ok(Some(due)) if due <= self.clock.unix_ms() => {
                    (Some(self.clock.unix_ms() + millis(again.next_wait())), None)
                }
                Ok(due) => {
                    again.reset();
                    (due, None)
                }
                Err((problem, is_passing)) => {
                    let wait = is_passing.then(|| again.next_wait());
                    (wait.map(|wait| self.clock.unix_ms() + millis(wait)), Some(problem))
                }
            };
            self.tell(&written, problem);
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
                changed = verdict.changed() => if changed.is_err() { return },
                () = self.until(due) => {}
            }
        }
    }

    /// Writes the files if they are not what is seen, and says when to look again at the latest, Unix milliseconds. As an error: why not, and whether to try again by itself.
    async fn bring_up_to_date(&self, view: &View, written: &mut Written) -> Result<Option<i64>, (Problem, bool)> {
        let Some(Seen {
            identity,
            x509,
            x509_problem,
            ..
        }) = view.identities.first()
        else {
            return Err((None, false));
        };
        let (Some(svid), Some(own)) = (x509, &view.own) else {
            return Err((x509_problem.clone(), false));
        };
        let (tokens, failed) = self.tokens(identity, &written.tokens).await?;
        let mut print = vec![identity.print(), svid.generation];
        print.extend(view.bundles().map(|(_, held)| held.print()));
        // A token is not taken out of its place while it is in use, so that its address tells it from others.
        print.extend(tokens.iter().map(|token| Arc::as_ptr(token) as u64));
        if written.print.as_ref() != Some(&print) {
            let named = self
                .files
                .audiences
                .iter()
                .zip(&tokens)
                .map(|(audience, token)| NamedToken {
                    name: &audience.name,
                    token: token.token.expose(),
                });
            let set = set(self.files.layout, svid, own, view, &named.collect::<Vec<_>>());
            let (writer, now) = (Arc::clone(&self.writer), self.clock.unix_ms());
            let write = move || writer.lock().unwrap_or_else(PoisonError::into_inner).write(&set, now);
            let done = self.pool.run(write).await;
            let problem = match done {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(problem) = problem {
                tracing::error!(pod = %self.pod, problem, "a volume's files could not be written");
                return Err((Some(problem.into()), true));
            }
            self.metrics.sets.inc();
            written.print = Some(print);
        }
        let next = tokens.iter().map(|token| token.refresh_at.saturating_mul(1000)).min();
        written.tokens = tokens;
        match failed {
            Some(problem) => Err((Some(problem), true)),
            None => Ok(next),
        }
    }

    /// The tokens, in the order of the audiences. One that cannot be had now is the one from before; with none before, that is an error.
    async fn tokens(
        &self,
        identity: &Identity,
        before: &[Arc<JwtSvid>],
    ) -> Result<(Vec<Arc<JwtSvid>>, Problem), (Problem, bool)> {
        let asked = self.files.audiences.iter().map(|one| async move {
            let audience = [one.audience.clone()];
            (&one.audience, self.keep.jwt(identity, &audience).await)
        });
        let mut tokens = Vec::new();
        let mut failed = None;
        for (at, (audience, answer)) in join_all(asked).await.into_iter().enumerate() {
            let token = match (answer, before.get(at)) {
                (Ok(token), _) => token,
                (Err(error), before) => {
                    let problem: Arc<str> = format!("no JWT-SVID for {audience:?}: {error}").into();
                    let Some(before) = before else {
                        return Err((Some(problem), true));
                    };
                    tracing::warn!(pod = %self.pod, %problem, "a token in a volume was not renewed; the old one stays");
                    failed = Some(problem);
                    Arc::clone(before)
                }
            };
            tokens.push(token);
        }
        Ok((tokens, failed))
    }

    fn tell(&self, written: &Written, problem: Option<Problem>) {
        let told = match (&written.print, problem) {
            (Some(_), _) => Told::Written,
            (None, problem) => Told::Pending(problem.flatten()),
        };
        self.told
            .send_if_modified(|old| std::mem::replace(old, told.clone()) != told);
    }

    async fn until(&self, due: Option<i64>) {
        match due {
            Some(at) => {
                let left = at.saturating_sub(self.clock.unix_ms()).max(0).unsigned_abs();
                self.clock.sleep(Duration::from_millis(left)).await;
            }
            None => std::future::pending().await,
        }
    }
}

fn millis(wait: Duration) -> i64 {
    i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)
}
