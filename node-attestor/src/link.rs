//! What does the server push, and what do I report?
//!
//! In: the node's proof from `join`, the pods from `mount`. Out: what applies to this node, held in `keep`, signatures for `keep` ([`Link`] is its [`Upstream`]), and what the server thinks of each pod. One task keeps one stream to the
//! server, begins each with what is held already, and comes back after a failure with a growing wait. The node's own SVID is renewed at half of its life, and the stream moved to a
//! connection with the new one.
//!
//! ```text
//! join ──SVID──► session ──Hello, Ack, Sign, Status, PodUp, PodDown──► server
//!                   │ ◄──Update, Signed, PodJudged───────────────────┘
//!                   └──apply──► keep, mount
//! ```

mod calls;
mod metrics;
mod pump;
mod session;

use std::sync::{Arc, Mutex, PoisonError};

use mintmark_identity::SpiffeId;
use mintmark_runtime::clock::Clock;
use mintmark_runtime::metrics::Metrics;
use tokio::sync::watch;

use crate::join::Join;
use crate::mount::Pods;
use pump::Connection;

pub use metrics::LinkMetrics;
pub use session::run;

/// How the link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Not tried yet.
    Starting,
    /// The server is being called.
    Connecting,
    /// There is a stream.
    Up,
    /// There is none, for this reason.
    Down(String),
    /// The node is banned.
    Banned,
}

/// The link, as others see it. A handle.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

struct Shared {
    join: Join,
    pods: Pods,
    clock: Clock,
    metrics: LinkMetrics,
    connection: Mutex<Option<Connection>>,
    is_up: watch::Sender<bool>,
    state: watch::Sender<LinkState>,
}

impl Link {
    /// A link that is not up yet: [`run`] keeps it.
    pub fn new(join: Join, pods: Pods, clock: Clock, metrics: &Metrics) -> Self {
        Self(Arc::new(Shared {
            join,
            pods,
            clock,
            metrics: LinkMetrics::register(metrics),
            connection: Mutex::default(),
            is_up: watch::Sender::new(false),
            state: watch::Sender::new(LinkState::Starting),
        }))
    }

    /// How it is, and how it changes.
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.0.state.subscribe()
    }

    /// The node, once it has an SVID.
    pub fn node(&self) -> Option<SpiffeId> {
        self.0.join.node().map(|node| node.id)
    }

    fn connection(&self) -> Option<Connection> {
        self.0.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_connection(&self, connection: Option<Connection>) {
        let up = connection.is_some();
        *self.0.connection.lock().unwrap_or_else(PoisonError::into_inner) = connection;
        self.0.metrics.up.set(i64::from(up));
        // Told again when one connection follows another.
        self.0.is_up.send_replace(up);
    }

    fn set_state(&self, state: LinkState) {
        self.0
            .state
            .send_if_modified(|old| std::mem::replace(old, state.clone()) != state);
    }
}

impl std::fmt::Display for LinkState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::Connecting => f.write_str("connecting"),
            Self::Up => f.write_str("up"),
            Self::Down(why) => write!(f, "down: {why}"),
            Self::Banned => f.write_str("down: this node is banned"),
        }
    }
}

#[cfg(test)]
mod tests;
