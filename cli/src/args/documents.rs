//! What the documents tell people to type is understood. In code blocks a command must be whole; in the middle of a sentence it may leave out what it needs.

use std::path::{Path, PathBuf};

use clap::Parser as _;
use clap::error::ErrorKind;

use super::Cli;

#[test]
fn every_command_in_the_documents_is_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
        .map(|name| root.join(name))
        .to_vec();
    files.extend(documents(&root.join("docs")));
    let (mut understood, mut wrong) = (0, Vec::new());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for (is_whole, line) in lines(&text) {
            for command in commands(&line) {
                if let Err(error) = Cli::try_parse_from(&command) {
                    let passes = match error.kind() {
                        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
                        ErrorKind::MissingRequiredArgument
                        | ErrorKind::MissingSubcommand
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => !is_whole,
                        // An option without its value.
                        ErrorKind::InvalidValue => {
                            !is_whole && command.last().is_some_and(|last| last.starts_with("--"))
                        }
                        _ => false,
                    };
                    if !passes {
                        wrong.push(format!("{}: {line}\n{command:?}\n{error}", file.display()));
                    }
                }
                understood += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(understood > 100, "only {understood} commands were found");
}

fn documents(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(documents(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

/// Lines of code blocks, continued ones joined; and what stands between backticks elsewhere.
fn lines(text: &str) -> Vec<(bool, String)> {
    let (mut found, mut is_code, mut begun) = (Vec::new(), false, String::new());
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if is_code {
            begun += line.trim_start();
            match begun.pop() {
                Some('\\') => (),
                Some(last) => {
                    begun.push(last);
                    found.push((true, std::mem::take(&mut begun)));
                }
                None => (),
            }
        } else {
            let spans = line.split('`').skip(1).step_by(2);
            found.extend(spans.map(|span| (false, span.to_owned())));
        }
    }
    found
}

/// The calls of `mintmark` in a line for a shell, with values for what the line leaves to the reader.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut calls = Vec::new();
    for words in pipeline(line) {
        let [program, rest @ ..] = &words[..] else { continue };
        if program != "mintmark" {
            continue;
        }
        let mut call = vec![program.clone()];
        for word in rest {
            let option = call.last().filter(|last| last.starts_with("--")).cloned();
            let is_left_out = word == "…" || word.starts_with('$') || word == "SERIAL";
            match (is_left_out, option.as_deref()) {
                (false, _) => call.push(word.clone()),
                (true, Some("--spiffe-id" | "--parent-id")) => call.push("spiffe://example.org/a".to_owned()),
                (true, Some(_)) => call.push("a".to_owned()),
                // And so on.
                (true, None) if word == "…" => break,
                (true, None) => call.push("42".to_owned()),
            }
        }
        calls.push(call);
    }
    calls
}

/// The words of each command of a line, as a shell parts them.
fn pipeline(line: &str) -> Vec<Vec<String>> {
    let (mut all, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let (mut quote, mut depth) = (None, 0);
    for c in line.chars() {
        match (c, quote) {
            ('(', _) if word.as_deref().is_some_and(|word| depth > 0 || word.ends_with('$')) => depth += 1,
            (')', _) if depth > 0 => depth -= 1,
            _ if depth > 0 => (),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (_, Some(open)) if c == open => quote = None,
            (_, Some(_)) => word.get_or_insert_default().push(c),
            ('#', None) if word.is_none() => break,
            ('|' | ';' | '>' | '&', None) => {
                words.extend(word.take());
                all.push(std::mem::take(&mut words));
            }
            (_, None) if c.is_whitespace() => words.extend(word.take()),
            (_, None) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    all.push(words);
    all
}

#[test]
fn a_line_is_parted_as_a_shell_does() {
    let parted = pipeline(r#"a "b c" 'd' $(e | f) | mintmark g "$(h "i" (j))" > k # l"#);
    assert_eq!(
        parted,
        [vec!["a", "b c", "d", "$"], vec!["mintmark", "g", "$"], vec!["k"]]
    );
}
