//! Which nodes an administrator asks for.

use mintmark_identity::Selectors;
use mintmark_proto::spire::server::agent::{count_agents_request, list_agents_request};
use mintmark_proto::spire::types;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tonic::Status;

use super::super::convert::selector_match;
use super::super::status::malformed;
use crate::attest::NodeRecord;
use crate::registry::Match;

/// The filters of listing and of counting, which are alike.
#[derive(Default)]
pub(super) struct Asked {
    attestation_type: String,
    selectors: Option<types::SelectorMatch>,
    banned: Option<bool>,
    can_reattest: Option<bool>,
    expires_before: String,
}

impl From<list_agents_request::Filter> for Asked {
    fn from(filter: list_agents_request::Filter) -> Self {
        Self {
            attestation_type: filter.by_attestation_type,
            selectors: filter.by_selector_match,
            banned: filter.by_banned,
            can_reattest: filter.by_can_reattest,
            expires_before: filter.by_expires_before,
        }
    }
}

impl From<count_agents_request::Filter> for Asked {
    fn from(filter: count_agents_request::Filter) -> Self {
        Self {
            attestation_type: filter.by_attestation_type,
            selectors: filter.by_selector_match,
            banned: filter.by_banned,
            can_reattest: filter.by_can_reattest,
            expires_before: filter.by_expires_before,
        }
    }
}

/// Conditions that a node must all meet.
pub(super) struct Filter {
    method: Option<String>,
    selectors: Option<(Selectors, Match)>,
    banned: Option<bool>,
    can_reattest: Option<bool>,
    expires_before: Option<i64>,
}

impl Filter {
    pub(super) fn parse(asked: Asked) -> Result<Self, Status> {
        let before = Some(asked.expires_before).filter(|text| !text.is_empty());
        let selectors = asked
            .selectors
            .map(|wanted| selector_match("failed to parse selectors", wanted));
        Ok(Self {
            method: Some(asked.attestation_type).filter(|method| !method.is_empty()),
            selectors: selectors.transpose()?,
            banned: asked.banned,
            can_reattest: asked.can_reattest,
            expires_before: before.map(|text| instant(&text)).transpose()?,
        })
    }

    pub(super) fn admits(&self, node: &NodeRecord) -> bool {
        self.method.as_ref().is_none_or(|method| node.method == *method)
            && self.banned.is_none_or(|banned| node.banned == banned)
            && self.can_reattest.is_none_or(|can| node.can_reattest == can)
            && self.expires_before.is_none_or(|before| node.not_after < before)
            && self
                .selectors
                .as_ref()
                .is_none_or(|(wanted, how)| how.relates(node.selectors().iter(), wanted.iter()))
    }
}

/// A time as SPIRE's command line writes it, `2006-01-02 15:04:05 -0700 -07`, or as RFC 3339 has it; in Unix seconds.
fn instant(text: &str) -> Result<i64, Status> {
    let mut parts = text.split_ascii_whitespace();
    let rfc3339 = match (parts.next(), parts.next(), parts.next()) {
        (Some(date), Some(time), Some(offset)) => match offset.split_at_checked(3) {
            Some((hours, minutes)) if !minutes.is_empty() => format!("{date}T{time}{hours}:{minutes}"),
            _ => text.to_owned(),
        },
        _ => text.to_owned(),
    };
    let parsed = OffsetDateTime::parse(&rfc3339, &Rfc3339);
    parsed.map(OffsetDateTime::unix_timestamp).map_err(|error| {
        let text: String = text.chars().take(64).collect();
        malformed(
            "malformed expires-before filter",
            format!("{text:?} is no time such as 2026-01-02T15:04:05Z: {error}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mintmark_identity::SpiffeId;

    fn node() -> NodeRecord {
        NodeRecord {
            id: SpiffeId::parse("spiffe://example.org/spire/agent/x509pop/a").unwrap(),
            method: "x509pop".into(),
            serial: "01".into(),
            next_serial: None,
            not_after: 1_000,
            banned: false,
            selectors: vec!["x509pop:a:1".into(), "x509pop:b:2".into()],
            can_reattest: true,
            version: String::new(),
            attested_at: 0,
        }
    }

    #[test]
    fn every_condition_counts() {
        let admits = |change: &dyn Fn(&mut Asked)| {
            let mut asked = Asked::default();
            change(&mut asked);
            Filter::parse(asked).unwrap().admits(&node())
        };
        let selectors = |texts: &[&str], how: i32| {
            let selectors = texts.iter().map(|value| types::Selector {
                r#type: "x509pop".into(),
                value: (*value).into(),
            });
            Some(types::SelectorMatch {
                selectors: selectors.collect(),
                r#match: how,
            })
        };
        assert!(admits(&|_| {}));
        assert!(admits(&|a| a.attestation_type = "x509pop".into()));
        assert!(!admits(&|a| a.attestation_type = "join_token".into()));
        assert!(!admits(&|a| a.banned = Some(true)));
        assert!(!admits(&|a| a.can_reattest = Some(false)));
        assert!(admits(&|a| a.expires_before = "1970-01-01T00:16:41Z".into()));
        assert!(!admits(&|a| a.expires_before = "1970-01-01T00:16:40Z".into()));
        for (texts, exact, subset, superset, any) in [
            (&["a:1", "b:2"][..], true, true, true, true),
            (&["a:1"], false, false, true, true),
            (&["a:1", "b:2", "c:3"], false, true, false, true),
            (&["c:3"], false, false, false, false),
        ] {
            let results = [0, 1, 2, 3].map(|how| admits(&|a| a.selectors = selectors(texts, how)));
            assert_eq!(results, [exact, subset, superset, any], "{texts:?}");
        }
    }

    #[test]
    fn a_time_is_read_as_spires_command_line_writes_it() {
        for text in [
            "2023-11-14 22:13:20 +0000 +00",
            "2023-11-14 23:13:20 +0100 +01",
            "2023-11-14T22:13:20Z",
        ] {
            assert_eq!(instant(text).unwrap(), 1_700_000_000, "{text}");
        }
        for text in [
            "yesterday",
            "2023-11-14",
            "2023-11-14 22:13:20 +00",
            "2023-13-14 22:13:20 +0000 +00",
        ] {
            assert!(instant(text).is_err(), "{text}");
        }
    }
}
