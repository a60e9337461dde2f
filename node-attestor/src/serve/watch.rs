//! Streams that are told of changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream;
use tokio::sync::watch;
use tonic::Status;
use tonic::codegen::BoxStream;

use super::caller::{Caller, FIRST, Sight};
use super::status;
use super::workload::Workloads;
use crate::keep::{Demand, Kind, View, Workload};
use crate::peer::Verdict;

/// After which time a caller is looked at again of whom not all could be found out.
const AGAIN: Duration = Duration::from_secs(5);

/// What a stream makes of what its caller sees.
pub(super) trait Answer: Send + 'static {
    /// The message.
    type Message: Send + 'static;

    /// For metrics.
    const METHOD: &'static str;

    /// The SVIDs that the stream wants to have.
    const KIND: Option<Kind>;

    /// The answer to what is seen now.
    fn answer(&mut self, view: &View) -> Result<Made<Self::Message>, Status>;

    /// The entries whose SVIDs are wanted.
    fn wanted(&self, view: &View) -> Vec<Arc<str>> {
        view.identities
            .iter()
            .map(|seen| Arc::clone(&seen.identity.id))
            .collect()
    }
}

/// An answer.
pub(super) struct Made<M> {
    /// Differs when anything of the message does.
    pub(super) print: Vec<u64>,
    /// Whether everything that the caller is to have is in it, but for what cannot be had now.
    pub(super) is_whole: bool,
    /// Whether nothing is in it yet, and nothing has failed.
    pub(super) is_pending: bool,
    /// The message; made only when the print is new. Why there is none, when there is nothing to send.
    pub(super) message: Box<dyn FnOnce() -> Result<M, Status> + Send>,
}

struct State<A> {
    workloads: Workloads,
    caller: Caller,
    answer: A,
    changes: watch::Receiver<u64>,
    /// What both witnesses say, where the caller is a pod.
    verdict: Option<watch::Receiver<Verdict>>,
    demand: Option<Demand>,
    sent: Option<Vec<u64>>,
    /// The entries whose identities the caller had then.
    had: Vec<Arc<str>>,
    opened: Instant,
    /// When to look again although nothing has changed.
    again: Option<Instant>,
    over: bool,
    _workload: Workload,
}

/// A stream of whole states: the first one as soon as there is one, later ones when something in them has changed. It ends when the caller's process ends, has no identity any more, or the
/// attestor stops.
pub(super) fn watched<A: Answer>(workloads: Workloads, caller: Caller, answer: A) -> BoxStream<A::Message> {
    let mut changes = workloads.keep.changes();
    changes.mark_changed();
    let state = State {
        demand: A::KIND.map(|kind| workloads.keep.demand(kind)),
        opened: workloads.clock.instant(),
        _workload: workloads.keep.workload(),
        verdict: caller.verdict(),
        workloads,
        caller,
        answer,
        changes,
        sent: None,
        had: Vec::new(),
        again: None,
        over: false,
    };
    Box::pin(stream::unfold(state, |mut state| async move {
        if state.over {
            return None;
        }
        let next = state.next().await;
        match &next {
            Ok(_) => state.workloads.metrics.answered(A::METHOD),
            Err(status) => {
                state.over = true;
                state.workloads.metrics.ended(A::METHOD, Err(status));
            }
        }
        Some((next, state))
    }))
}

impl<A: Answer> State<A> {
    async fn next(&mut self) -> Result<A::Message, Status> {
        loop {
            self.wait().await?;
            let seen = match self.sent {
                None => {
                    let deadline = self.opened + FIRST;
                    self.caller.first_glance(&self.workloads, deadline).await?
                }
                Some(_) => self.caller.glance(&self.workloads).await?,
            };
            let view = match seen {
                Sight::Clear(view) => {
                    self.again = None;
                    view
                }
                Sight::Dim { view, why } => {
                    self.again = Some(self.workloads.clock.instant() + AGAIN);
                    // Less than was told before would be taken for a withdrawal.
                    if self.sent.is_some() && !self.has_all(&view) {
                        continue;
                    }
                    if view.identities.is_empty() || self.answer.answer(&view).is_err() {
                        return Err(status::not_known_now(&self.caller.peer, &why));
                    }
                    view
                }
            };
            if let Some(demand) = &mut self.demand {
                demand.set(self.answer.wanted(&view));
            }
            let made = self.answer.answer(&view)?;
            let late = self.workloads.clock.instant() >= self.opened + FIRST;
            let can_wait = match &self.sent {
                None => !made.is_whole && !late,
                Some(sent) => made.is_pending || *sent == made.print,
            };
            if can_wait {
                continue;
            }
            let message = (made.message)()?;
            // The last look before the answer leaves.
            self.caller.peer.check_alive().map_err(|error| status::peer(&error))?;
            self.sent = Some(made.print);
            self.had = view
                .identities
                .iter()
                .map(|seen| Arc::clone(&seen.identity.id))
                .collect();
            return Ok(message);
        }
    }

    /// Whether no identity is missing that the caller had.
    fn has_all(&self, view: &View) -> bool {
        let has = |id: &Arc<str>| view.identities.iter().any(|seen| seen.identity.id == *id);
        self.had.iter().all(has)
    }

    /// Waits for the next reason to look.
    async fn wait(&mut self) -> Result<(), Status> {
        let clock = &self.workloads.clock;
        let first = async {
            match self.sent {
                None => clock.sleep_until(self.opened + FIRST).await,
                Some(_) => std::future::pending().await,
            }
        };
        let again = async {
            match self.again {
                Some(at) => clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let judged = async {
            match &mut self.verdict {
                Some(verdict) => verdict.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.workloads.shutdown.cancelled() => Err(status::stopping()),
            () = self.caller.peer.ended() => {
                let ended = self.caller.peer.check_alive();
                Err(ended.map_or_else(|error| status::peer(&error), |()| status::stopping()))
            }
            changed = self.changes.changed() => changed.map_err(|_| status::stopping()),
            judged = judged => judged.map_err(|_| status::stopping()),
            () = first => Ok(()),
            () = again => Ok(()),
        }
    }
}
