//! Join tokens: a secret that an administrator hands to a node, good for one attestation within its time.
//!
//! The store holds a token's digest, not the token. It is used up in the transaction that records the node, so that of two nodes with one token one joins.

use mintmark_identity::{SpiffeId, TrustDomain, Ttl};
use mintmark_runtime::clock::Clock;
use serde::{Deserialize, Serialize};

use super::NodeEvidence;
use crate::store::{KeyValue, Store, StoreError, Txn};

/// The method's name, in IDs and in the API.
pub const METHOD: &str = "join_token";
/// A token that an administrator chooses has at least this many characters, and at most [`MAX_LENGTH`].
pub const MIN_LENGTH: usize = 16;
/// See [`MIN_LENGTH`].
pub const MAX_LENGTH: usize = 255;
/// A token lives this long when nobody says otherwise, in seconds (as SPIRE's).
pub const DEFAULT_TTL: u64 = 600;
/// A token lives at most this long, in seconds (30 days).
pub const MAX_TTL: u64 = 30 * 24 * 3600;

#[derive(Serialize, Deserialize)]
struct Record {
    expires_at: i64,
}

/// Why there is no token, or why it does not help.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A chosen token is unfit.
    #[error(
        "a join token is {MIN_LENGTH} to {MAX_LENGTH} characters of a-z A-Z 0-9 . _ -, because it becomes part of the node's SPIFFE ID"
    )]
    Unfit,
    /// A chosen token is there already.
    #[error("this join token exists already")]
    Exists,
    /// The time is too long.
    #[error("a join token lives at most {MAX_TTL} seconds, not {0}")]
    TooLong(u64),
    /// Nobody made this token, or it was used, or its time is over; which of them is not told to the caller.
    #[error("the join token is unknown, used or expired: make a new one with `mintmark token create`")]
    Unusable,
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The ID of a node that joins with `token`.
///
/// # Errors
/// When the token cannot be part of an ID.
pub fn node_id(trust_domain: &TrustDomain, token: &str) -> Result<SpiffeId, TokenError> {
    let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    if token.len() > MAX_LENGTH || !token.bytes().all(legal) {
        return Err(TokenError::Unfit);
    }
    SpiffeId::agent(trust_domain, METHOD, token).map_err(|_| TokenError::Unfit)
}

/// A node's ID for the log, as long as the token in it may still be good: only the token's beginning is shown.
pub fn without_token(id: &SpiffeId) -> String {
    /// Enough to tell nodes from each other, and of no use to those who guess.
    const SHOWN: usize = 4;
    match id.path().strip_prefix("/spire/agent/join_token/") {
        Some(token) => {
            let hidden = token.len().saturating_sub(SHOWN);
            let end = id.as_str().len() - hidden;
            format!("{}…", id.as_str().get(..end).unwrap_or_default())
        }
        None => id.to_string(),
    }
}

/// Makes a token, or takes the one that was chosen; gives it and its end in Unix seconds.
///
/// # Errors
/// A chosen token is unfit or there already; the time is too long; the store did not take it.
pub async fn create(
    store: &Store,
    clock: &Clock,
    trust_domain: &TrustDomain,
    chosen: Option<String>,
    ttl: Option<Ttl>,
) -> Result<(String, i64), TokenError> {
    let seconds = ttl.map_or(DEFAULT_TTL, Ttl::as_secs);
    if seconds > MAX_TTL {
        return Err(TokenError::TooLong(seconds));
    }
    let token = match chosen {
        Some(token) if token.len() < MIN_LENGTH => return Err(TokenError::Unfit),
        Some(token) => token,
        None => uuid::Uuid::from_bytes(mintmark_runtime::crypto::random()).to_string(),
    };
    node_id(trust_domain, &token)?;
    let expires_at = clock.unix().saturating_add_unsigned(seconds);
    let mut txn = Txn::new();
    let key = key(&token);
    txn = match store.get(&key).await? {
        Some(old) if is_usable(&old.value, clock) => return Err(TokenError::Exists),
        Some(old) => txn.expect_revision(key.clone(), old.modified),
        None => txn.expect_absent(key.clone()),
    };
    let record = serde_json::to_vec(&Record { expires_at }).expect("a number is JSON");
    match store.commit(txn.put(key, record)).await {
        Ok(_) => Ok((token, expires_at)),
        Err(StoreError::Conflict { .. }) => Err(TokenError::Exists),
        Err(error) => Err(error.into()),
    }
}

/// What `token` proves. It is used up only when the attestation is recorded.
///
/// # Errors
/// The token is no good.
pub async fn verify(
    store: &Store,
    clock: &Clock,
    trust_domain: &TrustDomain,
    token: &str,
) -> Result<NodeEvidence, TokenError> {
    let id = node_id(trust_domain, token).map_err(|_| TokenError::Unusable)?;
    let key = key(token);
    match store.get(&key).await? {
        Some(item) if is_usable(&item.value, clock) => Ok(NodeEvidence {
            id,
            method: METHOD,
            selectors: Vec::new(),
            can_reattest: false,
            consume: Some(key),
        }),
        _ => Err(TokenError::Unusable),
    }
}

