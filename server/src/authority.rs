//! Which key signs, and when does it change?
//!
//! Three kinds of authority sign: X.509 authorities certificates, JWT and WIT authorities tokens. Of each kind one is
//! *active* and signs, one may be *prepared* and is already published, and *old* ones stay published until everything
//! they signed has expired. All replicas share them: they live in one record of the store, changed by compare-and-swap
//! under a lease, private keys sealed under the key manager's key.
//!
//! - Comes in: what `mint` encoded and checked and `ledger` made durable; the time; an administrator's prepare,
//!   activate, taint and revoke.
//! - Goes out: signatures, the trust bundle, and word of each change of it.
//! - Who may call it: `issuance` to sign, `trust` and `api` for the bundle and the administration.
//!
//! ```text
//! prepare ──► prepared ──activate──► active ──(next is activated)──► old ──end + grace──► gone
//!              at 1/2 of the active one's life      with 1/6 left         └─taint─► tainted ─revoke─► gone
//! ```

mod error;
mod keys;
mod make;
mod metrics;
mod rotation;
mod signer;
mod snapshot;
mod state;

use std::path::PathBuf;
use std::sync::Arc;

use mintmark_identity::{Bundle, JwsAlg, KeyId, TrustDomain, Ttl};
use mintmark_runtime::clock::Clock;
use tokio::sync::watch;

use crate::ledger::Ledger;
use crate::store::Store;

pub use error::{AuthorityError, SignError};
pub use keys::KeyManager;
pub use signer::{JwsAuthority, X509Authority};

use snapshot::Shared;

/// The three kinds of authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Signs X.509-SVIDs.
    X509,
    /// Signs JWT-SVIDs.
    Jwt,
    /// Signs WIT-SVIDs.
    Wit,
}

/// Where an authority is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// Published, signs nothing yet.
    Prepared,
    /// Signs.
    Active,
    /// Signs nothing any more; what it signed is still verified.
    Old,
}

/// What there is to know about one authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityInfo {
    /// What it signs.
    pub kind: Kind,
    /// Its name: the subject key identifier in hex, which is also a token's `kid`.
    pub key_id: KeyId,
    /// Where it is in its life.
    pub slot: Slot,
    /// From when on it is valid, seconds since 1970.
    pub not_before: i64,
    /// Until when it is valid, seconds since 1970; nothing that it signs outlives this.
    pub not_after: i64,
    /// Whether what it signed is to be replaced.
    pub tainted: bool,
    /// The keys that its tokens are signed with, and their `kid`s; of an X.509 authority none. The first one is its
    /// own.
    pub token_keys: Vec<(JwsAlg, KeyId)>,
}

/// On which curve X.509 authorities are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaKey {
    /// P-256 with SHA-256.
    #[default]
    P256,
    /// P-384 with SHA-384.
    P384,
}

/// Whether RS256 tokens can be asked for, and where the key comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Rs256 {
    /// No: tokens are signed with ES256.
    #[default]
    Off,
    /// With a key of 2,048 bits that is made with each authority.
    Made,
    /// With the key in this PEM file, for all authorities; 2,048 to 4,096 bits.
    Imported(PathBuf),
}

/// How long authorities live and what keys they have.
#[derive(Clone, Debug)]
pub struct AuthorityConfig {
    /// The life of an authority, of whichever kind; 24 h by default. Credentials are shortened to it.
    pub ttl: Ttl,
    /// The curve of X.509 authorities; P-256 by default.
    pub ca_key: CaKey,
    /// RS256 beside ES256; off by default.
    pub jwt_rs256: Rs256,
}

impl Default for AuthorityConfig {
    fn default() -> Self {
        Self {
            ttl: Ttl::constant(24 * 3_600),
            ca_key: CaKey::default(),
            jwt_rs256: Rs256::default(),
        }
    }
}

/// The authorities of one trust domain, shared by all replicas. Clones share one state.
#[derive(Clone)]
pub struct Authorities {
    shared: Arc<Shared>,
}

