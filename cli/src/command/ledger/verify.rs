//! `mintmark ledger verify`: offline from the log's files, or by the running server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mintmark_proto::admin::admin_client::AdminClient;
use mintmark_proto::admin::{ProveLeafRequest, prove_leaf_request};
use mintmark_proto::spire::server::bundle::GetBundleRequest;
use mintmark_proto::spire::server::bundle::bundle_client::BundleClient;
use mintmark_server::ledger::{
    LogReport, Reader, Report, decode_leaf, leaf_hash, verify, verify_inclusion, verify_issued,
};
use serde::Serialize;
use tonic::transport::Channel;

use super::certificate::{Certificate, Found, read};
use super::{Verify, note};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Progress, Table, count};

/// What was found in all.
#[derive(Serialize)]
struct Outcome {
    sound: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<Vec<LogOutcome>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificates: Option<Vec<Found>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Serialize)]
struct LogOutcome {
    log: u16,
    origin: String,
    running: bool,
    size: u64,
    min_index: u64,
    root: String,
    checkpoint_size: Option<u64>,
    notes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Verify {
    pub(super) async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut certificates = Vec::new();
        for file in &self.certs {
            certificates.extend(read(file)?);
        }
        let root = self.data.as_deref().map(ledger_dir).transpose()?;
        let mut outcome = Outcome {
            sound: true,
            logs: None,
            certificates: None,
            problem: None,
        };
        if let Some(root) = &root {
            let mut progress = Progress::new(&context.clock, "verifying the log");
            let report = verify(root, |done, of| progress.at(done, of));
            drop(progress);
            outcome.add(&report);
        }
        if !certificates.is_empty() {
            let found = match &root {
                Some(root) => offline(root, &certificates),
                None => online(context, &certificates).await?,
            };
            outcome.sound &= found.iter().all(|found| found.logged);
            outcome.certificates = Some(found);
        }
        context.out.value(&outcome, |outcome| outcome.text())?;
        match outcome.first_problem() {
            None => Ok(()),
            Some(problem) => Err(Failure::Refused(problem)),
        }
    }
}

/// Where the logs are in a server's data directory.
fn ledger_dir(data: &Path) -> Result<PathBuf, Failure> {
    let root = data.join("ledger");
    if root.is_dir() {
        return Ok(root);
    }
    let hint = match data.join("server/ledger").is_dir() {
        true => format!("; did you mean {}?", data.join("server").display()),
        false => "; name the server's data_dir".to_owned(),
    };
    Err(Failure::Refused(format!(
        "there is no directory {}{hint}",
        root.display()
    )))
}

/// Against the files.
fn offline(root: &Path, certificates: &[Certificate]) -> Vec<Found> {
    let mut readers = BTreeMap::new();
    let mut check = |certificate: &Certificate| {
        let serial = certificate.serial.clone()?;
        let reader = readers
            .entry(serial.log())
            .or_insert_with(|| Reader::open(root, serial.log()).map_err(|error| error.to_string()));
        let reader = reader.as_ref().map_err(Clone::clone)?;
        let leaf = reader.leaf(serial.index()).map_err(|error| error.to_string())?;
        let leaf = decode_leaf(&leaf).map_err(|error| error.to_string())?;
        verify_issued(&leaf, &serial, &certificate.content_sha256).map_err(|error| error.to_string())?;
        certificate.check_signature(certificates)
    };
    certificates
        .iter()
        .map(|certificate| certificate.found(check(certificate)))
        .collect()
}

/// By the server's proofs.
async fn online(context: &Context, certificates: &[Certificate]) -> Result<Vec<Found>, Failure> {
    let channel = crate::client::server(context).await?;
    let request = GetBundleRequest { output_mask: None };
    let bundle = context
        .ask(
            "show the bundle",
            BundleClient::new(channel.clone()).get_bundle(request),
        )
        .await?;
    let authorities: Vec<_> = bundle
        .x509_authorities
        .into_iter()
        .filter_map(|authority| Certificate::of_bundle(authority.asn1))
        .collect();
    let mut client = AdminClient::new(channel);
    let mut found = Vec::new();
    for certificate in certificates {
        let outcome = match prove(context, &mut client, certificate).await {
            Ok(()) => certificate
                .check_signature(certificates)
                .and_then(|()| certificate.check_signature(&authorities)),
            Err(why) => Err(why),
        };
        found.push(certificate.found(outcome));
    }
    Ok(found)
}

