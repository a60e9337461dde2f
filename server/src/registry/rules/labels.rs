//! Label selectors, as Kubernetes has them (`metav1.LabelSelector`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::template::Data;

/// A selector has at most this many requirements.
const MAX_REQUIREMENTS: usize = 64;
/// A requirement names at most this many values.
const MAX_VALUES: usize = 256;

/// `matchLabels` and `matchExpressions`, as they are written; all of them must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct LabelSelector {
    /// Labels that must have these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Requirements of other kinds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelExpression>,
}

/// One of `matchExpressions`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["key", "operator"]))]
pub struct LabelExpression {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// For `In` and `NotIn`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// Labels of an object: texts, sorted by their keys.
#[derive(Debug, Clone, Copy, Default)]
pub struct Labels<'a>(&'a [(Arc<str>, Data)]);

impl<'a> Labels<'a> {
    /// The labels that `data` is, none when it is something else.
    pub fn of(data: Option<&'a Data>) -> Self {
        match data {
            Some(Data::Map(map)) => Self(map),
            _ => Self(&[]),
        }
    }

    /// The value of a label.
    pub fn get(self, key: &str) -> Option<&'a str> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        match self.0.get(at) {
            Some((_, Data::Text(value))) => Some(value),
            _ => None,
        }
    }
}

/// A checked selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selector(Box<[Requirement]>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Requirement {
    key: Arc<str>,
    operator: Operator,
    /// Sorted.
    values: Box<[Box<str>]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Selector {
    /// Checks a selector as the API server's own library does.
    pub(super) fn compile(written: &LabelSelector) -> Result<Self, String> {
        let count = written.match_labels.len() + written.match_expressions.len();
        if count > MAX_REQUIREMENTS {
            return Err(format!("{count} requirements are more than {MAX_REQUIREMENTS}"));
        }
        let equals = written.match_labels.iter().map(|(key, value)| {
            let values = std::slice::from_ref(value);
            Requirement::compile(key, Operator::Equals, values)
        });
        let expressions = written.match_expressions.iter().map(|expression| {
            let operator = match &*expression.operator {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    let key = &expression.key;
                    return Err(format!(
                        "{other:?} for {key:?} is no operator: In, NotIn, Exists or DoesNotExist"
                    ));
                }
            };
            Requirement::compile(&expression.key, operator, &expression.values)
        });
        equals.chain(expressions).collect::<Result<_, _>>().map(Self)
    }

    /// The number of the first requirement that the labels do not meet.
    pub(super) fn unmet(&self, labels: Labels<'_>) -> Option<usize> {
        self.0.iter().position(|requirement| !requirement.holds(labels))
    }

    pub(super) fn requirement(&self, number: usize) -> Option<&Requirement> {
        self.0.get(number)
    }
}

impl Requirement {
    fn compile(key: &str, operator: Operator, values: &[String]) -> Result<Self, String> {
        if let Some(why) = why_no_key(key) {
            return Err(format!("{key:?} is no label: {why}"));
        }
        let needs_values = matches!(operator, Operator::Equals | Operator::In | Operator::NotIn);
        match (needs_values, values.is_empty()) {
            (true, true) => return Err(format!("In and NotIn for {key:?} need at least one value")),
            (false, false) => return Err(format!("Exists and DoesNotExist for {key:?} take no values")),
            _ => {}
        }
        if values.len() > MAX_VALUES {
            return Err(format!(
                "{} values for {key:?} are more than {MAX_VALUES}",
                values.len()
            ));
        }
        if let Some((value, why)) = values.iter().find_map(|value| Some((value, why_no_value(value)?))) {
            return Err(format!("{value:?} is no value of label {key:?}: {why}"));
        }
        let mut values: Vec<Box<str>> = values.iter().map(|value| value.as_str().into()).collect();
        values.sort_unstable();
        Ok(Self {
            key: key.into(),
            operator,
            values: values.into(),
        })
    }

    fn holds(&self, labels: Labels<'_>) -> bool {
        let value = labels.get(&self.key);
        let listed = |value: &str| self.values.binary_search_by(|known| (**known).cmp(value)).is_ok();
        match self.operator {
            Operator::Equals | Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.join(", ");
        let key = &self.key;
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => write!(f, "{key} exists"),
            Operator::DoesNotExist => write!(f, "{key} does not exist"),
        }
    }
}

