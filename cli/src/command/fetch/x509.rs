//! `mintmark fetch x509`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use mintmark_proto::workload::{X509svidRequest, X509svidResponse};
use mintmark_runtime::task::shutdown_signal;
use serde::Serialize;

use super::{first, with_hint};
use crate::client::{status_text, workload, workload_request};
use crate::command::files::{output_dir, write_private, write_public};
use crate::context::Context;
use crate::failure::{Failure, refused};
use crate::output::certificates::{Summary, pem, pems, split};
use crate::output::{Fields, count, stamp, stamp_and_distance};

const ACTION: &str = "fetch X.509-SVIDs";

#[derive(Debug, Args)]
pub struct X509 {
    /// Write certificates, keys and bundles into this directory
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// Go on with every update, until interrupted
    #[arg(long)]
    watch: bool,
}

impl X509 {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut client = workload(context).await?;
        let request = workload_request(X509svidRequest {});
        let (mut answer, mut updates) = first(context, ACTION, client.fetch_x509svid(request))
            .await
            .map_err(with_hint)?;
        let mut written = BTreeSet::new();
        loop {
            written = self.show(context, &answer, written)?;
            if !self.watch {
                return Ok(());
            }
            let update = tokio::select! {
                update = updates.message() => update,
                _ = shutdown_signal() => return Ok(()),
            };
            answer = match update {
                Ok(Some(answer)) => answer,
                Ok(None) => {
                    return Err(refused(
                        "the Workload API has ended the stream; has the attestor stopped?",
                    ));
                }
                Err(status) => {
                    return Err(with_hint(Failure::Refused(format!(
                        "cannot {ACTION} any longer: {}",
                        status_text(&status)
                    ))));
                }
            };
        }
    }

    /// Prints an answer, and writes it where that was asked. Returns the files that there are now.
    fn show(
        &self,
        context: &Context,
        answer: &X509svidResponse,
        before: BTreeSet<PathBuf>,
    ) -> Result<BTreeSet<PathBuf>, Failure> {
        let now = context.clock.unix();
        let Some(dir) = &self.write else {
            let text = text(now, answer)?;
            context.out.message(answer, |_| text)?;
            return Ok(before);
        };
        let written = write(dir, answer)?;
        let files: BTreeSet<_> = written.svids.iter().flat_map(Written::files).collect();
        // What an earlier update had more.
        for stale in before.difference(&files) {
            let _ = std::fs::remove_file(stale);
        }
        context.out.value(&written, |written| {
            let mut text = String::new();
            for svid in &written.svids {
                text += &format!(
                    "{}\n  serial {}, ends {}\n  written to {}, {}, {}\n",
                    svid.spiffe_id,
                    svid.serial,
                    stamp_and_distance(now, svid.not_after),
                    svid.svid.display(),
                    svid.key.display(),
                    svid.bundle.display()
                );
            }
            text
        })?;
        Ok(files)
    }
}

/// What was written.
#[derive(Serialize)]
struct AllWritten {
    svids: Vec<Written>,
}

#[derive(Serialize)]
struct Written {
    spiffe_id: String,
    hint: String,
    serial: String,
    not_after: i64,
    svid: PathBuf,
    key: PathBuf,
    bundle: PathBuf,
    federated_bundles: Vec<PathBuf>,
}

impl Written {
    fn files(&self) -> impl Iterator<Item = PathBuf> {
        let own = [self.svid.clone(), self.key.clone(), self.bundle.clone()];
        own.into_iter().chain(self.federated_bundles.clone())
    }
}

