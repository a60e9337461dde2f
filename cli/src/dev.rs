//! `mintmark dev`: a whole Mintmark in this process, on one machine, with nothing else needed.
//!
//! In: a directory. Out: a server and an attestor that run, an identity for whoever called, and an X.509-SVID fetched as any workload would fetch it. It serves until
//! it is interrupted, and the next start in the same directory goes on where this one ended.

mod layout;
mod setup;
mod state;
mod story;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mintmark_attestor::Attestor;
use mintmark_identity::{Bundle, TrustDomain, Ttl};
use mintmark_runtime::clock::Clock;
use mintmark_runtime::config::{Listen, ListenPath};
use mintmark_runtime::crypto::{SecretString, hide_memory};
use mintmark_runtime::fs::{DirLock, LockError, write_atomic};
use mintmark_runtime::task::{Stop, shutdown_signal};
use mintmark_runtime::telemetry::{self, LogConfig, LogHandle};
use mintmark_server::server::{Options, Running as RunningServer, Server};

use self::layout::Layout;
use self::setup::Setup;
use self::state::State;
use self::story::Story;
use crate::args::{Globals, SocketPath, WorkloadSocket};
use crate::context::Context;
use crate::failure::{Failure, refused};
use crate::output::certificates::pem;

pub const EXAMPLES: &str = "\
Examples:
  mintmark dev
  mintmark dev --dir /tmp/try --trust-domain example.org
  mintmark dev --ca-ttl 10m --log info                    # see it rotate

It prints how to reach it: export the two variables in another terminal, and every other command finds it there. \
Ctrl-C stops it; the same command in the same directory goes on with the same authorities, entries and ledger. \
Remove the directory to begin anew.";

/// The trust domain of a new directory.
const DEFAULT_TRUST_DOMAIN: &str = "dev.mintmark.test";
/// How long the attestor may take to stop.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct Dev {
    /// Where everything is kept
    #[arg(long, value_name = "DIR", default_value = "./.mintmark")]
    dir: PathBuf,
    /// The trust domain [default: the one of the directory, dev.mintmark.test for a new one]
    #[arg(long, value_name = "NAME", value_parser = crate::command::trust_domain)]
    trust_domain: Option<TrustDomain>,
    /// Lifetime of X.509-SVIDs [default: 1h, and no more than a sixth of --ca-ttl]
    #[arg(long, value_name = "TIME")]
    x509_ttl: Option<Ttl>,
    /// Lifetime of JWT-SVIDs [default: 5m, and no more than a sixth of --ca-ttl]
    #[arg(long, value_name = "TIME")]
    jwt_ttl: Option<Ttl>,
    /// Lifetime of authorities
    #[arg(long, value_name = "TIME", default_value = "24h")]
    ca_ttl: Ttl,
    /// What is logged, on standard error: a level, or a list such as warn,mintmark_server::issuance=debug
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
}

