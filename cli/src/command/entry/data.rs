//! Entries as JSON: SPIRE's file of registration entries, and what `entry list --output json` prints.

use std::path::Path;

use mintmark_identity::SpiffeId;
use mintmark_proto::spire::types;
use mintmark_proto::spire::types::entry::AdditionalAttributes;
use serde::{Deserialize, Deserializer};

use crate::command::files::read_input;
use crate::command::wire::id_message;
use crate::failure::Failure;

/// The entries of a file.
pub fn entries(path: &Path) -> Result<Vec<types::Entry>, Failure> {
    let file: EntryFile = parse(path)?;
    let entries: Vec<_> = file.entries.into_iter().map(DataEntry::message).collect();
    if entries.is_empty() {
        return Err(Failure::Refused(format!("{} holds no entries", name(path))));
    }
    Ok(entries)
}

/// The IDs of a file.
pub fn ids(path: &Path) -> Result<Vec<String>, Failure> {
    let file: IdFile = parse(path)?;
    if file.ids.is_empty() {
        return Err(Failure::Refused(format!("{} holds no IDs", name(path))));
    }
    Ok(file.ids)
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, Failure> {
    let bytes = read_input(path)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let form = "it must be {\"entries\": [{\"spiffe_id\": …, \"parent_id\": …, \"selectors\": […]}]} or {\"ids\": […]}; see --help";
        Failure::Refused(format!("{} is not as it should be: {error}; {form}", name(path)))
    })
}

