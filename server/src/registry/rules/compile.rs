//! From an object to a rule: templates parsed, selectors and lifetimes checked. What is wrong becomes the rule's error, and the rule then selects nothing.

use std::sync::Arc;

use mintmark_identity::{TrustDomain, Ttl, dns};
use serde::de::DeserializeOwned;

use super::super::entry::{self, MAX_SELECTORS};
use super::super::template::{Mentions, Template};
use super::Settings;
use super::duration;
use super::labels::{LabelSelector, Selector};
use super::objects::{ClusterSpiffeIdSpec, RuleKind, RuleName, RuleObject, WorkloadIdentitySpec};

/// A rule: an object that is understood, or what is wrong with it.
#[derive(Debug)]
pub struct Rule {
    pub(super) name: Arc<RuleName>,
    pub(super) created: i64,
    generation: i64,
    pub(super) body: Result<Body, String>,
}

impl Rule {
    /// The object.
    pub fn name(&self) -> &Arc<RuleName> {
        &self.name
    }

    /// The generation of the object that this is.
    pub fn generation(&self) -> i64 {
        self.generation
    }

    /// Why the rule cannot be used.
    pub fn error(&self) -> Option<&str> {
        self.body.as_ref().err().map(|why| &**why)
    }

    /// The object is for another server.
    pub fn is_other_class(&self) -> bool {
        self.body.as_ref().is_ok_and(|body| body.other_class.is_some())
    }

    pub(super) fn is_fallback(&self) -> bool {
        self.body.as_ref().is_ok_and(|body| body.is_fallback)
    }
}

/// What a rule says.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) spiffe_id: Template,
    pub(super) dns_names: Vec<Template>,
    pub(super) selectors: Vec<Template>,
    pub(super) namespaces: Option<Selector>,
    pub(super) pods: Option<Selector>,
    pub(super) x509_ttl: Option<Ttl>,
    pub(super) jwt_ttl: Option<Ttl>,
    pub(super) federates_with: Vec<TrustDomain>,
    pub(super) admin: bool,
    pub(super) downstream: bool,
    pub(super) services: bool,
    pub(super) is_fallback: bool,
    /// The object is for another server.
    pub(super) other_class: Option<String>,
    pub(super) hint: Arc<str>,
    /// The fields that its templates name.
    pub(super) mentions: Mentions,
}

/// Understands an object.
pub(super) fn rule(settings: &Settings, object: &RuleObject) -> Rule {
    let body = match object.name.kind {
        RuleKind::ClusterSpiffeId => spec::<ClusterSpiffeIdSpec>(object).and_then(|spec| {
            let class = &settings.class_name;
            let other = !class.is_empty() && spec.class_name != *class;
            Written::from(spec).compile(settings, other)
        }),
        RuleKind::WorkloadIdentity => {
            spec::<WorkloadIdentitySpec>(object).and_then(|spec| Written::from(spec).compile(settings, false))
        }
        RuleKind::Default => Err("it is no object".into()),
    };
    Rule {
        name: Arc::new(object.name.clone()),
        created: object.created,
        generation: object.generation,
        body,
    }
}

/// The identity of pods that no rule is for, unless the configuration wants none.
pub(super) fn default(settings: &Settings) -> Option<Rule> {
    let template = &settings.default_identity;
    let written = Written {
        id_field: "kubernetes.default_identity",
        spiffe_id: template.clone(),
        ..Written::default()
    };
    (!template.is_empty()).then(|| Rule {
        name: Arc::new(RuleName {
            kind: RuleKind::Default,
            namespace: "".into(),
            name: "default".into(),
            uid: "default".into(),
        }),
        created: 0,
        generation: 0,
        body: written.compile(settings, false),
    })
}

fn spec<T: DeserializeOwned>(object: &RuleObject) -> Result<T, String> {
    serde_json::from_value(object.spec.clone()).map_err(|error| format!("the spec cannot be read: {error}"))
}

