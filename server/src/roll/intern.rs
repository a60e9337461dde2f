//! Text that many objects share is held once.

use std::collections::HashSet;
use std::sync::Arc;

/// It is swept when it has doubled, but never below this.
const SMALL: usize = 4_096;

/// The texts that are in use.
pub(super) struct Interner {
    texts: HashSet<Arc<str>>,
    sweep_at: usize,
    empty: Arc<str>,
}

impl Default for Interner {
    fn default() -> Self {
        Self {
            texts: HashSet::new(),
            sweep_at: SMALL,
            empty: Arc::from(""),
        }
    }
}

impl Interner {
    /// The text, shared with all who have the same one.
    pub(super) fn get(&mut self, text: &str) -> Arc<str> {
        if text.is_empty() {
            return Arc::clone(&self.empty);
        }
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        if self.texts.len() >= self.sweep_at {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.sweep_at = (self.texts.len() * 2).max(SMALL);
        }
        let new: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&new));
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_and_what_nobody_uses_is_forgotten() {
        let mut interner = Interner::default();
        let (a, b) = (interner.get("team"), interner.get("team"));
        assert!(Arc::ptr_eq(&a, &b));
        for n in 0..SMALL * 3 {
            interner.get(&n.to_string());
        }
        assert!(interner.texts.len() <= SMALL, "{}", interner.texts.len());
        assert!(Arc::ptr_eq(&a, &interner.get("team")));
    }
}
