//! What a comparison with Go's text/template (tests/system) cannot show: bounds, refusals, and what is read of an object.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn pod() -> Value {
    json!({
        "metadata": {
            "name": "web-0",
            "namespace": "prod",
            "uid": "u-1",
            "labels": {"app": "web"},
            "annotations": {"long": "x"},
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": {
            "serviceAccountName": "web",
            "nodeName": "n",
            "containers": [{"name": "main", "image": "i", "env": [{"name": "A", "value": "1"}], "resources": {"limits": {"cpu": "1"}}}],
            "volumes": [{"name": "v", "configMap": {"name": "settings"}}],
            "securityContext": {"runAsUser": 0},
        },
    })
}

fn data(pod: &Value, mentions: &Mentions, interner: &mut Interner) -> Data {
    let mut reader = Reader { mentions, interner };
    let meta = reader.read(object_meta(), &pod["metadata"]).unwrap();
    let spec = reader.read(pod_spec(), &pod["spec"]).unwrap();
    Data::of_fields(
        data_type(),
        [
            ("TrustDomain", Data::Text("example.org".into())),
            ("PodMeta", meta),
            ("PodSpec", spec),
        ],
    )
}

fn all() -> Data {
    data(&pod(), &Mentions::all(), &mut Interner::default())
}

fn render(text: &str) -> Result<String, String> {
    let template = Template::parse("t", text).map_err(|error| error.to_string())?;
    template.execute(&all()).map_err(|error| error.to_string())
}

