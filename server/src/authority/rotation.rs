//! Rotation: at the deadlines that the state has, never by looking again and again.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::AuthorityError;
use super::snapshot::{KEY, Shared};
use super::state::State;
use crate::store::{Change, Revision, StoreError};

/// After a failure the next attempt comes after this, doubled each time.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LAST_BACK_OFF: Duration = Duration::from_secs(60);

/// Rotates what is due and takes over what other replicas changed, until `shutdown`.
pub(super) async fn run(shared: &Shared, shutdown: CancellationToken) {
    let mut back_off = FIRST_BACK_OFF;
    loop {
        match follow(shared, &shutdown).await {
            Ok(()) if shutdown.is_cancelled() => return,
            Ok(()) => back_off = FIRST_BACK_OFF,
            Err(error) => {
                tracing::error!(%error, retry_in = ?back_off, "authorities cannot be rotated; what is active signs until its end");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = shared.clock.sleep(back_off) => {}
                }
                back_off = (back_off * 2).min(LAST_BACK_OFF);
            }
        }
    }
}

/// Follows the store and the clock until shutdown, until something fails, or until the watch has to begin anew. A
/// rotation that has begun is not broken off, or the lease would outlive it.
async fn follow(shared: &Shared, shutdown: &CancellationToken) -> Result<(), AuthorityError> {
    let mut watch = shared.store.watch(KEY, shared.store.revision());
    shared.reload().await?;
    loop {
        shared.rotate().await?;
        let due = next_look(shared);
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            batch = watch.next() => match batch {
                Ok(batch) => take_over(shared, batch)?,
                Err(StoreError::Compacted { .. }) => return Ok(()),
                Err(error) => return Err(error.into()),
            },
            () = shared.clock.sleep_until_unix(due) => {}
            () = shared.nudged.notified() => {}
        }
    }
}

/// When to look next. What is due although it was just looked at is another replica's to do; its lease ends if it does
/// not.
fn next_look(shared: &Shared) -> i64 {
    let now = shared.clock.unix();
    shared.current().state.next_due().unwrap_or(i64::MAX).max(now + 1)
}

fn take_over(shared: &Shared, batch: crate::store::Batch) -> Result<(), AuthorityError> {
    let newest: Option<(State, Revision)> = batch
        .events
        .into_iter()
        .filter(|event| event.key == KEY)
        .filter_map(|event| match event.change {
            Change::Put(found) => Some(State::decode(&found.value).map(|state| (state, found.modified))),
            Change::Delete => None,
        })
        .last()
        .transpose()?;
    newest.map_or(Ok(()), |(state, revision)| shared.put_in_place(state, revision))
}
