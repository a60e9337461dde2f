//! What a rule looks at: a pod, its namespace and its node, trimmed to what the rules mention, and shared with others that are alike.
//!
//! They are read from the API server's JSON, or made of parts by whoever has them ([`Data::of_fields`]) and says what he keeps ([`Mentions::only`]).

use std::sync::Arc;

use serde::Deserializer;

use super::super::template::{self, Data, Interner, Mentions, Reader, Ty};
use super::labels::Labels;
use super::objects::unix;

/// Why an object cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum FactsError<E> {
    /// It is no JSON.
    #[error(transparent)]
    Json(E),
    /// The API server always sets this.
    #[error("the object has no {0}")]
    Missing(&'static str),
}

/// A pod.
#[derive(Debug, Clone, PartialEq)]
pub struct PodFacts {
    /// The UID.
    pub uid: Arc<str>,
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
    /// The node that it is bound to, by name; empty before it is.
    pub node: Arc<str>,
    /// When it was made, in Unix seconds.
    pub created: i64,
    /// All its containers have ended for good.
    pub is_over: bool,
    /// What templates call `.PodMeta`.
    pub meta: Data,
    /// What templates call `.PodSpec`.
    pub spec: Data,
    /// What was kept of it.
    pub kept: Arc<Mentions>,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq)]
pub struct NamespaceFacts {
    /// The name.
    pub name: Arc<str>,
    /// Its metadata.
    pub meta: Data,
}

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeFacts {
    /// The name.
    pub name: Arc<str>,
    /// The UID.
    pub uid: Arc<str>,
    /// What templates call `.NodeMeta`.
    pub meta: Data,
    /// What templates call `.NodeSpec`.
    pub spec: Data,
    /// What was kept of it.
    pub kept: Arc<Mentions>,
}

impl PodFacts {
    /// Reads a pod as the API server has it, and keeps what `mentions` names.
    ///
    /// # Errors
    /// When it is no JSON, or no object of the API server.
    pub fn read<'de, D: Deserializer<'de>>(
        json: D,
        mentions: &Arc<Mentions>,
        interner: &mut Interner,
    ) -> Result<Self, FactsError<D::Error>> {
        let pod = Whole::read(template::pod(), json, mentions, interner)?;
        let meta = pod.part("Metadata");
        let spec = pod.part("Spec");
        let phase = pod.part("Status");
        let phase = phase.field(template::pod_status(), "Phase").and_then(Data::text);
        let created = meta
            .field(template::object_meta(), "CreationTimestamp")
            .and_then(Data::text);
        Ok(Self {
            uid: required(&meta, "UID")?,
            namespace: required(&meta, "Namespace")?,
            name: required(&meta, "Name")?,
            node: text(&spec, template::pod_spec(), "NodeName").unwrap_or_else(|| interner.text("")),
            created: created.map(|text| unix(text)).unwrap_or_default(),
            is_over: phase.is_some_and(|phase| matches!(&**phase, "Succeeded" | "Failed")),
            meta,
            spec,
            kept: Arc::clone(mentions),
        })
    }

    /// The labels.
    pub fn labels(&self) -> Labels<'_> {
        labels(&self.meta)
    }
}

impl NamespaceFacts {
    /// Reads a namespace as the API server has it.
    ///
    /// # Errors
    /// As [`PodFacts::read`].
    pub fn read<'de, D: Deserializer<'de>>(
        json: D,
        mentions: &Arc<Mentions>,
        interner: &mut Interner,
    ) -> Result<Self, FactsError<D::Error>> {
        let meta = Whole::read(template::namespace(), json, mentions, interner)?.part("Metadata");
        Ok(Self {
            name: required(&meta, "Name")?,
            meta,
        })
    }

    /// The labels.
    pub fn labels(&self) -> Labels<'_> {
        labels(&self.meta)
    }
}

impl NodeFacts {
    /// Reads a node as the API server has it, and keeps what `mentions` names.
    ///
    /// # Errors
    /// As [`PodFacts::read`].
    pub fn read<'de, D: Deserializer<'de>>(
        json: D,
        mentions: &Arc<Mentions>,
        interner: &mut Interner,
    ) -> Result<Self, FactsError<D::Error>> {
        let node = Whole::read(template::node(), json, mentions, interner)?;
        let meta = node.part("Metadata");
        Ok(Self {
            name: required(&meta, "Name")?,
            uid: required(&meta, "UID")?,
            meta,
            spec: node.part("Spec"),
            kept: Arc::clone(mentions),
        })
    }
}

/// An object with its parts.
struct Whole {
    ty: Ty,
    data: Data,
}

impl Whole {
    fn read<'de, D: Deserializer<'de>>(
        ty: Ty,
        json: D,
        mentions: &Mentions,
        interner: &mut Interner,
    ) -> Result<Self, FactsError<D::Error>> {
        let mut reader = Reader { mentions, interner };
        let data = reader.read(ty, json).map_err(FactsError::Json)?;
        Ok(Self { ty, data })
    }

    fn part(&self, name: &str) -> Data {
        self.data.field(self.ty, name).cloned().unwrap_or(Data::Zero)
    }
}

fn text(data: &Data, ty: Ty, name: &str) -> Option<Arc<str>> {
    data.field(ty, name).and_then(Data::text).cloned()
}

fn required<E>(meta: &Data, name: &'static str) -> Result<Arc<str>, FactsError<E>> {
    text(meta, template::object_meta(), name).ok_or(FactsError::Missing(name))
}

fn labels(meta: &Data) -> Labels<'_> {
    Labels::of(meta.field(template::object_meta(), "Labels"))
}