#[test]
fn what_a_template_costs_is_bounded() {
    let doubling = format!(
        r#"{{{{$x := "aaaaaaaa"}}}}{}{{{{len $x}}}}"#,
        r#"{{$x = print $x $x}}"#.repeat(40)
    );
    let deep = format!("{}1{}", "{{if true}}".repeat(99), "{{end}}".repeat(99));
    let deeper = format!("{}1{}", "{{if true}}".repeat(101), "{{end}}".repeat(101));
    let parens = format!("{{{{{}1{}}}}}", "(".repeat(500), ")".repeat(500));
    let else_ifs = format!("{{{{if false}}}}{}{{{{end}}}}", "{{else if false}}".repeat(500));
    for (text, why) in [
        ("x".repeat(MAX_TEMPLATE + 1), "16385 bytes are more than 16384"),
        (
            "{{range 1000000000000}}{{end}}".into(),
            "it takes more than 20000 steps",
        ),
        (
            "{{range 1000}}0123456789{{end}}".into(),
            "its text has more than 8192 bytes",
        ),
        (
            "{{define \"r\"}}{{template \"r\"}}{{end}}{{template \"r\"}}".into(),
            "it is nested more than 100 deep",
        ),
        (deeper, "it is nested more than 100 deep"),
        (parens, "it is nested more than 100 deep"),
        (else_ifs, "it is nested more than 100 deep"),
        (
            "{{printf \"%999999d\" 1}}".into(),
            "a text of more than 8192 bytes is too long",
        ),
        (
            "{{printf \"%.999999d\" 1}}".into(),
            "a text of more than 8192 bytes is too long",
        ),
        (
            "{{printf \"%.999999f\" 1.0}}".into(),
            "a float of more than 1000 digits is not supported",
        ),
        (doubling, "a text of more than 8192 bytes is too long"),
    ] {
        let error = render(&text).expect_err(&text[..text.len().min(60)]);
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(render(&deep), Ok("1".into()));
    assert_eq!(render(&"x".repeat(MAX_TEXT)), Ok("x".repeat(MAX_TEXT)));
}

#[test]
fn what_go_would_do_and_is_not_done_here_is_refused_with_its_reason() {
    for (text, why) in [
        (
            "{{ .PodMeta }}",
            "a value of type v1.ObjectMeta cannot be printed: name one of its fields",
        ),
        ("{{ .PodSpec.Containers }}", "cannot be printed"),
        (
            "{{ printf \"%v\" .PodSpec.SecurityContext.RunAsUser }}",
            "would be printed as an address",
        ),
        (
            "{{ (index .PodSpec.Containers 0).Resources.Limits }}",
            "resource.Quantity cannot be printed",
        ),
        (
            "{{ .PodMeta.CreationTimestamp.Unix }}",
            "fields and methods of v1.Time are not supported",
        ),
        ("{{ slice \"\u{e9}\" 1 }}", "bytes 1 to 2 are not whole characters"),
        ("{{ 1i }}", "complex number \"1i\" is not supported"),
        ("{{ \"\\xff\" }}", "bytes that are not UTF-8"),
        ("{{ printf \"%x\" 1.5 }}", "%x of a float is not supported"),
        (
            "{{ eq .PodMeta .PodMeta }}",
            "comparing values of type *v1.ObjectMeta is not supported",
        ),
    ] {
        let error = render(text).expect_err(text);
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn an_unknown_field_is_an_error_and_an_unknown_key_is_no_value() {
    assert_eq!(
        render("spiffe://{{ .TrustDomain }}/{{ .PodMeta.Nmae }}").unwrap_err(),
        "template: t:1:39: executing \"t\" at <.PodMeta.Nmae>: can't evaluate field Nmae in type *v1.ObjectMeta"
    );
    assert_eq!(render("{{ .PodMeta.Labels.nope }}").unwrap(), "<no value>");
    assert_eq!(render("{{ index .PodMeta.Labels \"nope\" }}").unwrap(), "");
    assert!(
        render("{{ .PodSpec.SecurityContext.SELinuxOptions.Level }}")
            .unwrap_err()
            .contains("nil pointer evaluating")
    );
    assert!(
        render("{{ env \"HOME\" }}")
            .unwrap_err()
            .contains("function \"env\" not defined")
    );
}

#[test]
fn only_what_is_mentioned_is_kept() {
    let kept = |names: &[&str]| {
        let mut mentions = Mentions::default();
        mentions.extend(names.iter().copied());
        format!("{:?}", data(&pod(), &mentions, &mut Interner::default()))
    };
    let base = kept(&[]);
    assert!(base.contains("\"web-0\"") && base.contains("\"app\"") && base.contains("\"main\""));
    assert!(
        !base.contains("\"long\"") && !base.contains("\"settings\"") && !base.contains("\"A\""),
        "{base}"
    );
    assert!(kept(&["Annotations"]).contains("\"long\""));
    assert!(kept(&["GetAnnotations"]).contains("\"long\""));
    assert!(kept(&["Volumes", "ConfigMap"]).contains("\"settings\""));
    assert!(!kept(&["Volumes"]).contains("\"settings\""));
}

#[test]
fn a_template_mentions_what_it_may_look_at() {
    let text = "{{ with $x := (index .PodSpec.Volumes 0).ConfigMap }}{{ $x.Name }}{{ end }}{{ define \"a\" }}{{ .B }}{{ end }}";
    let template = Template::parse("t", text).unwrap();
    let mentions: Vec<_> = template.mentions().collect();
    assert_eq!(mentions, ["B", "ConfigMap", "Name", "PodSpec", "Volumes"]);
    let (mut some, base) = (Mentions::default(), Mentions::default());
    some.extend(template.mentions());
    assert!(some.covers(&base) && !base.covers(&some) && Mentions::all().covers(&some));
    assert!(!some.covers(&Mentions::all()));
}

#[test]
fn objects_that_are_alike_share_what_they_have() {
    let mut interner = Interner::default();
    let one = data(&pod(), &Mentions::default(), &mut interner);
    let two = data(&pod(), &Mentions::default(), &mut interner);
    let spec = |data: &Data| match data.field(data_type(), "PodSpec") {
        Some(Data::Struct(fields)) => fields.clone(),
        other => panic!("{other:?}"),
    };
    assert!(std::sync::Arc::ptr_eq(&spec(&one), &spec(&two)));
    drop((one, two));
    interner.sweep();
    for number in 0..4_000 {
        interner.text(&number.to_string());
        interner.sweep();
    }
    assert!(
        format!("{interner:?}").len() < 100_000,
        "what nobody holds is forgotten"
    );
}

#[test]
fn json_of_other_types_than_kubernetes_has_reads_as_nothing() {
    let strange = json!({
        "metadata": {"name": 1, "labels": ["a"], "ownerReferences": {"x": 1}, "uid": null, "generation": 1.5},
        "spec": {"containers": "none", "hostPID": "yes", "priority": 18_446_744_073_709_551_615_u64, "dnsPolicy": {"a": []}},
    });
    let data = data(&strange, &Mentions::all(), &mut Interner::default());
    let text = "{{ .PodMeta.Name }}{{ .PodMeta.Labels }}{{ .PodMeta.UID }}{{ .PodSpec.HostPID }}{{ .PodSpec.Priority }}{{ len .PodSpec.Containers }}";
    let template = Template::parse("t", text).unwrap();
    assert_eq!(template.execute(&data).unwrap(), "map[]false<nil>0");
}

proptest! {
    #[test]
    fn no_text_makes_a_template_panic(text in "[{}()|.$\"'`a-z0-9: =,\\-\n\\\\é%*/]{0,80}") {
        let _ = render(&text);
        let _ = render(&format!("{{{{{text}}}}}"));
    }

    #[test]
    fn no_format_panics(format in "[%#+\\- 0-9.*\\[\\]a-zA-Z]{0,20}") {
        let _ = render(&format!("{{{{ printf \"{format}\" .PodMeta.Name 5 true .PodSpec.HostPID 1.5 nil }}}}"));
    }

    #[test]
    fn a_text_without_braces_is_its_own_rendering(text in "[^{]{0,200}") {
        prop_assert_eq!(render(&text), Ok(text));
    }
}
