//! Go's text/template, as identity rules are written in it.
//!
//! `ClusterSPIFFEID` objects hold templates that SPIRE's controller manager gives to Go's own text/template, with Kubernetes' Go types as data. Here are the
//! same language and the same types: what renders there renders here to the same text, and what fails there fails here, with the same words where people
//! meet them. `tests/system` holds the two against each other on generated templates. Functions are Go's built-in ones; the controller manager adds none.
//!
//! In: a template's text, once ([`Template::parse`]); a pod and its node, read and trimmed ([`Reader`]), as [`Data`]. Out: a text, or why there is none.
//! `registry::rules` calls it. Nothing here waits or does I/O, and everything is bounded: the template's length and nesting, the steps of one execution, the
//! length of every text on the way.
//!
//! What is refused although Go would do something with it, with an error that says so: printing a structure, or the address of something; complex numbers;
//! bytes that are not UTF-8; methods of Kubernetes' types other than the getters of metadata.

mod data;
mod escape;
mod exec;
mod format;
mod funcs;
mod lex;
mod literal;
mod node;
mod parse;
mod types;
mod value;

use std::collections::{BTreeSet, HashMap};

pub use data::{Data, Interner, Mentions, Reader};
pub use types::{Ty, data_type, namespace, node, node_spec, object_meta, pod, pod_spec, pod_status};

/// A template's text has at most this many bytes.
pub const MAX_TEMPLATE: usize = 16 << 10;
/// Every text that an execution makes has at most this many bytes, its result too.
pub const MAX_TEXT: usize = 8 << 10;
/// Blocks, parentheses and invocations nest at most so deep.
const MAX_DEPTH: usize = 100;
/// One execution takes at most so many steps; a step is a node or a round of a loop.
const MAX_STEPS: usize = 20_000;

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template: {0}")]
pub struct ParseError(String);

/// Why a template cannot be rendered with some data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    /// Go's text/template fails, too.
    #[error("template: {0}")]
    Failed(String),
    /// Go's text/template would go on.
    #[error("template: {0}")]
    Refused(String),
}

impl ExecError {
    /// True when Go's text/template would not have failed here, or not for this.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    name: Box<str>,
    text: Box<str>,
    trees: HashMap<Box<str>, node::List>,
    mentions: BTreeSet<Box<str>>,
}

impl Template {
    /// Parses `text`; errors call it `name`.
    ///
    /// # Errors
    /// What Go's parser says, or that a bound is passed.
    pub fn parse(name: &str, text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_TEMPLATE {
            let why = format!("{name}: {} bytes are more than {MAX_TEMPLATE}", text.len());
            return Err(ParseError(why));
        }
        let (trees, mentions) = parse::parse(name, text)?;
        Ok(Self {
            name: name.into(),
            text: text.into(),
            trees,
            mentions,
        })
    }

    /// Renders the template with `data`, which is of type [`data_type`].
    ///
    /// # Errors
    /// What Go says, or that it is refused here.
    pub fn execute(&self, data: &Data) -> Result<String, ExecError> {
        exec::execute(self, data)
    }

    /// The names of all fields that the template may look at, wherever they are.
    pub fn mentions(&self) -> impl Iterator<Item = &str> {
        self.mentions.iter().map(|name| &**name)
    }
}

#[cfg(test)]
mod tests;