/// Removes tokens whose time is over; gives their number. Called before a token is made, so that unused ones do not pile up.
///
/// # Errors
/// The store did not answer.
pub async fn prune(store: &Store, clock: &Clock) -> Result<usize, StoreError> {
    remove(store, stale(store, clock).await?).await
}

async fn stale(store: &Store, clock: &Clock) -> Result<Vec<KeyValue>, StoreError> {
    let (_, mut page) = store.range(PREFIX, None, 1_000).await?;
    page.retain(|item| !is_usable(&item.value, clock));
    Ok(page)
}

/// Removes tokens as they were found. If one was made again meanwhile, all stay until the next time.
async fn remove(store: &Store, stale: Vec<KeyValue>) -> Result<usize, StoreError> {
    if stale.is_empty() {
        return Ok(0);
    }
    let txn = stale.iter().fold(Txn::new(), |txn, item| {
        txn.expect_revision(item.key.clone(), item.modified)
            .delete(item.key.clone())
    });
    match store.commit(txn).await {
        Ok(_) => Ok(stale.len()),
        Err(StoreError::Conflict { .. }) => Ok(0),
        Err(error) => Err(error),
    }
}

const PREFIX: &[u8] = b"token/";

/// The digest, so that neither the store nor a backup of it holds a token that could be used.
fn key(token: &str) -> Vec<u8> {
    let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    [PREFIX, hex::encode(digest).as_bytes()].concat()
}

fn is_usable(value: &[u8], clock: &Clock) -> bool {
    serde_json::from_slice::<Record>(value).is_ok_and(|record| record.expires_at > clock.unix())
}

#[cfg(test)]
mod tests {
    use super::super::Nodes;
    use super::*;
    use mintmark_identity::Serial;

    fn world() -> (Store, Clock, TrustDomain) {
        (
            Store::memory(),
            Clock::manual(1_800_000_000),
            TrustDomain::parse("example.org").unwrap(),
        )
    }

    #[tokio::test]
    async fn a_token_joins_one_node_once() {
        let (store, clock, td) = world();
        let (nodes, task) = Nodes::new(store.clone(), clock.clone());
        let task = tokio::spawn(task.run());
        let (token, _) = create(&store, &clock, &td, None, None).await.unwrap();
        let first = verify(&store, &clock, &td, &token).await.unwrap();
        let second = verify(&store, &clock, &td, &token).await.unwrap();
        let serials = [1, 2].map(|n| Serial::new(1, n, [0; 11]).unwrap());
        let (a, b) = tokio::join!(
            nodes.attested(first, &serials[0], i64::MAX),
            nodes.attested(second, &serials[1], i64::MAX)
        );
        assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
        assert!(matches!(
            verify(&store, &clock, &td, &token).await,
            Err(TokenError::Unusable)
        ));
        task.abort();
    }

    #[tokio::test]
    async fn a_token_ends_with_its_time() {
        let (store, clock, td) = world();
        let (token, end) = create(&store, &clock, &td, None, Some(Ttl::from_secs(5).unwrap()))
            .await
            .unwrap();
        assert_eq!(end, 1_800_000_005);
        clock.advance(std::time::Duration::from_secs(5));
        assert!(matches!(
            verify(&store, &clock, &td, &token).await,
            Err(TokenError::Unusable)
        ));
        assert_eq!(prune(&store, &clock).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_token_that_is_made_again_is_not_swept_away_with_its_predecessor() {
        let (store, clock, td) = world();
        let chosen = || Some("0123456789abcdef".to_owned());
        let brief = Some(Ttl::from_secs(5).unwrap());
        create(&store, &clock, &td, chosen(), brief).await.unwrap();
        clock.advance(std::time::Duration::from_secs(5));
        let found = stale(&store, &clock).await.unwrap();
        let (token, _) = create(&store, &clock, &td, chosen(), brief).await.unwrap();
        assert_eq!(remove(&store, found).await.unwrap(), 0);
        verify(&store, &clock, &td, &token).await.unwrap();
    }

    #[test]
    fn a_token_that_may_still_be_good_is_not_logged() {
        let (_, _, td) = world();
        let id = node_id(&td, "0123456789abcdef").unwrap();
        assert_eq!(without_token(&id), "spiffe://example.org/spire/agent/join_token/0123…");
        let other = SpiffeId::agent(&td, "x509pop", "0123456789abcdef").unwrap();
        assert_eq!(without_token(&other), other.as_str());
    }

    #[tokio::test]
    async fn a_chosen_token_is_fit_to_be_part_of_an_id_and_long_enough_not_to_be_guessed() {
        let (store, clock, td) = world();
        for unfit in [
            "short",
            "has spaces in it, many",
            "slash/slash/slash/slash",
            &"x".repeat(300),
        ] {
            let answer = create(&store, &clock, &td, Some(unfit.to_owned()), None).await;
            assert!(matches!(answer, Err(TokenError::Unfit)), "{unfit}");
        }
        let chosen = "0123456789abcdef".to_owned();
        create(&store, &clock, &td, Some(chosen.clone()), None).await.unwrap();
        assert!(matches!(
            create(&store, &clock, &td, Some(chosen), None).await,
            Err(TokenError::Exists)
        ));
    }
}
