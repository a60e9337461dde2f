//! The report for CI systems: JUnit XML, as Jenkins and GitLab read it.

use std::fmt::Write as _;

use super::{Outcome, Report};

pub(super) fn render(report: &Report) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        out,
        "<testsuite name=\"spiffe-conformance\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\">",
        report.lines.len(),
        report.failed(),
        report.skipped()
    );
    for line in &report.lines {
        let check = line.check;
        let group = check.id.split('-').next().unwrap_or(check.id);
        let _ = write!(
            out,
            "  <testcase classname=\"spiffe.{group}\" name=\"{}\"",
            escape(&format!("{} {}", check.id, check.title))
        );
        let _ = match &line.outcome {
            Outcome::Pass => writeln!(out, "/>"),
            Outcome::Fail(seen) => writeln!(
                out,
                "><failure message=\"{}\">{}</failure></testcase>",
                escape(&format!("{} ({})", check.title, check.standard)),
                escape(&seen.join("\n"))
            ),
            Outcome::Warn(seen) => {
                writeln!(
                    out,
                    "><system-out>warning: {}</system-out></testcase>",
                    escape(&seen.join("\n"))
                )
            }
            Outcome::Skip(why) => writeln!(out, "><skipped message=\"{}\"/></testcase>", escape(why)),
        };
    }
    out.push_str("</testsuite>\n");
    out
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            // XML 1.0 has no way to write the other control characters.
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