async fn prove(context: &Context, client: &mut AdminClient<Channel>, certificate: &Certificate) -> Result<(), String> {
    let serial = certificate.serial.clone()?;
    let request = ProveLeafRequest {
        which: Some(prove_leaf_request::Which::Serial(serial.as_bytes().to_vec().into())),
    };
    let answer = context.ask("have it proven", client.prove_leaf(request)).await;
    let answer = answer.map_err(|failure| failure.to_string())?;
    let checkpoint = note::checkpoint(&answer.checkpoint).map_err(|failure| failure.to_string())?;
    let proof = note::hashes(&answer.proof).map_err(|failure| failure.to_string())?;
    if (answer.index, answer.tree_size) != (serial.index(), checkpoint.size) {
        return Err("the server proved another leaf".to_owned());
    }
    verify_inclusion(
        &leaf_hash(&answer.leaf),
        answer.index,
        answer.tree_size,
        &proof,
        &checkpoint.root,
    )
    .map_err(|error| format!("the server's proof is wrong: {error}"))?;
    let leaf = decode_leaf(&answer.leaf).map_err(|error| error.to_string())?;
    verify_issued(&leaf, &serial, &certificate.content_sha256).map_err(|error| error.to_string())
}

impl Outcome {
    fn add(&mut self, report: &Report) {
        self.sound &= report.is_sound();
        self.problem = report.problem.as_ref().map(ToString::to_string);
        if report.logs.is_empty() && self.problem.is_none() {
            self.sound = false;
            self.problem = Some("there is no log in it".to_owned());
        }
        self.logs = Some(report.logs.iter().map(log_outcome).collect());
    }

    fn first_problem(&self) -> Option<String> {
        let logs = self.logs.iter().flatten();
        let of_log = logs.filter_map(|log| Some(format!("log {} is damaged: {}", log.log, log.problem.as_ref()?)));
        let of_dir = self
            .problem
            .iter()
            .map(|problem| format!("the ledger is damaged: {problem}"));
        let certificates = self.certificates.iter().flatten();
        let of_certificate = certificates.filter_map(|found| {
            let problem = found.problem.as_ref()?;
            Some(format!(
                "certificate {} of {} is not in the log: {problem}",
                found.serial, found.file
            ))
        });
        let problems: Vec<_> = of_log.chain(of_dir).chain(of_certificate).collect();
        (!problems.is_empty()).then(|| problems.join("\n"))
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for log in self.logs.iter().flatten() {
            let state = if log.problem.is_some() { "DAMAGED" } else { "sound" };
            let running = if log.running {
                ", in use by a running server"
            } else {
                ""
            };
            let leaves = count(
                usize::try_from(log.size - log.min_index.min(log.size)).unwrap_or(usize::MAX),
                "leaf",
                "leaves",
            );
            let pruned = match log.min_index {
                0 => String::new(),
                index => format!(" from index {index}"),
            };
            text += &format!("log {}: {state}, {leaves}{pruned}{running}\n", log.log);
            if log.problem.is_none() {
                text += &format!("  origin {}\n  root   {}\n", log.origin, log.root);
            }
            for note in &log.notes {
                text += &format!("  note   {note}\n");
            }
        }
        if let Some(certificates) = &self.certificates {
            let mut table = Table::new(&["LOGGED", "INDEX", "SERIAL", "NAME"]);
            for found in certificates {
                table.row([
                    if found.logged {
                        "yes".to_owned()
                    } else {
                        "NO".to_owned()
                    },
                    found.index.map_or_else(|| "-".to_owned(), |index| index.to_string()),
                    found.serial.clone(),
                    found.spiffe_id.clone(),
                ]);
            }
            text += &table.to_string();
        }
        text
    }
}

fn log_outcome(log: &LogReport) -> LogOutcome {
    LogOutcome {
        log: log.number,
        origin: log
            .verifier
            .as_ref()
            .map_or_else(String::new, |key| key.name().to_owned()),
        running: log.running,
        size: log.size,
        min_index: log.minimum,
        root: note::base64(&log.root),
        checkpoint_size: log.checkpoint.as_ref().map(|checkpoint| checkpoint.size),
        notes: log.notes.clone(),
        problem: log.problem.as_ref().map(ToString::to_string),
    }
}
