//! The renewal queue: one task that asks for what is due.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use mintmark_identity::SpiffeId;
use mintmark_proto::attestor::KeyBinding;
use mintmark_runtime::crypto::random;
use tokio_util::sync::CancellationToken;

use super::Keep;
use super::keys::NewKey;
use super::slot::{WitSvid, X509Svid};
use super::state::{Kind, Next, State};
use super::upstream::UpstreamError;

/// So many keys go up in one message.
const BATCH: usize = 500;
/// So many messages are on their way at once.
const FLIGHTS: usize = 4;
/// So many keys are made, at 30 µs each, before other tasks get a turn on this thread.
const TURN: usize = 32;
/// The offset of a node's renewals is one of so many steps.
const PHASES: u8 = 4;
/// Waits after a failure that may well pass: from, to.
const PASSING: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Waits after any other failure.
const LASTING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// Nothing due: the queue is looked at again after this time, in case the clock was set.
const RECHECK: Duration = Duration::from_secs(30);

/// An SVID that is asked for.
struct Asked {
    id: Arc<str>,
    spiffe_id: SpiffeId,
    shape: u64,
    key: NewKey,
}

/// What is to be asked for.
struct Wanted {
    id: Arc<str>,
    spiffe_id: SpiffeId,
    shape: u64,
}

impl Keep {
    /// Fixes by how many steps after half of its life an SVID is renewed: for one node always the same, for many nodes different ones.
    pub fn set_node(&self, node: &SpiffeId) {
        let hash = node
            .as_str()
            .bytes()
            .fold(0u8, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte));
        self.state().phase = i64::from(hash % PHASES);
    }

    /// Renews what is due and ends what has ended, until shutdown.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut is_up = self.0.upstream.is_up();
        let mut flights: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        loop {
            let now = self.0.clock.unix_ms();
            if self.state().end(now) > 0 {
                tracing::warn!("SVIDs have ended before they could be renewed");
                self.changed();
            }
            let up = *is_up.borrow_and_update();
            while up && flights.len() < FLIGHTS {
                let Some(flight) = self.take_flight(now) else { break };
                flights.push(flight);
            }
            let wake = self.next_wake(up && flights.len() < FLIGHTS);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.0.due.notified() => {}
                changed = is_up.changed() => match changed {
                    Ok(()) if *is_up.borrow() => self.retry_refused(),
                    Ok(()) => {}
                    // The link is gone for good: at shutdown only.
                    Err(_) => return,
                },
                Some(()) = flights.next(), if !flights.is_empty() => {}
                () = self.0.clock.sleep(wake) => {}
            }
        }
    }

    fn next_wake(&self, with_due: bool) -> Duration {
        let state = self.state();
        let due = state.next_due().filter(|_| with_due);
        let next = due.into_iter().chain(state.next_end()).min();
        let now = self.0.clock.unix_ms();
        let left = next.map_or(RECHECK, |at| {
            Duration::from_millis(at.saturating_sub(now).max(0).unsigned_abs())
        });
        left.min(RECHECK)
    }

    /// A new link may well sign what an old one refused.
    fn retry_refused(&self) {
        let now = self.0.clock.unix_ms();
        let mut state = self.state();
        let failed = state
            .due()
            .filter(|(at, kind, item)| *at > now && item.turn(*kind).failures > 0);
        let failed: Vec<_> = failed
            .map(|(_, kind, item)| (Arc::clone(&item.identity.id), kind))
            .collect();
        for (id, kind) in failed {
            state.schedule(&id, kind, Next::At(now));
        }
    }

    fn take_flight(&self, now: i64) -> Option<BoxFuture<'static, ()>> {
        let mut state = self.state();
        let kind = loop {
            let (at, kind, _) = state.due().next()?;
            if at > now {
                return None;
            }
            let batch = take_due(&mut state, kind, now);
            if !batch.is_empty() {
                let keep = self.clone();
                break match kind {
                    Kind::X509 => keep.fly_x509(batch).boxed(),
                    Kind::Wit => keep.fly_wit(batch).boxed(),
                };
            }
        };
        Some(kind)
    }

    async fn fly_x509(self, wanted: Vec<Wanted>) {
        let asked = make_keys(wanted).await;
        let bindings = asked.iter().map(|one| KeyBinding {
            entry_id: one.id.to_string(),
            public_key: one.key.spki.clone(),
        });
        let answers = self.0.upstream.x509(bindings.collect()).await;
        let answers = answers.and_then(|answers| one_each(answers, asked.len()));
        self.settle(Kind::X509, asked, answers, |state, one, answer, now| {
            let phase = state.phase;
            let svid = X509Svid::accept(answer, &one.spiffe_id, &one.key, now, phase)?;
            state.hold_x509(&one.id, svid);
            Ok(())
        });
    }

    async fn fly_wit(self, wanted: Vec<Wanted>) {
        let asked = make_keys(wanted).await;
        let keys = asked
            .iter()
            .map(|one| (one.id.to_string(), one.key.spki.clone()))
            .collect();
        let answers = self.0.upstream.wit(keys).await;
        let answers = answers.and_then(|answers| one_each(answers, asked.len()));
        self.settle(Kind::Wit, asked, answers, |state, one, answer, now| {
            let phase = state.phase;
            let svid = WitSvid::accept(answer, &one.spiffe_id, &one.key, now, phase)?;
            state.hold_wit(&one.id, svid);
            Ok(())
        });
    }

    fn settle<A>(
        &self,
        kind: Kind,
        asked: Vec<Asked>,
        answers: Result<Vec<A>, UpstreamError>,
        mut hold: impl FnMut(&mut State, &Asked, A, i64) -> Result<(), UpstreamError>,
    ) {
        let now = self.0.clock.unix_ms();
        let (mut answers, all_failed) = match answers {
            Ok(answers) => (answers.into_iter(), None),
            Err(error) => (Vec::new().into_iter(), Some(error)),
        };
        let (mut came, mut failed, mut last) = (0, 0, None);
        let mut state = self.state();
        for one in asked {
            let answer = answers.next();
            let Some(item) = state.get(&one.id) else { continue };
            if item.turn(kind).next != Next::Asked || item.identity.shape != one.shape {
                // The identity has changed meanwhile, and a new SVID is due already.
                state.want(&one.id, kind, now);
                continue;
            }
            let held = match (answer, &all_failed) {
                (Some(answer), None) => hold(&mut state, &one, answer, now),
                (_, Some(error)) => Err(error.clone()),
                (None, None) => Err(UpstreamError::Nonsense("no answer".into())),
            };
            match held {
                Ok(()) => came += 1,
                Err(error) => {
                    failed += 1;
                    retry_later(&mut state, kind, &one.id, &error, now);
                    last = Some(error);
                }
            }
        }
        drop(state);
        if let Some(error) = last {
            tracing::warn!(?kind, failed, came, %error, "SVIDs were not renewed; what is held is kept until its end");
        }
        if came > 0 {
            tracing::debug!(?kind, came, "SVIDs renewed");
        }
        // Also when none came: whoever waits for the first one is told why it has to wait.
        self.changed();
    }
}

