//! Templates, pods and nodes from a seed: mostly such as somebody could write, some that are wrong in one place.

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

/// Templates from SPIRE's documentation, its Helm chart, and from what people asked about.
pub(crate) const WRITTEN_BY_PEOPLE: [&str; 24] = [
    "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}",
    "spiffe://domain.test/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}",
    "{{ .PodMeta.Name }}.{{ .PodMeta.Namespace }}.{{ .ClusterDomain }}",
    "spiffe://{{ .TrustDomain }}/spire/agent/k8s_psat/{{ .ClusterName }}/{{ .NodeMeta.UID }}",
    "spiffe://{{ .TrustDomain }}/k8s/{{ .ClusterName }}/{{ .PodMeta.Namespace }}/{{ index .PodMeta.Labels \"app.kubernetes.io/name\" }}",
    "spiffe://{{ .TrustDomain }}/{{ index .PodMeta.Annotations \"spiffe.io/path\" }}",
    "{{ with .PodMeta.Labels }}{{ .app }}{{ else }}none{{ end }}",
    "{{ $ns := .PodMeta.Namespace }}{{ range $key, $value := .PodMeta.Labels }}{{ $ns }}/{{ $key }}={{ $value }};{{ end }}",
    "{{ if eq .PodMeta.Namespace \"prod\" \"production\" }}live{{ else if .PodSpec.HostNetwork }}host{{ else }}test{{ end }}",
    "{{- /* who runs it */ -}} spiffe://{{ .TrustDomain }}/image/{{ len .PodSpec.Containers }}/{{ (index .PodSpec.Containers 0).Name }}",
    "{{ range .PodMeta.OwnerReferences }}{{ if eq .Kind \"ReplicaSet\" }}{{ .Name }}{{ break }}{{ end }}{{ end }}",
    "{{ range $i, $c := .PodSpec.Containers }}{{ if $i }},{{ end }}{{ $c.Image }}{{ else }}nothing{{ end }}",
    "{{ printf \"%s-%s\" .ClusterName .PodMeta.Name | printf \"%q\" }}",
    "{{ printf \"%.8s\" .PodMeta.UID }}",
    "{{ slice .PodMeta.Name 0 3 }}{{ printf \"%T %T %T\" .PodMeta.UID .PodSpec.Containers .PodSpec.HostIPC }}",
    "k8s:container-name:{{ (index .PodSpec.Containers 0).Name }}",
    "{{ .NodeMeta.Labels }} {{ .NodeSpec.ProviderID }} {{ .NodeSpec.Unschedulable }}",
    "{{ define \"path\" }}/ns/{{ .Namespace }}/pod/{{ .Name }}{{ end }}spiffe://{{ .TrustDomain }}{{ template \"path\" .PodMeta }}",
    "{{ if and .PodMeta.Labels (not .PodSpec.HostPID) (or .PodSpec.HostIPC true) }}yes{{ end }}",
    "{{ .PodSpec.HostIPC }}{{ .PodSpec.HostPID }}{{ .PodSpec.DNSPolicy }}{{ .PodSpec.TerminationGracePeriodSeconds }}",
    "{{ .PodMeta.Labels.missing }}{{ index .PodMeta.Labels \"missing\" }}|",
    "{{ .PodMeta.CreationTimestamp }} {{ .PodMeta.DeletionTimestamp }} {{ .PodMeta.GetName }} {{ .PodMeta.GetLabels.app }}",
    "{{ .PodSpec.SecurityContext.RunAsUser }} {{ .PodSpec.SecurityContext.RunAsNonRoot }} {{ .PodSpec.Priority }}",
    "{{ urlquery .PodMeta.Namespace \"a b\" }}{{ html \"<\" }}{{ js \"'\" }}{{ println 1 \"a\" 2 3 }}{{ 'a' }}{{ 0x1F }}{{ 1.5e3 }}",
];

