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

impl Caller {
    /// Who the connection says it is.
    pub(super) fn of(extensions: &Extensions) -> Result<Self, Status> {
        let process = extensions.get::<Arc<Process>>().cloned();
        // Every connection has one: without it, it was not accepted.
        let process = process.ok_or_else(|| Status::internal("nobody knows who calls"))?;
        Ok(Self { process })
    }

    /// What the caller, as it is now, sees now. It has at least one identity.
    pub(super) async fn look(&self, workloads: &Workloads) -> Result<View, Status> {
        if *workloads.keep.readiness().borrow() == Readiness::Fresh {
            return Err(status::starting());
        }
        let needs = workloads.keep.needs();
        let attested = self.attest(workloads, needs).await?;
        let view = workloads.keep.view(&attested.selectors);
        if view.identities.is_empty() {
            // Without its selectors, which may tell more than a log should keep; the caller is told them.
            tracing::info!(pid = self.process.pid(), uid = self.process.uid(), evidence = %self.process.evidence(), "no identity issued: no entry matches");
            // Names teach, also where no entry asks for them.
            let attested = self.attest(workloads, Needs { names: true, ..needs }).await?;
            return Err(status::no_identity(&self.process, &attested));
        }
        Ok(view)
    }

    async fn attest(&self, workloads: &Workloads, needs: Needs) -> Result<Attested, Status> {
        let attested = workloads.unix.attest(&self.process, needs).await;
        attested.map_err(|error| {
            tracing::info!(%error, evidence = %self.process.evidence(), "a workload could not be attested");
            status::peer(&error)
        })
    }
}
