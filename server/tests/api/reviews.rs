//! TokenReview: what is asked, what is believed, and for how long.

use std::sync::Arc;
use std::time::Duration;

use mintmark_runtime::clock::Clock;
use mintmark_server::roll::{ReviewError, Reviewed};
use serde_json::json;

use crate::kubernetes::{Kubernetes, REVIEWS, good, token};
use crate::roll::{Watching, id};
use crate::world::{in_time, while_time_passes};

const NOW: i64 = 1_800_000_000;

async fn world() -> (Kubernetes, Clock, Watching) {
    let (kubernetes, clock) = (Kubernetes::start().await, Clock::manual(NOW));
    let watching = Watching::start(&kubernetes, &clock).await;
    watching.synced().await;
    (kubernetes, clock, watching)
}

async fn review(watching: &Watching, token: &str) -> Result<Arc<Reviewed>, ReviewError> {
    let audiences = ["spire-server".to_owned(), "mintmark-node".to_owned()];
    in_time(watching.cluster().review(token, &audiences)).await
}

#[tokio::test]
async fn a_good_token_says_whose_it_is_and_what_it_is_bound_to() {
    let (kubernetes, _, watching) = world().await;
    let token = token("a", "mintmark-node", NOW + 600);
    kubernetes.review(
        &token,
        good("mintmark-node", "mintmark:attestor", ("a-1", 1), ("n1", 50)),
    );
    let reviewed = review(&watching, &token).await.unwrap();
    assert_eq!(
        (&*reviewed.namespace, &*reviewed.service_account),
        ("mintmark", "attestor")
    );
    assert_eq!(reviewed.service_account_uid, Some(id(900)));
    let (pod, node) = (reviewed.pod.as_ref().unwrap(), reviewed.node.as_ref().unwrap());
    assert_eq!(
        (&*pod.name, pod.uid, &*node.name, node.uid),
        ("a-1", id(1), "n1", id(50))
    );
    assert_eq!(reviewed.credential_id, "JTI=1");
}

#[tokio::test]
async fn a_good_answer_is_believed_for_a_minute_and_never_beyond_the_tokens_end() {
    let (kubernetes, clock, watching) = world().await;
    let (long, short) = (
        token("long", "mintmark-node", NOW + 600),
        token("short", "mintmark-node", NOW + 30),
    );
    for token in [&long, &short] {
        kubernetes.review(
            token,
            good("mintmark-node", "mintmark:attestor", ("a-1", 1), ("n1", 50)),
        );
        for _ in 0..3 {
            review(&watching, token).await.unwrap();
        }
    }
    assert_eq!(kubernetes.asked(REVIEWS).len(), 2);
    clock.advance(Duration::from_secs(30));
    review(&watching, &long).await.unwrap();
    assert_eq!(kubernetes.asked(REVIEWS).len(), 2);
    kubernetes.review(&short, json!({"authenticated": false, "error": "token has expired"}));
    assert_eq!(review(&watching, &short).await.unwrap_err(), ReviewError::Expired);
    clock.advance(Duration::from_secs(30));
    // The pod is deleted, and its token with it.
    kubernetes.review(&long, json!({"authenticated": false, "error": "pod was deleted"}));
    let error = review(&watching, &long).await.unwrap_err();
    assert_eq!(error, ReviewError::NotAuthenticated("pod was deleted".into()));
    // At another door the same token is asked about anew.
    let other = in_time(watching.cluster().review(&long, &["mintmark".to_owned()]))
        .await
        .unwrap_err();
    assert_eq!(other.reason(), "token_audience");
}

#[tokio::test]
async fn a_token_that_does_not_tell_its_end_is_asked_about_each_time() {
    let (kubernetes, _, watching) = world().await;
    let endless = "e30.e30.c2ln";
    kubernetes.review(
        endless,
        good("mintmark-node", "mintmark:attestor", ("a-1", 1), ("n1", 50)),
    );
    for _ in 0..3 {
        review(&watching, endless).await.unwrap();
    }
    assert_eq!(kubernetes.asked(REVIEWS).len(), 3);
}

