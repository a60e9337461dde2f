//! How many calls there are at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;

use super::ServeLimits;

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
    by_user: HashMap<u32, usize>,
}

/// A call's place, freed when dropped.
pub(super) struct Place {
    streams: Streams,
    uid: u32,
}

impl Streams {
    pub(super) fn new(limits: ServeLimits, doing: &'static str) -> Self {
        Self(Arc::new(Inner {
            limits,
            doing,
            open: Mutex::default(),
        }))
    }

    /// A place for one more call of this user.
    pub(super) fn enter(&self, uid: u32) -> Result<Place, Status> {
        let Inner { limits, doing, .. } = &*self.0;
        let mut open = self.open();
        if open.all >= limits.streams {
            return Err(over(format!("{} calls on this node {doing}", limits.streams)));
        }
        let user = open.by_user.entry(uid).or_default();
        if *user >= limits.streams_per_user {
            return Err(over(format!("{} calls of user {uid} {doing}", limits.streams_per_user)));
        }
        *user += 1;
        open.all += 1;
        drop(open);
        Ok(Place {
            streams: self.clone(),
            uid,
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
        match open.by_user.get_mut(&self.uid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.by_user.remove(&self.uid)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_bounded_for_each_user_and_in_all() {
        let limits = ServeLimits {
            streams: 3,
            streams_per_user: 2,
        };
        let streams = Streams::new(limits, "are under way");
        let (one, two) = (streams.enter(1).unwrap(), streams.enter(1).unwrap());
        let refused = streams.enter(1).err().unwrap();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        assert!(refused.message().contains("user 1"), "{refused}");
        let three = streams.enter(2).unwrap();
        assert!(streams.enter(3).err().unwrap().message().contains("on this node"));
        drop(one);
        drop(streams.enter(3).unwrap());
        drop((two, three));
        assert!(streams.open().by_user.is_empty());
    }
}
