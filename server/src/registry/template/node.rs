//! What a template is made of, and how it is spelled in an error (as Go spells it).

use std::fmt::{self, Display, Formatter, Write as _};

use super::literal::quote;

/// Where something stands: its first byte in the template's text.
pub(super) type Pos = usize;

/// Nodes one after another.
#[derive(Debug, Default)]
pub(super) struct List(pub(super) Vec<Node>);

/// What stands between texts, or a text.
#[derive(Debug)]
pub(super) enum Node {
    Text(Box<str>),
    Action(Pos, Pipe),
    Branch(Branch),
    Template(Invocation),
    Break,
    Continue,
}

/// `{{if}}`, `{{with}}` or `{{range}}`, to its `{{end}}`.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) pos: Pos,
    pub(super) kind: BranchKind,
    pub(super) pipe: Pipe,
    pub(super) list: List,
    pub(super) otherwise: Option<List>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BranchKind {
    If,
    With,
    Range,
}

/// `{{template "name" pipe}}`.
#[derive(Debug)]
pub(super) struct Invocation {
    pub(super) pos: Pos,
    pub(super) name: Box<str>,
    pub(super) pipe: Option<Pipe>,
}

/// `$x := command | command`.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) pos: Pos,
    pub(super) is_assign: bool,
    pub(super) variables: Vec<Box<str>>,
    pub(super) commands: Vec<Command>,
}

/// `operand operand …`; there is at least one.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) pos: Pos,
    pub(super) operands: Vec<Operand>,
}

/// One word of a command.
#[derive(Debug)]
pub(super) struct Operand {
    pub(super) pos: Pos,
    pub(super) term: Term,
}

#[derive(Debug)]
pub(super) enum Term {
    Dot,
    Nil,
    Bool(bool),
    Number(Number),
    /// As it was written, and what it says.
    Text(Box<str>, Box<str>),
    /// `.a.b`
    Field(Vec<Box<str>>),
    /// `(pipe).a.b`
    Chain(Box<Operand>, Vec<Box<str>>),
    /// `$x.a.b`; the name of the variable comes with its dollar.
    Variable(Vec<Box<str>>),
    Function(Box<str>),
    Pipe(Pipe),
}

/// A number and every type that it can be of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Number {
    pub(super) text: Box<str>,
    pub(super) int: Option<i64>,
    pub(super) uint: Option<u64>,
    pub(super) float: Option<f64>,
}

impl Term {
    pub(super) fn is_literal(&self) -> bool {
        matches!(
            self,
            Self::Bool(_) | Self::Dot | Self::Nil | Self::Number(_) | Self::Text(..)
        )
    }
}

impl List {
    /// Nothing but white space.
    pub(super) fn is_blank(&self) -> bool {
        let is_blank = |node: &Node| matches!(node, Node::Text(text) if text.trim_matches(is_go_space).is_empty());
        self.0.iter().all(is_blank)
    }
}

/// The white space that Go's `bytes.TrimSpace` trims.
fn is_go_space(c: char) -> bool {
    c.is_whitespace()
}

impl Display for List {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|node| node.fmt(f))
    }
}

impl Display for Node {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Action(_, pipe) => write!(f, "{{{{{pipe}}}}}"),
            Self::Branch(branch) => branch.fmt(f),
            Self::Template(invocation) => invocation.fmt(f),
            Self::Break => f.write_str("{{break}}"),
            Self::Continue => f.write_str("{{continue}}"),
        }
    }
}

impl Display for Branch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = match self.kind {
            BranchKind::If => "if",
            BranchKind::With => "with",
            BranchKind::Range => "range",
        };
        write!(f, "{{{{{name} {}}}}}{}", self.pipe, self.list)?;
        if let Some(otherwise) = &self.otherwise {
            write!(f, "{{{{else}}}}{otherwise}")?;
        }
        f.write_str("{{end}}")
    }
}

impl Display for Invocation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{{{{template {}", quote(&self.name, '"', false))?;
        if let Some(pipe) = &self.pipe {
            write!(f, " {pipe}")?;
        }
        f.write_str("}}")
    }
}

impl Display for Pipe {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.variables.join(", "))?;
        if !self.variables.is_empty() {
            f.write_str(if self.is_assign { " = " } else { " := " })?;
        }
        for (at, command) in self.commands.iter().enumerate() {
            if at > 0 {
                f.write_str(" | ")?;
            }
            command.fmt(f)?;
        }
        Ok(())
    }
}

impl Display for Command {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (at, operand) in self.operands.iter().enumerate() {
            if at > 0 {
                f.write_char(' ')?;
            }
            match &operand.term {
                Term::Pipe(pipe) => write!(f, "({pipe})")?,
                term => term.fmt(f)?,
            }
        }
        Ok(())
    }
}

impl Display for Operand {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.term.fmt(f)
    }
}

impl Display for Term {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let fields = |f: &mut Formatter<'_>, names: &[Box<str>]| names.iter().try_for_each(|name| write!(f, ".{name}"));
        match self {
            Self::Dot => f.write_char('.'),
            Self::Nil => f.write_str("nil"),
            Self::Bool(value) => value.fmt(f),
            Self::Number(number) => f.write_str(&number.text),
            Self::Text(written, _) => f.write_str(written),
            Self::Field(names) => fields(f, names),
            Self::Chain(operand, names) => {
                match &operand.term {
                    Self::Pipe(pipe) => write!(f, "({pipe})")?,
                    term => term.fmt(f)?,
                }
                fields(f, names)
            }
            Self::Variable(names) => f.write_str(&names.join(".")),
            Self::Function(name) => f.write_str(name),
            Self::Pipe(pipe) => pipe.fmt(f),
        }
    }
}
