//! What the rules need of each object, read as it comes.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::rules::{NamespaceFacts, NodeFacts, PodFacts, Rules};
use super::super::template::{Interner, Mentions};
use crate::roll::{Kept, Reader};

/// Reads for all clusters, and keeps of each object what the rules of its cluster mention.
#[derive(Default)]
pub struct FactsReader(Mutex<State>);

#[derive(Default)]
struct State {
    mentions: BTreeMap<Arc<str>, Arc<Mentions>>,
    interner: Interner,
}

impl FactsReader {
    /// From now on, what these rules need is kept, too. True when that is more than before, so that what was read must be read again.
    pub(super) fn wants(&self, cluster: &Arc<str>, rules: &Rules) -> bool {
        let mut state = self.state();
        let before = state.mentions(cluster);
        let after = rules.mentions_after(&before);
        let is_more = !Arc::ptr_eq(&before, &after);
        state.mentions.insert(Arc::clone(cluster), after);
        is_more
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T: PartialEq + Send + Sync + 'static, E: Display>(
        &self,
        cluster: &str,
        read: impl FnOnce(&Arc<Mentions>, &mut Interner) -> Result<T, E>,
    ) -> Result<Kept, String> {
        let mut state = self.state();
        let mentions = state.mentions(cluster);
        state.interner.sweep();
        let facts = read(&mentions, &mut state.interner).map_err(|error| error.to_string())?;
        Ok(Kept::new(facts))
    }
}

impl State {
    fn mentions(&mut self, cluster: &str) -> Arc<Mentions> {
        Arc::clone(self.mentions.entry(cluster.into()).or_default())
    }
}

impl Reader for FactsReader {
    fn pod(&self, cluster: &str, json: &str) -> Result<Kept, String> {
        let mut json = serde_json::Deserializer::from_str(json);
        self.read(cluster, |mentions, interner| {
            PodFacts::read(&mut json, mentions, interner)
        })
    }

    fn node(&self, cluster: &str, json: &str) -> Result<Kept, String> {
        let mut json = serde_json::Deserializer::from_str(json);
        self.read(cluster, |mentions, interner| {
            NodeFacts::read(&mut json, mentions, interner)
        })
    }

    fn namespace(&self, cluster: &str, json: &str) -> Result<Kept, String> {
        let mut json = serde_json::Deserializer::from_str(json);
        self.read(cluster, |mentions, interner| {
            NamespaceFacts::read(&mut json, mentions, interner)
        })
    }
}