/// Things to look at: most are there, some are not, some are nil.
pub(crate) const PATHS: [&str; 74] = [
    ".",
    "$",
    ".TrustDomain",
    ".ClusterName",
    ".ClusterDomain",
    ".Nope",
    ".PodMeta",
    ".PodMeta.Name",
    ".PodMeta.Namespace",
    ".PodMeta.UID",
    ".PodMeta.GenerateName",
    ".PodMeta.ResourceVersion",
    ".PodMeta.Generation",
    ".PodMeta.Labels",
    ".PodMeta.Labels.app",
    ".PodMeta.Labels.missing",
    ".PodMeta.Labels.missing.deeper",
    ".PodMeta.Labels.app.deeper",
    ".PodMeta.Annotations",
    ".PodMeta.Annotations.team",
    ".PodMeta.Finalizers",
    ".PodMeta.CreationTimestamp",
    ".PodMeta.DeletionTimestamp",
    ".PodMeta.DeletionGracePeriodSeconds",
    ".PodMeta.OwnerReferences",
    ".PodMeta.Nope",
    ".PodMeta.name",
    ".PodMeta.GetName",
    ".PodMeta.GetNamespace",
    ".PodMeta.GetUID",
    ".PodMeta.GetLabels",
    ".PodMeta.GetAnnotations.team",
    ".PodSpec",
    ".PodSpec.ServiceAccountName",
    ".PodSpec.DeprecatedServiceAccount",
    ".PodSpec.NodeName",
    ".PodSpec.HostIPC",
    ".PodSpec.HostPID",
    ".PodSpec.HostNetwork",
    ".PodSpec.Hostname",
    ".PodSpec.Subdomain",
    ".PodSpec.SetHostnameAsFQDN",
    ".PodSpec.RestartPolicy",
    ".PodSpec.DNSPolicy",
    ".PodSpec.SchedulerName",
    ".PodSpec.RuntimeClassName",
    ".PodSpec.PriorityClassName",
    ".PodSpec.Priority",
    ".PodSpec.ActiveDeadlineSeconds",
    ".PodSpec.TerminationGracePeriodSeconds",
    ".PodSpec.NodeSelector",
    ".PodSpec.NodeSelector.zone",
    ".PodSpec.SecurityContext",
    ".PodSpec.SecurityContext.RunAsUser",
    ".PodSpec.SecurityContext.RunAsNonRoot",
    ".PodSpec.SecurityContext.SupplementalGroups",
    ".PodSpec.SecurityContext.SELinuxOptions.Level",
    ".PodSpec.SecurityContext.Nope",
    ".PodSpec.Containers",
    ".PodSpec.InitContainers",
    ".PodSpec.ImagePullSecrets",
    ".PodSpec.Tolerations",
    "(index .PodSpec.Containers 0).Image",
    "(index .PodSpec.Containers 0).Command",
    "(index .PodSpec.Containers 0).SecurityContext.Privileged",
    "(index .PodSpec.Containers 0).LivenessProbe.HTTPGet.Port",
    "(index (index .PodSpec.Containers 0).Ports 0).ContainerPort",
    "(index .PodSpec.Volumes 0).ConfigMap.Name",
    "(index .PodSpec.Volumes 0).VolumeSource.ConfigMap.LocalObjectReference.Name",
    "(index .PodMeta.OwnerReferences 0).Controller",
    ".NodeMeta.UID",
    ".NodeMeta.Labels",
    ".NodeSpec.PodCIDRs",
    ".NodeSpec.Taints",
];

const TEXTS: [&str; 14] = [
    "\"\"",
    "\"a\"",
    "\"app\"",
    "\"zone\"",
    "\"missing\"",
    "\"prod\"",
    "`raw`",
    "\"with \\\"quotes\\\" and \\t tab\"",
    "\"<b>&'x'\"",
    "\"a b/c?d=e\"",
    "\"\u{e9}\u{4e16}\"",
    "\"\\u4e16\\x41\\101\"",
    "\"%d\"",
    "\"web-0\"",
];

const NUMBERS: [&str; 18] = [
    "0",
    "1",
    "2",
    "3",
    "-1",
    "+7",
    "42",
    "0x1F",
    "0b101",
    "0o17",
    "017",
    "1_000",
    "1.5",
    "-0.25",
    "1e3",
    "1e21",
    "123456789.0",
    "'a'",
];

const FORMATS: [&str; 35] = [
    "%s",
    "%v",
    "%d",
    "%q",
    "%x",
    "%X",
    "%t",
    "%5s",
    "%-5s|",
    "%05d",
    "%+d",
    "% d",
    "%#x",
    "%.2s",
    "%.3f",
    "%e",
    "%g",
    "%G",
    "%c",
    "%U",
    "%#U",
    "%b",
    "%o",
    "%O",
    "%s-%s",
    "%s %s %s",
    "%[2]v %[1]v",
    "%[3]v",
    "%*d",
    "%%",
    "%!",
    "%z",
    "%",
    "%#v",
    "%+q %08.3f",
];

