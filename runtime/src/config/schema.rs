//! Which keys a configuration has, learned from its `Deserialize`.
//!
//! Serde's derived code tells its deserializer the fields of every struct before it asks for their values. [`Schema::of`] is such a deserializer: it
//! walks down to one leaf at a time, notes on the way what is asked for, and ends each walk with an error, until every leaf has been reached.

use std::fmt;

use serde::de::value::Error as Walked;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use toml::de::{DeTable, DeValue};

use super::join;
use std::ops::Range;

/// Deeper than any configuration; a type that contains itself ends here.
const MAX_DEPTH: usize = 12;
/// A key that stands for every key of a map; valid wherever a name is.
const ANY_NAME: &str = "name";

/// The shape of a configuration or of a part of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Schema {
    /// Anything: the type takes what it gets.
    Any,
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer,
    /// A number.
    Float,
    /// Text, or what is written as text.
    Text,
    /// A list of such.
    List(Box<Self>),
    /// A table with names of the user's choice.
    Map(Box<Self>),
    /// A table with these keys.
    Table(Vec<(&'static str, Self)>),
}

impl Schema {
    /// The shape of `T`.
    pub fn of<T: DeserializeOwned>() -> Self {
        let mut root = Node::default();
        while !root.is_complete() {
            let walk = Walk {
                node: &mut root,
                depth: 0,
            };
            // Every walk ends in an error, or in a value that nobody needs.
            let _ = T::deserialize(walk);
            root.kind.get_or_insert(Kind::Leaf(Self::Any));
        }
        root.finish()
    }

    /// Calls `found` with the dotted path and the place in the text of each key that there is not.
    pub(super) fn unknown_keys(&self, table: &DeTable<'_>, mut found: impl FnMut(&str, Range<usize>)) {
        self.unknown_below("", table, &mut found);
    }

    fn unknown_below(&self, path: &str, table: &DeTable<'_>, found: &mut dyn FnMut(&str, Range<usize>)) {
        for (key, value) in table {
            let path = join(path, key.get_ref());
            let inner = match self {
                Self::Table(_) => self.child(key.get_ref()),
                Self::Map(inner) => Some(&**inner),
                _ => return,
            };
            match inner {
                Some(inner) => inner.unknown_in(&path, value.get_ref(), found),
                None => found(&path, key.span()),
            }
        }
    }

    fn unknown_in(&self, path: &str, value: &DeValue<'_>, found: &mut dyn FnMut(&str, Range<usize>)) {
        match (self, value) {
            (_, DeValue::Table(table)) => self.unknown_below(path, table, found),
            (Self::List(inner), DeValue::Array(items)) => {
                items
                    .iter()
                    .for_each(|item| inner.unknown_in(path, item.get_ref(), found));
            }
            _ => {}
        }
    }

    /// The key below this one.
    pub(super) fn child(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Table(fields) => fields.iter().find(|(name, _)| *name == key).map(|(_, inner)| inner),
            _ => None,
        }
    }

    /// The existing key that was probably meant by the dotted `path`: one that is spelled alike in the same table, else one of that name elsewhere.
    pub(super) fn nearest(&self, path: &str) -> Option<String> {
        let (above, key) = path.rsplit_once('.').unwrap_or(("", path));
        let beside = self.fields_of(above);
        let alike = beside
            .iter()
            .map(|known| (distance(key, known), *known))
            .filter(|(distance, known)| *distance <= (known.len() / 3).max(1))
            .min();
        if let Some((_, known)) = alike {
            return Some(join(above, known));
        }
        self.keys()
            .into_iter()
            .find(|known| known.rsplit('.').next() == Some(key))
    }

    /// `; there are: …` for the keys in the table that `path` is in.
    pub(super) fn known_beside(&self, path: &str) -> String {
        let above = path.rsplit_once('.').map_or("", |(above, _)| above);
        format!("; there are: {}", self.fields_of(above).join(", "))
    }

    fn fields_of(&self, path: &str) -> Vec<&'static str> {
        let table = path
            .split('.')
            .filter(|key| !key.is_empty())
            .try_fold(self, |at, key| match at {
                Self::Map(inner) => Some(&**inner),
                _ => at.child(key),
            });
        let mut table = table;
        while let Some(Self::List(inner)) = table {
            table = Some(inner);
        }
        match table {
            Some(Self::Table(fields)) => fields.iter().map(|(name, _)| *name).collect(),
            _ => Vec::new(),
        }
    }

    /// The dotted paths of all keys whose names are fixed, tables before what is in them.
    pub fn keys(&self) -> Vec<String> {
        let mut all = Vec::new();
        self.paths("", &mut all);
        all
    }

    fn paths(&self, path: &str, all: &mut Vec<String>) {
        if let Self::Table(fields) = self {
            for (name, inner) in fields {
                let path = join(path, name);
                all.push(path.clone());
                inner.paths(&path, all);
            }
        }
    }
}

