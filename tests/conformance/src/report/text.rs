//! The report for people.

use std::fmt::Write as _;

use super::{Outcome, Report};
use crate::judge::Check;

pub(super) fn render(report: &Report) -> String {
    let mut out = String::new();
    for line in &report.lines {
        let (word, seen) = match &line.outcome {
            Outcome::Pass => ("PASS", String::new()),
            Outcome::Fail(seen) => ("FAIL", format!(": {}", seen.join("; "))),
            Outcome::Warn(seen) => ("WARN", format!(": {}", seen.join("; "))),
            Outcome::Skip(why) => ("SKIP", format!(": {why}")),
        };
        let _ = writeln!(out, "{word} {} {}{seen}", line.check.id, line.check.title);
    }
    match report.warned() {
        0 => {}
        1 => out.push_str("1 warning: a SHOULD that is not met\n"),
        n => {
            let _ = writeln!(out, "{n} warnings: SHOULDs that are not met");
        }
    }
    let _ = writeln!(
        out,
        "{} passed, {} failed, {} skipped",
        report.passed(),
        report.failed(),
        report.skipped()
    );
    out
}

pub(super) fn list(checks: &[&'static Check]) -> String {
    let mut out = String::new();
    for check in checks {
        let _ = writeln!(
            out,
            "{:<7} {:<6} {} ({})",
            check.id,
            check.level.word(),
            check.title,
            check.standard
        );
    }
    out
}
