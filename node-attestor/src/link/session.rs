//! The life of the link: join, connect, serve, renew, and come back.

use std::time::Duration;

use mintmark_runtime::task::{Backoff, Supervisor};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::pump::Pump;
use super::{Link, LinkState};
use crate::join::{JoinError, Node, Refusal, in_full};
use crate::keep::Keep;

/// Waits before the server is called again: from, to.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// Waits where somebody has to do something first.
const SOMEBODY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// Why a stream, or the attempt at one, ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error("{}", in_full(.0))]
    Status(#[from] Status),
}

/// A stream under way.
struct Running {
    ended: oneshot::Receiver<Status>,
    in_step: CancellationToken,
    /// Ends it when dropped.
    stop: tokio_util::sync::DropGuard,
}

/// Keeps the link until shutdown.
pub async fn run(link: Link, keep: Keep, supervisor: Supervisor) {
    let shutdown = supervisor.token();
    let mut again = Backoff::new(AGAIN.0, AGAIN.1);
    let mut somebody = Backoff::new(SOMEBODY.0, SOMEBODY.1);
    loop {
        let was_in_step = CancellationToken::new();
        let session = session(&link, &keep, &supervisor, &was_in_step);
        let ended = tokio::select! {
            ended = session => ended,
            () = shutdown.cancelled() => break,
        };
        link.set_connection(None);
        // The stream ends with the program, which is no failure.
        if shutdown.is_cancelled() {
            break;
        }
        link.0.metrics.failures.inc();
        if was_in_step.is_cancelled() {
            again.reset();
            somebody.reset();
        }
        let wait = react(&link, &keep, &ended, &mut again, &mut somebody);
        tokio::select! {
            () = link.0.clock.sleep(wait) => {}
            () = shutdown.cancelled() => break,
        }
    }
    link.set_connection(None);
}

/// Tells what happened, to the log and to whoever looks, and says how long to wait.
fn react(link: &Link, keep: &Keep, ended: &Ended, again: &mut Backoff, somebody: &mut Backoff) -> Duration {
    let refusal = match ended {
        Ended::Join(JoinError::Refused(refusal)) => Some(*refusal),
        Ended::Join(JoinError::Connect(text)) => refused_certificate(text),
        Ended::Join(_) => None,
        Ended::Status(status) => Refusal::of(status).or_else(|| refused_certificate(&in_full(status))),
    };
    match refusal {
        Some(Refusal::Banned) => {
            // An administrator has said that this node is to have nothing.
            keep.forget();
            link.set_state(LinkState::Banned);
            let wait = somebody.next_wait();
            tracing::error!(?wait, "{}; all identities are withdrawn", Refusal::Banned);
            return wait;
        }
        Some(refusal) => link.0.join.reject(refusal),
        None => {}
    }
    let needs_somebody = matches!(ended, Ended::Join(error) if error.needs_somebody() && refusal.is_none());
    let wait = if needs_somebody {
        somebody.next_wait()
    } else {
        again.next_wait()
    };
    let text = match ended {
        Ended::Status(status) if status.code() == Code::Aborted => {
            format!(
                "{}; does another attestor run with a copy of this node's data_dir?",
                status.message()
            )
        }
        ended => ended.to_string(),
    };
    if needs_somebody {
        tracing::error!(?wait, "no link to the server: {text}");
    } else {
        tracing::warn!(?wait, "no link to the server: {text}");
    }
    link.set_state(LinkState::Down(text));
    wait
}

/// A server that does not accept our certificate says so by an alert, which comes when the connection seems to be up already.
fn refused_certificate(text: &str) -> Option<Refusal> {
    let alerts = [
        ("CertificateExpired", Refusal::Expired),
        ("UnknownCA", Refusal::NotAttested),
        ("CertificateUnknown", Refusal::NotAttested),
        ("BadCertificate", Refusal::NotAttested),
        ("DecryptError", Refusal::NotAttested),
        ("AccessDenied", Refusal::NotAttested),
    ];
    let (_, alert) = text.split_once("received fatal alert: ")?;
    alerts
        .into_iter()
        .find(|(name, _)| alert.starts_with(name))
        .map(|(_, refusal)| refusal)
}

/// One time around: returns only when there is no stream any more.
async fn session(link: &Link, keep: &Keep, supervisor: &Supervisor, was_in_step: &CancellationToken) -> Ended {
    match serve(link, keep, supervisor, was_in_step).await {
        Ok(never) => match never {},
        Err(ended) => ended,
    }
}