#[tokio::test]
async fn each_bad_token_is_refused_for_its_own_reason() {
    let (kubernetes, clock, watching) = world().await;
    let with = |change: fn(&mut serde_json::Value)| {
        let mut status = good("mintmark-node", "mintmark:attestor", ("a-1", 1), ("n1", 50));
        change(&mut status);
        status
    };
    for (name, audience, end, status, reason) in [
        ("forged", "mintmark-node", 600, None, "token_not_authenticated"),
        ("late", "mintmark-node", 0, None, "token_expired"),
        (
            "other",
            "mintmark",
            600,
            Some(good("mintmark", "a:b", ("a-1", 1), ("n1", 50))),
            "token_audience",
        ),
        // An API server that does not know of audiences.
        (
            "old",
            "mintmark-node",
            600,
            Some(with(|s| s["audiences"] = json!(null))),
            "token_audience",
        ),
        (
            "person",
            "mintmark-node",
            600,
            Some(with(|s| s["user"]["username"] = json!("alice"))),
            "token_not_of_a_service_account",
        ),
        (
            "odd",
            "mintmark-node",
            600,
            Some(with(|s| s["user"]["username"] = json!("system:serviceaccount:a:b:c"))),
            "token_not_of_a_service_account",
        ),
        (
            "nobody",
            "mintmark-node",
            600,
            Some(json!({})),
            "token_not_authenticated",
        ),
    ] {
        let token = token(name, audience, NOW + end);
        if let Some(status) = status {
            kubernetes.review(&token, status);
        }
        let error = review(&watching, &token).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{name}: {error}");
        assert!(
            !error.is_ours() && !format!("{error} {error:?}").contains(&token),
            "{error:?}"
        );
    }
    // What cannot be a token is not sent to anybody.
    let asked = kubernetes.asked(REVIEWS).len();
    for odd in [
        "",
        "a",
        "a.b",
        "a.b.c",
        "e30.e30.",
        "e30.e30.x y",
        "e30.e30.c2ln.c2ln",
        &"a".repeat(20_000),
    ] {
        assert_eq!(
            review(&watching, odd).await.unwrap_err().reason(),
            "token_malformed",
            "{odd:.20}"
        );
    }
    assert_eq!(kubernetes.asked(REVIEWS).len(), asked);
    // A refusal is remembered, but not for long: the pod may have only just come.
    let forged = token("forged", "mintmark-node", NOW + 600);
    review(&watching, &forged).await.unwrap_err();
    assert_eq!(kubernetes.asked(REVIEWS).len(), asked);
    clock.advance(Duration::from_secs(2));
    kubernetes.review(
        &forged,
        good("mintmark-node", "mintmark:attestor", ("a-1", 1), ("n1", 50)),
    );
    review(&watching, &forged).await.unwrap();
}

#[tokio::test]
async fn tokens_are_told_apart_from_an_api_server_that_does_not_answer() {
    let (kubernetes, clock, watching) = world().await;
    let token = token("a", "mintmark-node", NOW + 600);
    kubernetes.review(
        &token,
        good("mintmark-node", "mintmark:attestor", ("a-1", 1), ("n1", 50)),
    );
    for (status, words) in [
        (403, "forbids this server to create tokenreviews"),
        (500, "answered 500"),
    ] {
        kubernetes.break_with(status, None);
        let error = review(&watching, &token).await.unwrap_err();
        assert!(error.is_ours() && error.to_string().contains(words), "{error}");
    }
    // Too busy: asked again when it says, up to the deadline.
    let waiting = async |mends: bool| {
        let asked = kubernetes.asked(REVIEWS).len();
        let mend = async {
            kubernetes.asked_times(REVIEWS, asked + 1).await;
            if mends {
                kubernetes.mend();
            }
        };
        let both = async { tokio::join!(review(&watching, &token), mend).0 };
        while_time_passes(&clock, both).await
    };
    kubernetes.break_with(429, Some(1));
    waiting(true).await.unwrap();
    clock.advance(Duration::from_secs(60));
    kubernetes.break_with(429, Some(1));
    let error = waiting(false).await.unwrap_err();
    assert!(
        error.is_ours() && error.to_string().contains("no answer within 5s"),
        "{error}"
    );
    let text = watching.metrics.encode().unwrap();
    for line in [
        "test_token_reviews_total{cluster=\"prod\",result=\"token_review_unavailable\"} 3",
        "test_token_reviews_total{cluster=\"prod\",result=\"ok\"} 1",
        "test_token_review_seconds_count{cluster=\"prod\"} 4",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}
