//! The report for scripts.

use serde_json::{Value, json};

use super::{Line, Outcome, Report};

pub(super) fn render(report: &Report) -> String {
    let object = json!({
        "checks": report.lines.iter().map(line).collect::<Vec<_>>(),
        "passed": report.passed(),
        "failed": report.failed(),
        "warned": report.warned(),
        "skipped": report.skipped(),
    });
    format!("{object:#}\n")
}

fn line(line: &Line) -> Value {
    let check = line.check;
    let mut value = json!({
        "id": check.id,
        "level": check.level.word(),
        "title": check.title,
        "standard": check.standard,
        "outcome": match line.outcome {
            Outcome::Pass => "pass",
            Outcome::Fail(_) => "fail",
            Outcome::Warn(_) => "warn",
            Outcome::Skip(_) => "skip",
        },
    });
    match &line.outcome {
        Outcome::Pass => {}
        Outcome::Fail(seen) | Outcome::Warn(seen) => value["seen"] = json!(seen),
        Outcome::Skip(why) => value["why"] = json!(why),
    }
    value
}
