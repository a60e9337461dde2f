//! What a template is executed with: Kubernetes' objects, read as their Go types, trimmed to what templates mention, and shared.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::types::{Fields, Shape, Ty, object_meta};

/// A value without its type. Clones share it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Data {
    /// A zero value; for a pointer, nil.
    Zero,
    /// `bool`
    Bool(bool),
    /// Any integer.
    Int(i64),
    /// Any text; of a time, as in JSON.
    Text(Arc<str>),
    /// A slice.
    List(Arc<[Self]>),
    /// A map, sorted by its keys.
    Map(Arc<[(Arc<str>, Self)]>),
    /// A structure: the numbers of its fields and what they hold, sorted; fields that are zero are not there.
    Struct(Arc<[(u16, Self)]>),
}

impl Data {
    /// A structure of type `ty` of these fields.
    pub fn of_fields<'a>(ty: Ty, fields: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        let number = |name| ty.fields().and_then(|fields| fields.named(name));
        let mut fields: Vec<_> = fields
            .into_iter()
            .filter_map(|(name, data)| Some((number(name)?, data)))
            .collect();
        fields.sort_unstable_by_key(|(number, _)| *number);
        Self::Struct(fields.into())
    }

    /// A map of texts, such as labels.
    pub fn of_texts(pairs: impl IntoIterator<Item = (Arc<str>, Arc<str>)>) -> Self {
        let mut map: Vec<_> = pairs.into_iter().map(|(key, value)| (key, Self::Text(value))).collect();
        map.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self::Map(map.into())
    }

    /// The field `name` of a structure of type `ty`.
    pub fn field(&self, ty: Ty, name: &str) -> Option<&Self> {
        match self {
            Self::Struct(fields) => numbered(fields, ty.fields()?.named(name)?),
            _ => None,
        }
    }

    /// The text, when it is one.
    pub fn text(&self) -> Option<&Arc<str>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// The field with a number in a structure's fields.
pub(super) fn numbered(fields: &[(u16, Data)], number: u16) -> Option<&Data> {
    let at = fields.binary_search_by_key(&number, |(number, _)| *number).ok()?;
    fields.get(at).map(|(_, data)| data)
}

/// Which fields are kept when an object is read: those with these names, wherever they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mentions {
    all: bool,
    names: BTreeSet<Box<str>>,
}

/// What is always kept, so that most new rules need nothing that is not there.
const ALWAYS: [&str; 26] = [
    "Containers",
    "CreationTimestamp",
    "GenerateName",
    "HostIPC",
    "HostNetwork",
    "HostPID",
    "Hostname",
    "Image",
    "InitContainers",
    "Kind",
    "Labels",
    "Metadata",
    "Name",
    "Namespace",
    "NodeName",
    "OwnerReferences",
    "Phase",
    "PriorityClassName",
    "ProviderID",
    "RuntimeClassName",
    "ServiceAccountName",
    "Spec",
    "Status",
    "Subdomain",
    "UID",
    "Unschedulable",
];

impl Default for Mentions {
    fn default() -> Self {
        Self {
            all: false,
            names: ALWAYS.into_iter().map(Into::into).collect(),
        }
    }
}

impl Mentions {
    /// Keeps everything.
    pub fn all() -> Self {
        Self {
            all: true,
            names: BTreeSet::new(),
        }
    }

    /// These names, too; a getter is the field that it gets.
    pub fn extend<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) {
        let field = |name: &'a str| Box::from(name.strip_prefix("Get").unwrap_or(name));
        self.names.extend(names.into_iter().map(field));
    }

    /// What `other` names, too.
    pub fn add(&mut self, other: &Self) {
        self.all |= other.all;
        self.names.extend(other.names.iter().cloned());
    }

    /// Exactly these names, for whoever keeps no more than a fixed set.
    pub fn only<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            all: false,
            names: names.into_iter().map(Into::into).collect(),
        }
    }

    /// A name in `other` that `self` does not keep.
    pub fn missing<'a>(&self, other: &'a Self) -> Option<&'a str> {
        let mut names = other.names.iter().map(|name| &**name);
        names.find(|name| !self.all && !self.names.contains(*name))
    }

    /// True when what is read for `self` holds everything that is read for `other`.
    pub fn covers(&self, other: &Self) -> bool {
        self.all || !other.all && other.names.is_subset(&self.names)
    }

    fn has(&self, name: &str) -> bool {
        self.all || self.names.contains(name)
    }
}

