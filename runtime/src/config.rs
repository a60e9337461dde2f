//! Configuration: one TOML file a program, with every key also an environment variable.
//!
//! In come a file, the environment and a plain serde struct (`#[serde(default, deny_unknown_fields)]`); out comes the struct, or an error
//! that names the key, the line or variable, and the nearest key that exists. What keys there are, and of which type, is learned from the struct's
//! `Deserialize` itself, so that there is no second list to keep. Both programs' `main` call this once.

mod env;
mod schema;
mod types;

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use env::{PREFIX, environment};
pub use schema::Schema;
pub use types::{ByteSize, ByteSizeError, Listen, ListenError, ListenPath, OneOrMany};

use crate::fs::{FsError, read_limited};

/// The largest configuration file that is read: 1 MiB.
pub const MAX_FILE: u64 = 1 << 20;
/// More problems than this are counted, not listed.
const MAX_LISTED: usize = 20;

/// A configuration and what should be said about it.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The configuration.
    pub value: T,
    /// Variables of ours that mean nothing to this program: for the log, once there is one.
    pub warnings: Vec<String>,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration: {0}")]
    File(#[from] FsError),
    /// The file is not text.
    #[error("configuration file {0} is not UTF-8 text")]
    NotText(PathBuf),
    /// The file is not TOML.
    #[error("configuration file {path}, line {line}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// Keys or values are wrong; each problem is one line.
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
}

/// Reads a program's configuration: `file` (none: only defaults), then over it the `MINTMARK_CONFIG_SECTION__KEY` variables of
/// `env` (usually [`environment`]). Other variables are not looked at, so that those which Kubernetes makes up for a service named
/// `mintmark-server` do no harm.
///
/// # Errors
/// When the file cannot be read, is larger than 1 MiB or is not TOML; when it has a key that there is not; when a value of the file or the
/// environment is not of its key's type.
pub fn load<T: DeserializeOwned>(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded<T>, ConfigError> {
    let schema = Schema::of::<T>();
    let text = file.map(read_text).transpose()?;
    let source = Source {
        path: file,
        text: text.as_deref().unwrap_or_default(),
    };
    let mut root = DeTable::parse(source.text).map_err(|error| source.syntax(&error))?;

    let mut problems = Vec::new();
    schema.unknown_keys(root.get_ref(), |path, key| {
        let nearest = schema.nearest(path).map(|near| format!("; did you mean \"{near}\"?"));
        let line = source.line(key);
        problems.push(format!(
            "{}: unknown key \"{path}\"{}",
            source.place(line),
            nearest.unwrap_or_else(|| schema.known_beside(path))
        ));
    });

    let variables: Vec<_> = env.into_iter().collect();
    let mut overlay = env::overlay(&schema, &variables, source.text.len(), root.get_mut());
    problems.append(&mut overlay.problems);
    if !problems.is_empty() {
        return Err(invalid(problems));
    }

    let located = root.clone();
    let value = T::deserialize(toml::Deserializer::from(root)).map_err(|error| {
        let place = error.span().map(|span| {
            let key = key_at(located.get_ref(), &span).unwrap_or_default();
            (overlay.variable_at(&span), key, span)
        });
        let message = error.message();
        invalid(vec![match place {
            Some((Some(variable), ..)) => format!("environment variable {variable}: {message}"),
            Some((None, key, span)) if !key.is_empty() && span.end <= source.text.len() => {
                format!("{}: key \"{key}\": {message}", source.place(source.line(span)))
            }
            _ => format!("{}: {message}", source.name()),
        }])
    })?;
    Ok(Loaded {
        value,
        warnings: overlay.warnings,
    })
}

fn read_text(path: &Path) -> Result<String, ConfigError> {
    let bytes = read_limited(path, MAX_FILE)?;
    String::from_utf8(bytes).map_err(|_| ConfigError::NotText(path.into()))
}

fn invalid(mut problems: Vec<String>) -> ConfigError {
    let more = problems.len().saturating_sub(MAX_LISTED);
    problems.truncate(MAX_LISTED);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    ConfigError::Invalid(problems)
}

/// The file, for saying where something is. Its text is never quoted, as it may hold secrets.
struct Source<'a> {
    path: Option<&'a Path>,
    text: &'a str,
}

impl Source<'_> {
    fn name(&self) -> String {
        match self.path {
            Some(path) => format!("configuration file {}", path.display()),
            None => "configuration".to_owned(),
        }
    }

    fn place(&self, line: usize) -> String {
        format!("{}, line {line}", self.name())
    }

    fn line(&self, span: Range<usize>) -> usize {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        ConfigError::Syntax {
            path: self.path.unwrap_or(Path::new("")).into(),
            line: self.line(error.span().unwrap_or_default()),
            message: error.message().to_owned(),
        }
    }
}

