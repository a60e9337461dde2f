//! What came of a run, and how it is told.
//!
//! Comes in: one [`Line`] a check, from `judge`. Goes out: text, JSON or JUnit XML, with whatever the server sent made
//! harmless for a terminal first.

mod json;
mod junit;
mod text;

use crate::judge::{Check, Level};

/// How one check came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The rule is kept.
    Pass,
    /// The rule is a MUST and is broken: what was seen.
    Fail(Vec<String>),
    /// The rule is a SHOULD and is not met: what was seen.
    Warn(Vec<String>),
    /// The rule could not be looked at: why.
    Skip(String),
}

/// One check and how it came out.
#[derive(Debug, Clone)]
pub struct Line {
    /// What was checked.
    pub check: &'static Check,
    /// What came of it.
    pub outcome: Outcome,
}

/// All lines of one run, in the order of the checks.
#[derive(Debug, Clone)]
pub struct Report {
    /// One a check.
    pub lines: Vec<Line>,
}

impl Report {
    /// How many checks passed.
    pub fn passed(&self) -> usize {
        self.count(|o| *o == Outcome::Pass)
    }

    /// How many MUSTs are broken.
    pub fn failed(&self) -> usize {
        self.count(|o| matches!(o, Outcome::Fail(_)))
    }

    /// How many SHOULDs are not met.
    pub fn warned(&self) -> usize {
        self.count(|o| matches!(o, Outcome::Warn(_)))
    }

    /// How many checks had nothing to look at.
    pub fn skipped(&self) -> usize {
        self.count(|o| matches!(o, Outcome::Skip(_)))
    }

    /// The same report with every warning as a failure.
    #[must_use]
    pub fn strict(mut self) -> Self {
        for line in &mut self.lines {
            if let Outcome::Warn(seen) = &mut line.outcome {
                line.outcome = Outcome::Fail(std::mem::take(seen));
            }
        }
        self
    }

    /// One line a check, then the closing line `N passed, N failed, N skipped`.
    pub fn text(&self) -> String {
        text::render(self)
    }

    /// One JSON object.
    pub fn json(&self) -> String {
        json::render(self)
    }

    /// JUnit XML, one test case a check.
    pub fn junit(&self) -> String {
        junit::render(self)
    }

    fn count(&self, which: impl Fn(&Outcome) -> bool) -> usize {
        self.lines.iter().filter(|line| which(&line.outcome)).count()
    }
}

/// The checks themselves, one line each: ID, level, title, and where the standard says it.
pub fn list(checks: &[&'static Check]) -> String {
    text::list(checks)
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
        }
    }
}

/// Text of a server, made harmless and short.
pub(crate) fn shown(text: &str) -> String {
    const MOST: usize = 200;
    let mut out: String = text
        .chars()
        .take(MOST)
        .flat_map(|c| {
            if c == '\'' || c == '"' {
                c.to_string()
            } else {
                c.escape_debug().to_string()
            }
            .chars()
            .collect::<Vec<_>>()
        })
        .collect();
    if text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::CHECKS;

    fn report() -> Report {
        let outcomes = [
            Outcome::Pass,
            Outcome::Fail(vec!["<one> & \"two\"".into(), "three".into()]),
            Outcome::Warn(vec!["four".into()]),
            Outcome::Skip("no --socket".into()),
        ];
        Report {
            lines: CHECKS
                .iter()
                .zip(outcomes)
                .map(|(check, outcome)| Line { check, outcome })
                .collect(),
        }
    }

    #[test]
    fn text_has_one_line_a_check_and_a_plain_closing_line() {
        let text = report().text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with(&format!("PASS {} ", CHECKS[0].id)), "{text}");
        assert!(
            lines[1].starts_with("FAIL ") && lines[1].ends_with(": <one> & \"two\"; three"),
            "{text}"
        );
        assert!(lines[2].starts_with("WARN "), "{text}");
        assert!(
            lines[3].starts_with("SKIP ") && lines[3].ends_with(": no --socket"),
            "{text}"
        );
        assert_eq!(*lines.last().unwrap(), "1 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn json_counts_and_lists() {
        let json: serde_json::Value = serde_json::from_str(&report().json()).unwrap();
        assert_eq!(json["passed"], 1);
        assert_eq!(json["warned"], 1);
        assert_eq!(json["checks"][1]["outcome"], "fail");
        assert_eq!(json["checks"][1]["seen"][1], "three");
        assert_eq!(json["checks"][3]["why"], "no --socket");
    }

    #[test]
    fn junit_escapes_what_was_seen() {
        let xml = report().junit();
        assert!(
            xml.contains(r#"tests="4" failures="1" errors="0" skipped="1""#),
            "{xml}"
        );
        assert!(xml.contains("&lt;one&gt; &amp; &quot;two&quot;"), "{xml}");
        assert!(!xml.contains("<one>"), "{xml}");
    }

    #[test]
    fn strict_makes_warnings_failures() {
        assert_eq!(report().strict().failed(), 2);
    }

    #[test]
    fn what_a_server_sent_cannot_drive_the_terminal() {
        assert_eq!(shown("a\u{1b}[31m\nb'c\""), "a\\u{1b}[31m\\nb'c\"");
        assert_eq!(shown(&"x".repeat(300)).chars().count(), 201);
    }
}
