//! Between our nouns and the wire's messages.

use clap::ValueEnum;
use mintmark_identity::{Selector, SpiffeId};
use mintmark_proto::spire::types;
use mintmark_proto::spire::types::federates_with_match::MatchBehavior as FederatesMatch;
use mintmark_proto::spire::types::selector_match::MatchBehavior;

pub fn id_message(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: id.trust_domain_name().to_owned(),
        path: id.path().to_owned(),
    }
}

pub fn id_text(id: Option<&types::Spiffeid>) -> String {
    id.map_or_else(String::new, |id| format!("spiffe://{}{}", id.trust_domain, id.path))
}

pub fn selector_message(selector: &Selector) -> types::Selector {
    types::Selector {
        r#type: selector.kind().to_owned(),
        value: selector.value().to_owned(),
    }
}

pub fn selector_text(selector: &types::Selector) -> String {
    format!("{}:{}", selector.r#type, selector.value)
}

/// How the selectors or trust domains of a filter are compared with those of what is listed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Match {
    /// The same ones.
    Exact,
    /// Only such as are named.
    Subset,
    /// All that are named, and perhaps more.
    Superset,
    /// At least one that is named.
    Any,
}

impl Match {
    pub fn selectors(self, selectors: &[Selector]) -> Option<types::SelectorMatch> {
        let behavior = match self {
            Self::Exact => MatchBehavior::MatchExact,
            Self::Subset => MatchBehavior::MatchSubset,
            Self::Superset => MatchBehavior::MatchSuperset,
            Self::Any => MatchBehavior::MatchAny,
        };
        (!selectors.is_empty()).then(|| types::SelectorMatch {
            selectors: selectors.iter().map(selector_message).collect(),
            r#match: behavior.into(),
        })
    }

    pub fn trust_domains(self, trust_domains: &[String]) -> Option<types::FederatesWithMatch> {
        let behavior = match self {
            Self::Exact => FederatesMatch::MatchExact,
            Self::Subset => FederatesMatch::MatchSubset,
            Self::Superset => FederatesMatch::MatchSuperset,
            Self::Any => FederatesMatch::MatchAny,
        };
        (!trust_domains.is_empty()).then(|| types::FederatesWithMatch {
            trust_domains: trust_domains.to_vec(),
            r#match: behavior.into(),
        })
    }
}
