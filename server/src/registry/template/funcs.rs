//! The functions that a template may call: Go's built-in ones.

use std::cmp::Ordering;

use super::types::{Shape, Ty};
use super::value::{Basic, Text, Value};
use super::{escape, format};

/// A built-in function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    And,
    Call,
    Eq,
    Ge,
    Gt,
    Html,
    Index,
    Js,
    Le,
    Len,
    Lt,
    Ne,
    Not,
    Or,
    Print,
    Printf,
    Println,
    Slice,
    UrlQuery,
}

/// Why a function gives nothing.
pub(super) enum Why {
    /// Go's function fails, too.
    Failed(String),
    /// Go's function would not.
    Refused(String),
}

type Result<T> = std::result::Result<T, Why>;

/// An argument as Go's function declares it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parameter {
    /// `reflect.Value`, which takes everything as it is.
    Any,
    /// `interface{}`
    Interface,
    /// `string`
    Text,
}

impl Function {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "and" => Self::And,
            "call" => Self::Call,
            "eq" => Self::Eq,
            "ge" => Self::Ge,
            "gt" => Self::Gt,
            "html" => Self::Html,
            "index" => Self::Index,
            "js" => Self::Js,
            "le" => Self::Le,
            "len" => Self::Len,
            "lt" => Self::Lt,
            "ne" => Self::Ne,
            "not" => Self::Not,
            "or" => Self::Or,
            "print" => Self::Print,
            "printf" => Self::Printf,
            "println" => Self::Println,
            "slice" => Self::Slice,
            "urlquery" => Self::UrlQuery,
            _ => return None,
        })
    }

    /// How many arguments there must be, and whether there may be more.
    pub(super) fn arity(self) -> (usize, bool) {
        match self {
            Self::Html | Self::Js | Self::Print | Self::Println | Self::UrlQuery => (0, true),
            Self::And | Self::Call | Self::Eq | Self::Index | Self::Or | Self::Printf | Self::Slice => (1, true),
            Self::Len | Self::Not => (1, false),
            Self::Ge | Self::Gt | Self::Le | Self::Lt | Self::Ne => (2, false),
        }
    }

    /// The parameter for argument number `at`.
    pub(super) fn parameter(self, at: usize) -> Parameter {
        match self {
            Self::Printf if at == 0 => Parameter::Text,
            Self::Html | Self::Js | Self::Print | Self::Printf | Self::Println | Self::UrlQuery => Parameter::Interface,
            _ => Parameter::Any,
        }
    }

    /// Calls it; `and` and `or` are not called, as they need not evaluate their arguments.
    pub(super) fn call<'d>(self, args: &[Value<'d>]) -> Result<Value<'d>> {
        let first = args.first().unwrap_or(&Value::Invalid);
        let second = args.get(1).unwrap_or(&Value::Invalid);
        let made = |text: std::result::Result<String, String>| text.map(Value::made).map_err(Why::Refused);
        let escaped = |escape: fn(&str) -> String| made(format::sprint_printable(args).map(|text| escape(&text)));
        match self {
            Self::And | Self::Or => Ok(args.last().cloned().unwrap_or(Value::Invalid)),
            Self::Call => Err(Why::Failed("call of nil".into())),
            Self::Eq => eq(first, args.get(1..).unwrap_or_default()).map(Value::bool),
            Self::Ne => eq(first, std::slice::from_ref(second)).map(|equal| Value::bool(!equal)),
            Self::Lt => less(first, second).map(Value::bool),
            Self::Le => less_or_equal(first, second).map(Value::bool),
            Self::Gt => less_or_equal(first, second).map(|less| Value::bool(!less)),
            Self::Ge => less(first, second).map(|less| Value::bool(!less)),
            Self::Html => escaped(escape::html),
            Self::Js => escaped(escape::js),
            Self::UrlQuery => escaped(escape::url_query),
            Self::Index => index(first, args.get(1..).unwrap_or_default()),
            Self::Len => len(first).map(Value::int),
            Self::Not => Ok(Value::bool(!first.is_true())),
            Self::Print => made(format::sprint(args)),
            Self::Println => made(format::sprintln(args)),
            Self::Printf => match first {
                Value::Text(text, _) => made(format::sprintf(text, args.get(1..).unwrap_or_default())),
                _ => Err(Why::Failed("the format is no string".into())),
            },
            Self::Slice => slice(first, args.get(1..).unwrap_or_default()),
        }
    }
}

