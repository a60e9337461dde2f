//! Names of users and groups, from the name service of the machine.
//!
//! The name service may ask a directory over the network, so it is asked on threads of its own, and what it said is believed for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mintmark_runtime::clock::Clock;
use mintmark_runtime::task::BlockingPool;
use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User};

/// How long a name is believed, or that there is none.
const BELIEVED: Duration = Duration::from_secs(30);
/// At most so many names are remembered.
const MAX_NAMES: usize = 4096;

/// Whose name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Whose {
    User(u32),
    Group(u32),
}

/// The names that were looked up lately. A handle.
#[derive(Clone)]
pub(super) struct Names {
    known: Arc<Mutex<HashMap<Whose, Known>>>,
    pool: BlockingPool,
    clock: Clock,
}

struct Known {
    name: Option<Arc<str>>,
    until: Instant,
}

impl Names {
    pub(super) fn new(pool: BlockingPool, clock: Clock) -> Self {
        Self {
            known: Arc::default(),
            pool,
            clock,
        }
    }

    /// The names of those that have one.
    ///
    /// # Errors
    /// When the name service does not say whether there is one.
    pub(super) async fn of(&self, wanted: &[Whose]) -> Result<HashMap<Whose, Arc<str>>, String> {
        let (mut names, missing) = self.remembered(wanted);
        if missing.is_empty() {
            return Ok(names);
        }
        let asked = self.pool.run(move || {
            let (mut found, mut failed) = (Vec::new(), None);
            for whose in missing {
                match look_up(whose) {
                    Ok(name) => found.push((whose, name)),
                    Err(errno) => failed = Some((whose, errno)),
                }
            }
            (found, failed)
        });
        let (found, failed) = asked.await.map_err(|error| error.to_string())?;
        self.remember(&found);
        if let Some((whose, errno)) = failed {
            tracing::warn!(?whose, %errno, "the name service did not answer");
            return Err(format!("the name service did not answer: {errno}"));
        }
        names.extend(found.into_iter().filter_map(|(whose, name)| Some((whose, name?))));
        Ok(names)
    }

    fn remembered(&self, wanted: &[Whose]) -> (HashMap<Whose, Arc<str>>, Vec<Whose>) {
        let now = self.clock.instant();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut names, mut missing) = (HashMap::new(), Vec::new());
        for whose in wanted {
            match known.get(whose).filter(|known| known.until > now) {
                Some(Known { name: Some(name), .. }) => drop(names.insert(*whose, Arc::clone(name))),
                Some(_) => {}
                None => missing.push(*whose),
            }
        }
        (names, missing)
    }

    fn remember(&self, found: &[(Whose, Option<Arc<str>>)]) {
        let now = self.clock.instant();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() + found.len() > MAX_NAMES {
            known.retain(|_, known| known.until > now);
        }
        if known.len() + found.len() <= MAX_NAMES {
            let until = now + BELIEVED;
            known.extend(found.iter().map(|(whose, name)| {
                (
                    *whose,
                    Known {
                        name: name.clone(),
                        until,
                    },
                )
            }));
        }
    }
}

/// Blocks on the name service.
fn look_up(whose: Whose) -> nix::Result<Option<Arc<str>>> {
    let name = match whose {
        Whose::User(uid) => User::from_uid(Uid::from_raw(uid)).map(|user| user.map(|user| user.name.into())),
        Whose::Group(gid) => Group::from_gid(Gid::from_raw(gid)).map(|group| group.map(|group| group.name.into())),
    };
    match name {
        // Some name services say so of one that they do not know (getpwnam(3)).
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM) => Ok(None),
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_found_and_remembered_for_a_while() {
        let clock = Clock::manual(0);
        let names = Names::new(BlockingPool::new("names", 1, 4), clock.clone());
        let nobody = 4_000_000_001;
        let wanted = [Whose::User(0), Whose::Group(0), Whose::User(nobody)];
        let found = names.of(&wanted).await.unwrap();
        assert_eq!(
            (&*found[&Whose::User(0)], &*found[&Whose::Group(0)], found.len()),
            ("root", "root", 2)
        );
        assert_eq!(names.remembered(&wanted).1, []);
        clock.advance(BELIEVED);
        assert_eq!(names.remembered(&wanted).1, wanted);
    }
}
