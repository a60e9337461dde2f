//! One caller: who it is, and what it sees now.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tonic::{Code, Extensions, Status};

use super::status;
use super::workload::Workloads;
use crate::keep::{Readiness, View};
use crate::peer::{Attested, Needs, Peer, Verdict};

/// How long the first answer waits for what is on its way.
pub(super) const FIRST: Duration = Duration::from_secs(5);

/// A caller.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) peer: Arc<Peer>,
}

/// What a caller sees.
pub(super) enum Sight {
    /// All of it; at least one identity.
    Clear(View),
    /// Perhaps not all: something about the caller could not be found out just now.
    Dim { view: View, why: String },
}

impl Caller {
    /// Who the connection says it is.
    pub(super) fn of(extensions: &Extensions) -> Result<Self, Status> {
        let peer = extensions.get::<Arc<Peer>>().cloned();
        // Every connection has one: without it, it was not accepted.
        let peer = peer.ok_or_else(|| Status::internal("nobody knows who calls"))?;
        Ok(Self { peer })
    }

    /// What the caller, as it is now, sees now. It has at least one identity. Where it may see more than could be found out, what was found has to be enough. A pod that
    /// has just begun is waited for, as its identity is on its way.
    pub(super) async fn look(&self, workloads: &Workloads, is_enough: impl Fn(&View) -> bool) -> Result<View, Status> {
        let deadline = workloads.clock.instant() + FIRST;
        match self.first_glance(workloads, deadline).await? {
            Sight::Clear(view) => Ok(view),
            Sight::Dim { view, .. } if !view.identities.is_empty() && is_enough(&view) => Ok(view),
            Sight::Dim { why, .. } => Err(status::not_known_now(&self.peer, &why)),
        }
    }

    /// What the caller, as it is now, sees now, telling apart what is so and what may only seem so.
    pub(super) async fn glance(&self, workloads: &Workloads) -> Result<Sight, Status> {
        self.told(self.see(workloads).await)
    }

    /// As [`Caller::glance`], and says nothing to the log of one that has no identity.
    async fn see(&self, workloads: &Workloads) -> Result<Sight, Status> {
        if *workloads.keep.readiness().borrow() == Readiness::Fresh {
            return Err(status::starting());
        }
        let needs = workloads.keep.needs();
        let attested = self.attest(workloads, needs).await?;
        let view = workloads.keep.view(&attested.selectors);
        if !attested.is_sure {
            let why = attested.missing.join(", ");
            tracing::info!(caller = %self.peer, why, "not all of a caller could be found out");
            return Ok(Sight::Dim { view, why });
        }
        if view.identities.is_empty() {
            return Err(match &*self.peer {
                Peer::Process(process) => {
                    // Names teach, also where no entry asks for them.
                    let attested = self.attest(workloads, Needs { names: true, ..needs }).await?;
                    status::no_identity(process, &attested)
                }
                Peer::Pod(caller) => status::no_identity_of_pod(caller.pod()),
            });
        }
        Ok(Sight::Clear(view))
    }

    /// As [`Caller::glance`], for the first answer: a pod that has just begun is waited for until `deadline`.
    pub(super) async fn first_glance(&self, workloads: &Workloads, deadline: Instant) -> Result<Sight, Status> {
        let Peer::Pod(caller) = &*self.peer else {
            return self.glance(workloads).await;
        };
        let (mut changes, mut readiness) = (workloads.keep.changes(), workloads.keep.readiness());
        let mut verdict = caller.pod().verdict();
        loop {
            changes.mark_unchanged();
            readiness.mark_unchanged();
            let is_final = match &*verdict.borrow_and_update() {
                Verdict::Waiting(_) => false,
                Verdict::Agreed { why_none } => why_none.is_some(),
                Verdict::Refused { .. } => true,
            };
            let status = match self.see(workloads).await {
                Err(status) if !is_final && workloads.clock.instant() < deadline => status,
                seen => return self.told(seen),
            };
            let ended = tokio::select! {
                () = workloads.shutdown.cancelled() => return Err(status::stopping()),
                () = self.peer.ended() => {
                    let gone = self.peer.check_alive().map_err(|error| status::peer(&error));
                    return gone.and(Err(status));
                }
                changed = changes.changed() => changed.is_err(),
                changed = readiness.changed() => changed.is_err(),
                changed = verdict.changed() => changed.is_err(),
                () = workloads.clock.sleep_until(deadline) => false,
            };
            if ended {
                return Err(status::stopping());
            }
        }
    }

    /// Tells the log that a caller gets nothing. Without its selectors, which may tell more than a log should keep; the caller is told them.
    fn told(&self, seen: Result<Sight, Status>) -> Result<Sight, Status> {
        seen.inspect_err(|status| {
            if status.code() == Code::PermissionDenied {
                tracing::info!(caller = %self.peer, evidence = %self.peer.evidence(), "no identity issued");
            }
        })
    }

    /// How what both witnesses say of the caller's pod changes, if it is one.
    pub(super) fn verdict(&self) -> Option<watch::Receiver<Verdict>> {
        match &*self.peer {
            Peer::Process(_) => None,
            Peer::Pod(caller) => Some(caller.pod().verdict()),
        }
    }

    async fn attest(&self, workloads: &Workloads, needs: Needs) -> Result<Attested, Status> {
        let attested = match &*self.peer {
            Peer::Process(process) => workloads.unix.attest(process, needs).await,
            Peer::Pod(caller) => caller.check_alive().map(|()| Attested {
                selectors: caller.pod().selectors(),
                missing: Vec::new(),
                is_sure: true,
            }),
        };
        attested.map_err(|error| {
            tracing::info!(%error, evidence = %self.peer.evidence(), "a workload could not be attested");
            status::peer(&error)
        })
    }
}
