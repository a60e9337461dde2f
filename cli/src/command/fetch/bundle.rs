//! `mintmark fetch bundle`.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use mintmark_proto::workload::{JwtBundlesRequest, WitBundlesRequest, X509BundlesRequest};
use serde_json::{Value, json};

use super::{first, with_hint};
use crate::client::{workload, workload_request};
use crate::context::Context;
use crate::failure::{Failure, refused};
use crate::output::certificates::{pem, split};

#[derive(Debug, Args)]
pub struct Bundle {
    /// Only the X.509 authorities, the JWT keys or the WIT keys; all three unless given
    #[arg(value_name = "x509|jwt|wit", hide_possible_values = true)]
    kind: Option<Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    X509,
    Jwt,
    Wit,
}

/// What is trusted, by trust domain. Keys as JWK sets, certificates as PEM.
#[derive(Default)]
struct Bundles {
    x509: BTreeMap<String, Vec<String>>,
    jwt: BTreeMap<String, Value>,
    wit: BTreeMap<String, Value>,
}

impl Bundle {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let wanted = |kind| self.kind.is_none_or(|only| only == kind);
        let mut client = workload(context).await?;
        let mut bundles = Bundles::default();
        if wanted(Kind::X509) {
            let call = client.fetch_x509_bundles(workload_request(X509BundlesRequest {}));
            let (answer, _) = first(context, "fetch X.509 bundles", call).await.map_err(with_hint)?;
            for (trust_domain, ders) in &answer.bundles {
                let authorities = split(ders).map_err(refused)?;
                let authorities = authorities.iter().map(|der| pem("CERTIFICATE", der)).collect();
                bundles.x509.insert(trust_domain.clone(), authorities);
            }
        }
        if wanted(Kind::Jwt) {
            let call = client.fetch_jwt_bundles(workload_request(JwtBundlesRequest {}));
            let (answer, _) = first(context, "fetch JWT bundles", call).await.map_err(with_hint)?;
            for (trust_domain, keys) in &answer.bundles {
                bundles.jwt.insert(trust_domain.clone(), key_set(trust_domain, keys)?);
            }
        }
        if wanted(Kind::Wit) {
            let call = client.fetch_wit_bundles(workload_request(WitBundlesRequest {}));
            let (answer, _) = first(context, "fetch WIT bundles", call).await.map_err(with_hint)?;
            for (trust_domain, keys) in &answer.bundles {
                bundles
                    .wit
                    .insert(trust_domain.clone(), key_set(trust_domain, keys.as_bytes())?);
            }
        }
        context.out.value(&bundles.json(self.kind), |_| bundles.text(self.kind))
    }
}

fn key_set(trust_domain: &str, keys: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(keys)
        .map_err(|error| Failure::Refused(format!("the keys of {trust_domain} are no JSON: {error}")))
}

impl Bundles {
    /// One object a trust domain; what was not asked for is not in it.
    fn json(&self, kind: Option<Kind>) -> Value {
        let names: std::collections::BTreeSet<_> =
            self.x509.keys().chain(self.jwt.keys()).chain(self.wit.keys()).collect();
        let bundle = |name: &String| {
            let mut bundle = json!({ "trust_domain": name });
            for (is, field, value) in [
                (Kind::X509, "x509", json!(self.x509.get(name))),
                (Kind::Jwt, "jwt", json!(self.jwt.get(name))),
                (Kind::Wit, "wit", json!(self.wit.get(name))),
            ] {
                if kind.is_none_or(|kind| kind == is) {
                    bundle[field] = value;
                }
            }
            bundle
        };
        json!({ "bundles": names.into_iter().map(bundle).collect::<Vec<_>>() })
    }

    /// Lines that are no PEM stand between PEM blocks, where openssl and others pass them over. Keys alone, of one trust domain alone, are plain JSON.
    fn text(&self, kind: Option<Kind>) -> String {
        let plain = |sets: &BTreeMap<String, Value>| match (kind, sets.len()) {
            (Some(_), 1) => sets.values().map(pretty).collect(),
            _ => sets
                .iter()
                .map(|(name, keys)| format!("# {name}\n{}", pretty(keys)))
                .collect::<String>(),
        };
        let mut text = String::new();
        for (name, authorities) in &self.x509 {
            text += &format!("# {name}: X.509 authorities\n{}", authorities.concat());
        }
        for (title, sets) in [("JWT", &self.jwt), ("WIT", &self.wit)] {
            if kind.is_none() && !sets.is_empty() {
                text += &format!("\n# keys of {title}-SVIDs\n");
            }
            text += &plain(sets);
        }
        text
    }
}

fn pretty(keys: &Value) -> String {
    format!(
        "{}\n",
        serde_json::to_string_pretty(keys).unwrap_or_else(|_| keys.to_string())
    )
}
