//! The environment's part of a configuration: `MINTMARK_CONFIG_SECTION__KEY`.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::SpannedValue;
use super::schema::Schema;

/// What the variables begin with that are keys of the configuration.
pub const PREFIX: &str = "MINTMARK_CONFIG_";

/// This process's environment, without what is not text.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// What came of the variables, besides the values now in the table.
pub(super) struct Overlay<'i> {
    /// Values that are not of their key's type.
    pub(super) problems: Vec<String>,
    /// Variables that mean nothing.
    pub(super) warnings: Vec<String>,
    /// Where the variables' values pretend to be: after the file's end, one place a variable.
    places: Vec<(usize, &'i str)>,
}

impl Overlay<'_> {
    /// The variable whose value is at `span`.
    pub(super) fn variable_at(&self, span: &Range<usize>) -> Option<String> {
        let found = self.places.iter().find(|(place, _)| *place == span.start);
        found.map(|(_, name)| (*name).to_owned())
    }
}

/// Puts the values of `variables` into `root`, the table of a file of `file_len` bytes.
pub(super) fn overlay<'i>(
    schema: &Schema,
    variables: &'i [(String, String)],
    file_len: usize,
    root: &mut DeTable<'i>,
) -> Overlay<'i> {
    let mut overlay = Overlay {
        problems: Vec::new(),
        warnings: Vec::new(),
        places: Vec::new(),
    };
    let ours = variables
        .iter()
        .filter_map(|(name, value)| Some((name, name.strip_prefix(PREFIX)?, value)));
    for (index, (name, key, value)) in ours.enumerate() {
        // Past the end by more than one, so that no place in the file is taken for it.
        let place = file_len + 2 + 2 * index;
        let path: Vec<_> = key.split("__").map(str::to_ascii_lowercase).collect();
        match find(schema, &path) {
            Found::Value(leaf) => match parse(leaf, value, place) {
                Ok(parsed) => match insert(root, &path, parsed, place) {
                    Ok(()) => overlay.places.push((place, name)),
                    Err(key) => overlay.problems.push(format!(
                        "environment variable {name}: the file has a value for \"{key}\", which is a section"
                    )),
                },
                Err(why) => overlay.problems.push(format!("environment variable {name}: {why}")),
            },
            Found::Section => overlay.warnings.push(format!(
                "environment variable {name} names a section, not a key, and is ignored"
            )),
            Found::Named => overlay.warnings.push(format!(
                "environment variable {name} is ignored: only the file can have tables with names of your choice"
            )),
            Found::Nothing => {
                let near = nearest(schema, key).map(|near| format!("; did you mean {near}?"));
                overlay.warnings.push(format!(
                    "environment variable {name} means nothing to this program{}",
                    near.unwrap_or_default()
                ));
            }
        }
    }
    overlay
}

enum Found<'s> {
    Value(&'s Schema),
    Section,
    Named,
    Nothing,
}

fn find<'s>(schema: &'s Schema, path: &[String]) -> Found<'s> {
    let mut at = schema;
    for key in path {
        at = match at.child(key) {
            Some(inner) => inner,
            None if matches!(at, Schema::Map(_)) => return Found::Named,
            None => return Found::Nothing,
        };
    }
    match at {
        Schema::Table(_) => Found::Section,
        Schema::Map(_) => Found::Named,
        leaf => Found::Value(leaf),
    }
}

fn nearest(schema: &Schema, key: &str) -> Option<String> {
    let variable = |path: &str| format!("{PREFIX}{}", path.replace('.', "__").to_ascii_uppercase());
    let all = schema.keys();
    // One underscore where two belong is the likeliest slip.
    let squeezed = |name: &str| name.replace("__", "_");
    let wanted = squeezed(&format!("{PREFIX}{key}"));
    all.iter()
        .map(|path| variable(path))
        .find(|known| squeezed(known) == wanted)
        .or_else(|| {
            schema
                .nearest(&key.replace("__", ".").to_ascii_lowercase())
                .map(|path| variable(&path))
        })
}

fn parse<'i>(schema: &Schema, text: &'i str, place: usize) -> Result<SpannedValue<'i>, String> {
    let value = match schema {
        Schema::Bool => match text.trim() {
            "true" => DeValue::Boolean(true),
            "false" => DeValue::Boolean(false),
            _ => return Err(format!("\"{text}\" is neither true nor false")),
        },
        Schema::Integer => number(text, |value| value.is_integer(), "a whole number")?,
        Schema::Float => number(text, |value| value.is_integer() || value.is_float(), "a number")?,
        Schema::List(inner) if !text.trim_start().starts_with('[') => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            DeValue::Array(
                items
                    .map(|item| parse(inner, item, place))
                    .collect::<Result<DeArray<'_>, _>>()?,
            )
        }
        Schema::Any if !text.trim_start().starts_with(['[', '{', '"', '\'']) => string(text),
        Schema::Text => string(text),
        Schema::Any | Schema::List(_) | Schema::Map(_) | Schema::Table(_) => literal(text)?,
    };
    Ok(placed(value, place))
}

fn string(text: &str) -> DeValue<'_> {
    DeValue::String(Cow::Borrowed(text))
}

fn literal(text: &str) -> Result<DeValue<'_>, String> {
    match DeValue::parse(text.trim()) {
        Ok(value) => Ok(value.into_inner()),
        Err(error) => Err(format!("not a TOML value: {}", error.message())),
    }
}

fn number<'i>(text: &'i str, fits: impl FnOnce(&DeValue<'i>) -> bool, what: &str) -> Result<DeValue<'i>, String> {
    literal(text)
        .ok()
        .filter(fits)
        .ok_or_else(|| format!("\"{text}\" is not {what}"))
}

/// The value and all in it, at `place`.
fn placed(value: DeValue<'_>, place: usize) -> SpannedValue<'_> {
    let value = match value {
        DeValue::Array(items) => {
            DeValue::Array(items.into_iter().map(|item| placed(item.into_inner(), place)).collect())
        }
        DeValue::Table(table) => DeValue::Table(
            table
                .into_iter()
                .map(|(key, value)| {
                    (
                        Spanned::new(span(place), key.into_inner()),
                        placed(value.into_inner(), place),
                    )
                })
                .collect(),
        ),
        other => other,
    };
    Spanned::new(span(place), value)
}

fn span(place: usize) -> Range<usize> {
    place..place + 1
}

fn insert<'i>(table: &mut DeTable<'i>, path: &[String], value: SpannedValue<'i>, place: usize) -> Result<(), String> {
    let Some((first, rest)) = path.split_first() else {
        return Ok(());
    };
    let key = Spanned::new(span(place), Cow::Owned(first.clone()));
    if rest.is_empty() {
        table.insert(key, value);
        return Ok(());
    }
    let inner = table
        .entry(key)
        .or_insert_with(|| Spanned::new(span(place), DeValue::Table(DeTable::new())));
    match inner.get_mut() {
        DeValue::Table(inner) => insert(inner, rest, value, place),
        _ => Err(first.clone()),
    }
}
