//! Liveness and readiness.
//!
//! In come named checks from whoever knows how it is; out come two answers, `/live` and `/ready`: 200, or 503 with the reasons as JSON. A failed
//! liveness check means that a restart would help; a failed readiness check that requests should go elsewhere for now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};

/// The checks of a program. Clones are handles on the same ones.
#[derive(Clone, Default)]
pub struct Health {
    checks: Arc<Mutex<Checks>>,
}

#[derive(Default)]
struct Checks {
    live: BTreeMap<&'static str, State>,
    ready: BTreeMap<&'static str, State>,
}

enum State {
    Set(Result<(), String>),
    Asked(Arc<dyn Fn() -> Result<(), String> + Send + Sync>),
}

/// Which of the two answers a check counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Live,
    Ready,
}

/// The handle with which a part of the program says how it is. Its check stays as it was last set when this is dropped.
pub struct Check {
    health: Health,
    kind: Kind,
    name: &'static str,
}

impl Health {
    /// No checks: alive and ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// A readiness check that fails with `starting` until its owner says otherwise.
    pub fn readiness(&self, name: &'static str) -> Check {
        self.put(Kind::Ready, name, State::Set(Err("starting".into())));
        Check {
            health: self.clone(),
            kind: Kind::Ready,
            name,
        }
    }

    /// A liveness check that passes until its owner says otherwise.
    pub fn liveness(&self, name: &'static str) -> Check {
        self.put(Kind::Live, name, State::Set(Ok(())));
        Check {
            health: self.clone(),
            kind: Kind::Live,
            name,
        }
    }

    /// A readiness check that is asked each time; it must answer at once.
    pub fn readiness_fn(&self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.put(Kind::Ready, name, State::Asked(Arc::new(check)));
    }

    /// A liveness check that is asked each time; it must answer at once.
    pub fn liveness_fn(&self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.put(Kind::Live, name, State::Asked(Arc::new(check)));
    }

    /// What stands against being alive, by check.
    pub fn not_live(&self) -> BTreeMap<&'static str, String> {
        self.failed(Kind::Live)
    }

    /// What stands against being ready, by check; what is not alive is not ready either.
    pub fn not_ready(&self) -> BTreeMap<&'static str, String> {
        let mut failed = self.failed(Kind::Ready);
        failed.extend(self.failed(Kind::Live));
        failed
    }

    /// Serves `/live` and `/ready`.
    pub fn router(&self) -> Router {
        let (live, ready) = (self.clone(), self.clone());
        Router::new()
            .route("/live", get(move || async move { answer(&live.not_live()) }))
            .route("/ready", get(move || async move { answer(&ready.not_ready()) }))
    }

    fn put(&self, kind: Kind, name: &'static str, state: State) {
        self.lock().of(kind).insert(name, state);
    }

    fn failed(&self, kind: Kind) -> BTreeMap<&'static str, String> {
        let mut failed = BTreeMap::new();
        let mut asked = Vec::new();
        for (name, state) in self.lock().of(kind).iter() {
            match state {
                State::Set(Ok(())) => {}
                State::Set(Err(reason)) => drop(failed.insert(*name, reason.clone())),
                State::Asked(check) => asked.push((*name, Arc::clone(check))),
            }
        }
        // Asked without the lock, as a check may itself set another.
        failed.extend(
            asked
                .into_iter()
                .filter_map(|(name, check)| Some((name, check().err()?))),
        );
        failed
    }

    fn lock(&self) -> MutexGuard<'_, Checks> {
        // The maps are whole whatever happened to the thread that held the lock.
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Checks {
    fn of(&mut self, kind: Kind) -> &mut BTreeMap<&'static str, State> {
        match kind {
            Kind::Live => &mut self.live,
            Kind::Ready => &mut self.ready,
        }
    }
}

impl Check {
    /// It is well.
    pub fn ok(&self) {
        self.set(Ok(()));
    }

    /// It is not, for this reason.
    pub fn failed(&self, reason: impl Into<String>) {
        self.set(Err(reason.into()));
    }

    /// Sets the check from the outcome of something.
    pub fn set(&self, state: Result<(), String>) {
        self.health.put(self.kind, self.name, State::Set(state));
    }
}

fn answer(failed: &BTreeMap<&'static str, String>) -> Response {
    let (status, word) = match failed.is_empty() {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
    };
    let body = serde_json::json!({ "status": word, "reasons": failed });
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use tower::ServiceExt;

    use super::*;

    async fn get(health: &Health, path: &str) -> (u16, String) {
        let request = http::Request::get(path).body(Body::empty()).unwrap();
        let response = health.router().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 4096).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_program_is_ready_when_every_check_passes() {
        let health = Health::new();
        let store = health.readiness("store");
        health.readiness_fn("link", || Err("no server".into()));
        let expected = r#"{"reasons":{"link":"no server","store":"starting"},"status":"failed"}"#;
        assert_eq!(get(&health, "/ready").await, (503, expected.into()));
        assert_eq!(
            get(&health, "/live").await,
            (200, r#"{"reasons":{},"status":"ok"}"#.into())
        );
        store.ok();
        health.readiness_fn("link", || Ok(()));
        assert_eq!(get(&health, "/ready").await.0, 200);
        health.liveness("disk").failed("gone");
        assert_eq!(get(&health, "/live").await.0, 503);
        assert_eq!(get(&health, "/ready").await.0, 503);
    }
}