impl Dev {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let log = self.start_log()?;
        let done = self.serve(context, &log).await;
        log.flush(Duration::from_secs(1));
        done
    }

    fn start_log(&self) -> Result<LogHandle, Failure> {
        let config = LogConfig {
            filter: self.log.clone(),
            ..LogConfig::default()
        };
        config.check().map_err(|error| Failure::Usage(error.to_string()))?;
        if let Err(error) = hide_memory() {
            context_free_warning(&error);
        }
        telemetry::init(&config).map_err(refused)
    }

    async fn serve(self, context: &Context, log: &LogHandle) -> Result<(), Failure> {
        let layout = Layout::of(&self.dir)?;
        let _lock = DirLock::acquire(&layout.dir).map_err(|error| in_use(&error))?;
        let known = State::read(&layout.state)?;
        let trust_domain = self.choose_trust_domain(&layout, known.as_ref())?;
        let ports = known.as_ref().map(|known| known.ports).unwrap_or_default().free();

        let clock = context.clock.clone();
        let server = self.start_server(&layout, &trust_domain, &ports, &clock, log).await?;
        let parts = async {
            write_bundle(&layout, &server.bundle())?;
            let context = inside(context, &layout);
            let setup = Setup::before_join(&context, &trust_domain).await?;
            let attestor = self
                .start_attestor(&layout, &trust_domain, &server, &setup, &ports, &clock)
                .await?;
            Ok::<_, Failure>((context, setup, attestor))
        };
        let (inside, setup, attestor) = match parts.await {
            Ok(parts) => parts,
            Err(failure) => {
                server.shutdown().await;
                return Err(failure);
            }
        };
        let served = async {
            let first = setup.first_svid(&inside, &attestor).await?;
            State::of(&trust_domain, &server, &attestor).write(&layout.state)?;
            let story = Story::of(&layout, &server, &setup, first, known.is_some());
            context.out.value(&story, |story| story.text(clock.unix()))?;
            until_stopped(&layout, &server, &attestor).await
        };
        let served = tokio::select! {
            served = served => served,
            // While it is still being set up.
            _ = shutdown_signal() => Ok(()),
        };
        let stop = async {
            attestor.shutdown(GRACE).await;
            server.shutdown().await;
        };
        tokio::select! {
            () = stop => served,
            signal = shutdown_signal() => Err(Failure::Refused(format!("{signal} for a second time: stopped without closing everything in good order"))),
        }
    }

    /// The one that is asked for, that of the directory, or the default.
    fn choose_trust_domain(&self, layout: &Layout, known: Option<&State>) -> Result<TrustDomain, Failure> {
        match (&self.trust_domain, known) {
            (Some(asked), Some(known)) if *asked != known.trust_domain => Err(Failure::Refused(format!(
                "{} belongs to trust domain {}, not to {asked}; use another --dir, or remove this one to begin anew",
                layout.dir.display(),
                known.trust_domain
            ))),
            (_, Some(known)) => Ok(known.trust_domain.clone()),
            (Some(asked), None) => Ok(asked.clone()),
            (None, None) => TrustDomain::parse(DEFAULT_TRUST_DOMAIN).map_err(refused),
        }
    }

    async fn start_server(
        &self,
        layout: &Layout,
        trust_domain: &TrustDomain,
        ports: &state::Ports,
        clock: &Clock,
        log: &LogHandle,
    ) -> Result<RunningServer, Failure> {
        let mut config = mintmark_server::config::Config::quiet(trust_domain.clone(), layout.server_data.clone());
        config.listen.api = loopback(ports.api);
        config.listen.https = loopback(ports.https);
        config.listen.metrics = loopback(ports.server_metrics);
        config.listen.admin = ListenPath::new(&layout.admin_socket);
        config.ttl.ca = self.ca_ttl;
        config.ttl.x509 = self.x509_ttl.unwrap_or_else(|| self.short(config.ttl.x509));
        config.ttl.jwt = self.jwt_ttl.unwrap_or_else(|| self.short(config.ttl.jwt));
        let options = Options {
            log: Some(log.clone()),
            embedded: true,
            issuer_is_https_address: true,
        };
        let started = Server::start(config, clock.clone(), options).await;
        started.map_err(|error| Failure::Refused(format!("cannot start the server: {error}")))
    }

    /// A lifetime that no authority cuts short: one is active until a sixth of its own is left.
    fn short(&self, ttl: Ttl) -> Ttl {
        let sixth = Ttl::from_secs(self.ca_ttl.as_secs() / 6).unwrap_or(Ttl::constant(1));
        ttl.min(sixth)
    }

    async fn start_attestor(
        &self,
        layout: &Layout,
        trust_domain: &TrustDomain,
        server: &RunningServer,
        setup: &Setup,
        ports: &state::Ports,
        clock: &Clock,
    ) -> Result<mintmark_attestor::Running, Failure> {
        let api = server
            .api_addr()
            .ok_or_else(|| refused("the server does not listen for nodes"))?;
        let mut config = mintmark_attestor::Config::quiet(
            trust_domain.clone(),
            layout.attestor_data.clone(),
            api.to_string(),
            layout.workload_socket.clone(),
        );
        config.trust_bundle = layout.bundle.clone();
        config.join.token = SecretString::new(setup.token.clone());
        config.listen.metrics = loopback(ports.attestor_metrics);
        let started = Attestor::start(config, clock.clone()).await;
        started.map_err(|error| Failure::Refused(format!("cannot start the attestor: {error}")))
    }
}

/// Serves until it is told to stop or a part of it fails, and keeps the bundle's file up to date meanwhile.
async fn until_stopped(
    layout: &Layout,
    server: &RunningServer,
    attestor: &mintmark_attestor::Running,
) -> Result<(), Failure> {
    let mut bundles = server.rooms().authorities.watch_bundle();
    loop {
        tokio::select! {
            signal = shutdown_signal() => {
                tracing::info!(signal, "shutting down");
                return Ok(());
            }
            failure = server.stopped() => {
                let why = failure.map_or_else(|| "it ended".to_owned(), |failure| failure.to_string());
                return Err(Failure::Refused(format!("the server has stopped: {why}")));
            }
            stop = attestor.stopped() => {
                let why = match stop {
                    Stop::Failed(failure) => failure.to_string(),
                    Stop::Asked => "it ended".to_owned(),
                };
                return Err(Failure::Refused(format!("the attestor has stopped: {why}")));
            }
            Ok(()) = bundles.changed() => {
                let bundle = bundles.borrow_and_update().clone();
                write_bundle(layout, &bundle)?;
            }
        }
    }
}

/// The authorities, for curl and others that do not speak to the Workload API.
fn write_bundle(layout: &Layout, bundle: &Bundle) -> Result<(), Failure> {
    let authorities: String = bundle
        .x509
        .iter()
        .map(|authority| pem("CERTIFICATE", &authority.der))
        .collect();
    write_atomic(&layout.bundle, authorities.as_bytes(), 0o644).map_err(refused)
}

/// A context that speaks to our own sockets, as the other commands do.
fn inside(context: &Context, layout: &Layout) -> Context {
    Context::new(Globals {
        socket: Some(WorkloadSocket::Unix(layout.workload_socket.clone())),
        admin_socket: Some(SocketPath(layout.admin_socket.clone())),
        server: None,
        r#as: None,
        ..context.globals.clone()
    })
}

fn loopback(port: u16) -> Listen {
    Listen::new(([127, 0, 0, 1], port))
}

fn in_use(error: &LockError) -> Failure {
    match error {
        LockError::InUse { dir, pid } => Failure::Refused(format!(
            "`mintmark dev` runs in {} already, as process {pid}; stop it (kill {pid}), or use another --dir",
            dir.display()
        )),
        other => Failure::Refused(format!("{other}; if it is another user's, --dir names another place")),
    }
}

fn context_free_warning(error: &std::io::Error) {
    crate::output::complain(format_args!(
        "warning: this process's memory can be read by others of your processes: {error}"
    ));
}
