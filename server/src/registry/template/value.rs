//! A value while a template is executed: what Go's `reflect.Value` is there.

use std::sync::Arc;

use super::data::{Data, numbered};
use super::types::{Fields, Shape, Ty};

/// A value and its type.
#[derive(Debug, Clone)]
pub(super) enum Value<'d> {
    /// No value at all: Go's zero `reflect.Value`, such as for a key that a map does not have.
    Invalid,
    Bool(bool, Ty),
    Int(i64, Ty),
    Uint(u64, Ty),
    Float(f64, Ty),
    Text(Text<'d>, Ty),
    /// `None` for nil.
    List(Option<&'d [Data]>, Ty),
    /// `None` for nil.
    Map(Option<&'d [(Arc<str>, Data)]>, Ty),
    Struct(&'d [(u16, Data)], Ty),
    /// To what, unless it is nil.
    Pointer(Option<&'d Data>, Ty),
    /// A time, or something that looks like nothing else.
    Opaque(&'d Data, Ty),
}

/// A text of the data, of the template, or one that was made.
#[derive(Debug, Clone)]
pub(super) enum Text<'d> {
    Lent(&'d str),
    Made(Arc<str>),
}

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Lent(text) => text,
            Self::Made(text) => text,
        }
    }
}

/// Go's kinds, as far as functions tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Basic {
    Other,
    Bool,
    Int,
    Float,
    Text,
    Uint,
}

impl<'d> Value<'d> {
    pub(super) fn lent(text: &'d str) -> Self {
        Self::Text(Text::Lent(text), Ty::STRING)
    }

    pub(super) fn made(text: String) -> Self {
        Self::Text(Text::Made(text.into()), Ty::STRING)
    }

    pub(super) fn bool(value: bool) -> Self {
        Self::Bool(value, Ty::BOOL)
    }

    pub(super) fn int(value: i64) -> Self {
        Self::Int(value, Ty::INT)
    }

    /// `data` as a value of type `ty`; data of another kind is a zero value.
    pub(super) fn new(ty: Ty, data: &'d Data) -> Self {
        match (ty.shape(), data) {
            (Shape::Bool, Data::Bool(value)) => Self::Bool(*value, ty),
            (Shape::Bool, _) => Self::Bool(false, ty),
            (Shape::Int, Data::Int(value)) => Self::Int(*value, ty),
            (Shape::Int, _) => Self::Int(0, ty),
            (Shape::Uint, Data::Int(value)) => Self::Uint(value.unsigned_abs(), ty),
            (Shape::Uint, _) => Self::Uint(0, ty),
            (Shape::Float, _) => Self::Float(0.0, ty),
            (Shape::String, Data::Text(text)) => Self::Text(Text::Lent(text), ty),
            (Shape::String, _) => Self::Text(Text::Lent(""), ty),
            (Shape::Slice(_), Data::List(list)) => Self::List(Some(list), ty),
            (Shape::Slice(_), _) => Self::List(None, ty),
            (Shape::Map(..), Data::Map(map)) => Self::Map(Some(map), ty),
            (Shape::Map(..), _) => Self::Map(None, ty),
            (Shape::Struct(_), Data::Struct(fields)) => Self::Struct(fields, ty),
            (Shape::Struct(_), _) => Self::Struct(&[], ty),
            (Shape::Pointer(_), Data::Zero) => Self::Pointer(None, ty),
            (Shape::Pointer(_), data) => Self::Pointer(Some(data), ty),
            (Shape::Time | Shape::IntOrString | Shape::Opaque, data) => Self::Opaque(data, ty),
        }
    }

    pub(super) fn zero(ty: Ty) -> Self {
        static ZERO: Data = Data::Zero;
        Self::new(ty, &ZERO)
    }

    pub(super) fn ty(&self) -> Option<Ty> {
        match self {
            Self::Invalid => None,
            Self::Bool(_, ty)
            | Self::Int(_, ty)
            | Self::Uint(_, ty)
            | Self::Float(_, ty)
            | Self::Text(_, ty)
            | Self::List(_, ty)
            | Self::Map(_, ty)
            | Self::Struct(_, ty)
            | Self::Pointer(_, ty)
            | Self::Opaque(_, ty) => Some(*ty),
        }
    }

    /// The name of the type.
    pub(super) fn type_name(&self) -> &'static str {
        self.ty().map_or("<nil>", Ty::name)
    }

    /// What pointers lead to, and whether the last one is nil, which is then what comes back.
    pub(super) fn indirect(&self) -> (Self, bool) {
        let mut value = self.clone();
        while let Self::Pointer(to, ty) = value {
            match (to, ty.shape()) {
                (Some(data), Shape::Pointer(element)) => value = Self::new(*element, data),
                _ => return (value, true),
            }
        }
        (value, false)
    }

    /// The field of a structure, with the fields of embedded structures; `None` when it has no such field.
    pub(super) fn field(fields: &'d [(u16, Data)], ty: Ty, name: &str) -> Option<Self> {
        let known = ty.fields()?;
        let of = |number: u16| -> Option<Self> {
            let ty = known.at(number)?.ty;
            Some(numbered(fields, number).map_or_else(|| Self::zero(ty), |data| Self::new(ty, data)))
        };
        if let Some(number) = known.named(name) {
            return of(number);
        }
        known.embedded().find_map(|(number, _)| match of(number)? {
            Self::Struct(fields, ty) => Self::field(fields, ty, name),
            _ => None,
        })
    }

    /// Whether structures of this type have such a field.
    pub(super) fn has_field(ty: Ty, name: &str) -> bool {
        fn has(fields: &Fields, name: &str) -> bool {
            let mut inside = fields.embedded().filter_map(|(_, field)| field.ty.fields());
            fields.named(name).is_some() || inside.any(|fields| has(fields, name))
        }
        ty.fields().is_some_and(|fields| has(fields, name))
    }

    /// Go's truth: not the zero of its type.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Invalid => false,
            Self::Bool(value, _) => *value,
            Self::Int(value, _) => *value != 0,
            Self::Uint(value, _) => *value != 0,
            Self::Float(value, _) => *value != 0.0,
            Self::Text(text, _) => !text.is_empty(),
            Self::List(list, _) => list.is_some_and(|list| !list.is_empty()),
            Self::Map(map, _) => map.is_some_and(|map| !map.is_empty()),
            Self::Struct(..) | Self::Opaque(..) => true,
            Self::Pointer(to, _) => to.is_some(),
        }
    }

    /// The value of a key in a map of type `ty`.
    pub(super) fn entry(map: Option<&'d [(Arc<str>, Data)]>, ty: Ty, key: &str) -> Option<Self> {
        let Shape::Map(_, element) = ty.shape() else {
            return None;
        };
        let map = map?;
        let at = map.binary_search_by(|(known, _)| (**known).cmp(key)).ok()?;
        Some(Self::new(*element, &map.get(at)?.1))
    }

    pub(super) fn basic(&self) -> Basic {
        match self {
            Self::Bool(..) => Basic::Bool,
            Self::Int(..) => Basic::Int,
            Self::Uint(..) => Basic::Uint,
            Self::Float(..) => Basic::Float,
            Self::Text(..) => Basic::Text,
            _ => Basic::Other,
        }
    }
}
