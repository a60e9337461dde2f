//! Which identities a pod has: a pure function of the pod, its namespace, its node, the services that it stands behind, and the rules.

use std::sync::Arc;

use mintmark_identity::{Selector, Selectors, SpiffeId};

use super::super::computed::ComputedEntry;
use super::super::entry::{self, Entry};
use super::super::template::{Data, Mentions, Template, data_type};
use super::compile::{Body, Rule};
use super::facts::{NamespaceFacts, NodeFacts, PodFacts};
use super::labels::Labels;
use super::objects::{RuleKind, RuleName};
use super::outcome::{Explained, Failure, Identity, Judged, NotNow, Outcome};
use super::{Rules, Settings};

/// A pod has at most so many identities.
const MAX_IDENTITIES: usize = 32;

/// A pod and what decides about it beside the rules.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The pod.
    pub pod: &'a PodFacts,
    /// Its namespace, unless that is not known.
    pub namespace: Option<&'a NamespaceFacts>,
    /// Its node, if it is bound and the node is known.
    pub node: Option<&'a NodeFacts>,
    /// The services of its namespace that it stands behind, by name.
    pub services: &'a [Arc<str>],
}

/// Why a rule does not select a pod, before it is told.
enum NotSelected<'r> {
    Broken(&'r str),
    OtherClass(&'r str),
    Ignored,
    OtherNamespace,
    NamespaceUnknown,
    Namespace(&'r Body, usize),
    Pod(&'r Body, usize),
}

impl NotSelected<'_> {
    fn told(&self, rule: &RuleName, pod: &PodFacts) -> String {
        let requirement =
            |selector: Option<&super::labels::Requirement>| selector.map(ToString::to_string).unwrap_or_default();
        let namespace = &pod.namespace;
        match self {
            Self::Broken(why) => format!("it cannot be used: {why}"),
            Self::OtherClass(class) => format!("its className {class:?} is another server's"),
            Self::Ignored => format!("namespace {namespace} is in kubernetes.ignore_namespaces"),
            Self::OtherNamespace => format!("it is for pods of namespace {}, not of {namespace}", rule.namespace),
            Self::NamespaceUnknown => format!("namespace {namespace} is not known"),
            Self::Namespace(body, number) => {
                let wanted = requirement(body.namespaces.as_ref().and_then(|one| one.requirement(*number)));
                format!(
                    "its namespaceSelector asks for {wanted}, which the labels of namespace {namespace} do not meet"
                )
            }
            Self::Pod(body, number) => {
                let wanted = requirement(body.pods.as_ref().and_then(|one| one.requirement(*number)));
                format!("its podSelector asks for {wanted}, which the pod's labels do not meet")
            }
        }
    }
}

impl Rules {
    /// The identities of a pod, and what each rule that selects it came to.
    pub fn judge(&self, subject: &Subject<'_>) -> Judged {
        let mut judged = Judged::default();
        if self.ignores(&subject.pod.namespace) {
            return judged;
        }
        let mut outcomes = Vec::new();
        let rules = self.of_namespace(&subject.pod.namespace);
        self.consider(rules, subject, &mut judged.identities, |number, outcome| {
            if let Ok(outcome) = outcome {
                outcomes.push((number, outcome));
            }
        });
        judged.outcomes = outcomes;
        judged
    }

    /// What every rule comes to for a pod, in the order in which they are asked.
    pub fn explain(&self, subject: &Subject<'_>) -> Vec<Explained> {
        let mut explained = Vec::with_capacity(self.all().len());
        self.consider(0..self.all().len(), subject, &mut Vec::new(), |number, outcome| {
            let Some(rule) = self.all().get(number) else {
                return;
            };
            explained.push(Explained {
                rule: Arc::clone(&rule.name),
                outcome: outcome.unwrap_or_else(|why| Outcome::NotSelected(why.told(&rule.name, subject.pod))),
            });
        });
        explained
    }

    fn consider<'r>(
        &'r self,
        rules: impl Iterator<Item = usize>,
        subject: &Subject<'_>,
        identities: &mut Vec<Identity>,
        mut tell: impl FnMut(usize, Result<Outcome, NotSelected<'r>>),
    ) {
        let view = View {
            rules: self,
            subject,
            pod_labels: subject.pod.labels(),
            namespace_labels: subject.namespace.map(NamespaceFacts::labels),
            is_ignored: self.ignores(&subject.pod.namespace),
        };
        let standing = view.standing();
        let mut page = None;
        // A fallback is for pods that no other ClusterSPIFFEID has given an identity, as SPIRE has it.
        let mut given_by: Option<&Arc<RuleName>> = None;
        // The default is for pods that no rule selects: a rule that fails is not made up for.
        let mut selected_by: Option<&Arc<RuleName>> = None;
        for number in rules {
            let Some(rule) = self.all().get(number) else {
                continue;
            };
            let body = match view.select(rule) {
                Ok(body) => body,
                Err(why) => {
                    tell(number, Err(why));
                    continue;
                }
            };
            let needless = match rule.name.kind {
                RuleKind::ClusterSpiffeId if body.is_fallback => given_by,
                RuleKind::Default => selected_by,
                _ => None,
            };
            selected_by = selected_by.or(Some(&rule.name));
            let outcome = match (needless, &standing) {
                (Some(by), _) => Outcome::NotNeeded(Arc::clone(by)),
                (None, Err(why)) => Outcome::NotNow(why.clone()),
                (None, Ok(node)) => {
                    let page = page.get_or_insert_with(|| view.page(node));
                    match view.identity(rule, body, page) {
                        Err(why) => Outcome::Failed(why),
                        Ok(entry) => {
                            if rule.name.kind == RuleKind::ClusterSpiffeId && !body.is_fallback {
                                given_by = given_by.or(Some(&rule.name));
                            }
                            admit(identities, rule, entry)
                        }
                    }
                }
            };
            tell(number, Ok(outcome));
        }
    }
}

/// Takes an identity in, unless it is there.
fn admit(identities: &mut Vec<Identity>, rule: &Rule, entry: ComputedEntry) -> Outcome {
    let is_same =
        |other: &&Identity| other.entry.spiffe_id == entry.spiffe_id && other.entry.selectors == entry.selectors;
    if let Some(other) = identities.iter().find(is_same) {
        return Outcome::Masked(Arc::clone(&other.rule));
    }
    if identities.len() == MAX_IDENTITIES {
        let why = format!("the pod has {MAX_IDENTITIES} identities of other rules already, and no pod has more");
        return Outcome::Failed(Failure { field: "spec", why });
    }
    let id = entry.spiffe_id.clone();
    identities.push(Identity {
        rule: Arc::clone(&rule.name),
        entry,
    });
    Outcome::Given(id)
}

/// What stays the same for all rules while one pod is judged.
struct View<'v> {
    rules: &'v Rules,
    subject: &'v Subject<'v>,
    pod_labels: Labels<'v>,
    namespace_labels: Option<Labels<'v>>,
    is_ignored: bool,
}

/// What is made for the first rule that selects the pod, and used for the others, too.
struct Page {
    data: Data,
    parent: Result<SpiffeId, Failure>,
    /// What was kept of the node.
    node_kept: Arc<Mentions>,
    /// Everything that any rule mentions was kept of pod and node.
    is_whole: bool,
}

fn failure(field: &'static str, why: impl ToString) -> Failure {
    Failure {
        field,
        why: why.to_string(),
    }
}

impl<'v> View<'v> {
    fn settings(&self) -> &'v Settings {
        &self.rules.settings
    }

    fn standing(&self) -> Result<&'v NodeFacts, NotNow> {
        let Subject { pod, node, .. } = self.subject;
        match node {
            _ if pod.is_over => Err(NotNow::Over),
            _ if pod.node.is_empty() => Err(NotNow::NotBound),
            Some(node) if node.name == pod.node => Ok(node),
            _ => Err(NotNow::NodeUnknown(Arc::clone(&pod.node))),
        }
    }

    fn select<'r>(&self, rule: &'r Rule) -> Result<&'r Body, NotSelected<'r>> {
        let body = match &rule.body {
            Ok(body) => body,
            Err(why) => return Err(NotSelected::Broken(why)),
        };
        if let Some(class) = &body.other_class {
            return Err(NotSelected::OtherClass(class));
        }
        if self.is_ignored {
            return Err(NotSelected::Ignored);
        }
        if rule.name.kind == RuleKind::WorkloadIdentity && rule.name.namespace != self.subject.pod.namespace {
            return Err(NotSelected::OtherNamespace);
        }
        if let Some(selector) = &body.namespaces {
            match self.namespace_labels {
                None => return Err(NotSelected::NamespaceUnknown),
                Some(labels) => {
                    if let Some(number) = selector.unmet(labels) {
                        return Err(NotSelected::Namespace(body, number));
                    }
                }
            }
        }
        match body.pods.as_ref().and_then(|selector| selector.unmet(self.pod_labels)) {
            Some(number) => Err(NotSelected::Pod(body, number)),
            None => Ok(body),
        }
    }

    fn page(&self, node: &NodeFacts) -> Page {
        let settings = self.settings();
        let pod = self.subject.pod;
        let text = |text: &Arc<str>| Data::Text(Arc::clone(text));
        let data = Data::of_fields(
            data_type(),
            [
                ("TrustDomain", text(&settings.trust_domain_name)),
                ("ClusterName", text(&settings.cluster)),
                ("ClusterDomain", text(&settings.cluster_domain)),
                ("PodMeta", pod.meta.clone()),
                ("PodSpec", pod.spec.clone()),
                ("NodeMeta", node.meta.clone()),
                ("NodeSpec", node.spec.clone()),
            ],
        );
        let parent = SpiffeId::agent(
            &settings.trust_domain,
            "k8s_psat",
            &format!("{}/{}", settings.cluster, node.uid),
        );
        Page {
            data,
            parent: parent.map_err(|error| failure("parent", error)),
            node_kept: Arc::clone(&node.kept),
            is_whole: [&pod.kept, &node.kept].into_iter().all(|kept| {
                let wanted = &self.rules.mentions;
                Arc::ptr_eq(kept, wanted) || kept.covers(wanted)
            }),
        }
    }

    fn identity(&self, rule: &Rule, body: &Body, page: &Page) -> Result<ComputedEntry, Failure> {
        if !page.is_whole {
            for (kept, what) in [(&self.subject.pod.kept, "pod"), (&page.node_kept, "node")] {
                if let Some(name) = kept.missing(&body.mentions) {
                    let why = format!(
                        "it looks at {name}, which was not kept of the {what}; it is, once {what}s are read again"
                    );
                    return Err(failure("spec", why));
                }
            }
        }
        let is_tenant = rule.name.kind == RuleKind::WorkloadIdentity;
        let spiffe_id = self.spiffe_id(body, page, is_tenant)?;
        let dns_names = self.dns_names(body, page, is_tenant)?;
        let pod = self.subject.pod;
        let entry = Entry {
            id: "".into(),
            spiffe_id,
            parent_id: page.parent.clone()?,
            selectors: self.selectors(body, page)?,
            x509_ttl: body.x509_ttl,
            jwt_ttl: body.jwt_ttl,
            federates_with: body.federates_with.clone(),
            admin: body.admin,
            downstream: body.downstream,
            expires_at: None,
            dns_names,
            revision: 0,
            store_svid: false,
            hint: Arc::clone(&body.hint),
            // A workload's first identity is the one that was registered first: that of its oldest rule.
            created_at: if rule.name.kind == RuleKind::Default {
                pod.created
            } else {
                rule.created
            },
            disable_x509_prefetch: false,
            jwt_include_jti: false,
        };
        let subject = format!("{}/{}", self.settings().cluster, pod.uid);
        Ok(ComputedEntry::new(entry, &subject, &rule.name.uid))
    }

    fn render(&self, field: &'static str, template: &Template, page: &Page) -> Result<String, Failure> {
        template.execute(&page.data).map_err(|error| failure(field, error))
    }

    fn spiffe_id(&self, body: &Body, page: &Page, is_tenant: bool) -> Result<SpiffeId, Failure> {
        const FIELD: &str = "spiffeIDTemplate";
        let id = SpiffeId::parse(&self.render(FIELD, &body.spiffe_id, page)?).map_err(|error| failure(FIELD, error))?;
        let own = &self.settings().trust_domain;
        if !id.is_in(own) {
            return Err(failure(FIELD, format!("{id} is not in the trust domain {own}")));
        }
        entry::workload_id(&id).map_err(|error| failure(FIELD, error.why))?;
        if is_tenant {
            let namespace = &*self.subject.pod.namespace;
            let rest = id
                .path()
                .strip_prefix("/ns/")
                .and_then(|rest| rest.strip_prefix(namespace));
            if !rest.is_some_and(|rest| rest.starts_with('/')) {
                let why = format!("{id} is not below /ns/{namespace}/, where the identities of a WorkloadIdentity are");
                return Err(failure(FIELD, why));
            }
        }
        Ok(id)
    }

    fn selectors(&self, body: &Body, page: &Page) -> Result<Selectors, Failure> {
        const FIELD: &str = "workloadSelectorTemplates";
        let uid = Selector::new("k8s", &format!("pod-uid:{}", self.subject.pod.uid));
        let more = body.selectors.iter().map(|template| {
            let text = self.render(FIELD, template, page)?;
            Selector::parse(&text).map_err(|error| failure(FIELD, error))
        });
        let uid = uid.map_err(|error| failure("metadata.uid", error));
        std::iter::once(uid).chain(more).collect()
    }

    fn dns_names(&self, body: &Body, page: &Page, is_tenant: bool) -> Result<Arc<[String]>, Failure> {
        const FIELD: &str = "dnsNameTemplates";
        if body.dns_names.is_empty() && !body.services {
            return Ok(Arc::default());
        }
        let namespace = &*self.subject.pod.namespace;
        let domain = &*self.settings().cluster_domain;
        let mut names: Vec<String> = Vec::new();
        for template in &body.dns_names {
            let name = self.render(FIELD, template, page)?;
            if is_tenant && !is_of_namespace(&name, namespace, domain) {
                let why = format!(
                    "{name:?} is no name of a service or pod of namespace {namespace}, such as web.{namespace}.svc"
                );
                return Err(failure(FIELD, why));
            }
            names.push(name);
        }
        if body.services {
            let mut of_services: Vec<String> = Vec::new();
            for service in self.subject.services {
                let qualified = format!("{service}.{namespace}.svc");
                if !is_tenant {
                    // What is not qualified could be a service of any namespace, or a host anywhere.
                    of_services.extend([service.to_string(), format!("{service}.{namespace}")]);
                }
                if !domain.is_empty() {
                    of_services.push(format!("{qualified}.{domain}"));
                }
                of_services.push(qualified);
            }
            of_services.sort_unstable();
            names.append(&mut of_services);
        }
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        entry::dns_names(names).map_err(|error| failure(FIELD, error.why))
    }
}

/// A qualified name of a service or pod of the namespace.
fn is_of_namespace(name: &str, namespace: &str, domain: &str) -> bool {
    let below = |suffix: &str| name.strip_suffix(suffix).is_some_and(|rest| !rest.is_empty());
    below(&format!(".{namespace}.svc"))
        || !domain.is_empty()
            && (below(&format!(".{namespace}.svc.{domain}")) || below(&format!(".{namespace}.pod.{domain}")))
}
