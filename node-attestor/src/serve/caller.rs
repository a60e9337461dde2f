//! One caller: who it is, and what it sees now.

use std::sync::Arc;

use tonic::{Extensions, Status};

use super::status;
use super::workload::Workloads;
use crate::keep::{Readiness, View};
use crate::peer::{Attested, Needs, Process};

/// A caller.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) process: Arc<Process>,
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
        let process = extensions.get::<Arc<Process>>().cloned();
        // Every connection has one: without it, it was not accepted.
        let process = process.ok_or_else(|| Status::internal("nobody knows who calls"))?;
        Ok(Self { process })
    }

    /// What the caller, as it is now, sees now. It has at least one identity. Where it may see more than could be found out, what was found has to be enough.
    pub(super) async fn look(&self, workloads: &Workloads, is_enough: impl Fn(&View) -> bool) -> Result<View, Status> {
        match self.glance(workloads).await? {
            Sight::Clear(view) => Ok(view),
            Sight::Dim { view, .. } if !view.identities.is_empty() && is_enough(&view) => Ok(view),
            Sight::Dim { why, .. } => Err(status::not_known_now(&self.process, &why)),
        }
    }

    /// As [`Caller::look`], telling apart what is so and what may only seem so.
    pub(super) async fn glance(&self, workloads: &Workloads) -> Result<Sight, Status> {
        if *workloads.keep.readiness().borrow() == Readiness::Fresh {
            return Err(status::starting());
        }
        let needs = workloads.keep.needs();
        let attested = self.attest(workloads, needs).await?;
        let view = workloads.keep.view(&attested.selectors);
        if !attested.is_sure {
            let why = attested.missing.join(", ");
            tracing::info!(
                pid = self.process.pid(),
                uid = self.process.uid(),
                why,
                "not all of a caller could be found out"
            );
            return Ok(Sight::Dim { view, why });
        }
        if view.identities.is_empty() {
            // Without its selectors, which may tell more than a log should keep; the caller is told them.
            tracing::info!(pid = self.process.pid(), uid = self.process.uid(), evidence = %self.process.evidence(), "no identity issued: no entry matches");
            // Names teach, also where no entry asks for them.
            let attested = self.attest(workloads, Needs { names: true, ..needs }).await?;
            return Err(status::no_identity(&self.process, &attested));
        }
        Ok(Sight::Clear(view))
    }

    async fn attest(&self, workloads: &Workloads, needs: Needs) -> Result<Attested, Status> {
        let attested = workloads.unix.attest(&self.process, needs).await;
        attested.map_err(|error| {
            tracing::info!(%error, evidence = %self.process.evidence(), "a workload could not be attested");
            status::peer(&error)
        })
    }
}
