//! The Go types that templates see: those of a pod's and a node's metadata and specification, and Go's own.
//!
//! They are read from `kubernetes.types`, which `tests/interop` writes from Kubernetes' own source (`interop template-types`) and its tests hold against it.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

/// A type; two are the same when they are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ty(u16);

/// What a type is made of.
#[derive(Debug)]
pub(super) enum Shape {
    Bool,
    Int,
    Uint,
    Float,
    String,
    Slice(Ty),
    /// Keys have the kind of a string.
    Map(Ty, Ty),
    Pointer(Ty),
    Struct(Fields),
    /// `metav1.Time`
    Time,
    /// `intstr.IntOrString`
    IntOrString,
    /// A structure whose JSON is not that of its fields.
    Opaque,
}

/// The fields of a structure, by their names in Go and in JSON.
#[derive(Debug, Default)]
pub(super) struct Fields {
    list: Vec<Field>,
    by_name: HashMap<Box<str>, u16>,
    by_json: HashMap<Box<str>, u16>,
    /// Structures whose fields are this one's, too.
    embedded: Vec<u16>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: Box<str>,
    pub(super) ty: Ty,
}

impl Fields {
    /// The field with this number.
    pub(super) fn at(&self, number: u16) -> Option<&Field> {
        self.list.get(usize::from(number))
    }

    pub(super) fn named(&self, name: &str) -> Option<u16> {
        self.by_name.get(name).copied()
    }

    pub(super) fn with_json(&self, name: &str) -> Option<u16> {
        self.by_json.get(name).copied()
    }

    /// The embedded structures.
    pub(super) fn embedded(&self) -> impl Iterator<Item = (u16, &Field)> {
        self.embedded
            .iter()
            .filter_map(|number| Some((*number, self.at(*number)?)))
    }
}

struct Types {
    list: Vec<Named>,
    by_name: HashMap<Box<str>, Ty>,
}

struct Named {
    name: Box<str>,
    shape: Shape,
}

static TYPES: LazyLock<Types> = LazyLock::new(Types::load);

const SOURCES: [&str; 2] = [include_str!("kubernetes.types"), ROOT];

/// What a template's data is, as in SPIRE's controller manager; and the objects that it comes from, as far as they are read.
const ROOT: &str = "
struct spireentry.templateData
  TrustDomain - string
  ClusterName - string
  ClusterDomain - string
  PodMeta - *v1.ObjectMeta
  PodSpec - *v1.PodSpec
  NodeMeta - *v1.ObjectMeta
  NodeSpec - *v1.NodeSpec
struct v1.Pod
  Metadata metadata v1.ObjectMeta
  Spec spec v1.PodSpec
  Status status v1.PodStatus
struct v1.PodStatus
  Phase phase string
struct v1.Node
  Metadata metadata v1.ObjectMeta
  Spec spec v1.NodeSpec
struct v1.Namespace
  Metadata metadata v1.ObjectMeta
";

const BASIC: [(&str, Shape); 10] = [
    ("bool", Shape::Bool),
    ("int", Shape::Int),
    ("int32", Shape::Int),
    ("int64", Shape::Int),
    ("uint8", Shape::Uint),
    ("uint64", Shape::Uint),
    ("float64", Shape::Float),
    ("string", Shape::String),
    ("*string", Shape::Pointer(Ty::STRING)),
    ("[]string", Shape::Slice(Ty::STRING)),
];

impl Ty {
    pub(super) const BOOL: Self = Self(0);
    pub(super) const INT: Self = Self(1);
    pub(super) const UINT8: Self = Self(4);
    pub(super) const FLOAT: Self = Self(6);
    pub(super) const STRING: Self = Self(7);

    pub(super) fn shape(self) -> &'static Shape {
        &self.named().shape
    }

    /// As Go's `reflect.Type` prints it.
    pub(super) fn name(self) -> &'static str {
        &self.named().name
    }

    /// The fields, when it is a structure.
    pub(super) fn fields(self) -> Option<&'static Fields> {
        match self.shape() {
            Shape::Struct(fields) => Some(fields),
            _ => None,
        }
    }

    fn named(self) -> &'static Named {
        let types = LazyLock::force(&TYPES);
        types.list.get(usize::from(self.0)).unwrap_or(&types.list[0])
    }
}

impl fmt::Debug for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The types that have a name in this program.
struct Roots {
    data: Ty,
    data_pointer: Ty,
    pod: Ty,
    pod_status: Ty,
    node: Ty,
    namespace: Ty,
    meta: Ty,
    pod_spec: Ty,
    node_spec: Ty,
}

static ROOTS: LazyLock<Roots> = LazyLock::new(|| {
    let known = |name| TYPES.by_name[name];
    Roots {
        data: known("spireentry.templateData"),
        data_pointer: known("*spireentry.templateData"),
        pod: known("v1.Pod"),
        pod_status: known("v1.PodStatus"),
        node: known("v1.Node"),
        namespace: known("v1.Namespace"),
        meta: known("v1.ObjectMeta"),
        pod_spec: known("v1.PodSpec"),
        node_spec: known("v1.NodeSpec"),
    }
});

