//! Identity templates against Go's own text/template, on generated templates and objects.
//!
//! `interop template` renders each case with Go, with Kubernetes' own types; the server's room `registry::template` must give the same text, or fail at the
//! same stage with the same words. Where it refuses what Go does (it says where in its documentation) the case is counted, and few may be.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests own their processes"
)]

mod generate;

use std::io::Write as _;
use std::process::{Command, Stdio};

use mintmark_server::registry::template::{
    Data, Interner, Mentions, Reader, Template, data_type, node_spec, object_meta, pod_spec,
};
use serde_json::{Value, json};

use generate::Generator;

/// What rendering came to.
#[derive(Debug, PartialEq)]
enum Outcome {
    Text(String),
    ParseError(String),
    ExecError(String),
    Refused(String),
    /// Go was stopped.
    Endless,
}

struct Case {
    template: String,
    pod: Value,
    node: Value,
}

impl Case {
    fn new(template: impl Into<String>, pod: &Value, node: &Value) -> Self {
        Self {
            template: template.into(),
            pod: pod.clone(),
            node: node.clone(),
        }
    }

    fn here(&self) -> Outcome {
        let template = match Template::parse("test", &self.template) {
            Ok(template) => template,
            Err(error) => return Outcome::ParseError(error.to_string()),
        };
        let mut mentions = Mentions::default();
        mentions.extend(template.mentions());
        match template.execute(&data(&self.pod, &self.node, &mentions)) {
            Ok(text) => Outcome::Text(text),
            Err(error) if error.is_refusal() => Outcome::Refused(error.to_string()),
            Err(error) => Outcome::ExecError(error.to_string()),
        }
    }
}

fn data(pod: &Value, node: &Value, mentions: &Mentions) -> Data {
    let mut interner = Interner::default();
    let mut reader = Reader {
        mentions,
        interner: &mut interner,
    };
    let mut read = |ty, object: &Value| reader.read(ty, object.clone()).unwrap();
    let text = |text: &str| Data::Text(text.into());
    Data::of_fields(
        data_type(),
        [
            ("TrustDomain", text("example.org")),
            ("ClusterName", text("cluster-1")),
            ("ClusterDomain", text("cluster.local")),
            ("PodMeta", read(object_meta(), &pod["metadata"])),
            ("PodSpec", read(pod_spec(), &pod["spec"])),
            ("NodeMeta", read(object_meta(), &node["metadata"])),
            ("NodeSpec", read(node_spec(), &node["spec"])),
        ],
    )
}

/// What Go makes of the cases, in their order.
fn with_go(cases: &[Case]) -> Vec<Outcome> {
    let mut lines = String::new();
    for case in cases {
        let line = json!({
            "template": case.template,
            "trust_domain": "example.org",
            "cluster_name": "cluster-1",
            "cluster_domain": "cluster.local",
            "pod": case.pod,
            "node": case.node,
        });
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    let mut go = Command::new(system::interop())
        .arg("template")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the interop program runs");
    let mut input = go.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = go.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success(), "interop template ends with {}", output.status);
    let said = String::from_utf8(output.stdout).unwrap();
    let outcomes = said.lines().map(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        match event["stage"].as_str().unwrap() {
            "parse" => Outcome::ParseError(text("error")),
            "execute" => Outcome::ExecError(text("error")),
            "endless" => Outcome::Endless,
            _ => Outcome::Text(text("text")),
        }
    });
    outcomes.collect()
}

/// Compares all cases; gives how many Go rendered, and how many were refused here.
fn compare(cases: &[Case]) -> (usize, usize) {
    let theirs = with_go(cases);
    assert_eq!(theirs.len(), cases.len(), "Go answers every case");
    let (mut rendered, mut refused, mut wrong) = (0, 0, Vec::new());
    for (case, theirs) in cases.iter().zip(theirs) {
        let here = case.here();
        rendered += usize::from(matches!(theirs, Outcome::Text(_)));
        match (&here, &theirs) {
            (Outcome::Refused(_), _) => refused += 1,
            (here, theirs) if here == theirs || both_show_a_value(here, theirs) => {}
            _ => wrong.push(format!("{}\n  here {here:?}\n  Go   {theirs:?}\n", case.template)),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} differ:\n{}",
        wrong.len(),
        cases.len(),
        wrong.into_iter().take(20).collect::<String>()
    );
    (rendered, refused)
}

/// Two errors that differ in nothing but the value that they show: Go prints structures in them.
fn both_show_a_value(here: &Outcome, theirs: &Outcome) -> bool {
    let (Outcome::ExecError(here), Outcome::ExecError(theirs)) = (here, theirs) else {
        return false;
    };
    let before = |text: &str| {
        ["range can't iterate over ", "non-comparable type"]
            .iter()
            .find_map(|mark| Some(text[..text.find(mark)?].to_owned()))
    };
    before(here).is_some_and(|here| before(theirs) == Some(here))
}

#[test]
fn generated_templates_render_as_go_renders_them() {
    let count = std::env::var("TEMPLATES").ok().and_then(|count| count.parse().ok());
    let seed = std::env::var("TEMPLATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let count = count.unwrap_or(6_000);
    let mut generator = Generator::new(seed.unwrap_or(20_261_125));
    let mut cases = Vec::new();
    for _ in 0..count {
        let (pod, node) = (generator.pod(), generator.node());
        cases.push(Case::new(generator.template(), &pod, &node));
    }
    let (rendered, refused) = compare(&cases);
    assert!(rendered > count / 4, "Go renders only {rendered} of {count}");
    assert!(refused < count / 20, "{refused} of {count} are refused here");
}

#[test]
fn templates_with_a_broken_character_fail_as_go_fails() {
    let mut generator = Generator::new(7);
    let (pod, node) = (generator.pod(), generator.node());
    let broken = (0..3_000).map(|_| Case::new(generator.broken_template(), &pod, &node));
    compare(&broken.collect::<Vec<_>>());
}

#[test]
fn templates_that_people_write_render_as_go_renders_them() {
    let mut generator = Generator::new(1);
    let (pod, node) = (generator.full_pod(), generator.node());
    let cases: Vec<_> = generate::WRITTEN_BY_PEOPLE
        .iter()
        .map(|template| Case::new(*template, &pod, &node))
        .collect();
    let (rendered, refused) = compare(&cases);
    assert_eq!((rendered, refused), (cases.len(), 0));
}

#[test]
fn every_field_of_kubernetes_types_is_read_as_go_reads_it() {
    // Each path prints the same with everything kept and with only what it mentions.
    let mut generator = Generator::new(2);
    let (pod, node) = (generator.full_pod(), generator.node());
    let cases: Vec<_> = generate::PATHS
        .iter()
        .map(|path| Case::new(format!("{{{{ {path} }}}}"), &pod, &node))
        .collect();
    compare(&cases);
    let all = data(&pod, &node, &Mentions::all());
    for case in &cases {
        let Ok(template) = Template::parse("test", &case.template) else {
            continue;
        };
        let whole = template.execute(&all);
        let mut mentions = Mentions::default();
        mentions.extend(template.mentions());
        assert_eq!(
            whole,
            template.execute(&data(&pod, &node, &mentions)),
            "{}",
            case.template
        );
    }
}
