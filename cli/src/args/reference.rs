//! `docs/reference/cli.md`, which is what `--help` says, command by command.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use mintmark_runtime::fs::write_atomic;

use super::Cli;

/// No example is longer.
const WIDTH: usize = 140;

const INTRODUCTION: &str = "# The `mintmark` command

Generated from the command's own `--help`; `UPDATE_DOCS=1 cargo test -p mintmark` writes it anew.

Exit status: 0 for done, 1 for refused or not found (with the reason on standard error), 2 for wrong usage. With `--output json` the answer is one line of JSON: what SPIRE's API also
has is the API's message as `spire-server -output json` prints it (names in snake_case, 64-bit numbers as text, bytes as base64); what only Mintmark has, has numbers as numbers and times as
Unix seconds. A serial is hex in capitals, as openssl prints it.

The global options stand under the first heading; every command has them.
";

#[test]
fn the_reference_is_what_help_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/cli.md");
    let expected = reference();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        write_atomic(&path, expected.as_bytes(), 0o644).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/reference/cli.md is not what --help says: UPDATE_DOCS=1 cargo test -p mintmark writes it anew"
    );
}

fn reference() -> String {
    let mut text = INTRODUCTION.to_owned();
    let mut root = Cli::command().term_width(WIDTH);
    root.build();
    section(&mut text, &root, "mintmark", true);
    text
}

fn section(text: &mut String, command: &Command, path: &str, is_root: bool) {
    let mut shown = command.clone().term_width(WIDTH).bin_name(path);
    if !is_root {
        // They are the same everywhere.
        let global: Vec<_> = shown
            .get_arguments()
            .filter(|arg| arg.is_global_set() || arg.get_id() == "help")
            .map(|arg| arg.get_id().clone())
            .collect();
        for id in global {
            shown = shown.mut_arg(id, |arg| arg.hide(true));
        }
    }
    let help = shown.render_long_help().to_string();
    let lines: Vec<_> = help.trim_end().lines().map(str::trim_end).collect();
    let _ = write!(text, "\n## `{path}`\n\n```\n{}\n```\n", lines.join("\n"));
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        section(text, sub, &format!("{path} {}", sub.get_name()), false);
    }
}
