//! Holds the code against its drawing.
//!
//! `docs/architecture.md` draws which crate depends on which crate and, inside the two programs, which room uses which room. This crate reads those
//! drawings and the code, and its tests fail on an arrow of the code that is not drawn, and on a drawn arrow that the code no longer has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Arrows from one name to the names it may use.
pub type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Modules under these names are compiled for tests alone.
const TESTS: [&str; 4] = ["tests", "conformance", "testing", "faults"];

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The arrows of the Mermaid drawing that stands under the heading `title`: lines of the form `a --> b & c`.
///
/// # Panics
/// When the document has no drawing under that heading.
pub fn drawn(document: &str, title: &str) -> Arrows {
    let section = document
        .split("\n## ")
        .find(|section| section.starts_with(title))
        .unwrap_or_else(|| panic!("docs/architecture.md has no section `{title}`"));
    let drawing = section
        .split("```mermaid")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .unwrap_or_else(|| panic!("section `{title}` of docs/architecture.md has no drawing"));
    let mut arrows = Arrows::new();
    for line in drawing.lines() {
        let Some((from, to)) = line.split_once("-->") else {
            continue;
        };
        for from in from.split('&') {
            arrows
                .entry(from.trim().to_owned())
                .or_default()
                .extend(to.split('&').map(|to| to.trim().to_owned()));
        }
    }
    arrows
}

/// The arrows between the rooms of one crate, read from its `crate::room` paths, and from those that climb out of a room by `super`; tests at the end of a file do not
/// count.
///
/// # Panics
/// When the sources cannot be read.
pub fn rooms(source: &Path) -> Arrows {
    let rooms: BTreeSet<String> = std::fs::read_dir(source)
        .unwrap_or_else(|error| panic!("read {}: {error}", source.display()))
        .filter_map(|entry| room_of(&entry.ok()?.path()))
        .collect();
    let mut arrows = Arrows::new();
    for room in &rooms {
        let used = arrows.entry(room.clone()).or_default();
        for file in files(source, room) {
            let text =
                std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("read {}: {error}", file.display()));
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let depth = file.strip_prefix(source).map_or(1, |below| below.components().count());
            used.extend(
                paths(code, depth)
                    .into_iter()
                    .filter(|other| other != room && rooms.contains(other)),
            );
        }
    }
    arrows
}

/// The arrows between our crates, read from the `[dependencies]` of their manifests.
///
/// # Panics
/// When a manifest cannot be read.
pub fn crates(members: &[(&str, &str)]) -> Arrows {
    let mut arrows = Arrows::new();
    for (folder, _) in members {
        let manifest = root().join(folder).join("Cargo.toml");
        let text =
            std::fs::read_to_string(&manifest).unwrap_or_else(|error| panic!("read {}: {error}", manifest.display()));
        let dependencies = text
            .split("\n[dependencies]")
            .nth(1)
            .and_then(|rest| rest.split("\n[").next())
            .unwrap_or_default();
        let used = members
            .iter()
            .filter(|(_, package)| {
                dependencies
                    .lines()
                    .any(|line| line.starts_with(&format!("{package}.")))
            })
            .map(|(folder, _)| (*folder).to_owned());
        arrows.entry((*folder).to_owned()).or_default().extend(used);
    }
    arrows
}

fn room_of(path: &Path) -> Option<String> {
    let name = path.file_stem()?.to_str()?;
    let is_room = path.is_file() && path.extension()? == "rs" && !matches!(name, "lib" | "main") && !is_test(path);
    is_room.then(|| name.to_owned())
}

fn files(source: &Path, room: &str) -> Vec<PathBuf> {
    let mut files = vec![source.join(format!("{room}.rs"))];
    let mut folders = vec![source.join(room)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(&path) {
                files.push(path);
            }
        }
    }
    files
}

/// Files that hold nothing but tests are named for it.
fn is_test(path: &Path) -> bool {
    let named = |path: &Path| {
        path.file_stem()
            .is_some_and(|stem| TESTS.iter().any(|test| stem == *test))
    };
    named(path) || path.parent().is_some_and(named)
}

/// The first names behind `crate::`, or behind the `super`s that lead there from a file `depth` levels below.
fn paths(code: &str, depth: usize) -> Vec<String> {
    let lines: Vec<_> = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let code = lines.join(" ").replace(&"super::".repeat(depth), "crate::");
    code.split("crate::").skip(1).flat_map(names).collect()
}

/// Of `a::b` it is `a`, of `{a::{c, d}, b}` they are `a` and `b`.
fn names(path: &str) -> Vec<String> {
    let first = |path: &str| -> String {
        let name = path.trim_start().chars();
        name.take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = path.strip_prefix('{') else {
        return vec![first(path)];
    };
    let (mut names, mut depth) = (vec![first(group)], 0);
    for (at, c) in group.char_indices() {
        match c {
            ',' if depth == 0 => names.push(first(&group[at + 1..])),
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> String {
        std::fs::read_to_string(root().join("docs/architecture.md")).expect("docs/architecture.md is there")
    }

    fn compare(what: &str, code: &Arrows, drawn: &Arrows) {
        let flat = |arrows: &Arrows| -> BTreeSet<String> {
            arrows
                .iter()
                .flat_map(|(from, to)| to.iter().map(move |to| format!("{from} --> {to}")))
                .collect()
        };
        let (code, drawn) = (flat(code), flat(drawn));
        let undrawn: Vec<_> = code.difference(&drawn).collect();
        let gone: Vec<_> = drawn.difference(&code).collect();
        assert!(
            undrawn.is_empty(),
            "{what}: the code has arrows that docs/architecture.md does not draw: {undrawn:#?}"
        );
        assert!(
            gone.is_empty(),
            "{what}: docs/architecture.md draws arrows that the code does not have: {gone:#?}"
        );
    }

    #[test]
    fn crates_depend_as_drawn() {
        let members = [
            ("identity", "mintmark-identity"),
            ("proto", "mintmark-proto"),
            ("runtime", "mintmark-runtime"),
            ("server", "mintmark-server"),
            ("node-attestor", "mintmark-attestor"),
            ("cli", "mintmark"),
        ];
        compare("crates", &crates(&members), &drawn(&document(), "The crates"));
    }

    #[test]
    fn rooms_of_the_server_use_each_other_as_drawn() {
        compare(
            "server",
            &rooms(&root().join("server/src")),
            &drawn(&document(), "The server"),
        );
    }

    #[test]
    fn rooms_of_the_attestor_use_each_other_as_drawn() {
        compare(
            "node-attestor",
            &rooms(&root().join("node-attestor/src")),
            &drawn(&document(), "The node attestor"),
        );
    }

    #[test]
    fn a_path_in_a_group_over_lines_a_comment_or_a_way_by_super_is_seen_for_what_it_is() {
        let code = "use crate::{ledger, mint::x509};\n// crate::store\nlet a = crate::registry::Entry::new(crate::attest::by());";
        assert_eq!(paths(code, 2), ["ledger", "mint", "registry", "attest"]);
        assert_eq!(
            paths("use crate::{\n    ledger::{Ledger, Hash},\n    mint,\n};", 2),
            ["ledger", "mint", ""]
        );
        assert_eq!(paths("use super::store::Store;", 1), ["store"]);
        assert_eq!(paths("use super::store::Store;", 2), [""; 0]);
        assert_eq!(paths("use super::super::store::Store;", 2), ["store"]);
    }
}
