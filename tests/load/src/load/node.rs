//! `node`: what a node's agent costs with workloads that hold their streams open. Each workload is a process with a user ID of its own,
//! since that is how an agent tells them apart; it is this program again.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::idle::Quiet;
use crate::{
    entries::{self, Names},
    options::{Node, Workload},
    report::Report,
    target::Target,
};

/// Users that this machine has no names for.
const FIRST_UID: u32 = 1_200_000;

/// What a workload says when it has its SVID.
const READY: &str = "ready";

pub(super) async fn run(target: &Target, load: &Node) -> Result<Report> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "only root can start workloads of several users"
    );
    let parent = entries::parse(&load.node_id)?;
    let mut names = Names::new();
    let uids = FIRST_UID..FIRST_UID + load.workloads;
    let wanted = uids
        .clone()
        .map(|uid| names.entry_for(&parent, format!("uid:{uid}")))
        .collect();
    let made = entries::create(target, wanted).await?;
    let mut workloads: Vec<Child> = uids.map(|uid| start(load, uid)).collect::<Result<_>>()?;
    let ready = try_join_all(workloads.iter_mut().map(ready));
    timeout(Duration::from_secs(load.patience), ready)
        .await
        .context("the workloads did not all get their SVIDs")??;
    let quiet = Quiet::watch(target.process, load.settle, load.seconds).await?;
    for workload in &mut workloads {
        workload.kill().await.context("end a workload")?;
    }
    entries::delete(target, &made).await?;
    Ok(quiet.report("node", &target.label).with("workloads", load.workloads))
}

/// The other end: holds its stream open until its standard input ends.
pub(crate) async fn workload(load: &Workload) -> Result<()> {
    let mut stream = crate::workload::open(&load.socket, "").await?;
    super::say(READY)?;
    let mut input = tokio::io::stdin();
    loop {
        tokio::select! {
            message = stream.message() => { message?.context("the stream of X.509-SVIDs ended")?; }
            _ = input.read_u8() => return Ok(()),
        }
    }
}

fn start(load: &Node, uid: u32) -> Result<Child> {
    Command::new("/proc/self/exe")
        .arg("workload")
        .arg(&load.workload_socket)
        .env("TOKIO_WORKER_THREADS", "1")
        .uid(uid)
        .gid(uid)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("start a workload")
}

async fn ready(workload: &mut Child) -> Result<()> {
    let output = workload.stdout.as_mut().context("a workload without output")?;
    let mut line = String::new();
    BufReader::new(output)
        .read_line(&mut line)
        .await
        .context("listen to a workload")?;
    ensure!(line.trim() == READY, "a workload ended without an SVID");
    Ok(())
}