fn name(path: &Path) -> String {
    if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryFile {
    entries: Vec<DataEntry>,
    #[serde(default, rename = "next_page_token")]
    _next_page_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IdFile {
    ids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DataEntry {
    #[serde(default, alias = "entry_id")]
    id: String,
    spiffe_id: DataId,
    parent_id: DataId,
    selectors: Vec<DataSelector>,
    #[serde(default, deserialize_with = "number")]
    x509_svid_ttl: i64,
    #[serde(default, deserialize_with = "number")]
    jwt_svid_ttl: i64,
    #[serde(default)]
    federates_with: Vec<String>,
    #[serde(default)]
    admin: bool,
    #[serde(default)]
    downstream: bool,
    #[serde(default, alias = "entry_expiry", deserialize_with = "number")]
    expires_at: i64,
    #[serde(default)]
    dns_names: Vec<String>,
    #[serde(default)]
    store_svid: bool,
    #[serde(default)]
    hint: String,
    #[serde(default)]
    additional_attributes: Option<DataAttributes>,
    // The server's own.
    #[serde(default, rename = "revision_number", deserialize_with = "number")]
    _revision_number: i64,
    #[serde(default, rename = "created_at", deserialize_with = "number")]
    _created_at: i64,
}

/// Text, or the message of the API.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a SPIFFE ID, as text or as {\"trust_domain\": …, \"path\": …}"
)]
enum DataId {
    Text(SpiffeId),
    Message { trust_domain: String, path: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DataSelector {
    r#type: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DataAttributes {
    #[serde(default)]
    disable_x509_svid_prefetch: bool,
    #[serde(default)]
    jwt_svid_include_jti: bool,
}

impl DataEntry {
    fn message(self) -> types::Entry {
        // What does not fit is refused by the server, with the entry that it is in.
        let seconds = |seconds: i64| i32::try_from(seconds).unwrap_or(-1);
        types::Entry {
            id: self.id,
            spiffe_id: Some(self.spiffe_id.message()),
            parent_id: Some(self.parent_id.message()),
            selectors: self
                .selectors
                .into_iter()
                .map(|selector| types::Selector {
                    r#type: selector.r#type,
                    value: selector.value,
                })
                .collect(),
            x509_svid_ttl: seconds(self.x509_svid_ttl),
            jwt_svid_ttl: seconds(self.jwt_svid_ttl),
            federates_with: self.federates_with,
            admin: self.admin,
            downstream: self.downstream,
            expires_at: self.expires_at,
            dns_names: self.dns_names,
            store_svid: self.store_svid,
            hint: self.hint,
            additional_attributes: self.additional_attributes.map(|attributes| AdditionalAttributes {
                disable_x509_svid_prefetch: attributes.disable_x509_svid_prefetch,
                jwt_svid_include_jti: attributes.jwt_svid_include_jti,
            }),
            ..types::Entry::default()
        }
    }
}

impl DataId {
    fn message(self) -> types::Spiffeid {
        match self {
            Self::Text(id) => id_message(&id),
            Self::Message { trust_domain, path } => types::Spiffeid { trust_domain, path },
        }
    }
}

/// A number, or one written as text, as protobuf JSON has 64-bit ones.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a whole number")]
    enum Number {
        Plain(i64),
        Text(String),
    }
    match Number::deserialize(deserializer)? {
        Number::Plain(number) => Ok(number),
        Number::Text(text) => text
            .parse()
            .map_err(|_| serde::de::Error::custom(format_args!("\"{text}\" is not a whole number"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::message_json;

    fn read(json: &str) -> Result<Vec<types::Entry>, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("entries.json");
        mintmark_runtime::fs::write_new(&path, json.as_bytes(), 0o600).unwrap();
        entries(&path)
    }

    #[test]
    fn spires_file_of_entries_is_read() {
        let entries = read(
            r#"{"entries": [{"selectors": [{"type": "unix", "value": "uid:1111"}], "spiffe_id": "spiffe://example.org/Blog",
                "parent_id": "spiffe://example.org/spire/agent/join_token/TokenBlog", "x509_svid_ttl": 200, "jwt_svid_ttl": 30, "admin": true,
                "entry_expiry": "1800000000"}]}"#,
        )
        .unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].spiffe_id.as_ref().unwrap().path, "/Blog");
        assert_eq!(
            (entries[0].x509_svid_ttl, entries[0].jwt_svid_ttl, entries[0].admin),
            (200, 30, true)
        );
        assert_eq!(entries[0].expires_at, 1_800_000_000);
    }

    #[test]
    fn what_we_print_is_what_we_read() {
        let id = |path: &str| {
            Some(types::Spiffeid {
                trust_domain: "example.org".into(),
                path: path.into(),
            })
        };
        let entry = types::Entry {
            id: "a".into(),
            spiffe_id: id("/w"),
            parent_id: id("/n"),
            selectors: vec![types::Selector {
                r#type: "unix".into(),
                value: "uid:0".into(),
            }],
            expires_at: 1_800_000_000,
            dns_names: vec!["a.example.org".into()],
            additional_attributes: Some(AdditionalAttributes {
                disable_x509_svid_prefetch: true,
                jwt_svid_include_jti: false,
            }),
            ..Default::default()
        };
        let printed = serde_json::json!({"entries": [message_json(&entry).unwrap()], "next_page_token": ""});
        assert_eq!(read(&printed.to_string()).unwrap(), [entry]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (json, what) in [
            ("{", "EOF"),
            ("[]", "entries"),
            (r#"{"entries": []}"#, "no entries"),
            (
                r#"{"entries": [{"spiffe_id": "spiffe://a/b", "parent_id": "spiffe://a/c", "selectors": [], "tll": 1}]}"#,
                "tll",
            ),
            (
                r#"{"entries": [{"spiffe_id": "http://a/b", "parent_id": "spiffe://a/c", "selectors": []}]}"#,
                "SPIFFE ID",
            ),
            (
                r#"{"entries": [{"spiffe_id": "spiffe://a/b", "parent_id": "spiffe://a/c", "selectors": [], "expires_at": "soon"}]}"#,
                "soon",
            ),
        ] {
            let error = read(json).unwrap_err().to_string();
            assert!(
                error.contains(what) && error.contains("entries.json"),
                "{json}: {error}"
            );
        }
    }
}
