//! Executes a template: a port of Go's `text/template/exec.go` for the types of `types`.

mod eval;

use std::fmt::Display;

use super::data::Data;
use super::format::{self, printable};
use super::node::{Branch, BranchKind, Invocation, List, Node, Pos};
use super::types::{Shape, Ty, root_type};
use super::value::Value;
use super::{ExecError, MAX_DEPTH, MAX_STEPS, MAX_TEXT, Template};

type Result<T> = std::result::Result<T, ExecError>;

pub(super) fn execute(template: &Template, data: &Data) -> Result<String> {
    let Some(root) = template.trees.get(&*template.name) else {
        return Err(ExecError::Failed(format!("{}: it is empty", template.name)));
    };
    let dot = Value::new(root_type(), data);
    let mut state = State {
        template,
        tree: &template.name,
        out: String::new(),
        variables: vec![("$", dot.clone())],
        at: (0, &""),
        steps: 0,
        depth: 0,
    };
    state.list(&dot, root)?;
    Ok(state.out)
}

/// Whether what comes next in a list is to be done.
#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct State<'a> {
    template: &'a Template,
    /// The name of the tree that is executed.
    tree: &'a str,
    out: String,
    variables: Vec<(&'a str, Value<'a>)>,
    /// Where execution is, for errors.
    at: (Pos, &'a dyn Display),
    steps: usize,
    depth: usize,
}

impl<'a> State<'a> {
    fn error(&self, why: impl Display) -> ExecError {
        ExecError::Failed(self.located(why))
    }

    fn refuse(&self, why: impl Display) -> ExecError {
        ExecError::Refused(self.located(why))
    }

    fn located(&self, why: impl Display) -> String {
        let (pos, node) = self.at;
        let before = self.template.text.get(..pos).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        let column = before.rfind('\n').map_or(pos, |newline| pos - newline - 1);
        let name = &self.template.name;
        let tree = super::literal::quote(self.tree, '"', false);
        format!("{name}:{line}:{column}: executing {tree} at <{node}>: {why}")
    }

    fn step(&mut self) -> Result<()> {
        self.steps += 1;
        match self.steps > MAX_STEPS {
            true => Err(self.refuse(format_args!("it takes more than {MAX_STEPS} steps"))),
            false => Ok(()),
        }
    }

