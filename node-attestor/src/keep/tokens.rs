//! JWT-SVIDs, remembered by entry and audience.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mintmark_identity::KeyId;
use mintmark_identity::svid::jwt;

use super::Keep;
use super::identity::Identity;
use super::keys::SecretText;
use super::upstream::UpstreamError;

/// How long the server may take when there is no token to fall back on.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take when there is one that is still valid.
const SHORT: Duration = Duration::from_secs(2);
/// Tokens for audiences of more bytes than this together are not remembered, so that what is remembered is bounded in bytes, too.
const MAX_REMEMBERED: usize = 4096;

/// A JWT-SVID.
#[derive(Debug)]
pub struct JwtSvid {
    /// The token.
    pub token: SecretText,
    /// From which second on it is not valid, Unix seconds.
    pub expires_at: i64,
    /// From which second on a new one is tried for, Unix seconds.
    pub refresh_at: i64,
    key_id: KeyId,
    shape: u64,
}

type Key = (Arc<str>, Vec<String>);

/// The tokens of this node.
pub(super) struct Tokens {
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    limit: usize,
}

#[derive(Default)]
struct Slot {
    token: Mutex<Option<Arc<JwtSvid>>>,
    /// One caller asks the server, the others wait for what it gets.
    flight: tokio::sync::Mutex<()>,
}

impl Tokens {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            slots: Mutex::default(),
            limit: limit.max(1),
        }
    }

    /// Forgets every token for which `sound`, called with entry, shape and key, is false.
    pub(super) fn keep_only(&self, sound: impl Fn(&str, u64, &KeyId) -> bool) {
        self.lock()
            .retain(|(id, _), slot| slot.get().is_none_or(|token| sound(id, token.shape, &token.key_id)));
    }

    fn slot(&self, key: Key, now: i64) -> Arc<Slot> {
        let mut slots = self.lock();
        if slots.len() >= self.limit && !slots.contains_key(&key) {
            slots.retain(|_, slot| {
                Arc::strong_count(slot) > 1 || slot.get().is_some_and(|token| token.expires_at > now)
            });
        }
        while slots.len() >= self.limit && !slots.contains_key(&key) {
            let first = slots
                .iter()
                .min_by_key(|(_, slot)| slot.get().map(|token| token.expires_at));
            let Some(first) = first.map(|(key, _)| key.clone()) else {
                break;
            };
            slots.remove(&first);
        }
        Arc::clone(slots.entry(key).or_default())
    }

    pub(super) fn len(&self) -> usize {
        self.lock().values().filter(|slot| slot.get().is_some()).count()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn get(&self) -> Option<Arc<JwtSvid>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, token: Option<Arc<JwtSvid>>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }
}

impl Keep {
    /// A JWT-SVID of `identity` for `audience`: a remembered one up to half of its life, else a new one; a remembered one that is still valid when the
    /// server does not answer soon.
    ///
    /// # Errors
    /// When the server refuses, or cannot be asked and nothing valid is remembered.
    pub async fn jwt(&self, identity: &Identity, audience: &[String]) -> Result<Arc<JwtSvid>, UpstreamError> {
        let clock = &self.0.clock;
        let mut audience = audience.to_vec();
        audience.sort_unstable();
        audience.dedup();
        let slot = match audience.iter().map(String::len).sum::<usize>() > MAX_REMEMBERED {
            true => Arc::default(),
            false => self
                .0
                .jwt
                .slot((Arc::clone(&identity.id), audience.clone()), clock.unix()),
        };
        let held = |until: fn(&JwtSvid) -> i64| {
            let now = clock.unix();
            slot.get()
                .filter(|token| token.shape == identity.shape && until(token) > now)
        };
        if let Some(fresh) = held(|token| token.refresh_at) {
            return Ok(fresh);
        }
        let valid = held(|token| token.expires_at);
        let patience = if valid.is_some() { SHORT } else { PATIENCE };
        let ask = async {
            let _flight = slot.flight.lock().await;
            if let Some(fresh) = held(|token| token.refresh_at) {
                return Ok(fresh);
            }
            let answer = self.0.upstream.jwt(&identity.id, audience.clone()).await?;
            let token = Arc::new(accept(answer.token, identity, &audience, clock.unix())?);
            slot.set(Some(Arc::clone(&token)));
            // What became unsound while it was on its way was not there yet to be forgotten.
            if !self.is_sound_jwt(&identity.id, identity.shape, &token.key_id) {
                slot.set(None);
            }
            Ok(token)
        };
        let answer = clock.timeout(patience, ask).await.unwrap_or(Err(UpstreamError::Late));
        match (answer, valid) {
            (Err(error), Some(valid)) if error.is_passing() => {
                tracing::debug!(entry = %identity.id, %error, "the JWT-SVID could not be renewed; the old one is still valid");
                Ok(valid)
            }
            (answer, _) => answer,
        }
    }
}

/// Takes the server's answer, if it is a JWT-SVID of the identity for the audience.
fn accept(token: String, identity: &Identity, audience: &[String], now: i64) -> Result<JwtSvid, UpstreamError> {
    let nonsense = |why: String| UpstreamError::Nonsense(why);
    let parsed = jwt::Token::parse(&token).map_err(|error| nonsense(error.to_string()))?;
    if *parsed.subject() != identity.spiffe_id {
        return Err(nonsense(format!(
            "a token of {}, not of {}",
            parsed.subject(),
            identity.spiffe_id
        )));
    }
    if !audience.iter().all(|one| parsed.audience().contains(one)) {
        return Err(nonsense("a token for another audience".into()));
    }
    let expires_at = parsed.expires_at();
    if expires_at <= now {
        return Err(nonsense(format!("a token that ended at {expires_at}")));
    }
    Ok(JwtSvid {
        key_id: parsed.key_id().clone(),
        shape: identity.shape,
        refresh_at: now + (expires_at - now) / 2,
        expires_at,
        token: token.into(),
    })
}
