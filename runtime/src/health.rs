//! Liveness and readiness.
//!
//! In come named checks from whoever knows how it is; out come two answers. `/live` is 200 as long as the process answers at all: one that cannot go on ends itself
//! ([`task`](crate::task)), so that nothing else is worth a restart. `/ready` is 200, or 503 with the reasons as JSON: requests should go elsewhere for now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The checks of a program. Clones are handles on the same ones.
#[derive(Clone, Default)]
pub struct Health {
    checks: Arc<Mutex<BTreeMap<&'static str, Check>>>,
}

impl Health {
    /// No checks: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// A check that is asked each time; it must answer at once. One of the same name is replaced.
    pub fn readiness_fn(&self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks.insert(name, Arc::new(check));
    }

    /// What stands against being ready, by check.
    pub fn not_ready(&self) -> BTreeMap<&'static str, String> {
        // Asked without the lock, as a check may itself add another.
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        checks
            .into_iter()
            .filter_map(|(name, check)| Some((name, check().err()?)))
            .collect()
    }

    /// Serves `/live` and `/ready`.
    pub fn router(&self) -> Router {
        let health = self.clone();
        Router::new()
            .route("/live", get(async || answer(&BTreeMap::new())))
            .route("/ready", get(move || async move { answer(&health.not_ready()) }))
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
        health.readiness_fn("store", || Ok(()));
        health.readiness_fn("link", || Err("no server".into()));
        let expected = r#"{"reasons":{"link":"no server"},"status":"failed"}"#;
        assert_eq!(get(&health, "/ready").await, (503, expected.into()));
        let ok = (200, r#"{"reasons":{},"status":"ok"}"#.to_owned());
        assert_eq!(get(&health, "/live").await, ok);
        health.readiness_fn("link", || Ok(()));
        assert_eq!(get(&health, "/ready").await, ok);
    }
}