async fn serve(
    link: &Link,
    keep: &Keep,
    supervisor: &Supervisor,
    was_in_step: &CancellationToken,
) -> Result<std::convert::Infallible, Ended> {
    link.set_state(LinkState::Connecting);
    let mut node = link.0.join.ensure().await?;
    got(link, keep, &node);
    let mut running = begin(link, keep, supervisor).await?;
    let mut renewals = Backoff::new(AGAIN.0, AGAIN.1);
    let mut renew_at = node.renew_at;
    let mut changes = keep.changes();
    // The authority for whose sake the node's SVID is replaced before its time: asked once, whatever comes of it.
    let mut unsound = None;
    loop {
        if node
            .authority
            .as_ref()
            .is_some_and(|authority| !keep.is_sound(authority))
            && unsound != node.authority
        {
            tracing::info!(node = %node.id, "renewing the node's own SVID, as the authority that signed it is tainted or removed");
            unsound.clone_from(&node.authority);
            renew_at = link.0.clock.unix();
        }
        tokio::select! {
            Ok(()) = changes.changed() => {}
            status = &mut running.ended => {
                return Err(status.unwrap_or_else(|_| Status::internal("the link's task failed")).into());
            }
            () = running.in_step.cancelled(), if !was_in_step.is_cancelled() => {
                was_in_step.cancel();
                tracing::info!(node = %node.id, "in step with the server");
            }
            () = link.0.clock.sleep_until_unix(renew_at) => {
                match renew(link, keep, supervisor, running).await {
                    (Ok(renewed), Some(next)) => {
                        renewals.reset();
                        (node, running, renew_at) = (renewed.clone(), next, renewed.renew_at);
                    }
                    (Ok(_), None) => return Err(Status::unavailable("no link with the node's new SVID").into()),
                    (Err(error), Some(same)) => {
                        let wait = renewals.next_wait();
                        tracing::warn!(%error, ?wait, not_after = node.not_after, "the node's own SVID was not renewed; trying again");
                        running = same;
                        let wait = i64::try_from(wait.as_secs()).unwrap_or_default().max(1);
                        renew_at = link.0.clock.unix() + wait;
                        if node.not_after <= link.0.clock.unix() {
                            return Err(error.into());
                        }
                    }
                    (Err(error), None) => return Err(error.into()),
                }
            }
        }
    }
}

/// Renews the node's SVID over the present connection, then moves the link to one with the new SVID. The present stream goes on until the new connection stands.
async fn renew(
    link: &Link,
    keep: &Keep,
    supervisor: &Supervisor,
    running: Running,
) -> (Result<Node, JoinError>, Option<Running>) {
    let Some(connection) = link.connection() else {
        return (Err(JoinError::Connect("the link ended".into())), None);
    };
    let node = match link.0.join.renew(&connection.channel).await {
        Ok(node) => node,
        Err(JoinError::Refused(refusal)) => return (Err(JoinError::Refused(refusal)), None),
        Err(error) => return (Err(error), Some(running)),
    };
    got(link, keep, &node);
    let next = match link.0.join.dial().await {
        Ok(channel) => {
            // Two streams at once would tell two stories.
            drop(running.stop);
            let _ = running.ended.await;
            open(link, keep, supervisor, channel)
                .await
                .map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = &next {
        tracing::warn!(
            error,
            "the link could not be moved to a connection with the node's new SVID"
        );
    }
    (Ok(node), next.ok())
}

async fn begin(link: &Link, keep: &Keep, supervisor: &Supervisor) -> Result<Running, Ended> {
    let channel = link.0.join.dial().await?;
    open(link, keep, supervisor, channel).await
}

async fn open(
    link: &Link,
    keep: &Keep,
    supervisor: &Supervisor,
    channel: tonic::transport::Channel,
) -> Result<Running, Ended> {
    let shared = &link.0;
    let opened = Pump::open(
        channel,
        keep.clone(),
        shared.join.clone(),
        shared.pods.clone(),
        shared.clock.clone(),
        shared.metrics.clone(),
    )
    .await;
    let (pump, connection) = opened?;
    shared.metrics.connects.inc();
    let (in_step, stop) = (CancellationToken::new(), supervisor.token().child_token());
    let (tell, ended) = oneshot::channel();
    let run = pump.run(in_step.clone(), stop.clone());
    supervisor.spawn("link", async move {
        // Nobody listens any more when the session has ended otherwise.
        let _ = tell.send(run.await);
    });
    link.set_connection(Some(connection));
    link.set_state(LinkState::Up);
    Ok(Running {
        ended,
        in_step,
        stop: stop.drop_guard(),
    })
}

fn got(link: &Link, keep: &Keep, node: &Node) {
    keep.set_node(&node.id);
    link.0.metrics.node_svids.inc();
    link.0.metrics.node_not_after.set(node.not_after);
}