/// The type of what a template is executed with.
pub fn data_type() -> Ty {
    ROOTS.data
}

/// As [`data_type`] is given to a template: a pointer to it.
pub(super) fn root_type() -> Ty {
    ROOTS.data_pointer
}

/// A pod, with fields `Metadata`, `Spec` and `Status`.
pub fn pod() -> Ty {
    ROOTS.pod
}

/// The status of a pod, with field `Phase`.
pub fn pod_status() -> Ty {
    ROOTS.pod_status
}

/// A node, with fields `Metadata` and `Spec`.
pub fn node() -> Ty {
    ROOTS.node
}

/// A namespace, with field `Metadata`.
pub fn namespace() -> Ty {
    ROOTS.namespace
}

/// `.PodMeta` and `.NodeMeta`
pub fn object_meta() -> Ty {
    ROOTS.meta
}

/// `.PodSpec`
pub fn pod_spec() -> Ty {
    ROOTS.pod_spec
}

/// `.NodeSpec`
pub fn node_spec() -> Ty {
    ROOTS.node_spec
}

impl Types {
    fn load() -> Self {
        let mut types = Self {
            list: Vec::new(),
            by_name: HashMap::new(),
        };
        for (name, shape) in BASIC {
            let ty = types.declare(name);
            types.define(ty, shape);
        }
        let lines = || SOURCES.iter().flat_map(|source| source.lines());
        // Names first, as types refer to one another.
        for line in lines() {
            let mut words = line.split_whitespace();
            if let (Some("struct" | "type"), Some(name)) = (words.next(), words.next()) {
                types.declare(name);
            }
        }
        types.refer("*spireentry.templateData");
        let mut current: Option<(Ty, Fields)> = None;
        for line in lines().chain(["end"]) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [name, json, written] = words[..]
                && line.starts_with(' ')
            {
                let ty = types.refer(written);
                if let Some((_, fields)) = &mut current {
                    fields.add(name, json, ty);
                }
                continue;
            }
            if let Some((ty, fields)) = current.take() {
                types.define(ty, Shape::Struct(fields));
            }
            match words[..] {
                ["struct", name] => current = Some((types.by_name[name], Fields::default())),
                ["type", name, "opaque"] => {
                    let shape = match name {
                        "v1.Time" => Shape::Time,
                        "intstr.IntOrString" => Shape::IntOrString,
                        _ => Shape::Opaque,
                    };
                    let ty = types.by_name[name];
                    types.define(ty, shape);
                }
                ["type", name, written] => {
                    let shape = types.shape_of(written);
                    let ty = types.by_name[name];
                    types.define(ty, shape);
                }
                _ => {}
            }
        }
        types
    }

    fn declare(&mut self, name: &str) -> Ty {
        let ty = Ty(u16::try_from(self.list.len()).unwrap_or(u16::MAX));
        self.list.push(Named {
            name: name.into(),
            shape: Shape::Opaque,
        });
        self.by_name.insert(name.into(), ty);
        ty
    }

    fn define(&mut self, ty: Ty, shape: Shape) {
        self.list[usize::from(ty.0)].shape = shape;
    }

    /// The type that is written so; unnamed ones are made when they come up.
    fn refer(&mut self, written: &str) -> Ty {
        if let Some(ty) = self.by_name.get(written) {
            return *ty;
        }
        let shape = self.shape_of(written);
        let ty = self.declare(written);
        self.define(ty, shape);
        ty
    }

    fn shape_of(&mut self, written: &str) -> Shape {
        if let Some(element) = written.strip_prefix('*') {
            return Shape::Pointer(self.refer(element));
        }
        if let Some(element) = written.strip_prefix("[]") {
            return Shape::Slice(self.refer(element));
        }
        if let Some((key, element)) = written.strip_prefix("map[").and_then(|rest| rest.split_once(']')) {
            return Shape::Map(self.refer(key), self.refer(element));
        }
        match written {
            "bool" => Shape::Bool,
            "string" => Shape::String,
            "int" | "int8" | "int16" | "int32" | "int64" => Shape::Int,
            "uint" | "uint8" | "uint16" | "uint32" | "uint64" => Shape::Uint,
            "float32" | "float64" => Shape::Float,
            _ => Shape::Opaque,
        }
    }
}

impl Fields {
    fn add(&mut self, name: &str, json: &str, ty: Ty) {
        let number = u16::try_from(self.list.len()).unwrap_or(u16::MAX);
        self.list.push(Field { name: name.into(), ty });
        self.by_name.insert(name.into(), number);
        match json {
            "+" => self.embedded.push(number),
            "-" => {}
            json => {
                self.by_json.insert(json.into(), number);
            }
        }
    }
}
