//! How many calls there are at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;

use super::ServeLimits;
use crate::peer::Holder;

/// The calls under way. A handle.
#[derive(Clone)]
pub(super) struct Streams(Arc<Inner>);

struct Inner {
    limits: ServeLimits,
    /// What calls do that count here, for people.
    doing: &'static str,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    all: usize,
    by_holder: HashMap<Holder, usize>,
}

/// A call's place, freed when dropped.
pub(super) struct Place {
    streams: Streams,
    holder: Holder,
}

impl Streams {
    pub(super) fn new(limits: ServeLimits, doing: &'static str) -> Self {
        Self(Arc::new(Inner {
            limits,
            doing,
            open: Mutex::default(),
        }))
    }

    /// A place for one more call of this holder.
    pub(super) fn enter(&self, holder: Holder) -> Result<Place, Status> {
        let Inner { limits, doing, .. } = &*self.0;
        let mut open = self.open();
        if open.all >= limits.streams {
            return Err(over(format!("{} calls on this node {doing}", limits.streams)));
        }
        let count = open.by_holder.get(&holder).copied().unwrap_or_default();
        if count >= limits.streams_per_user {
            return Err(over(format!("{} calls of {holder} {doing}", limits.streams_per_user)));
        }
        open.by_holder.insert(holder.clone(), count + 1);
        open.all += 1;
        drop(open);
        Ok(Place {
            streams: self.clone(),
            holder,
        })
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn over(what: String) -> Status {
    // Shedding is Unavailable (SPIFFE Workload Endpoint §6).
    Status::unavailable(format!(
        "{what}, and no more are taken: end some, or raise [limits] in the attestor's configuration"
    ))
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.streams.open();
        open.all = open.all.saturating_sub(1);
        match open.by_holder.get_mut(&self.holder) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.by_holder.remove(&self.holder)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_bounded_for_each_holder_and_in_all() {
        let limits = ServeLimits {
            streams: 3,
            streams_per_user: 2,
        };
        let streams = Streams::new(limits, "are under way");
        let enter = |uid| streams.enter(Holder::User(uid));
        let (one, two) = (enter(1).unwrap(), enter(1).unwrap());
        let refused = enter(1).err().unwrap();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        assert!(refused.message().contains("user 1"), "{refused}");
        let three = enter(2).unwrap();
        assert!(enter(3).err().unwrap().message().contains("on this node"));
        drop(one);
        drop(enter(3).unwrap());
        drop((two, three));
        assert!(streams.open().by_holder.is_empty());
    }
}