type Pairs = [(Arc<str>, Data)];
type Numbered = [(u16, Data)];

/// Values that many objects have, held once.
#[derive(Debug, Default)]
pub struct Interner {
    texts: HashSet<Arc<str>>,
    lists: HashSet<Arc<[Data]>>,
    maps: HashSet<Arc<Pairs>>,
    structs: HashSet<Arc<Numbered>>,
    sweep_at: usize,
}

impl Interner {
    /// The one text that says this.
    pub fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let text: Arc<str> = text.into();
        self.texts.insert(text.clone());
        text
    }

    /// Forgets what nobody else holds, once the interner has doubled since it last did.
    pub fn sweep(&mut self) {
        let size = |interner: &Self| {
            interner.texts.len() + interner.lists.len() + interner.maps.len() + interner.structs.len()
        };
        if size(self) < self.sweep_at.max(1024) {
            return;
        }
        self.structs.retain(|one| Arc::strong_count(one) > 1);
        self.lists.retain(|one| Arc::strong_count(one) > 1);
        self.maps.retain(|one| Arc::strong_count(one) > 1);
        self.texts.retain(|one| Arc::strong_count(one) > 1);
        self.sweep_at = 2 * size(self);
    }
}

fn one<T: ?Sized + Hash + Eq>(known: &mut HashSet<Arc<T>>, new: Arc<T>) -> Arc<T> {
    if let Some(known) = known.get(&new) {
        return known.clone();
    }
    known.insert(new.clone());
    new
}

/// Reads objects.
pub struct Reader<'a> {
    /// What is kept.
    pub mentions: &'a Mentions,
    /// What is shared.
    pub interner: &'a mut Interner,
}

impl Reader<'_> {
    /// Reads a value of type `ty` from Kubernetes' JSON. What has another type than it should is left out.
    ///
    /// # Errors
    /// When `json` is no JSON.
    pub fn read<'de, D: Deserializer<'de>>(&mut self, ty: Ty, json: D) -> Result<Data, D::Error> {
        Seed {
            mentions: self.mentions,
            interner: self.interner,
            ty,
            is_unique: false,
        }
        .deserialize(json)
    }
}

struct Seed<'a> {
    mentions: &'a Mentions,
    interner: &'a mut Interner,
    ty: Ty,
    /// Not worth sharing.
    is_unique: bool,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Data;

    fn deserialize<D: Deserializer<'de>>(mut self, json: D) -> Result<Data, D::Error> {
        while let Shape::Pointer(element) = self.ty.shape() {
            self.ty = *element;
        }
        json.deserialize_any(self)
    }
}

impl Seed<'_> {
    fn below(&mut self, ty: Ty) -> Seed<'_> {
        Seed {
            mentions: self.mentions,
            interner: self.interner,
            ty,
            is_unique: false,
        }
    }

    fn integer(&self, value: i64) -> Data {
        match self.ty.shape() {
            Shape::Int | Shape::Uint | Shape::IntOrString => Data::Int(value),
            _ => Data::Zero,
        }
    }

    fn share_struct(&mut self, mut fields: Vec<(u16, Data)>) -> Data {
        fields.sort_unstable_by_key(|(number, _)| *number);
        fields.dedup_by_key(|(number, _)| *number);
        // An object's metadata holds its UID and is like no other.
        Data::Struct(match self.ty == object_meta() {
            true => fields.into(),
            false => one(&mut self.interner.structs, fields.into()),
        })
    }
}