/// As spire-agent names them. Each file is written whole or not at all, the bundles first, so that whoever reads a new certificate finds what verifies it.
fn write(dir: &Path, answer: &X509svidResponse) -> Result<AllWritten, Failure> {
    output_dir(dir)?;
    let mut all = AllWritten { svids: Vec::new() };
    for (nth, svid) in answer.svids.iter().enumerate() {
        let chain = split(&svid.x509_svid).map_err(refused)?;
        let leaf = chain
            .first()
            .ok_or_else(|| refused("the answer holds an SVID without a certificate"))?;
        let summary = Summary::of_svid(leaf).map_err(refused)?;
        let mut federated_bundles = Vec::new();
        for (mth, bundle) in answer.federated_bundles.values().enumerate() {
            let path = dir.join(format!("federated_bundle.{nth}.{mth}.pem"));
            write_public(&path, pems(&split(bundle).map_err(refused)?).as_bytes())?;
            federated_bundles.push(path);
        }
        let written = Written {
            spiffe_id: svid.spiffe_id.clone(),
            hint: svid.hint.clone(),
            serial: summary.serial,
            not_after: summary.not_after,
            svid: dir.join(format!("svid.{nth}.pem")),
            key: dir.join(format!("svid.{nth}.key")),
            bundle: dir.join(format!("bundle.{nth}.pem")),
            federated_bundles,
        };
        write_public(&written.bundle, pems(&split(&svid.bundle).map_err(refused)?).as_bytes())?;
        write_private(&written.key, pem("PRIVATE KEY", &svid.x509_svid_key).as_bytes())?;
        write_public(&written.svid, pems(&chain).as_bytes())?;
        all.svids.push(written);
    }
    Ok(all)
}

fn text(now: i64, answer: &X509svidResponse) -> Result<String, Failure> {
    let mut text = String::new();
    for svid in &answer.svids {
        let chain = split(&svid.x509_svid).map_err(refused)?;
        let leaf = chain
            .first()
            .ok_or_else(|| refused("the answer holds an SVID without a certificate"))?;
        let summary = Summary::of_svid(leaf).map_err(refused)?;
        let authorities = split(&svid.bundle).map_err(refused)?.len();
        let mut fields = Fields::default();
        fields
            .add("  serial", &summary.serial)
            .add("  valid from", stamp(summary.not_before))
            .add("  valid until", stamp_and_distance(now, summary.not_after))
            .add("  key", &summary.key)
            .some("  dns names", summary.dns_names.join(" "))
            .some("  signed by", &summary.authority)
            .add("  bundle", count(authorities, "authority", "authorities"))
            .some("  hint", &svid.hint);
        text += &format!("{}\n{fields}", svid.spiffe_id);
    }
    for trust_domain in answer.federated_bundles.keys() {
        text += &format!("federated with {trust_domain}\n");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use mintmark_proto::workload::X509svid;
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn answer(federated: bool) -> X509svidResponse {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI("spiffe://example.org/w".try_into().unwrap())];
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        let der: mintmark_proto::Bytes = params.self_signed(&key).unwrap().der().to_vec().into();
        X509svidResponse {
            svids: vec![X509svid {
                spiffe_id: "spiffe://example.org/w".into(),
                x509_svid: [&der[..], &der[..]].concat().into(),
                x509_svid_key: key.serialize_der().into(),
                bundle: der.clone(),
                hint: String::new(),
            }],
            federated_bundles: federated
                .then(|| ("spiffe://example.com".to_owned(), der))
                .into_iter()
                .collect(),
            crl: Vec::new(),
        }
    }

    #[test]
    fn the_files_have_their_names_and_the_key_is_its_owners() {
        let dir = tempfile::tempdir().unwrap();
        let written = write(&dir.path().join("new"), &answer(true)).unwrap();
        let names: Vec<_> = written.svids[0]
            .files()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(
            names,
            ["svid.0.pem", "svid.0.key", "bundle.0.pem", "federated_bundle.0.0.pem"]
        );
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(&written.svids[0].key), mode(&written.svids[0].svid)),
            (0o600, 0o644)
        );
        let chain = std::fs::read_to_string(&written.svids[0].svid).unwrap();
        assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2);
    }
}