fn failed<T>(why: impl Into<String>) -> Result<T> {
    Err(Why::Failed(why.into()))
}

/// What Go's reflection says of the type of no value at all.
fn no_type<T>(method: &str) -> Result<T> {
    failed(format!("reflect: call of reflect.Value.{method} on zero Value"))
}

fn index_of(index: &Value<'_>, capacity: usize) -> Result<usize> {
    let at = match index {
        Value::Int(at, _) => i128::from(*at),
        Value::Uint(at, _) => i128::from(*at),
        Value::Invalid => return failed("cannot index slice/array with nil"),
        other => return failed(format!("cannot index slice/array with type {}", other.type_name())),
    };
    match usize::try_from(at).ok().filter(|at| *at <= capacity) {
        Some(at) => Ok(at),
        None => failed(format!("index out of range: {at}")),
    }
}

fn index<'d>(item: &Value<'d>, indexes: &[Value<'d>]) -> Result<Value<'d>> {
    if matches!(item, Value::Invalid) {
        return failed("index of untyped nil");
    }
    let mut item = item.clone();
    for index in indexes {
        let (inner, is_nil) = item.indirect();
        if is_nil {
            return failed("index of nil pointer");
        }
        item = match &inner {
            Value::List(list, ty) => {
                let list = list.unwrap_or_default();
                let at = index_of(index, list.len())?;
                match (list.get(at), ty.shape()) {
                    (Some(data), Shape::Slice(element)) => Value::new(*element, data),
                    _ => return failed("reflect: slice index out of range"),
                }
            }
            Value::Text(text, _) => match text.as_bytes().get(index_of(index, text.len())?) {
                Some(byte) => Value::Uint((*byte).into(), Ty::UINT8),
                None => return failed("reflect: string index out of range"),
            },
            Value::Map(map, ty) => {
                let Shape::Map(key, element) = ty.shape() else {
                    return no_type("Type");
                };
                match index {
                    Value::Invalid => return failed(format!("value is nil; should be of type {key}")),
                    Value::Text(name, given) if given == key => {
                        Value::entry(*map, *ty, name).unwrap_or_else(|| Value::zero(*element))
                    }
                    other => {
                        let why = format!("value has type {}; should be {key}", other.type_name());
                        return failed(why);
                    }
                }
            }
            other => return failed(format!("can't index item of type {}", other.type_name())),
        };
    }
    Ok(item)
}

fn slice<'d>(item: &Value<'d>, indexes: &[Value<'d>]) -> Result<Value<'d>> {
    if matches!(item, Value::Invalid) {
        return failed("slice of untyped nil");
    }
    let (item, is_nil) = item.indirect();
    if is_nil {
        return failed("slice of nil pointer");
    }
    if indexes.len() > 3 {
        return failed(format!("too many slice indexes: {}", indexes.len()));
    }
    let length = match &item {
        Value::Text(..) if indexes.len() == 3 => return failed("cannot 3-index slice a string"),
        Value::Text(text, _) => text.len(),
        Value::List(list, _) => list.map_or(0, <[_]>::len),
        other => return failed(format!("can't slice item of type {}", other.type_name())),
    };
    let mut bounds = [0, length, length];
    for (bound, index) in bounds.iter_mut().zip(indexes) {
        // Go allows a slice up to its capacity, which depends on how it was made: here it is its length.
        *bound = index_of(index, length)?;
    }
    let [from, to, end] = bounds;
    if from > to {
        return failed(format!("invalid slice index: {from} > {to}"));
    }
    if to > end {
        return failed(format!("invalid slice index: {to} > {end}"));
    }
    match item {
        Value::Text(text, ty) => {
            let part = match &text {
                Text::Lent(text) => text.get(from..to).map(Text::Lent),
                Text::Made(text) => text.get(from..to).map(|part| Text::Made(part.into())),
            };
            let within = || Why::Refused(format!("bytes {from} to {to} are not whole characters"));
            Ok(Value::Text(part.ok_or_else(within)?, ty))
        }
        Value::List(list, ty) => Ok(Value::List(list.map(|list| list.get(from..to).unwrap_or_default()), ty)),
        other => Ok(other),
    }
}

fn len(item: &Value<'_>) -> Result<i64> {
    let (item, is_nil) = item.indirect();
    if is_nil {
        return failed("len of nil pointer");
    }
    let length = match &item {
        Value::Text(text, _) => text.len(),
        Value::List(list, _) => list.map_or(0, <[_]>::len),
        Value::Map(map, _) => map.map_or(0, <[_]>::len),
        Value::Invalid => return no_type("Type"),
        other => return failed(format!("len of type {}", other.type_name())),
    };
    Ok(i64::try_from(length).unwrap_or(i64::MAX))
}

fn eq(first: &Value<'_>, others: &[Value<'_>]) -> Result<bool> {
    if others.is_empty() {
        return failed("missing argument for comparison");
    }
    for other in others {
        if equal(first, other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn equal(a: &Value<'_>, b: &Value<'_>) -> Result<bool> {
    Ok(match (a, b) {
        (Value::Bool(a, _), Value::Bool(b, _)) => a == b,
        (Value::Int(a, _), Value::Int(b, _)) => a == b,
        (Value::Uint(a, _), Value::Uint(b, _)) => a == b,
        (Value::Float(a, _), Value::Float(b, _)) => a == b,
        (Value::Text(a, _), Value::Text(b, _)) => **a == **b,
        (Value::Int(int, _), Value::Uint(uint, _)) | (Value::Uint(uint, _), Value::Int(int, _)) => {
            u64::try_from(*int).is_ok_and(|int| int == *uint)
        }
        (a, b) if a.basic() != b.basic() => match (a.ty(), b.ty()) {
            (Some(a), Some(b)) => return failed(format!("incompatible types for comparison: {a} and {b}")),
            _ => false,
        },
        (Value::Invalid, b) => is_nil(b),
        (a, Value::Invalid) => is_nil(a),
        (a, b) if std::mem::discriminant(a) != std::mem::discriminant(b) => {
            return failed(format!("non-comparable types {}, {}", a.type_name(), b.type_name()));
        }
        (a, b) if is_nil(a) || is_nil(b) => is_nil(a) == is_nil(b),
        (_, Value::List(..) | Value::Map(..)) => {
            return failed(format!("non-comparable type {}", b.type_name()));
        }
        (_, b) => {
            let why = format!("comparing values of type {} is not supported", b.type_name());
            return Err(Why::Refused(why));
        }
    })
}

fn is_nil(value: &Value<'_>) -> bool {
    matches!(
        value,
        Value::Invalid | Value::Pointer(None, _) | Value::List(None, _) | Value::Map(None, _)
    )
}

fn less(a: &Value<'_>, b: &Value<'_>) -> Result<bool> {
    const BAD: &str = "invalid type for comparison";
    if a.basic() == Basic::Other || b.basic() == Basic::Other {
        return failed(BAD);
    }
    let is_less = |order: Option<Ordering>| Ok(order == Some(Ordering::Less));
    match (a, b) {
        (Value::Bool(..), Value::Bool(..)) => failed(BAD),
        (Value::Int(a, _), Value::Int(b, _)) => is_less(Some(a.cmp(b))),
        (Value::Uint(a, _), Value::Uint(b, _)) => is_less(Some(a.cmp(b))),
        (Value::Float(a, _), Value::Float(b, _)) => is_less(a.partial_cmp(b)),
        (Value::Text(a, _), Value::Text(b, _)) => is_less(Some((**a).cmp(b))),
        (Value::Int(a, _), Value::Uint(b, _)) => is_less(Some(i128::from(*a).cmp(&i128::from(*b)))),
        (Value::Uint(a, _), Value::Int(b, _)) => is_less(Some(i128::from(*a).cmp(&i128::from(*b)))),
        _ => failed(format!(
            "incompatible types for comparison: {} and {}",
            a.type_name(),
            b.type_name()
        )),
    }
}

fn less_or_equal(a: &Value<'_>, b: &Value<'_>) -> Result<bool> {
    Ok(less(a, b)? || equal(a, b)?)
}