/// How many letters must be added, dropped, changed or swapped with their neighbour to make one word the other.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<_>, Vec<_>) = (from.chars().take(64).collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<_>>()];
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in to.iter().enumerate() {
            let mut best = (rows[i][j] + usize::from(a != b))
                .min(rows[i][j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && *a == to[j - 1] && from[i - 1] == *b {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

/// A part of a schema while it is being learned.
#[derive(Default)]
struct Node {
    kind: Option<Kind>,
}

enum Kind {
    Leaf(Schema),
    List(Box<Node>),
    Map(Box<Node>),
    Table(Vec<(&'static str, Node)>),
}

impl Node {
    fn is_complete(&self) -> bool {
        match &self.kind {
            None => false,
            Some(Kind::Leaf(_)) => true,
            Some(Kind::List(inner) | Kind::Map(inner)) => inner.is_complete(),
            Some(Kind::Table(fields)) => fields.iter().all(|(_, node)| node.is_complete()),
        }
    }

    fn finish(self) -> Schema {
        match self.kind {
            None => Schema::Any,
            Some(Kind::Leaf(schema)) => schema,
            Some(Kind::List(inner)) => Schema::List(Box::new(inner.finish())),
            Some(Kind::Map(inner)) => Schema::Map(Box::new(inner.finish())),
            Some(Kind::Table(fields)) => {
                Schema::Table(fields.into_iter().map(|(name, node)| (name, node.finish())).collect())
            }
        }
    }

    /// What a walk finds here the first time is what is here; the same type asks for the same each time.
    fn settle(&mut self, kind: impl FnOnce() -> Kind) -> &mut Kind {
        self.kind.get_or_insert_with(kind)
    }
}

struct Walk<'a> {
    node: &'a mut Node,
    depth: usize,
}

impl<'a> Walk<'a> {
    fn leaf<T>(self, schema: Schema) -> Result<T, Walked> {
        self.node.settle(|| Kind::Leaf(schema));
        Err(Walked::custom("leaf reached"))
    }

    fn too_deep(&self) -> bool {
        self.depth >= MAX_DEPTH
    }
}

macro_rules! leaves {
    ($($method:ident => $schema:ident),* $(,)?) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Walked> {
            self.leaf(Schema::$schema)
        })*
    };
}

impl<'de> Deserializer<'de> for Walk<'_> {
    type Error = Walked;

    leaves! {
        deserialize_any => Any, deserialize_ignored_any => Any, deserialize_unit => Any,
        deserialize_bool => Bool,
        deserialize_i8 => Integer, deserialize_i16 => Integer, deserialize_i32 => Integer,
        deserialize_i64 => Integer, deserialize_i128 => Integer,
        deserialize_u8 => Integer, deserialize_u16 => Integer, deserialize_u32 => Integer,
        deserialize_u64 => Integer, deserialize_u128 => Integer,
        deserialize_f32 => Float, deserialize_f64 => Float,
        deserialize_char => Text, deserialize_str => Text, deserialize_string => Text,
        deserialize_identifier => Text,
        deserialize_bytes => Any, deserialize_byte_buf => Any,
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Walked> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Walked> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, _: V) -> Result<V::Value, Walked> {
        self.leaf(Schema::Any)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Walked> {
        // A choice is written as text; the type itself says which there are when it refuses one.
        self.leaf(Schema::Text)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Walked> {
        self.leaf(Schema::List(Box::new(Schema::Any)))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, _: usize, _: V) -> Result<V::Value, Walked> {
        self.leaf(Schema::List(Box::new(Schema::Any)))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Walked> {
        if self.too_deep() {
            return self.leaf(Schema::Any);
        }
        let depth = self.depth + 1;
        match self.node.settle(|| Kind::List(Box::default())) {
            Kind::List(inner) => visitor.visit_seq(One {
                key: None,
                node: Some(inner),
                depth,
            }),
            _ => Err(Walked::custom("the type asks for something else each time")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Walked> {
        if self.too_deep() {
            return self.leaf(Schema::Any);
        }
        let depth = self.depth + 1;
        match self.node.settle(|| Kind::Map(Box::default())) {
            Kind::Map(inner) => {
                let done = visitor.visit_map(One {
                    key: Some(ANY_NAME),
                    node: Some(inner),
                    depth,
                });
                // Where the name was refused, nothing was learned, nor will be.
                inner.settle(|| Kind::Leaf(Schema::Any));
                done
            }
            _ => Err(Walked::custom("the type asks for something else each time")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Walked> {
        if self.too_deep() {
            return self.leaf(Schema::Any);
        }
        let depth = self.depth + 1;
        let table = || Kind::Table(fields.iter().map(|name| (*name, Node::default())).collect());
        match self.node.settle(table) {
            Kind::Table(fields) => {
                let next = fields.iter_mut().find(|(_, node)| !node.is_complete());
                let Some((key, node)) = next else {
                    return Err(Walked::custom("all fields are known"));
                };
                let done = visitor.visit_map(One {
                    key: Some(key),
                    node: Some(node),
                    depth,
                });
                node.settle(|| Kind::Leaf(Schema::Any));
                done
            }
            _ => Err(Walked::custom("the type asks for something else each time")),
        }
    }
}

/// A table or list with one item.
struct One<'a> {
    key: Option<&'static str>,
    node: Option<&'a mut Node>,
    depth: usize,
}

impl<'de> MapAccess<'de> for One<'_> {
    type Error = Walked;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Walked> {
        self.key
            .take()
            .map(|key| seed.deserialize(key.into_deserializer()))
            .transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Walked> {
        let node = self.node.take().ok_or_else(|| Walked::custom("no key was taken"))?;
        seed.deserialize(Walk {
            node,
            depth: self.depth,
        })
    }
}

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Walked;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Walked> {
        let Some(node) = self.node.take() else {
            return Ok(None);
        };
        seed.deserialize(Walk {
            node,
            depth: self.depth,
        })
        .map(Some)
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "a value",
            Self::Bool => "true or false",
            Self::Integer => "a whole number",
            Self::Float => "a number",
            Self::Text => "text",
            Self::List(_) => "a list",
            Self::Map(_) | Self::Table(_) => "a table",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Whole {
        flag: bool,
        number: Option<u8>,
        ratio: f32,
        names: Vec<String>,
        addr: std::net::SocketAddr,
        parts: BTreeMap<String, Part>,
        list: Vec<Part>,
        raw: toml::Value,
        kind: KindOfThing,
        #[serde(rename = "other-name")]
        renamed: Wrapper,
        pair: (u8, String),
        constant: Constant,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Part {
        path: std::path::PathBuf,
        part: Option<Box<Self>>,
    }

    #[derive(Deserialize)]
    enum KindOfThing {
        A,
        B,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Wrapper(u64);

    struct Constant;

    impl<'de> Deserialize<'de> for Constant {
        fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            Ok(Self)
        }
    }

    #[test]
    fn the_shape_of_a_type_is_learned_from_its_deserialize() {
        let schema = Schema::of::<Whole>();
        let list = |inner| Schema::List(Box::new(inner));
        for (key, expected) in [
            ("flag", Schema::Bool),
            ("number", Schema::Integer),
            ("ratio", Schema::Float),
            ("names", list(Schema::Text)),
            ("addr", Schema::Text),
            ("raw", Schema::Any),
            ("kind", Schema::Text),
            ("other-name", Schema::Integer),
            ("pair", list(Schema::Any)),
            ("constant", Schema::Any),
        ] {
            assert_eq!(schema.child(key), Some(&expected), "{key}");
        }
        let Some(Schema::Map(part)) = schema.child("parts") else {
            panic!("{schema:?}")
        };
        assert_eq!(part.child("path"), Some(&Schema::Text));
        let Some(Schema::List(part)) = schema.child("list") else {
            panic!("{schema:?}")
        };
        assert_eq!(
            part.child("part").and_then(|part| part.child("path")),
            Some(&Schema::Text)
        );
    }

    #[test]
    fn the_distance_of_words_counts_letters() {
        for (a, b, expected) in [
            ("", "", 0),
            ("api", "api", 0),
            ("apo", "api", 1),
            ("pai", "api", 1),
            ("", "api", 3),
            ("listn", "listen", 1),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