/// The random source.
pub(crate) struct Generator(StdRng);

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.0).expect("there is something to choose from")
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.0.gen_ratio(percent, 100)
    }

    /// A template of a few parts.
    pub(crate) fn template(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..self.0.gen_range(1..4) {
            self.part(&mut text, 3, &mut Scope::default());
        }
        text
    }

    /// A template with one character exchanged, left out or put in.
    pub(crate) fn broken_template(&mut self) -> String {
        let mut characters: Vec<char> = self.template().chars().collect();
        let at = self.0.gen_range(0..characters.len());
        let strange = self.pick(&[
            '{', '}', '(', ')', '|', '.', '$', '"', '`', '\'', '-', ':', '=', ',', ' ', '\n', '/', '*', 'x', '9', '@',
            '\u{1}',
        ]);
        match self.0.gen_range(0..3) {
            0 => characters[at] = strange,
            1 => {
                characters.remove(at);
            }
            _ => characters.insert(at, strange),
        }
        characters.into_iter().collect()
    }

    fn part(&mut self, text: &mut String, depth: u32, scope: &mut Scope) {
        let left = self.pick(&["{{", "{{ ", "{{- "]);
        let right = self.pick(&["}}", " }}", " -}}"]);
        match self.0.gen_range(0..if depth == 0 { 6 } else { 12 }) {
            0 | 1 => text.push_str(self.pick(&["spiffe://x/", " a ", "\n", "-", "/ns/", "{", "\u{e9}"])),
            2..=4 => {
                let pipe = self.pipe(depth, scope);
                text.push_str(&format!("{left}{pipe}{right}"));
            }
            5 => {
                let name = scope.declare();
                let pipe = self.pipe(depth, scope);
                text.push_str(&format!("{left}{name} := {pipe}{right}"));
            }
            6 | 7 => {
                let (keyword, pipe) = (self.pick(&["if", "if", "with"]), self.pipe(depth - 1, scope));
                text.push_str(&format!("{left}{keyword} {pipe}{right}"));
                self.body(text, depth - 1, scope);
                if self.chance(30) {
                    let pipe = self.pipe(depth - 1, scope);
                    text.push_str(&format!("{{{{else {keyword} {pipe}}}}}"));
                    self.body(text, depth - 1, scope);
                }
                self.otherwise(text, depth - 1, scope);
                text.push_str(&format!("{left}end{right}"));
            }
            8 | 9 => {
                let mut inner = scope.clone();
                let declared = match self.0.gen_range(0..3) {
                    0 => String::new(),
                    1 => format!("{} := ", inner.declare()),
                    _ => format!("{}, {} := ", inner.declare(), inner.declare()),
                };
                let collection = match self.chance(70) {
                    true => self
                        .pick(&[
                            ".PodMeta.Labels",
                            ".PodSpec.Containers",
                            "$.PodMeta.Annotations",
                            "$.NodeSpec.PodCIDRs",
                            "$.PodMeta.OwnerReferences",
                            "3",
                            "$.PodMeta.Finalizers",
                            "$.NodeSpec.Taints",
                        ])
                        .to_owned(),
                    false => self.pipe(depth - 1, scope),
                };
                text.push_str(&format!("{left}range {declared}{collection}{right}"));
                self.body(text, depth - 1, &mut inner);
                if self.chance(20) {
                    let control = self.pick(&["{{if .}}{{break}}{{end}}", "{{continue}}x", "{{break}}"]);
                    text.push_str(control);
                }
                self.otherwise(text, depth - 1, scope);
                text.push_str(&format!("{left}end{right}"));
            }
            10 => text.push_str(self.pick(&["{{/* a comment */}}", " {{- /* trims */ -}} ", "{{/**/}}"])),
            _ => {
                let name = self.pick(&["\"one\"", "\"two\""]);
                match self.0.gen_range(0..4) {
                    0 => {
                        text.push_str(&format!("{{{{define {name}}}}}"));
                        self.body(text, depth - 1, &mut Scope::default());
                        text.push_str("{{end}}");
                    }
                    1 => text.push_str(&format!("{{{{template {name} {}}}}}", self.pipe(0, scope))),
                    2 => text.push_str(&format!("{{{{template {name}}}}}")),
                    _ => {
                        text.push_str(&format!("{{{{block {name} {}}}}}", self.pipe(0, scope)));
                        self.body(text, depth - 1, &mut Scope::default());
                        text.push_str("{{end}}");
                    }
                }
            }
        }
    }

    fn body(&mut self, text: &mut String, depth: u32, scope: &mut Scope) {
        let mut scope = scope.clone();
        for _ in 0..self.0.gen_range(1..3) {
            self.part(text, depth, &mut scope);
        }
    }

    fn otherwise(&mut self, text: &mut String, depth: u32, scope: &mut Scope) {
        if self.chance(40) {
            text.push_str("{{else}}");
            self.body(text, depth, scope);
        }
    }

    fn pipe(&mut self, depth: u32, scope: &Scope) -> String {
        let mut pipe = self.command(depth, scope);
        while self.chance(25) {
            pipe.push_str(self.pick(&[" | ", "|"]));
            let next = match self.0.gen_range(0..5) {
                0 => format!("printf {}", self.format()),
                1 => self
                    .pick(&["len", "not", "html", "js", "urlquery", "print", "println"])
                    .to_owned(),
                2 => format!("eq {}", self.operand(0, scope)),
                3 => format!("index {}", self.operand(0, scope)),
                _ => format!(
                    "{} {}",
                    self.pick(&["and", "or", "print", "ne", "lt"]),
                    self.operand(0, scope)
                ),
            };
            pipe.push_str(&next);
        }
        pipe
    }

    fn format(&mut self) -> String {
        format!("\"{}\"", self.pick(&FORMATS))
    }

    fn command(&mut self, depth: u32, scope: &Scope) -> String {
        let operands = |generator: &mut Self, count: std::ops::Range<usize>| {
            let count = generator.0.gen_range(count);
            (0..count)
                .map(|_| format!(" {}", generator.operand(depth, scope)))
                .collect::<String>()
        };
        match self.0.gen_range(0..20) {
            0..=8 => self.operand(depth, scope),
            9 | 10 => format!("printf {}{}", self.format(), operands(self, 0..3)),
            11 => format!(
                "{}{}",
                self.pick(&["print", "println", "html", "js", "urlquery"]),
                operands(self, 0..4)
            ),
            12 | 13 => format!(
                "{}{}",
                self.pick(&["eq", "ne", "lt", "le", "gt", "ge"]),
                operands(self, 1..4)
            ),
            14 => format!("{}{}", self.pick(&["and", "or", "not", "len"]), operands(self, 1..3)),
            15 | 16 => {
                let labels = self.pick(&[".PodMeta.Labels", ".PodSpec.NodeSelector", ".PodMeta.Annotations"]);
                format!("index {labels} {}", self.pick(&TEXTS))
            }
            17 => format!(
                "index .PodSpec.Containers {}",
                self.pick(&["0", "1", "2", "9", "-1", "\"a\"", "nil"])
            ),
            18 => format!(
                "slice {}{}",
                self.pick(&[".PodMeta.Name", ".NodeSpec.PodCIDRs", "\"abcdef\"", ".PodMeta.UID"]),
                {
                    let count = self.0.gen_range(0..3);
                    (0..count)
                        .map(|_| format!(" {}", self.pick(&["0", "1", "2", "3", "7"])))
                        .collect::<String>()
                }
            ),
            _ => format!(
                "{}{}",
                self.pick(&[
                    "index",
                    "slice",
                    "call",
                    "len",
                    "not",
                    ".PodMeta.Name",
                    ".PodMeta.Labels.app"
                ]),
                operands(self, 0..3)
            ),
        }
    }

    fn operand(&mut self, depth: u32, scope: &Scope) -> String {
        match self.0.gen_range(0..20) {
            0..=9 => self.pick(&PATHS).to_owned(),
            10..=12 => self.pick(&TEXTS).to_owned(),
            13 | 14 => self.pick(&NUMBERS).to_owned(),
            15 => self.pick(&["true", "false", "nil", "len", "$x", "$v9"]).to_owned(),
            16 | 17 if scope.declared > 0 => {
                let number = self.0.gen_range(0..scope.declared);
                let field = self.pick(&["", "", "", ".Name", ".Labels", ".Image", ".Kind"]);
                format!("$v{number}{field}")
            }
            18 if depth > 0 => {
                let pipe = self.pipe(depth - 1, scope);
                let field = self.pick(&["", "", ".Name", ".app"]);
                format!("({pipe}){field}")
            }
            _ => self
                .pick(&[".Name", ".Image", ".Kind", ".", ".Key", ".Value", ".Effect"])
                .to_owned(),
        }
    }

    fn maybe(&mut self, object: &mut Value, key: &str, value: Value) {
        if self.chance(60) {
            object[key] = value;
        }
    }

    fn labels(&mut self) -> Value {
        let mut labels = json!({});
        for (key, value) in [
            ("app", "web"),
            ("zone", "eu-1"),
            ("app.kubernetes.io/name", "shop"),
            ("empty", ""),
            ("version", "v1.2.3"),
        ] {
            self.maybe(&mut labels, key, value.into());
        }
        labels
    }

    /// A pod; each of its parts may be missing.
    pub(crate) fn pod(&mut self) -> Value {
        let full = self.full_pod();
        let mut pod = json!({"metadata": {}, "spec": {}});
        for part in ["metadata", "spec"] {
            for (key, value) in full[part].as_object().expect("an object") {
                self.maybe(&mut pod[part], key, value.clone());
            }
        }
        pod
    }

    /// A pod with something in all the places that templates look at.
    pub(crate) fn full_pod(&mut self) -> Value {
        let container = |name: &str| {
            json!({
                "name": name,
                "image": format!("registry.test/{name}:1"),
                "command": ["run", "--fast"],
                "ports": [{"containerPort": 8080, "name": "http"}],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "securityContext": {"privileged": false, "runAsUser": 1000},
                "livenessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 3},
                "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
            })
        };
        let labels = self.labels();
        let annotations = self.labels();
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "web-0",
                "namespace": self.pick(&["prod", "test"]),
                "uid": "f3c5f2a1-8a54-4c1f-9f57-0123456789ab",
                "generateName": "web-",
                "resourceVersion": "12345",
                "generation": 3,
                "labels": labels,
                "annotations": {"team": "blue", "more": annotations.to_string()},
                "finalizers": ["a.test/one", "b.test/two"],
                "creationTimestamp": "2026-11-25T01:02:03Z",
                "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d9", "uid": "u-1", "controller": true},
                    {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u-2"},
                ],
            },
            "spec": {
                "serviceAccountName": "web",
                "serviceAccount": "web",
                "nodeName": "node-1",
                "hostNetwork": true,
                "hostPID": self.chance(50),
                "hostname": "h",
                "subdomain": "s",
                "restartPolicy": "Always",
                "dnsPolicy": "ClusterFirst",
                "schedulerName": "default-scheduler",
                "runtimeClassName": "gvisor",
                "priority": 100,
                "priorityClassName": "high",
                "activeDeadlineSeconds": 600,
                "terminationGracePeriodSeconds": 0,
                "setHostnameAsFQDN": false,
                "nodeSelector": {"zone": "eu-1"},
                "securityContext": {"runAsUser": 1000, "runAsNonRoot": true, "supplementalGroups": [1, 2]},
                "imagePullSecrets": [{"name": "pull"}],
                "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 5}],
                "containers": [container("main"), container("side")],
                "initContainers": [container("init")],
                "volumes": [{"name": "config", "configMap": {"name": "settings", "optional": true}}, {"name": "tmp", "emptyDir": {}}],
            },
        })
    }

    /// A node.
    pub(crate) fn node(&mut self) -> Value {
        let mut node = json!({
            "metadata": {"name": "node-1", "uid": "7d0c1f5e-0000-4000-8000-00000000beef", "labels": self.labels()},
            "spec": {"podCIDRs": ["10.0.0.0/24", "fd00::/64"], "taints": [{"key": "t", "value": "v", "effect": "NoSchedule"}]},
        });
        self.maybe(&mut node["spec"], "providerID", "kind://x/y".into());
        self.maybe(&mut node["spec"], "unschedulable", true.into());
        node
    }
}

/// How many variables there are.
#[derive(Default, Clone)]
struct Scope {
    declared: usize,
}

impl Scope {
    fn declare(&mut self) -> String {
        self.declared += 1;
        format!("$v{}", self.declared - 1)
    }
}
