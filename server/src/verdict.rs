//! Is it allowed, for how long, and why?
//!
//! In comes a [`Subject`]; out goes a [`Verdict`]. Only `issuance` may call it, once for each credential. There are no
//! policies yet: everything that was attested and has an entry is allowed, and the verdict says that no policy was
//! asked.

use std::sync::Arc;

use mintmark_identity::{SpiffeId, Ttl};

use crate::attest::By;

/// What a verdict is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Whose credential it will be.
    pub spiffe_id: &'a SpiffeId,
    /// Who asks for it.
    pub by: &'a By,
    /// The entry that it is asked for.
    pub entry_id: Option<&'a str>,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether a credential may be issued.
    pub allowed: bool,
    /// How long it may live at most.
    pub ttl_cap: Option<Ttl>,
    /// Why, one for each policy that had something to say.
    pub reasons: Arc<[Box<str>]>,
    /// Which state of all policies this was; 0 when there are none.
    pub epoch: u64,
}

/// The verdicts of the policies that are installed. Clones share them.
#[derive(Clone, Debug)]
pub struct Verdicts {
    without_policy: Verdict,
}

impl Verdicts {
    /// Without policies: everything is allowed, and no policy is said to have been asked.
    pub fn without_policies() -> Self {
        let reasons = Arc::from([Box::from("no policy is installed")]);
        Self {
            without_policy: Verdict {
                allowed: true,
                ttl_cap: None,
                reasons,
                epoch: 0,
            },
        }
    }

    /// Judges one subject.
    pub fn judge(&self, _subject: &Subject<'_>) -> Verdict {
        self.without_policy.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_policies_a_verdict_allows_and_says_that_none_was_asked() {
        let spiffe_id = SpiffeId::parse("spiffe://example.org/a").unwrap();
        let verdict = Verdicts::without_policies().judge(&Subject {
            spiffe_id: &spiffe_id,
            by: &By::Server,
            entry_id: None,
        });
        assert_eq!((verdict.allowed, verdict.ttl_cap, verdict.epoch), (true, None, 0));
        assert_eq!(&*verdict.reasons, ["no policy is installed".into()]);
    }
}
