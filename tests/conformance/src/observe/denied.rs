//! What a caller gets that has no identity: on another socket, or as another user.

use std::{os::unix::fs::MetadataExt as _, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail};
use mintmark_proto::workload as pb;
use serde::{Deserialize, Serialize};
use tokio::{process::Command, time::timeout};
use tonic::Code;

use super::{
    Answer, Denied, Refusal,
    api::{Api, request},
    workload,
};
use crate::options::Address;

/// The argument with which this program calls itself as another user.
pub const PROBE: &str = "probe-without-identity";

/// Asks for every kind of document.
pub(super) async fn observe(api: &Api) -> Denied {
    let mut client = api.client();
    let x509 = api
        .first(client.fetch_x509svid(request(pb::X509svidRequest {})))
        .await
        .map(|r| r.svids.len());
    let jwt = workload::fetch_jwt(api, vec!["spiffe-conformance".into()], "")
        .await
        .map(|r| r.svids.len());
    let wit = api
        .first(client.fetch_witsvid(request(pb::WitsvidRequest::default())))
        .await
        .map(|r| r.svids.len());
    let answers = [("FetchX509SVID", x509), ("FetchJWTSVID", jwt), ("FetchWITSVID", wit)];
    Denied {
        answers: answers
            .into_iter()
            .map(|(rpc, answer)| (rpc.to_owned(), answer))
            .collect(),
    }
}

/// Asks as another user, by a child process of this program.
pub(super) async fn observe_as(uid: u32, address: &Address, most: Duration) -> Result<Denied> {
    let program = std::env::current_exe().context("find this program to start it as another user")?;
    let mut child = Command::new(&program);
    child
        .arg(PROBE)
        .arg(address.to_string())
        .arg(most.as_secs().max(1).to_string());
    child.current_dir("/").stdin(Stdio::null()).kill_on_drop(true);
    // Only root may become somebody else; everybody is already themselves.
    let own = std::fs::metadata("/proc/self")
        .context("find out which user this is")?
        .uid();
    if uid != own {
        child.uid(uid).gid(uid);
    }
    let output = timeout(most.saturating_mul(4), child.output())
        .await
        .with_context(|| format!("wait for {} as user {uid}", program.display()))?
        .with_context(|| {
            format!(
                "start {} as user {uid}: it needs root, and the file must be readable by that user",
                program.display()
            )
        })?;
    if !output.status.success() {
        bail!("ask as user {uid}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let told: Vec<Told> = serde_json::from_slice(&output.stdout).context("read what the other user saw")?;
    let answers = told
        .into_iter()
        .map(|told| (format!("{} as user {uid}", told.rpc), told.answer()))
        .collect();
    Ok(Denied { answers })
}

/// The child's side: given an address and a number of seconds, asks and returns what it got, as JSON.
///
/// # Errors
/// When the arguments are wrong or the socket cannot be reached at all.
pub async fn probe(arguments: &[String]) -> Result<String> {
    let [address, seconds] = arguments else {
        bail!("expected an address and a number of seconds")
    };
    let address: Address = address.parse().map_err(anyhow::Error::msg)?;
    let timeout = Duration::from_secs(seconds.parse().context("read the number of seconds")?);
    let told: Vec<Told> = match Api::connect(&address, timeout).await {
        Ok(api) => observe(&api)
            .await
            .answers
            .into_iter()
            .map(|(rpc, answer)| Told::new(rpc, answer))
            .collect(),
        // Then it is the file's mode that keeps this user out, not the server.
        Err(e) => {
            let why = format!("cannot connect to {address}: {e:#}");
            vec![Told::new("connecting".into(), Err(Refusal::NotCalled(why)))]
        }
    };
    Ok(serde_json::to_string(&told)?)
}

/// An answer between the two processes.
#[derive(Serialize, Deserialize)]
struct Told {
    rpc: String,
    documents: Option<usize>,
    code: Option<i32>,
    message: String,
}

impl Told {
    fn new(rpc: String, answer: Answer<usize>) -> Self {
        match answer {
            Ok(documents) => Self {
                rpc,
                documents: Some(documents),
                code: None,
                message: String::new(),
            },
            Err(Refusal::Status(code, message)) => Self {
                rpc,
                documents: None,
                code: Some(code.into()),
                message,
            },
            Err(other) => Self {
                rpc,
                documents: None,
                code: None,
                message: other.to_string(),
            },
        }
    }

    fn answer(self) -> Answer<usize> {
        match (self.documents, self.code) {
            (Some(documents), _) => Ok(documents),
            (None, Some(code)) => Err(Refusal::Status(Code::from_i32(code), self.message)),
            (None, None) => Err(Refusal::NotCalled(self.message)),
        }
    }
}