impl Authorities {
    /// Reads the authorities from the store, makes those that are missing, and is ready to sign.
    ///
    /// # Errors
    /// When the store or the ledger fails, a private key does not open, or a key to import is unusable.
    pub async fn start(
        store: Store,
        ledger: Ledger,
        keys: KeyManager,
        clock: Clock,
        config: AuthorityConfig,
        trust_domain: TrustDomain,
    ) -> Result<Self, AuthorityError> {
        let shared = Shared::start(store, ledger, keys, clock, config, trust_domain).await?;
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The X.509 authority that signs now.
    pub fn x509(&self) -> Arc<X509Authority> {
        Arc::clone(&self.shared.current().x509)
    }

    /// The key that signs JWT-SVIDs now, with the algorithm that was asked for; ES256 unless something else was.
    ///
    /// # Errors
    /// When no key of that algorithm is there.
    pub fn jws(&self, algorithm: Option<JwsAlg>) -> Result<Arc<JwsAuthority>, AuthorityError> {
        let current = self.shared.current();
        let wanted = algorithm.unwrap_or(JwsAlg::Es256);
        current
            .jwt
            .iter()
            .find(|key| key.algorithm() == wanted)
            .map(Arc::clone)
            .ok_or_else(|| AuthorityError::Algorithm {
                wanted,
                have: current.jwt.iter().map(|key| key.algorithm()).collect(),
            })
    }

    /// The key that signs WIT-SVIDs now.
    pub fn wit(&self) -> Arc<JwsAuthority> {
        Arc::clone(&self.shared.current().wit)
    }

    /// All authorities of one kind: the active one first, then the prepared one, then old ones, the newest first.
    pub fn list(&self, kind: Kind) -> Vec<AuthorityInfo> {
        self.shared.current().state.list(kind)
    }

    /// Makes an authority and publishes it, in place of one that was prepared before.
    ///
    /// # Errors
    /// When the store or the ledger fails.
    pub async fn prepare(&self, kind: Kind) -> Result<AuthorityInfo, AuthorityError> {
        self.shared.prepare(kind).await
    }

    /// Makes the prepared authority the one that signs; the active one becomes old. Without a name it is whichever is
    /// prepared.
    ///
    /// # Errors
    /// When none is prepared or it has another name.
    pub async fn activate(&self, kind: Kind, key_id: Option<&KeyId>) -> Result<AuthorityInfo, AuthorityError> {
        self.shared.activate(kind, key_id).await
    }

    /// Marks an old authority as no longer to be trusted: what it signed is to be replaced. Without a name it is the
    /// newest old one.
    ///
    /// # Errors
    /// When there is none of that name or it is not old.
    pub async fn taint(&self, kind: Kind, key_id: Option<&KeyId>) -> Result<AuthorityInfo, AuthorityError> {
        self.shared.taint(kind, key_id).await
    }

    /// Takes a tainted old authority out of the bundle: what it signed is no longer verified. Without a name it is the
    /// newest tainted one.
    ///
    /// # Errors
    /// When there is none of that name or it is not old and tainted.
    pub async fn revoke(&self, kind: Kind, key_id: Option<&KeyId>) -> Result<AuthorityInfo, AuthorityError> {
        self.shared.revoke(kind, key_id).await
    }

    /// The trust bundle as it is published now.
    pub fn bundle(&self) -> Arc<Bundle> {
        Arc::clone(&self.shared.current().bundle)
    }

    /// The trust bundle, and word of each new one.
    pub fn watch_bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.shared.watch_bundle()
    }

    /// The X.509 authority that signs now, and word of each that takes over from it.
    pub fn watch_signer(&self) -> watch::Receiver<KeyId> {
        self.shared.watch_signer()
    }

    /// Shows when authorities end, as `authority_expiry_seconds`, and the bundle's number.
    pub fn register(&self, metrics: &mintmark_runtime::metrics::Metrics) {
        metrics::register(&self.shared, metrics);
    }

    /// Says that the time seems to have jumped: the next rotation is decided anew, at once.
    pub fn nudge(&self) {
        self.shared.nudge();
    }

    /// Waits until nothing is due.
    #[cfg(test)]
    pub(crate) async fn settled(&self) {
        let give_up = Clock::system().unix() + 20;
        while !self.shared.current().state.due(self.shared.clock.unix()).is_empty() {
            assert!(Clock::system().unix() < give_up, "nothing rotates: {self:?}");
            tokio::task::yield_now().await;
        }
    }

    /// Rotates the authorities when they are due, and follows what other replicas do, until `shutdown`.
    pub async fn run(self, shutdown: tokio_util::sync::CancellationToken) {
        rotation::run(&self.shared, shutdown).await;
    }
}

impl Kind {
    /// All three.
    pub const ALL: [Self; 3] = [Self::X509, Self::Jwt, Self::Wit];

    /// Its name in logs, metrics and commands.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
            Self::Wit => "wit",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl Slot {
    /// Its name in logs, metrics and commands.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Old => "old",
        }
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::fmt::Debug for Authorities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorities")
            .field("state", &self.shared.current().state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