/// Where the value of a key in JSON belongs: a field, and for a promoted one the embedded structures on the way.
fn place(fields: &'static Fields, json: &str) -> Option<Vec<u16>> {
    if let Some(number) = fields.with_json(json) {
        return Some(vec![number]);
    }
    fields.embedded().find_map(|(number, field)| {
        let mut inner = place(field.ty.fields()?, json)?;
        inner.insert(0, number);
        Some(inner)
    })
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Data;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value of Go's type {}", self.ty)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Data, E> {
        Ok(match self.ty.shape() {
            Shape::Bool => Data::Bool(value),
            _ => Data::Zero,
        })
    }

    fn visit_i64<E>(self, value: i64) -> Result<Data, E> {
        Ok(self.integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Data, E> {
        Ok(i64::try_from(value).map_or(Data::Zero, |value| self.integer(value)))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Data, E> {
        Ok(Data::Zero)
    }

    fn visit_str<E>(self, value: &str) -> Result<Data, E> {
        Ok(match self.ty.shape() {
            Shape::String | Shape::Time | Shape::IntOrString if self.is_unique => Data::Text(value.into()),
            Shape::String | Shape::Time | Shape::IntOrString => Data::Text(self.interner.text(value)),
            _ => Data::Zero,
        })
    }

    fn visit_unit<E>(self) -> Result<Data, E> {
        Ok(Data::Zero)
    }

    fn visit_none<E>(self) -> Result<Data, E> {
        Ok(Data::Zero)
    }

    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<Data, D::Error> {
        self.deserialize(json)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut json: A) -> Result<Data, A::Error> {
        let Shape::Slice(element) = self.ty.shape() else {
            while json.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Data::Zero);
        };
        let mut list = Vec::new();
        while let Some(data) = json.next_element_seed(self.below(*element))? {
            list.push(data);
        }
        Ok(Data::List(one(&mut self.interner.lists, list.into())))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut json: A) -> Result<Data, A::Error> {
        match self.ty.shape() {
            Shape::Map(_, element) => {
                let mut map = Vec::new();
                while let Some(key) = json.next_key::<std::borrow::Cow<'de, str>>()? {
                    let key = self.interner.text(&key);
                    map.push((key, json.next_value_seed(self.below(*element))?));
                }
                map.sort_by(|(a, _), (b, _)| a.cmp(b));
                map.dedup_by(|(a, _), (b, _)| a == b);
                Ok(Data::Map(one(&mut self.interner.maps, map.into())))
            }
            Shape::Struct(fields) => {
                let mut found = Vec::new();
                let mut promoted = Vec::new();
                while let Some(key) = json.next_key::<std::borrow::Cow<'de, str>>()? {
                    let path = place(fields, &key).unwrap_or_default();
                    let Some(field) = walk(fields, &path).filter(|field| self.mentions.has(&field.name)) else {
                        json.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    let is_unique =
                        self.ty == object_meta() && matches!(&*field.name, "Name" | "UID" | "ResourceVersion");
                    let mut below = self.below(field.ty);
                    below.is_unique = is_unique;
                    let data = json.next_value_seed(below)?;
                    if data == Data::Zero {
                        continue;
                    }
                    match path[..] {
                        [number] => found.push((number, data)),
                        _ => promoted.push((path, data)),
                    }
                }
                found.extend(nest(promoted));
                Ok(self.share_struct(found))
            }
            _ => {
                while json.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Data::Zero)
            }
        }
    }
}

fn walk(fields: &'static Fields, path: &[u16]) -> Option<&'static super::types::Field> {
    let (first, rest) = path.split_first()?;
    let field = fields.at(*first)?;
    match rest {
        [] => Some(field),
        rest => walk(field.ty.fields()?, rest),
    }
}

/// Puts the fields of embedded structures into these.
fn nest(mut promoted: Vec<(Vec<u16>, Data)>) -> Vec<(u16, Data)> {
    promoted.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut nested: Vec<(u16, Data)> = Vec::new();
    let firsts: BTreeSet<u16> = promoted.iter().filter_map(|(path, _)| path.first().copied()).collect();
    for first in firsts {
        let inside = promoted.iter().filter(|(path, _)| path.first() == Some(&first));
        let (mut direct, mut deeper) = (Vec::new(), Vec::new());
        for (path, data) in inside {
            match path.get(1..) {
                Some([number]) => direct.push((*number, data.clone())),
                Some(rest) => deeper.push((rest.to_vec(), data.clone())),
                None => {}
            }
        }
        direct.extend(nest(deeper));
        direct.sort_unstable_by_key(|(number, _)| *number);
        nested.push((first, Data::Struct(direct.into())));
    }
    nested
}
