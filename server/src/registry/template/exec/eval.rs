//! Evaluates pipelines, commands and their operands.

use std::fmt::Display;

use super::super::funcs::{Function, Parameter, Why};
use super::super::literal::quote;
use super::super::node::{Command, Number, Operand, Pipe, Pos, Term};
use super::super::types::{Shape, Ty, object_meta};
use super::super::value::Value;
use super::{Result, State};

/// The methods of metadata that templates may call: each gets the field of its name.
const GETTERS: [&str; 14] = [
    "GetAnnotations",
    "GetCreationTimestamp",
    "GetDeletionGracePeriodSeconds",
    "GetDeletionTimestamp",
    "GetFinalizers",
    "GetGenerateName",
    "GetGeneration",
    "GetLabels",
    "GetName",
    "GetNamespace",
    "GetOwnerReferences",
    "GetResourceVersion",
    "GetSelfLink",
    "GetUID",
];

impl<'a> State<'a> {
    pub(super) fn pipe(&mut self, dot: &Value<'a>, pipe: &'a Pipe) -> Result<Value<'a>> {
        self.step()?;
        self.at = (pipe.pos, pipe);
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.deeper(|state| state.command(dot, command, value))?);
        }
        let value = value.unwrap_or(Value::Invalid);
        for name in &pipe.variables {
            match pipe.is_assign {
                true => self.assign(name, value.clone())?,
                false => self.variables.push((name, value.clone())),
            }
        }
        Ok(value)
    }

    /// Evaluates a command; `last` is what the command before it in the pipeline gave.
    fn command(&mut self, dot: &Value<'a>, command: &'a Command, last: Option<Value<'a>>) -> Result<Value<'a>> {
        let Some(first) = command.operands.first() else {
            return Err(self.error("empty command"));
        };
        let arguments = &command.operands[..];
        match &first.term {
            Term::Field(_) | Term::Chain(..) | Term::Variable(_) => self.path(dot, first, Some(arguments), last),
            Term::Function(name) => self.function(dot, first, name, (command.pos, command), arguments, last),
            Term::Pipe(pipe) => {
                self.not_a_function(arguments, &last)?;
                self.pipe(dot, pipe)
            }
            term => {
                self.at = (first.pos, first);
                self.not_a_function(arguments, &last)?;
                match term {
                    Term::Dot => Ok(dot.clone()),
                    Term::Nil => Err(self.error("nil is not a command")),
                    term => self.literal(term),
                }
            }
        }
    }

    fn not_a_function(&self, arguments: &[Operand], last: &Option<Value<'a>>) -> Result<()> {
        match (arguments, last) {
            ([] | [_], None) => Ok(()),
            _ => {
                let first = arguments.first().map(ToString::to_string).unwrap_or_default();
                Err(self.error(format_args!("can't give argument to non-function {first}")))
            }
        }
    }

    /// A literal where nothing asks for a type.
    fn literal(&self, term: &'a Term) -> Result<Value<'a>> {
        match term {
            Term::Bool(value) => Ok(Value::bool(*value)),
            Term::Number(number) => self.number(number),
            Term::Text(_, text) => Ok(Value::lent(text)),
            term => Err(self.error(format_args!("can't evaluate command {term}"))),
        }
    }

    fn number(&self, number: &Number) -> Result<Value<'a>> {
        let text = &number.text;
        let is_rune = text.starts_with('\'');
        let is_hex = text.to_ascii_lowercase().starts_with("0x") && !text.contains(['p', 'P']);
        match (number.float, number.int) {
            (Some(float), _) if !is_hex && !is_rune && text.contains(['.', 'e', 'E', 'p', 'P']) => {
                Ok(Value::Float(float, Ty::FLOAT))
            }
            (_, Some(int)) => Ok(Value::int(int)),
            _ => Err(self.error(format_args!("{text} overflows int"))),
        }
    }

    /// `.a.b`, `$x.a.b` or `(pipe).a.b`; `arguments` begins with the path itself.
    fn path(
        &mut self,
        dot: &Value<'a>,
        operand: &'a Operand,
        arguments: Option<&'a [Operand]>,
        last: Option<Value<'a>>,
    ) -> Result<Value<'a>> {
        self.at = (operand.pos, operand);
        let (mut value, names) = match &operand.term {
            Term::Field(names) => (dot.clone(), &names[..]),
            Term::Variable(names) => {
                let name = names.first().map_or("", |name| &**name);
                let known = self.variables.iter().rev().find(|(known, _)| *known == name);
                let Some((_, value)) = known.cloned() else {
                    return Err(self.error(format_args!("undefined variable: {name}")));
                };
                if names.len() == 1 {
                    self.not_a_function(arguments.unwrap_or_default(), &last)?;
                    return Ok(value);
                }
                (value, names.get(1..).unwrap_or_default())
            }
            Term::Chain(inner, names) => {
                if matches!(inner.term, Term::Nil) {
                    return Err(self.error(format_args!("indirection through explicit nil in {operand}")));
                }
                (self.argument(dot, inner, Parameter::Any)?, &names[..])
            }
            _ => return Err(self.error("no path")),
        };
        let has_arguments = arguments.is_some_and(|arguments| arguments.len() > 1) || last.is_some();
        for (at, name) in names.iter().enumerate() {
            let is_last = at + 1 == names.len();
            value = self.field(&value, name, has_arguments && is_last)?;
        }
        Ok(value)
    }

    fn field(&mut self, receiver: &Value<'a>, name: &str, has_arguments: bool) -> Result<Value<'a>> {
        let Some(ty) = receiver.ty() else {
            return Ok(Value::Invalid);
        };
        self.step()?;
        let (inner, is_nil) = receiver.indirect();
        let no_field = || format!("can't evaluate field {name} in type {ty}");
        match &inner {
            Value::Struct(fields, ty) => {
                let getter = (*ty == object_meta() && GETTERS.contains(&name)).then(|| name.trim_start_matches("Get"));
                match Value::field(fields, *ty, getter.unwrap_or(name)) {
                    Some(_) if has_arguments => Err(self.error(match getter {
                        Some(_) => format!("wrong number of args for {name}: want 0 got 1"),
                        None => format!("{name} has arguments but cannot be invoked as function"),
                    })),
                    Some(value) => Ok(value),
                    None => Err(self.error(no_field())),
                }
            }
            Value::Map(map, ty) => match ty.shape() {
                Shape::Map(key, _) if *key == Ty::STRING => match has_arguments {
                    true => Err(self.error(format_args!("{name} is not a method but has arguments"))),
                    false => Ok(Value::entry(*map, *ty, name).unwrap_or(Value::Invalid)),
                },
                _ => Err(self.error(no_field())),
            },
            Value::Pointer(None, inner) if is_nil => {
                let known = match inner.shape() {
                    Shape::Pointer(element) => match element.shape() {
                        Shape::Struct(_) => Value::has_field(*element, name),
                        Shape::Time | Shape::IntOrString | Shape::Opaque => false,
                        _ => true,
                    },
                    _ => true,
                };
                match known {
                    true => Err(self.error(format_args!("nil pointer evaluating {ty}.{name}"))),
                    false => Err(self.error(no_field())),
                }
            }
            Value::Opaque(..) => {
                let why = format!("fields and methods of {} are not supported", inner.type_name());
                Err(self.refuse(why))
            }
            _ => Err(self.error(no_field())),
        }
    }

    fn function(
        &mut self,
        dot: &Value<'a>,
        operand: &'a Operand,
        name: &'a str,
        node: (Pos, &'a dyn Display),
        arguments: &'a [Operand],
        last: Option<Value<'a>>,
    ) -> Result<Value<'a>> {
        self.at = (operand.pos, operand);
        let Some(function) = Function::named(name) else {
            let name = quote(name, '"', false);
            return Err(self.error(format_args!("{name} is not a defined function")));
        };
        let arguments = arguments.get(1..).unwrap_or_default();
        let given = arguments.len() + usize::from(last.is_some());
        match function.arity() {
            (least, true) if given < least => {
                let count = arguments.len();
                return Err(self.error(format_args!(
                    "wrong number of args for {name}: want at least {least} got {count}"
                )));
            }
            (count, false) if given != count => {
                return Err(self.error(format_args!(
                    "wrong number of args for {name}: want {count} got {given}"
                )));
            }
            _ => {}
        }
        if matches!(function, Function::And | Function::Or) {
            let mut value = Value::Invalid;
            for argument in arguments {
                value = self.argument(dot, argument, Parameter::Any)?;
                if value.is_true() == (function == Function::Or) {
                    return Ok(value);
                }
            }
            return Ok(last.unwrap_or(value));
        }
        let mut values = Vec::with_capacity(given);
        for (at, argument) in arguments.iter().enumerate() {
            values.push(self.argument(dot, argument, function.parameter(at))?);
        }
        if let Some(last) = last {
            values.push(self.fit(last, function.parameter(arguments.len()))?);
        }
        if function == Function::Call {
            self.at = node;
            return Err(self.error(format_args!("error calling call: {}", not_callable(arguments, &values))));
        }
        function.call(&values).map_err(|why| {
            self.at = node;
            match why {
                Why::Failed(why) => self.error(format_args!("error calling {name}: {why}")),
                Why::Refused(why) => self.refuse(format_args!("error calling {name}: {why}")),
            }
        })
    }

    /// Evaluates an operand where a parameter asks for its type.
    fn argument(&mut self, dot: &Value<'a>, operand: &'a Operand, parameter: Parameter) -> Result<Value<'a>> {
        self.step()?;
        self.at = (operand.pos, operand);
        let value = match &operand.term {
            Term::Dot => dot.clone(),
            Term::Nil if parameter == Parameter::Text => return Err(self.error("cannot assign nil to string")),
            Term::Nil => return Ok(Value::Invalid),
            Term::Field(_) | Term::Variable(_) | Term::Chain(..) => self.path(dot, operand, None, None)?,
            Term::Pipe(pipe) => {
                self.at = (pipe.pos, operand);
                self.deeper(|state| state.pipe(dot, pipe))?
            }
            Term::Function(name) => self.function(dot, operand, name, (operand.pos, operand), &[], None)?,
            Term::Text(_, text) => return Ok(Value::lent(text)),
            term if parameter == Parameter::Text => {
                return Err(self.error(format_args!("expected string; found {term}")));
            }
            term => return self.literal(term),
        };
        self.fit(value, parameter)
    }

    /// Makes a value fit a parameter: Go's `validateType`.
    fn fit(&self, value: Value<'a>, parameter: Parameter) -> Result<Value<'a>> {
        if parameter != Parameter::Text {
            return Ok(value);
        }
        let expected = Ty::STRING;
        match value {
            Value::Text(_, ty) if ty == expected => Ok(value),
            Value::Invalid => Err(self.error(format_args!("invalid value; expected {expected}"))),
            Value::Pointer(to, ty) if matches!(ty.shape(), Shape::Pointer(element) if *element == expected) => match to
            {
                Some(data) => Ok(Value::new(expected, data)),
                None => Err(self.error(format_args!("dereference of nil pointer of type {expected}"))),
            },
            other => {
                let got = other.type_name();
                Err(self.error(format_args!("wrong type for value; expected {expected}; got {got}")))
            }
        }
    }
}

/// Nothing that a template can name is a function that `call` could call.
fn not_callable(arguments: &[Operand], values: &[Value<'_>]) -> String {
    match (arguments.first(), values.first()) {
        (_, None | Some(Value::Invalid)) => "call of nil".into(),
        (Some(operand), Some(value)) => format!("non-function {operand} of type {}", value.type_name()),
        (None, Some(value)) => {
            let name = match value {
                Value::Text(text, _) => text.to_string(),
                other => format!("<{} Value>", other.type_name()),
            };
            format!("non-function {name} of type {}", value.type_name())
        }
    }
}