/// Takes what is due, and what will be within one step of its own life, so that it goes up in one message. What nobody wants any more is let go of.
fn take_due(state: &mut State, kind: Kind, now: i64) -> Vec<Wanted> {
    let (mut batch, mut unwanted) = (Vec::new(), Vec::new());
    for (at, _, item) in state.due().filter(|(_, one, _)| *one == kind) {
        let step = item.life(kind).map_or(0, |life| life.step());
        if at > now.saturating_add(step) {
            // Those behind may have longer steps: look at them all.
            continue;
        }
        let id = Arc::clone(&item.identity.id);
        if !item.is_wanted(kind) {
            unwanted.push(id);
        } else if batch.len() < BATCH {
            batch.push(Wanted {
                id,
                spiffe_id: item.identity.spiffe_id.clone(),
                shape: item.identity.shape,
            });
        } else {
            break;
        }
    }
    for id in unwanted {
        state.drop_svid(&id, kind);
        state.schedule(&id, kind, Next::Idle);
    }
    for one in &batch {
        state.schedule(&one.id, kind, Next::Asked);
    }
    batch
}

async fn make_keys(wanted: Vec<Wanted>) -> Vec<Asked> {
    let mut asked = Vec::with_capacity(wanted.len());
    for (at, one) in wanted.into_iter().enumerate() {
        if at > 0 && at % TURN == 0 {
            tokio::task::yield_now().await;
        }
        asked.push(Asked {
            id: one.id,
            spiffe_id: one.spiffe_id,
            shape: one.shape,
            key: NewKey::generate(),
        });
    }
    asked
}

fn one_each<A>(answers: Vec<A>, count: usize) -> Result<Vec<A>, UpstreamError> {
    match answers.len() == count {
        true => Ok(answers),
        false => Err(UpstreamError::Nonsense(format!(
            "{} answers to {count} keys",
            answers.len()
        ))),
    }
}

fn retry_later(state: &mut State, kind: Kind, id: &Arc<str>, error: &UpstreamError, now: i64) {
    let Some(item) = state.get_mut(id) else { return };
    let turn = item.turn_mut(kind);
    let (base, cap) = if error.is_passing() { PASSING } else { LASTING };
    let whole = base.saturating_mul(1 << turn.failures.min(20)).min(cap);
    turn.failures = turn.failures.saturating_add(1);
    turn.problem = Some(error.to_string().into());
    // Between half and the whole of it.
    let share = f64::from(u32::from_ne_bytes(random())) / f64::from(u32::MAX);
    let wait = whole / 2 + (whole / 2).mul_f64(share);
    let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
    state.schedule(id, kind, Next::At(now.saturating_add(wait)));
}