    fn deeper<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == MAX_DEPTH {
            return Err(self.refuse(format_args!("it is nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let done = run(self);
        self.depth -= 1;
        done
    }

    fn write(&mut self, text: &str) -> Result<()> {
        if self.out.len() + text.len() > MAX_TEXT {
            return Err(self.refuse(format_args!("its text has more than {MAX_TEXT} bytes")));
        }
        self.out.push_str(text);
        Ok(())
    }

    fn list(&mut self, dot: &Value<'a>, list: &'a List) -> Result<Flow> {
        self.deeper(|state| {
            for node in &list.0 {
                let flow = state.node(dot, node)?;
                if flow != Flow::On {
                    return Ok(flow);
                }
            }
            Ok(Flow::On)
        })
    }

    fn node(&mut self, dot: &Value<'a>, node: &'a Node) -> Result<Flow> {
        self.step()?;
        match node {
            Node::Text(text) => self.write(text)?,
            Node::Action(pos, pipe) => {
                self.at = (*pos, node);
                let value = self.pipe(dot, pipe)?;
                if pipe.variables.is_empty() {
                    self.at = (*pos, node);
                    let text = format::sprint(&[printable(&value)]).map_err(|why| self.refuse(why))?;
                    self.write(&text)?;
                }
            }
            Node::Branch(branch) => {
                self.at = (branch.pos, branch);
                let mark = self.variables.len();
                let flow = match branch.kind {
                    BranchKind::Range => self.range(dot, branch)?,
                    kind => self.if_or_with(dot, kind, branch)?,
                };
                self.variables.truncate(mark);
                return Ok(flow);
            }
            Node::Template(invocation) => self.invoke(dot, invocation)?,
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn if_or_with(&mut self, dot: &Value<'a>, kind: BranchKind, branch: &'a Branch) -> Result<Flow> {
        let value = self.pipe(dot, &branch.pipe)?;
        match (value.is_true(), &branch.otherwise) {
            (true, _) if kind == BranchKind::With => self.list(&value, &branch.list),
            (true, _) => self.list(dot, &branch.list),
            (false, Some(otherwise)) => self.list(dot, otherwise),
            (false, None) => Ok(Flow::On),
        }
    }

    fn range(&mut self, dot: &Value<'a>, branch: &'a Branch) -> Result<Flow> {
        let (value, _) = self.pipe(dot, &branch.pipe)?.indirect();
        let variables = branch.pipe.variables.len();
        let mut rounds = 0;
        let index = |at: usize| Value::int(i64::try_from(at).unwrap_or(i64::MAX));
        match &value {
            Value::Int(..) | Value::Uint(..) => {
                if variables > 1 {
                    let shown = format::sprint(std::slice::from_ref(&value)).unwrap_or_default();
                    return Err(self.error(format_args!("can't use {shown} to iterate over more than one variable")));
                }
                let (count, ty) = match value {
                    Value::Int(count, ty) => (u64::try_from(count).unwrap_or(0), ty),
                    Value::Uint(count, ty) => (count, ty),
                    _ => (0, Ty::INT),
                };
                while rounds < count {
                    let element = match ty.shape() {
                        Shape::Uint => Value::Uint(rounds, ty),
                        _ => Value::Int(i64::try_from(rounds).unwrap_or(i64::MAX), ty),
                    };
                    rounds += 1;
                    if self.round(branch, Value::Invalid, element)? == Flow::Break {
                        break;
                    }
                }
            }
            Value::List(list, ty) => {
                let Shape::Slice(element) = ty.shape() else {
                    return Ok(Flow::On);
                };
                for (at, data) in list.unwrap_or_default().iter().enumerate() {
                    rounds += 1;
                    if self.round(branch, index(at), Value::new(*element, data))? == Flow::Break {
                        break;
                    }
                }
            }
            Value::Map(map, ty) => {
                let Shape::Map(key, element) = ty.shape() else {
                    return Ok(Flow::On);
                };
                for (name, data) in map.unwrap_or_default() {
                    rounds += 1;
                    let name = Value::Text(super::value::Text::Lent(name), *key);
                    if self.round(branch, name, Value::new(*element, data))? == Flow::Break {
                        break;
                    }
                }
            }
            Value::Invalid => {}
            other => {
                let shown = format::sprint(std::slice::from_ref(other));
                let shown = shown.unwrap_or_else(|_| format!("a value of type {}", other.type_name()));
                return Err(self.error(format_args!("range can't iterate over {shown}")));
            }
        }
        match (rounds, &branch.otherwise) {
            (0, Some(otherwise)) => self.list(dot, otherwise),
            _ => Ok(Flow::On),
        }
    }

    /// One round of a loop.
    fn round(&mut self, branch: &'a Branch, index: Value<'a>, element: Value<'a>) -> Result<Flow> {
        self.step()?;
        let mark = self.variables.len();
        let pipe = &branch.pipe;
        match (&pipe.variables[..], pipe.is_assign) {
            ([], _) => {}
            ([one], true) => self.assign(one, element.clone())?,
            ([one, two, ..], true) => {
                self.assign(one, index)?;
                self.assign(two, element.clone())?;
            }
            // They were declared by the pipeline, the last one last.
            ([_], false) => self.set_top(1, element.clone()),
            ([_, _, ..], false) => {
                self.set_top(1, element.clone());
                self.set_top(2, index);
            }
        }
        let flow = self.list(&element, &branch.list)?;
        self.variables.truncate(mark);
        Ok(flow)
    }

    fn assign(&mut self, name: &str, value: Value<'a>) -> Result<()> {
        match self.variables.iter_mut().rev().find(|(known, _)| *known == name) {
            Some((_, variable)) => {
                *variable = value;
                Ok(())
            }
            None => Err(self.error(format_args!("undefined variable: {name}"))),
        }
    }

    fn set_top(&mut self, from_the_top: usize, value: Value<'a>) {
        let at = self.variables.len().checked_sub(from_the_top);
        if let Some((_, variable)) = at.and_then(|at| self.variables.get_mut(at)) {
            *variable = value;
        }
    }

    fn invoke(&mut self, dot: &Value<'a>, invocation: &'a Invocation) -> Result<()> {
        self.at = (invocation.pos, invocation);
        let Some((name, list)) = self.template.trees.get_key_value(&*invocation.name) else {
            let name = super::literal::quote(&invocation.name, '"', false);
            return Err(self.error(format_args!("template {name} not defined")));
        };
        let dot = match &invocation.pipe {
            Some(pipe) => self.pipe(dot, pipe)?,
            None => Value::Invalid,
        };
        // Variables that the pipeline declares persist; the invoked template sees none of them.
        let outer = std::mem::replace(&mut self.variables, vec![("$", dot.clone())]);
        let tree = std::mem::replace(&mut self.tree, name);
        self.list(&dot, list)?;
        self.variables = outer;
        self.tree = tree;
        Ok(())
    }
}