/// The dotted path of the innermost key whose value covers `span`.
fn key_at(table: &DeTable<'_>, span: &Range<usize>) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let name = key.get_ref();
        if let Some(inner) = value.get_ref().as_table()
            && let Some(path) = key_at(inner, span)
        {
            return Some(format!("{name}.{path}"));
        }
        (covers(value, span) || covers(key, span)).then(|| name.to_string())
    })
}

fn covers<T>(spanned: &Spanned<T>, span: &Range<usize>) -> bool {
    let own = spanned.span();
    own.start <= span.start && span.end <= own.end && !own.is_empty()
}

/// A key's place below its table: `listen.api`.
fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

type SpannedValue<'i> = Spanned<DeValue<'i>>;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::crypto::SecretString;

    #[derive(Debug, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Example {
        trust_domain: String,
        workers: u16,
        listen: ListenSection,
        join: Option<Join>,
        kubernetes: Kubernetes,
        engine: Engine,
        insecure: bool,
        workload: OneOrMany<PathBuf>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct ListenSection {
        api: Listen,
        metrics: Listen,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Join {
        token: SecretString,
        retries: u8,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Kubernetes {
        ignore_namespaces: Vec<String>,
        clusters: BTreeMap<String, Cluster>,
        max_size: ByteSize,
        refresh: Option<mintmark_identity::Ttl>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Cluster {
        kubeconfig: PathBuf,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Engine {
        #[default]
        Sled,
        Etcd,
    }

    impl Default for Example {
        fn default() -> Self {
            Self {
                trust_domain: String::new(),
                workers: 4,
                listen: ListenSection {
                    api: Listen::new(([0, 0, 0, 0], 8081)),
                    metrics: Listen::off(),
                },
                join: None,
                kubernetes: Kubernetes::default(),
                engine: Engine::Sled,
                insecure: false,
                workload: OneOrMany::default(),
            }
        }
    }

    fn load_with(text: &str, env: &[(&str, &str)]) -> Result<Loaded<Example>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        crate::fs::write_new(&path, text.as_bytes(), 0o600).unwrap();
        let env = env
            .iter()
            .map(|(name, value)| (format!("MINTMARK_{name}"), (*value).to_owned()));
        load(Some(&path), env).map_err(|error| error.to_string().replace(&path.display().to_string(), "c.toml"))
    }

    #[test]
    fn the_file_goes_over_the_defaults_and_the_environment_over_the_file() {
        let text = "trust_domain = \"a.test\"\nworkers = 8\n[listen]\nmetrics = \"127.0.0.1:9\"\n\
                    [kubernetes.clusters.one]\nkubeconfig = \"/k\"\n";
        let env = [
            ("CONFIG_TRUST_DOMAIN", "b.test"),
            ("CONFIG_LISTEN__API", ""),
            ("CONFIG_JOIN__TOKEN", "12"),
            ("CONFIG_JOIN__RETRIES", "3"),
            ("CONFIG_INSECURE", "true"),
            ("CONFIG_ENGINE", "etcd"),
            ("CONFIG_KUBERNETES__IGNORE_NAMESPACES", "a, b"),
            ("CONFIG_KUBERNETES__MAX_SIZE", "50GiB"),
            ("CONFIG_WORKLOAD", "/a,/b"),
            ("CONFIG_KUBERNETES__REFRESH", "90s"),
            ("SERVER_PORT", "tcp://10.0.0.1:8081"),
            ("SERVER_SERVICE_HOST", "10.0.0.1"),
        ];
        let Loaded { value, warnings } = load_with(text, &env).unwrap();
        assert_eq!(value.trust_domain, "b.test");
        assert_eq!(value.workers, 8);
        assert_eq!(value.listen.api.addr(), None);
        assert_eq!(value.listen.metrics.addr().unwrap().port(), 9);
        assert_eq!(value.kubernetes.clusters["one"].kubeconfig, Path::new("/k"));
        let join = value.join.unwrap();
        assert_eq!((join.token.expose(), join.retries), ("12", 3));
        assert!(value.insecure);
        assert_eq!(value.engine, Engine::Etcd);
        assert_eq!(value.kubernetes.ignore_namespaces, ["a", "b"]);
        assert_eq!(value.kubernetes.max_size, ByteSize(50 << 30));
        assert_eq!(value.kubernetes.refresh.unwrap().as_secs(), 90);
        assert_eq!(value.workload.as_slice(), [Path::new("/a"), Path::new("/b")]);
        assert_eq!(warnings, [""; 0]);
    }

    #[test]
    fn without_a_file_there_are_the_defaults() {
        let value = load::<Example>(None, []).unwrap().value;
        assert_eq!(value.workers, 4);
        assert_eq!(value.listen.api.addr().unwrap().port(), 8081);
    }

    #[test]
    fn what_is_wrong_in_the_file_is_named_with_its_key_line_and_remedy() {
        for (text, expected) in [
            (
                "\nworker = 3",
                "line 2: unknown key \"worker\"; did you mean \"workers\"?",
            ),
            (
                "[listen]\n\napu = \"\"",
                "line 3: unknown key \"listen.apu\"; did you mean \"listen.api\"?",
            ),
            (
                "[listn]\napi = \"\"",
                "line 1: unknown key \"listn\"; did you mean \"listen\"?",
            ),
            (
                "metrics = \"\"",
                "line 1: unknown key \"metrics\"; did you mean \"listen.metrics\"?",
            ),
            (
                "trust-domain = \"a\"",
                "line 1: unknown key \"trust-domain\"; did you mean \"trust_domain\"?",
            ),
            (
                "[kubernetes.clusters.x]\nkubeconfg = 1",
                "line 2: unknown key \"kubernetes.clusters.x.kubeconfg\"; did you mean \"kubernetes.clusters.x.kubeconfig\"?",
            ),
            (
                "[listen]\nzzzzzzzzzz = 1",
                "line 2: unknown key \"listen.zzzzzzzzzz\"; there are: api, metrics",
            ),
            (
                "\n\nworkers = \"many\"",
                "line 3: key \"workers\": invalid type: string \"many\", expected u16",
            ),
            (
                "workers = 70000",
                "line 1: key \"workers\": invalid value: integer `70000`, expected u16",
            ),
            (
                "[listen]\napi = \"localhost\"",
                "line 2: key \"listen.api\": \"localhost\" is not",
            ),
            (
                "engine = \"slet\"",
                "line 1: key \"engine\": unknown variant `slet`, expected `sled` or `etcd`",
            ),
            ("a = \n", "line 1: "),
            ("workers = 1\nworkers = 2", "line 2: duplicate key"),
        ] {
            let error = load_with(text, &[]).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
            assert!(error.contains("c.toml"), "{error}");
        }
    }

    #[test]
    fn all_unknown_keys_are_named_at_once() {
        let error = load_with("worker = 1\n[listen]\napo = 1", &[]).unwrap_err();
        assert_eq!(error.lines().count(), 2, "{error}");
    }

    #[test]
    fn an_error_never_shows_a_secret() {
        for text in [
            "[join]\ntoken = 5555",
            "[join]\ntoken = \"5555",
            "[join]\ntoken = [\"5555\"]",
        ] {
            let error = load_with(text, &[]).unwrap_err();
            assert!(!error.contains("5555"), "{error}");
            assert!(error.contains("line 2"), "{error}");
        }
    }

    #[test]
    fn a_wrong_variable_is_an_error_and_an_unknown_one_a_warning() {
        for (name, value, expected) in [
            (
                "CONFIG_WORKERS",
                "many",
                "MINTMARK_CONFIG_WORKERS: \"many\" is not a whole number",
            ),
            (
                "CONFIG_WORKERS",
                "",
                "MINTMARK_CONFIG_WORKERS: \"\" is not a whole number",
            ),
            (
                "CONFIG_WORKERS",
                "70000",
                "environment variable MINTMARK_CONFIG_WORKERS: invalid value",
            ),
            (
                "CONFIG_INSECURE",
                "yes",
                "MINTMARK_CONFIG_INSECURE: \"yes\" is neither true nor false",
            ),
            (
                "CONFIG_LISTEN__API",
                "x",
                "environment variable MINTMARK_CONFIG_LISTEN__API: \"x\" is not",
            ),
            (
                "CONFIG_KUBERNETES__IGNORE_NAMESPACES",
                "[1",
                "MINTMARK_CONFIG_KUBERNETES__IGNORE_NAMESPACES: ",
            ),
        ] {
            let error = load_with("", &[(name, value)]).unwrap_err();
            assert!(error.contains(expected), "{name}={value}: {error}");
        }
        for (name, expected) in [
            (
                "CONFIG_WORKER",
                "MINTMARK_CONFIG_WORKER means nothing to this program; did you mean MINTMARK_CONFIG_WORKERS?",
            ),
            ("CONFIG_LISTEN_API", "did you mean MINTMARK_CONFIG_LISTEN__API?"),
            ("CONFIG_KUBERNETES__CLUSTERS__X__KUBECONFIG", "only the file"),
            ("CONFIG_LISTEN", "names a section"),
        ] {
            let warnings = load_with("", &[(name, "1")]).unwrap().warnings;
            assert_eq!(warnings.len(), 1);
            assert!(warnings[0].contains(expected), "{warnings:?}");
        }
    }

    #[test]
    fn a_file_beyond_the_limit_or_not_text_is_refused() {
        let error = load_with(&"#".repeat((1 << 20) + 1), &[]).unwrap_err();
        assert!(error.contains("larger than 1048576 bytes"), "{error}");
        let missing = load::<Example>(Some(Path::new("/nonexistent/c.toml")), []).unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/c.toml"));
    }
}