/// Kubernetes' qualified name: an optional DNS name and a slash, then a name.
fn why_no_key(key: &str) -> Option<&'static str> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let label = |label: &str| {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(legal)
    };
    if prefix.is_some_and(|prefix| prefix.len() > 253 || !prefix.split('.').all(label)) {
        return Some("what stands before its slash is no DNS name of lower-case labels");
    }
    match name.is_empty() {
        true => Some("it has no name"),
        false => why_no_value(name),
    }
}

/// Empty, or at most 63 of letters, digits and inner `-`, `_` and `.`.
fn why_no_value(value: &str) -> Option<&'static str> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    if bytes.len() > 63 {
        Some("it has more than 63 characters")
    } else if !bytes.iter().copied().all(legal) || !edge(bytes.first()) || !edge(bytes.last()) {
        Some("only letters, digits and, between them, '-', '_' and '.' may stand in it")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Data {
        Data::of_texts(pairs.iter().map(|(key, value)| (Arc::from(*key), Arc::from(*value))))
    }

    fn selector(json: serde_json::Value) -> Result<Selector, String> {
        Selector::compile(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn all_requirements_must_hold() {
        let web = labels(&[("app", "web"), ("tier", "front"), ("empty", "")]);
        let bare = labels(&[]);
        for (written, matches_web, matches_bare) in [
            (json!({}), true, true),
            (json!({"matchLabels": {"app": "web"}}), true, false),
            (json!({"matchLabels": {"app": "web", "tier": "back"}}), false, false),
            (json!({"matchLabels": {"empty": ""}}), true, false),
            (
                json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["db", "web"]}]}),
                true,
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]}),
                true,
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}),
                false,
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}),
                true,
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}),
                false,
                true,
            ),
            (
                json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}),
                false,
                false,
            ),
        ] {
            let compiled = selector(written.clone()).unwrap();
            assert_eq!(
                compiled.unmet(Labels::of(Some(&web))).is_none(),
                matches_web,
                "{written}"
            );
            assert_eq!(
                compiled.unmet(Labels::of(Some(&bare))).is_none(),
                matches_bare,
                "{written}"
            );
        }
    }

    #[test]
    fn a_selector_that_kubernetes_would_refuse_is_refused_with_its_place() {
        let expression = |key: &str, operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        for (written, why) in [
            (json!({"matchLabels": {"": "x"}}), "it has no name"),
            (json!({"matchLabels": {"a b": "x"}}), "\"a b\" is no label"),
            (json!({"matchLabels": {"UPPER.io/x": "x"}}), "before its slash"),
            (json!({"matchLabels": {"a": "-x"}}), "\"-x\" is no value of label \"a\""),
            (json!({"matchLabels": {"a": "x".repeat(64)}}), "more than 63"),
            (expression("a", "Equals", &["x"]), "\"Equals\" for \"a\" is no operator"),
            (expression("a", "In", &[]), "need at least one value"),
            (expression("a", "Exists", &["x"]), "take no values"),
        ] {
            let error = selector(written.clone()).expect_err(&written.to_string());
            assert!(error.contains(why), "{error}");
        }
        let many: Vec<_> = (0..65).map(|number| (format!("a{number}"), "x")).collect();
        let many: serde_json::Map<_, _> = many.into_iter().map(|(key, value)| (key, value.into())).collect();
        assert!(
            selector(json!({"matchLabels": many}))
                .unwrap_err()
                .contains("more than 64")
        );
    }

    #[test]
    fn an_unmet_requirement_reads_as_people_write_it() {
        let written = json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "a", "operator": "In", "values": ["2", "1"]},
                {"key": "b", "operator": "NotIn", "values": ["1"]},
                {"key": "c", "operator": "Exists"},
                {"key": "d", "operator": "DoesNotExist"},
            ],
        });
        let compiled = selector(written).unwrap();
        let shown: Vec<_> = compiled.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            ["app=web", "a in (1, 2)", "b notin (1)", "c exists", "d does not exist"]
        );
    }
}
