//! What a prefix holds, and then every change to it: a listing joined to a watch without a gap.

use std::{fmt, task::Poll};

use bytes::Bytes;
use futures::{
    FutureExt,
    future::{self, BoxFuture},
};

use super::{
    Store,
    engine::Watch,
    error::StoreError,
    types::{Batch, KeyValue, Revision},
};

/// Keys a page of a listing.
const PAGE: usize = 1000;

/// What a prefix holds, and then every change to it; see [`Store::snapshot_then_watch`].
#[derive(Debug)]
pub struct Feed {
    store: Store,
    prefix: Bytes,
    stage: Stage,
}

/// The next thing to fold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Start from nothing: a listing begins. The first step, and once more whenever the feed fell too
    /// far behind and has to list again.
    Restart,
    /// Keys that exist. A key may be put again by a later step, also with an older value that a still
    /// later one replaces; all is settled at [`Listed`](Self::Listed).
    Pairs(Vec<KeyValue>),
    /// What was folded is now exactly what the store held at this revision.
    Listed(Revision),
    /// Changes, in order. After [`Listed`](Self::Listed) what was folded is exact after each.
    Changes(Batch),
}

#[derive(Debug)]
enum Stage {
    Start,
    Listing {
        after: Option<Bytes>,
        watch: Option<Watch>,
        ahead: Option<Ahead>,
    },
    /// The last page was read at revision `target`; the watch has yet to come there.
    CatchingUp {
        watch: Watch,
        target: Revision,
    },
    Following(Watch),
}

/// A page that is being read while the one before is folded.
struct Ahead(BoxFuture<'static, Page>);

type Page = Result<(Revision, Vec<KeyValue>), StoreError>;

impl fmt::Debug for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ahead")
    }
}

impl Ahead {
    /// Begins to read the page behind `after`.
    async fn read(store: &Store, prefix: &Bytes, after: Bytes) -> Self {
        let (store, prefix) = (store.clone(), prefix.clone());
        let mut page = async move { store.range(&prefix, Some(&after), PAGE).await }.boxed();
        match futures::poll!(&mut page) {
            Poll::Ready(page) => Self(future::ready(page).boxed()),
            Poll::Pending => Self(page),
        }
    }
}

impl Feed {
    pub(super) fn new(store: Store, prefix: &[u8]) -> Self {
        Self {
            store,
            prefix: Bytes::copy_from_slice(prefix),
            stage: Stage::Start,
        }
    }

    /// Waits for the next step.
    ///
    /// # Errors
    /// What the store answers, but for [`StoreError::Compacted`], after which the feed lists again.
    pub async fn next(&mut self) -> Result<Step, StoreError> {
        let step = self.step().await;
        match step {
            Err(StoreError::Compacted { .. }) => {
                self.stage = Stage::Listing {
                    after: None,
                    watch: None,
                    ahead: None,
                };
                Ok(Step::Restart)
            }
            other => other,
        }
    }

    /// The revision that the watch has come to; nothing at or below it is still to come, once a listing is
    /// complete.
    pub fn position(&self) -> Revision {
        match &self.stage {
            Stage::Start | Stage::Listing { watch: None, .. } => 0,
            Stage::Listing { watch: Some(watch), .. } | Stage::CatchingUp { watch, .. } | Stage::Following(watch) => {
                watch.position()
            }
        }
    }

    async fn step(&mut self) -> Result<Step, StoreError> {
        match &mut self.stage {
            Stage::Start => {
                self.stage = Stage::Listing {
                    after: None,
                    watch: None,
                    ahead: None,
                };
                Ok(Step::Restart)
            }
            Stage::Listing { after, watch, ahead } => {
                let page = match ahead {
                    Some(page) => {
                        let page = (&mut page.0).await;
                        *ahead = None;
                        page
                    }
                    None => {
                        // What changes meanwhile is taken between pages, so that the history need not reach back
                        // over the whole listing.
                        if let Some(batch) = watch.as_mut().and_then(|watch| watch.next().now_or_never()) {
                            return batch.map(Step::Changes);
                        }
                        self.store.range(&self.prefix, after.as_deref(), PAGE).await
                    }
                };
                let (revision, pairs) = page?;
                let following = match watch.take() {
                    Some(watch) => watch,
                    None => self.store.watch(&self.prefix, revision),
                };
                match pairs.last() {
                    Some(last) if pairs.len() == PAGE => {
                        // Not while changes wait: a page that was read before them must be folded before them.
                        if self.store.revision() == following.position() {
                            *ahead = Some(Ahead::read(&self.store, &self.prefix, last.key.clone()).await);
                        }
                        *after = Some(last.key.clone());
                        *watch = Some(following);
                    }
                    _ => {
                        self.stage = Stage::CatchingUp {
                            watch: following,
                            target: revision,
                        }
                    }
                }
                Ok(Step::Pairs(pairs))
            }
            Stage::CatchingUp { watch, target } if watch.position() < *target => watch.next().await.map(Step::Changes),
            Stage::CatchingUp { watch, .. } => {
                let revision = watch.position();
                if let Stage::CatchingUp { watch, .. } = std::mem::replace(&mut self.stage, Stage::Start) {
                    self.stage = Stage::Following(watch);
                }
                Ok(Step::Listed(revision))
            }
            Stage::Following(watch) => watch.next().await.map(Step::Changes),
        }
    }
}
