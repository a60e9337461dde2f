//! What is not issued, and why.

use std::sync::Arc;

use super::*;
use crate::attest::{Author, Witnesses};

fn admin() -> Attested {
    Attested::for_test(By::Admin(Author::new("uid:0 pid:1")), Witness::Admin.into())
}

async fn x509(house: &House, asked: &Attested, spiffe_id: &str) -> Result<X509Svid, Refusal> {
    let order = X509Order::new(SpiffeId::parse(spiffe_id).unwrap(), key());
    house.issuer.x509(asked, vec![order]).await.swap_remove(0)
}

#[tokio::test]
async fn identities_are_given_only_to_whom_they_can_belong() {
    let house = House::new().await;
    let table: &[(Attested, &str, Result<(), &str>)] = &[
        (node(), "spiffe://example.org/web", Ok(())),
        (node(), "spiffe://example.org/spire/agent/join_token/a", Ok(())),
        (node(), "spiffe://example.org/spire/agent/join_token/b", Err("reserved")),
        (node(), "spiffe://example.org/spire/server", Err("reserved")),
        (node(), "spiffe://example.org/spire/anything", Err("reserved")),
        (node(), "spiffe://example.org", Err("root")),
        (node(), "spiffe://other.org/web", Err("trust_domain")),
        (admin(), "spiffe://example.org/web", Ok(())),
        (
            admin(),
            "spiffe://example.org/spire/agent/join_token/a",
            Err("reserved"),
        ),
        (Attested::server(), "spiffe://example.org/spire/server", Ok(())),
        (
            Attested::for_test(By::Node(id("/spire/server")), Witnesses::default()),
            "spiffe://example.org/spire/server",
            Err("reserved"),
        ),
    ];
    for (asked, spiffe_id, expected) in table {
        let size = house.ledger.reader().size();
        let done = x509(&house, asked, spiffe_id).await.map(|_| ()).map_err(|refusal| {
            assert!(refusal.is_callers_fault(), "{refusal}");
            refusal.reason()
        });
        assert_eq!(done, *expected, "{asked:?} {spiffe_id}");
        assert_eq!(
            house.ledger.reader().size() - size,
            u64::from(expected.is_ok()),
            "what is refused is not logged"
        );
    }
    let leaf = house.leaf(house.ledger.reader().size() - 1);
    assert_eq!((&*leaf.node, &*leaf.author, leaf.witnesses.len()), ("", "", 0));
}

#[tokio::test]
async fn an_administrator_is_named_in_the_leaf() {
    let house = House::new().await;
    let svid = x509(&house, &admin(), "spiffe://example.org/web").await.unwrap();
    let leaf = house.leaf(svid.serial.index());
    assert_eq!(
        (&*leaf.author, &*leaf.node, leaf.witnesses),
        ("uid:0 pid:1", "", vec![5])
    );
}

#[tokio::test]
async fn audiences_are_bounded() {
    let house = House::new().await;
    let strings = |count: usize, length: usize| vec!["a".repeat(length); count];
    for (audience, expected) in [
        (vec![], Err("audience")),
        (vec![String::new()], Err("audience")),
        (strings(17, 1), Err("audience")),
        (strings(1, 1_025), Err("audience")),
        (strings(16, 1_024), Err("too_large")),
        (strings(16, 100), Ok(())),
        (strings(1, 1_024), Ok(())),
    ] {
        let done = house.issuer.jwt(&node(), JwtOrder::new(id("/web"), audience)).await;
        assert_eq!(done.map(|_| ()).map_err(|refusal| refusal.reason()), expected);
    }
}

#[tokio::test]
async fn one_order_that_is_too_large_for_the_log_does_not_spoil_its_batch() {
    let house = House::new().await;
    let mut large = X509Order::new(
        SpiffeId::parse(&format!("spiffe://example.org/{}", "a".repeat(2_027))).unwrap(),
        key(),
    );
    let good = large.clone();
    large.dns_names = (0..64)
        .map(|n| format!("{}.{n}", vec!["a".repeat(60); 3].join(".")))
        .collect::<Vec<_>>()
        .into();
    let answers = house.issuer.x509(&node(), vec![large, good]).await;
    assert_eq!(answers[0].as_ref().unwrap_err().reason(), "too_large");
    verify(&house.authorities.bundle(), &answers[1].as_ref().unwrap().chain[0], NOW).unwrap();
}

#[tokio::test]
async fn a_call_has_a_thousand_orders_at_most() {
    let house = House::new().await;
    let order = X509Order::new(id("/web"), key());
    let answers = house.issuer.x509(&node(), vec![order.clone(); 1_001]).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.as_ref().is_err_and(|refusal| refusal.reason() == "too_many"))
    );
    assert_eq!(house.issuer.x509(&node(), Vec::new()).await.len(), 0);
    let names: Arc<[String]> = vec!["a.org".to_owned(); 65].into();
    let answers = house
        .issuer
        .x509(
            &node(),
            vec![X509Order {
                dns_names: names,
                ..order
            }],
        )
        .await;
    assert_eq!(answers[0].as_ref().unwrap_err().reason(), "dns_name");
}

#[tokio::test]
async fn a_closed_log_refuses_and_says_so() {
    let house = House::new().await;
    house.ledger.shutdown().await.unwrap();
    let refusal = x509(&house, &node(), "spiffe://example.org/web").await.unwrap_err();
    assert_eq!((refusal.reason(), refusal.is_callers_fault()), ("ledger", false));
}