/// What both kinds of objects say.
#[derive(Default)]
struct Written {
    id_field: &'static str,
    spiffe_id: String,
    x509_ttl: (&'static str, Option<String>),
    jwt_ttl: (&'static str, Option<String>),
    dns_names: Vec<String>,
    selectors: Vec<String>,
    federates_with: Vec<String>,
    namespaces: Option<LabelSelector>,
    pods: Option<LabelSelector>,
    admin: bool,
    downstream: bool,
    services: bool,
    class: String,
    is_fallback: bool,
    hint: String,
}

impl From<ClusterSpiffeIdSpec> for Written {
    fn from(spec: ClusterSpiffeIdSpec) -> Self {
        Self {
            id_field: "spiffeIDTemplate",
            spiffe_id: spec.spiffe_id_template,
            x509_ttl: ("ttl", spec.ttl),
            jwt_ttl: ("jwtTtl", spec.jwt_ttl),
            dns_names: spec.dns_name_templates,
            selectors: spec.workload_selector_templates,
            federates_with: spec.federates_with,
            namespaces: spec.namespace_selector,
            pods: spec.pod_selector,
            admin: spec.admin,
            downstream: spec.downstream,
            services: spec.auto_populate_dns_names,
            class: spec.class_name,
            is_fallback: spec.fallback,
            hint: spec.hint,
        }
    }
}

impl From<WorkloadIdentitySpec> for Written {
    fn from(spec: WorkloadIdentitySpec) -> Self {
        Self {
            id_field: "spiffeIDTemplate",
            spiffe_id: spec.spiffe_id_template,
            x509_ttl: ("x509TTL", spec.x509_ttl),
            jwt_ttl: ("jwtTTL", spec.jwt_ttl),
            dns_names: spec.dns_name_templates,
            selectors: spec.workload_selector_templates,
            federates_with: spec.federates_with,
            pods: spec.pod_selector,
            services: spec.auto_populate_dns_names,
            hint: spec.hint,
            ..Self::default()
        }
    }
}

impl Written {
    fn compile(self, settings: &Settings, is_other_class: bool) -> Result<Body, String> {
        let mut mentions = Mentions::only([]);
        if self.spiffe_id.is_empty() {
            return Err(format!("{}: it is empty", self.id_field));
        }
        let spiffe_id = template(self.id_field, &self.spiffe_id, &mut mentions)?;
        let dns_names = templates("dnsNameTemplates", &self.dns_names, dns::MAX_NAMES, &mut mentions)?;
        // One is the pod's UID.
        let selectors = templates(
            "workloadSelectorTemplates",
            &self.selectors,
            MAX_SELECTORS - 1,
            &mut mentions,
        )?;
        let selector = |field: &str, written: Option<LabelSelector>| {
            let compiled = written.map(|written| Selector::compile(&written)).transpose();
            compiled.map_err(|why| format!("{field}: {why}"))
        };
        let ttl = |(field, text): (&str, Option<String>)| match text {
            Some(text) => duration::ttl(&text).map_err(|why| format!("{field}: {why}")),
            None => Ok(None),
        };
        let federates_with = entry::federates_with(self.federates_with, &settings.trust_domain);
        Ok(Body {
            spiffe_id,
            dns_names,
            selectors,
            namespaces: selector("namespaceSelector", self.namespaces)?,
            pods: selector("podSelector", self.pods)?,
            x509_ttl: ttl(self.x509_ttl)?,
            jwt_ttl: ttl(self.jwt_ttl)?,
            federates_with: federates_with.map_err(|error| format!("federatesWith: {}", error.why))?,
            admin: self.admin,
            downstream: self.downstream,
            services: self.services,
            is_fallback: self.is_fallback,
            other_class: is_other_class.then_some(self.class),
            hint: entry::hint(self.hint).map_err(|error| format!("hint: {}", error.why))?,
            mentions,
        })
    }
}

fn template(field: &str, text: &str, mentions: &mut Mentions) -> Result<Template, String> {
    let template = Template::parse(field, text).map_err(|error| error.to_string())?;
    mentions.extend(template.mentions());
    Ok(template)
}

fn templates(field: &str, texts: &[String], most: usize, mentions: &mut Mentions) -> Result<Vec<Template>, String> {
    if texts.len() > most {
        return Err(format!("{field}: {} are more than {most}", texts.len()));
    }
    texts
        .iter()
        .enumerate()
        .map(|(number, text)| template(&format!("{field}[{number}]"), text, mentions))
        .collect()
}
